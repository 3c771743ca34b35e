//! What a folder has to be for a store: ours or empty, and of a format that this version knows.
//!
//! `<store>/format` names the format. Older stores are read as they are; a newer one, and a folder in which
//! somebody else keeps something, are refused before anything in them is touched. The number changes
//! only when an older daemon would misread what a newer one wrote.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::Algorithm;
use crate::staged;

/// What this version writes.
pub const FORMAT: u32 = 1;

/// The longest file that is a lock, in bytes.
pub(super) const LONGEST_LOCK: u64 = 256;

const PREFIX: &str = "registry-mirror store format ";

/// The names in a store, as far as they are known beforehand. A store without its mark has no others.
const NAMES: [&str; 16] = [
    "lock",
    "format",
    "format.new",
    "oci-layout",
    "oci-layout.new",
    "blobs",
    "repositories",
    "ingest",
    "metadata",
    "usage",
    "quarantine",
    "admin.sock",
    "owed",
    "owed.new",
    "places",
    "places.new",
];
/// An index that was moved aside.
const DAMAGED_INDEX: &str = "metadata.damaged-";

/// Why a folder cannot be a store of this version.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Somebody else keeps something there.
    #[error("{} is no store of registry-mirror, and not empty: there is {found:?}", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// A name in it.
        found: String,
    },
    /// It is something else.
    #[error("{} is no folder", .0.display())]
    NotAFolder(PathBuf),
    /// A newer version wrote it.
    #[error(
        "the store {} was written by a newer version of registry-mirror: it has format {found}, this one knows {FORMAT} at most",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format, or the largest number that there is.
        found: u32,
    },
}

impl Refusal {
    /// What to do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Refusal::Foreign { .. } | Refusal::NotAFolder(_) => "choose another folder for the store",
            Refusal::Newer { .. } => "use the newer version again, or choose another store",
        }
    }
}

/// Whether the folder may become, or is, a store of ours. Touches nothing. `lost+found`, which a file system
/// has, and names that begin with a dot do not count; what is not there can be made.
///
/// # Errors
/// [`Refusal`]. A folder that cannot be looked at is for whoever opens it to complain about.
pub fn examine(root: &Path) -> Result<(), Refusal> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Refusal::NotAFolder(root.to_owned()));
        }
        Err(_) => return Ok(()),
    };
    match mark_of(root) {
        Ok(Some(found)) if found > FORMAT => return Err(Refusal::Newer { path: root.to_owned(), found }),
        Ok(Some(_)) => return Ok(()),
        Ok(None) | Err(_) => {}
    }
    let names: Vec<_> = that_count(entries).collect();
    let ours = |name: &String| NAMES.contains(&name.as_str()) || name.starts_with(DAMAGED_INDEX);
    let foreign = |found: &String| Refusal::Foreign { path: root.to_owned(), found: found.clone() };
    if let Some(found) = names.iter().find(|name| !ours(name)) {
        return Err(foreign(found));
    }
    let signed = is_our_lock(&root.join("lock")) || is_our_backup(root);
    names.first().filter(|_| !signed).map_or(Ok(()), |found| Err(foreign(found)))
}

