//! Carries up into the bucket what is owed to it, behind the clients.
//!
//! A few keys at a time, the oldest first. Where the bucket does not take something, it and all else of its kind waits,
//! half a minute at most, and nothing is forgotten: names do not wait for content that is refused. What a kill left of
//! an upload is aborted. Truth: a blob appears in the bucket only when the bytes that went up have its digest; of small
//! objects that two replicas write `merge` says what stands; what a name needs is there, or goes up after it; what a
//! collector takes just now is owed until that is over, and goes up before the names that need it.

mod contents;
mod ending;
mod going;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::ending::Held;
use self::going::{Going, LONGEST_REST};
use super::inventory::{self, Lost, digest_of};
use super::{Bucket, Conditional, Leases, Pace, Trouble, claims, marks};
use crate::blob_store::BlobStore;
use crate::metrics::Metrics;
use crate::oci::Digest;
use crate::owed::{Kind, Order, Owed, Task};

/// Keys of each kind at a time.
const AT_ONCE: usize = 4;
/// Blobs among them: each has a part of itself in memory.
const BLOBS_AT_ONCE: usize = 2;
/// How often it is looked how the bucket is, and how often while it is not well; and how often of these at what it has.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const LOOKS_AT_NAMES: u32 = 2;
/// How often it is looked whether what it did not take before may be written again, and whether the list has room.
const TRY_EVERY: Duration = Duration::from_secs(1);
const ROOM_EVERY: Duration = Duration::from_millis(50);
/// Names of files on their way to the list.
const LISTED: usize = 256;
/// For how long it is looked at what was found wrong and is not here.
const LOOK_AT_WRONG: Duration = Duration::from_secs(10 * 60);

/// Carries up what is owed.
pub struct Raising {
    bucket: Bucket,
    owed: Arc<Owed>,
    blobs: Arc<dyn BlobStore>,
    store: PathBuf,
    places: Semaphore,
    /// Those of what goes up, where there are leases.
    leases: Option<Arc<Leases>>,
    metrics: Arc<Metrics>,
    going: Mutex<Going>,
    /// When it was looked last whether all that a tag leads to is there, by what the tag stands for.
    whole: Mutex<HashMap<Digest, Instant>>,
    /// Held by who puts all that is stored on the list.
    listing: tokio::sync::Mutex<()>,
    /// That what is owed still goes up, and then nothing more.
    ending: CancellationToken,
}

impl std::fmt::Debug for Raising {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raising").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// What came of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// It is as it should be.
    Up,
    /// A collector takes what it is about just now: it is looked at again when that is over.
    Rests,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many keys are owed.
    pub backlog: u64,
    /// Why it is of no help now: it does not answer, gives no content, or takes nothing.
    pub trouble: Option<String>,
    /// Why its lists are of no use, where they are not.
    pub lists: Option<String>,
    /// What it does with the condition of a write, once that is known.
    pub conditional: Option<Conditional>,
    /// How many leases of fills are held; `None` while there are none to be had.
    pub leases: Option<usize>,
}

impl Raising {
    /// For the store at `store`, whose blobs are these.
    pub fn new(
        bucket: Bucket,
        owed: Arc<Owed>,
        blobs: Arc<dyn BlobStore>,
        store: &Path,
        metrics: Arc<Metrics>,
    ) -> Raising {
        // What was found wrong before a stop is not read from there now where somebody else has it.
        owed.wrong().iter().filter_map(|key| content_of(key)).for_each(|digest| bucket.doubted().add(&digest));
        // Nobody waits for it: it may be slow.
        let bucket = bucket.at(Pace::Any);
        let (store, places) = (store.to_owned(), Semaphore::new(BLOBS_AT_ONCE));
        Raising {
            bucket,
            owed,
            blobs,
            store,
            places,
            leases: None,
            metrics,
            going: Mutex::default(),
            whole: Mutex::default(),
            listing: Default::default(),
            ending: CancellationToken::new(),
        }
    }

