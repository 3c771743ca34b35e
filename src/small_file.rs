//! A file of the store that is opened by its name, a folder that is made, and what may stand in their place.
//!
//! Truth: no link is followed, nobody waits for a pipe that nobody writes to, and what has no end is not read to it.

use std::fs::{self, DirBuilder, File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Something else stands where a file or a folder of the store is to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {found}, and no {wanted}", path.display())]
pub struct InTheWay {
    /// The name that is taken.
    pub path: PathBuf,
    /// What is there.
    pub found: &'static str,
    wanted: &'static str,
}

impl InTheWay {
    /// What has the name of a file and is none. A link is none either, wherever it leads.
    pub fn of_file(path: &Path) -> Option<InTheWay> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
        (!kind.is_file()).then(|| InTheWay { path: path.to_owned(), found: word(kind), wanted: "file" })
    }

    /// What has the name of a folder and leads to none.
    pub fn of_folder(path: &Path) -> Option<InTheWay> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
        let found = if kind.is_symlink() { "a link that leads to none" } else { word(kind) };
        (!path.is_dir()).then(|| InTheWay { path: path.to_owned(), found, wanted: "folder" })
    }

    /// The same of a folder to which no link may lead.
    pub fn of_own_folder(path: &Path) -> Option<InTheWay> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
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

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_symlink() => "a link",
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_file() => "a file",
        _ => "a device",
    }
}

/// Opens it in this way. Does not wait.
///
/// # Errors
/// Those of the system, and [`InTheWay`].
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // To open a device may do something, so it is looked at before; and after, as it may be another by then.
    if let Some(it) = InTheWay::of_file(path) {
        return Err(it.into());
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = options.custom_flags(flags.cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
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
    let mut bytes = Vec::new();
    open(OpenOptions::new().read(true), path)?.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
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
}
