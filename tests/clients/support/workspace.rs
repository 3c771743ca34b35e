//! A folder of its own for each test, in memory and with a path short enough for Unix sockets. Engines leave
//! mounts behind when they are ended in the middle; those under the folder are taken down with it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::command;

/// A full root file system some five times over; only what is used takes memory.
const SIZE_LIMIT: &str = "size=2g";

/// The folder. Dropping it unmounts what is mounted there and below, and removes it.
pub(crate) struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// A new folder directly below `/tmp`: a Unix socket's path has at most 107 bytes.
    pub(crate) fn new() -> Workspace {
        let folder = tempfile::Builder::new().prefix("rm-").tempdir_in("/tmp").expect("/tmp takes a folder");
        // Each pull unpacks thousands of small files: ten times faster in memory. Refused in some containers,
        // and then the disk does as well.
        command::output(
            command::confined("mount").args(["-t", "tmpfs", "-o", SIZE_LIMIT, "registry-mirror"]).arg(folder.path()),
        );
        Workspace { folder }
    }

    /// The folder or file of this name in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path; makes the folders on the way.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a path in the workspace has a parent")).expect("a folder is made");
        fs::write(&path, content).expect("a file is written");
        path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for mount in mounts_at_or_below(self.folder.path()) {
            // Not `run`: a panic while a failed test unwinds would hide why it failed.
            let outcome = command::confined("umount").arg("--lazy").arg(&mount).status();
            if !outcome.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", mount.display());
            }
        }
    }
}

/// What is mounted on `folder` and below it, innermost first. Format: proc_pid_mountinfo(5), the fifth field.
fn mounts_at_or_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(folder))
        .collect();
    mounts.reverse();
    mounts
}
