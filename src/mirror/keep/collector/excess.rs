//! What leaves a bucket that holds more than it may: the names of the images that were not used for longest. What they
//! named goes as all does that has no name.
//!
//! As in a store the unit is the image. All that is about to leave is marked first; then a name goes as long as the
//! mark of what it names stands: who brings one of them anew, or another that needs the same, takes the marks away and
//! finds out what has gone meanwhile. Pinned and frozen images stay, also those of which that was said meanwhile, and
//! tagged ones that were used meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use tokio::time::Instant;

use super::{BLOBS, Collector, LAST_LOOKS, LONGEST, Round, Short, digest_in, short};
use crate::clock::Timestamp;
use crate::metadata::names::{self, Name};
use crate::metadata::{BlobRecord, Location, Pin};
use crate::mirror::keep::eviction::{self, Stock};
use crate::oci::manifest::Children;
use crate::oci::{Digest, Reference, Tag};
use crate::tier::Trouble;
use crate::tier::marks::{USED, use_of};

/// Of so much content it is known what leads to what, at less than 200 bytes each.
const MOST: usize = 1_000_000;
/// So much is marked in one round.
const MOST_AT_ONCE: usize = 100_000;
/// What no tag leads to may be an image itself, unless it is larger, in bytes.
const MAYBE_MANIFEST: u64 = 256 << 10;
const AT_ONCE: usize = 16;

/// What names say.
#[derive(Default)]
struct Named {
    /// What repositories have.
    members: HashSet<Short>,
    /// What tags stand for, and the keys that say so.
    tags: Vec<(String, Location, Tag, Digest)>,
    pinned: HashSet<(Location, Tag)>,
    /// What is to stay by its digest.
    kept: HashSet<Digest>,
    /// When content was used, as far as that was told when all was looked at.
    used: HashMap<Short, Timestamp>,
}

/// What is about to leave.
struct Leaving {
    victims: HashSet<Short>,
    /// The repository whose pins were looked at last, and when.
    looked: Option<(Location, Instant)>,
}

impl Collector {
    /// Takes away the names of what is too much, once what has no name is gone.
    pub(super) async fn take_names(&self, round: &mut Round) -> Result<(), Trouble> {
        let excess = (round.bytes - round.freed - round.unnamed).saturating_sub(self.max_size);
        if self.max_size == 0 || excess == 0 {
            return Ok(());
        }
        let Some((stock, named)) = self.stock().await? else {
            let bucket = self.bucket.name();
            tracing::warn!(bucket, most = MOST, "store.bucket.max_size is not kept: there is too much in the bucket");
            return Ok(());
        };
        let now = self.bucket.time().unwrap_or_else(|| self.clock.now());
        let planned = tokio::task::spawn_blocking(move || eviction::plan(&stock, excess, now)).await;
        let planned = planned.unwrap_or_default();
        let kept = excess.saturating_sub(planned.iter().map(|victim| victim.size).sum());
        if kept > 0 {
            let (bucket, max_size) = (self.bucket.name(), self.max_size);
            tracing::warn!(
                bucket,
                max_size,
                beyond = kept,
                "store.bucket.max_size is not kept: what is pinned or frozen is more than that"
            );
        }
        let planned = planned.into_iter().map(|victim| victim.digest);
        let mut leaving = Leaving { victims: planned.take(MOST_AT_ONCE).collect(), looked: None };
        let mut members = self.names();
        while let Some(listed) = members.next().await.transpose()? {
            if let Some(Name::Member(_, digest)) = names::parse(&listed.key)
                && leaving.victims.contains(&short(&digest))
                && self.bucket.mark(&digest).await?.is_none()
            {
                self.write_mark(&digest).await?;
                round.marked += 1;
            }
        }
        // Tags first: none is left without what it stands for.
        for (key, location, tag, digest) in &named.tags {
            if self.is_to_leave(location, digest, &mut leaving, &named).await?
                && self.while_marked(digest, &[key]).await?
            {
                round.names += 1;
                self.leave_no_history(location, tag).await?;
            }
        }
        let mut members = self.names();
        while let Some(listed) = members.next().await.transpose()? {
            if let Some(Name::Member(location, digest)) = names::parse(&listed.key)
                && self.is_to_leave(&location, &digest, &mut leaving, &named).await?
                && self.while_marked(&digest, &[&listed.key]).await?
            {
                round.names += 1;
            }
        }
        Ok(())
    }

