//! Room in the store: who may take how much, and who makes more of it.
//!
//! Every fill reserves what came before it is written, so blobs and reservations together stay within the
//! allowance, and what an upstream promises evicts nothing. When there is no room
//! the plan of [`crate::mirror::keep::eviction`] is carried out, tag pointers first, then manifests, then layers;
//! files that are being read stay readable, so it never breaks a pull. When even that makes no room,
//! nothing is evicted in vain and the pull is passed through: what is promised beyond counts for that.
//!
//! Until the blobs were listed after a start, `usage` knows only a part of them; `min_free` holds from
//! the first moment, `max_size` from then on, when what is too much is evicted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::blob_store::StoreError;
use crate::clock::Timestamp;
use crate::graph::Graph;
use crate::graph::links::Known;
use crate::metadata::{BlobRecord, Location, MetadataError, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::keep::RoomKeeper;
use crate::mirror::keep::eviction::{self, Stock, Victim};
use crate::mirror::room::Reservation;
use crate::oci::{Descriptor, Digest, Tag};

/// How often it is checked whether there is too much in the store.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a fill waits for others to leave before it is passed through.
const PATIENCE: Duration = Duration::from_secs(10);
/// One part in so many is evicted beyond what is needed, so that not every fill has to.
const SLACK: u64 = 50;
/// The slack is never more than this, in bytes.
const MOST_SLACK: u64 = 8 << 30;

/// Why room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A fill wants so many bytes now, and probably so many afterwards. If they cannot be had nothing is
    /// evicted.
    Fill(u64, u64),
    /// The disk is full, whatever we counted: so many bytes, or as many as can be had.
    Disk(u64),
    /// The allowance shrank, or was overrun while not everything was counted.
    Excess,
}

