//! A file of the store that is opened by its name, a folder that is made, and what may stand in their place.
//!
//! Truth: no link is followed, nobody waits for a pipe that nobody writes to, and what has no end is not read to it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Something else stands where a file or a folder of the store is to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {found}, and no {wanted}", path.display())]
pub struct InTheWay {
    /// The name that is taken.
    pub path: PathBuf,
    /// What is there.
    pub found: &'static str,
    /// What was to be there.
    pub wanted: &'static str,
}

impl InTheWay {
    /// What has the name of a file and is none. A link is none either, wherever it leads.
    pub fn of_file(path: &Path) -> Option<InTheWay> {
        let kind = kind_of(&fs::symlink_metadata(path).ok()?);
        (!kind.is_file()).then(|| InTheWay { path: path.to_owned(), found: word(kind), wanted: "file" })
    }

    /// What has the name of a folder and leads to none.
    pub fn of_folder(path: &Path) -> Option<InTheWay> {
        let kind = kind_of(&fs::symlink_metadata(path).ok()?);
        let found = if kind.is_symlink() { "a link that leads to none" } else { word(kind) };
        (!path.is_dir()).then(|| InTheWay { path: path.to_owned(), found, wanted: "folder" })
    }

    /// The same of a folder to which no link may lead.
    pub fn of_own_folder(path: &Path) -> Option<InTheWay> {
        let kind = kind_of(&fs::symlink_metadata(path).ok()?);
        (!kind.is_dir()).then(|| InTheWay { path: path.to_owned(), found: word(kind), wanted: "folder" })
    }

    /// What an error of the system says of it, where it is one.
    pub fn in_error(error: &io::Error) -> Option<&InTheWay> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<InTheWay> for io::Error {
    fn from(it: InTheWay) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, it)
    }
}

fn kind_of(found: &fs::Metadata) -> FileType {
    FileType::from_raw_mode(found.mode())
}

const fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a link",
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::RegularFile => "a file",
        _ => "a device",
    }
}

/// Nothing of this is followed, waited for, or becomes the terminal of this process.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens it in this way. Does not wait.
///
/// # Errors
/// Those of the system, and [`InTheWay`].
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // To open a device may do something, so it is looked at before; and after, as it may be another by then.
    if let Some(it) = InTheWay::of_file(path) {
        return Err(it.into());
    }
    let file = options.custom_flags(SAFELY.bits().cast_signed()).open(path)?;
    let kind = kind_of(&file.metadata()?);
    if !kind.is_file() {
        return Err(InTheWay { path: path.to_owned(), found: word(kind), wanted: "file" }.into());
    }
    Ok(file)
}

/// What is in it, as far as that is at most so many bytes. Does not wait.
///
/// # Errors
/// Those of [`open`], and [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    to_its_end(open(OpenOptions::new().read(true), path)?, path, longest)
}

/// The same of a file that has this name below a folder, parts of it with a slash between them. No link is followed on
/// the way there either: who may write in that folder must not have read what only the reader may.
///
/// # Errors
/// Those of [`read`], and [`io::ErrorKind::InvalidInput`] for a name that leads elsewhere.
pub fn read_below(root: &Path, name: &str, longest: u64) -> io::Result<Vec<u8>> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name leads elsewhere"));
    }
    let held = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = rustix::fs::open(root, held, Mode::empty())?;
    let (folders, file) = name.rsplit_once('/').map_or((None, name), |(folders, file)| (Some(folders), file));
    let mut path = root.to_owned();
    for part in folders.into_iter().flat_map(|folders| folders.split('/')) {
        path.push(part);
        folder = match rustix::fs::openat(&folder, part, held | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let kind = kind_at(&folder, part)?;
                return Err(InTheWay { path, found: word(kind), wanted: "folder" }.into());
            }
            opened => opened?,
        };
    }
    path.push(file);
    // To open a device may do something, so it is looked at before; and after, as it may be another by then.
    let no_file = |kind| Err(InTheWay { path: path.clone(), found: word(kind), wanted: "file" }.into());
    match kind_at(&folder, file)? {
        FileType::RegularFile => {}
        kind => return no_file(kind),
    }
    let opened = rustix::fs::openat(&folder, file, OFlags::RDONLY | OFlags::CLOEXEC | SAFELY, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
        FileType::RegularFile => to_its_end(File::from(opened), &path, longest),
        kind => no_file(kind),
    }
}

fn kind_at(folder: &OwnedFd, name: &str) -> io::Result<FileType> {
    let found = rustix::fs::statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}

