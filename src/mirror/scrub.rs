//! Whether stored content still is what its digest says: read in the background, or for whoever waits for
//! it, one blob after another at a bounded rate, so that pulls do not feel it.
//!
//! What is damaged is set aside at once, and fetched again. What clients read is looked at in
//! `room::stored`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::blob_store::StoreError;
use crate::clients::ClientId;
use crate::clock::Clock;
use crate::documents::Finding;
use crate::graph::Graph;
use crate::metadata::{Location, MetadataError};
use crate::mirror::fill::Right;
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::room::stored::{Hashing, Stored};
use crate::mirror::routes::Route;
use crate::mirror::{Mirror, Wings};
use crate::oci::manifest::is_manifest;
use crate::oci::{AcceptSet, Descriptor, Digest};

/// How long after a start the scrub begins, and how long it pauses after each pass.
const PAUSE: Duration = Duration::from_secs(600);
/// How many bytes of one blob are read before it is told how far that is.
const TOLD_EVERY: u64 = 8 << 20;

/// What finds and replaces what is damaged.
pub(crate) struct Scrub {
    /// Who fetches what is damaged: whoever answers then, as a pass takes long.
    pub(super) present: Arc<Mutex<Weak<Wings>>>,
    pub(super) stored: Arc<Stored>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Mirror {
    /// Reads everything that is stored, over and over, at most `rate` bytes a second, and replaces
    /// what is damaged. Ends never; at once when `rate` is zero.
    pub fn scrub(&self, rate: u64) -> impl Future<Output = ()> + Send + use<> {
        let scrub = Arc::clone(&self.0.scrub);
        async move {
            if rate == 0 {
                return;
            }
            loop {
                tokio::time::sleep(PAUSE).await;
                scrub.pass(rate).await;
            }
        }
    }

    /// One pass of [`Mirror::scrub`]; how many blobs were damaged. It begins where the last passes
    /// are unlikely to have come: a daemon that is stopped every night must not always check the same.
    pub async fn scrub_once(&self, rate: u64) -> u64 {
        self.0.scrub.pass(rate).await
    }

    /// Reads every blob, or `only` these, at most `rate` bytes a second where that is not zero, and tells what it
    /// finds; with `repair`, damaged ones are fetched again, and what was set aside earlier. Ends early when
    /// nobody listens.
    ///
    /// # Errors
    /// When the blobs cannot be listed.
    pub async fn verify(
        &self,
        repair: bool,
        rate: u64,
        only: Option<HashSet<Digest>>,
        findings: &mpsc::Sender<Finding>,
    ) -> Result<(), StoreError> {
        let mut blobs = self.0.scrub.stored.blobs.list().await?;
        blobs.retain(|(digest, _)| only.as_ref().is_none_or(|only| only.contains(digest)));
        // Whoever stopped listening knows.
        let _ = self.0.scrub.read(blobs, only, repair, rate, findings.clone()).await;
        Ok(())
    }
}

impl Scrub {
    async fn pass(&self, rate: u64) -> u64 {
        let Scrub { stored, clock, .. } = self;
        let mut blobs = match stored.blobs.list().await {
            Ok(blobs) => blobs,
            Err(error) => {
                tracing::warn!(%error, "the blobs could not be listed to be checked");
                return 0;
            }
        };
        blobs.sort_unstable();
        let first = usize::try_from(clock.now().0).unwrap_or_default() % blobs.len().max(1);
        blobs.rotate_left(first);
        let (findings, mut found) = mpsc::channel(1);
        let listen = async {
            let mut count = 0;
            while let Some(finding) = found.recv().await {
                if let Finding::Damaged { digest, repaired } = finding {
                    count += 1;
                    tracing::warn!(%digest, repaired, "the scrub found a damaged blob");
                }
            }
            count
        };
        tokio::join!(self.read(blobs, None, true, rate, findings), listen).1
    }
}

/// Waits until so many bytes may have been read at `rate` bytes a second, where that is not zero.
async fn pause(start: Instant, bytes: u64, rate: u64) {
    if let Some(millis) = bytes.saturating_mul(1000).checked_div(rate) {
        tokio::time::sleep_until(start + Duration::from_millis(millis)).await;
    }
}

/// All that repositories have or need, by where it is to be had: what was proven, tags point at, and manifests lead to. An
/// image needs its parts also after upstream said that it has one of them no longer.
fn needed(graph: &Graph) -> Result<BTreeMap<Digest, HashMap<Location, Descriptor>>, MetadataError> {
    let (members, tags) = (graph.metadata().members(None)?, graph.metadata().tags()?);
    let mut needed = BTreeMap::<Digest, HashMap<Location, Descriptor>>::new();
    let mut need = |location: &Location, part: Descriptor| {
        needed.entry(part.digest).or_default().entry(location.clone()).or_insert(part);
    };
    for (location, member) in &members {
        need(location, member.clone());
    }
    for (key, record) in tags {
        need(&key.location, record.descriptor);
    }
    for (location, member) in members.iter().filter(|(_, member)| is_manifest(&member.media_type)) {
        let Ok(manifest) = graph.manifest(Some(location), member) else { continue };
        let children = manifest.children();
        let parts = children.manifests.into_iter().map(|(part, _)| part).chain(children.blobs);
        parts.for_each(|part| need(location, part));
    }
    Ok(needed)
}

/// What was found of damaged blobs.
#[derive(Default)]
struct Damaged {
    found: u64,
    /// Those of them that are sound again.
    repaired: u64,
    /// Which.
    told: HashSet<Digest>,
}

impl Damaged {
    fn note(&mut self, digest: Digest, healed: bool) {
        self.found += 1;
        self.repaired += u64::from(healed);
        self.told.insert(digest);
    }
}

impl Scrub {
    /// Reads one blob after another, at most `rate` bytes a second where that is not zero, and tells what
    /// it finds as long as somebody listens.
    async fn read(
        &self,
        blobs: Vec<(Digest, u64)>,
        only: Option<HashSet<Digest>>,
        repair: bool,
        rate: u64,
        findings: mpsc::Sender<Finding>,
    ) -> Result<(), mpsc::error::SendError<Finding>> {
        let (mut of, mut of_bytes) = (blobs.len() as u64, blobs.iter().map(|(_, size)| size).sum::<u64>());
        let (mut checked, mut checked_bytes, start) = (0, 0_u64, Instant::now());
        let mut damaged = Damaged::default();
        findings.send(Finding::Progress { checked, checked_bytes, of, of_bytes }).await?;
        for (digest, size) in blobs {
            let Some(content) = self.stored.blobs.open(&digest).await else {
                // Evicted since the list was made, or set aside as soon as it was opened.
                (of, of_bytes) = (of - 1, of_bytes - size);
                continue;
            };
            let (mut hashing, mut told) = (Hashing::of(digest, content), 0);
            while let Some(read) = hashing.more().await {
                pause(start, checked_bytes + read, rate).await;
                if read - told >= TOLD_EVERY {
                    told = read;
                    findings
                        .send(Finding::Progress { checked, checked_bytes: checked_bytes + read, of, of_bytes })
                        .await?;
                }
            }
            (checked, checked_bytes) = (checked + 1, checked_bytes + size);
            if !self.stored.hashed(hashing).await {
                let healed = repair && self.heal(digest, self.holders(digest).await).await;
                damaged.note(digest, healed);
                findings.send(Finding::Damaged { digest, repaired: healed }).await?;
            }
            findings.send(Finding::Progress { checked, checked_bytes, of, of_bytes }).await?;
        }
        let lacking = self.lacking(only, repair, &mut damaged, &findings).await?;
        let Damaged { found, repaired, .. } = damaged;
        findings.send(Finding::Done { checked, checked_bytes, damaged: found, repaired, lacking }).await
    }