/// Whether anything is there that may be a store. A folder that cannot be looked at is for whoever opens it to complain
/// about.
pub fn is_made(root: &Path) -> bool {
    match fs::read_dir(root) {
        Ok(entries) => that_count(entries).next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn that_count(entries: fs::ReadDir) -> impl Iterator<Item = String> {
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lost+found" && !name.starts_with('.'))
}

/// Whether this is what a start leaves that ended before anything else was made: a file with a process id and
/// perhaps the path of a socket, or with nothing.
fn is_our_lock(path: &Path) -> bool {
    let is_ours = |text: String| {
        let (process, socket) = text.split_once('\n').unwrap_or((&text, ""));
        process.trim().bytes().all(|byte| byte.is_ascii_digit()) && (socket.is_empty() || socket.starts_with('/'))
    };
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST_LOCK)
        && match fs::read_to_string(path) {
            Ok(text) => is_ours(text),
            // Whoever wants to lock it is told whose it is, and writes nothing.
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
}

/// Whether this is what matters of a backup, or what a command left that wrote into the index before anything else was
/// made: repositories, beside blobs by their digest or an index. A registry of others has folders in the place of
/// blobs, a store of content or a layout has no repositories.
fn is_our_backup(root: &Path) -> bool {
    let is = |name: &str, what: fn(&fs::Metadata) -> bool| {
        fs::symlink_metadata(root.join(name)).is_ok_and(|found| what(&found))
    };
    let is_blob = |blob: io::Result<fs::DirEntry>| {
        let blob = blob.ok().filter(|blob| blob.file_type().is_ok_and(|found| found.is_file()));
        blob.is_some_and(|blob| Algorithm::Sha256.digest(&blob.file_name().to_string_lossy()).is_some())
    };
    let has_blobs = || match fs::read_dir(root.join("blobs/sha256")) {
        Ok(mut blobs) => blobs.next().is_none_or(is_blob),
        Err(_) => fs::read_dir(root.join("blobs")).is_ok_and(|mut blobs| blobs.next().is_none()),
    };
    let has_index = || is("metadata/conf", fs::Metadata::is_file) && is("metadata/db", fs::Metadata::is_file);
    is("repositories", fs::Metadata::is_dir) && (has_blobs() || has_index())
}

/// The format that a store says it has; `None` where its mark is missing or spoilt.
fn mark_of(root: &Path) -> io::Result<Option<u32>> {
    match fs::read(root.join("format")) {
        Ok(text) => Ok(number_in(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number that a mark begins with. A later version may say more behind it, which is not ours to understand.
fn number_in(mark: &[u8]) -> Option<u32> {
    let rest = mark.strip_prefix(PREFIX.as_bytes())?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(None, |number: Option<u32>, digit| {
        Some(number.unwrap_or_default().saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    number.filter(|number| *number > 0)
}

/// Marks a store that has no mark with its format. That it cannot be read or written is no reason not to serve.
pub fn mark(root: &Path) {
    let path = root.join("format");
    match mark_of(root) {
        Ok(Some(_)) => {}
        Ok(None) => {
            if let Err(error) = staged::replace(&path, 0o644, format!("{PREFIX}{FORMAT}\n").as_bytes()) {
                tracing::warn!(file = %path.display(), %error, "could not mark the format of the store");
            }
        }
        Err(error) => tracing::warn!(file = %path.display(), %error, "the format of the store cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "blobs/sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// A folder with these: a name that ends with a slash is one of a folder.
    fn folder(content: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in content {
            let path = folder.path().join(name);
            if name.ends_with('/') {
                fs::create_dir_all(path).expect("made");
            } else {
                fs::write(path, text).expect("written");
            }
        }
        folder
    }

    #[test]
    fn a_newer_store_is_refused_and_left_alone() {
        let newer = folder(&[("format", "registry-mirror store format 2\n"), ("of-tomorrow", "")]);
        let error = examine(newer.path()).expect_err("refused").to_string();
        assert!(error.contains("format 2") && error.contains("knows 1"), "{error}");
        let text = fs::read_to_string(newer.path().join("format")).expect("reads");
        assert_eq!(text, "registry-mirror store format 2\n");
    }

    #[test]
    fn whatever_a_later_version_says_behind_the_number_it_is_newer_and_not_spoilt() {
        for (behind, found) in [
            ("2 zstd\n", "2"),
            ("2; needs=chunks\nsecond line\n", "2"),
            ("10\n", "10"),
            ("2.1", "2"),
            ("99999999999999999999", "4294967295"),
        ] {
            let mark = format!("{PREFIX}{behind}");
            let store = folder(&[("format", &mark), ("lock", "1"), ("oci-layout", ""), ("blobs/", "")]);
            let error = examine(store.path()).expect_err(behind).to_string();
            assert!(
                error.contains("written by a newer version") && error.contains(&format!("format {found},")),
                "{error}"
            );
            super::mark(store.path());
            assert_eq!(fs::read_to_string(store.path().join("format")).expect("reads"), mark);
        }
        // Of what this version knows, more words are no reason to mark it anew.
        let same = folder(&[("format", "registry-mirror store format 1 of another kind\n")]);
        assert!(examine(same.path()).is_ok());
        super::mark(same.path());
        assert!(fs::read_to_string(same.path().join("format")).expect("reads").ends_with("kind\n"));
        assert_eq!(number_in(b"registry-mirror store format 2\xff\xfe"), Some(2));
    }

    #[test]
    fn a_store_without_a_mark_or_with_a_spoilt_one_is_marked() {
        for spoilt in [
            None,
            Some("1"),
            Some("\0\0\0"),
            Some("registry-mirror store format x"),
            Some("registry-mirror store format 0"),
        ] {
            let folder = folder(&spoilt.map(|spoilt| ("format", spoilt)).into_iter().collect::<Vec<_>>());
            mark(folder.path());
            let text = fs::read_to_string(folder.path().join("format")).expect("reads");
            assert_eq!(text, "registry-mirror store format 1\n");
        }
    }

    #[test]
    fn a_store_is_ours_or_empty() {
        let mark = ("format", "registry-mirror store format 1\n");
        for ours in [
            &[][..],
            &[("lost+found/", ""), (".snapshot/", ""), (".hidden", "")],
            &[mark, ("notes.txt", "of whoever looks after it")],
            // What a start leaves that ends at once.
            &[("lock", "4711\n")],
            &[("lock", "4711\n/run/mirror.sock\n")],
            &[("lock", ""), ("format.new", "")],
            // The mark was lost, or has never been made.
            &[("lock", "1"), ("oci-layout", ""), ("blobs/", ""), ("metadata/", ""), ("metadata.damaged-1/", "")],
            &[("lock", "1"), ("format", "\0\0"), ("oci-layout", ""), ("blobs/", ""), ("lost+found/", "")],
            // What matters of a backup.
            &[("blobs/sha256/", ""), (BLOB, ""), ("repositories/", "")],
            &[("blobs/", ""), ("repositories/", "")],
            // What a command wrote that found no store.
            &[("metadata/", ""), ("metadata/conf", ""), ("metadata/db", ""), ("repositories/", "")],
        ] {
            assert!(examine(folder(ours).path()).is_ok(), "{ours:?}");
        }
        assert!(examine(Path::new("/nonexistent/store")).is_ok());
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_and_named() {
        for (foreign, name) in [
            (&[("notes.txt", "")][..], "notes.txt"),
            (&[("docker/registry/", "")], "docker"),
            (&[("oci-layout", ""), ("blobs/", ""), ("index.json", "{}")], "index.json"),
            (&[("blobs/", "")], "blobs"),
            // Two folders in which containerd keeps its content, and a layout that was not finished.
            (&[("blobs/sha256/", ""), (BLOB, ""), ("ingest/", "")], "blobs|ingest"),
            (&[("blobs/sha256/", ""), (BLOB, ""), ("oci-layout", "")], "blobs|oci-layout"),
            // A registry of others.
            (&[("blobs/sha256/ab/", ""), ("repositories/library/app/", "")], "blobs|repositories"),
            (&[("repositories/x/y/", "")], "repositories"),
            (&[("ingest/", "")], "ingest"),
            (&[("oci-layout", "")], "oci-layout"),
            (&[("metadata/", "")], "metadata"),
            (&[("format", "of something else")], "format"),
            (&[("lock", "held by apt")], "lock"),
            (&[("lock", "4711\nheld by apt")], "lock"),
            (&[("lock/", "")], "lock"),
            (&[("lost+found/", ""), ("photos/", "")], "photos"),
        ] {
            let folder = folder(foreign);
            let error = examine(folder.path()).expect_err(name).to_string();
            assert!(
                name.split('|').any(|name| error.contains(&format!("{name:?}")))
                    && error.contains("is no store of registry-mirror"),
                "{error}"
            );
        }
        let folder = folder(&[("file", "")]);
        let error = examine(&folder.path().join("file")).expect_err("a file").to_string();
        assert!(error.contains("is no folder"), "{error}");
    }
}
