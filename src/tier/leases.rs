//! Leases of fills: which replica fetches a blob, so that the others read it from that one.
//!
//! A lease is an object that is created if absent, `fills/<algorithm>/<hex>/<epoch>`, and never renewed: where its replica
//! refuses, or says nothing, the next epoch is there to be taken. It is void after a time that its blob needs, by the
//! store's clock, and removed when nobody can need it any more. Truth: a lease saves downloads and no more. Where one cannot be had, whoever wanted it fetches by
//! himself.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::proof::{PeersKey, Question, Use};
use super::silent::Silent;
use super::{Bucket, Trouble, Waited};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::Digest;

const FOLDER: &str = "fills";
/// How long a void lease stays.
const LEFT_ALONE: Duration = Duration::from_secs(60 * 60);
/// How long a lease is good for in any case, and what is added for its size.
const AT_LEAST: Duration = Duration::from_secs(30);
const BYTES_A_SECOND: u64 = 5_000_000;
/// Below this size the time for it is not worth a second write, in bytes.
const WORTH_TELLING: u64 = 16 << 20;
/// No lease is longer, in bytes.
const LONGEST: u64 = 4096;
/// So many are held at a time; beyond, blobs are fetched without.
const MOST: usize = 10_000;
/// How often it is told of the same replica that it has another secret, and of how many that is known.
const TOLD_AGAIN: Duration = Duration::from_secs(60 * 60);
const MOST_STRANGERS: usize = 64;

/// The leases of this replica, and those of others as it sees them.
pub struct Leases {
    bucket: Bucket,
    key: PeersKey,
    /// Where other replicas reach this one.
    own: String,
    /// Whether the store keeps to the condition of a write, as far as is known.
    allowed: watch::Sender<Option<bool>>,
    /// Until when it is waited for that at most, since it was waited for first.
    known_until: OnceLock<Instant>,
    held: Mutex<HashMap<Digest, u32>>,
    silent: Silent,
    /// Replicas that were said to have another secret, and when.
    strangers: Mutex<HashMap<String, Instant>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("own", &self.own).finish_non_exhaustive()
    }
}

/// A lease, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    replica: String,
    size_bytes: Option<u64>,
    /// The HMAC over the key and what stands above.
    seal: String,
}

/// What came of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is ours: nobody else fetches.
    Ours,
    /// Another replica has it, which is reached there.
    Theirs(String),
    /// Nobody has it whom one could ask.
    Nobodys,
    /// Somebody had it, and it is over.
    Over,
    /// It is not known.
    Unknown,
}

impl Leases {
    /// Those of the replica that others reach at `own`. They are off until they are allowed.
    pub fn new(bucket: Bucket, key: PeersKey, own: String, metrics: Arc<Metrics>) -> Leases {
        let (allowed, known_until, held) = (watch::Sender::new(None), OnceLock::new(), Mutex::default());
        let silent = Silent::default();
        let strangers = Mutex::default();
        Leases { bucket, key, own, allowed, known_until, held, silent, strangers, metrics }
    }

    /// Replicas whose leases lead to nothing.
    pub const fn silent(&self) -> &Silent {
        &self.silent
    }

    /// The store keeps to the condition of a write, or does not, or has not told yet.
    pub(super) fn allow(&self, allowed: bool) {
        self.allowed.send_replace(Some(allowed));
    }

    /// Whether there are leases now, or may be in a moment: at a start it takes one to find out.
    pub fn may_be_had(&self) -> bool {
        let may = *self.allowed.borrow() != Some(false);
        may && self.bucket.is_well() && self.bucket.takes_leases()
    }

    /// Whether there are leases. Where it is not known yet it is waited for, as long as the look-up has time for that,
    /// and all who wait together wait no longer than one of them.
    pub async fn can_be_had(&self, waited: &Waited) -> bool {
        let mut allowed = self.allowed.subscribe();
        if allowed.borrow().is_none() && self.may_be_had() {
            let began = Instant::now();
            let until = *self.known_until.get_or_init(|| began + self.bucket.patience());
            let known = tokio::time::timeout_at(until, allowed.wait_for(Option::is_some));
            let known = self.bucket.within(&waited.for_leases(), known).await;
            if !matches!(known, Some(Ok(_))) {
                self.bucket.was_waited_for(began);
            }
        }
        self.are_on()
    }

