//! Whether this machine can run a test with real programs at all. A skip is said on the terminal even though
//! the test passes, and is a failure where the programs are demanded.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Set to `1` where the programs must be there, as in continuous integration.
pub(crate) const DEMAND: &str = "REGISTRY_MIRROR_REQUIRE_CLIENTS";

/// Folders with programs that are not on everybody's `PATH`: those for administrators, and Go's own.
const FURTHER_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/go/bin"];

/// What a test cannot do without and this machine has not got.
pub(crate) struct Missing(Vec<String>);

impl Missing {
    /// Of these programs, and of the rights of root.
    pub(crate) fn among(programs: &[&str]) -> Missing {
        let absent = programs.iter().filter(|program| find(program).is_none());
        let mut missing = Missing(absent.map(|program| format!("the program {program}")).collect());
        if !rustix::process::geteuid().is_root() {
            missing.0.push("root".to_owned());
        }
        missing
    }

    /// Tries for something further, unless something is missing already.
    pub(crate) fn or_else<T>(&mut self, attempt: impl FnOnce() -> Result<T, String>) -> Option<T> {
        if !self.0.is_empty() {
            return None;
        }
        attempt().map_err(|reason| self.0.push(reason)).ok()
    }

    /// Whether nothing is missing, so that `test` can run here; if not, says what.
    ///
    /// # Panics
    /// When something is missing and the programs are demanded.
    pub(crate) fn is_nothing(&self, test: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let missing = self.0.join(", ");
        assert!(!demanded(), "{test}: {DEMAND}=1, but missing: {missing}");
        say(&format!("skipped {test}, missing: {missing}"));
        false
    }
}

/// Whether a missing program is a failure.
pub(crate) fn demanded() -> bool {
    env::var_os(DEMAND).as_deref() == Some(OsStr::new("1"))
}

/// Writes past the test runner's capture, which hides what a passing test prints; in one piece, because the
/// runner is writing too.
pub(crate) fn say(text: &str) {
    io::stderr().write_all(format!("\n{text}\n").as_bytes()).expect("stderr takes a line");
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(FURTHER_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
