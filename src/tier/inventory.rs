//! What of a store goes up into the bucket: keys of known shapes, and no others, whatever lies there or is on the list.

use std::io;
use std::path::Path;

use super::marks;
use crate::blob_store::Flaw;
use crate::metadata::names;
use crate::oci::{Algorithm, Digest};
use crate::small_file::InTheWay;

const BLOBS: &str = "blobs";

/// Why something cannot go up, however often it is tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It is not what its name says.
    #[error("{0}")]
    Damaged(String),
    /// Something else stands in the place of a folder or a file of the store.
    #[error("{0}")]
    InTheWay(InTheWay),
    /// What the bucket has of it is not what its name says, and it is not here.
    #[error("the bucket has something else, and it is not here")]
    Wrong,
    /// It may be what its name says, and cannot be read by who carries it.
    #[error("it cannot be read: {0}")]
    Closed(String),
    /// A repository has it, and neither the store nor the bucket.
    #[error("it is not there")]
    Missing,
}

impl From<Flaw> for Lost {
    fn from(flaw: Flaw) -> Lost {
        match flaw {
            Flaw::Damaged(what) => Lost::Damaged(what),
            Flaw::Closed(why) => Lost::Closed(why),
        }
    }
}

/// Whether a store writes such a key.
pub(super) fn is_known(key: &str) -> bool {
    let is_of_content = |folder: &str| {
        let name = key.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        name.and_then(digest_of).is_some()
    };
    is_of_content(BLOBS) || is_of_content(marks::USED) || names::parse(key).is_some()
}

/// The blob whose file has this name in the folder of blobs.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('/')?;
    Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?.digest(hex)
}

/// Hands all that the store at `root` has under such keys to `found`, also what cannot be what its name says: who carries
/// it says so. Ends where that wants no more. Returns the folders that are none or cannot be listed, and why.
pub(super) fn of(root: &Path, found: &mut dyn FnMut(&str) -> bool) -> Vec<(String, Lost)> {
    let mut open = vec![BLOBS.to_owned(), names::REPOSITORIES.to_owned()];
    let mut unlisted = Vec::new();
    while let Some(folder) = open.pop() {
        let path = root.join(&folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                unlisted.extend(why_not(root, &folder, &error).map(|why| (folder, why)));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    unlisted.push((folder.clone(), Lost::Closed(error.to_string())));
                    break;
                }
            };
            let name = entry.file_name();
            let key = name.to_str().map(|name| format!("{folder}/{name}"));
            let Some(key) = key.filter(|key| names::is_shared(key)) else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            if is_known(&key) {
                if !found(&key) {
                    return unlisted;
                }
            } else if kind.is_dir() {
                open.push(key);
            } else if let Some(it) = InTheWay::of_file(&entry.path()) {
                // No file, and no folder of a store either.
                unlisted.push((key.clone(), Lost::InTheWay(InTheWay { path: key.into(), wanted: "folder", ..it })));
            }
        }
    }
    unlisted
}

fn why_not(root: &Path, folder: &str, error: &io::Error) -> Option<Lost> {
    if let Some(it) = InTheWay::of_own_folder(&root.join(folder)) {
        return Some(Lost::InTheWay(InTheWay { path: folder.into(), ..it }));
    }
    (error.kind() != io::ErrorKind::NotFound).then(|| Lost::Closed(error.to_string()))
}
