//! The manifest types a client accepts, normalised.
//!
//! A tag may stand for different manifests depending on `Accept`, so the tag pointer is keyed by
//! this set. Order, line splitting and q-values do not count (registries ignore them too), except that zero
//! is no. Types that we know nothing of may be those of artifacts: they are asked for like others, in the client's
//! order, and told apart by their hash; what cannot be the type of a manifest is dropped.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::descriptor::{DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, MediaType};
use super::digest::{Algorithm, Digest};

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

/// Types that say nothing about manifests, although clients send them.
const UNSPECIFIC: [&str; 3] = ["application/json", "application/octet-stream", "application/xml"];
/// Types that we do not know are told apart and asked for up to so many bytes in all, the client's first ones first:
/// servers take no more in a line.
const MOST_OTHERS: usize = 8 << 10;
/// What stands between two types in a header.
const SEPARATOR: &str = ", ";
/// What stands before the hash in the name of a set with types that we do not know.
const OTHERS: &str = "others-";

/// A set of manifest types. The empty set means that the client sent no `Accept` that we know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AcceptSet {
    known: u8,
    others: Option<Others>,
}

/// Types of artifacts that we know nothing of.
#[derive(Clone, Debug)]
struct Others {
    /// The beginning of the hash of them all, in hex.
    name: Arc<str>,
    /// In the order of the client; empty in a key, and where the set was read from its name.
    types: Arc<[String]>,
}

impl Others {
    fn of(mut types: Vec<String>) -> Option<Others> {
        let mut left = MOST_OTHERS;
        let mut fits = |media_type: &str| {
            let rest = left.checked_sub(media_type.len() + SEPARATOR.len());
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let mut named = BTreeSet::new();
        types.retain(|media_type| !named.contains(media_type) && fits(media_type) && named.insert(media_type.clone()));
        if types.is_empty() {
            return None;
        }
        let in_order: Vec<_> = named.into_iter().collect();
        let mut name = Digest::of(Algorithm::Sha256, in_order.join(",").as_bytes()).hex();
        name.truncate(32);
        Some(Others { name: name.into(), types: types.into() })
    }
}

impl PartialEq for Others {
    fn eq(&self, other: &Others) -> bool {
        self.name == other.name
    }
}

impl Eq for Others {}

impl Hash for Others {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl PartialOrd for Others {
    fn partial_cmp(&self, other: &Others) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Others {
    fn cmp(&self, other: &Others) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl AcceptSet {
    /// Reads the values of all `Accept` lines of a request.
    pub fn from_headers<V: AsRef<str>>(values: impl IntoIterator<Item = V>) -> AcceptSet {
        let (mut known, mut refused, mut others) = (0, 0, Vec::new());
        values.into_iter().for_each(|value| {
            value.as_ref().split(',').for_each(|item| {
                let (media_type, parameters) = item.split_once(';').unwrap_or((item, ""));
                let (media_type, is_refused) = (media_type.trim(), is_zero(parameters));
                match KNOWN.iter().position(|(_, known)| known.eq_ignore_ascii_case(media_type)) {
                    Some(bit) if is_refused => refused |= 1 << bit,
                    Some(bit) => known |= 1 << bit,
                    None if !is_refused && may_be_manifest(media_type) => {
                        others.push(media_type.to_ascii_lowercase());
                    }
                    None => {}
                }
            })
        });
        AcceptSet { known: known & !refused, others: Others::of(others) }
    }

    /// Every type there is that we know: what we ask for when we act on our own account.
    pub fn everything() -> AcceptSet {
        AcceptSet { known: (1 << KNOWN.len()) - 1, others: None }
    }

    /// What is in either of two sets.
    #[must_use]
    pub fn and(self, other: &AcceptSet) -> AcceptSet {
        let types = self.other_types().chain(other.other_types()).map(str::to_owned).collect();
        AcceptSet { known: self.known | other.known, others: Others::of(types) }
    }

    /// The same set, and this type.
    #[must_use]
    pub fn naming(self, media_type: &MediaType) -> AcceptSet {
        let named = AcceptSet::from_headers([media_type.as_ref()]);
        self.and(&named)
    }

    /// The types in it that we know nothing of.
    #[must_use]
    pub fn others(&self) -> AcceptSet {
        AcceptSet { known: 0, others: self.others.clone() }
    }

    /// Whether there are types in it that we know nothing of.
    pub const fn has_others(&self) -> bool {
        self.others.is_some()
    }

    /// Whether a manifest of this type is in the set by name.
    pub fn names(&self, media_type: &MediaType) -> bool {
        let known = self.entries().any(|(_, known)| known == media_type.as_ref());
        known || self.other_types().any(|other| other == media_type.as_ref())
    }

    /// Whether a client with this set can be given a manifest of this type: the set names it, or
    /// everything, or the client did not say.
    pub fn takes(&self, media_type: &MediaType) -> bool {
        *self == AcceptSet::default() || self.entries().any(|(_, known)| known == "*/*") || self.names(media_type)
    }

    /// The value of the `Accept` header to send upstream; `None` for the empty set.
    pub fn header_value(&self) -> Option<String> {
        let types: Vec<&str> = self.entries().map(|(_, media_type)| media_type).chain(self.other_types()).collect();
        (!types.is_empty()).then(|| types.join(SEPARATOR))
    }

    /// The same set for a key, where its types that we know nothing of are not needed, nor their room.
    #[must_use]
    pub fn key(self) -> AcceptSet {
        let others = self.others.map(|others| Others { types: Arc::default(), ..others });
        AcceptSet { others, ..self }
    }

    fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let known = self.known;
        KNOWN.into_iter().enumerate().filter(move |(bit, _)| known & 1 << bit != 0).map(|(_, entry)| entry)
    }

    fn other_types(&self) -> impl Iterator<Item = &str> {
        self.others.iter().flat_map(|others| &*others.types).map(String::as_str)
    }
}

/// Whether these parameters of a type say that it is not accepted: `q=0`, in however many digits.
fn is_zero(parameters: &str) -> bool {
    let weights = parameters.split(';').filter_map(|parameter| {
        let (name, weight) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| weight.trim())
    });
    weights.into_iter().any(|weight| weight.parse::<f32>() == Ok(0.0))
}

/// Whether a manifest may be called so.
fn may_be_manifest(media_type: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let subtype = media_type.split_once('/');
    let known = UNSPECIFIC.iter().any(|unspecific| unspecific.eq_ignore_ascii_case(media_type));
    !known
        && subtype.is_some_and(|(kind, subtype)| {
            kind.eq_ignore_ascii_case("application") && !subtype.is_empty() && subtype.bytes().all(is_token)
        })
}

/// A short name for the set, usable as a file name: `oci-index+oci-manifest+any`, or `none`.
impl fmt::Display for AcceptSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.others.as_ref().map(|others| format!("{OTHERS}{}", others.name));
        let names: Vec<&str> = self.entries().map(|(name, _)| name).chain(others.as_deref()).collect();
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
            if let Some(bit) = KNOWN.iter().position(|(known, _)| *known == name) {
                return Ok(AcceptSet { known: set.known | 1 << bit, ..set });
            }
            let name = name.strip_prefix(OTHERS).filter(|name| name.len() == 32 && set.others.is_none());
            let name = name.filter(|name| name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
            let others = Others { name: name.ok_or(AcceptSetError)?.into(), types: Arc::default() };
            Ok(AcceptSet { others: Some(others), ..set })
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
        for known in 0..1 << KNOWN.len() {
            for others in [None, Others::of(vec!["application/vnd.x".to_owned()])] {
                let set = AcceptSet { known, others };
                assert_eq!(set.to_string().parse(), Ok(set));
            }
        }
        let hash = "0".repeat(32);
        let twice = format!("others-{hash}+others-{hash}");
        for wrong in ["oci-index+x", "", "others-", "others-zz", &twice, &format!("others-{hash}0")] {
            assert_eq!(wrong.parse::<AcceptSet>(), Err(AcceptSetError), "{wrong}");
        }
    }

