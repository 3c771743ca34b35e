//! The binary as a service manager sees it: readiness, sockets handed over, a stop by signal.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use scripted_registry::{Registry, noise};

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// A daemon that was started and is ended, whatever happens.
struct Service(Child);

impl Service {
    fn terminate(self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.ended()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Whether none of its threads does anything.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        // The state stands behind the name, which is in parentheses (proc_pid_stat(5)).
        let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        threads
            .map(|thread| thread.unwrap().path().join("stat"))
            .all(|stat| std::fs::read_to_string(stat).is_ok_and(is_stopped))
    }

    /// Whether it says that it is ready, and not that it cannot start.
    fn is_ready(&self, notify: &UnixDatagram) -> bool {
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 256];
        let has_ended = || {
            waitid(
                WaitId::Pid(Pid::from_child(&self.0)),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
            )
        };
        loop {
            match notify.recv(&mut buffer) {
                Ok(length) if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") => return true,
                Ok(_) => {}
                Err(_) if has_ended().unwrap().is_some() => return false,
                Err(_) => {}
            }
        }
    }

    fn ended(mut self) -> (ExitStatus, String) {
        let status = self.0.wait().unwrap();
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon at a socket that was opened for it, which tells at `notify` how it does.
fn on_socket(listener: &TcpListener, notify: &Path, store: &Path) -> Service {
    configured(listener, notify, store, "")
}

/// The same with an option more.
fn configured(listener: &TcpListener, notify: &Path, store: &Path, option: &str) -> Service {
    // The shell turns its standard input into descriptor 3, and stays the same process.
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=pull exec {BINARY} serve \
         --listen 127.0.0.1:1 --admin 127.0.0.1:0 {option} --store {}",
        store.display()
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .env("NOTIFY_SOCKET", notify)
        .stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Service(child)
}

fn received(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn ping(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_says_when_it_is_ready_and_when_it_stops_and_ends_well_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let child = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store"])
        .arg(folder.path().join("store"))
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let service = Service(child);
    assert!(received(&socket).contains("READY=1"));
    let (status, log) = service.terminate();
    assert!(received(&socket).contains("STOPPING=1"));
    assert!(status.success(), "{status}: {log}");
    let lines: Result<Vec<serde_json::Value>, _> = log.lines().map(serde_json::from_str).collect();
    assert!(lines.is_ok_and(|lines| !lines.is_empty()), "away from a terminal the log is JSON: {log}");
}

#[test]
fn it_serves_on_sockets_that_were_opened_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = on_socket(&listener, &path, &folder.path().join("store"));
    assert!(received(&notify).contains("READY=1"));
    assert!(ping(address).starts_with("HTTP/1.1 200"));
    let (status, log) = service.terminate();
    assert!(status.success(), "{status}: {log}");
}

#[test]
fn where_sockets_were_opened_for_it_nothing_is_decided_by_addresses_that_nobody_listens_on() {
    let folder = tempfile::tempdir().unwrap();
    let [path, file, secret] = ["notify", "mirror.toml", "secret"].map(|name| folder.path().join(name));
    std::fs::write(&secret, "user:password").unwrap();
    let private = format!("auth = \"file:{}\"\n", secret.display());
    let upstream = "[[upstream]]\nhost = \"a.example\"\nurl = \"http://127.0.0.1:1\"\n";
    std::fs::write(&file, format!("{upstream}{private}")).unwrap();
    let notify = UnixDatagram::bind(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Were it listened on, it had to be said who may read.
    let option = format!("--listen 10.0.0.1:1 --config {}", file.display());
    let service = configured(&listener, &path, &folder.path().join("store"), &option);
    assert!(service.is_ready(&notify), "{:?}", service.ended());
    let (status, log) = service.terminate();
    assert!(status.success(), "{status}: {log}");
}

#[test]
fn sockets_that_were_opened_for_another_process_are_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    let mut daemon = Command::new(BINARY);
    daemon.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store"]);
    daemon.arg(folder.path().join("store")).env("NOTIFY_SOCKET", &path).stderr(Stdio::piped());
    // As a shell that systemd started passes them on.
    daemon.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "pull");
    let service = Service(daemon.spawn().unwrap());
    assert!(service.is_ready(&notify), "{:?}", service.ended());
    assert!(service.terminate().0.success());
}

