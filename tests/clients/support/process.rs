//! Daemons that a test starts: a log file each, a bounded wait until they answer, and an end by process id,
//! also when the test panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const PAUSE: Duration = Duration::from_millis(50);
/// 60 seconds of pauses: far more than any of the daemons needs, so that only a broken one runs out.
const TRIES: u32 = 1200;
const LOG_TAIL_LINES: usize = 60;

/// Asks `condition` again and again, a bounded number of times. For programs that offer no event to wait for.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    (0..TRIES).any(|_| {
        let met = condition();
        if !met {
            thread::sleep(PAUSE);
        }
        met
    })
}

/// A running daemon. Dropping it ends it.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Daemon {
        let output = File::options().create(true).append(true).open(log).expect("the log file opens");
        let errors = output.try_clone().expect("the log file can be shared");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Daemon { child, log: log.to_owned() }
    }

    /// Waits until `probe` says yes.
    ///
    /// # Panics
    /// When the daemon ends before that, or never gets there; shows the end of its log.
    pub(crate) fn wait_until_ready(&mut self, mut probe: impl FnMut() -> bool) {
        let mut ended = None;
        let ready = eventually(|| {
            ended = self.child.try_wait().expect("a child can be asked for its end");
            ended.is_some() || probe()
        });
        assert!(ready && ended.is_none(), "a daemon did not become ready ({ended:?}):\n{}", self.log_tail());
    }

    /// Asks it to end, waits, and after a bounded time forces it. Nothing happens if it has ended before.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        if let Ok(Some(status)) = self.child.try_wait() {
            return status;
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("a child of ours can be signalled");
        if !eventually(|| matches!(self.child.try_wait(), Ok(Some(_)))) {
            self.child.kill().expect("a child of ours can be killed");
        }
        self.child.wait().expect("an ended child can be waited for")
    }

    /// All it has written so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the log file is readable")).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log_tail());
        }
    }
}
