//! Files below a root, which no link leads out of.
//!
//! Every path is walked name by name, with each folder held open: an absolute link means the root, and `..` stops
//! there. Nothing that is replaced meanwhile leads elsewhere. Files are written beside their place, made durable, and
//! renamed, with the mode and the owner that they had.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::documents::{Code, Error};

/// A settings file is smaller, in bytes.
const LARGEST: u64 = 4 << 20;
/// More links one after the other are a circle.
const MOST_LINKS: usize = 40;
const HELD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that counts as the root.
pub(super) struct Root {
    folder: OwnedFd,
    shown: PathBuf,
}

/// What a file holds, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Content {
    /// A new file of ours.
    pub(super) fn new(bytes: Vec<u8>) -> Content {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Content { bytes, mode: 0o644, uid, gid }
    }

    /// The same file with other content.
    pub(super) fn with(&self, bytes: Vec<u8>) -> Content {
        Content { bytes, ..*self }
    }
}

/// A name in a folder that is held open.
pub(super) struct Place {
    folder: OwnedFd,
    name: OsString,
}

/// Whether what a last name links to is meant, and whether folders are made on the way, to be told.
enum Walk<'m> {
    Look,
    Make(&'m mut Vec<String>),
}

impl Root {
    /// The folder `path` as the root.
    pub(super) fn open(path: &Path) -> Result<Root, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let folder = folder.map_err(|error| Error::new(Code::Usage, format!("--root {}: {error}", path.display())))?;
        Ok(Root { folder, shown: path.to_owned() })
    }

    /// A path as people know it.
    pub(super) fn shown(&self, path: &str) -> String {
        self.shown.join(path).display().to_string()
    }

    fn failed(&self, path: &str, doing: &str, error: &io::Error) -> Error {
        let code = if doing == "read" { Code::Read } else { Code::Write };
        let failed = Error::new(code, format!("{} cannot be {doing}: {error}", self.shown(path)));
        match error.kind() {
            io::ErrorKind::PermissionDenied => failed.with_hint("run it as root"),
            _ => failed,
        }
    }

    /// What a file holds; `None` where there is none.
    pub(super) fn read(&self, path: &str) -> Result<Option<Content>, Error> {
        let found = self.place(path, Walk::Look).and_then(|place| place.map_or(Ok(None), |place| place.read()));
        found.map_err(|error| self.failed(path, "read", &error))
    }

    /// Makes a file say this. The folders that it makes are added to `made`.
    pub(super) fn write(&self, path: &str, content: &Content, made: &mut Vec<String>) -> Result<(), Error> {
        let written = self.make(path, made).and_then(|place| place.write(content));
        written.map_err(|error| self.failed(path, "written", &error))
    }

    /// Makes the folders that lead to a file.
    pub(super) fn make_way(&self, path: &str, made: &mut Vec<String>) -> Result<(), Error> {
        self.make(path, made).map(drop).map_err(|error| self.failed(path, "written", &error))
    }

    fn make(&self, path: &str, made: &mut Vec<String>) -> io::Result<Place> {
        self.place(path, Walk::Make(made))?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &str) -> Result<(), Error> {
        let place = self.place(path, Walk::Look);
        let removed = place.and_then(|place| place.map_or(Ok(()), |place| place.remove()));
        removed.map_err(|error| self.failed(path, "removed", &error))
    }

    /// Removes folders that are empty, the last one first; others stay.
    pub(super) fn remove_folders(&self, paths: &[String]) {
        for path in paths.iter().rev() {
            if let Ok(Some(Place { folder, name })) = self.place(path, Walk::Look) {
                let _ = rustix::fs::unlinkat(&folder, &name, AtFlags::REMOVEDIR);
            }
        }
    }

    /// The names in a folder, in order; none where there is none.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let listed = || -> io::Result<Vec<String>> {
            // Any name in it leads there, through whatever links.
            let Some(Place { folder, .. }) = self.place(&format!("{path}/x"), Walk::Look)? else {
                return Ok(Vec::new());
            };
            let mut names = Vec::new();
            for entry in Dir::read_from(&readable(&folder)?)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names)
        };
        listed().map_err(|error| self.failed(path, "read", &error))
    }

    /// The folder at `path`, which nobody but its owner, who must be the caller, can look into.
    pub(super) fn own_folder(&self, path: &str, make: Option<&mut Vec<String>>) -> Result<Option<OwnedFd>, Error> {
        let opened = || -> io::Result<Option<OwnedFd>> {
            let makes = make.is_some();
            let Some(place) = self.place(path, make.map_or(Walk::Look, Walk::Make))? else { return Ok(None) };
            if makes {
                match rustix::fs::mkdirat(&place.folder, &place.name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match rustix::fs::openat(&place.folder, &place.name, HELD, Mode::empty()) {
                Ok(folder) => Ok(Some(folder)),
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let folder = opened().map_err(|error| self.failed(path, "opened", &error))?;
        let Some(folder) = folder else { return Ok(None) };
        let stat = rustix::fs::fstat(&folder).map_err(|error| self.failed(path, "opened", &error.into()))?;
        let (uid, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o777);
        if stat.st_uid != uid || mode & 0o077 != 0 {
            let message = format!(
                "{} is owned by uid {} with mode {mode:04o}: what is recorded there is believed only where it is owned \
                 by uid {uid}, who asks, with mode 0700",
                self.shown(path),
                stat.st_uid
            );
            return Err(Error::new(Code::Forbidden, message).with_hint("look at who made it, and move it away"));
        }
        Ok(Some(folder))
    }

    /// Where a path leads. `None` where a folder on the way is not there, and is not made.
    fn place(&self, path: &str, mut walk: Walk<'_>) -> io::Result<Option<Place>> {
        let mut folders = vec![self.folder.try_clone()?];
        let mut names: Vec<OsString> = Vec::new();
        let mut rest = components(path.as_bytes());
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                folders.truncate((folders.len() - 1).max(1));
                names.pop();
                continue;
            }
            let Some(here) = folders.last() else { break };
            let stat = rustix::fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW);
            let kind = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                Ok(FileType::Symlink) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(here, &name, Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        folders.truncate(1);
                        names.clear();
                    }
                    let further = components(&target).into_iter().chain(rest).collect();
                    rest = further;
                }
                Ok(_) | Err(Errno::NOENT) if rest.is_empty() => {
                    let folder = here.try_clone()?;
                    return Ok(Some(Place { folder, name }));
                }
                Err(Errno::NOENT) => {
                    let Walk::Make(made) = &mut walk else { return Ok(None) };
                    rustix::fs::mkdirat(here, &name, Mode::from_raw_mode(0o755))?;
                    let below = rustix::fs::openat(here, &name, HELD, Mode::empty())?;
                    names.push(name);
                    made.push(names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/"));
                    folders.push(below);
                }
                Ok(_) => {
                    let below = rustix::fs::openat(here, &name, HELD, Mode::empty())?;
                    names.push(name);
                    folders.push(below);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::ISDIR.into())
    }
}

/// The names in a path that mean something.
fn components(path: &[u8]) -> VecDeque<OsString> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(|name| OsString::from_vec(name.to_vec())).collect()
}

