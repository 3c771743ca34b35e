//! What a folder has to be for a store: ours or empty, and of a format that this version knows.
//!
//! `<store>/format` names the format. Older stores are read as they are; a newer one, one that nobody knows, and a folder
//! in which somebody else keeps something, are refused before anything in them is touched. The number changes
//! only when an older daemon would misread what a newer one wrote.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::oci::Algorithm;
use crate::plain::quoted;
use crate::small_file::{self, InTheWay};
use crate::staged;

/// What this version writes.
pub const FORMAT: u32 = 1;

/// The longest file that is a lock, in bytes.
pub(super) const LONGEST_LOCK: u64 = 256;

/// The file that says it.
const MARK: &str = "format";
const PREFIX: &str = "registry-mirror store format ";
/// Who wrote a file that begins with this.
const US: &[u8] = b"registry-mirror";
/// So much of a mark is read, in bytes.
const LONGEST_MARK: u64 = 256;
/// So much of one that is none is shown, in bytes.
const SHOWN: usize = 64;

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
/// Where records of set-ups of clients are, and the end of the folder in which they are.
const SET_UPS: &str = "setup";
const STATE: &str = "registry-mirror";
/// An index, and a list of what is owed, that was set aside.
const SET_ASIDE: [&str; 2] = ["metadata.damaged-", "owed.damaged-"];

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
    /// Nobody knows which version wrote it.
    #[error("{} does not say which format the store has: {said}", mark.display())]
    Unclear {
        /// The file that should say so.
        mark: PathBuf,
        /// What it says.
        said: String,
    },
}

impl Refusal {
    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Refusal::Foreign { .. } | Refusal::NotAFolder(_) => "choose another folder for the store".to_owned(),
            Refusal::Newer { .. } => "use the newer version again, or choose another store".to_owned(),
            Refusal::Unclear { mark, .. } => {
                let (mark, aside) = (quoted(mark), quoted(&mark.with_file_name(format!(".{MARK}"))));
                format!(
                    "if this version or an older one used the store last, move that away, and it is written anew: mv {mark} \
                     {aside}; else use the version that wrote it, or choose another store"
                )
            }
        }
    }
}

/// What a store says of its format.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    /// Nothing, or what a loss of power left of ours.
    Missing,
    /// It has ours.
    Ours,
    /// It has a newer one.
    Newer(u32),
    /// It says, or is, something else.
    Unclear {
        said: String,
        /// Whether it is of registry-mirror by its first words.
        names_us: bool,
    },
}

/// Whether the folder may become, or is, a store of ours. Touches nothing. `lost+found`, which a file system
/// has, names that begin with a dot, and records of set-ups do not count; what is not there can be made.
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
    let is_signed = || is_our_lock(&root.join("lock")) || is_our_backup(root);
    match mark_of(root) {
        Ok(Mark::Ours) => return Ok(()),
        Ok(Mark::Newer(found)) => return Err(Refusal::Newer { path: root.to_owned(), found }),
        Ok(Mark::Unclear { said, names_us }) if names_us || is_signed() => {
            return Err(Refusal::Unclear { mark: root.join(MARK), said });
        }
        Ok(Mark::Missing | Mark::Unclear { .. }) | Err(_) => {}
    }
    let names: Vec<_> = that_count(root, entries).collect();
    let foreign = |found: &String| Refusal::Foreign { path: root.to_owned(), found: found.clone() };
    if let Some(found) = names.iter().find(|name| !is_of_a_store(name)) {
        return Err(foreign(found));
    }
    names.first().filter(|_| !is_signed()).map_or(Ok(()), |found| Err(foreign(found)))
}

/// Whether we give this name to something in the folder of a store.
pub fn is_of_a_store(name: &str) -> bool {
    NAMES.contains(&name) || SET_ASIDE.iter().any(|aside| name.starts_with(aside))
}

/// Looks whether the mark can be read, for who is to open the store.
///
/// # Errors
/// What the system says, most of all that this user may not.
pub(super) fn look(root: &Path) -> io::Result<()> {
    mark_of(root).map(drop)
}

