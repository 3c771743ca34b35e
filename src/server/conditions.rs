//! What a client makes its request depend on: the content that it has, wants, or has the beginning of (RFC 9110, 13).

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::oci::header;
use crate::oci::{Digest, RangeHeader};

/// The range asked for, unless `If-Range` names other content. A weak tag never names the same bytes, and
/// neither does a date (RFC 9110, 13.1.5).
pub(super) fn range(headers: &HeaderMap, digest: &Digest) -> Option<RangeHeader> {
    let same = headers.get_all(IF_RANGE).into_iter().all(|tag| names(tag.as_bytes(), digest));
    let mut ranges = headers.get_all(RANGE).into_iter();
    let header = ranges.next().filter(|_| same && ranges.next().is_none())?;
    RangeHeader::parse(&header::text(header))
}

/// What a client's conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing speaks against sending it.
    None,
    /// The client has it already.
    Has,
    /// He wants other content than this.
    Other,
}

/// Looks at the conditions in their order (RFC 9110, 13.2.2). `If-Match` compares strongly, `If-None-Match` weakly.
/// Dates say nothing here, where nothing has one.
pub(super) fn condition(headers: &HeaderMap, digest: &Digest) -> Condition {
    let matches = |name: HeaderName, weak: bool| {
        let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let mut tags = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || names(tag.strip_prefix(b"W/").filter(|_| weak).unwrap_or(tag), digest))
    };
    if headers.contains_key(IF_MATCH) && !matches(IF_MATCH, false) {
        Condition::Other
    } else if matches(IF_NONE_MATCH, true) {
        Condition::Has
    } else {
        Condition::None
    }
}

/// Whether this is the strong tag of the content.
fn names(tag: &[u8], digest: &Digest) -> bool {
    let tag = tag.trim_ascii().strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    tag.is_some_and(|tag| tag == digest.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.as_bytes().try_into().expect("a header value"))])
    }

    #[test]
    fn a_client_that_has_the_content_is_recognised() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (value, expected) in [
            (format!("\"{digest}\""), true),
            (format!("W/\"{digest}\""), true),
            (format!("\"other\" , \"{digest}\""), true),
            (format!("\"ot\u{e9}r\",\"{digest}\""), true),
            ("*".to_owned(), true),
            ("\"*\"".to_owned(), false),
            (digest.to_string(), false),
            ("\"other\"".to_owned(), false),
        ] {
            let has_it = condition(&headers(IF_NONE_MATCH, &value), &digest) == Condition::Has;
            assert_eq!(has_it, expected, "{value}");
        }
    }

    #[test]
    fn a_client_that_wants_other_content_is_recognised() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (value, expected) in [
            (format!("\"{digest}\""), Condition::None),
            (format!("\"other\" , \"{digest}\""), Condition::None),
            ("*".to_owned(), Condition::None),
            (format!("W/\"{digest}\""), Condition::Other),
            (digest.to_string(), Condition::Other),
            ("\"other\"".to_owned(), Condition::Other),
            (String::new(), Condition::Other),
        ] {
            let mut headers = headers(IF_MATCH, &value);
            assert_eq!(condition(&headers, &digest), expected, "{value}");
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            let has_it = if expected == Condition::None { Condition::Has } else { expected };
            assert_eq!(condition(&headers, &digest), has_it, "{value}");
        }
    }

    #[test]
    fn a_range_is_given_of_the_same_bytes_only() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (tag, expected) in [
            (format!("\"{digest}\""), true),
            (format!("W/\"{digest}\""), false),
            ("\"other\"".to_owned(), false),
            ("\"ot\u{e9}r\"".to_owned(), false),
            ("Sat, 28 Nov 2026 12:00:00 GMT".to_owned(), false),
            ("*".to_owned(), false),
        ] {
            let mut headers = headers(RANGE, "bytes=0-9");
            assert!(range(&headers, &digest).is_some());
            headers.insert(IF_RANGE, tag.as_bytes().try_into().expect("a header value"));
            assert_eq!(range(&headers, &digest).is_some(), expected, "{tag}");
        }
        let mut twice = headers(RANGE, "bytes=0-9");
        twice.append(RANGE, HeaderValue::from_static("bytes=20-29"));
        assert_eq!(range(&twice, &digest), None);
    }
}
