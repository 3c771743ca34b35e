//! What operators ask for, which all replicas are to know: images to keep, tags to hold still, images to forget.
//!
//! It is told to the bucket before it is done here, and taken over from there now and again. Truth: what is so here and
//! not told yet is never undone because the bucket does not know of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::{LONGEST, Shared};
use crate::metadata::names::{self, Name};
use crate::metadata::{FrozenTag, Location, MetadataError, MetadataStore, Pin};
use crate::oci::{Digest, Reference, Tag};
use crate::owed::Quiet;
use crate::tier::{Bucket, Listed, Pace, Trouble};

/// So many of what was asked for here are looked at once more at a time.
const MOST_AGAIN: usize = 100;
/// For so many kinds of clients it is told that a tag is forgotten.
const MOST_TOLD: usize = 10_000;
/// So much is asked of the bucket at a time.
const AT_ONCE: usize = 8;
/// How long it is waited for a collector that takes what is to be kept, and how often it is looked.
const GOING_AT_MOST: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Shared {
    /// Takes over what operators asked for on other replicas about a tag: that it is frozen or pinned, or no longer is;
    /// at most once in [`Shared::LATELY`].
    pub(crate) async fn recall_acts_of(&self, location: &Location, tag: &Tag) {
        let key = (location.clone(), tag.clone());
        if self.acts_are_known(&key) {
            return;
        }
        let pin = Pin { location: location.clone(), reference: Reference::Tag(tag.clone()) };
        let (frozen, pinned) = tokio::join!(self.recall_frozen(location, tag), self.recall_pin(&pin));
        if frozen && pinned {
            self.acts.insert(key, self.clock.now());
        }
    }

    /// The same, behind who asks.
    pub(crate) fn recall_acts_behind(self: &Arc<Self>, location: &Location, tag: &Tag) {
        let key = (location.clone(), tag.clone());
        if self.acts_are_known(&key) {
            return;
        }
        self.acts.insert(key.clone(), self.clock.now());
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let ((location, tag), pin) =
                (&key, Pin { location: key.0.clone(), reference: Reference::Tag(key.1.clone()) });
            tokio::join!(shared.recall_frozen(location, tag), shared.recall_pin(&pin));
        });
    }

    /// Whether they were looked up lately, or cannot be.
    fn acts_are_known(&self, key: &(Location, Tag)) -> bool {
        let age = self.acts.get(key).and_then(|at| at.age(self.clock.now()));
        age.is_some_and(|age| age < Shared::LATELY) || !self.bucket.is_well()
    }

    /// Whether it is known now. That nothing in the bucket says so counts once all that was asked for before there was
    /// a bucket is on its way there.
    async fn recall_frozen(&self, location: &Location, tag: &Tag) -> bool {
        let name = names::frozen(location, tag);
        let Some(there) = self.small::<Digest>(&name).await else { return false };
        let here = self.metadata.frozen(location, tag).ok().flatten();
        if here == there || self.is_told(&name, there.is_some()) {
            return true;
        }
        let (location, tag) = (location.clone(), tag.clone());
        self.take_over(&name, move |metadata| match there {
            Some(digest) => metadata.freeze(&FrozenTag { location, tag, digest }),
            None => metadata.unfreeze(&location, &tag).map(drop),
        })
        .await
    }

    async fn recall_pin(&self, pin: &Pin) -> bool {
        let name = names::pin(pin);
        let Some(there) = self.small::<String>(&name).await else { return false };
        let (is_there, pin) = (there.is_some(), pin.clone());
        let change = move |metadata: &dyn MetadataStore| {
            if is_there { metadata.pin(&pin) } else { metadata.unpin(&pin).map(drop) }
        };
        self.is_told(&name, is_there) || self.take_over(&name, change).await
    }

    /// Whether what is so here is what others are to know.
    fn is_told(&self, name: &str, is_there: bool) -> bool {
        self.owed.is_owed(name) || !is_there && !self.owed.is_complete(&self.bucket.place())
    }

    /// Takes over what operators asked for on other replicas. Lists all names: once, at a start.
    pub(crate) async fn recall_acts(&self) -> Result<(), Trouble> {
        let mut names = self.bucket.list(names::REPOSITORIES);
        while let Some(listed) = names.next().await.transpose()? {
            if let Some(act @ (Name::Pin(_) | Name::Frozen(..))) = names::parse(&listed.key) {
                self.recall_act(act).await;
            }
        }
        Ok(())
    }

    /// Takes over what one of them says; whether it is known now. Of other names nothing is.
    pub(crate) async fn recall_act(&self, act: Name) -> bool {
        match act {
            Name::Pin(pin) => self.recall_pin(&pin).await,
            Name::Frozen(location, tag) => self.recall_frozen(&location, &tag).await,
            _ => false,
        }
    }

    /// Whether what was asked for here still counts, for so many of `acts`; where there are none left, they are looked
    /// up first.
    pub(crate) async fn recall_again(&self, acts: &mut Vec<Name>) {
        if acts.is_empty() {
            let metadata = Arc::clone(&self.metadata);
            let known = tokio::task::spawn_blocking(move || {
                let frozen = metadata.frozen_tags()?.into_iter().map(|of| Name::Frozen(of.location, of.tag));
                Ok::<_, MetadataError>(metadata.pins()?.into_iter().map(Name::Pin).chain(frozen).collect())
            });
            *acts = known.await.ok().and_then(Result::ok).unwrap_or_default();
        }
        for act in acts.drain(acts.len().saturating_sub(MOST_AGAIN)..) {
            if self.bucket.is_well() {
                self.recall_act(act).await;
            }
        }
    }

    /// Tells all other replicas of an act before it is done here: what the bucket does not take is not done. Whether
    /// the bucket knew of it; while the rest is held, what is done here need not go up again.
    pub(crate) async fn tell(&self, name: &str, record: Option<Vec<u8>>) -> Result<(bool, Quiet), Trouble> {
        let bucket = self.bucket.at(Pace::Any);
        let was_there = bucket.read(name, LONGEST).await?.is_some();
        match record {
            Some(record) => bucket.soon(bucket.write(name, record.into())).await?,
            None if was_there => bucket.soon(bucket.remove(name)).await?,
            None => {}
        }
        self.owed.settle(name);
        Ok((was_there, self.owed.quiet(name)))
    }

    /// Under these names is what is to be kept: a collector may be about to take it away.
    pub(crate) fn keep(&self, names: &[String]) {
        names.iter().for_each(|name| self.owed.up(name));
    }

    /// What has these names and digests is to be kept, which was told: its marks go, and it is waited for collectors that
    /// take some of it just now. What of it is not there then.
    pub(crate) async fn saved(&self, names: &[String], digests: &[Digest]) -> Result<HashSet<Digest>, Trouble> {
        let bucket = self.bucket.at(Pace::Any);
        let marks = digests.iter().map(|digest| unmarked(bucket.clone(), *digest)).collect::<Vec<_>>();
        stream::iter(marks).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let until = Instant::now() + GOING_AT_MOST;
        let claims = names.iter().map(|name| let_go(bucket.clone(), name.clone(), until)).collect::<Vec<_>>();
        stream::iter(claims).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let looks = digests.iter().map(|digest| absent(bucket.clone(), *digest)).collect::<Vec<_>>();
        let looked: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(looked.into_iter().flatten().collect())
    }

    /// Tells that an image is forgotten: its pin, what it is frozen to, what its tag points at. Whether the bucket knew
    /// of any.
    pub(crate) async fn tell_forgotten(&self, pin: &Pin) -> Result<(bool, Vec<Quiet>), Trouble> {
        let (mut known, quiet) = self.tell(&names::pin(pin), None).await?;
        let mut held = vec![quiet];
        let Reference::Tag(tag) = &pin.reference else { return Ok((known, held)) };
        let mut names = vec![names::frozen(&pin.location, tag)];
        let mut listed = self.bucket.list(&names::tag_folder(&pin.location, tag));
        while let Some(Listed { key, .. }) = listed.next().await.transpose()? {
            names.extend(names::accept_of(&key).map(|_| key));
            if names.len() > MOST_TOLD {
                return Err(Trouble::Refused(format!("it lists more than {MOST_TOLD} kinds of clients for one tag")));
            }
        }
        for name in names {
            let (was_there, quiet) = self.tell(&name, None).await?;
            known |= was_there;
            held.push(quiet);
        }
        Ok((known, held))
    }
}

