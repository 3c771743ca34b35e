//! Header values as text. Pure.
//!
//! The bytes of a header beyond ASCII are up to whoever sends it (RFC 9110, 5.5). No header is given up
//! because of one of them, as none is by the clients that people compare us with.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

/// How a replica of this mirror proves to another that it is one.
pub const PEER: HeaderName = HeaderName::from_static("x-registry-mirror-peer");

/// The value as text, without the space around it; bytes that are no text are replaced.
pub fn text(value: &HeaderValue) -> Cow<'_, str> {
    match String::from_utf8_lossy(value.as_bytes()) {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// The value of a header that holds addresses, with all bytes beyond ASCII percent-encoded, as curl and
/// Go do it before they go there.
pub fn addresses(value: &HeaderValue) -> String {
    value.as_bytes().iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii() {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_makes_a_header_unreadable() {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("a value");
        assert_eq!(text(&value(b" 17 ")), "17");
        assert_eq!(text(&value("dépôt".as_bytes())), "dépôt");
        assert_eq!(text(&value(b"d\xe9p\xf4t ")), "d\u{fffd}p\u{fffd}t");
        assert_eq!(addresses(&value("/dépôt?a=b c".as_bytes())), "/d%C3%A9p%C3%B4t?a=b c");
        assert_eq!(addresses(&value(b"/d\xe9")), "/d%E9");
    }
}