    /// Looks after what is damaged and could not be opened to be read, now or in earlier runs: with `repair` it
    /// is fetched again. How many blobs images lack in the end because they are damaged.
    async fn lacking(
        &self,
        only: Option<HashSet<Digest>>,
        repair: bool,
        damaged: &mut Damaged,
        findings: &mpsc::Sender<Finding>,
    ) -> Result<u64, mpsc::error::SendError<Finding>> {
        let Stored { blobs, records, .. } = &*self.stored;
        let graph = Graph::new(Arc::clone(blobs), Arc::clone(&records.metadata));
        let blobs = Arc::clone(blobs);
        let damaged_parts = graph.ask(move |graph| {
            let mut needed = needed(graph)?;
            needed
                .retain(|digest, _| only.as_ref().is_none_or(|only| only.contains(digest)) && blobs.is_damaged(digest));
            Ok(needed)
        });
        let mut lacking = 0;
        for (digest, places) in damaged_parts.await.unwrap_or_default() {
            let mut healed = false;
            if !damaged.told.contains(&digest) {
                healed = repair && self.heal(digest, places).await;
                damaged.note(digest, healed);
                findings.send(Finding::Damaged { digest, repaired: healed }).await?;
            }
            lacking += u64::from(!healed);
        }
        Ok(lacking)
    }

    /// The repositories that are known to have it.
    async fn holders(&self, digest: Digest) -> HashMap<Location, Descriptor> {
        let members = self.stored.records.with(|metadata| metadata.members(None)).await.unwrap_or_default();
        members.into_iter().filter(|(_, descriptor)| descriptor.digest == digest).collect()
    }

    /// Fetches again what was set aside, from any of these repositories; whether it is there now.
    async fn heal(&self, digest: Digest, places: HashMap<Location, Descriptor>) -> bool {
        let present = self.present.lock().upgrade();
        for (location, descriptor) in places {
            let Some(Wings { routes, fills, .. }) = present.as_deref() else { return false };
            let Some(upstream) = routes.upstream(&location.upstream) else { continue };
            if is_manifest(&descriptor.media_type) {
                let route = Route::of_operator(location, upstream);
                // Kept, or only fetched: the store tells.
                let _ = fills.manifest(&route, digest, &AcceptSet::default()).await;
                fills.writing.over(Some(&route.location)).await;
            } else {
                let place = fills.bounds.lane(&location.upstream).fills.take(ClientId::Operator).await;
                let source = BlobSource::at(upstream, location, digest);
                let (mut following, _) = fills.fly(source, Right::At(place));
                while following.changed().await.is_ok() {}
            }
            if self.stored.blobs.open(&digest).await.is_some() {
                return true;
            }
        }
        false
    }
}