/// Whether anything is there that may be a store. A folder that cannot be looked at is for whoever opens it to complain
/// about.
pub fn is_made(root: &Path) -> bool {
    match fs::read_dir(root) {
        Ok(entries) => that_count(root, entries).next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn that_count(root: &Path, entries: fs::ReadDir) -> impl Iterator<Item = String> {
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lost+found" && !name.starts_with('.') && !is_record_of_set_ups(root, name))
}

/// Whether this is where `setup` keeps what files of clients said: a folder in the one that is usual for records, which
/// is also the usual place for the state of a service. It is neither part of a store nor of anybody else.
fn is_record_of_set_ups(root: &Path, name: &str) -> bool {
    name == SET_UPS && root.ends_with(STATE) && fs::symlink_metadata(root.join(name)).is_ok_and(|found| found.is_dir())
}

/// Whether this is what a start leaves that ended before anything else was made: a file with a process id and
/// perhaps the path of a socket, or with nothing.
fn is_our_lock(path: &Path) -> bool {
    let is_ours = |text: String| {
        let (process, socket) = text.split_once('\n').unwrap_or((&text, ""));
        process.trim().bytes().all(|byte| byte.is_ascii_digit()) && (socket.is_empty() || socket.starts_with('/'))
    };
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST_LOCK)
        && match small_file::read(path, LONGEST_LOCK) {
            Ok(text) => String::from_utf8(text).is_ok_and(is_ours),
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

/// The format that a store says it has.
fn mark_of(root: &Path) -> io::Result<Mark> {
    let mut said = Vec::new();
    match small_file::open(OpenOptions::new().read(true), &root.join(MARK)) {
        Ok(file) => file.take(LONGEST_MARK).read_to_end(&mut said)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Mark::Missing),
        Err(error) => {
            let Some(InTheWay { found, .. }) = InTheWay::in_error(&error) else { return Err(error) };
            return Ok(Mark::Unclear { said: format!("it is {found}"), names_us: false });
        }
    };
    Ok(read_mark(&said))
}

/// All versions that know this format have written the same. What a later one says behind a higher number is not ours to
/// understand.
fn read_mark(said: &[u8]) -> Mark {
    let rest = said.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    if rest == format!("{FORMAT}\n").as_bytes() {
        return Mark::Ours;
    }
    if number > FORMAT {
        return Mark::Newer(number);
    }
    if is_cut(said) {
        return Mark::Missing;
    }
    let words = said.strip_prefix("\u{feff}".as_bytes()).unwrap_or(said).trim_ascii_start();
    let names_us = words.get(..US.len()).is_some_and(|word| word.eq_ignore_ascii_case(US));
    Mark::Unclear { said: told(said), names_us }
}

/// Whether this is what a loss of power leaves of our mark: its beginning, zeros, or nothing. Nobody wrote that.
fn is_cut(said: &[u8]) -> bool {
    let written = said.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let whole = format!("{PREFIX}{FORMAT}\n");
    // A longer file is of somebody else.
    let is_short = (said.len() as u64) < LONGEST_MARK;
    is_short
        && written < whole.len()
        && said.get(..written).is_some_and(|beginning| whole.as_bytes().starts_with(beginning))
}

/// What was read, so that it can be shown.
fn told(said: &[u8]) -> String {
    match said.get(..SHOWN) {
        Some(beginning) if said.len() > SHOWN => format!("it begins with \"{}\"", beginning.escape_ascii()),
        _ => format!("it says \"{}\"", said.escape_ascii()),
    }
}

/// Marks a store that has no mark with its format. That it cannot be read or written is no reason not to serve.
pub fn mark(root: &Path) {
    let path = root.join(MARK);
    match mark_of(root) {
        Ok(Mark::Missing) => {
            if let Err(error) = staged::replace(&path, 0o644, format!("{PREFIX}{FORMAT}\n").as_bytes()) {
                tracing::warn!(file = %path.display(), %error, "could not mark the format of the store");
            }
        }
        Ok(_) => {}
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
        assert_eq!(read_mark(b"registry-mirror store format 2\xff\xfe"), Mark::Newer(2));
    }

    #[test]
    fn a_store_without_a_mark_is_marked() {
        let folder = folder(&[("lock", "")]);
        mark(folder.path());
        assert_eq!(
            fs::read_to_string(folder.path().join("format")).expect("reads"),
            "registry-mirror store format 1\n"
        );
    }

    #[test]
    fn what_a_loss_of_power_leaves_of_a_mark_is_written_anew() {
        let whole = format!("{PREFIX}{FORMAT}\n");
        let cut = (0..whole.len()).flat_map(|length| {
            let beginning = &whole[..length];
            [beginning.to_owned(), format!("{beginning:\0<31}"), format!("{beginning}\0")]
        });
        for left in cut.chain(["\0".repeat(255)]) {
            let store = folder(&[("format", &left), ("lock", "4711\n"), ("oci-layout", ""), ("blobs/", "")]);
            examine(store.path()).unwrap_or_else(|refusal| panic!("{left:?}: {refusal}"));
            super::mark(store.path());
            assert_eq!(fs::read_to_string(store.path().join("format")).expect("reads"), whole, "{left:?}");
            // It makes nobody else's folder ours.
            let theirs = folder(&[("format", &left), ("notes.txt", "")]);
            assert!(matches!(examine(theirs.path()), Err(Refusal::Foreign { .. })), "{left:?}");
        }
        assert!(matches!(read_mark(b"registry-mirror store format 1\n\0"), Mark::Unclear { .. }));
        assert!(matches!(read_mark(&[0; 256]), Mark::Unclear { .. }), "it is longer than any mark");
    }

    #[test]
    fn a_mark_that_no_version_wrote_is_refused_shown_and_left_alone() {
        let long = format!("registry-mirror store format 1\n{}", "x".repeat(20 << 20));
        let cut = format!("begins with \"registry-mirror store format 1\\n{}\"", "x".repeat(SHOWN - 31));
        for (mark, shown) in [
            ("registry-mirror store format v2\n", "says \"registry-mirror store format v2\\n\""),
            ("registry-mirror store format  2\n", "format  2\\n\""),
            ("registry-mirror store format +2\n", "format +2"),
            ("registry-mirror store format -1\n", "format -1"),
            ("registry-mirror store format 0\n", "format 0"),
            ("registry-mirror store format 1 x\n", "format 1 x"),
            ("registry-mirror store format 01\n", "format 01"),
            ("registry-mirror store format 1\nregistry-mirror store format 2\n", "format 1\\nregistry-mirror"),
            ("registry-mirror store v2\n", "store v2"),
            ("\u{feff}registry-mirror store format 1\n", "\\xef\\xbb\\xbfregistry-mirror"),
            ("\nregistry-mirror store format 2\n", "\"\\nregistry-mirror"),
            ("Registry-Mirror Store Format 1\n", "Registry-Mirror"),
            ("\u{1b}[2J", "\"\\x1b[2J\""),
            (&long, &cut),
        ] {
            let store = folder(&[("format", mark), ("lock", "4711\n"), ("blobs/", ""), ("notes.txt", "")]);
            let refusal = examine(store.path()).expect_err(shown);
            let (said, hint) = (refusal.to_string(), refusal.hint());
            let file = store.path().join("format");
            assert!(said.starts_with(&format!("{} does not say", file.display())) && said.contains(shown), "{said}");
            assert!(hint.contains(&format!("mv {} {}/.format", file.display(), store.path().display())), "{hint}");
            super::mark(store.path());
            assert_eq!(fs::read_to_string(&file).expect("reads"), mark);
            // What the hint says helps.
            fs::rename(&file, store.path().join(".format")).expect("moved");
            fs::remove_file(store.path().join("notes.txt")).expect("removed");
            assert!(examine(store.path()).is_ok(), "{shown}");
        }
    }

    #[test]
    fn what_is_no_file_in_the_place_of_the_mark_is_named() {
        for (made, found) in [("folder", "a folder"), ("pipe", "a pipe"), ("link", "a link"), ("zero", "a link")] {
            let store = folder(&[("lock", ""), ("oci-layout", "")]);
            let path = store.path().join("format");
            let link = |target| std::os::unix::fs::symlink(target, &path);
            let done = match made {
                "folder" => fs::create_dir(&path),
                "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).map_err(Into::into),
                "link" => link("lock"),
                _ => link("/dev/zero"),
            };
            done.expect(made);
            let said = examine(store.path()).expect_err(made).to_string();
            assert!(
                said.ends_with(&format!("/format does not say which format the store has: it is {found}")),
                "{said}"
            );
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
            &[
                ("lock", "1"),
                ("oci-layout", ""),
                ("blobs/", ""),
                ("metadata/", ""),
                ("metadata.damaged-1/", ""),
                ("owed.damaged-1", ""),
            ],
            &[("lock", "1"), ("oci-layout", ""), ("blobs/", ""), ("lost+found/", ""), (".format", "\0\0")],
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
    fn records_of_set_ups_are_in_the_way_of_no_store() {
        for beside in [&[][..], &["lock"], &["lock", "oci-layout"]] {
            let records = folder(&[("registry-mirror/setup/docker/", "")]);
            let root = records.path().join("registry-mirror");
            assert!(!is_made(&root), "there is no store yet");
            for name in beside {
                fs::write(root.join(name), "4711\n").expect("written");
            }
            assert!(examine(&root).is_ok(), "{beside:?}");
            fs::write(root.join("notes.txt"), "").expect("written");
            let error = examine(&root).expect_err("of somebody else").to_string();
            assert!(error.contains("notes.txt"), "{error}");
        }
        // What is given back to the owner of a store is not what root keeps of clients.
        assert!(!is_of_a_store(SET_UPS));
        let theirs = folder(&[("setup/docker/", "")]);
        assert!(matches!(examine(theirs.path()), Err(Refusal::Foreign { .. })), "that is the folder of something else");
        let theirs = folder(&[("registry-mirror/", ""), ("registry-mirror/setup", "a program")]);
        assert!(matches!(examine(&theirs.path().join("registry-mirror")), Err(Refusal::Foreign { .. })));
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
