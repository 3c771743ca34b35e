//! What of a store is closed to who works in it: mostly what somebody else left there, root most of all; or what stands
//! in the place of a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::small_file::InTheWay;

/// So many names are looked at where somebody waits for it.
pub const A_FEW: usize = 20_000;

/// What is known by name, in the order in which it is opened: what is done with it, and whether nothing can be served
/// without it.
const KNOWN: [(&str, Access, bool); 13] = [
    ("", ALL, true),
    ("lock", WRITE, true),
    ("format", Access::READ_OK, true),
    ("blobs", ALL, true),
    ("blobs/sha256", ALL, true),
    ("blobs/sha512", ALL, true),
    ("ingest", ALL, true),
    ("places", Access::READ_OK, false),
    ("owed", WRITE, false),
    ("repositories", ALL, false),
    ("metadata", ALL, false),
    ("usage", ALL, false),
    ("quarantine", ALL, false),
];
const WRITE: Access = Access::READ_OK.union(Access::WRITE_OK);
const ALL: Access = WRITE.union(Access::EXEC_OK);
/// The folders in which all is read that is there, in the order in which it is missed.
const FULL: [&str; 4] = ["repositories", "metadata", "usage", "blobs"];

/// Something that this user cannot use as a store is used.
#[derive(Debug)]
pub struct Closed {
    /// Its name below the store; nothing for the store itself.
    pub part: PathBuf,
    /// What the system says.
    pub error: io::Error,
    /// Whether nothing can be served without it.
    pub is_needed: bool,
}

impl Closed {
    /// What the store at `root` has so.
    pub fn path(&self, root: &Path) -> PathBuf {
        // An empty name would leave a slash behind.
        root.components().chain(self.part.components()).collect()
    }
}

/// The first of the store at `root` that is closed to who asks, among so many names below its folders. What is not there
/// is not closed. Nothing is opened or written.
pub fn first(root: &Path, at_most: usize) -> Option<Closed> {
    for (part, access, is_needed) in KNOWN {
        let path = root.join(part);
        // A pipe has no right that a folder wants.
        let taken = (access == ALL).then(|| InTheWay::of_folder(&path)).flatten().map(io::Error::from);
        if let Some(error) = taken.or_else(|| refused(&path, access)) {
            return Some(Closed { part: part.into(), error, is_needed });
        }
    }
    let mut left = at_most;
    FULL.iter().find_map(|folder| below(root, &root.join(folder), &mut left))
}

/// The same of what is in a folder.
fn below(root: &Path, folder: &Path, left: &mut usize) -> Option<Closed> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        *left = left.checked_sub(1)?;
        let Ok(kind) = entry.file_type() else { continue };
        let (path, is_folder) = (entry.path(), kind.is_dir());
        let access = if is_folder { ALL } else { Access::READ_OK };
        if (is_folder || kind.is_file())
            && let Some(error) = refused(&path, access)
        {
            let part = path.strip_prefix(root).unwrap_or(&path).to_owned();
            return Some(Closed { part, error, is_needed: false });
        }
        if is_folder && let Some(closed) = below(root, &path, left) {
            return Some(closed);
        }
    }
    None
}

/// Why who asks may not. What is not there, or on a disk that nobody may write to, is closed to nobody.
fn refused(path: &Path, access: Access) -> Option<io::Error> {
    let error = io::Error::from(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).err()?);
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(error)
}
