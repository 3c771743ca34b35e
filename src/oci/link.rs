//! The `Link` header (RFC 8288), as far as lists need it: where the next page is. Pure.
//!
//! Registries write it relative, absolute, several to a line and on several lines. Only the target
//! is read here; what of it may be trusted is decided by whoever goes there.

/// The target of the first link with `rel="next"` in these header values.
pub fn next<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    values.into_iter().find_map(|value| {
        let mut rest = value;
        while let Some((target, parameters, behind)) = link(rest) {
            if is_next(parameters) {
                return Some(target);
            }
            rest = behind;
        }
        None
    })
}

/// The query of a link's target; `None` where it has none.
pub fn query(target: &str) -> Option<&str> {
    let target = target.split('#').next().unwrap_or_default();
    target.split_once('?').map(|(_, query)| query).filter(|query| !query.is_empty())
}

/// Target and parameters of the first link, and what stands behind it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (_, text) = text.split_once('<')?;
    let (target, text) = text.split_once('>')?;
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == ',' && !quoted
    });
    let (parameters, behind) = end.map_or((text, ""), |(at, _)| text.split_at(at));
    Some((target, parameters, behind))
}

fn is_next(parameters: &str) -> bool {
    parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        let relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel") && relations.into_iter().any(|rel| rel.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_every_form_of_the_header() {
        for (values, expected) in [
            (&["</v2/a/tags/list?n=2&last=b>; rel=\"next\""][..], Some("/v2/a/tags/list?n=2&last=b")),
            (&["<https://r.example/v2/a/tags/list?last=b>;rel=next"], Some("https://r.example/v2/a/tags/list?last=b")),
            (&["</first>; rel=first, </x?a=1,2>; title=\"a, b\"; REL=\"prev Next\""], Some("/x?a=1,2")),
            (&["</first>; rel=\"first\"", "</second>; rel=\"next\""], Some("/second")),
            (&["</first>; rel=\"nextish\""], None),
            (&["</first>", "rel=next", "<", ""], None),
            (&[], None),
        ] {
            assert_eq!(next(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_query_is_what_stands_between_question_mark_and_fragment() {
        assert_eq!(query("/v2/a?n=1&last=b#c?d"), Some("n=1&last=b"));
        assert_eq!(query("https://r.example/v2/a"), None);
        assert_eq!(query("/v2/a?#x"), None);
    }
}
