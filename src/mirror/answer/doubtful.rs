//! Memberships of which nobody knows how they were proven, because the version that recorded them did not write
//! it down: upstream is asked once more, behind the clients, who are served as before.
//!
//! Yes is a proof, or leads to the bytes where it is not enough; "not found" ends the membership. Where upstream
//! is away, or does not say, they stay as they are and are asked for later.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::clients::ClientId;
use crate::metadata::{Location, Membership, Proof, names};
use crate::mirror::Mirror;
use crate::mirror::error::MirrorError;
use crate::mirror::fill::Right;
use crate::mirror::flight::progress::finished;
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Descriptor, Digest, Reference};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// So many are asked for at a time.
const AT_ONCE: usize = 4;

impl Mirror {
    /// Asks for what was served without a proof, until the future is dropped. Run it beside the server.
    pub fn ask_once_more(&self) -> impl Future<Output = ()> + Send + use<> {
        let (doubts, present) = (Arc::clone(&self.0.fills.stored.doubts), Arc::clone(&self.0.present));
        async move {
            loop {
                let doubtful = stream::iter(doubts.take().await);
                let Some(mirror) = present.lock().upgrade().map(Mirror) else { return };
                doubtful.for_each_concurrent(AT_ONCE, |(location, digest)| mirror.ask_for(location, digest)).await;
            }
        }
    }

    async fn ask_for(&self, location: Location, digest: Digest) {
        let stored = &self.0.fills.stored;
        let Some(upstream) = self.0.routes.upstream(&location.upstream) else { return };
        if stored.standing.is_of_callers(&location) {
            // Whoever asks for it next brings what it takes.
            return;
        }
        let member = stored.member(&location, &digest).filter(|member| member.proof == Proof::Unknown);
        let Some(Membership { descriptor, .. }) = member else { return };
        let route = Route::of_operator(location.clone(), upstream);
        match self.prove(&route, descriptor).await {
            Err(UpstreamErrorClass::NotFound) => self.forget_member(&location, digest).await,
            Err(class) if class.is_outage() => stored.doubts.put_back((location, digest)),
            said => {
                tracing::debug!(%location, %digest, ?said, "asked once more whether it has this");
                stored.doubts.leave_alone((location, digest));
            }
        }
    }

    /// Has it proven that the repository has this content, by a word where that is enough.
    async fn prove(&self, route: &Route, descriptor: Descriptor) -> Result<(), UpstreamErrorClass> {
        let (fills, Route { location, upstream, .. }) = (&self.0.fills, route);
        let (digest, is_manifest) = (descriptor.digest, !descriptor.is_of_blob());
        if fills.stored.is_word_enough(location, &digest).await {
            word_of(route, &descriptor, is_manifest).await.map_err(|error| error.class)?;
            let at = fills.stored.standing.places_of(location);
            fills.stored.add_member(location, descriptor, Proof::Head, at).await;
            return Ok(());
        }
        let proven = if is_manifest {
            fills.manifest(route, digest, &AcceptSet::default()).await.map(drop)
        } else {
            let source = BlobSource::at(upstream.clone(), location.clone(), digest);
            let (mut following, _) = fills.fly(source, Right::Of(ClientId::Operator));
            finished(&mut following).await.map(drop)
        };
        proven.map_err(|error: MirrorError| error.upstream_class().unwrap_or(UpstreamErrorClass::Unavailable))
    }

    async fn forget_member(&self, location: &Location, digest: Digest) {
        let at = location.clone();
        let records = &self.0.fills.stored.records;
        records.take_away("membership not forgotten", move |metadata| metadata.remove_member(&at, &digest)).await;
        self.0.fills.stored.no_longer(|| names::member(location, &digest));
        tracing::info!(%location, %digest, "upstream has not got it any more");
    }
}

/// Whether upstream says that the repository has it.
async fn word_of(route: &Route, known: &Descriptor, is_manifest: bool) -> Result<(), UpstreamError> {
    let (repository, upstream, digest) = (&route.location.repository, &route.upstream, &known.digest);
    if is_manifest {
        let accept = AcceptSet::everything().naming(&known.media_type);
        return upstream.resolve(repository, &Reference::Digest(*digest), accept).await.map(drop);
    }
    match upstream.stat(repository, digest).await {
        // A no to HEAD is no answer to who wants GET.
        Err(error) if !error.class.is_outage() => upstream.stat_by_get(repository, digest).await.map(drop),
        said => said.map(drop),
    }
}