    /// The same, which allows the leases where the store keeps to conditions, and ends each when its blob is up.
    #[must_use]
    pub fn ending(self, leases: Option<Arc<Leases>>) -> Raising {
        Raising { leases, ..self }
    }

    /// The bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// How it goes now.
    pub fn standing(&self) -> Standing {
        let going = self.going.lock();
        let (conditional, failing) = (going.conditional, going.trouble(|key| self.owed.is_owed(key)));
        drop(going);
        Standing {
            backlog: self.owed.len() as u64,
            trouble: failing.or_else(|| self.bucket.trouble()),
            lists: self.bucket.lists_wrongly(),
            conditional,
            leases: self.leases.as_ref().filter(|leases| leases.are_on()).map(|leases| leases.held()),
        }
    }

    /// Carries up until the future is dropped; once it is to [`end`](Raising::end), until nothing more can go up.
    pub async fn run(self: Arc<Self>) {
        let all = async {
            loop {
                let alone = self.listing.lock().await;
                if !self.owed.is_complete(&self.bucket.place()) {
                    self.list_all().await;
                }
                drop(alone);
                // Then what did not stay on it is found again.
                self.owed.was_too_long().await;
            }
        };
        let beside = async { tokio::join!(all, self.examine(), self.look()) };
        tokio::select! {
            () = self.carry_both() => {}
            () = self.is_in_vain_at_the_end() => {}
            _ = beside => {}
        }
    }

    /// Looks now and again how the bucket is, so that this is known also while nobody needs it.
    async fn look(&self) {
        let as_readers = self.bucket.at(Pace::Helps);
        for looks in 0_u32.. {
            let looked = as_readers.look(looks % LOOKS_AT_NAMES == 0).await;
            tokio::time::sleep(if looked.is_ok() { LOOK_EVERY } else { LOOK_AGAIN }).await;
        }
    }

    /// Puts on the list all that is stored, as there is room on it. What is there already is looked for, and not sent. A
    /// folder that cannot be listed is lost, whatever is in it: then not all is on the list.
    pub async fn owe_all(&self) {
        let _alone = self.listing.lock().await;
        self.list_all().await;
    }

    async fn list_all(&self) {
        let (store, before) = (self.store.clone(), self.owed.dropped());
        let (found, mut keys) = mpsc::channel(LISTED);
        let listed = tokio::task::spawn_blocking(move || {
            inventory::of(&store, &mut |key| found.blocking_send(key.to_owned()).is_ok())
        });
        while let Some(key) = keys.recv().await {
            self.room_on_the_list().await;
            self.owed.up(&key);
        }
        let Ok(unlisted) = listed.await else { return };
        if unlisted.is_empty() && self.owed.dropped() == before {
            self.owed.completed(&self.bucket.place());
        }
        for (key, why) in unlisted {
            tracing::error!(key, %why, "what is below it does not go up into the bucket");
            self.is_lost(&key, why);
        }
    }

