//! What is being fetched, told once a second as long as somebody listens.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::super::{Body, respond_with};
use crate::documents::{self, FillStatus, Fills, RunningFill};
use crate::mirror::Mirror;
use crate::oci::Digest;

/// How often it is told.
const EVERY: Duration = Duration::from_secs(1);
/// How long; who wants more asks again.
const WITHIN: Duration = Duration::from_secs(600);

/// One line each second, at most for a while, and no longer than the listener lives and who hears it `may_hear` it.
pub(super) fn answer<M>(mirror: Mirror, may_hear: M, ending: CancellationToken) -> Response<Body>
where
    M: Fn() -> bool + Send + Sync + 'static,
{
    let lines = lines(move || mirror.running_fills(), ending).take_while(move |_| ready(may_hear()));
    respond_with(StatusCode::OK, "application/jsonl", BodyExt::boxed(StreamBody::new(lines)))
}

fn lines<F>(fills: F, ending: CancellationToken) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync
where
    F: Fn() -> Vec<FillStatus> + Send + Sync,
{
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lines = stream::unfold((fills, ticks, Pace::default()), |(fills, mut ticks, mut pace)| async move {
        let now = ticks.tick().await;
        let told = Fills { fills: pace.told(fills(), now) };
        Some((Ok(Frame::data(Bytes::from(documents::line(&told) + "\n"))), (fills, ticks, pace)))
    });
    lines.take_until(sleep(WITHIN)).take_until(ending.cancelled_owned())
}

/// How fast fills come.
#[derive(Debug, Default)]
struct Pace {
    seen: HashMap<(String, Digest), Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    written: u64,
    per_second: Option<f64>,
}

impl Pace {
    /// These fills, with how fast each has come since it was told last, and a little before that.
    fn told(&mut self, fills: Vec<FillStatus>, now: Instant) -> Vec<RunningFill> {
        let before = std::mem::take(&mut self.seen);
        let running = fills.into_iter().map(|fill| {
            let key = (fill.repository.clone(), fill.digest);
            let seen = seen(before.get(&key), fill.written_bytes, now);
            self.seen.insert(key, seen);
            let left = fill.size_bytes.map(|size| size.saturating_sub(fill.written_bytes));
            RunningFill {
                per_second_bytes: seen.per_second.map(whole),
                left_seconds: seen.per_second.zip(left).and_then(|(rate, left)| time_for(left, rate)),
                fill,
            }
        });
        running.collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn seen(before: Option<&Seen>, written: u64, now: Instant) -> Seen {
    let Some(before) = before else { return Seen { at: now, written, per_second: None } };
    let passed = (now - before.at).as_secs_f64();
    if passed <= 0.0 {
        return *before;
    }
    let lately = written.saturating_sub(before.written) as f64 / passed;
    let per_second = before.per_second.map_or(lately, |before| f64::midpoint(before, lately));
    Seen { at: now, written, per_second: Some(per_second) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never less than nothing")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// How many seconds so many bytes take; nothing where they do not come.
#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn time_for(bytes: u64, per_second: f64) -> Option<u64> {
    (per_second >= 1.0).then(|| whole((bytes as f64 / per_second).ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_fill_has_a_rate_and_a_time_left_as_soon_as_it_was_seen_twice() {
        let fill = |written_bytes| FillStatus {
            repository: "docker.io/library/app".to_owned(),
            digest: Digest::of(Algorithm::Sha256, b"x"),
            written_bytes,
            size_bytes: Some(1000),
            readers: 1,
        };
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut told = |written, seconds| {
            let told = pace.told(vec![fill(written)], start + Duration::from_secs(seconds));
            (told[0].per_second_bytes, told[0].left_seconds)
        };
        assert_eq!(told(100, 0), (None, None));
        assert_eq!(told(300, 2), (Some(100), Some(7)));
        assert_eq!(told(600, 3), (Some(200), Some(2)));
        assert_eq!(told(600, 4), (Some(100), Some(4)));
        for second in 5..20 {
            told(600, second);
        }
        assert_eq!(told(600, 20), (Some(0), None), "what does not come has no end");
        pace.told(Vec::new(), start + Duration::from_secs(21));
        assert!(pace.seen.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_after_a_while_or_with_its_listener() {
        let ending = CancellationToken::new();
        let told = lines(Vec::new, ending.clone()).count().await as u64;
        assert!((600..=601).contains(&told), "a line a second for ten minutes: {told}");
        let mut told = Box::pin(lines(Vec::new, ending.clone()));
        assert!(told.next().await.is_some());
        ending.cancel();
        assert!(told.next().await.is_none());
    }
}
