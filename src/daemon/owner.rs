//! Whose files the superuser makes in a store.
//!
//! A service keeps its store as a user of its own. What root wrote there as root that user could not read, and the
//! service would not start any more. So root works there in the name of the folder's owner, and without rights of
//! his own: else that user could lay links there, and have root write and delete where they lead. The
//! kernel keeps this for each thread, and gives it to those that the thread starts.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, StatxFlags, Uid};
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::blob_store::{format, lock};
use crate::documents::{Code, Error};
use crate::plain::quoted;

/// No store has folders in folders beyond this.
const DEEPEST: usize = 300;

/// Somebody else, in whose store root is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
}

/// Where something is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    /// A part of a file system may be mounted in it a second time. Older kernels do not say so.
    id: Option<u64>,
}

/// What root keeps of his rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    Nothing,
    /// He may read everything, and go everywhere: a daemon reads keys and secrets again when it is told to.
    Reading,
}

/// As long as it lives, what this thread does is done by the owner. Not for another thread.
#[derive(Debug)]
pub(super) struct InHisName {
    /// The group before.
    gid: Gid,
    /// The other groups before.
    groups: Vec<Gid>,
}

/// A folder that is named in a way that its owner can go, too.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) path: PathBuf,
    /// What that path leads over, where the owner may not go the usual way.
    _folder: Option<OwnedFd>,
}

impl Owner {
    /// The owner of this folder, or of the nearest above it that is there, where this is root and that is not root's.
    pub(super) fn to_write_for(folder: &Path) -> Option<Owner> {
        let there = folder.ancestors().find_map(|folder| rustix::fs::stat(folder).ok());
        let found = there.filter(|found| geteuid().is_root() && found.st_uid != 0)?;
        Some(Owner { uid: Uid::from_raw(found.st_uid), gid: Gid::from_raw(found.st_gid) })
    }

