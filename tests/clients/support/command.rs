//! How the programs are called: cut off from everything outside this machine, and for those that end by
//! themselves, with all they said when they fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::requirements;

/// Nobody listens here: a client that gives up on the mirror and turns to the outside is refused at once,
/// so that no pull can succeed except through the mirror. Go's clients never use a proxy for loopback addresses.
const DEAD_PROXY: &str = "http://127.0.0.1:1";

const PROXY_VARIABLES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];

/// A command for `program`, which cannot reach anything outside this machine.
pub(crate) fn confined(program: &str) -> Command {
    confined_at(&resolve(program))
}

/// The same for a program that is not on any search path.
pub(crate) fn confined_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("NO_PROXY").env_remove("no_proxy").envs(PROXY_VARIABLES.map(|name| (name, DEAD_PROXY)));
    command
}

/// A command for `program` with the network as it is.
pub(crate) fn unconfined(program: &str) -> Command {
    Command::new(resolve(program))
}

/// The runtime that every engine is told to run containers with: a machine may have others beside it, and an
/// engine that chooses by itself may choose one that does not get along with the control groups there.
pub(crate) fn runtime() -> PathBuf {
    resolve("runc")
}

fn resolve(program: &str) -> PathBuf {
    requirements::find(program).unwrap_or_else(|| program.into())
}

/// A command for a daemon: confined, and ended by the kernel if the thread that starts it dies without
/// doing so. `setpriv` replaces itself by the program, which so keeps the process id.
pub(crate) fn daemon(program: &str) -> Command {
    daemon_at(&resolve(program))
}

/// The same for a program that is not on any search path.
pub(crate) fn daemon_at(program: &Path) -> Command {
    let mut command = confined("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A daemon that would also use a proxy for loopback addresses: it gets none.
pub(crate) fn daemon_without_proxy(program: &str) -> Command {
    let mut command = daemon(program);
    for name in PROXY_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Panics
/// When it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed ({})\nstdout: {stdout}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a command to its end, whatever the end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}