    #[test]
    fn types_that_we_do_not_know_are_asked_for_and_bounded_and_zero_is_no() {
        let artifact = MediaType::from("application/vnd.example.thing+json");
        let all = KNOWN.map(|(_, media_type)| media_type).join(", ");
        let set = AcceptSet::from_headers([all.as_str(), "Application/VND.example.thing+json; q=0.1"]);
        assert!(set.names(&artifact) && set.has_others() && set != AcceptSet::everything());
        assert_eq!(set.header_value(), Some(format!("{all}, {artifact}")));
        assert_eq!(set, AcceptSet::everything().naming(&artifact));
        for (line, name) in [
            ("*/*;q=0", "none"),
            ("*/*; Q = 0.000, application/vnd.oci.image.index.v1+json;q=0.001", "oci-index"),
            ("application/vnd.oci.image.index.v1+json;q=0, */*", "any"),
            ("application/vnd.example.thing+json;v=1;q=0", "none"),
            ("application/json, text/html, image/*, application/, application/a b, x", "none"),
        ] {
            assert_eq!(AcceptSet::from_headers([line]).to_string(), name, "{line}");
        }
    }

    #[test]
    fn types_are_asked_for_in_the_clients_order_up_to_a_number_of_bytes() {
        let many: Vec<String> = (0..1000).rev().map(|number| format!("application/vnd.x{number}")).collect();
        let set = AcceptSet::from_headers(many.iter().map(String::as_str));
        let (header, asked) = (set.header_value().expect("types"), set.other_types().count());
        assert!(header.len() <= MOST_OTHERS && many[..asked].join(SEPARATOR) == header && asked > 300, "{asked}");
        assert_eq!(set, AcceptSet::from_headers(many[..asked].iter().rev().map(String::as_str)), "whatever the order");
        assert!(set.clone().and(&AcceptSet::everything()).to_string().len() < 150);
        assert_eq!((set.clone().key(), set.clone().key().other_types().count()), (set, 0));
        let long = format!("application/{}", "x".repeat(MOST_OTHERS));
        let set = AcceptSet::from_headers([long.as_str(), "application/vnd.y", &long[..5000]]);
        assert_eq!(set.header_value(), Some(format!("application/vnd.y, {}", &long[..5000])));
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
