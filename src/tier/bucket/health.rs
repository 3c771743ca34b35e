//! How the bucket is, as its answers tell: whether it says what names there are, how large content is, gives content, and
//! takes what is written. Each of them may be in trouble while the others are well.
//!
//! Whoever reads has his patience; what is waited for longer, and what breaks off or comes too slowly, is a failure of
//! what was asked; so is what comes late again and again, once readers have lost the most of one patience with it. Who has nobody else to ask goes by whether it answers within his patience at all. Where content does
//! not come, nobody who can have it elsewhere asks for it before it was [looked](super::looking) whether that is over; but
//! for what is no longer than content that was seen to come whole all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::Error;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::breaker::Breaker;
use super::delays::Delays;
use super::flow::LEAST_A_SECOND;
use super::listening::{MOST_OF_ANSWER, elsewhere, is_too_long};
use super::samples::Samples;
use super::trouble::{is_forbidden, is_no_bucket, is_of_the_clock, may_be_absent, plainly};
use super::{Bucket, DEADLINE, Pace, Trouble};
use crate::clock::{Clock as _, SystemClock};
use crate::oci::Digest;

/// While it takes nothing it is tried so often at least: an object of a few bytes, for which nobody waits.
const WRITES_TRIED_EVERY: Duration = Duration::from_secs(5);

/// What the bucket is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Small objects.
    Names,
    /// How large content is.
    Sizes,
    /// Content.
    Content,
    /// To take what is written, behind everybody.
    Writes,
    /// To take a lease, for which a reader waits.
    Leases,
}

