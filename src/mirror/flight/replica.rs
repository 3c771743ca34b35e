//! A blob that another replica fetches: where a fill gets its bytes before it asks upstream, live, as they come there.
//!
//! The lease of the blob says which one that is; without one this replica takes it. When that replica stops or stands
//! still, the bucket may have the blob by then; else the next lease is taken, or read from who took it. Truth: whatever
//! goes wrong here, the fill asks upstream itself; and no replica gives what it reads from another, so that none waits
//! for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metadata::Location;
use crate::metrics::Metrics;
use crate::mirror::flight::shared::InBucket;
use crate::oci::{Digest, Span};
use crate::tier::{Found, Leases, Pace, Question, Waited};
use crate::upstream::{Contact, UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// So many leases of one blob are looked at: beyond, somebody writes them who is no replica.
const MOST_LOOKS: u32 = 16;
/// How long a replica may wait for its upstream to answer or to go on, and say so, before it is left.
const LONGEST_WAIT: Duration = Duration::from_secs(40);
/// How many bytes a replica that fetches first has to give in a second, looked at as often as patience is over: below
/// that another one looks whether upstream gives more. Who is next in turn is as fast as upstream is.
const LEAST_A_SECOND: u64 = 128 << 10;
/// When it is asked again that said so.
const AGAIN: Duration = Duration::from_millis(100);

/// Asks a replica for a blob, or a part of it: at this address, with this proof.
pub type AskReplica =
    Arc<dyn Fn(String, String, Span) -> BoxFuture<'static, Result<UpstreamBlob, UpstreamError>> + Send + Sync>;

/// The other replicas.
#[derive(Clone)]
pub struct Replicas {
    /// Which of them fetches what.
    pub leases: Arc<Leases>,
    /// How they are asked.
    pub ask: AskReplica,
    /// How long one is waited for that says nothing.
    pub patience: Duration,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// The blob in the bucket, if this repository is known to have it by now.
pub(crate) type LookAgain = Box<dyn Fn() -> BoxFuture<'static, Option<Arc<InBucket>>> + Send + Sync>;

/// One blob at whichever replica fetches it.
pub struct AtReplica {
    replicas: Replicas,
    location: Location,
    digest: Digest,
    /// How upstream is asked.
    standing: String,
    /// How long the look-up of it has waited for the bucket.
    waited: Waited,
    look_again: LookAgain,
    stand: Mutex<Stand>,
    /// Who had the lease of this epoch and gave too little.
    slow: Mutex<Option<(u32, String)>>,
    /// One at a time finds out where it stands.
    turn: tokio::sync::Mutex<()>,
    gave: AtomicU64,
}

/// Where its bytes come from.
#[derive(Clone)]
enum Stand {
    /// It is not known; if nobody else has the lease of this epoch, from upstream.
    Open(u32),
    /// From who has the lease of this epoch.
    Theirs(u32, String),
    /// From who has the lease of the next: who has this one says nothing any more.
    Silent(u32),
    /// From the bucket, after all.
    Bucket(Arc<InBucket>),
    /// From upstream: others may read it from here.
    Ours,
}

/// What comes from one.
type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// How long a replica was waited for, and what came, since it was looked at last.
#[derive(Default)]
struct Flow {
    waited: Duration,
    came: usize,
}

impl Flow {
    /// Whether too little comes, as it is now that so much more has come.
    fn is_slow(&mut self, waited: Duration, came: usize, patience: Duration) -> bool {
        (self.waited, self.came) = (self.waited + waited, self.came + came);
        if self.waited < patience {
            return false;
        }
        let Flow { waited, came } = std::mem::take(self);
        came as f64 / waited.as_secs_f64() < LEAST_A_SECOND as f64
    }
}

/// What a replica said.
enum Said {
    Gave(UpstreamBlob),
    /// It does not fetch it, or is not there any more.
    Refused,
    Nothing,
}

impl std::fmt::Debug for AtReplica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AtReplica({}@{})", self.location, self.digest)
    }
}

