//! The same race over a real object store, where `VERSITYGW` names its program, as `.ci/run` has it.
//!
//! Time goes on as the server answers, so that what it is asked takes a while, and no deadline passes because the machine
//! is busy. Collectors have a long way to it: between what one sees and what it does about it, all that replicas do has
//! its time. What is stored is set back when a day is to go by, as the server's own clock cannot be moved.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::carrier::Carrier;
use crate::tier::settings::Credentials;

/// How much time goes by with an answer.
const TICK: Duration = Duration::from_millis(500);
/// For how long what collectors send is on its way at most, in milliseconds.
const LONGEST_WAY: u64 = 15_000;

/// A real server on loopback, ended with the test.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start() -> Option<Server> {
        let program = std::env::var_os("VERSITYGW")?;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("shared")).expect("a bucket");
        let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let mut command = Command::new(program);
        command.args(["--port", &address.to_string(), "--quiet", "posix"]).arg(folder.path());
        command.env("ROOT_ACCESS_KEY", "access").env("ROOT_SECRET_KEY", "secretsecret");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let server = Server { child, folder, address };
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        Some(server)
    }

    /// The bucket, as it is reached at this address by who waits for so long.
    fn bucket(address: SocketAddr, patience: Duration) -> Bucket {
        let endpoint = format!("http://{address}").parse().expect("an address");
        let settings = Settings {
            endpoint: Some(endpoint),
            credentials: Credentials::Environment,
            patience,
            ..Settings::for_tests()
        };
        let env = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("access".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secretsecret".to_owned()),
            _ => None,
        };
        Bucket::open(&settings, &Carrier::default(), env).expect("settings")
    }

    /// All that is stored was written so much earlier.
    fn set_back(&self, by: Duration) {
        let mut open = vec![self.folder.path().join("shared")];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            } else {
                let file = std::fs::File::open(path).expect("an object");
                let written = file.metadata().and_then(|of| of.modified()).expect("its time");
                file.set_modified(written - by).expect("set back");
            }
        }
    }
}

/// The address of a long way to a server: what is sent there is on its way for a while, what comes back is not.
async fn long_way(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(1);
        while let Ok((near, _)) = listener.accept().await {
            let mut random = StdRng::from_rng(&mut random);
            tokio::spawn(async move {
                let (mut sends, mut gets) = near.into_split();
                let (mut answers, mut asked) = TcpStream::connect(to).await.expect("it is there").into_split();
                let there = async {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = sends.read(&mut bytes).await {
                        tokio::time::sleep(Duration::from_millis(random.random_range(0..LONGEST_WAY))).await;
                        if asked.write_all(&bytes[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = there => {}
                    _ = tokio::io::copy(&mut answers, &mut gets) => {}
                }
            });
        }
    });
    address
}

/// Time that goes on as a server answers, until it is dropped.
struct Ticking {
    task: JoinHandle<()>,
    _blocks: mpsc::Sender<()>,
}

impl Ticking {
    fn by(server: &Server) -> Ticking {
        let (blocks, ended) = mpsc::channel();
        // As long as something blocks, time that is paused does not go on by itself when all wait for the server.
        tokio::task::spawn_blocking(move || ended.recv());
        let address = server.address;
        let task = tokio::spawn(async move {
            loop {
                let mut stream = BufReader::new(TcpStream::connect(address).await.expect("it is there"));
                while is_answered(&mut stream).await {
                    tokio::time::advance(TICK).await;
                }
            }
        });
        Ticking { task, _blocks: blocks }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks for something small; whether an answer came, else the connection is over.
async fn is_answered(stream: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    if stream.write_all(b"HEAD / HTTP/1.1\r\nhost: shared\r\n\r\n").await.is_err() {
        return false;
    }
    loop {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return false,
            Ok(_) if line == "\r\n" => return true,
            Ok(_) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_races_with_pulls_over_a_real_server_leaves_no_name_without_bytes() {
    let (mut deleted, mut taken) = (0, 0);
    for (seed, max_size, rounds) in [(10, 0, 28), (11, 1500, 16)] {
        let Some(server) = Server::start().await else { return };
        let _ticking = Ticking::by(&server);
        let later = |time| server.set_back(time);
        let minute = Duration::from_secs(60);
        let (bucket, far) = (Server::bucket(server.address, minute), long_way(server.address).await);
        let collected = Server::bucket(far, 10 * minute);
        let course = Course { bucket, collected, page: 1000, max_size, rounds, pace: 350, later: &later };
        let gone = race(seed, &course).await;
        (deleted, taken) = (deleted + gone.0, taken + gone.1);
    }
    assert!(deleted > 20 && taken > 20, "nothing was shown: {deleted} deleted, {taken} names taken");
}