    /// Whether this is about to leave still. What was pinned or frozen in its repository since all was looked at, or used by
    /// its tag, stays: that is looked at once more before anything of a repository goes, and again where that takes long.
    async fn is_to_leave(
        &self,
        location: &Location,
        digest: &Digest,
        leaving: &mut Leaving,
        named: &Named,
    ) -> Result<bool, Trouble> {
        if !leaving.victims.contains(&short(digest)) {
            return Ok(false);
        }
        let is_known = |(of, at): &(Location, Instant)| of == location && at.elapsed() < LAST_LOOKS;
        if !leaving.looked.as_ref().is_some_and(is_known) {
            let looked = Instant::now();
            let mut kept = self.kept_meanwhile(location, named).await?;
            kept.extend(self.used_meanwhile(location, leaving, named).await?);
            let mut children = HashMap::new();
            self.follow(kept.clone(), &mut children).await?;
            let led_to = children.values().flat_map(|children| children.iter().copied());
            for kept in kept.iter().map(short).chain(led_to) {
                leaving.victims.remove(&kept);
            }
            leaving.looked = Some((location.clone(), looked));
        }
        Ok(leaving.victims.contains(&short(digest)))
    }

    /// What is pinned or frozen in a repository and was not when all was looked at.
    async fn kept_meanwhile(&self, location: &Location, named: &Named) -> Result<Vec<Digest>, Trouble> {
        let mut kept = Vec::new();
        for folder in names::kept_folders(location) {
            let mut listed = self.bucket.list(&folder);
            while let Some(found) = listed.next().await.transpose()? {
                match names::parse(&found.key) {
                    Some(Name::Pin(Pin { location, reference: Reference::Tag(tag) })) => {
                        let pin = (location, tag);
                        if !named.pinned.contains(&pin) {
                            let of_it = |(_, location, tag, digest): &(String, Location, Tag, Digest)| {
                                (*location == pin.0 && *tag == pin.1).then_some(*digest)
                            };
                            kept.extend(named.tags.iter().filter_map(of_it));
                        }
                    }
                    _ => kept.extend(self.stands_for(&found.key).await?),
                }
            }
        }
        kept.retain(|digest| !named.kept.contains(digest));
        Ok(kept)
    }

    /// What tags of a repository stand for that was about to leave, and was used since uses were looked at: somebody has it
    /// on his disk, and says so.
    async fn used_meanwhile(
        &self,
        location: &Location,
        leaving: &Leaving,
        named: &Named,
    ) -> Result<Vec<Digest>, Trouble> {
        let mut used = Vec::new();
        for (_, of, _, digest) in &named.tags {
            if of == location && leaving.victims.contains(&short(digest)) {
                let told = self.bucket.read(&use_of(digest), LONGEST).await?;
                let before = named.used.get(&short(digest)).copied();
                used.extend(told.filter(|told| Some(told.modified) > before).map(|_| *digest));
            }
        }
        Ok(used)
    }

    /// The history of a tag goes with its last pointer.
    async fn leave_no_history(&self, location: &Location, tag: &Tag) -> Result<(), Trouble> {
        let left = self.bucket.list(&names::tag_folder(location, tag)).take(2).try_collect::<Vec<_>>().await?;
        if let [history] = left.as_slice()
            && names::accept_of(&history.key).is_none()
        {
            self.bucket.remove(&history.key).await?;
        }
        Ok(())
    }

