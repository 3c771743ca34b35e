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
use crate::metadata::{BLOCK, BlobRecord, Location, MetadataError, Note, Pin, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::keep::RoomKeeper;
use crate::mirror::keep::eviction::{self, Stock, Victim};
use crate::mirror::room::{Allowed, Reservation, Taken};
use crate::oci::{Descriptor, Digest, Reference, Tag};

/// How often it is checked whether there is too much in the store, and how soon after the last time when names were added.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_SOON: Duration = Duration::from_millis(250);
/// How long a fill waits for others to leave before it is passed through.
const PATIENCE: Duration = Duration::from_secs(10);
/// One part in so many is evicted beyond what is needed, so that not every fill has to.
const SLACK: u64 = 50;
/// The slack is never more than this, in bytes.
const MOST_SLACK: u64 = 8 << 30;

/// How long it is told that something was not kept, in milliseconds.
const LATELY: u64 = 3_600_000;
/// A store that has no room for so many bytes keeps nothing that counts.
const LITTLE: u64 = 1 << 20;

/// What was passed on, and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unkept {
    /// So many bytes.
    pub(crate) bytes: u64,
    /// Whether anything else would not be kept either.
    pub(crate) is_all: bool,
}

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
    pub fn keep_room(&self) -> impl Future<Output = ()> + Send + use<> {
        let keeper = Arc::clone(&self.0.room);
        async move {
            loop {
                if !keeper.fits(0) {
                    keeper.make_room(Need::Excess).await;
                }
                keeper.metrics.promised(keeper.room.promised());
                // Names reserve nothing: what they take shows when they are there.
                let grown = async {
                    tokio::time::sleep(LOOK_SOON).await;
                    keeper.stored.records.have_grown().await;
                };
                let _ = tokio::time::timeout(LOOK_EVERY, grown).await;
            }
        }
    }
}

impl RoomKeeper {
    /// How many bytes more the store could take, if all that may go went.
    pub(crate) fn most_room(&self) -> u64 {
        self.room.excess(self.taken(), 0).1.bytes
    }

    /// What was not kept lately for want of room, and would not be now.
    pub(crate) fn unkept(&self) -> Option<Unkept> {
        let (refused, bytes) = self.room.refused()?;
        let is_lately = self.clock.now().0.saturating_sub(refused.0) < LATELY;
        (is_lately && !self.fits(bytes)).then(|| Unkept { bytes, is_all: !self.fits(LITTLE) })
    }

    /// Does something while nothing is evicted or collected.
    pub(crate) async fn while_nothing_goes(&self, work: impl FnOnce()) {
        let _making_room = self.room.one_at_a_time().await;
        work();
    }

    /// Bytes on disk that count: blobs by the blocks that they take, also deleted ones that somebody reads still, what
    /// was set aside or is left over, and names with their index.
    fn taken(&self) -> Taken {
        let (blobs, names) = (&self.stored.blobs, self.graph.metadata().names());
        let (usage, besides) = (blobs.usage(), blobs.rounding() + blobs.lingering());
        let ingests = self.ingests.left_over() + self.ingests.lingering();
        let content = [usage.bytes, usage.set_aside, besides, ingests, names.bytes].iter().sum();
        Taken { content, index: names.index }
    }

