//! A small file that is replaced as a whole, or stays as it was; and what cannot be used and makes room for that.
//!
//! It is written beside it under the name that ends with `.new`. Truth: what is there under that name, a link most of
//! all, is nothing that is written to.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces the file, and is sure that its content is on the disk before. Blocks.
///
/// # Errors
/// It could not be written. What was there before is there still.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("new");
    // A process that ran before may have left one of this name; nobody reads it.
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staged, path)
}

/// Gives a file or a folder the name `<name>.damaged-<n>`, which is returned, and removes an earlier one of that kind:
/// the last is kept. Blocks.
///
/// # Errors
/// It could not be renamed, and is where it was.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.damaged-");
    let mut last = 0;
    for entry in fs::read_dir(path.parent().unwrap_or(path))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u64>().ok());
        if let Some(number) = number {
            last = last.max(number);
            let earlier = entry.path();
            let _ = if entry.file_type()?.is_dir() { fs::remove_dir_all(earlier) } else { fs::remove_file(earlier) };
        }
    }
    let number = last.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
    let aside = path.with_file_name(format!("{prefix}{number}"));
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_of_that_name_leads_to_is_not_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, elsewhere) = (folder.path().join("format"), folder.path().join("elsewhere"));
        fs::write(&elsewhere, "precious").expect("written");
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("format.new")).expect("a link");
        replace(&path, 0o600, b"ours").expect("replaced");
        assert_eq!(fs::read_to_string(&elsewhere).expect("reads"), "precious");
        assert!(path.symlink_metadata().expect("there").is_file());
        assert_eq!(fs::read_to_string(&path).expect("reads"), "ours");
    }
}
