//! Pages of lists: which part a client asks for, and how an upstream says where the next one is. Pure.
//!
//! The specification knows `n` and `last`; some registries put words of their own into `Link`. Those
//! are carried by clients as a [`Cursor`] and given back to the upstream unread.

use url::form_urlencoded;

use super::refusal::RequestError;

/// A part of a list of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Page {
    /// At most so many.
    pub n: Option<u32>,
    /// Only those after this one.
    pub last: Option<String>,
    /// Where the list goes on, for upstreams that say it in words of their own.
    pub cursor: Option<Cursor>,
}

impl Page {
    /// The page that the query of an upstream's `Link` names. `None` where it names none.
    pub fn of_link(query: &str) -> Option<Page> {
        let mut page = Page::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "n" => page.n = value.parse().ok(),
                "last" => page.last = Some(value.into_owned()),
                "ns" => {}
                _ => return Some(Page { cursor: Some(query.parse().ok()?), ..Page::default() }),
            }
        }
        page.last.is_some().then_some(page)
    }

    /// The query that asks an upstream for this page; `None` for the first page of its own size.
    pub fn upstream_query(&self) -> Option<String> {
        if let Some(cursor) = &self.cursor {
            return Some(cursor.as_str().to_owned());
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        self.n.map(|n| query.append_pair("n", &n.to_string()));
        self.last.as_ref().map(|last| query.append_pair("last", last));
        Some(query.finish()).filter(|query| !query.is_empty())
    }
}

/// Where a list goes on, in the upstream's own words: the query of its `Link`. Clients carry it from
/// one page to the next; it is a query and cannot become anything else of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// Three times this, should every byte of it be encoded, still fits into a request line.
    const MAX_LENGTH: usize = 8192;

    /// The query, without the question mark.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Cursor {
    type Err = RequestError;

    fn from_str(query: &str) -> Result<Cursor, RequestError> {
        let plain = query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let fits = (1..=Cursor::MAX_LENGTH).contains(&query.len());
        if plain && fits { Ok(Cursor(query.to_owned())) } else { Err(RequestError::Page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_of_an_upstream_is_read_off_its_link() {
        let plain = |n, last: &str| Some(Page { n, last: Some(last.to_owned()), cursor: None });
        for (query, expected) in [
            ("n=2&last=b", plain(Some(2), "b")),
            ("last=a%2Bb", plain(None, "a+b")),
            ("last=b&ns=r.example", plain(None, "b")),
            ("n=2", None),
            ("", None),
            ("next_page=x%3D&n=5", Some(Page { cursor: "next_page=x%3D&n=5".parse().ok(), ..Page::default() })),
            ("next_page=a b", None),
        ] {
            assert_eq!(Page::of_link(query), expected, "{query}");
        }
    }

    #[test]
    fn a_page_is_asked_for_in_the_words_of_the_upstream() {
        let page = Page { n: Some(5), last: Some("a&b".to_owned()), cursor: None };
        assert_eq!(page.upstream_query().as_deref(), Some("n=5&last=a%26b"));
        let page = Page { cursor: "next_page=x%3D".parse().ok(), ..page };
        assert_eq!(page.upstream_query().as_deref(), Some("next_page=x%3D"));
        assert_eq!(Page::default().upstream_query(), None);
    }

    #[test]
    fn a_cursor_is_a_query_and_nothing_more() {
        for query in ["", "a#b", "a b", "a\r\nb", "ä", &"x".repeat(8193)] {
            assert_eq!(query.parse::<Cursor>(), Err(RequestError::Page), "{query:.40}");
        }
    }
}