async fn unmarked(bucket: Bucket, digest: Digest) -> Result<(), Trouble> {
    bucket.spare(&digest).await
}

/// Returns when no collector takes what has this key.
async fn let_go(bucket: Bucket, key: String, until: Instant) -> Result<(), Trouble> {
    while bucket.is_going(&key).await? {
        if Instant::now() > until {
            return Err(Trouble::Refused("it is being taken out of the bucket".to_owned()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn absent(bucket: Bucket, digest: Digest) -> Result<Option<Digest>, Trouble> {
    Ok(bucket.stat(&digest).await?.is_none().then_some(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::key_of;
    use crate::oci::Algorithm;
    use crate::tier::{claims, marks};

    #[tokio::test]
    async fn what_was_undone_elsewhere_no_longer_counts_here_and_what_is_not_told_yet_does() {
        let store = tempfile::tempdir().expect("a folder");
        let shared = crate::mirror::room::shared::tests::shared(store.path());
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "app".parse().expect("a name") };
        let pin = |n: usize| {
            let tag = format!("{n}").parse().expect("a tag");
            Pin { location: location.clone(), reference: Reference::Tag(tag) }
        };
        for n in 0..MOST_AGAIN + 10 {
            shared.metadata.pin(&pin(n)).expect("pinned");
        }
        let (mut acts, kept) = (Vec::new(), pin(3));
        let pins = || shared.metadata.pins().expect("pins");
        shared.recall_again(&mut acts).await;
        acts.clear();
        assert_eq!(pins().len(), MOST_AGAIN + 10, "they are still on their way to the bucket");
        shared.owed.completed(&shared.bucket.place());
        drop(shared.tell(&names::pin(&kept), Some(b"\"x\"".to_vec())).await.expect("told"));
        shared.recall_again(&mut acts).await;
        assert_eq!((pins().len(), acts.len()), (10 + usize::from(pins().contains(&kept)), 10), "so many at a time");
        shared.recall_again(&mut acts).await;
        assert_eq!(pins(), [kept]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_to_be_kept_loses_its_marks_and_waits_for_who_takes_it_just_now() {
        let store = tempfile::tempdir().expect("a folder");
        let shared = crate::mirror::room::shared::tests::shared(store.path());
        let (stays, goes) = (Digest::of(Algorithm::Sha256, b"stays"), Digest::of(Algorithm::Sha256, b"goes"));
        let keys = [stays, goes].map(|digest| key_of(&digest));
        for digest in [stays, goes] {
            shared.bucket.write(&key_of(&digest), "x".into()).await.expect("written");
            shared.bucket.write(&marks::mark_of(&digest), "{}".into()).await.expect("marked");
        }
        // A collector has looked, and stands at the deletion.
        shared.bucket.write(&claims::claim_of(&keys[1]), "{}".into()).await.expect("claimed");
        let taken = async {
            while shared.bucket.list(marks::FOLDER).count().await > 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(GOING_AT_MOST / 2).await;
            shared.bucket.remove(&keys[1]).await.expect("deleted");
            shared.bucket.remove(&claims::claim_of(&keys[1])).await.expect("let go");
        };
        let all = [stays, goes];
        let (absent, ()) = tokio::join!(shared.saved(&keys, &all), taken);
        assert_eq!(absent, Ok(HashSet::from([goes])));
        shared.bucket.write(&claims::claim_of(&keys[0]), "{}".into()).await.expect("claimed");
        assert!(shared.saved(&keys, &all).await.is_err(), "one that is gone: it is said");
    }
}
