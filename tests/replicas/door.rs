//! The way to a replica, as the others have it: what comes through is seen, and it can be shut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub(crate) struct Door {
    address: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    seen: Arc<Mutex<Vec<String>>>,
    frozen: watch::Sender<bool>,
    bends: Arc<Mutex<Option<Bend>>>,
    /// How many floods are under way.
    floods: watch::Sender<usize>,
    task: JoinHandle<()>,
}

/// What becomes of those who come from now on.
#[derive(Clone, Copy)]
pub(crate) enum Bend {
    /// They are sent this, and then that again and again.
    Flood(&'static str, &'static str),
    /// They are given so many zeros, and no more.
    Zeros(u64),
    /// They get so many bytes a second of what comes from inside.
    Drip(usize),
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    /// One that leads nowhere yet.
    pub(crate) async fn shut() -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (to, seen) = (Arc::<OnceLock<SocketAddr>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (leads, sees, frozen) = (Arc::clone(&to), Arc::clone(&seen), watch::Sender::new(false));
        let freezes = frozen.clone();
        let (bends, floods) = (Arc::<Mutex<Option<Bend>>>::default(), watch::Sender::new(0));
        let (bent, flooding) = (Arc::clone(&bends), floods.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (leads, sees, mut frozen) = (Arc::clone(&leads), Arc::clone(&sees), freezes.subscribe());
                let (bent, flooding) = (Arc::clone(&bent), flooding.clone());
                connections.spawn(async move {
                    let mut inside = TcpStream::connect(leads.get()?).await.ok()?;
                    let mut head = Vec::new();
                    // Of TLS nothing can be seen.
                    while head.first() != Some(&0x16) && !head.windows(4).any(|four| four == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.ok()? == 0 {
                            return None;
                        }
                    }
                    sees.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                    let bend = *bent.lock().unwrap();
                    if let Some(Bend::Flood(begin, again)) = bend {
                        flooding.send_modify(|count| *count += 1);
                        flood(stream, begin, again).await;
                        flooding.send_modify(|count| *count -= 1);
                        return None;
                    }
                    if let Some(Bend::Zeros(count)) = bend {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n");
                        stream
                            .write_all(&[answer.as_bytes(), &vec![0; usize::try_from(count).unwrap()]].concat())
                            .await
                            .ok()?;
                        return None;
                    }
                    inside.write_all(&head).await.ok()?;
                    if let Some(Bend::Drip(rate)) = bend {
                        return drip(inside, stream, rate).await;
                    }
                    let stands_still = async {
                        let _ = frozen.wait_for(|frozen| *frozen).await;
                    };
                    tokio::select! {
                        biased;
                        () = stands_still => std::future::pending().await,
                        copied = copy_bidirectional(&mut stream, &mut inside) => copied.ok(),
                    }
                });
            }
        });
        Door { address, to, seen, frozen, bends, floods, task }
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.to.set(address).expect("once");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first question on each connection that came through.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// From now on nothing comes through, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// From now on this becomes of those who come.
    pub(crate) fn bend(&self, bend: Bend) {
        *self.bends.lock().unwrap() = Some(bend);
    }

    /// Waits until nobody takes any more of a flood.
    pub(crate) async fn has_no_floods(&self) {
        self.floods.subscribe().wait_for(|count| *count == 0).await.expect("it is here");
    }

    /// From now on whoever is behind is dead for those before it.
    pub(crate) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

async fn flood(mut stream: TcpStream, begin: &str, again: &str) {
    // Slower than it is read, however busy the machine is that tests.
    let piece = again.repeat((1 << 10) / again.len());
    let _ = stream.write_all(begin.as_bytes()).await;
    while stream.write_all(piece.as_bytes()).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn drip(mut inside: TcpStream, mut outside: TcpStream, rate: usize) -> Option<(u64, u64)> {
    const TIMES: usize = 20;
    let mut drop = vec![0; rate / TIMES];
    loop {
        let length = inside.read(&mut drop).await.ok().filter(|length| *length > 0)?;
        outside.write_all(&drop[..length]).await.ok()?;
        tokio::time::sleep(std::time::Duration::from_secs(1) / TIMES as u32).await;
    }
}
