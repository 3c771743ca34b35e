//! What is known of the answer on a connection: while one is under way, the client may have said all that
//! it had to say and still gets it (RFC 9112, 9.6).
//!
//! hyper's own switch for that looks at nothing while an answer is under way, so it would not see a client
//! that hangs up with a reset either, and upstream would be read on for nobody. Here the end of what the
//! client sends is kept from hyper as long as an answer is under way; a reset is not.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Whether an answer is under way on a connection, or was cut.
#[derive(Clone, Debug, Default)]
pub struct Answering(Arc<State>);

#[derive(Debug)]
struct State {
    born: Instant,
    /// Since when the client waits for us: in milliseconds since then and one, or 0.
    waits: AtomicU64,
    under: AtomicBool,
    /// Whether nothing more of the request is wanted.
    said: AtomicBool,
    cut: AtomicBool,
    /// How many answers were begun.
    begun: AtomicU32,
    /// Whether something was read since the last request.
    heard: AtomicBool,
    /// Whether bytes wait for the client to take them.
    untaken: AtomicBool,
    /// How many bytes the client had taken when bytes waited last.
    taken: AtomicU64,
    /// Since when it takes nothing of those that wait, likewise in milliseconds and one, or 0.
    still: AtomicU64,
}

impl Default for State {
    fn default() -> State {
        let [under, said, cut, heard, untaken] = Default::default();
        let [waits, taken, still] = Default::default();
        let (born, begun) = (Instant::now(), AtomicU32::default());
        State { born, waits, under, said, cut, begun, heard, untaken, taken, still }
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }
}

impl Answering {
    /// From now on until what is returned is dropped.
    pub(super) fn begin(&self) -> Under {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.said.store(true, Ordering::Release);
        self.0.under.store(true, Ordering::Release);
        self.waits(true);
        Under(self.clone())
    }

    /// Whether a request was sent ahead: it came with what was read for an earlier one.
    pub(super) fn was_sent_ahead(&self) -> bool {
        !self.0.heard.swap(false, Ordering::Relaxed)
    }

    /// Takes note of whether the client waits for us.
    fn waits(&self, waits: bool) {
        let waited = self.0.waits.load(Ordering::Relaxed) > 0;
        if waits != waited {
            self.0.waits.store(if waits { self.0.now() } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Since when the client waits for an answer, or for more of it, while it has taken all there is.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let since = self.0.waits.load(Ordering::Relaxed).checked_sub(1)?;
        (!self.0.untaken.load(Ordering::Relaxed)).then(|| self.0.born + Duration::from_millis(since))
    }

    fn is_under_way(&self) -> bool {
        self.0.under.load(Ordering::Acquire)
    }

    /// Between which answers the connection rests, if it does.
    pub(super) fn rest(&self) -> Option<u32> {
        let rests = !self.is_under_way() && !self.0.untaken.load(Ordering::Relaxed);
        rests.then(|| self.0.begun.load(Ordering::Relaxed))
    }

    /// The client has taken so many bytes since the connection began.
    pub(super) fn taken(&self, bytes: u64) {
        if self.0.taken.swap(bytes, Ordering::Relaxed) != bytes {
            self.0.still.store(self.0.now(), Ordering::Relaxed);
        }
    }

    /// How long the client has taken nothing of what waits for it.
    pub(super) fn still_for(&self) -> Duration {
        let waits = self.0.untaken.load(Ordering::Relaxed);
        let still = self.0.now().saturating_sub(self.0.still.load(Ordering::Relaxed));
        if waits { Duration::from_millis(still) } else { Duration::ZERO }
    }

    /// While bytes wait for the client to take them: how many he took before.
    pub(super) fn lets_wait(&self) -> Option<u64> {
        self.0.untaken.load(Ordering::Relaxed).then(|| self.0.taken.load(Ordering::Relaxed))
    }

    /// Takes note of whether bytes went.
    pub(super) fn went<T>(&self, went: Poll<T>) -> Poll<T> {
        if self.0.untaken.load(Ordering::Relaxed) != went.is_pending() {
            self.0.still.store(self.0.now(), Ordering::Relaxed);
            self.0.untaken.store(went.is_pending(), Ordering::Relaxed);
        }
        went
    }

    /// Whether the client waits for an answer, and needs to say nothing more for it.
    fn is_waited_for(&self) -> bool {
        self.is_under_way() && self.0.said.load(Ordering::Acquire)
    }

    /// Whether an answer was begun that will not be ended, if the connection ends now.
    pub(super) fn is_cut(&self) -> bool {
        self.is_under_way() || self.0.cut.load(Ordering::Acquire)
    }
}

/// An answer is under way as long as this lives.
#[derive(Debug)]
pub(super) struct Under(Answering);

impl Drop for Under {
    fn drop(&mut self) {
        self.0.waits(false);
        self.0.0.under.store(false, Ordering::Release);
    }
}

/// A stream whose end is not told while an answer is under way.
#[derive(Debug)]
pub(super) struct HalfClosed<S> {
    pub(super) stream: S,
    pub(super) answering: Answering,
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let at_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        if buffer.filled().len() > before {
            this.answering.0.heard.store(true, Ordering::Relaxed);
        }
        // Whoever reads for the next request does so when the answer is over, and then sees the end.
        if at_end && this.answering.is_waited_for() { Poll::Pending } else { read }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let went = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.answering.went(went)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let went = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.answering.went(went)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let went = Pin::new(&mut this.stream).poll_flush(context);
        this.answering.went(went)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// An answer under way: what makes it, then its body.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    under: Under,
}

impl<B> Answer<B> {
    /// Begins with what makes the answer, to a request of which everything was `said` where it has no body. It is
    /// under way from this call on: hyper looks for the end of what the client sends before it asks for the answer,
    /// also behind a body. Where that is not made at once, more of the body may be wanted, and its end, too.
    pub(super) fn of<F: Future<Output = Response<B>>>(
        answering: &Answering,
        said: bool,
        answered: F,
    ) -> impl Future<Output = Response<Answer<B>>> + use<B, F> {
        let under = answering.begin();
        async move {
            let (mut answered, mut may_want_more) = (pin!(answered), !said);
            let response = poll_fn(|context| {
                let made = answered.as_mut().poll(context);
                if std::mem::take(&mut may_want_more) && made.is_pending() {
                    under.0.0.said.store(false, Ordering::Release);
                    context.waker().wake_by_ref();
                }
                made
            });
            let response = response.await;
            under.0.0.said.store(true, Ordering::Release);
            under.0.waits(false);
            response.map(|body| Answer { body, under })
        }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        this.under.0.waits(frame.is_pending());
        if matches!(frame, Poll::Ready(Some(Err(_)))) {
            this.under.0.0.cut.store(true, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
