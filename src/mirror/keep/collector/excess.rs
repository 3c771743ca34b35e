//! What leaves a bucket that holds more than it may: the names of the images that were not used for longest. What they
//! named goes as all does that has no name.
//!
//! As in a store the unit is the image. All that is about to leave is marked first; then names are claimed, some of a
//! repository at a time, and one goes as long as the mark of what it names stands: who brings one of them anew, or another
//! that needs the same, takes the marks away and finds out what has gone meanwhile. What is pinned and frozen is looked at
//! once more when they are claimed, as is what was used, and what a tag stands for. The history of a tag goes with its last
//! pointer, unless the tag is pinned or frozen.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use tokio::time::Instant;

use super::taking::AT_A_TIME;
use super::{AT_ONCE, BLOBS, Collector, LONGEST, Round, Short, digest_in, short};
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
/// What was used in a repository is looked at once more, so often.
const LOOK_AT_USES: Duration = Duration::from_secs(30);

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
    /// The repository whose uses were looked at last, and when.
    looked: Option<(Location, Instant)>,
}

/// A name of a repository that is about to leave.
struct Leaver {
    key: String,
    digest: Digest,
    /// Where it is a pointer.
    tag: Option<Tag>,
}

impl Collector {
    /// Takes away the names of what is too much, once what has no name is gone.
    pub(super) async fn take_names(&self, round: &mut Round) -> Result<(), Trouble> {
        if self.max_size == 0 {
            return Ok(());
        }
        let content = round.bytes - round.freed - round.unnamed;
        let excess = (content + self.bytes_of_small_objects().await?).saturating_sub(self.max_size);
        if excess == 0 {
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
        for of_repository in named.tags.chunk_by(|(_, one, ..), (_, other, ..)| one == other) {
            for some in of_repository.chunks(AT_A_TIME) {
                let leavers = some.iter().map(|(key, _, tag, digest)| Leaver {
                    key: key.clone(),
                    digest: *digest,
                    tag: Some(tag.clone()),
                });
                round.names += self.take_some(&some[0].1, leavers.collect(), &mut leaving, &named).await?;
            }
        }
        let (mut members, mut some, mut of) = (self.names(), Vec::new(), None);
        while let Some(listed) = members.next().await.transpose()? {
            let Some(Name::Member(location, digest)) = names::parse(&listed.key) else { continue };
            if !leaving.victims.contains(&short(&digest)) {
                continue;
            }
            let is_full = some.len() >= AT_A_TIME || of.as_ref().is_some_and(|of| *of != location);
            if let Some(of) = of.replace(location).filter(|_| is_full) {
                round.names += self.take_some(&of, std::mem::take(&mut some), &mut leaving, &named).await?;
            }
            some.push(Leaver { key: listed.key, digest, tag: None });
        }
        if let Some(of) = of {
            round.names += self.take_some(&of, some, &mut leaving, &named).await?;
        }
        Ok(())
    }

    /// The size of all that is no content, in bytes.
    async fn bytes_of_small_objects(&self) -> Result<u64, Trouble> {
        let (mut bytes, mut all) = (0, self.bucket.list(""));
        while let Some(listed) = all.next().await.transpose()? {
            bytes += if digest_in(&listed.key, BLOBS).is_none() { listed.size } else { 0 };
        }
        Ok(bytes)
    }

    /// Takes those names of a repository away that are about to leave still; how many.
    async fn take_some(
        &self,
        location: &Location,
        mut some: Vec<Leaver>,
        leaving: &mut Leaving,
        named: &Named,
    ) -> Result<u64, Trouble> {
        some.retain(|leaver| leaving.victims.contains(&short(&leaver.digest)));
        if some.is_empty() {
            return Ok(0);
        }
        let is_known = |(of, at): &(Location, Instant)| of == location && at.elapsed() < LOOK_AT_USES;
        if !leaving.looked.as_ref().is_some_and(is_known) {
            let looked = Instant::now();
            let used = self.used_meanwhile(location, leaving, named).await?;
            self.stay(used, leaving).await?;
            leaving.looked = Some((location.clone(), looked));
        }
        let tags: HashSet<Tag> = some.iter().filter_map(|leaver| leaver.tag.clone()).collect();
        let histories = tags.iter().map(|tag| names::history(location, tag));
        let mut claimed = self.claim(some.iter().map(|leaver| leaver.key.clone()).chain(histories).collect()).await?;
        let (kept, kept_tags) = self.kept_now(location, named).await?;
        self.stay(kept, leaving).await?;
        let (mut taken, mut without) = (0, HashSet::new());
        for Leaver { key, digest, tag } in some {
            let known = named.used.get(&short(&digest)).copied().unwrap_or(Timestamp(0));
            let is_to_go = leaving.victims.contains(&short(&digest))
                && claimed.has(&key)
                && self.is_spared_by_nobody(&digest, Some(known)).await?
                && (tag.is_none() || self.stands_for(&key).await? == Some(digest));
            if is_to_go && claimed.take(&key).await? {
                taken += 1;
                without.extend(tag);
            }
        }
        for tag in without.difference(&kept_tags) {
            let left = self.bucket.list(&names::tag_folder(location, tag)).take(2).try_collect::<Vec<_>>().await?;
            if let [history] = left.as_slice()
                && names::accept_of(&history.key).is_none()
            {
                claimed.take(&history.key).await?;
            }
        }
        claimed.let_go().await?;
        Ok(taken)
    }

    /// These stay, and all that they lead to.
    async fn stay(&self, kept: Vec<Digest>, leaving: &mut Leaving) -> Result<(), Trouble> {
        let mut children = HashMap::new();
        self.follow(kept.clone(), &mut children).await?;
        let led_to = children.values().flat_map(|children| children.iter().copied());
        for kept in kept.iter().map(short).chain(led_to) {
            leaving.victims.remove(&kept);
        }
        Ok(())
    }

    /// What is pinned or frozen in a repository now and was not when all was looked at, and the tags of which that is said.
    async fn kept_now(&self, location: &Location, named: &Named) -> Result<(Vec<Digest>, HashSet<Tag>), Trouble> {
        let (mut kept, mut tags) = (Vec::new(), HashSet::new());
        for folder in names::kept_folders(location) {
            let mut listed = self.bucket.list(&folder);
            while let Some(found) = listed.next().await.transpose()? {
                match names::parse(&found.key) {
                    Some(Name::Pin(Pin { location, reference: Reference::Tag(tag) })) => {
                        if !named.pinned.contains(&(location.clone(), tag.clone())) {
                            kept.extend(self.of_tag(&location, &tag).await?);
                        }
                        tags.insert(tag);
                    }
                    Some(Name::Frozen(_, tag)) => {
                        kept.extend(self.stands_for(&found.key).await?);
                        tags.insert(tag);
                    }
                    _ => kept.extend(self.stands_for(&found.key).await?),
                }
            }
        }
        kept.retain(|digest| !named.kept.contains(digest));
        Ok((kept, tags))
    }

    /// What the pointers of a tag stand for now.
    async fn of_tag(&self, location: &Location, tag: &Tag) -> Result<Vec<Digest>, Trouble> {
        let (mut found, mut listed) = (Vec::new(), self.bucket.list(&names::tag_folder(location, tag)));
        while let Some(pointer) = listed.next().await.transpose()? {
            found.extend(self.stands_for(&pointer.key).await?);
        }
        Ok(found)
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

    /// All that has a name, and what leads to what; `None` where that is more than can be known.
    async fn stock(&self) -> Result<Option<(Stock<Short>, Named)>, Trouble> {
        let mut named = self.named().await?;
        if named.members.len() > MOST || named.tags.len() > MOST {
            return Ok(None);
        }
        let (mut blobs, mut small) = (HashMap::<Short, BlobRecord>::new(), Vec::new());
        let mut listed = self.bucket.list_in_order(BLOBS);
        while let Some(found) = listed.next().await.transpose()? {
            let Some(digest) = digest_in(&found.key, BLOBS) else { continue };
            if named.members.contains(&short(&digest)) {
                blobs.insert(short(&digest), BlobRecord::new(found.size, found.modified));
                small.extend((found.size <= MAYBE_MANIFEST).then_some(digest));
            }
        }
        let mut uses = self.bucket.list_in_order(USED);
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
