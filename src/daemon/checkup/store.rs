//! The facts of the store's disk. A small file is written as a blob is: written, synced, given its name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, XattrFlags};
use rustix::io::Errno;

use super::super::owner::{Keeping, Owner, Reached, by_its_name};
use crate::blob_store::closed;
use crate::blob_store::unusable::Unusable;
use crate::config;
use crate::doctor::Disk;
use crate::doctor::store::{Closed, Kind, Space, Times, Unwritable};
use crate::documents::{Code, Error};
use crate::owed::{self, Owed};

/// A disk that takes longer is no disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much is written, in bytes.
const WRITTEN: usize = 64 << 10;
/// A note on a file, as unfinished fills carry one.
const NOTE: &str = "user.registry-mirror.doctor";

/// Looks at the folder of the store, and writes to it if it is there. Blocks, for a bounded time.
pub(super) fn disk(store: &config::Store) -> Disk {
    let path = &store.path;
    let at = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let there = path.is_dir();
    let space = space(at, store);
    let written = match &space {
        _ if !there && obstacle(path, at).is_some() => {
            Err(Unwritable::NoFolder(obstacle(path, at).unwrap_or(path).to_owned()))
        }
        Ok(Space { read_only: true, .. }) => Err(Unwritable::ReadOnly),
        _ if !there => in_time(at.to_owned(), Keeping::Reading, make).and(Err(Unwritable::Absent)),
        _ => in_time(path.clone(), Keeping::Reading, write),
    };
    let closed = if there { closed_to_its_owner(store) } else { None };
    let list = if there && store.bucket.is_some() { flaw_of_list(path) } else { None };
    let attributes = written.as_ref().ok().map(|(_, attributes)| *attributes);
    Disk {
        path: path.clone(),
        there,
        space,
        written: written.map(|(times, _)| times),
        attributes,
        kind: kind(at),
        closed,
        list,
    }
}

/// What stands in the way of a folder: a link that leads nowhere, or a file where it begins to be made.
fn obstacle<'a>(path: &'a Path, at: &'a Path) -> Option<&'a Path> {
    let absent = path.ancestors().take_while(|path| *path != at);
    let link = absent.filter(|path| path.symlink_metadata().is_ok()).last();
    link.or_else(|| Some(at).filter(|at| !at.is_dir()))
}

fn space(at: &Path, store: &config::Store) -> Result<Space, String> {
    let stat = rustix::fs::statvfs(at).map_err(|error| error.to_string())?;
    let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        bytes: capacity,
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        min_free: store.min_free.of(capacity),
        inodes_free: stat.f_favail,
        inodes: stat.f_files,
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

fn kind(at: &Path) -> Option<Kind> {
    let stat = rustix::fs::statfs(at).ok()?;
    // Of linux/magic.h: NFS, CIFS, SMB2, 9p, Ceph; tmpfs, ramfs; overlayfs.
    match u32::try_from(stat.f_type).ok()? {
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 | 0x0102_1997 | 0x00c3_6400 => Some(Kind::Network),
        0x0102_1994 | 0x8584_58f6 => Some(Kind::Memory),
        0x794c_7630 => Some(Kind::Overlay),
        _ => None,
    }
}

/// Writes on a thread of its own, which a disk that hangs may keep.
fn in_time<T: Send + 'static>(
    folder: PathBuf,
    keeping: Keeping,
    probe: fn(&Path) -> Result<T, Unwritable>,
) -> Result<T, Unwritable> {
    let (done, came) = mpsc::channel();
    // Also root writes there as its owner, who may have laid links.
    let owner = Owner::to_write_for(&folder);
    std::thread::spawn(move || {
        let _in_his_name = owner.and_then(|owner| owner.enter(keeping).ok());
        done.send(probe(&folder))
    });
    came.recv_timeout(PATIENCE).unwrap_or(Err(Unwritable::Late(PATIENCE)))
}

fn unwritable(error: io::Error) -> Unwritable {
    match Errno::from_io_error(&error) {
        Some(Errno::ROFS) => Unwritable::ReadOnly,
        Some(Errno::NOSPC | Errno::DQUOT) => Unwritable::Full,
        Some(Errno::ACCESS | Errno::PERM) => Unwritable::Denied,
        _ => Unwritable::Other(error.to_string()),
    }
}

/// The same by the name of the store, wherever he comes to it.
fn closed_to_its_owner(config::Store { path: store, bucket, .. }: &config::Store) -> Option<Closed> {
    let reached = Reached::by(Owner::to_write_for(store), store).ok()?;
    let Closed { part, why, opening, is_needed } =
        in_time(reached.path.clone(), Keeping::Nothing, closed_part).ok()??;
    let told = Error { hint: Some(opening), ..Error::new(Code::Failed, why) };
    let told = by_its_name(told, &reached.path, store);
    let is_needed = is_needed || bucket.is_some() && part == reached.path.join(owed::NAME);
    let part = part.strip_prefix(&reached.path).map_or(part.clone(), |below| store.join(below));
    Some(Closed { part, why: told.message, opening: told.hint.unwrap_or_default(), is_needed })
}