fn to_its_end(file: File, path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One that says so itself need not be in memory to be too long.
    let is_long = file.metadata()?.len() > longest;
    if !is_long {
        file.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if is_long || bytes.len() as u64 > longest {
        let why = format!("{} is longer than {longest} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Makes a folder, and those above it, for this user alone, where there is none.
///
/// # Errors
/// Those of the system, and [`InTheWay`].
pub fn make_folder(path: &Path) -> io::Result<()> {
    // A disk that is full or read-only refuses also what is there already.
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| InTheWay::of_folder(path).map_or(error, io::Error::from))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn what_is_no_file_is_named_at_once_and_what_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        mkfifoat(CWD, place("pipe"), Mode::RUSR | Mode::WUSR).expect("a pipe");
        fs::create_dir(place("folder")).expect("a folder");
        let _socket = UnixListener::bind(place("socket")).expect("a socket");
        symlink("/etc/passwd", place("link")).expect("a link");
        symlink("/nowhere/x", place("dangling")).expect("a link");
        for (path, found) in [
            (place("pipe"), "a pipe"),
            (place("folder"), "a folder"),
            (place("socket"), "a socket"),
            (place("link"), "a link"),
            (place("dangling"), "a link"),
            ("/dev/zero".into(), "a device"),
        ] {
            let said = format!("{} is {found}, and no file", path.display());
            for options in [OpenOptions::new().read(true), OpenOptions::new().read(true).write(true).create(true)] {
                let error = open(options, &path).expect_err(found);
                assert_eq!(InTheWay::in_error(&error).map(ToString::to_string), Some(said.clone()));
            }
            assert_eq!(read(&path, 9).expect_err(found).to_string(), said);
        }
        fs::write(place("file"), "1234567890").expect("written");
        assert_eq!(read(&place("file"), 10).expect("as long as may be"), b"1234567890");
        assert_eq!(read(&place("file"), 9).expect_err("longer").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&place("none"), 9).expect_err("none").kind(), io::ErrorKind::NotFound);
        let of_folder = |name: &str| InTheWay::of_folder(&place(name)).map(|it| it.to_string());
        assert_eq!((of_folder("folder"), of_folder("none")), (None, None));
        let said = format!("{} is a link that leads to none, and no folder", place("dangling").display());
        assert_eq!(of_folder("dangling"), Some(said.clone()));
        assert_eq!(make_folder(&place("dangling")).expect_err("taken").to_string(), said);
        assert!(make_folder(&place("pipe")).expect_err("taken").to_string().ends_with("a pipe, and no folder"));
        make_folder(&place("new/one")).and_then(|()| make_folder(&place("new/one"))).expect("made once");
    }

    #[test]
    fn no_link_leads_out_of_a_folder_wherever_on_the_way_it_is() {
        let (folder, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let place = |name: &str| folder.path().join(name);
        fs::create_dir_all(place("a/b")).expect("folders");
        fs::write(elsewhere.path().join("secret"), "secret").expect("written");
        fs::write(place("a/b/file"), "1234567890").expect("written");
        symlink(elsewhere.path(), place("a/out")).expect("a link");
        symlink(elsewhere.path().join("secret"), place("a/b/link")).expect("a link");
        symlink("b", place("a/within")).expect("a link");
        mkfifoat(CWD, place("a/pipe"), Mode::RUSR | Mode::WUSR).expect("a pipe");
        let read = |name: &str| read_below(folder.path(), name, 10).map_err(|error| error.to_string());
        assert_eq!(read("a/b/file").as_deref(), Ok(&b"1234567890"[..]));
        for (name, at, said) in [
            ("a/out/secret", "a/out", "a link, and no folder"),
            ("a/within/file", "a/within", "a link, and no folder"),
            ("a/pipe/file", "a/pipe", "a pipe, and no folder"),
            ("a/b/link", "a/b/link", "a link, and no file"),
            ("a/pipe", "a/pipe", "a pipe, and no file"),
            ("a/b", "a/b", "a folder, and no file"),
        ] {
            assert_eq!(read(name), Err(format!("{} is {said}", place(at).display())), "{name}");
        }
        for odd in ["../secret", "a/../a/b/file", "/a/b/file", "a//b/file", "", "."] {
            assert_eq!(read(odd), Err("its name leads elsewhere".to_owned()), "{odd}");
        }
        let kind = |name: &str, longest| read_below(folder.path(), name, longest).map_err(|error| error.kind());
        assert_eq!(kind("a/b/file", 9), Err(io::ErrorKind::FileTooLarge));
        assert_eq!(
            [kind("a/none", 9), kind("none/file", 9)],
            [Err(io::ErrorKind::NotFound), Err(io::ErrorKind::NotFound)]
        );
    }
}
