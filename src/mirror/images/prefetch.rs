//! Fetching an image ahead: everything that a pull would need, through the same look-ups and fills.
//!
//! Nothing is fetched twice and nothing is fetched in another way than for a client, so an image
//! that was fetched ahead is one that can be pulled. What happens is told as events; whoever listens
//! may leave, and the fills that run go on.
//!
//! An operator may ask for an image, and then it is fetched whole. Or a client got a manifest, and
//! will soon ask for what it points at: that is begun with at once, if the policy says so, as long as
//! it takes nothing from anybody: places and room that others need are left to them, nothing is
//! evicted, and a client that asks meanwhile reads along.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::clients::ClientId;
use crate::documents::{Failure, PullEvent};
use crate::graph::image::{self, Image, Lacking, Platforms};
use crate::mirror::error::MirrorError;
use crate::mirror::fill::{Fills, Right};
use crate::mirror::flight::progress::{Following, Phase, Progress};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::{Mirror, Mode, Route};
use crate::oci::manifest::is_image;
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, Manifest, Platform, Reference};
use crate::outcome::Outcome;
use crate::upstream::UpstreamErrorClass;

/// Blobs of one image fetched at once; the mirror's own bound holds besides.
const AT_ONCE: usize = 4;

/// Where the events go. That nobody listens does not matter.
type Events = mpsc::Sender<PullEvent>;

impl Mirror {
    /// Fetches an image for these platforms into the store; whether all of it is there. Ends with
    /// [`PullEvent::Done`] in every case.
    pub async fn prefetch(&self, name: &ImageName, platforms: &Platforms, events: &Events) -> bool {
        let image = name.to_string();
        let mut count = Count::default();
        let complete = match self.fetch_all(name, platforms, events, &mut count).await {
            Ok(complete) => complete,
            Err((digest, failure, message)) => {
                let message = self.unless_offline(failure, message);
                tell(events, PullEvent::Failed { image: image.clone(), digest, failure, message }).await;
                false
            }
        };
        let Count { blobs, fetched_bytes } = count;
        tracing::info!(%image, complete, blobs, fetched_bytes, "fetched ahead");
        tell(events, PullEvent::Done { image, complete, blobs, fetched_bytes }).await;
        complete
    }

    async fn fetch_all(
        &self,
        name: &ImageName,
        platforms: &Platforms,
        events: &Events,
        count: &mut Count,
    ) -> Result<bool, Problem> {
        let route = self.route_of(name).map_err(|error| (None, Failure::NotFound, error.to_string()))?;
        let top = self.manifest_for(&route, &name.reference).await?;
        tell(events, PullEvent::Resolved { image: name.to_string(), digest: top.descriptor.digest }).await;
        let (tree, problems) = self.fetch_manifests(&route, top.descriptor, platforms, count).await?;
        let mut complete = problems.is_empty();
        for (digest, failure, message) in problems {
            let image = name.to_string();
            tell(events, PullEvent::Failed { image, digest, failure, message }).await;
        }
        let blobs: Vec<_> = image::blobs(&tree, platforms).into_iter().cloned().collect();
        count.blobs = blobs.len();
        let fetches = blobs.into_iter().map(|blob| self.fetch_blob(route.clone(), blob, events.clone()));
        let mut fetched = stream::iter(fetches).buffer_unordered(AT_ONCE);
        while let Some(result) = fetched.next().await {
            match result {
                Ok(bytes) => count.fetched_bytes += bytes,
                Err((digest, failure, message)) => {
                    complete = false;
                    let (image, message) = (name.to_string(), self.unless_offline(failure, message));
                    tell(events, PullEvent::Failed { image, digest, failure, message }).await;
                }
            }
        }
        // What the store could not keep of the manifests shows only now.
        let ready = self.readiness_with(name, platforms, HashSet::new()).await.is_ok_and(|readiness| readiness.ready);
        if complete && !ready {
            return Err((
                None,
                Failure::NotKept,
                "the store could not keep all of it; see the daemon's log".to_owned(),
            ));
        }
        Ok(complete)
    }

    /// What is said of a failure; whoever pulls need not be told to pull.
    fn unless_offline(&self, failure: Failure, message: String) -> String {
        if self.0.mode == Mode::Offline && failure == Failure::Unavailable {
            return "it is not stored, and offline mode is on; pull it without cache.mode = \"offline\" or --offline"
                .to_owned();
        }
        message
    }