#[test]
fn a_port_that_is_taken_is_told_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY)
        .args(["serve", "--admin", "127.0.0.1:0", "--listen", &taken.local_addr().unwrap().to_string(), "--store"])
        .arg(folder.path().join("store"))
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(talk.contains("cannot listen on 127.0.0.1:") && talk.contains("--listen"), "{talk}");
    assert!(!folder.path().join("store").exists(), "the store was not touched");
}

#[test]
fn nobody_who_connected_goes_without_an_answer_while_the_daemon_is_replaced() {
    const UPGRADES: usize = 20;
    const CLIENTS: usize = 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = || {
        let service = on_socket(&listener, &path, &folder.path().join("store"));
        while !received(&notify).contains("READY=1") {}
        service
    };
    let mut service = serve();
    for upgrade in 0..UPGRADES {
        // It finds them, and that it has to stop, at the same time.
        service.signal(Signal::STOP);
        while !service.stands_still() {
            std::thread::yield_now();
        }
        let clients: Vec<_> = (0..CLIENTS).map(|_| std::thread::spawn(move || ping(address))).collect();
        while waiting(address) < CLIENTS {
            std::thread::yield_now();
        }
        service.signal(Signal::TERM);
        service.signal(Signal::CONT);
        let (status, log) = service.ended();
        assert!(status.success(), "{status}: {log}");
        service = serve();
        let answers = clients.into_iter().map(|client| client.join());
        let unanswered =
            answers.filter(|answer| !answer.as_ref().is_ok_and(|it| it.starts_with("HTTP/1.1 200"))).count();
        assert_eq!(unanswered, 0, "of {CLIENTS} clients, in upgrade {upgrade}");
    }
    service.terminate();
}

/// Begins a pull, waits until it is told to go on, and says what came.
fn pull(address: SocketAddr, path: &str, begun: &mpsc::Sender<()>, go_on: &Barrier) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = vec![0; 1024];
    stream.read_exact(&mut answer).unwrap();
    begun.send(()).unwrap();
    go_on.wait();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn pulls_under_way_and_pulls_that_come_meanwhile_are_whole_while_the_daemon_is_replaced() {
    const UPGRADES: usize = 20;
    const EACH: usize = 3;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut registry = runtime.block_on(Registry::start());
    // More than the kernel takes for a client that does not read.
    let content = noise(77, 16 << 20);
    let path = format!("/v2/library/app/blobs/{}", registry.add_blob("library/app", content.clone()));
    let folder = tempfile::tempdir().unwrap();
    let (notify_path, file) = (folder.path().join("notify"), folder.path().join("mirror.toml"));
    let upstream = format!("[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n", registry.url());
    std::fs::write(&file, format!("store.min_free = \"0\"\n{upstream}")).unwrap();
    let notify = UnixDatagram::bind(&notify_path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let told = |word: &str| while !received(&notify).contains(word) {};
    let option = format!("--config {}", file.display());
    let serve = || {
        let service = configured(&listener, &notify_path, &folder.path().join("store"), &option);
        told("READY=1");
        service
    };
    let (begun, begins) = mpsc::channel();
    let go_on = Arc::new(Barrier::new(EACH + 1));
    let pulls = |go_on: &Arc<Barrier>| -> Vec<_> {
        let one = |_| {
            let (path, begun, go_on) = (path.clone(), begun.clone(), Arc::clone(go_on));
            std::thread::spawn(move || pull(address, &path, &begun, &go_on))
        };
        (0..EACH).map(one).collect()
    };
    let mut service = serve();
    assert!(pull(address, &path, &begun, &Barrier::new(1)).ends_with(&content));
    begins.recv().unwrap();
    // What is stored is enough.
    runtime.block_on(registry.stop());
    let mut failed = 0;
    for _ in 0..UPGRADES {
        let under_way = pulls(&go_on);
        under_way.iter().for_each(|_| begins.recv().unwrap());
        service.signal(Signal::TERM);
        told("STOPPING=1");
        let come_meanwhile = pulls(&Arc::new(Barrier::new(1)));
        go_on.wait();
        let under_way = under_way.into_iter().map(|pull| pull.join().unwrap()).collect::<Vec<_>>();
        let (status, log) = service.ended();
        assert!(status.success(), "{status}: {log}");
        service = serve();
        let come_meanwhile = come_meanwhile.into_iter().map(|pull| pull.join().unwrap());
        failed += under_way.into_iter().chain(come_meanwhile).filter(|answer| !answer.ends_with(&content)).count();
        begins.try_iter().for_each(drop);
    }
    assert_eq!(failed, 0, "of {} pulls", UPGRADES * EACH * 2);
    service.terminate();
}

/// An upstream that answers with `piece` again and again, without end; how many bytes of it were taken.
fn without_end(head: &'static str, piece: &str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let (counted, pieces) = (Arc::clone(&taken), piece.repeat((64 << 10) / piece.len()));
    // It ends with the process: each of its connections with the daemon.
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let (counted, pieces) = (Arc::clone(&counted), pieces.clone());
            std::thread::spawn(move || {
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(head.as_bytes());
                while connection.write_all(pieces.as_bytes()).is_ok() {
                    counted.fetch_add(pieces.len(), Ordering::Relaxed);
                }
            });
        }
    });
    (address, taken)
}

