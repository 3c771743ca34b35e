//! How the bucket is, as its answers tell: whether it says what names there are, how large content is, and gives content.
//! Each of them may be in trouble while the others are well.
//!
//! Whoever reads has his patience; what is waited for longer, and what breaks off or comes too slowly, is a failure of
//! what was asked. Where content does not come, nobody who can have it elsewhere asks for it before it was
//! [looked](super::looking) whether that is over.

use std::time::Duration;

use object_store::Error;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::breaker::Breaker;
use super::listening::{MOST_OF_ANSWER, is_too_long};
use super::{Bucket, Pace, Trouble, is_no_bucket, plainly};
use crate::oci::Digest;

/// What the bucket is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Small objects, and all that is written.
    Names,
    /// How large content is.
    Sizes,
    /// Content.
    Content,
}

impl Asked {
    const fn trouble(self) -> &'static str {
        match self {
            Asked::Names => "it does not answer",
            Asked::Sizes => "it does not say what content it has",
            Asked::Content => "it does not give content",
        }
    }
}

#[derive(Debug)]
pub(super) struct Health {
    names: Breaker,
    sizes: Breaker,
    content: Breaker,
    /// Content that it should have, by which it can be seen whether it gives any.
    sample: Mutex<Option<Digest>>,
    /// What was wrong when it was looked at last.
    seen: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Health {
        // Whoever waits for content in vain has waited for long already.
        let [names, sizes, content] = [3, 2, 2].map(Breaker::after);
        Health { names, sizes, content, sample: Mutex::default(), seen: Mutex::default() }
    }
}

impl Health {
    pub(super) fn of(&self, asked: Asked) -> &Breaker {
        match asked {
            Asked::Names => &self.names,
            Asked::Sizes => &self.sizes,
            Asked::Content => &self.content,
        }
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut all = [Asked::Names, Asked::Content, Asked::Sizes].into_iter();
        let told = all.find_map(|asked| self.of(asked).trouble().map(|why| format!("{}: {why}", asked.trouble())));
        told.or_else(|| self.seen.lock().clone())
    }

    /// It was looked at, and this was wrong.
    pub(super) fn saw(&self, trouble: Option<&Trouble>) {
        *self.seen.lock() = trouble.map(ToString::to_string);
    }

    pub(super) fn sample(&self) -> Option<Digest> {
        *self.sample.lock()
    }

    /// It has, or should have, this content.
    pub(super) fn has(&self, digest: &Digest) {
        if self.content.is_closed() && self.content.wants() == 0 && !is_empty(digest) {
            *self.sample.lock() = Some(*digest);
        }
    }

    /// A name in it leads to this content: by that it can be seen whether it gives any, where nothing better is known.
    fn should_have(&self, digest: &Digest) {
        if !is_empty(digest) {
            self.sample.lock().get_or_insert(*digest);
        }
    }

    /// It has this content no more.
    pub(super) fn has_not(&self, digest: &Digest) {
        let mut sample = self.sample.lock();
        if *sample == Some(*digest) {
            *sample = None;
        }
    }

    /// This content broke off after so many bytes: what broke off last is looked at.
    fn broke_off(&self, digest: &Digest, came: u64) {
        if came.saturating_add(1) >= self.content.wants() && !is_empty(digest) {
            *self.sample.lock() = Some(*digest);
        }
    }
}

/// Whether there is no part of it to ask for.
fn is_empty(digest: &Digest) -> bool {
    *digest == Digest::of(digest.algorithm(), b"")
}

impl Bucket {
    /// Whether it is of use to ask.
    pub(super) fn may_be_asked(&self, asked: Asked) -> Result<(), Trouble> {
        let names = self.health.of(Asked::Names);
        let may = if asked == Asked::Names { names.admits() } else { names.waits().is_zero() };
        if may { Ok(()) } else { Err(Trouble::Away("it did not lately".to_owned())) }
    }

    /// The same for content, and for who asks at this pace.
    pub(super) fn may_give(&self, digest: &Digest, asked: Asked, pace: Pace) -> Result<(), Trouble> {
        self.may_be_asked(asked)?;
        self.health.should_have(digest);
        let left_alone = match pace {
            Pace::Any => None,
            Pace::Helps if self.doubted.has(digest) => Some("it gave this wrongly".to_owned()),
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
                answer => answer.map(Some),
            }
        };
        let mut awaited = Awaited { bucket: self, asked, began: Instant::now(), is_counted: false };
        let answer = self.in_time(asked, self.patience, absent).await;
        let is_of_names = asked == Asked::Names;
        awaited.is_counted = match &answer {
            Err(Trouble::Away(_)) => true,
            Err(Trouble::Refused(_)) => !is_of_names,
            _ => false,
        };
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
                if self.is_quick(began) && asked != Asked::Content {
                    self.is_back(asked);
                }
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.trouble_of(asked, &error, self.is_quick(began))),
            Err(_) => Err(self.stalls(asked)),
        }
    }

    /// Whether what began then took a part of the readers' patience.
    pub(super) fn is_quick(&self, began: Instant) -> bool {
        began.elapsed() <= self.patience / 4
    }

    pub(super) fn is_back(&self, asked: Asked) {
        if self.health.of(asked).well() {
            self.tell_back(asked);
        }
    }

    fn tell_back(&self, asked: Asked) {
        tracing::info!(bucket = self.name, before = asked.trouble(), "the bucket is well again");
    }

    /// So many bytes of content came, and were all that was asked for.
    pub(super) fn gave(&self, digest: &Digest, bytes: u64) {
        if self.health.of(Asked::Content).gave(bytes) {
            self.tell_back(Asked::Content);
        }
        self.health.has(digest);
    }

    pub(super) fn stalls(&self, asked: Asked) -> Trouble {
        self.is_away(asked, "no answer in time".to_owned())
    }

    fn is_away(&self, asked: Asked, why: String) -> Trouble {
        self.failed();
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
            // Who refuses a name answers; content that is refused does not come.
            Trouble::Refused(why) if asked != Asked::Names => drop(self.is_away(asked, why.clone())),
            _ => self.failed(),
        }
        // What else it says may be right.
        if is_quick && asked == Asked::Names && !is_too_long(error) {
            self.is_back(asked);
        }
        trouble
    }

    /// The same, and nothing is made of it.
    pub(super) fn named(&self, error: &Error) -> Trouble {
        match error {
            _ if is_no_bucket(error) => Trouble::Refused("no such bucket: make it".to_owned()),
            _ if is_too_long(error) => Trouble::Refused(format!("an answer of more than {MOST_OF_ANSWER} bytes")),
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Trouble::Changed,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotFound { .. } => {
                Trouble::Refused(plainly(error))
            }
            _ => Trouble::Away(plainly(error)),
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
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_counted && !self.bucket.is_quick(self.began) {
            let _ = self.bucket.is_away(self.asked, "it takes too long to answer".to_owned());
        }
    }
}