impl Asked {
    const fn trouble(self) -> &'static str {
        match self {
            Asked::Names => "it does not answer",
            Asked::Sizes => "it does not say what content it has",
            Asked::Content => "it does not give content",
            Asked::Writes => "it does not take what is written",
            Asked::Leases => "it takes no leases",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[derive(Debug)]
pub(super) struct Health {
    names: Breaker,
    /// Whether it says within the readers' patience what names there are, however slowly.
    names_at_all: Breaker,
    sizes: Breaker,
    content: Breaker,
    writes: Breaker,
    leases: Breaker,
    /// What readers lost with leases, and with what they read.
    delays: Delays,
    reads: Delays,
    samples: Mutex<Samples>,
    /// What was wrong when it was looked at last; nothing where nobody has looked yet.
    seen: Mutex<Option<Result<(), String>>>,
    /// Whether it says of what is absent that we may not have it.
    hides_absence: AtomicBool,
}

impl Default for Health {
    fn default() -> Health {
        // Whoever waits for content in vain has waited for long already.
        let [names, names_at_all, sizes, content] = [3, 3, 2, 2].map(Breaker::after);
        let [writes, leases] = [2, 2].map(|failures| Breaker::after(failures).resting(WRITES_TRIED_EVERY));
        let ([delays, reads], samples, seen) = (Default::default(), Mutex::default(), Mutex::default());
        let hides_absence = AtomicBool::default();
        Health { names, names_at_all, sizes, content, writes, leases, delays, reads, samples, seen, hides_absence }
    }
}

impl Health {
    pub(super) fn of(&self, asked: Asked) -> &Breaker {
        match asked {
            Asked::Names => &self.names,
            Asked::Sizes => &self.sizes,
            Asked::Content => &self.content,
            Asked::Writes => &self.writes,
            Asked::Leases => &self.leases,
        }
    }

    /// Whether it says what names there are, to who asks at this pace.
    pub(super) fn of_names(&self, pace: Pace) -> &Breaker {
        match pace {
            Pace::Helps => &self.names,
            Pace::Any => &self.names_at_all,
        }
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble_of_readers().or_else(|| self.told(&[Asked::Writes, Asked::Leases]))
    }

    /// The same, as far as those care who only read.
    pub(super) fn trouble_of_readers(&self) -> Option<String> {
        let told = self.told(&[Asked::Names, Asked::Content, Asked::Sizes]);
        told.or_else(|| self.seen.lock().clone()?.err())
    }

    fn told(&self, all: &[Asked]) -> Option<String> {
        all.iter().find_map(|asked| self.of(*asked).trouble().map(|why| format!("{}: {why}", asked.trouble())))
    }

    /// It was looked at, and this came of it for those who read.
    pub(super) fn saw(&self, looked: &Result<(), Trouble>) {
        *self.seen.lock() = Some(looked.clone().map_err(|trouble| trouble.to_string()));
    }

    /// Whether anybody has looked.
    pub(super) fn was_seen(&self) -> bool {
        self.seen.lock().is_some()
    }

    /// Content by which it can be seen whether it gives any.
    pub(super) fn sample(&self) -> Option<Digest> {
        self.samples.lock().next()
    }

    /// That did not come.
    pub(super) fn missed(&self) {
        self.samples.lock().missed();
    }

    /// Whether it gives content, where all of this came.
    pub(super) fn is_told_by(&self, digest: &Digest) -> bool {
        self.samples.lock().is_told_by(digest)
    }

    /// Content of so many bytes came whole, and is too short to say anything of what broke off.
    pub(super) fn came_whole(&self, bytes: u64) {
        self.samples.lock().came_whole(bytes);
    }

    /// This content did not come.
    pub(super) fn did_not_come(&self, digest: &Digest) {
        self.samples.lock().did_not_come(digest);
    }

    /// It has, or should have, this content.
    pub(super) fn has(&self, digest: &Digest) {
        if self.content.is_closed() && self.content.wants() == 0 && !is_empty(digest) {
            self.samples.lock().has(digest);
        }
    }

    /// A name in it leads to this content: by that it can be seen whether it gives any, where nothing better is known.
    fn should_have(&self, digest: &Digest) {
        let mut samples = self.samples.lock();
        if !is_empty(digest) && (samples.is_empty() || !self.content.is_closed()) {
            samples.should_have(digest);
        }
    }

    /// It has this content no more. Whether no other is known.
    pub(super) fn has_not(&self, digest: &Digest) -> bool {
        self.samples.lock().has_not(digest)
    }

    /// This content broke off after so many bytes: what broke off last is looked at.
    fn broke_off(&self, digest: &Digest, came: u64) {
        self.did_not_come(digest);
        if came.saturating_add(1) >= self.content.wants() && !is_empty(digest) {
            self.samples.lock().broke_off(digest);
        }
    }
}

/// Whether there is no part of it to ask for.
fn is_empty(digest: &Digest) -> bool {
    *digest == Digest::of(digest.algorithm(), b"")
}

impl Bucket {
    /// Whether it is of use to ask at this pace.
    pub(super) fn may_be_asked(&self, asked: Asked, pace: Pace) -> Result<(), Trouble> {
        let names = self.health.of_names(pace);
        let may = match asked {
            Asked::Names => names.admits(),
            // Whether it takes any again is looked at behind everybody.
            Asked::Leases => names.waits().is_zero() && self.takes_leases(),
            Asked::Sizes | Asked::Content | Asked::Writes => names.waits().is_zero(),
        };
        if may { Ok(()) } else { Err(Trouble::Away("it did not lately".to_owned())) }
    }

    /// The same for content, which may be known to have so many bytes, and for who asks at this pace.
    pub(super) fn may_give(
        &self,
        (digest, size): (&Digest, Option<u64>),
        asked: Asked,
        pace: Pace,
    ) -> Result<(), Trouble> {
        self.may_be_asked(asked, pace)?;
        self.health.should_have(digest);
        let comes_all_the_same =
            || asked == Asked::Content && size.is_some_and(|size| self.health.samples.lock().gives_short(digest, size));
        let left_alone = match pace {
            Pace::Any => None,
            Pace::Helps if self.doubted.has(digest) => Some("it gave this wrongly".to_owned()),
            Pace::Helps if comes_all_the_same() => None,
            Pace::Helps => self.health.of(asked).trouble(),
        };
        left_alone.map_or(Ok(()), |why| Err(Trouble::LeftAlone(why)))
    }

    /// What a reader is given, within his patience; `None` for what is not there.
    pub(super) async fn patiently<T>(
        &self,
        asked: Asked,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Trouble> {
        let absent = async {
            match answer.await {
                Err(error) if matches!(error, Error::NotFound { .. }) && !is_no_bucket(&error) => Ok(None),
                Err(error) if may_be_absent(&error) && self.health.hides_absence.load(Ordering::Acquire) => Ok(None),
                answer => answer.map(Some),
            }
        };
        let mut awaited = Awaited { bucket: self, asked, began: Instant::now(), is_counted: false, is_answered: false };
        let answer = self.in_time(asked, self.patience, absent).await;
        awaited.is_answered = answer.is_ok();
        awaited.is_counted = match &answer {
            Err(Trouble::Away(_)) => true,
            Err(Trouble::Refused(_)) if !matches!(asked, Asked::Names | Asked::Writes) => true,
            // Late is better than not for who has nobody else.
            _ => self.pace == Pace::Any,
        };
        if asked == Asked::Names && !matches!(answer, Err(Trouble::Away(_))) {
            self.health.names_at_all.well();
        }
        answer
    }

    pub(super) async fn in_time<T>(
        &self,
        asked: Asked,
        deadline: Duration,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        let began = Instant::now();
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => {
                // Of content the beginning says nothing of the rest.
                if self.is_sound(asked, began) && asked != Asked::Content {
                    self.is_back(asked);
                }
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.trouble_of(asked, &error, self.is_sound(asked, began))),
            Err(_) => Err(self.stalls(asked)),
        }
    }

    /// The same for so many bytes that are written, for which no reader waits. That it takes them too slowly is known
    /// before they are given up.
    pub(super) async fn written<T>(
        &self,
        bytes: u64,
        deadline: Duration,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        let quickly = (self.patience + Duration::from_secs(bytes / LEAST_A_SECOND)).min(deadline);
        let mut answer = std::pin::pin!(answer);
        let (answer, is_quick) = match tokio::time::timeout(quickly, &mut answer).await {
            Ok(answer) => (answer, true),
            Err(_) => {
                let slow = self.is_away(Asked::Writes, "it takes too long".to_owned());
                let late = tokio::time::timeout(deadline.saturating_sub(quickly), answer).await;
                (late.map_err(|_| slow)?, false)
            }
        };
        match answer {
            Ok(answer) => {
                if is_quick {
                    self.is_back(Asked::Writes);
                }
                Ok(answer)
            }
            Err(error) => Err(self.trouble_of(Asked::Writes, &error, is_quick)),
        }
    }

    /// What is removed, if it was there. For it nobody waits, and it says nothing of what else may be asked.
    pub(super) async fn taken_away(&self, answer: impl Future<Output = Result<(), Error>>) -> Result<(), Trouble> {
        let trouble = match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(()) | Err(Error::NotFound { .. })) => return Ok(()),
            Ok(Err(error)) => self.named(&error),
            Err(_) => Trouble::Away("no answer in time".to_owned()),
        };
        self.failed();
        Err(trouble)
    }