    /// Gives him what root left in his store, as earlier versions did, where no daemon has it; how many names that were.
    /// What is not of the store stays whose it is.
    pub(super) fn give_back(self, store: &Path) -> usize {
        if format::examine(store).is_err() || lock::is_held(store) {
            return 0;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(store, flags, Mode::empty());
        let of_mount = opened.and_then(|folder| Ok((Mount::of(&folder)?, folder)));
        of_mount.map_or(0, |(mount, folder)| self.give_below(&folder, mount, DEEPEST))
    }

    /// No link is followed, and nothing entered that is mounted there. A file with a second name stays root's: who lays one here
    /// must not be given what it is elsewhere.
    fn give_below(self, folder: &OwnedFd, mount: Mount, depth: usize) -> usize {
        let Ok(entries) = Dir::read_from(folder) else { return 0 };
        let names = entries.flatten().map(|entry| entry.file_name().to_owned());
        let mut given = 0;
        let is_top = depth == DEEPEST;
        let is_wanted = |name: &CString| match name.to_str() {
            Ok("." | "..") => false,
            Ok(name) if is_top => format::is_of_a_store(name),
            _ => true,
        };
        for name in names.filter(is_wanted) {
            let held = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(part) = rustix::fs::openat(folder, &name, held, Mode::empty()) else { continue };
            let Ok(found) = rustix::fs::fstat(&part) else { continue };
            let kind = FileType::from_raw_mode(found.st_mode);
            let is_ours = kind == FileType::Directory || kind == FileType::RegularFile && found.st_nlink == 1;
            if !is_ours || Mount::of(&part) != Ok(mount) {
                continue;
            }
            if found.st_uid == 0
                && rustix::fs::chownat(&part, "", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH).is_ok()
            {
                given += 1;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if kind == FileType::Directory
                && let Some(depth) = depth.checked_sub(1)
                && let Ok(below) = rustix::fs::openat(&part, ".", flags, Mode::empty())
            {
                given += self.give_below(&below, mount, depth);
            }
        }
        given
    }

    /// Works in his name from here on.
    ///
    /// # Errors
    /// Where root may not do that, as in some containers. Then it is as it was.
    pub(super) fn enter(self, keeping: Keeping) -> io::Result<InHisName> {
        // Dropped where it fails half-way.
        let in_his_name = InHisName { gid: getegid(), groups: getgroups()? };
        // Where the kernel refuses that, there is no way to be without them.
        let _ = set_thread_groups(&[]);
        set_thread_res_gid(None, self.gid, None)?;
        self.take_on(keeping)?;
        Ok(in_his_name)
    }

    /// The kernel takes all rights away with the name.
    fn take_on(self, keeping: Keeping) -> io::Result<()> {
        set_thread_res_uid(None, self.uid, None)?;
        let rights = capabilities(None)?;
        let kept = match keeping {
            Keeping::Nothing => CapabilitySet::empty(),
            Keeping::Reading => rights.permitted & CapabilitySet::DAC_READ_SEARCH,
        };
        Ok(set_capabilities(None, CapabilitySets { effective: kept, ..rights })?)
    }

    /// Has this done by root, on a thread that a daemon has in his name, where it is for a folder of root's.
    pub(super) fn aside<T>(self, folder: Option<&Path>, act: impl FnOnce() -> T) -> T {
        let roots = folder.and_then(|folder| rustix::fs::stat(folder).ok()).is_some_and(|found| found.st_uid == 0);
        let stepped = roots && !geteuid().is_root() && set_thread_res_uid(None, Uid::ROOT, None).is_ok();
        let done = act();
        if stepped && let Err(error) = self.take_on(Keeping::Reading) {
            tracing::warn!(%error, "files in the store of another user are made as root");
        }
        done
    }

    /// The same for a command, which has nothing to do in this store where it cannot do it in his name.
    ///
    /// # Errors
    /// [`Code::Failed`].
    pub(super) fn enter_or_refuse(self, store: &Path) -> Result<InHisName, Error> {
        let (path, uid, gid) = (store.display(), self.uid.as_raw(), self.gid.as_raw());
        self.enter(Keeping::Nothing).map_err(|error| {
            let message =
                format!("the store {path} belongs to uid {uid}, in whose name root cannot work here: {error}");
            let hint = format!(
                "run this as that user: setpriv --reuid={uid} --regid={gid} --clear-groups registry-mirror …; or let \
                 root become that user: CAP_SETUID and CAP_SETGID"
            );
            Error::new(Code::Failed, message).with_hint(hint)
        })
    }
}

impl Mount {
    fn of(opened: &OwnedFd) -> rustix::io::Result<Mount> {
        let said = rustix::fs::statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok();
        let said = said.filter(|said| said.stx_mask & StatxFlags::MNT_ID.bits() != 0);
        Ok(Mount { device: rustix::fs::fstat(opened)?.st_dev, id: said.map(|said| said.stx_mnt_id) })
    }
}

impl Reached {
    /// How the owner comes to `folder`, by the usual way or else by the one that root has opened for him: the folders
    /// above that of a user who is made up are root's alone.
    pub(super) fn by(owner: Option<Owner>, folder: &Path) -> Result<Reached, Error> {
        let usual = Reached { path: folder.to_owned(), _folder: None };
        let Some(owner) = owner else { return Ok(usual) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::open(folder, flags, Mode::empty()) else { return Ok(usual) };
        let _in_his_name = owner.enter_or_refuse(folder)?;
        if rustix::fs::stat(folder).is_ok() {
            return Ok(usual);
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        Ok(Reached { path, _folder: Some(opened) })
    }
}

/// An error as it is about the store by its own name. What there is to do is typed.
pub(super) fn by_its_name(error: Error, reached: &Path, store: &Path) -> Error {
    if reached == store {
        return error;
    }
    let (reached, typed, store) = (reached.display().to_string(), quoted(store), store.display().to_string());
    Error {
        message: error.message.replace(&reached, &store),
        hint: error.hint.map(|hint| hint.replace(&reached, &typed)),
        ..error
    }
}

/// Root again, with the groups that he had.
impl Drop for InHisName {
    fn drop(&mut self) {
        // The user that this thread really is, is root still, and may. His rights come back with the name.
        let _ = set_thread_res_uid(None, Uid::ROOT, None).and_then(|()| set_thread_res_gid(None, self.gid, None));
        let _ = set_thread_groups(&self.groups);
    }
}
