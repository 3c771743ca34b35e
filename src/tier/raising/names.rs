//! How a name goes up: with what others wrote under it meanwhile, and followed by what it leads to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::super::inventory::Lost;
use super::super::merge::merge;
use super::super::{Conditional, Trouble, record};
use super::{Raising, Went};
use crate::blob_store::key_of;
use crate::metadata::names::{self, Name};
use crate::metadata::{Location, Membership, TagKey, TagRecord};
use crate::oci::manifest::{Children, MAX_MANIFEST_SIZE, is_manifest};
use crate::oci::{Descriptor, Digest, Manifest, Tag};
use crate::small_file::{self, InTheWay};

/// No small object is longer, in bytes.
pub(super) const MOST: u64 = 2 << 20;
const UNREAD: &str = "what it says cannot be read";
/// How often it is looked whether all that a tag leads to is there, when its pointer goes up, and for how many.
const LOOK_AT_ALL: Duration = Duration::from_secs(6 * 60 * 60);
const MOST_WHOLE: usize = 10_000;
/// So much comes along with a tag at most.
const MOST_ALONG: usize = 2_000;
/// How often a small object is merged anew because another replica was faster.
const TRIES: usize = 8;

/// A name's repository, what it stands for, and the tag where it is one of a tag.
type All<'a> = (&'a Location, &'a Descriptor, Option<&'a Tag>);

/// What came of it that others may have written it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merged {
    /// There was nothing.
    Created,
    /// There was something else.
    Replaced,
    /// What was there stands.
    Stands,
}

impl Raising {
    /// A name, and that what it names is there. Where it has `rested`, a collector may have taken it meanwhile, and what
    /// it leads to.
    pub(super) async fn small(&self, key: &str, rested: bool) -> Result<Went, Trouble> {
        let Some(name) = names::parse(key) else { return Ok(Went::Up) };
        let Some(mine) = self.recorded(key, &name).await? else { return Ok(Went::Up) };
        let unread = || Trouble::Unfit(UNREAD.to_owned());
        let mine = record::of(&name, mine).ok_or_else(unread)?;
        let (location, descriptor, tag) = match name {
            Name::Tag(TagKey { location, tag, .. }) => {
                (location, read::<TagRecord>(&mine).map(|of| of.descriptor), Some(tag))
            }
            Name::Member(location, _) => (location, read::<Membership>(&mine).map(|of| of.descriptor), None),
            // It goes with the last pointer of its tag, and comes again with the next one.
            Name::History(..) if self.bucket.is_going(key).await? => return Ok(Went::Rests),
            _ => return self.merged(key, &mine).await.map(|_| Went::Up),
        };
        let (descriptor, tag) = (descriptor.ok_or_else(unread)?, tag.as_ref());
        let all = (&location, &descriptor, tag);
        if self.is_going(key, all, rested).await? || !self.has_its_content(all, rested).await? {
            return Ok(Went::Rests);
        }
        let merged = self.merged(key, &mine).await?;
        // What saves a pointer is what it says now: it may have gone for what it said.
        if merged != Merged::Stands
            && tag.is_some()
            && (self.bucket.is_going(key).await? || self.bucket.read(key, MOST).await?.is_none())
        {
            return Ok(Went::Rests);
        }
        let is_new_tag = tag.is_some() && merged == Merged::Created;
        let is_of_image = tag.is_some() || merged != Merged::Created && !descriptor.is_of_blob();
        let is_time = is_of_image && self.is_time_for_all_of(&descriptor.digest);
        if rested || is_new_tag || is_time {
            self.bring_along(all).await;
        }
        Ok(Went::Up)
    }

    /// Whether a collector takes this name, or what it names, just now. What it leads to is likely to go as well: that is
    /// owed before the mark goes that says so.
    async fn is_going(&self, key: &str, all: All<'_>, rested: bool) -> Result<bool, Trouble> {
        let digest = &all.1.digest;
        let is_marked = self.bucket.mark(digest).await?.is_some();
        if is_marked {
            self.bring_along(all).await;
            self.bucket.spare(digest).await?;
        }
        let is_going = self.bucket.is_going(&key_of(digest)).await? || self.bucket.is_going(key).await?;
        if is_going && !is_marked && !rested {
            self.bring_along(all).await;
        }
        Ok(is_going)
    }

    /// Whether the name may go up: what it names is in the bucket, goes up beside it, or cannot go up. Where a collector
    /// has taken that, it goes up first.
    async fn has_its_content(&self, (_, descriptor, tag): All<'_>, rested: bool) -> Result<bool, Trouble> {
        let (blob, digest) = (key_of(&descriptor.digest), &descriptor.digest);
        let is_here = self.blobs.open(digest).await.is_some();
        if !(is_here && self.owed.is_owed(&blob)) && self.bucket.stat(digest).await?.is_none() {
            let (blobs, of) = (Arc::clone(&self.blobs), *digest);
            let flaw = tokio::task::spawn_blocking(move || blobs.flaw(&of)).await;
            match (is_here, flaw.unwrap_or_default()) {
                (true, _) => self.owed.up(&blob),
                (false, Some(flaw)) => self.is_lost(&blob, flaw.into()),
                // Of what a tag stands for it may be that only its digest was ever asked for.
                (false, None) if tag.is_none() => self.is_lost(&blob, Lost::Missing),
                (false, None) => {}
            }
        }
        let goes_first = rested && is_here && self.owed.is_owed(&blob);
        Ok(!goes_first || self.going.lock().is_refused(&blob))
    }