    /// Brings in what is not stored of the manifests below `top`, level by level; what they lead to, and what
    /// was not to be had of them.
    async fn fetch_manifests(
        &self,
        route: &Route,
        top: Descriptor,
        platforms: &Platforms,
        count: &mut Count,
    ) -> Result<(Image, Vec<Problem>), Problem> {
        let (mut asked, mut problems) = (HashSet::new(), Vec::new());
        loop {
            let tree = self.tree(route, &top).await?;
            // With every blob taken for stored, what is missing are manifests.
            let mut unread = image::completeness(&tree, platforms, &Lacking::new());
            if let Some(platform) = unread.lacking.first() {
                let offered = image::platforms(&tree).map(Platform::to_string).collect::<Vec<_>>().join(", ");
                let message = match &*offered {
                    "" => format!("not made for {platform}: its index names no platform"),
                    offered => format!("not made for {platform}, only for {offered}"),
                };
                return Err((None, Failure::NotFound, message));
            }
            // What came and is not there now, the store could not keep.
            unread.missing.retain(|part| !unread.too_deep.contains(&part.digest) && asked.insert(part.digest));
            let mut told = image::configurations(&tree, platforms);
            told.retain(|configuration| asked.insert(configuration.digest));
            if unread.missing.is_empty() && told.is_empty() {
                problems.extend(unread.unknown().map(|why| (None, Failure::Other, why)));
                return Ok((tree, problems));
            }
            for Descriptor { digest, .. } in unread.missing {
                // What is in memory is served without a look at the disk, which would find out.
                if unread.damaged.contains(&digest)
                    && let Some(content) = self.0.fills.stored.blobs.open(&digest).await
                {
                    self.0.fills.stored.check(&digest, &content).await;
                }
                problems.extend(self.manifest_for(route, &Reference::Digest(digest)).await.err());
            }
            for configuration in told {
                // It is told of with all blobs, also where it is not to be had.
                let unheard = mpsc::channel(1).0;
                let fetched = self.fetch_blob(route.clone(), configuration.clone(), unheard).await;
                count.fetched_bytes += fetched.unwrap_or_default();
            }
        }
    }

    async fn tree(&self, route: &Route, top: &Descriptor) -> Result<Image, Problem> {
        let (location, top) = (route.location.clone(), top.clone());
        let tree = self.0.graph.ask(move |graph| Ok(graph.image(Some(&location), top))).await;
        tree.map_err(|error| (None, Failure::Other, error.to_string()))
    }

    async fn manifest_for(&self, route: &Route, reference: &Reference) -> Result<Manifest, Problem> {
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => None,
        };
        let answer = self.manifest(&route.anew(), reference, AcceptSet::everything()).await;
        let answer = answer.map_err(|error| {
            let (digest, failure, message) = problem(digest, &error);
            let advice = self.advice(&route.location.upstream, &error);
            (digest, failure, advice.map_or_else(|| message.clone(), |advice| format!("{message}; {advice}")))
        });
        // What it leads to is read from the store.
        self.written().await;
        Ok(answer?.manifest.as_ref().clone())
    }

    /// Brings a blob into the store; how many bytes were fetched for that.
    pub(super) async fn fetch_blob(&self, route: Route, blob: Descriptor, events: Events) -> Result<u64, Problem> {
        let Descriptor { digest, size, .. } = blob;
        let events = &events;
        let stored =
            self.0.answers.blobs.stored(&route.anew(), &digest).await.map_err(|error| problem(Some(digest), &error))?;
        if stored.is_some() {
            self.has_its_size(&blob).await?;
            tell(events, PullEvent::Finished { digest, size_bytes: size, fetched: false }).await;
            return Ok(0);
        }
        tell(events, PullEvent::Queued { digest, size_bytes: size }).await;
        let source = BlobSource::at(route.upstream.clone(), route.location.clone(), digest);
        // Its place is waited for as long as somebody listens; a client that asks meanwhile does not wait with it.
        let place = self.0.fills.bounds.lane(&route.location.upstream).fills.take(ClientId::Operator).await;
        let (following, _) = self.0.fills.fly(source, Right::At(place));
        // Progress is a courtesy: a listener that is slow misses some.
        let grew = |written_bytes| drop(events.try_send(PullEvent::Progress { digest, written_bytes }));
        landed(following, grew).await.map_err(|error| problem(Some(digest), &error))?;
        if !self.0.fills.stored.has(&route.location, &digest).await {
            let message = "it came, but the store could not keep it; see the daemon's log".to_owned();
            return Err((Some(digest), Failure::NotKept, message));
        }
        self.has_its_size(&blob).await?;
        tell(events, PullEvent::Finished { digest, size_bytes: size, fetched: true }).await;
        Ok(size)
    }

    /// Whether a stored blob has as many bytes as the manifest says: clients refuse one that has not.
    async fn has_its_size(&self, blob: &Descriptor) -> Result<(), Problem> {
        match self.0.fills.stored.blobs.open(&blob.digest).await {
            Some(content) if content.size != blob.size => {
                let message = format!("the manifest says that it has {} bytes, and it has {}", blob.size, content.size);
                Err((Some(blob.digest), Failure::BadAnswer, message))
            }
            _ => Ok(()),
        }
    }
}

impl Mirror {
    /// A client has got this manifest, and will ask for what it points at: begins to fetch as much of
    /// that as the policy says. Does not wait for it. With what a caller shows nothing is asked but what he asks.
    pub fn expect_pull(&self, route: &Route, manifest: &Arc<Manifest>) {
        let ahead = &self.0.ahead;
        if ahead.most == 0 || !is_image(&manifest.descriptor.media_type) {
            return;
        }
        if ahead.fills.stored.standing.is_of_callers(&route.location) {
            return;
        }
        let (tasks, ahead) = (ahead.fills.tasks.clone(), ahead.clone());
        let (route, manifest) = (route.clone(), Arc::clone(manifest));
        tasks.spawn(async move { ahead.fetch(&route, &manifest).await });
    }
}