    /// Whether `bytes` more fit into the store as it is.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        let (excess, allowed) = self.room.excess(self.taken(), bytes);
        excess == 0 && allowed.inodes_short == 0
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
        self.room.refuse(self.clock.now(), bytes);
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
        let (is_fill, wanted, promised) = match need {
            Need::Fill(bytes, promised) => (true, bytes, promised),
            Need::Disk(_) | Need::Excess => (false, 0, 0),
        };
        // Somebody else may have made room while we waited.
        if is_fill && let Some(reservation) = self.reserve_at_once(wanted) {
            return Some(reservation);
        }
        // What nobody can be served from goes first.
        self.ingests.drop_left_over();
        if let Err(error) = self.stored.blobs.drop_set_aside().await {
            tracing::warn!(%error, "damaged blobs that were set aside could not be deleted");
        }
        let (_, Allowed { bytes: allowed, .. }) = self.room.excess(self.taken(), wanted);
        if wanted.saturating_add(promised) > allowed {
            return None;
        }
        let few = allowed / LISTS_SHARE;
        self.stored.records.take_away("lists take too much room", move |metadata| metadata.shrink_lists(few)).await;
        let (excess, Allowed { inodes_short, .. }) = self.room.excess(self.taken(), wanted);
        let needed = if let Need::Disk(bytes) = need { bytes.max(excess) } else { excess };
        self.stored.write_uses().await;
        let slack = (allowed / SLACK).min(MOST_SLACK);
        let sought = Sought { needed, slack, promised, inodes: inodes_short, in_vain: !is_fill };
        let (held, now, mut read) = (self.holds.all(), self.clock.now(), std::mem::take(&mut *known));
        let reading = self.stored.blobs.reading();
        let planned = self.graph.ask(move |graph| {
            let (victims, owners) = plan(graph, held, reading, &mut read, sought, now)?;
            Ok((victims, owners, read))
        });
        let (victims, owners, read) = planned
            .await
            .inspect_err(|error| tracing::warn!(%error, "nothing can be evicted: what is stored is not known"))
            .ok()?;
        *known = read;
        if is_fill && size_of(&victims) < needed {
            tracing::info!(wanted, promised, "what may be evicted makes no room for this");
            return None;
        }
        self.evict(victims, owners).await;
        if is_fill { self.room.reserve(self.taken(), wanted) } else { None }
    }

    async fn evict(&self, victims: Vec<Victim>, mut owners: Owners) {
        let (mut blobs, mut bytes) = (0_u64, 0_u64);
        let places: HashSet<Location> = owners.members.values().flatten().cloned().collect();
        for Victim { digest, .. } in victims {
            let size = owners.sizes.get(&digest).copied().unwrap_or_default();
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
        self.leave(Some(places)).await;
    }

    /// Has what belonged to what is gone from these repositories, or from any, go with it: histories of tags of which nothing is
    /// stored any more, unless somebody holds on to them, and all that is about repositories of which nothing is.
    pub(super) async fn leave(&self, places: Option<HashSet<Location>>) {
        let left = self.graph.ask(move |graph| {
            let metadata = graph.metadata();
            let pins: HashSet<Pin> = metadata.pins()?.into_iter().collect();
            let members = metadata.members(None)?;
            let kept: HashSet<&Location> = members.iter().map(|(location, _)| location).collect();
            let all = || metadata.repositories().map(|all| all.into_iter().collect());
            for location in &places.map_or_else(all, Ok)? {
                metadata.retain_histories(location, &|tag, history| {
                    let pin = Pin { location: location.clone(), reference: Reference::Tag(tag.clone()) };
                    // Where that is not known, it stays.
                    let is_held = pins.contains(&pin) || metadata.frozen(location, tag).map_or(true, |to| to.is_some());
                    is_held || history.iter().any(|entry| graph.has(&entry.digest))
                })?;
                if !kept.contains(location) {
                    metadata.remove_lists(location, None)?;
                    metadata.note(location, Note::Public, None)?;
                }
            }
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::warn!(%error, "what belonged to evicted images is still there");
        }
    }
}

/// Lists take no more than one part in so many of what the store may hold, when room is needed.
const LISTS_SHARE: u64 = 16;

/// How much should go, in bytes.
#[derive(Clone, Copy)]
struct Sought {
    needed: u64,
    slack: u64,
    /// What will be needed later; where that cannot be had nothing goes now.
    promised: u64,
    /// So many files and folders should go, whatever they take.
    inodes: u64,
    /// Whether blobs go that somebody reads, too: nothing else may be left, and their room is free when he leaves.
    in_vain: bool,
}

/// Decides what goes. Blocks.
fn plan(
    graph: &Graph,
    held: HashSet<Digest>,
    reading: HashSet<Digest>,
    known: &mut Known,
    Sought { needed, slack, promised, inodes, in_vain }: Sought,
    now: Timestamp,
) -> Result<(Vec<Victim>, Owners), MetadataError> {
    if needed == 0 && inodes == 0 {
        return Ok((Vec::new(), Owners::default()));
    }
    let (members, tags) = (graph.metadata().members(None)?, graph.metadata().tags()?);
    let mut stock = stock(graph, &members, held, known)?;
    let sizes = stock.blobs.iter().map(|(digest, record)| (*digest, record.size)).collect();
    let names = weigh_names(&members, &tags);
    // Those who are short of names count them, the others bytes.
    for (digest, record) in &mut stock.blobs {
        let names = names.get(digest).copied().unwrap_or_default();
        record.size = names + if inodes > 0 { BLOCK } else { record.size.next_multiple_of(BLOCK) };
    }
    let needed = if inodes > 0 { inodes.saturating_mul(BLOCK) } else { needed };
    let in_all = needed.saturating_add(promised);
    let unread = Stock { pinned: &stock.pinned | &reading, ..stock.clone() };
    let mut victims = eviction::plan(&unread, needed.saturating_add(slack), now);
    if promised > 0 && size_of(&eviction::plan(&unread, in_all, now)) < in_all {
        victims.clear();
    } else if in_vain && size_of(&victims) < needed {
        victims = eviction::plan(&stock, needed.saturating_add(slack), now);
    }
    let owners = Owners { sizes, ..Owners::of(&victims, members, &tags) };
    Ok((victims, owners))
}

/// What goes with each blob besides its bytes, about: its memberships, what points at it, and its part of what its
/// repositories take.
fn weigh_names(members: &[(Location, Descriptor)], tags: &[(TagKey, TagRecord)]) -> HashMap<Digest, u64> {
    let (mut weights, mut places) = (HashMap::new(), HashMap::<&Location, u64>::new());
    for (location, _) in members {
        *places.entry(location).or_default() += 1;
    }
    for (location, Descriptor { digest, .. }) in members {
        // The folders of the name, and those of its links and tags.
        let folders = location.repository.as_str().split('/').count() as u64 + 3;
        *weights.entry(*digest).or_default() += BLOCK + BLOCK * folders / places[location];
    }
    for (_, record) in tags {
        // A folder, a pointer, a history.
        *weights.entry(record.descriptor.digest).or_default() += 3 * BLOCK;
    }
    weights
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
    /// Of all blobs, in bytes.
    sizes: HashMap<Digest, u64>,
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