/// Why a start sets the list of what is owed to the bucket aside.
fn flaw_of_list(store: &Path) -> Option<String> {
    let reached = Reached::by(Owner::to_write_for(store), store).ok()?;
    in_time(reached.path, Keeping::Nothing, |folder| Ok(Owed::flaw(folder))).ok()?
}

/// What of it its owner cannot use. That he cannot come to it at all is told by who writes to it.
fn closed_part(folder: &Path) -> Result<Option<Closed>, Unwritable> {
    let Some(found) = closed::first(folder, usize::MAX).filter(|found| !found.part.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let (part, why, is_needed) = (found.path(folder), found.error.to_string(), found.is_needed);
    let unusable = Unusable::of(folder, found);
    let whose = unusable.whose().map(|whose| format!("; {whose}"));
    // To who has it already it need not be given.
    let opening = unusable.hint().filter(|_| whose.is_none());
    let opening = opening.unwrap_or_else(|| format!("as root: {}", unusable.giving()));
    Ok(Some(Closed { part, why: why + &whose.unwrap_or_default(), opening, is_needed }))
}

/// Goes when it is dropped, whatever happened to it.
struct Probe(PathBuf);

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How long each step takes, and whether files can carry notes.
fn write(folder: &Path) -> Result<(Times, bool), Unwritable> {
    written(folder).map_err(unwritable)
}

/// Whether a folder can be made in this one.
fn make(folder: &Path) -> Result<(), Unwritable> {
    let probe = folder.join(format!(".doctor-{}-made", std::process::id()));
    let made = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
    made.map_err(|error| match unwritable(error) {
        Unwritable::Other(why) => Unwritable::Unmakeable(why),
        known => known,
    })
}

fn written(folder: &Path) -> io::Result<(Times, bool)> {
    // Names with a dot are nobody's in a store.
    let [staged, named] = ["staged", "named"].map(|step| folder.join(format!(".doctor-{}-{step}", std::process::id())));
    let (staged, named) = (Probe(staged), Probe(named));
    let began = Instant::now();
    let mut file = OpenOptions::new().write(true).create_new(true).open(&staged.0)?;
    file.write_all(&[0; WRITTEN])?;
    let write = began.elapsed();
    file.sync_all()?;
    let sync = began.elapsed() - write;
    let notes = rustix::fs::fsetxattr(&file, NOTE, b"1", XattrFlags::empty()).is_ok();
    let began = Instant::now();
    std::fs::rename(&staged.0, &named.0)?;
    File::open(folder)?.sync_all()?;
    Ok((Times { write, sync, rename: began.elapsed() }, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_tells_what_the_disk_does_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = config::Store {
            path: folder.path().to_owned(),
            max_size: config::Limit::Percent(80),
            min_free: config::Limit::Percent(0),
            scrub_rate: 0,
            verify_on_read: false,
            bucket: None,
        };
        let found = disk(&store);
        assert!(found.there && found.written.is_ok() && found.attributes.is_some(), "{found:?}");
        assert!(found.space.is_ok_and(|space| space.free > 0 && !space.read_only));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let none = config::Store { path: folder.path().join("not/there"), ..store };
        assert_eq!(disk(&none).written, Err(Unwritable::Absent));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let at = |name: &str| disk(&config::Store { path: folder.path().join(name), ..none.clone() }).written;
        let no_folder = |name: &str| Err(Unwritable::NoFolder(folder.path().join(name)));
        std::fs::write(folder.path().join("file"), "x").expect("written");
        std::os::unix::fs::symlink("/nowhere/x", folder.path().join("link")).expect("made");
        for (name, expected) in [("file", "file"), ("file/store", "file"), ("link", "link"), ("link/store", "link")] {
            assert_eq!(at(name), no_folder(expected), "{name}");
        }
        let nowhere = disk(&config::Store { path: "/proc/store".into(), ..none });
        assert!(matches!(nowhere.written, Err(Unwritable::Unmakeable(_) | Unwritable::Denied)), "{nowhere:?}");
    }

    #[test]
    fn what_the_system_says_is_told_as_what_it_means() {
        for (errno, expected) in [
            (Errno::ROFS, Unwritable::ReadOnly),
            (Errno::NOSPC, Unwritable::Full),
            (Errno::DQUOT, Unwritable::Full),
            (Errno::ACCESS, Unwritable::Denied),
        ] {
            assert_eq!(unwritable(errno.into()), expected);
        }
        assert!(matches!(unwritable(Errno::IO.into()), Unwritable::Other(_)));
    }
}
