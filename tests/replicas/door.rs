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
    task: JoinHandle<()>,
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
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (leads, sees, mut frozen) = (Arc::clone(&leads), Arc::clone(&sees), freezes.subscribe());
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
                    inside.write_all(&head).await.ok()?;
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
        Door { address, to, seen, frozen, task }
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

    /// From now on whoever is behind is dead for those before it.
    pub(crate) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}