impl AtReplica {
    /// A blob of which nobody was asked yet.
    pub(crate) fn new(
        replicas: Replicas,
        (location, digest): (Location, Digest),
        standing: String,
        waited: Waited,
        look_again: LookAgain,
    ) -> Arc<AtReplica> {
        let (stand, slow) = (Mutex::new(Stand::Open(1)), Mutex::default());
        let (turn, gave) = (tokio::sync::Mutex::default(), AtomicU64::new(0));
        Arc::new(AtReplica { replicas, location, digest, standing, waited, look_again, stand, slow, turn, gave })
    }

    /// Whether other replicas may read it from here: from before the lease is written.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(*self.stand.lock(), Stand::Open(_) | Stand::Ours)
    }

    /// Whether it comes from elsewhere than upstream, as far as that was asked.
    pub(crate) fn gives(&self) -> bool {
        matches!(*self.stand.lock(), Stand::Theirs(..) | Stand::Bucket(_))
    }

    /// Whether the bucket gave the rest.
    pub(crate) fn is_of_bucket(&self) -> bool {
        matches!(*self.stand.lock(), Stand::Bucket(_))
    }

    /// What came from here is not the blob: upstream is asked from now on. Whether any came.
    pub(crate) fn distrust(&self) -> bool {
        if self.gives()
            && let Stand::Bucket(bucket) = std::mem::replace(&mut *self.stand.lock(), Stand::Ours)
        {
            bucket.distrust();
        }
        self.gave.swap(0, Ordering::AcqRel) > 0
    }

    /// Whether upstream was not asked by us, and all came from elsewhere.
    pub(crate) fn gave_all(&self) -> bool {
        self.gives() && self.gave.load(Ordering::Acquire) > 0
    }

    /// The blob that we fetch has this size in bytes.
    pub(crate) async fn told(&self, size: u64) {
        if self.is_ours() {
            self.replicas.leases.told(&self.digest, size).await;
        }
    }

    /// It will not be in the bucket: others need not wait for it.
    pub(crate) async fn over(&self) {
        self.replicas.leases.over(&self.digest).await;
    }

    /// How long upstream is waited for in place of who gave it slowly, where one did.
    pub(super) fn left_as_slow(&self) -> Option<Duration> {
        self.slow.lock().as_ref().map(|_| self.replicas.patience)
    }

    /// A part of it from the replica that was left because it is slow, where nobody else gives that.
    pub(super) async fn however_slow(self: &Arc<Self>, span: Span) -> Option<UpstreamBlob> {
        let _turn = self.turn.lock().await;
        let (epoch, replica) = self.slow.lock().clone()?;
        let Said::Gave(blob) = self.ask(&replica, span, self.replicas.patience).await else { return None };
        self.stands(Stand::Theirs(epoch, replica.clone()));
        Some(self.counted(self.while_it_lives(blob, span, (epoch, replica), Pace::Any)))
    }

    /// A part of it, if another replica, or the bucket after all, gives that, and as long as it does at this pace; `told`
    /// is its size in bytes as others say who lead to it.
    pub(super) async fn blob(self: &Arc<Self>, span: Span, told: Option<u64>, pace: Pace) -> Option<UpstreamBlob> {
        let _turn = self.turn.lock().await;
        let leases = &self.replicas.leases;
        let stand = self.stand.lock().clone();
        let (mut epoch, mut found) = match stand {
            Stand::Ours => return None,
            Stand::Bucket(bucket) => return self.of_bucket(bucket, span, told, pace).await,
            Stand::Open(_) if !leases.can_be_had(&self.waited).await => {
                self.stands(Stand::Ours);
                return None;
            }
            Stand::Open(epoch) => (epoch, leases.take(&self.digest, epoch, &self.waited).await),
            // It may give although it is not known any more whose the lease is.
            Stand::Theirs(epoch, replica) => match leases.look(&self.digest, epoch, &self.waited).await {
                Found::Unknown => (epoch, Found::Theirs(replica)),
                found => (epoch, found),
            },
            Stand::Silent(epoch) => (epoch, Found::Nobodys),
        };
        for _ in 0..MOST_LOOKS {
            match found {
                // Who said nothing lately is not waited for once more.
                Found::Theirs(replica) if !leases.silent().may_be_asked(&replica) => {}
                Found::Theirs(replica) => {
                    self.stands(Stand::Theirs(epoch, replica.clone()));
                    let fits = |blob: &UpstreamBlob| told.is_none() || blob.size.is_none() || blob.size == told;
                    if let Said::Gave(blob) = self.ask(&replica, span, self.replicas.patience).await
                        && fits(&blob)
                    {
                        let blob = self.or_left(self.while_it_lives(blob, span, (epoch, replica), pace), epoch);
                        return Some(self.counted(UpstreamBlob { size: blob.size.or(told), ..blob }));
                    }
                }
                Found::Nobodys => {}
                Found::Over => epoch = 0,
                Found::Ours | Found::Unknown => break,
            }
            // Who held it may have ended well.
            if let Some(bucket) = (self.look_again)().await
                && let Some(blob) = self.of_bucket(bucket, span, told, pace).await
            {
                return Some(blob);
            }
            epoch += 1;
            self.stands(Stand::Open(epoch));
            found = leases.take(&self.digest, epoch, &self.waited).await;
        }
        self.stands(Stand::Ours);
        None
    }

    fn stands(&self, stand: Stand) {
        *self.stand.lock() = stand;
    }

    async fn of_bucket(
        self: &Arc<Self>,
        bucket: Arc<InBucket>,
        span: Span,
        told: Option<u64>,
        pace: Pace,
    ) -> Option<UpstreamBlob> {
        let blob = Box::pin(bucket.blob(span, told, pace)).await;
        self.stands(if blob.is_some() { Stand::Bucket(bucket) } else { Stand::Ours });
        blob.map(|blob| self.counted(blob))
    }

    /// What a replica gives. Where nothing comes for half as long as one is patient it is asked for the rest, whether it
    /// lives: it may wait itself.
    fn while_it_lives(
        self: &Arc<Self>,
        blob: UpstreamBlob,
        span: Span,
        (epoch, replica): (u32, String),
        pace: Pace,
    ) -> UpstreamBlob {
        // Of what has no size yet a part is given when it has one.
        if blob.size.is_none() {
            return blob;
        }
        let (silence, rest) = (self.replicas.patience / 2, Span { start: blob.offset, ..span });
        let is_judged = epoch == 1 && pace == Pace::Helps;
        let next = move |(at, mut body, mut rest, mut flow): (Arc<AtReplica>, Body, Span, Flow)| {
            let replica = replica.clone();
            async move {
                let began = Instant::now();
                loop {
                    if let Ok(next) = tokio::time::timeout(silence, body.next()).await {
                        let Some(bytes) = next.transpose()? else { return Ok(None) };
                        rest.start += bytes.len() as u64;
                        if flow.is_slow(began.elapsed(), bytes.len(), at.replicas.patience) && is_judged {
                            return Err(at.is_slow(epoch, &replica));
                        }
                        return Ok(Some((bytes, (at, body, rest, flow))));
                    }
                    match at.ask(&replica, rest, silence).await {
                        Said::Gave(blob) if blob.offset == rest.start && began.elapsed() < LONGEST_WAIT => {
                            body = blob.body
                        }
                        said => {
                            at.has_stopped(epoch, &said);
                            let message = format!("a replica stands still: {replica}");
                            return Err(
                                UpstreamError::new(UpstreamErrorClass::Unavailable, message).after(Contact::Silent)
                            );
                        }
                    }
                }
            }
        };
        let body = stream::try_unfold((Arc::clone(self), blob.body, rest, Flow::default()), next).boxed();
        UpstreamBlob { body, ..blob }
    }

    /// The same from a replica that is left where it breaks off before anything came: asked again, it may do so again.
    fn or_left(self: &Arc<Self>, blob: UpstreamBlob, epoch: u32) -> UpstreamBlob {
        let UpstreamBlob { body, .. } = blob;
        let (at, mut came) = (Arc::clone(self), false);
        let body = body.inspect(move |next| match next {
            Ok(_) => came = true,
            Err(_) if !came => at.has_stopped(epoch, &Said::Nothing),
            Err(_) => {}
        });
        UpstreamBlob { body: body.boxed(), ..blob }
    }

    /// Who has the lease of this epoch gives too little: whoever takes the next one looks whether upstream gives more.
    fn is_slow(&self, epoch: u32, replica: &str) -> UpstreamError {
        *self.slow.lock() = Some((epoch, replica.to_owned()));
        self.has_stopped(epoch, &Said::Nothing);
        let message = format!("a replica gives less than {LEAST_A_SECOND} bytes a second: {replica}");
        UpstreamError::new(UpstreamErrorClass::Unavailable, message).after(Contact::Silent)
    }

    /// Who has the lease of this epoch gives nothing any more; if he says so, he is asked once more what he has.
    fn has_stopped(&self, epoch: u32, said: &Said) {
        let mut stand = self.stand.lock();
        if matches!((&*stand, said), (Stand::Theirs(of, _), Said::Nothing) if *of == epoch) {
            *stand = Stand::Silent(epoch);
        }
    }

    /// Asks until it answers with more than that it waits for upstream itself, or says nothing for so long.
    async fn ask(&self, replica: &str, span: Span, patience: Duration) -> Said {
        let Replicas { leases, ask, metrics, .. } = &self.replicas;
        let Location { upstream, repository } = &self.location;
        let path = format!("/{upstream}/v2/{repository}/blobs/{}", self.digest);
        let (upstream, standing) = (upstream.as_str(), self.standing.as_str());
        let question = Question { method: "GET", upstream, standing, path: &path };
        let until = Instant::now() + LONGEST_WAIT;
        let mut lost = false;
        loop {
            let Some(proof) = leases.prove(&question, replica) else { return Said::Nothing };
            let asked = ask(format!("{replica}{path}"), proof, span);
            let said = match tokio::time::timeout(patience, asked).await {
                Err(_) => {
                    leases.silent().says_nothing(replica);
                    Said::Nothing
                }
                Ok(Ok(blob)) => {
                    leases.silent().answers(replica);
                    Said::Gave(blob)
                }
                Ok(Err(error)) => {
                    tracing::debug!(blob = ?self, replica, %error, "not from that replica");
                    if (error.status, error.contact) == (None, Contact::Silent) {
                        leases.silent().says_nothing(replica);
                    } else {
                        leases.silent().answers(replica);
                    }
                    match (error.status, error.contact) {
                        (Some(503), _) if Instant::now() < until => {
                            tokio::time::sleep(AGAIN).await;
                            continue;
                        }
                        // The connection may have been one that was kept.
                        (None, Contact::Closed) if !std::mem::replace(&mut lost, true) => continue,
                        (Some(429 | 503), _) | (None, Contact::Silent) => Said::Nothing,
                        _ => Said::Refused,
                    }
                }
            };
            metrics.replica_asked(said.word());
            if matches!(said, Said::Nothing) {
                tracing::info!(blob = ?self, replica, "a replica says nothing; another one fetches what is missing");
            }
            return said;
        }
    }

    fn counted(self: &Arc<Self>, blob: UpstreamBlob) -> UpstreamBlob {
        let UpstreamBlob { body, .. } = blob;
        let at = Arc::clone(self);
        let is_of_replica = matches!(*self.stand.lock(), Stand::Theirs(..));
        let body = body.inspect(move |bytes| match bytes {
            Ok(bytes) => {
                at.gave.fetch_add(bytes.len() as u64, Ordering::AcqRel);
                if is_of_replica {
                    at.replicas.metrics.replica_gave(bytes.len() as u64);
                }
            }
            Err(error) => tracing::info!(blob = ?at, %error, "the rest comes from elsewhere"),
        });
        UpstreamBlob { body: body.boxed(), ..blob }
    }
}

impl Said {
    const fn word(&self) -> &'static str {
        match self {
            Said::Gave(_) => "given",
            Said::Refused => "refused",
            Said::Nothing => "silent",
        }
    }
}