impl Mirror {
    /// Keeps the store within its allowance until the future is dropped. Run it beside the server,
    /// after the blobs were listed.
    pub async fn keep_room(&self) {
        loop {
            let keeper = &self.0.room;
            if !keeper.fits(0) {
                keeper.make_room(Need::Excess).await;
            }
            keeper.metrics.promised(keeper.room.promised());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl RoomKeeper {
    /// How many bytes more the store could take, if all that may go went.
    pub(crate) fn most_room(&self) -> u64 {
        self.room.excess(self.taken(), 0).1
    }

    /// Does something while nothing is evicted or collected.
    pub(crate) async fn while_nothing_goes(&self, work: impl FnOnce()) {
        let _making_room = self.room.one_at_a_time().await;
        work();
    }

    /// Bytes on disk that count.
    fn taken(&self) -> u64 {
        let usage = self.stored.blobs.usage();
        usage.bytes.saturating_add(usage.set_aside).saturating_add(self.ingests.left_over())
    }

    /// Whether `bytes` more fit into the store as it is.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.room.excess(self.taken(), bytes).0 == 0
    }

    /// Whether `bytes` could ever be in the store, if all that may go went.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when they could not.
    pub(crate) fn could_hold(&self, bytes: u64) -> Result<(), StoreError> {
        if bytes <= self.most_room() { Ok(()) } else { Err(self.refused(bytes)) }
    }

    /// Takes `bytes` of the store, if they are free. Looks at the disk.
    pub(crate) fn reserve_at_once(&self, bytes: u64) -> Option<Reservation> {
        self.room.reserve(self.taken(), bytes)
    }

    /// Takes `bytes` of the store, after making room for them if need be. Nothing goes for them if there is no
    /// room to be had for `promised` bytes more.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when there is no room to be had, at least not soon.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64, promised: u64) -> Result<Reservation, StoreError> {
        if let Some(reservation) = self.reserve_at_once(bytes) {
            return Ok(reservation);
        }
        let keeper = Arc::clone(self);
        // A task of its own: it goes on when we lose patience.
        let making = self.tasks.spawn(async move { keeper.make_room(Need::Fill(bytes, promised)).await });
        let made = tokio::time::timeout(PATIENCE, making).await;
        made.ok().and_then(Result::ok).flatten().ok_or_else(|| self.refused(bytes.saturating_add(promised)))
    }

    fn refused(&self, bytes: u64) -> StoreError {
        self.metrics.reservation_refused();
        let reason = format!("there is no room for {bytes} bytes");
        StoreError::NoSpace(std::io::Error::new(std::io::ErrorKind::StorageFull, reason))
    }

    /// The disk had no room for `bytes`, although they were granted: evicts as much.
    pub(crate) async fn relieve(self: &Arc<Self>, bytes: u64) {
        let keeper = Arc::clone(self);
        let making = self.tasks.spawn(async move { keeper.make_room(Need::Disk(bytes)).await });
        let _ = tokio::time::timeout(PATIENCE, making).await;
    }

    /// Evicts what is needed, one caller at a time. For a fill returns what it asked for.
    async fn make_room(&self, need: Need) -> Option<Reservation> {
        let mut known = self.room.known.lock().await;
        let (wanted, promised) = if let Need::Fill(bytes, promised) = need { (bytes, promised) } else { (0, 0) };
        // Somebody else may have made room while we waited.
        if wanted > 0
            && let Some(reservation) = self.reserve_at_once(wanted)
        {
            return Some(reservation);
        }
        // What nobody can be served from goes first.
        self.ingests.drop_left_over();
        if let Err(error) = self.stored.blobs.drop_set_aside().await {
            tracing::warn!(%error, "damaged blobs that were set aside could not be deleted");
        }
        let (excess, allowed) = self.room.excess(self.taken(), wanted);
        let needed = if let Need::Disk(bytes) = need { bytes.max(excess) } else { excess };
        if wanted.saturating_add(promised) > allowed {
            return None;
        }
        self.stored.write_uses().await;
        let sought = Sought { needed, slack: (allowed / SLACK).min(MOST_SLACK), promised };
        let (held, now, mut read) = (self.holds.all(), self.clock.now(), std::mem::take(&mut *known));
        let planned = self.graph.ask(move |graph| {
            let (victims, owners) = plan(graph, held, &mut read, sought, now)?;
            Ok((victims, owners, read))
        });
        let (victims, owners, read) = planned
            .await
            .inspect_err(|error| tracing::warn!(%error, "nothing can be evicted: what is stored is not known"))
            .ok()?;
        *known = read;
        let freed = size_of(&victims);
        if wanted > 0 && freed < needed {
            tracing::info!(wanted, promised, "what may be evicted makes no room for this");
            return None;
        }
        self.evict(victims, owners).await;
        (wanted > 0).then(|| self.room.reserve(self.taken(), wanted)).flatten()
    }

    async fn evict(&self, victims: Vec<Victim>, mut owners: Owners) {
        let (mut blobs, mut bytes) = (0_u64, 0_u64);
        for Victim { digest, size } in victims {
            let (tags, members) =
                (owners.tags.remove(&digest).unwrap_or_default(), owners.members.remove(&digest).unwrap_or_default());
            // Before the blob: a fill that comes in between writes its membership after this.
            self.stored
                .records
                .take_away("an evicted blob is still in the index", move |metadata| {
                    for (location, tag) in tags {
                        metadata.remove_tag(&location, &tag)?;
                    }
                    for location in members {
                        metadata.remove_member(&location, &digest)?;
                    }
                    metadata.remove_blob(&digest)
                })
                .await;
            match self.stored.blobs.delete(&digest).await {
                Ok(()) => {
                    self.metrics.evicted(size);
                    blobs += 1;
                    bytes += size;
                }
                Err(error) => tracing::warn!(%digest, %error, "a blob was not evicted"),
            }
        }
        if blobs > 0 {
            tracing::info!(blobs, bytes, "evicted to make room");
        }
    }
}

/// How much should go, in bytes.
#[derive(Clone, Copy)]
struct Sought {
    needed: u64,
    slack: u64,
    /// What will be needed later; where that cannot be had nothing goes now.
    promised: u64,
}

/// Decides what goes. Blocks.
fn plan(
    graph: &Graph,
    held: HashSet<Digest>,
    known: &mut Known,
    Sought { needed, slack, promised }: Sought,
    now: Timestamp,
) -> Result<(Vec<Victim>, Owners), MetadataError> {
    if needed == 0 {
        return Ok((Vec::new(), Owners::default()));
    }
    let members = graph.metadata().members()?;
    let stock = stock(graph, &members, held, known)?;
    let in_all = needed.saturating_add(promised);
    if promised > 0 && size_of(&eviction::plan(&stock, in_all, now)) < in_all {
        return Ok((Vec::new(), Owners::default()));
    }
    let victims = eviction::plan(&stock, needed.saturating_add(slack), now);
    let owners = Owners::of(&victims, members, &graph.metadata().tags()?);
    Ok((victims, owners))
}

fn size_of(victims: &[Victim]) -> u64 {
    victims.iter().map(|victim| victim.size).sum()
}

/// What is stored, as eviction sees it. Blocks.
fn stock(
    graph: &Graph,
    members: &[(Location, Descriptor)],
    held: HashSet<Digest>,
    known: &mut Known,
) -> Result<Stock, MetadataError> {
    let mut blobs = graph.metadata().blobs()?;
    let records: HashMap<Digest, BlobRecord> = blobs.iter().copied().collect();
    known.retain(|manifest, _| records.contains_key(manifest));
    let links = graph.links(members, known);
    let roots = graph.roots(None, held)?;
    let (guesses, pinned) = (links.guesses(&roots), links.reach(roots.kept));
    for (manifest, parts) in &guesses {
        // One that is gone holds its image together all the same, until that goes.
        let latest = parts.iter().filter_map(|part| records.get(part)).max_by_key(|record| record.used_at);
        if let Some(latest) = latest.filter(|_| !records.contains_key(manifest)) {
            blobs.push((*manifest, BlobRecord { size: 0, ..*latest }));
        }
    }
    let children = known.iter().map(|(manifest, leads)| (*manifest, Arc::clone(&leads.children)));
    Ok(Stock { children: children.chain(guesses).collect(), blobs, pinned })
}

/// Who knows the blobs that go: tags that point at them, and nowhere else, and repositories.
#[derive(Debug, Default)]
struct Owners {
    tags: HashMap<Digest, Vec<(Location, Tag)>>,
    members: HashMap<Digest, Vec<Location>>,
}

impl Owners {
    fn of(victims: &[Victim], members: Vec<(Location, Descriptor)>, tags: &[(TagKey, TagRecord)]) -> Owners {
        let mut owners = Owners::default();
        let going: HashSet<Digest> = victims.iter().map(|victim| victim.digest).collect();
        for (location, Descriptor { digest, .. }) in members {
            if going.contains(&digest) {
                owners.members.entry(digest).or_default().push(location);
            }
        }
        let goes = |record: &TagRecord| going.contains(&record.descriptor.digest);
        let staying = tags.iter().filter(|(_, record)| !goes(record));
        let staying: HashSet<_> = staying.map(|(TagKey { location, tag, .. }, _)| (location, tag)).collect();
        for (TagKey { location, tag, .. }, record) in tags {
            if !staying.contains(&(location, tag)) {
                owners.tags.entry(record.descriptor.digest).or_default().push((location.clone(), tag.clone()));
            }
        }
        owners
    }
}
