//! What one look through the headers of a request tells of how it is to be taken.
//!
//! Most of what is looked for is not there, and to look for each by itself would cost more than to pass by all of the
//! few that are.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, IF_MATCH, IF_NONE_MATCH, RANGE, TRANSFER_ENCODING};

use crate::oci::header::PEER;

/// What the headers of a request have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Glance {
    /// All of them, names and values, in bytes.
    pub size: usize,
    /// How many lines name a host.
    pub hosts: usize,
    /// How many lines show who asks.
    pub logins: usize,
    /// Whether it says that it comes from another replica.
    pub names_a_replica: bool,
    /// Whether a body follows.
    pub announces_a_body: bool,
    /// Whether a whole answer may not be the one that is wanted: there are conditions, or a range.
    pub wants_other_than_the_whole: bool,
}

impl Glance {
    /// Looks at all of them.
    pub(super) fn at(headers: &HeaderMap) -> Glance {
        let mut glance = Glance::default();
        for (name, value) in headers {
            glance.size += name.as_str().len() + value.len();
            if *name == HOST {
                glance.hosts += 1;
            } else if *name == AUTHORIZATION {
                glance.logins += 1;
            } else if *name == CONTENT_LENGTH {
                // RFC 9110, 8.6: any number of digits.
                glance.announces_a_body |= value.is_empty() || value.as_bytes().iter().any(|digit| *digit != b'0');
            } else if *name == TRANSFER_ENCODING {
                glance.announces_a_body = true;
            } else if *name == IF_MATCH || *name == IF_NONE_MATCH || *name == RANGE {
                glance.wants_other_than_the_whole = true;
            } else if *name == PEER {
                glance.names_a_replica = true;
            }
        }
        glance
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn glance(lines: &[(HeaderName, &'static str)]) -> Glance {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        Glance::at(&headers)
    }

    #[test]
    fn each_line_counts_for_what_it_is() {
        let size = "host".len() + "a".len() + "accept".len() + "b/c".len();
        assert_eq!(glance(&[(HOST, "a"), (ACCEPT, "b/c")]), Glance { size, hosts: 1, ..Glance::default() });
        assert_eq!(glance(&[(HOST, "a"), (HOST, "a")]).hosts, 2);
        assert_eq!(glance(&[(AUTHORIZATION, "a"), (AUTHORIZATION, "b")]).logins, 2);
        assert!(glance(&[(PEER, "a")]).names_a_replica);
        for name in [IF_MATCH, IF_NONE_MATCH, RANGE] {
            assert!(glance(&[(name.clone(), "a")]).wants_other_than_the_whole, "{name}");
        }
    }

    #[test]
    fn a_body_is_one_that_is_announced() {
        assert!(glance(&[(CONTENT_LENGTH, "9")]).announces_a_body);
        assert!(glance(&[(TRANSFER_ENCODING, "chunked")]).announces_a_body);
        for none in ["0", "00", "000"] {
            assert!(!glance(&[(CONTENT_LENGTH, none)]).announces_a_body, "{none}");
        }
        for one in ["", "00x", "+0", "0, 0"] {
            assert!(glance(&[(CONTENT_LENGTH, one)]).announces_a_body, "{one}");
        }
        assert!(glance(&[(CONTENT_LENGTH, "0"), (CONTENT_LENGTH, "9")]).announces_a_body);
    }
}