    /// Whether there are leases now.
    pub fn are_on(&self) -> bool {
        *self.allowed.borrow() == Some(true) && self.may_be_had() && self.bucket.time().is_some()
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// Takes the lease of this epoch, or finds out whose it is, for a look-up that has waited so long.
    pub async fn take(&self, digest: &Digest, epoch: u32, waited: &Waited) -> Found {
        let has_no_time = self.bucket.time_left(&waited.for_leases()).is_none();
        if self.held.lock().len() >= MOST || has_no_time || !self.bucket.takes_leases() {
            return Found::Unknown;
        }
        let key = key_of(digest, epoch);
        let claimed = self.bucket.claim(&key, self.lease(digest, epoch, None));
        match self.bucket.within(&waited.for_leases(), claimed).await {
            Some(Err(Trouble::Changed)) => return self.look(digest, epoch, waited).await,
            Some(Ok(())) if epoch > 1 => self.metrics.lease_taken_over(),
            Some(Ok(())) => {}
            // It may have been written all the same: it goes like one that is ours.
            failed => {
                tracing::debug!(%digest, epoch, ?failed, "no lease");
                self.metrics.lease_failed();
            }
        }
        self.held.lock().insert(*digest, epoch);
        Found::Ours
    }

    /// Whose the lease of this epoch is.
    pub async fn look(&self, digest: &Digest, epoch: u32, waited: &Waited) -> Found {
        let key = key_of(digest, epoch);
        let object = match self.bucket.within(&waited.for_leases(), self.bucket.read(&key, LONGEST)).await {
            Some(Ok(Some(object))) => object,
            Some(Ok(None)) => return Found::Over,
            failed => {
                tracing::debug!(%digest, epoch, ?failed, "not known whose lease it is");
                self.metrics.lease_failed();
                return Found::Unknown;
            }
        };
        let lease = serde_json::from_slice::<Lease>(&object.bytes).ok().filter(|lease| {
            let fields = lease.fields(digest, epoch);
            let is_sealed = self.key.proves(Use::Lease, &fields.each_ref().map(String::as_str), &lease.seal);
            if !is_sealed {
                self.is_of_a_stranger(&lease.replica);
            }
            is_sealed
        });
        let theirs = lease.map(|lease| lease.replica).filter(|replica| *replica != self.own);
        theirs.map_or(Found::Nobodys, Found::Theirs)
    }

    /// A lease is sealed with another secret than ours, or with none. The log is told once in an hour for each replica.
    fn is_of_a_stranger(&self, replica: &str) {
        self.metrics.lease_of_a_stranger();
        // Whoever may write in the bucket may write anything there.
        let address =
            Url::parse(replica).ok().and_then(|url| Some((url.host()?.to_owned(), url.port_or_known_default()?)));
        let Some((host, port)) = address else { return };
        let (replica, now) = (format!("{host}:{port}"), Instant::now());
        let mut strangers = self.strangers.lock();
        strangers.retain(|_, told| now.duration_since(*told) < TOLD_AGAIN);
        if strangers.len() < MOST_STRANGERS && strangers.insert(replica.clone(), now).is_none() {
            tracing::warn!(
                replica,
                "this replica has another peers_secret: give all replicas the same file; until then each fetches for itself what the other fetches"
            );
        }
    }

    /// The blob that we fetch has this size in bytes: the lease is good for longer.
    pub async fn told(&self, digest: &Digest, size: u64) {
        let Some(epoch) = self.held.lock().get(digest).copied().filter(|_| size >= WORTH_TELLING) else { return };
        if let Err(trouble) = self.bucket.write(&key_of(digest, epoch), self.lease(digest, epoch, Some(size))).await {
            tracing::debug!(%digest, epoch, %trouble, "nobody knows how long it may take");
        }
    }

    /// The blob is in the bucket, or will not come: its lease goes, if there is one.
    pub async fn over(&self, digest: &Digest) {
        let Some(epoch) = self.held.lock().remove(digest) else { return };
        for epoch in 1..=epoch {
            if let Err(trouble) = self.bucket.remove(&key_of(digest, epoch)).await {
                tracing::debug!(%digest, epoch, %trouble, "a lease stays until it is void");
            }
        }
    }

    /// What proves a question to the replica at `address`; `None` while the store's time is not known.
    pub fn prove(&self, asked: &Question<'_>, address: &str) -> Option<String> {
        Some(self.key.header(asked, address, self.bucket.time()?))
    }

    /// Whether a replica puts this question to us, as what it shows says.
    pub fn is_proven(&self, asked: &Question<'_>, shown: &str) -> bool {
        self.bucket.time().is_some_and(|now| self.key.is_right(asked, &self.own, shown, now))
    }

    fn lease(&self, digest: &Digest, epoch: u32, size_bytes: Option<u64>) -> Bytes {
        let lease = Lease { replica: self.own.clone(), size_bytes, seal: String::new() };
        let seal = self.key.sign(Use::Lease, &lease.fields(digest, epoch).each_ref().map(String::as_str));
        serde_json::to_vec(&Lease { seal, ..lease }).unwrap_or_default().into()
    }
}

impl Lease {
    fn fields(&self, digest: &Digest, epoch: u32) -> [String; 3] {
        let size = self.size_bytes.map(|size| size.to_string()).unwrap_or_default();
        [key_of(digest, epoch), self.replica.clone(), size]
    }
}

/// Removes the leases that have been void for an hour: nobody is left who gives what they are about. How many.
///
/// # Errors
/// [`Trouble`].
pub async fn remove_void(bucket: &Bucket) -> Result<u64, Trouble> {
    let (mut removed, mut leases) = (0, bucket.list(FOLDER));
    while let Some(listed) = leases.next().await.transpose()? {
        let Some(then) = bucket.time().map(|now| now.minus(LEFT_ALONE)) else { break };
        if !is_void(listed.modified, None, then) {
            continue;
        }
        let lease = bucket.read(&listed.key, LONGEST).await?;
        let lease = lease.and_then(|lease| serde_json::from_slice::<Lease>(&lease.bytes).ok());
        if is_void(listed.modified, lease.and_then(|lease| lease.size_bytes), then) {
            bucket.remove(&listed.key).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn key_of(digest: &Digest, epoch: u32) -> String {
    format!("{FOLDER}/{}/{}/{epoch}", digest.algorithm(), digest.hex())
}

fn is_void(written: Timestamp, size: Option<u64>, now: Timestamp) -> bool {
    let good_for = AT_LEAST + Duration::from_secs(size.unwrap_or_default() / BYTES_A_SECOND);
    written.age(now).is_some_and(|age| age > good_for)
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::metrics::Format;
    use crate::oci::Algorithm;

    fn bucket() -> Bucket {
        Bucket::in_memory(&Settings::for_tests())
    }

    fn replica(bucket: &Bucket, n: u16, secret: &str) -> Leases {
        let own = format!("http://127.0.0.1:{n}");
        Leases::new(bucket.clone(), PeersKey::new(secret), own, Arc::new(Metrics::new([])))
    }

    #[tokio::test]
    async fn one_has_it_the_others_see_who_and_the_next_epoch_is_free() {
        let (bucket, digest, waited) = (bucket(), Digest::of(Algorithm::Sha256, b"x"), Waited::default());
        let [first, second] = [1, 2].map(|n| replica(&bucket, n, "0123456789abcdef"));
        assert_eq!(first.take(&digest, 1, &waited).await, Found::Ours);
        let theirs = Found::Theirs("http://127.0.0.1:1".to_owned());
        assert_eq!(second.take(&digest, 1, &waited).await, theirs);
        first.told(&digest, 1 << 30).await;
        assert_eq!(second.look(&digest, 1, &waited).await, theirs, "with another seal");
        assert_eq!(first.look(&digest, 1, &waited).await, Found::Nobodys, "we are no other replica");
        assert_eq!(replica(&bucket, 3, "another secret ..").look(&digest, 1, &waited).await, Found::Nobodys);
        assert_eq!(second.take(&digest, 2, &waited).await, Found::Ours);
        assert_eq!((first.held(), second.held()), (1, 1));
        second.over(&digest).await;
        assert_eq!(
            (second.held(), first.look(&digest, 1, &waited).await),
            (0, Found::Over),
            "those before it go along"
        );
        let copied = first.lease(&digest, 1, None);
        bucket.write(&key_of(&digest, 7), copied).await.expect("written");
        assert_eq!(second.look(&digest, 7, &waited).await, Found::Nobodys, "the key is under the seal");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_with_another_secret_is_told_of_once_in_an_hour() {
        let (bucket, waited) = (bucket(), Waited::default());
        let [first, second] =
            [(1, "0123456789abcdef"), (2, "another secret ..")].map(|(n, secret)| replica(&bucket, n, secret));
        for n in 0..3 {
            let digest = Digest::of(Algorithm::Sha256, &[n]);
            assert_eq!(first.take(&digest, 1, &waited).await, Found::Ours);
            assert_eq!(second.look(&digest, 1, &waited).await, Found::Nobodys);
        }
        assert!(second.metrics.encode(Format::Prometheus).contains("mirror_leases_of_strangers_total 3"));
        assert_eq!(second.strangers.lock().keys().cloned().collect::<Vec<_>>(), ["127.0.0.1:1"]);
        second.is_of_a_stranger("no address \n of a replica");
        assert_eq!(second.strangers.lock().len(), 1);
        (0..2 * MOST_STRANGERS).for_each(|n| second.is_of_a_stranger(&format!("http://10.0.0.1:{n}")));
        assert_eq!(second.strangers.lock().len(), MOST_STRANGERS);
        tokio::time::advance(TOLD_AGAIN).await;
        second.is_of_a_stranger("http://10.0.0.9:1");
        assert_eq!(second.strangers.lock().len(), 1);
    }

    #[tokio::test]
    async fn no_more_are_held_than_can_be_remembered() {
        let (bucket, digest, waited) = (bucket(), Digest::of(Algorithm::Sha256, b"x"), Waited::default());
        let leases = replica(&bucket, 1, "0123456789abcdef");
        let many = (0..MOST as u64).map(|n| (Digest::of(Algorithm::Sha256, &n.to_le_bytes()), 1));
        leases.held.lock().extend(many);
        assert_eq!(leases.take(&digest, 1, &waited).await, Found::Unknown);
        assert_eq!(leases.held(), MOST);
    }

    #[test]
    fn it_is_void_after_half_a_minute_and_what_its_size_takes() {
        let (written, seconds) = (Timestamp(1_000_000), Duration::from_secs);
        let is_void = |size, after| is_void(written, size, written.plus(seconds(after)));
        assert!(!is_void(None, 30) && is_void(None, 31));
        assert!(!is_void(Some(50_000_000), 40) && is_void(Some(50_000_000), 41));
        assert!(!super::is_void(written, None, written.minus(seconds(100))));
    }
}
