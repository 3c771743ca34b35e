//! Whether this machine can run a client test at all. A skip is said on the terminal even though the test
//! passes, and is a failure where the clients are demanded.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::image::Images;

/// Set to `1` where the clients must be there, as in continuous integration.
const DEMAND: &str = "REGISTRY_MIRROR_REQUIRE_CLIENTS";

/// Programs that making the images and running the upstream needs, whatever the client.
const SHARED_PROGRAMS: [&str; 8] =
    ["docker-registry", "skopeo", "debootstrap", "apt-get", "tar", "setpriv", "mount", "umount"];

/// Whether `test` can run here with these programs; if not, says why.
///
/// # Panics
/// When something is missing and the clients are demanded.
pub(crate) fn met(test: &str, programs: &[&str]) -> bool {
    let mut missing: Vec<String> = SHARED_PROGRAMS
        .iter()
        .chain(programs)
        .filter(|program| find(program).is_none())
        .map(|program| format!("the program {program}"))
        .collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if missing.is_empty() {
        match Images::get() {
            Ok(_) => return true,
            Err(reason) => missing.push(reason.to_owned()),
        }
    }
    let missing = missing.join(", ");
    assert!(env::var_os(DEMAND).as_deref() != Some(OsStr::new("1")), "{test}: {DEMAND}=1, but missing: {missing}");
    // Written past the test runner's capture, which hides what a passing test prints; in one piece, because the
    // runner is writing too.
    let skipped = format!("\nskipped {test}, missing: {missing}\n");
    io::stderr().write_all(skipped.as_bytes()).expect("stderr takes a line");
    false
}

/// Where a program is. The folders for administrators count too: they are not on everybody's `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
