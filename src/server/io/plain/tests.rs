//! Frames over a real socket: the kernel sends them, a cut file ends the connection and not the
//! process, and what the kernel refuses is copied.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::Receipt;
use super::*;
use crate::server::half_closed::Answering;

const LENGTH: usize = 3_000_001;

#[derive(Default)]
struct Sent(Mutex<Vec<(SentBy, u64)>>);

impl Sent {
    fn bytes(&self, by: SentBy) -> u64 {
        self.0.lock().iter().filter(|(path, _)| *path == by).map(|(_, bytes)| bytes).sum()
    }
}

impl Receipt for Sent {
    fn sent(&self, by: SentBy, bytes: u64) {
        self.0.lock().push((by, bytes));
    }
}

fn noise() -> Vec<u8> {
    (0..LENGTH).map(|n| (n * 131 + n / 509) as u8).collect()
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    Arc::new(file)
}

async fn pair() -> (PlainStream, Arc<Regions>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let regions = Arc::new(Regions::default());
    let stream = PlainStream::new(
        Connection::new(
            accepted.expect("accepted").0,
            Duration::from_secs(600),
            Answering::default(),
            crate::server::io::untaken,
        ),
        Arc::clone(&regions),
    );
    (stream, regions, client.expect("connected"))
}

/// Sends head, frame and tail as hyper does: by address, in whatever pieces the stream takes.
async fn send(stream: &mut PlainStream, parts: &[Bytes]) -> io::Result<()> {
    let mut parts = parts.to_vec();
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut sent = stream.write_vectored(&slices).await?;
        parts.retain_mut(|part| {
            let taken = sent.min(part.len());
            sent -= taken;
            let _ = part.split_to(taken);
            !part.is_empty()
        });
    }
    stream.flush().await
}

async fn exchange(refused: bool) -> (Arc<Sent>, Vec<u8>, Vec<u8>) {
    let (mut stream, regions, mut client) = pair().await;
    stream.refused = refused;
    let (bytes, sent) = (noise(), Arc::new(Sent::default()));
    let range = 12_345..LENGTH as u64;
    let frame = regions.frame(file(&bytes), range, Arc::clone(&sent) as Arc<dyn Receipt>).expect("mapped");
    let parts = [Bytes::from_static(b"head"), frame, Bytes::from_static(b"tail")];
    let mut received = Vec::new();
    let (ended, read) = tokio::join!(
        async {
            let ended = send(&mut stream, &parts).await;
            drop(stream);
            ended
        },
        client.read_to_end(&mut received)
    );
    ended.expect("sent");
    read.expect("received");
    let expected = [b"head", bytes.get(12_345..).expect("long enough"), b"tail"].concat();
    (sent, received, expected)
}

#[tokio::test]
async fn the_kernel_sends_a_frame_between_bytes_from_memory() {
    let (sent, received, expected) = exchange(false).await;
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    assert_eq!(sent.bytes(SentBy::Sendfile), LENGTH as u64 - 12_345);
    assert_eq!(sent.bytes(SentBy::Copy), 0);
}

#[tokio::test]
async fn what_the_kernel_refuses_is_copied() {
    let (sent, received, expected) = exchange(true).await;
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    assert_eq!(sent.bytes(SentBy::Copy), LENGTH as u64 - 12_345);
}

#[tokio::test]
async fn a_file_that_was_cut_ends_the_connection_and_not_the_process() {
    for refused in [false, true] {
        let (mut stream, regions, mut client) = pair().await;
        stream.refused = refused;
        let file = file(&noise());
        let frame = regions.frame(Arc::clone(&file), 0..LENGTH as u64, Arc::new(Sent::default())).expect("mapped");
        file.set_len(100_000).expect("cut");
        let mut received = Vec::new();
        let parts = [frame];
        let (ended, read) = tokio::join!(
            async {
                let ended = send(&mut stream, &parts).await;
                drop(stream);
                ended
            },
            client.read_to_end(&mut received)
        );
        assert_eq!(ended.expect_err("the file is too short").kind(), io::ErrorKind::UnexpectedEof);
        read.expect("an orderly end");
        assert!(received.len() <= 100_000);
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Wakes>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn after_a_burst_others_have_their_turn() {
    let (mut stream, regions, client) = pair().await;
    let frame = regions.frame(file(&noise()), 0..LENGTH as u64, Arc::new(Sent::default())).expect("mapped");
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let (mut sent, mut turns, mut buffer) = (0, 0, vec![0; 1 << 20]);
    while sent < LENGTH {
        let before = wakes.0.load(Ordering::SeqCst);
        match Pin::new(&mut stream).poll_write(&mut Context::from_waker(&waker), &frame.slice(sent..)) {
            Poll::Ready(taken) => sent += taken.expect("sent"),
            // Nothing else can have woken it meanwhile: the runtime has not looked at the socket.
            Poll::Pending if wakes.0.load(Ordering::SeqCst) > before => turns += 1,
            Poll::Pending => {
                while client.try_read(&mut buffer).is_ok() {}
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(turns, LENGTH as u64 / BURST);
}

#[test]
fn a_file_in_memory_is_there() {
    let file = rustix::fs::memfd_create("blob", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut file = File::from(file);
    file.write_all(&noise()).expect("written");
    assert_eq!(cached(&file, 0, LENGTH as u64), LENGTH as u64);
}

#[test]
fn the_end_of_a_file_is_not_waited_for() {
    let file = file(b"short");
    assert_eq!(cached(&file, 0, 5), 5);
    assert_eq!(cached(&file, 100, 5), 5);
}

#[test]
fn what_the_page_cache_was_found_to_hold_is_believed_of_that_place_and_for_a_moment() {
    let (one, other) = (file(b"one"), file(b"other"));
    let part =
        |file: &Arc<File>, offset| FilePart { file: Arc::clone(file), offset, receipt: Arc::new(Sent::default()) };
    let mut found = Found { file: Arc::downgrade(&one), range: 100..200, at: Instant::now() };
    for (file, offset, expected) in [(&one, 100, 100), (&one, 150, 50), (&one, 99, 0), (&one, 200, 0), (&other, 100, 0)]
    {
        assert_eq!(found.covers(&part(file, offset)), expected, "{offset}");
    }
    found.at = found.at.checked_sub(MOMENT).expect("the clock goes on");
    assert_eq!(found.covers(&part(&one, 100)), 0, "a moment has passed");
}