    /// Whether it is time to look whether all that a tag leads to is there still: a store may lose what it had.
    fn is_time_for_all_of(&self, digest: &Digest) -> bool {
        let (mut whole, now) = (self.whole.lock(), Instant::now());
        if whole.len() >= MOST_WHOLE {
            whole.retain(|_, looked| now.duration_since(*looked) < LOOK_AT_ALL);
        }
        let is_due = whole.get(digest).is_none_or(|looked| now.duration_since(*looked) >= LOOK_AT_ALL);
        if is_due && whole.len() < MOST_WHOLE {
            whole.insert(*digest, now);
        }
        is_due
    }

    /// What is in the small file of this name; `None` where there is none any more, or it is closed to us.
    pub(super) async fn recorded(&self, key: &str, name: &Name) -> Result<Option<Vec<u8>>, Trouble> {
        let (store, file, longest) = (self.store.clone(), key.to_owned(), record::longest(name, MOST));
        let read = tokio::task::spawn_blocking(move || small_file::read_below(&store, &file, longest));
        let Ok(read) = read.await else { return Ok(None) };
        let error = match read {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) => error,
        };
        if let Some(it) = InTheWay::in_error(&error) {
            let path = it.path.strip_prefix(&self.store).unwrap_or(&it.path).to_owned();
            let it = InTheWay { path, ..it.clone() };
            tracing::error!(key, %it, "it does not go up into the bucket");
            self.is_lost(key, Lost::InTheWay(it));
            return Ok(None);
        }
        match error.kind() {
            std::io::ErrorKind::NotFound => {}
            std::io::ErrorKind::FileTooLarge => {
                return Err(Trouble::Unfit(format!("it is longer than {longest} bytes")));
            }
            _ => self.is_closed(key, error.to_string()),
        }
        Ok(None)
    }

    pub(super) fn is_closed(&self, key: &str, why: String) {
        tracing::error!(key, why, "it cannot be read, and does not go up into the bucket");
        self.is_lost(key, Lost::Closed(why));
    }

    /// Where a tag was not, or content was about to leave, or nobody has looked for long, what that leads to may have left
    /// the bucket, and the history of the tag.
    async fn bring_along(&self, (location, top, tag): All<'_>) {
        for digest in self.all_of(top.clone()).await {
            self.owed.up(&key_of(&digest));
            self.owed.up(&names::member(location, &digest));
        }
        tag.into_iter().for_each(|tag| self.owed.up(&names::history(location, tag)));
    }

    /// It and all that it leads to, as far as that is here.
    pub(super) async fn all_of(&self, top: Descriptor) -> Vec<Digest> {
        let (mut open, mut seen, mut here) = (vec![top], HashSet::new(), Vec::new());
        while let Some(descriptor) = open.pop().filter(|_| seen.len() < MOST_ALONG) {
            let digest = descriptor.digest;
            if !seen.insert(digest) {
                continue;
            }
            let Some(content) = self.blobs.open(&digest).await else { continue };
            here.push(digest);
            if is_manifest(&descriptor.media_type) && content.size <= MAX_MANIFEST_SIZE {
                let read = tokio::task::spawn_blocking(move || content.read_at(0, MAX_MANIFEST_SIZE as usize));
                let Ok(Ok(bytes)) = read.await else { continue };
                let Children { manifests, blobs, .. } = Manifest { descriptor, bytes }.children();
                open.extend(manifests.into_iter().map(|(child, _)| child).chain(blobs));
            }
        }
        here
    }

    /// Takes up what is there and writes what stands then.
    async fn merged(&self, key: &str, mine: &Bytes) -> Result<Merged, Trouble> {
        let conditional = self.going.lock().conditional;
        for _ in 0..TRIES {
            let theirs = self.bucket.read(key, MOST).await?;
            let merged = if theirs.is_none() { Merged::Created } else { Merged::Replaced };
            let written = match theirs {
                None if conditional.is_some_and(Conditional::creates) => self.bucket.create(key, mine.clone()).await,
                None => self.bucket.write(key, mine.clone()).await,
                Some(theirs) => match (merge(key, mine, &theirs.bytes, self.bucket.time()), theirs.version) {
                    (None, _) => return Ok(Merged::Stands),
                    (Some(both), Some(version)) if conditional == Some(Conditional::Right) => {
                        self.bucket.replace(key, both, &version).await
                    }
                    (Some(both), _) => self.bucket.write(key, both).await,
                },
            };
            match written {
                Err(Trouble::Changed) => {}
                written => return written.map(|()| merged),
            }
        }
        Err(Trouble::Refused("others write it all the time".to_owned()))
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
