//! The `Link` header (RFC 8288), as far as lists need it: where the next page is. Pure.
//!
//! Registries write it relative, absolute, several to a line and on several lines, with quotes of either
//! kind, without a relation, without angle brackets. Only the target is read here; what of it may be
//! trusted is decided by whoever goes there. Truth: what cannot be read is never taken for the end of a list.

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nowhere: this was all of it.
    End,
    /// At this target.
    At(String),
    /// Somewhere; the header is not one that can be read.
    Unclear,
}

/// The target of the first link with `rel="next"` in these header values; without one, of the first link
/// that has no relation at all.
pub fn next(values: impl IntoIterator<Item = impl AsRef<str>>) -> Next {
    let (mut unrelated, mut unclear) = (None, false);
    for value in values {
        let mut rest = value.as_ref().trim();
        while !rest.is_empty() {
            let (link, behind) = link(rest);
            match link {
                Some(Link { target, relations: Some(relations) }) if names_next(relations) => {
                    return Next::At(encoded(target));
                }
                Some(Link { relations: Some(_), .. }) => {}
                Some(Link { target, relations: None }) => unrelated = unrelated.or_else(|| Some(encoded(target))),
                None => unclear = true,
            }
            rest = behind;
        }
    }
    match unrelated {
        Some(target) => Next::At(target),
        None if unclear => Next::Unclear,
        None => Next::End,
    }
}

/// The query of a link's target; `None` where it has none.
pub fn query(target: &str) -> Option<&str> {
    let target = target.split('#').next().unwrap_or_default();
    target.split_once('?').map(|(_, query)| query).filter(|query| !query.is_empty())
}

struct Link<'a> {
    target: &'a str,
    relations: Option<&'a str>,
}

/// The first link, if it is one, and what stands behind it. There is always less behind than before.
fn link(text: &str) -> (Option<Link<'_>>, &str) {
    let (target, behind) = match text.strip_prefix('<') {
        Some(bracketed) => bracketed.split_once('>').unwrap_or_else(|| bare_target(bracketed)),
        None => bare_target(text),
    };
    let mut quoted = false;
    let end = behind.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == ',' && !quoted
    });
    let (parameters, behind) = end.map_or((behind, ""), |(at, _)| (&behind[..at], &behind[at + 1..]));
    let target = target.trim();
    let is_address = target.contains(['/', '?']);
    (is_address.then(|| Link { target, relations: relations(parameters) }), behind.trim_start())
}

/// A target that no bracket ends. A comma may be part of it, a semicolon hardly.
fn bare_target(text: &str) -> (&str, &str) {
    text.split_at(text.find(';').unwrap_or(text.len()))
}

fn relations(parameters: &str) -> Option<&str> {
    let mut named = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("rel"))?;
    Some(value.trim().trim_matches(['"', '\'']))
}

fn names_next(relations: &str) -> bool {
    relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
}

fn encoded(target: &str) -> String {
    target.replace(' ', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(target: &str) -> Next {
        Next::At(target.to_owned())
    }

    #[test]
    fn the_next_page_is_found_in_every_form_of_the_header() {
        for (values, expected) in [
            (&["</v2/a/tags/list?n=2&last=b>; rel=\"next\""][..], at("/v2/a/tags/list?n=2&last=b")),
            (&["<https://r.example/v2/a/tags/list?last=b>;rel=next"], at("https://r.example/v2/a/tags/list?last=b")),
            (&["</first>; rel=first, </x?a=1,2>; title=\"a, b\"; REL=\"prev Next\""], at("/x?a=1,2")),
            (&["</first>; rel=\"first\"", "</second>; rel=\"next\""], at("/second")),
            (&["</x?last=b>; rel='next'"], at("/x?last=b")),
            (&["</x?last=b>"], at("/x?last=b")),
            (&["</x?last=b>; title=\"more\""], at("/x?last=b")),
            (&["</y?z>", "</x?last=b>; rel=next"], at("/x?last=b")),
            (&["/x?last=b; rel=\"next\""], at("/x?last=b")),
            (&["/x?last=b"], at("/x?last=b")),
            (&["</x?last=b; rel=\"next\""], at("/x?last=b")),
            (&["</x?last=a b>; rel=next"], at("/x?last=a%20b")),
            (&["</first>; rel=\"nextish\""], Next::End),
            (&["</first>; rel=\"first\", </docs>; rel=help"], Next::End),
            (&[""], Next::End),
            (&[], Next::End),
        ] {
            assert_eq!(next(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_the_end() {
        for value in ["rel=next", "<", "next", "<>; rel=next", ";", "<next>; rel=next"] {
            assert_eq!(next([value]), Next::Unclear, "{value}");
        }
    }

    #[test]
    fn a_query_is_what_stands_between_question_mark_and_fragment() {
        assert_eq!(query("/v2/a?n=1&last=b#c?d"), Some("n=1&last=b"));
        assert_eq!(query("https://r.example/v2/a"), None);
        assert_eq!(query("/v2/a?#x"), None);
    }
}