/// What announces a head again and again.
const EARLY_HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";

/// A daemon with this configuration answers while many wait for what sends without end.
fn answers_meanwhile(folder: &Path, config: &str, taken: &AtomicUsize) {
    let (path, file) = (folder.join("notify"), folder.join("mirror.toml"));
    std::fs::write(&file, config).unwrap();
    let notify = UnixDatagram::bind(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let option = format!("--config {}", file.display());
    let service = configured(&listener, &path, &folder.join("store"), &option);
    while !received(&notify).contains("READY=1") {}
    let threads = std::thread::available_parallelism().unwrap().get();
    let askers: Vec<_> = (0..2 * threads + 2)
        .map(|number| {
            let mut asker = TcpStream::connect(address).unwrap();
            write!(asker, "GET /v2/library/a{number}/manifests/1 HTTP/1.1\r\nHost: m\r\n\r\n").unwrap();
            asker
        })
        .collect();
    while taken.load(Ordering::Relaxed) < threads * (8 << 20) {
        std::thread::yield_now();
    }
    for _ in 0..10 {
        assert!(ping(address).starts_with("HTTP/1.1 200"), "{config}");
    }
    drop(askers);
    drop(service);
}

#[test]
fn an_upstream_that_sends_without_end_keeps_nobody_from_what_is_here() {
    let endless_length = ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0");
    for (head, piece) in [("", EARLY_HINTS), endless_length] {
        let (upstream, taken) = without_end(head, piece);
        let folder = tempfile::tempdir().unwrap();
        let settings = "insecure = true\nfirst_byte_timeout = \"300s\"";
        let config = format!("[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{upstream}\"\n{settings}\n");
        answers_meanwhile(folder.path(), &config, &taken);
    }
}

#[test]
fn a_bucket_that_sends_without_end_keeps_nobody_from_what_is_here() {
    let (bucket, taken) = without_end("", EARLY_HINTS);
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "access:secret\n").unwrap();
    let config = format!(
        "cache.patience = \"300s\"\nstore.bucket.name = \"shared\"\nstore.bucket.endpoint = \"http://{bucket}\"\n\
         store.bucket.credentials = \"file:{}\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"http://127.0.0.1:1\"\n\
         insecure = true\n",
        credentials.display()
    );
    answers_meanwhile(folder.path(), &config, &taken);
}

/// Connections to a port that nobody has accepted yet.
fn waiting(address: SocketAddr) -> usize {
    /// What the kernel calls a connection that is open, in its table.
    const ESTABLISHED: &str = "01";
    let port = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == port && row[3] == ESTABLISHED && row[9] == "0").count()
}