    /// All that has a name, and what leads to what; `None` where that is more than can be known.
    async fn stock(&self) -> Result<Option<(Stock<Short>, Named)>, Trouble> {
        let mut named = self.named().await?;
        if named.members.len() > MOST || named.tags.len() > MOST {
            return Ok(None);
        }
        let (mut blobs, mut small) = (HashMap::<Short, BlobRecord>::new(), Vec::new());
        let mut listed = self.bucket.list(BLOBS);
        while let Some(found) = listed.next().await.transpose()? {
            let Some(digest) = digest_in(&found.key, BLOBS) else { continue };
            if named.members.contains(&short(&digest)) {
                blobs.insert(short(&digest), BlobRecord::new(found.size, found.modified));
                small.extend((found.size <= MAYBE_MANIFEST).then_some(digest));
            }
        }
        let mut uses = self.bucket.list(USED);
        while let Some(found) = uses.next().await.transpose()? {
            let used = digest_in(&found.key, USED).map(|digest| short(&digest));
            if let Some((used, record)) = used.and_then(|used| Some((used, blobs.get_mut(&used)?))) {
                record.used_at = record.used_at.max(found.modified);
                named.used.insert(used, found.modified);
            }
        }
        let is_pinned = |location: &Location, tag: &Tag| named.pinned.contains(&(location.clone(), tag.clone()));
        let pinned = named.tags.iter().filter(|(_, location, tag, _)| is_pinned(location, tag));
        let pinned: HashSet<Digest> = pinned.map(|(.., digest)| *digest).chain(named.kept.iter().copied()).collect();
        let roots = named.tags.iter().map(|(.., digest)| *digest).chain(pinned.iter().copied()).collect();
        let mut children = HashMap::new();
        self.follow(roots, &mut children).await?;
        let led_to: HashSet<Short> =
            children.values().flat_map(|children: &Arc<[Short]>| children.iter().copied()).collect();
        small.retain(|digest| !led_to.contains(&short(digest)) && !children.contains_key(&short(digest)));
        self.follow(small, &mut children).await?;
        let pinned = pinned.iter().map(short).collect();
        Ok(Some((Stock { blobs: blobs.into_iter().collect(), children, pinned }, named)))
    }

    async fn named(&self) -> Result<Named, Trouble> {
        let (mut named, mut all) = (Named::default(), self.names());
        while let Some(listed) = all.next().await.transpose()? {
            match names::parse(&listed.key) {
                Some(Name::Member(_, digest)) => drop(named.members.insert(short(&digest))),
                Some(Name::Tag(key)) => {
                    let stands_for = self.stands_for(&listed.key).await?;
                    named.tags.extend(stands_for.map(|digest| (listed.key, key.location, key.tag, digest)));
                }
                Some(Name::Frozen(..)) => named.kept.extend(self.stands_for(&listed.key).await?),
                Some(Name::Pin(pin)) => match pin.reference {
                    Reference::Tag(tag) => drop(named.pinned.insert((pin.location, tag))),
                    Reference::Digest(digest) => drop(named.kept.insert(digest)),
                },
                Some(Name::History(..) | Name::Note(_) | Name::List(..)) | None => {}
            }
            if named.members.len() > MOST || named.tags.len() > MOST {
                break;
            }
        }
        Ok(named)
    }

    /// Reads manifests, and those that they lead to. What is none leads nowhere.
    async fn follow(&self, roots: Vec<Digest>, known: &mut HashMap<Short, Arc<[Short]>>) -> Result<(), Trouble> {
        let mut open: HashSet<Digest> = roots.into_iter().collect();
        while !open.is_empty() {
            let reads = std::mem::take(&mut open).into_iter().filter(|digest| !known.contains_key(&short(digest)));
            let reads: Vec<_> =
                reads.map(|digest| async move { Ok((digest, self.leads_to(&digest).await?)) }).collect();
            let mut read = stream::iter(reads).buffer_unordered(AT_ONCE);
            while let Some(found) = read.next().await {
                let (digest, Children { manifests, blobs, .. }) = found?;
                let all = manifests.iter().map(|(child, _)| child).chain(&blobs).map(|child| short(&child.digest));
                known.insert(short(&digest), all.collect());
                open.extend(manifests.into_iter().map(|(child, _)| child.digest));
            }
        }
        Ok(())
    }
}
