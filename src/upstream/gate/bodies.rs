//! Bodies that are under way from an upstream, each with its places, and which of them gives them up.
//!
//! Truth: who reads slowly keeps nobody else from an upstream. A body whose reader lets what came lie gives its
//! places up as soon as somebody waits for one, and one that mostly waits for its reader does for another client. Where
//! a client waits who has no place, one of a client who has several does, however well it goes on.
//! Its reader is told of a break, and goes on from where he is when it is his turn again.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clients::{ClientId, Turn};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How long a reader may let lie what came while somebody waits.
const STILL: Duration = Duration::from_secs(1);

type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// The bodies that are under way.
#[derive(Clone, Default)]
pub(super) struct Bodies(Arc<Mutex<Vec<Weak<Open>>>>);

/// A body that is under way.
struct Open {
    client: ClientId,
    begun: Instant,
    state: Mutex<State>,
    /// Since when there is something that its reader has not asked for. Apart from the state, because it is
    /// told of while that is locked.
    ready: Mutex<Option<Instant>>,
    reader: AtomicWaker,
}

struct State {
    /// The bytes, and the places that they take; `None` when they were given up.
    body: Option<(Body, [Turn; 2])>,
    /// How long what came lay there in all.
    lay: Duration,
}

impl Wake for Open {
    fn wake(self: Arc<Open>) {
        self.ready.lock().get_or_insert_with(Instant::now);
        self.reader.wake();
    }
}

impl Open {
    /// How long what came lies there now, if that is a reason to give way to `other`.
    fn lies(&self, other: ClientId) -> Option<Duration> {
        let now = self.ready.lock().map(|since| since.elapsed())?;
        let all = now + self.state.lock().lay;
        let is_slow = self.client != other && all >= STILL && all * 2 >= self.begun.elapsed();
        (now >= STILL || is_slow).then_some(now)
    }

    fn is_called_back(&self) -> bool {
        let state = self.state.lock();
        state.body.as_ref().is_some_and(|(_, places)| places.iter().any(Turn::is_called_back))
    }

    fn give_up(&self) {
        let body = self.state.lock().body.take();
        drop(body);
        self.reader.wake();
    }
}

impl Bodies {
    /// A body for `client` that holds these places until it is dropped, or gives way.
    pub(super) fn begin(&self, client: ClientId, body: Body, places: [Turn; 2]) -> Body {
        let state = State { body: Some((body, places)), lay: Duration::ZERO };
        let open = Arc::new(Open {
            client,
            begun: Instant::now(),
            state: Mutex::new(state),
            ready: Mutex::new(Some(Instant::now())),
            reader: AtomicWaker::new(),
        });
        let mut all = self.0.lock();
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(&open));
        Box::pin(Reader(open))
    }

    /// Somebody waits for a place: who was called back gives way, else one body that lies. Of those the client
    /// goes first who has most of them.
    pub(super) fn make_way(&self, waiting: ClientId) {
        let all: Vec<Arc<Open>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let called: Vec<_> = all.iter().filter(|open| open.is_called_back()).collect();
        if !called.is_empty() {
            return called.into_iter().for_each(|open| open.give_up());
        }
        let of = |client: ClientId| all.iter().filter(|open| open.client == client).count();
        let first = all
            .iter()
            .filter_map(|open| Some((of(open.client), open.lies(waiting)?, open)))
            .max_by_key(|(bodies, lies, _)| (*bodies, *lies));
        if let Some((_, _, open)) = first {
            open.give_up();
        }
    }
}

/// Who reads a body. Dropping it ends the body.
struct Reader(Arc<Open>);

