//! What follows from a refusal of an upstream: whether it is one for all that is stored of a repository.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::mirror::error::MirrorError;
use crate::mirror::fill::Fills;
use crate::mirror::flight::flights::{Flights, Seat};
use crate::mirror::routes::Route;
use crate::mirror::{Location, Mirror};
use crate::oci::manifest::is_manifest;
use crate::oci::{AcceptSet, Descriptor, Digest, Reference};
use crate::upstream::UpstreamErrorClass;

/// How long who wants to know what comes of a refusal waits for it.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// The repositories that are looked into just now, each with what ends when that is over.
pub(super) type LookedInto = Flights<Location, watch::Receiver<()>>;

impl Mirror {
    /// The same answer; a refusal is looked into.
    pub(super) fn heard<T>(&self, route: &Route, answer: Result<T, MirrorError>) -> Result<T, MirrorError> {
        let refused = answer.as_ref().err().and_then(MirrorError::upstream_class) == Some(UpstreamErrorClass::Denied);
        let fills = &self.0.fills;
        let for_all = !fills.stored.standing.is_of_callers(&route.location);
        let given_again = || answer.is_ok() && fills.stored.denials.holds(&route.location);
        if (refused || given_again()) && for_all && fills.stored.denials.is_due(&route.location) {
            let (over, looking) = watch::channel(());
            if let Seat::Lead(_, departure) = self.0.answers.looked_into.seat(route.location.clone(), || looking) {
                let look = look_into(Arc::clone(fills), route.clone());
                fills.tasks.spawn(async move {
                    look.await;
                    drop((departure, over));
                });
            }
        }
        answer
    }

    /// Waits until it is known what a refusal of a moment ago means for all of a repository; not for long.
    pub(crate) async fn looked_into(&self, location: &Location) {
        let Some(mut looking) = self.0.answers.looked_into.join(location) else { return };
        let over = async { while looking.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(LONG_ENOUGH, over).await;
    }
}

/// Asks for something that is stored here, by digest, a manifest if there is one: what the registry says to that holds
/// for all.
async fn look_into(fills: Arc<Fills>, Route { location, upstream, .. }: Route) {
    let manifest = async |digest| {
        let reference = Reference::Digest(digest);
        upstream.manifest(&location.repository, &reference, AcceptSet::everything()).await.map(drop)
    };
    let said = match a_stored_manifest(&fills, &location).await {
        Some(digest) => manifest(digest).await,
        None => {
            let Some(digest) = stored(&fills, &location, |_| true).await else { return };
            match upstream.stat_by_get(&location.repository, &digest).await {
                // It may be a storage host that refuses. To this the registry itself says that there is no such
                // manifest, if it gives the repository at all.
                Err(error) if error.class == UpstreamErrorClass::Denied => manifest(digest).await,
                said => said.map(drop),
            }
        }
    };
    match said {
        Ok(()) => fills.stored.denials.lift(&location).await,
        Err(error) if error.class == UpstreamErrorClass::Denied => fills.stored.denials.deny(&location).await,
        Err(error) => tracing::debug!(%location, %error, "not known whether upstream denies it"),
    }
}

/// A manifest that is stored of a repository.
pub(super) async fn a_stored_manifest(fills: &Fills, location: &Location) -> Option<Digest> {
    stored(fills, location, |descriptor| is_manifest(&descriptor.media_type)).await
}

async fn stored(fills: &Fills, location: &Location, wanted: fn(&Descriptor) -> bool) -> Option<Digest> {
    let of = location.clone();
    let members = fills.stored.records.with(move |metadata| metadata.members(Some(&of))).await.ok()?;
    for (_, descriptor) in members {
        if wanted(&descriptor) && fills.stored.blobs.open(&descriptor.digest).await.is_some() {
            return Some(descriptor.digest);
        }
    }
    None
}