/// Fetches what clients will ask for soon.
#[derive(Clone)]
pub(crate) struct Ahead {
    fills: Arc<Fills>,
    /// Bytes of an image; zero for none.
    most: u64,
}

/// What became of a blob that a client may ask for soon.
enum Fetched {
    /// It is stored, or on its way already.
    There,
    /// It was fetched before anybody had asked: so many bytes.
    Led(u64),
    /// Others need the places or the room.
    Dropped,
    /// Upstream did not give it; a client that asks is told.
    Failed,
}

impl Ahead {
    pub(crate) fn new(fills: Arc<Fills>, most: u64) -> Ahead {
        Ahead { fills, most }
    }

    async fn fetch(&self, route: &Route, manifest: &Manifest) {
        let blobs = first_within(manifest.children().blobs, self.most);
        let mut fetched = stream::iter(blobs).map(|blob| self.fetch_blob(route, blob)).buffer_unordered(AT_ONCE);
        let (mut blobs, mut bytes, mut dropped) = (0_u64, 0_u64, 0_u64);
        while let Some(fetched) = fetched.next().await {
            match fetched {
                Fetched::Led(size) => (blobs, bytes) = (blobs + 1, bytes + size),
                Fetched::Dropped => dropped += 1,
                Fetched::There | Fetched::Failed => {}
            }
        }
        if blobs + dropped > 0 {
            let manifest = &manifest.descriptor.digest;
            tracing::info!(location = %route.location, %manifest, blobs, bytes, dropped, "fetched ahead of a client");
        }
    }

    async fn fetch_blob(&self, route: &Route, blob: Descriptor) -> Fetched {
        let fills = &self.fills;
        let Descriptor { digest, size, .. } = blob;
        let (upstream, location) = (Arc::clone(&route.upstream), route.location.clone());
        let in_flight = fills.flights.join(&(location.clone(), digest)).is_some();
        // What another repository has brought is not fetched again; whether this one may have it is
        // asked for whoever wants it.
        if in_flight || fills.stored.blobs.open(&digest).await.is_some() {
            return Fetched::There;
        }
        let lane = fills.bounds.lane(&location.upstream);
        let place = lane.fills.spare().filter(|_| !fills.tasks.is_closed() && fills.room.fits(size));
        let Some(place) = place else {
            fills.metrics.not_fetched_ahead();
            return Fetched::Dropped;
        };
        let (following, outcome) = fills.fly(BlobSource::at(upstream, location, digest), Right::At(place));
        if outcome == Outcome::Join {
            return Fetched::There;
        }
        fills.metrics.fetching_ahead(size);
        let landed = tokio::select! {
            landed = landed(following, |_| ()) => landed,
            // Nobody follows it any more then, unless a client does.
            () = lane.fills.are_wanted() => return Fetched::Dropped,
        };
        if landed.is_ok() { Fetched::Led(size) } else { Fetched::Failed }
    }
}

/// The first of `blobs` that have no more than `most` bytes together.
fn first_within(blobs: Vec<Descriptor>, most: u64) -> Vec<Descriptor> {
    let mut left = most;
    let mut known = HashSet::new();
    let distinct = blobs.into_iter().filter(|blob| known.insert(blob.digest));
    distinct
        .map_while(|blob| {
            left = left.checked_sub(blob.size)?;
            Some(blob)
        })
        .collect()
}

/// Waits until a fill has left the table: it commits after its last word and is gone when that is
/// done. `grew` is told how many bytes there are.
async fn landed(mut following: Following, grew: impl Fn(u64)) -> Result<(), MirrorError> {
    loop {
        let Progress { phase, written, .. } = following.borrow_and_update().clone();
        if let Phase::Failed(error) = phase {
            return Err(error);
        }
        grew(written);
        if following.changed().await.is_err() {
            break;
        }
    }
    match &following.borrow().phase {
        Phase::Failed(error) => Err(error.clone()),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Count {
    blobs: usize,
    fetched_bytes: u64,
}

/// The part it is about, what kind of failure, and a sentence for people.
type Problem = (Option<Digest>, Failure, String);

fn problem(digest: Option<Digest>, error: &MirrorError) -> Problem {
    (digest, failure(error), error.to_string())
}

/// What kind of failure it is for whoever looks after a mirror.
pub(super) const fn failure(error: &MirrorError) -> Failure {
    match error.upstream_class() {
        Some(UpstreamErrorClass::NotFound) => Failure::NotFound,
        Some(UpstreamErrorClass::Denied | UpstreamErrorClass::Refused | UpstreamErrorClass::RateLimited(_)) => {
            Failure::Refused
        }
        Some(UpstreamErrorClass::Unavailable) => Failure::Unavailable,
        Some(UpstreamErrorClass::Protocol) => Failure::BadAnswer,
        None => Failure::Other,
    }
}

async fn tell(events: &Events, event: PullEvent) {
    let _ = events.send(event).await;
}