/// A folder that was only held, to be read or made durable.
fn readable(folder: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Place {
    /// A name in a folder.
    pub(super) fn of(folder: &OwnedFd, name: impl AsRef<OsStr>) -> io::Result<Place> {
        Ok(Place { folder: folder.try_clone()?, name: name.as_ref().to_owned() })
    }

    /// What the file holds.
    pub(super) fn read(&self) -> io::Result<Option<Content>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut bytes = Vec::new();
        File::from(file).take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any settings"));
        }
        Ok(Some(Content { bytes, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }))
    }

    /// Puts a file in its place, all at once.
    pub(super) fn write(&self, content: &Content) -> io::Result<()> {
        let mut beside = OsString::from(".");
        beside.push(&self.name);
        beside.push(format!(".registry-mirror-{}", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, &beside, flags, Mode::from_raw_mode(0o600))?;
        let put = || -> io::Result<()> {
            let mut file = File::from(file);
            file.write_all(&content.bytes)?;
            let stat = rustix::fs::fstat(&file)?;
            if (stat.st_uid, stat.st_gid) != (content.uid, content.gid) {
                rustix::fs::fchown(&file, Some(Uid::from_raw(content.uid)), Some(Gid::from_raw(content.gid)))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(content.mode))?;
            file.sync_all()?;
            Ok(rustix::fs::renameat(&self.folder, &beside, &self.folder, &self.name)?)
        };
        if let Err(error) = put() {
            let _ = rustix::fs::unlinkat(&self.folder, &beside, AtFlags::empty());
            return Err(error);
        }
        Ok(rustix::fs::fsync(readable(&self.folder)?)?)
    }

    /// Removes the file, if it is there.
    pub(super) fn remove(&self) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::fsync(readable(&self.folder)?)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
