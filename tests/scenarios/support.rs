//! What scenarios are made of, beside the scripted registry and its raw client.

pub(crate) mod command;
pub(crate) mod mirror;
pub(crate) mod schema;
pub(crate) mod stalling;

/// A digest of the scripted registry, which has a type of its own for them, as the mirror knows it.
pub(crate) fn known(digest: &scripted_registry::Digest) -> registry_mirror::oci::Digest {
    digest.to_string().parse().expect("the text of a digest")
}
