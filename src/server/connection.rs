//! A TCP connection to a client: it ends in order or by a reset, and its client may be slow, not still.
//!
//! Truths: a connection that is dropped in the middle of an answer is reset, so that no client takes a cut
//! for the end of a body, whatever frames it; after an answer it is not, because that would take from the
//! client what it has not read yet. Time counts only while the client lets bytes wait: in each
//! window of it the client must take some, however it spreads them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::half_closed::Answering;

/// How many bytes a client must take for each second that bytes wait for it: less than any link that
/// somebody would pull an image over.
pub(super) const BYTES_A_SECOND: u64 = 1 << 10;
/// How often it is written down what a client has taken that lets bytes wait.
const LOOK: Duration = Duration::from_secs(1);

/// How many bytes that were written to a socket its other side has not taken yet.
pub type Untaken = fn(&TcpStream) -> io::Result<u64>;

/// A connection to a client.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    pace: Pace,
    /// How many bytes were written.
    written: u64,
    look: Option<Pin<Box<Sleep>>>,
    untaken: Untaken,
    answering: Answering,
}

impl Connection {
    /// Gives up a client that, while bytes wait for it for `window`, takes fewer than a slow one would.
    pub const fn new(stream: TcpStream, window: Duration, answering: Answering, untaken: Untaken) -> Connection {
        Connection { stream, pace: Pace::new(window), written: 0, look: None, untaken, answering }
    }

    /// The socket. Whoever writes to it besides this tells what was [taken](Connection::took).
    pub const fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The client took so many bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when they were too few for the time that they waited.
    pub fn took(&mut self, bytes: usize) -> io::Result<()> {
        self.written += bytes as u64;
        self.pace.took(bytes as u64)
    }

    /// Bytes wait. What the client has taken meanwhile is written down, for the kernel lets us write only now and then.
    fn poll_still(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        while look.as_mut().poll(context).is_ready() {
            self.answering.taken(self.written.saturating_sub((self.untaken)(&self.stream).unwrap_or(0)));
            look.as_mut().reset(Instant::now() + LOOK);
        }
        self.pace.poll_waiting(context)
    }

    /// Waits until the socket takes bytes, as long as its client is not still.
    pub fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream.poll_write_ready(context) {
            Poll::Pending => self.poll_still(context).map(Err),
            ready => ready,
        }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.poll_still(context).map(Err),
            Poll::Ready(Ok(bytes)) => Poll::Ready(self.took(bytes).map(|()| bytes)),
            failed => failed,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.answering.is_cut() {
            // Closing a socket tells its end in order otherwise.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// How fast a client takes what waits for it.
#[derive(Debug)]
struct Pace {
    window: Duration,
    /// Since when bytes wait, if they do.
    since: Option<Instant>,
    /// For how long bytes waited in this window before that, and how many went.
    waited: Duration,
    taken: u64,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    const fn new(window: Duration) -> Pace {
        Pace { window, since: None, waited: Duration::ZERO, taken: 0, alarm: None }
    }

    fn took(&mut self, bytes: u64) -> io::Result<()> {
        self.taken = self.taken.saturating_add(bytes);
        let Some(since) = self.since.take() else { return Ok(()) };
        self.waited += since.elapsed();
        if self.waited < self.window { Ok(()) } else { self.next_window() }
    }

    /// Bytes wait. Ready with an error when the client turns out to be still.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            let due = since + self.window.saturating_sub(self.waited);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.since = Some(now);
            if let Err(still) = self.next_window() {
                return Poll::Ready(still);
            }
        }
    }

    fn next_window(&mut self) -> io::Result<()> {
        let least = BYTES_A_SECOND.saturating_mul(self.window.as_secs()).max(1);
        let taken = std::mem::take(&mut self.taken);
        self.waited = Duration::ZERO;
        if taken >= least {
            return Ok(());
        }
        let seconds = self.window.as_secs_f32();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the client took {taken} bytes while more waited for {seconds} s (server.send_timeout)"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const LEAST: u64 = 60 << 10;

    /// How long a client is borne with that takes `bytes` every `pause`; `None` for an hour.
    async fn borne(bytes: u64, pause: Duration) -> Option<Duration> {
        let mut pace = Pace::new(WINDOW);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3600) {
            let still = poll_fn(|context| pace.poll_waiting(context));
            if tokio::time::timeout(pause, still).await.is_ok() || pace.took(bytes).is_err() {
                return Some(begun.elapsed());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn slow_is_allowed_and_still_is_not_however_it_is_spread() {
        for pause in [1, 8, 59].map(Duration::from_secs) {
            assert_eq!(borne(2 * LEAST * pause.as_secs() / 60, pause).await, None, "slow, every {pause:?}");
            let cut = borne(LEAST * pause.as_secs() / 60 / 2, pause).await.expect("still");
            assert!(cut <= WINDOW + pause, "still, every {pause:?}: {cut:?}");
        }
        assert_eq!(borne(0, Duration::MAX).await, Some(WINDOW), "takes nothing at all");
    }
}
