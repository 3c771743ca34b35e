//! The version of the layout on disk, in `<store>/format`.
//!
//! Older stores are read as they are; a newer one is refused before anything in it is touched. The
//! number changes only when an older daemon would misread what a newer one wrote.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What this version writes.
pub const FORMAT: u32 = 1;

const PREFIX: &str = "registry-mirror store format ";

/// Why a store cannot be used by this version.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store {} has format {found}, this version of registry-mirror knows {FORMAT} at most; \
     use the newer version again, or choose another store",
    path.display()
)]
pub struct NewerFormat {
    /// The store.
    pub path: PathBuf,
    /// Its format.
    pub found: u32,
}

/// Checks the format of the store below `root`, and marks a store that has no mark.
///
/// # Errors
/// [`NewerFormat`]. A mark that cannot be read or written is no reason not to serve.
pub fn check(root: &Path) -> Result<(), NewerFormat> {
    let path = root.join("format");
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.trim_end().strip_prefix(PREFIX).and_then(|number| number.parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the format of the store cannot be read");
            return Ok(());
        }
    };
    match found {
        Some(found) if found > FORMAT => Err(NewerFormat { path: root.to_owned(), found }),
        Some(FORMAT) => Ok(()),
        _ => {
            let staged = root.join("format.new");
            let written = fs::write(&staged, format!("{PREFIX}{FORMAT}\n")).and_then(|()| fs::rename(&staged, &path));
            if let Err(error) = written {
                tracing::warn!(file = %path.display(), %error, "could not mark the format of the store");
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("format");
        fs::write(&file, "registry-mirror store format 2\n").expect("writes");
        let error = check(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("format 2") && error.contains("knows 1"), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("reads"), "registry-mirror store format 2\n");
    }

    #[test]
    fn a_store_without_a_mark_or_with_a_spoilt_one_is_marked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("format");
        for spoilt in [None, Some("1"), Some("\0\0\0"), Some("registry-mirror store format x")] {
            if let Some(spoilt) = spoilt {
                fs::write(&file, spoilt).expect("writes");
            }
            check(folder.path()).expect("usable");
            assert_eq!(fs::read_to_string(&file).expect("reads"), "registry-mirror store format 1\n");
        }
    }
}
