//! What follows from a refusal of an upstream: whether it is one for all that is stored of a repository.

use std::sync::Arc;

use crate::mirror::error::MirrorError;
use crate::mirror::fill::Fills;
use crate::mirror::routes::Route;
use crate::mirror::{Location, Mirror};
use crate::oci::manifest::is_manifest;
use crate::oci::{AcceptSet, Digest, Reference};
use crate::upstream::UpstreamErrorClass;

impl Mirror {
    /// The same answer; a refusal is looked into.
    pub(super) fn heard<T>(&self, route: &Route, answer: Result<T, MirrorError>) -> Result<T, MirrorError> {
        let refused = answer.as_ref().err().and_then(MirrorError::upstream_class) == Some(UpstreamErrorClass::Denied);
        let fills = &self.0.fills;
        let for_all = !fills.stored.is_of_callers(&route.location);
        if refused && for_all && fills.stored.denials.is_due(&route.location) {
            fills.tasks.spawn(look_into(Arc::clone(fills), route.clone()));
        }
        answer
    }
}

/// Asks for a manifest that is stored here, by digest: what the registry says to that holds for all.
async fn look_into(fills: Arc<Fills>, Route { location, upstream, .. }: Route) {
    let Some(digest) = a_stored_manifest(&fills, &location).await else { return };
    let (reference, accept) = (Reference::Digest(digest), AcceptSet::everything());
    match upstream.manifest(&location.repository, &reference, accept).await {
        Ok(_) => fills.stored.denials.lift(&location).await,
        Err(error) if error.class == UpstreamErrorClass::Denied => fills.stored.denials.deny(&location).await,
        Err(error) => tracing::debug!(%location, %error, "not known whether upstream denies it"),
    }
}

/// A manifest that is stored of a repository.
pub(super) async fn a_stored_manifest(fills: &Fills, location: &Location) -> Option<Digest> {
    let of = location.clone();
    let members = fills.stored.records.with(move |metadata| metadata.members(Some(&of))).await.ok()?;
    for (_, descriptor) in members {
        if is_manifest(&descriptor.media_type) && fills.stored.blobs.open(&descriptor.digest).await.is_some() {
            return Some(descriptor.digest);
        }
    }
    None
}
