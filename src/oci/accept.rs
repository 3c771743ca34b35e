//! The manifest types a client accepts, normalised.
//!
//! A tag may stand for different manifests depending on `Accept`, so the tag pointer is keyed by
//! this set. Order, line splitting and q-values do not count (registries ignore them too); types
//! that are not manifests are dropped, which bounds the number of different sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::descriptor::{DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, MediaType};

/// Name in the key, media type; the bit is the place in this table.
const KNOWN: [(&str, &str); 7] = [
    ("oci-index", "application/vnd.oci.image.index.v1+json"),
    ("oci-manifest", "application/vnd.oci.image.manifest.v1+json"),
    ("docker-list", DOCKER_LIST),
    ("docker-manifest", DOCKER_MANIFEST),
    ("schema1-signed", DOCKER_SCHEMA1_SIGNED),
    ("schema1", DOCKER_SCHEMA1),
    ("any", "*/*"),
];

/// A set of manifest types. The empty set means that the client sent no `Accept` that we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AcceptSet(u8);

impl AcceptSet {
    /// Reads the values of all `Accept` lines of a request.
    pub fn from_headers<'a>(values: impl IntoIterator<Item = &'a str>) -> AcceptSet {
        let types = values.into_iter().flat_map(|value| value.split(','));
        AcceptSet(types.fold(0, |set, item| {
            let media_type = item.split(';').next().unwrap_or_default().trim();
            let bit = KNOWN.iter().position(|(_, known)| known.eq_ignore_ascii_case(media_type));
            bit.map_or(set, |bit| set | 1 << bit)
        }))
    }

    /// Every type there is: what we ask for when we act on our own account.
    pub fn everything() -> AcceptSet {
        AcceptSet((1 << KNOWN.len()) - 1)
    }

    /// Whether a manifest of this type is in the set by name.
    pub fn names(self, media_type: &MediaType) -> bool {
        KNOWN.iter().enumerate().any(|(bit, (_, known))| self.0 & 1 << bit != 0 && *known == media_type.as_ref())
    }

    /// Whether a client with this set can be given a manifest of this type: the set names it, or
    /// everything, or the client did not say.
    pub fn takes(self, media_type: &MediaType) -> bool {
        self == AcceptSet::default() || self.entries().any(|(_, known)| known == "*/*") || self.names(media_type)
    }

    /// The value of the `Accept` header to send upstream; `None` for the empty set.
    pub fn header_value(self) -> Option<String> {
        let types: Vec<&str> = self.entries().map(|(_, media_type)| media_type).collect();
        (!types.is_empty()).then(|| types.join(", "))
    }

    fn entries(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        KNOWN.into_iter().enumerate().filter(move |(bit, _)| self.0 & 1 << bit != 0).map(|(_, entry)| entry)
    }
}

/// A short name for the set, usable as a file name: `oci-index+oci-manifest+any`, or `none`.
impl fmt::Display for AcceptSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.entries().map(|(name, _)| name).collect();
        f.write_str(if names.is_empty() { "none".to_owned() } else { names.join("+") }.as_str())
    }
}

/// The string is not what an [`AcceptSet`] prints as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a set of manifest types")]
pub struct AcceptSetError;

impl FromStr for AcceptSet {
    type Err = AcceptSetError;

    fn from_str(text: &str) -> Result<AcceptSet, AcceptSetError> {
        if text == "none" {
            return Ok(AcceptSet::default());
        }
        text.split('+').try_fold(AcceptSet::default(), |set, name| {
            let bit = KNOWN.iter().position(|(known, _)| *known == name).ok_or(AcceptSetError)?;
            Ok(AcceptSet(set.0 | 1 << bit))
        })
    }
}

impl TryFrom<String> for AcceptSet {
    type Error = AcceptSetError;

    fn try_from(text: String) -> Result<AcceptSet, AcceptSetError> {
        text.parse()
    }
}

impl From<AcceptSet> for String {
    fn from(set: AcceptSet) -> String {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_lines_case_and_weights_do_not_count() {
        let one = AcceptSet::from_headers([
            "application/vnd.oci.image.index.v1+json;q=0.5, */*",
            "application/vnd.docker.distribution.manifest.v2+json",
        ]);
        let other = AcceptSet::from_headers([
            "*/*,APPLICATION/vnd.docker.distribution.manifest.v2+json , application/vnd.oci.image.index.v1+json, text/html",
        ]);
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "oci-index+docker-manifest+any");
    }

    #[test]
    fn every_set_is_parsed_from_its_own_name() {
        for bits in 0..1 << KNOWN.len() {
            let set = AcceptSet(bits);
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        assert_eq!("oci-index+x".parse::<AcceptSet>(), Err(AcceptSetError));
    }

    #[test]
    fn upstream_is_asked_for_the_same_types() {
        let set = AcceptSet::from_headers(["application/vnd.docker.distribution.manifest.v2+json"]);
        assert_eq!(set.header_value().as_deref(), Some(DOCKER_MANIFEST));
        assert!(set.names(&MediaType::from(DOCKER_MANIFEST)));
        assert!(!set.names(&MediaType::ImageManifest));
        assert_eq!(AcceptSet::default().header_value(), None);
    }
}
