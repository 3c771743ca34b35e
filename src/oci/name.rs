//! Names: registry hosts, repositories, tags, and references (a tag or a digest).
//!
//! A value of these types is valid and safe as a path below the store: no empty component, no `.`
//! or `..`, no percent sign. Grammar: distribution-spec 1.1.1, "Pulling manifests", and capitals in
//! repositories, which some registries allow; the others say themselves that they do not.
//! Whole image names (`host/name:tag`), as people type them, are in `image`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Why a string is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a host name or address with an optional port.
    #[error("not a registry host")]
    Registry,
    /// Not `[A-Za-z0-9]` components with separators, or longer than 255 bytes.
    #[error("not a repository name")]
    Repository,
    /// Not 1 to 128 of `[A-Za-z0-9._-]`, or it starts with `.` or `-`.
    #[error("not a tag")]
    Tag,
}

/// A registry as image names spell it: a host in lower case with an optional port, such as
/// `docker.io` or `registry.example:5000`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryName(Arc<str>);

/// A repository within a registry, such as `library/redis`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(Arc<str>);

/// A tag, such as `7-alpine`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

macro_rules! name {
    ($name:ident, $valid:ident, $error:expr) => {
        impl $name {
            /// The name as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$name, NameError> {
                if $valid(text) { Ok($name(text.into())) } else { Err($error) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<$name, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(RegistryName, is_registry, NameError::Registry);
name!(Repository, is_repository, NameError::Repository);
name!(Tag, is_tag, NameError::Tag);

impl RegistryName {
    /// The host without its port.
    pub fn host(&self) -> &str {
        let port = self.0.rfind(':').filter(|at| !self.0[*at..].contains(']'));
        &self.0[..port.unwrap_or(self.0.len())]
    }

    /// Parses a host as a client may write it: case does not matter in the names of hosts.
    ///
    /// # Errors
    /// [`NameError::Registry`].
    pub fn parse_any_case(text: &str) -> Result<RegistryName, NameError> {
        text.to_ascii_lowercase().parse()
    }

    /// The same host without the port that `https://` means anyway.
    #[must_use]
    pub fn without_default_port(self) -> RegistryName {
        match self.0.strip_suffix(":443") {
            Some(host) => RegistryName(host.into()),
            None => self,
        }
    }
}

impl Repository {
    /// Splits at the first slash, as in `ghcr.io/owner/app`; `None` where there is only one component.
    pub fn split_first(&self) -> Option<(&str, Repository)> {
        let (first, rest) = self.0.split_once('/')?;
        Some((first, Repository(rest.into())))
    }

    /// The repository with a component in front, as in `library/` and `redis`.
    ///
    /// # Errors
    /// [`NameError::Repository`] when the result is longer than a repository may be.
    pub fn prefixed(&self, component: &str) -> Result<Repository, NameError> {
        format!("{component}/{self}").parse()
    }
}

/// One host has one spelling: IPv6 addresses in their shortest form, ports without leading zeros.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let parsed = address.parse::<std::net::Ipv6Addr>();
            if parsed.map(|parsed| parsed.to_string()).as_deref() != Ok(address) {
                return false;
            }
            ("v6", rest)
        }
        None => match text.split_once(':') {
            Some((host, _)) => (host, &text[host.len()..]),
            None => (text, ""),
        },
    };
    let valid_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    let valid_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == digits));
    text.len() <= 255 && host.split('.').all(valid_label) && valid_port
}

fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

/// `[A-Za-z0-9]+((\.|_|__|-+)[A-Za-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alphanumeric = u8::is_ascii_alphanumeric;
    let bytes = component.as_bytes();
    let ends_well = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_well
        && bytes
            .split(alphanumeric)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

/// What a manifest is asked by: a tag or a digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reference {
    /// Mutable: freshness decides whether upstream is asked.
    Tag(Tag),
    /// Immutable: the store answers if it can.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_grammar_of_the_specification() {
        for valid in ["a", "library/redis", "a.b_c__d---e/f", "manifests/blobs/v2", "0/1", "a/b/c/d/e", "Org/Model-7B"]
        {
            assert!(valid.parse::<Repository>().is_ok(), "{valid}");
        }
        let too_long = "a".repeat(256);
        for invalid in [
            "", "/", "a/", "/a", "a//b", "a/..", "..", ".", "a.", "-a", "a_", "a___b", "a..b", "a._b", "a%2fb", "a\\b",
            "ä", "a b", "_tags", "a/_links", &too_long,
        ] {
            assert_eq!(invalid.parse::<Repository>(), Err(NameError::Repository), "{invalid}");
        }
    }

    #[test]
    fn tags_follow_the_grammar_of_the_specification() {
        for valid in ["latest", "7.2-alpine", "_x", "A", &"x".repeat(128)] {
            assert!(valid.parse::<Tag>().is_ok(), "{valid}");
        }
        for invalid in ["", ".INVALID_MANIFEST_NAME", "-a", "a/b", "a:b", "..", "a%20", &"x".repeat(129)] {
            assert_eq!(invalid.parse::<Tag>(), Err(NameError::Tag), "{invalid}");
        }
    }

    #[test]
    fn registries_are_hosts_with_an_optional_port() {
        for valid in ["docker.io", "localhost", "registry.example:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert!(valid.parse::<RegistryName>().is_ok(), "{valid}");
        }
        for invalid in [
            "",
            "Docker.io",
            "a..b",
            ".a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:05000",
            "[0:0::1]",
            "[FE80::1]",
            "a/b",
            "user@a",
            "-a",
            "[::1",
            "[x]:1",
            "a_b",
        ] {
            assert_eq!(invalid.parse::<RegistryName>(), Err(NameError::Registry), "{invalid}");
        }
    }

    #[test]
    fn a_host_is_a_registry_without_its_port() {
        for (name, host) in
            [("a.example", "a.example"), ("a.example:1", "a.example"), ("[::1]:1", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(name.parse::<RegistryName>().expect("valid").host(), host);
        }
    }

    #[test]
    fn a_repository_gives_up_its_first_component() {
        let repository: Repository = "ghcr.io/owner/app".parse().expect("valid");
        let (first, rest) = repository.split_first().expect("two components");
        assert_eq!((first, rest.as_str()), ("ghcr.io", "owner/app"));
        assert_eq!(rest.prefixed("library").map(|r| r.to_string()).as_deref(), Ok("library/owner/app"));
    }
}
