//! The binary as a service manager sees it: readiness, sockets handed over, a stop by signal.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// A daemon that was started and is ended, whatever happens.
struct Service(Child);

impl Service {
    fn terminate(mut self) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
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

fn received(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn ping(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
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
    // The shell turns its standard input into descriptor 3, and stays the same process.
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=pull exec {BINARY} serve \
         --listen 127.0.0.1:1 --admin 127.0.0.1:0 --store {}",
        folder.path().join("store").display()
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .env("NOTIFY_SOCKET", &path)
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let service = Service(child);
    assert!(received(&notify).contains("READY=1"));
    assert!(ping(address).starts_with("HTTP/1.1 200"));
    let (status, log) = service.terminate();
    assert!(status.success(), "{status}: {log}");
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
