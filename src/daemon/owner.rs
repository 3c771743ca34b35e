//! Whose files the superuser makes in a store.
//!
//! A service keeps its store as a user of its own. What root wrote there as root that user could not read, and the
//! service would not start any more. So root writes there in the name of the folder's owner, and keeps his
//! rights: he may read where that user may not. The kernel keeps this for each thread, and gives it to those
//! that the thread starts.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid};

/// Somebody else, in whose store root is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
}

/// As long as it lives, what this thread makes is the owner's. Not for another thread.
#[derive(Debug)]
pub(super) struct InHisName {
    /// The group before.
    gid: Gid,
}

impl Owner {
    /// The owner of this folder, where this is root and the folder is not root's.
    pub(super) fn to_write_for(folder: &Path) -> Option<Owner> {
        let found = std::fs::metadata(folder).ok().filter(|found| geteuid().is_root() && found.uid() != 0)?;
        Some(Owner { uid: Uid::from_raw(found.uid()), gid: Gid::from_raw(found.gid()) })
    }

    /// Writes in his name from here on. `None` where root may not do that, as in some containers; then it is as it was.
    pub(super) fn enter(self) -> Option<InHisName> {
        // Dropped where it fails half-way.
        let in_his_name = InHisName { gid: getegid() };
        let taken_on = self.taken_on();
        taken_on.inspect_err(|error| tracing::debug!(%error, "files in the store are made as root")).ok()?;
        Some(in_his_name)
    }

    fn taken_on(self) -> io::Result<()> {
        set_thread_res_gid(None, self.gid, None)?;
        set_thread_res_uid(None, self.uid, None)?;
        // The kernel took the rights away with the name.
        let rights = capabilities(None)?;
        Ok(set_capabilities(None, CapabilitySets { effective: rights.permitted, ..rights })?)
    }
}

/// Root again, with the group that he had.
impl Drop for InHisName {
    fn drop(&mut self) {
        // The user that this thread really is, is root still, and may.
        let _ = set_thread_res_uid(None, Uid::ROOT, None).and_then(|()| set_thread_res_gid(None, self.gid, None));
    }
}