impl Stream for Reader {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let open = &self.0;
        open.reader.register(context.waker());
        let lay = open.ready.lock().take().map(|since| since.elapsed());
        let mut state = open.state.lock();
        state.lay += lay.unwrap_or_default();
        let Some((body, _)) = &mut state.body else {
            let message = "the connection was given to somebody who waited while what came lay there";
            return Poll::Ready(Some(Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message))));
        };
        let waker = Waker::from(Arc::clone(open));
        let polled = body.as_mut().poll_next(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            open.ready.lock().get_or_insert_with(Instant::now);
        }
        polled
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::clients::Turns;

    const GREEDY: ClientId = ClientId::V6(1);
    const HONEST: ClientId = ClientId::V6(2);

    async fn begin(bodies: &Bodies, places: &Turns, client: ClientId, body: Body) -> Body {
        let held = [places.take(client).await, places.take(client).await];
        bodies.begin(client, body, held)
    }

    fn plenty() -> Body {
        stream::repeat_with(|| Ok(Bytes::from_static(b"bytes"))).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_whose_reader_stands_still_gives_way_and_one_whose_upstream_does_stays() {
        let (bodies, places) = (Bodies::default(), Turns::new(4));
        let mut still = begin(&bodies, &places, GREEDY, plenty()).await;
        let (upstream, mut comes) = mpsc::unbounded_channel();
        let body = stream::poll_fn(move |context| comes.poll_recv(context)).boxed();
        let mut waits = begin(&bodies, &places, GREEDY, body).await;
        assert!(still.next().await.expect("bytes").is_ok());
        assert!(futures_util::poll!(waits.next()).is_pending());
        bodies.make_way(GREEDY);
        assert!(still.next().await.expect("bytes").is_ok(), "he has only just asked");
        tokio::time::advance(STILL).await;
        bodies.make_way(GREEDY);
        bodies.make_way(GREEDY);
        drop(places.take(HONEST).await);
        let told = still.next().await.expect("told").expect_err("it was given up");
        assert!(told.class.is_outage(), "{told}");
        upstream.send(Ok(Bytes::from_static(b"late"))).expect("somebody reads");
        assert_eq!(waits.next().await.expect("bytes").expect("it stayed"), "late");
        // What comes and nobody takes, also where it was asked for once.
        assert!(futures_util::poll!(waits.next()).is_pending());
        upstream.send(Ok(Bytes::from_static(b"unread"))).expect("somebody reads");
        tokio::time::advance(STILL).await;
        bodies.make_way(HONEST);
        assert!(waits.next().await.expect("told").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_is_slow_gives_way_to_others_only_and_a_swift_one_to_nobody() {
        let (bodies, places) = (Bodies::default(), Turns::new(6));
        let slowly = |every: u64| {
            let pieces = stream::repeat_with(|| Ok(Bytes::from_static(b"bytes")));
            pieces.then(move |piece| async move {
                tokio::time::sleep(Duration::from_millis(every)).await;
                piece
            })
        };
        let mut slow = begin(&bodies, &places, GREEDY, plenty()).await;
        let mut swift = begin(&bodies, &places, GREEDY, slowly(500).boxed()).await;
        for _ in 0..6 {
            let (one, other) = tokio::join!(slow.next(), swift.next());
            assert!(one.and(other).expect("bytes").is_ok());
        }
        bodies.make_way(GREEDY);
        assert!(slow.next().await.expect("bytes").is_ok(), "his own requests are no others");
        tokio::time::advance(STILL / 4).await;
        bodies.make_way(HONEST);
        assert!(slow.next().await.expect("told").is_err());
        assert!(swift.next().await.expect("bytes").is_ok());
        bodies.make_way(HONEST);
        assert!(swift.next().await.expect("bytes").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_most_bodies_gives_way_first() {
        let (bodies, places) = (Bodies::default(), Turns::new(6));
        let mut of_other = begin(&bodies, &places, ClientId::V6(3), plenty()).await;
        let mut of_greedy =
            [begin(&bodies, &places, GREEDY, plenty()).await, begin(&bodies, &places, GREEDY, plenty()).await];
        tokio::time::advance(STILL).await;
        bodies.make_way(HONEST);
        assert!(of_other.next().await.expect("bytes").is_ok());
        let mut told = 0;
        for body in &mut of_greedy {
            told += usize::from(body.next().await.expect("an answer").is_err());
        }
        assert_eq!(told, 1);
    }
}