    async fn room_on_the_list(&self) {
        while !self.owed.has_room() {
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }

    /// Returns when there is no room for more on the list.
    pub async fn fills_the_list(&self) {
        while self.owed.has_room() {
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }

    /// What could not go up since it was all put on the list, by its key, and why.
    pub fn lost(&self) -> BTreeMap<String, Lost> {
        let mut lost = self.going.lock().lost.clone();
        for key in self.owed.wrong().into_iter().filter(|key| !self.owed.is_owed(key)) {
            lost.entry(key).or_insert(Lost::Wrong);
        }
        lost
    }

    /// How many of these were on no list: folders that could not be listed, and what is not here.
    pub fn unlisted(lost: &BTreeMap<String, Lost>) -> u64 {
        lost.iter().filter(|(key, why)| **why == Lost::Wrong || !inventory::is_known(key)).count() as u64
    }

    /// What is owed, was tried since then and was not taken, by its key, and why.
    pub fn refused(&self) -> BTreeMap<String, String> {
        self.going.lock().refused(|key| self.owed.is_owed(key))
    }

    /// How many were carried up, or turned out to be lost, since then.
    pub fn over(&self) -> u64 {
        self.going.lock().over
    }

    /// Whether it is of no use to try any more.
    pub fn is_in_vain(&self) -> bool {
        self.going.lock().is_in_vain()
    }

    /// What is put on the list from now on may be other than what it was.
    pub fn begin_anew(&self) {
        self.going.lock().begin_anew();
    }

    /// Tries at once what was not taken: the bucket takes something.
    pub fn go_on(&self) {
        self.going.lock().go_on();
        self.owed.urge();
    }

    fn is_lost(&self, key: &str, why: Lost) {
        self.going.lock().is_lost(key, why);
    }

    /// Looks at what was found wrong in the bucket and is not here: another replica may have put it right. For a while.
    pub async fn look_at_wrong(&self) {
        let looked = async {
            for key in self.owed.wrong() {
                let Some(digest) = content_of(&key).filter(|_| !self.owed.is_owed(&key)) else { continue };
                if matches!(self.bucket.is_right(&digest, None).await, Ok(None | Some(true))) {
                    self.owed.put_right(&key);
                    self.bucket.doubted().remove(&digest);
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_AT_WRONG, looked).await;
    }

    /// Carries up what is owed now, and ends when there is nothing left, or at the first trouble.
    ///
    /// # Errors
    /// [`Trouble`]; the rest is still owed.
    pub async fn drain(&self) -> Result<(), Trouble> {
        loop {
            if let Some(task) = self.owed.take() {
                self.raise(&task).await?;
            } else if let Some(until) = self.owed.rests_until() {
                tokio::time::sleep_until(until).await;
            } else {
                return Ok(());
            }
        }
    }

    /// Finds out what the bucket does with conditions, as soon as it answers.
    async fn examine(&self) {
        let mut rest = TRY_EVERY;
        loop {
            match Conditional::examine(&self.bucket).await {
                Ok(found) => {
                    self.going.lock().conditional = Some(found);
                    self.is_well("");
                    self.leases.iter().for_each(|leases| leases.allow(found.creates()));
                    let bucket = self.bucket.name();
                    match found {
                        Conditional::Right => {}
                        Conditional::CreateOnly => tracing::info!(bucket, "it replaces no object by its version"),
                        Conditional::Lies => tracing::warn!(
                            bucket,
                            "this store takes conditional writes and does not keep to them: leases are off, nothing is deleted from it"
                        ),
                    }
                    return;
                }
                Err(trouble) => {
                    self.leases.iter().for_each(|leases| leases.allow(false));
                    self.fails("", &trouble);
                    // One write that failed does not say that none is taken.
                    if self.bucket.takes_writes() {
                        tokio::time::sleep(rest).await;
                    } else {
                        let _ = tokio::time::timeout(LONGEST_REST, self.writes_are_back()).await;
                    }
                    rest = LONGEST_REST.min(2 * rest);
                }
            }
        }
    }

    /// Returns when it takes what is written.
    async fn writes_are_back(&self) {
        while !self.bucket.takes_writes() {
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    async fn carry_both(self: &Arc<Self>) {
        let (mut none_held, mut held) = (Held::default(), Held::default());
        loop {
            let no_content_comes = CancellationToken::new();
            let contents = async {
                self.carry(Kind::Content, &self.ending, &mut none_held).await;
                no_content_comes.cancel();
            };
            // A name may wait for content as long as any goes up.
            tokio::join!(contents, self.carry(Kind::Name, &no_content_comes, &mut held));
            // A name may bring content along.
            if !self.owed.has_content_in_turn() {
                return;
            }
        }
    }

    /// Carries up what is of one kind; once it is to end and `nothing_is_awaited`, until nothing more of it can go up.
    async fn carry(self: &Arc<Self>, kind: Kind, nothing_is_awaited: &CancellationToken, held: &mut Held) {
        let mut under_way = JoinSet::new();
        loop {
            let is_ending = self.ending.is_cancelled();
            let is_last = is_ending && nothing_is_awaited.is_cancelled();
            let rest = if is_ending { Duration::ZERO } else { self.going.lock().rest(kind) };
            while rest.is_zero() && under_way.len() < AT_ONCE {
                let task = if is_ending { self.last_of(kind, held).await } else { self.owed.take_of(kind) };
                let Some(task) = task else { break };
                let raising = Arc::clone(self);
                under_way.spawn(async move { raising.raise(&task).await });
            }
            if is_last && under_way.is_empty() {
                return;
            }
            let rests_until = if rest.is_zero() { self.owed.rests_until() } else { Some(Instant::now() + rest) };
            let next = if is_ending { Some(Instant::now() + ROOM_EVERY) } else { rests_until };
            let next = next.filter(|_| under_way.len() < AT_ONCE);
            tokio::select! {
                Some(_) = under_way.join_next() => {}
                () = self.owed.changed(kind) => {}
                () = self.ending.cancelled(), if !is_ending => {}
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    async fn raise(&self, task: &Task) -> Result<(), Trouble> {
        let key = &task.key;
        match self.carry_out(task).await {
            Ok(Went::Up) => {
                self.is_over(task).await;
                self.metrics.bucket_took();
                Ok(())
            }
            Ok(Went::Rests) => {
                self.owed.rest(task, Instant::now() + claims::LOOK_EVERY);
                Ok(())
            }
            Err(Trouble::Unfit(why)) => {
                tracing::error!(key, why, "it does not go up into the bucket");
                self.is_lost(key, Lost::Damaged(why));
                self.is_over(task).await;
                Ok(())
            }
            Err(trouble) => {
                // At the end each is tried once.
                if !self.ending.is_cancelled() {
                    self.owed.give_back(task);
                }
                tracing::debug!(key, %trouble, "it goes up into the bucket later");
                self.fails(key, &trouble);
                Err(trouble)
            }
        }
    }

    async fn is_over(&self, task: &Task) {
        let is_done = self.owed.done(task);
        self.going.lock().over += u64::from(is_done);
        self.end_lease(&task.key).await;
        self.is_well(&task.key);
    }

    /// It took something.
    fn is_well(&self, key: &str) {
        if self.going.lock().took(key, |key| self.owed.is_owed(key)) {
            tracing::info!(bucket = self.bucket.name(), "the bucket takes again what is owed to it");
        }
    }

    /// It did not take something. The log is told once.
    fn fails(&self, key: &str, trouble: &Trouble) {
        if self.going.lock().fails(key, trouble, |key| self.owed.is_owed(key)) {
            let (bucket, backlog) = (self.bucket.name(), self.owed.len());
            tracing::warn!(bucket, %trouble, backlog, "nothing goes up into the bucket; pulls go on, and it is owed");
        }
    }

    async fn carry_out(&self, Task { key, order, rested, .. }: &Task) -> Result<Went, Trouble> {
        // Whoever may write in the store may write anything on the list.
        if !inventory::is_known(key) {
            tracing::error!("the list of what is owed to the bucket names something that no store has; it is left out");
            return Ok(Went::Up);
        }
        if let Some((_, id)) = self.owed.uploads().into_iter().find(|(of, _)| of == key) {
            self.bucket.abort(key, &id).await?;
            self.owed.upload_over(key);
        }
        match (order, key.strip_prefix("blobs/")) {
            (Order::Away, _) => self.bucket.remove(key).await?,
            (order, Some(name)) => return self.blob(name, *order).await,
            (_, None) if key.starts_with(marks::USED) => self.bucket.write(key, Bytes::new()).await?,
            (_, None) => return self.small(key, *rested).await,
        }
        Ok(Went::Up)
    }

    /// What is owed no more is not given to other replicas any more.
    async fn end_lease(&self, key: &str) {
        if let (Some(leases), Some(digest)) = (&self.leases, content_of(key)) {
            leases.over(&digest).await;
        }
    }
}

/// What content has this key.
fn content_of(key: &str) -> Option<Digest> {
    key.strip_prefix("blobs/").and_then(digest_of)
}

#[cfg(test)]
mod tests;