    /// Finds out whether it hides from this key what is absent, as a store does from who may not list. The object under
    /// this key is there.
    pub(in crate::tier) async fn look_for_absence(&self, present: &str) -> Result<(), Trouble> {
        let hidden = match self.read(&format!("{present}-absent"), 1).await {
            Ok(_) => return Ok(()),
            Err(hidden @ Trouble::Refused(_)) => hidden,
            Err(trouble) => return Err(trouble),
        };
        self.read(present, 64).await?.ok_or(hidden)?;
        if !self.health.hides_absence.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                bucket = self.name,
                "the key may not list (s3:ListBucket), and what it may not have counts as absent: nothing is collected there, and `store pull` brings nothing"
            );
        }
        Ok(())
    }

    /// Whether what began then took a part of the readers' patience.
    pub(super) fn is_quick(&self, began: Instant) -> bool {
        began.elapsed() <= self.patience / 4
    }

    /// Whether what began then came so soon that it says that all is well: a pull waits for many leases, and for as many
    /// answers, where it is known that these come late.
    fn is_sound(&self, asked: Asked, began: Instant) -> bool {
        let is_one_of_many = match asked {
            Asked::Leases => true,
            Asked::Names | Asked::Sizes | Asked::Content => !self.health.of(asked).is_closed(),
            Asked::Writes => false,
        };
        if is_one_of_many { !self.is_late(began) } else { self.is_quick(began) }
    }

    /// Whether what began then took so long that it is no help to who waits for many of it.
    pub(super) fn is_late(&self, began: Instant) -> bool {
        began.elapsed() > self.patience / 8
    }

    /// What many lose together is no more than the most of what one reader is patient.
    fn too_much(&self) -> Duration {
        self.patience * 3 / 4
    }

    /// Somebody who has others to ask waited for what he reads since then. What is lost so, by one answer after the other
    /// that comes late, is lost once; then what came late is left alone for as long as it can be, or until a look at it
    /// finds that it comes soon.
    fn was_read(&self, asked: Asked, began: Instant) {
        let now = Instant::now();
        let Some(late) = self.is_late(began).then(|| self.health.reads.add(asked.bit(), began, now, self.too_much()))
        else {
            return;
        };
        for asked in [Asked::Names, Asked::Sizes, Asked::Content] {
            if late.is_some_and(|late| late & asked.bit() != 0) {
                let why = "its answers come late, one after the other";
                let is_left = self.health.of(asked).is_to_rest(why);
                self.tell_left(asked, is_left, why);
            }
        }
    }

    /// Somebody waited for a lease since then. What is lost with them in half a minute is no more than the most of what
    /// one reader is patient: one that never comes, or one after the other that comes slowly.
    pub(in crate::tier) fn was_waited_for(&self, began: Instant) {
        let (now, bit) = (Instant::now(), Asked::Leases.bit());
        if self.is_late(began) && self.health.delays.add(bit, began, now, self.too_much()).is_some() {
            let why = "it takes leases slowly";
            let is_left = self.health.leases.ill_enough(why);
            self.tell_left(Asked::Leases, is_left, why);
        }
    }

    pub(super) fn is_back(&self, asked: Asked) {
        if asked == Asked::Content {
            self.health.samples.lock().came();
        }
        if self.health.of(asked).well() {
            self.tell_back(asked);
        }
    }

    fn tell_back(&self, asked: Asked) {
        tracing::info!(bucket = self.name, before = asked.trouble(), "the bucket is well again");
    }

    /// So many bytes of content came, and were all that was asked for; whether they began to come late.
    pub(super) fn gave(&self, digest: &Digest, bytes: u64, is_late: bool) {
        let content = self.health.of(Asked::Content);
        if content.is_enough(bytes) && (!is_late || content.is_closed()) {
            self.is_back(Asked::Content);
        }
        self.health.has(digest);
    }

    pub(super) fn stalls(&self, asked: Asked) -> Trouble {
        self.is_away(asked, "no answer in time".to_owned())
    }

    fn is_away(&self, asked: Asked, why: String) -> Trouble {
        self.failed();
        if asked == Asked::Names {
            self.health.names_at_all.ill(&why);
        }
        self.is_of_no_help(asked, why)
    }

    /// What was asked did not come, or so late that it is of no help to who has others to ask.
    fn is_of_no_help(&self, asked: Asked, why: String) -> Trouble {
        let is_left = self.health.of(asked).ill(&why);
        self.tell_left(asked, is_left, &why);
        Trouble::Away(why)
    }

    /// Content broke off after so many bytes, or came too slowly.
    pub(super) fn broke_off(&self, digest: &Digest, why: &str, came: u64) {
        self.failed();
        self.health.broke_off(digest, came);
        let is_left = self.health.of(Asked::Content).broke_off(why, came);
        self.tell_left(Asked::Content, is_left, why);
    }

    fn tell_left(&self, asked: Asked, is_left: bool, why: &str) {
        if is_left {
            let trouble = asked.trouble();
            tracing::warn!(
                bucket = self.name,
                trouble,
                why,
                "the bucket is left alone for a while; pulls go on without it"
            );
        }
    }

    /// It did not do what it was asked for.
    fn failed(&self) {
        self.metrics.iter().for_each(|metrics| metrics.bucket_failed());
    }

    /// What an error is; whether it came quickly enough to say that the bucket answers.
    pub(super) fn trouble_of(&self, asked: Asked, error: &Error, is_quick: bool) -> Trouble {
        let trouble = self.named(error);
        match &trouble {
            Trouble::Changed => {}
            Trouble::Away(why) => return self.is_away(asked, why.clone()),
            // Who refuses a name answers, and may take another; content that is refused does not come.
            Trouble::Refused(why) if !matches!(asked, Asked::Names | Asked::Writes) => {
                drop(self.is_away(asked, why.clone()));
            }
            _ => self.failed(),
        }
        let is_answer = match asked {
            // What else it says may be right.
            Asked::Names => !is_too_long(error) && elsewhere(error).is_none(),
            Asked::Writes | Asked::Leases => trouble == Trouble::Changed,
            Asked::Sizes | Asked::Content => false,
        };
        if is_quick && is_answer {
            self.is_back(asked);
        }
        trouble
    }

    /// The same, and nothing is made of it.
    pub(super) fn named(&self, error: &Error) -> Trouble {
        match error {
            _ if is_no_bucket(error) => Trouble::Refused("no such bucket: make it".to_owned()),
            _ if is_of_the_clock(error) => {
                let clocks = self.time.against(SystemClock.now());
                Trouble::Refused(format!("{clocks}: set it right"))
            }
            _ if is_forbidden(error) => {
                Trouble::Refused(format!("the key may not do that, or is wrong: {}", plainly(error)))
            }
            _ if is_too_long(error) => Trouble::Refused(format!("an answer of more than {MOST_OF_ANSWER} bytes")),
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Trouble::Changed,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotFound { .. } => {
                Trouble::Refused(plainly(error))
            }
            _ => Trouble::Away(elsewhere(error).map_or_else(|| plainly(error), ToString::to_string)),
        }
    }
}

/// What somebody waits for. Who asks for one thing after another waits for all of them: a bucket that takes a part of his
/// patience for one, be it answered then or given up, is no help.
struct Awaited<'a> {
    bucket: &'a Bucket,
    asked: Asked,
    began: Instant,
    is_counted: bool,
    is_answered: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_counted && !self.bucket.is_quick(self.began) {
            self.bucket.failed();
            let _ = self.bucket.is_of_no_help(self.asked, "it takes too long to answer".to_owned());
        }
        match self.asked {
            Asked::Leases => self.bucket.was_waited_for(self.began),
            // Of content that does not come that alone is known.
            Asked::Sizes | Asked::Content if !self.is_answered => {}
            Asked::Names | Asked::Sizes | Asked::Content if self.bucket.pace == Pace::Helps => {
                self.bucket.was_read(self.asked, self.began);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
