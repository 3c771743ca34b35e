//! What a question is about, as far as trouble is remembered: one manifest, blob or list of a repository,
//! however it is asked for.

use crate::oci::{Digest, Reference, Repository};

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// None for the door, which belongs to none.
    pub(super) repository: Option<Repository>,
    item: Item,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Manifest(Reference),
    Blob(Digest),
    HeadOfBlob(Digest),
    Tags,
    Referrers(Digest),
    Door,
}

impl Resource {
    /// What `/v2/` says.
    pub const fn door() -> Resource {
        Resource { repository: None, item: Item::Door }
    }

    /// Whether it stands for all that there is.
    pub(super) fn is_door(&self) -> bool {
        self.item == Item::Door
    }

    /// A manifest by tag or digest.
    pub fn manifest(repository: &Repository, reference: &Reference) -> Resource {
        Resource { repository: Some(repository.clone()), item: Item::Manifest(reference.clone()) }
    }

    /// A blob.
    pub fn blob(repository: &Repository, digest: &Digest) -> Resource {
        Resource { repository: Some(repository.clone()), item: Item::Blob(*digest) }
    }

    /// The head of a blob: that it stays away says nothing of the blob.
    pub fn head_of_blob(repository: &Repository, digest: &Digest) -> Resource {
        Resource { repository: Some(repository.clone()), item: Item::HeadOfBlob(*digest) }
    }

    /// Whether what it stands for may change.
    pub(super) const fn can_be_stale(&self) -> bool {
        matches!(self.item, Item::Manifest(Reference::Tag(_)) | Item::Tags | Item::Referrers(_))
    }

    /// Whether a digest names it, so that it is certain what should come.
    pub(super) const fn is_by_digest(&self) -> bool {
        matches!(self.item, Item::Manifest(Reference::Digest(_)) | Item::Blob(_) | Item::HeadOfBlob(_))
    }

    /// The tags of a repository.
    pub fn tags(repository: &Repository) -> Resource {
        Resource { repository: Some(repository.clone()), item: Item::Tags }
    }

    /// The manifests that refer to `digest`.
    pub fn referrers(repository: &Repository, digest: &Digest) -> Resource {
        Resource { repository: Some(repository.clone()), item: Item::Referrers(*digest) }
    }
}
