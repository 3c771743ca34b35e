//! The binary as a process of its own, so that it can be killed, limited and traced.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use registry_mirror::oci::{Algorithm, Digest};

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// A running daemon. Dropping it kills it.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Its configuration, which it may read again.
    _file: tempfile::NamedTempFile,
}

impl Process {
    /// Starts on `store`, in front of the registry at `upstream` as `docker.io`.
    pub fn start(store: &Path, upstream: &str, config: &str) -> Process {
        Process::start_by("exec", store, upstream, config)
    }

    /// The same, started by a line of shell in front of the command, such as `ulimit -n 64; exec`.
    pub fn start_by(how: &str, store: &Path, upstream: &str, config: &str) -> Process {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let free = if config.contains("min_free") { "" } else { "store.min_free = \"0\"\n" };
        let text = format!("{free}{config}\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{upstream}\"\n");
        std::fs::write(file.path(), text).expect("writes");
        // For a daemon that runs as somebody else.
        std::fs::set_permissions(file.path(), Permissions::from_mode(0o644)).expect("chmod");
        let script = format!(
            "{how} {BINARY} serve -c {} --listen 127.0.0.1:0 --admin 127.0.0.1:0 --store {}",
            file.path().display(),
            store.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = std::sync::mpsc::channel();
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                let line = std::mem::take(&mut line);
                kept.lock().expect("no panic").push_str(&line);
                if let Some(address) = listener(&line, "pull") {
                    let _ = found.send(address);
                }
            }
        });
        let Ok(address) = address.recv() else {
            let status = child.wait();
            panic!("the daemon did not start: {status:?}\n{}", log.lock().expect("no panic"));
        };
        Process { child, address, log, _file: file }
    }

    /// Where operators ask.
    pub fn admin(&self) -> SocketAddr {
        self.log().lines().find_map(|line| listener(line, "admin")).expect("it said so when it started")
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it ever had, in bytes.
    pub fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kibibytes << 10
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Ends it as a power switch would, as far as the process goes.
    pub fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Ends it in good order.
    pub fn terminate(mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("our child");
        self.child.wait().expect("our child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first address of this kind in a line of the log, as JSON or as text.
fn listener(line: &str, kind: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(&format!("\"{kind}\":\"[")).or_else(|| line.split_once(&format!(" {kind}=[")))?;
    rest.split([']', ',']).next()?.parse().ok()
}

/// Hashes every blob file of a store: how many there are, and those that are not what their name says.
pub fn audit(store: &Path) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for algorithm in Algorithm::ALL {
        for entry in std::fs::read_dir(store.join("blobs").join(algorithm.as_str())).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let found = Digest::of(algorithm, &std::fs::read(&path).expect("a plain file"));
            count += 1;
            if found.hex() != name {
                wrong.push(format!("{name} has the digest {found}"));
            }
        }
    }
    (count, wrong)
}
