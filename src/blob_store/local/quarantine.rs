//! Blobs that turned out to be damaged: out of sight, kept for inspection while there is room.
//!
//! They lie in `quarantine/` and count against the budget of the store; making room begins with them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::super::{Content, Source};
use super::{Damage, Inner};
use crate::oci::Digest;
use crate::small_file::make_folder;

/// How many damaged files of one digest are kept.
const KEPT_ASIDE: u32 = 8;

/// Where they are, below the store.
const QUARANTINE: &str = "quarantine";

impl Inner {
    /// Looks again with names held still: a commit may have replaced the file meanwhile.
    pub(super) fn set_aside_if_damaged(&self, digest: &Digest) {
        let _naming = self.naming.lock();
        if matches!(self.look(digest), Err(Damage::WrongSize { .. })) {
            if let Err(error) = self.set_aside(digest) {
                tracing::warn!(%digest, %error, "could not set a damaged blob aside");
            }
            self.remember(digest, None);
        }
    }

    pub(super) fn set_aside_if_same(&self, digest: &Digest, content: &Content) -> io::Result<bool> {
        let Source::File(opened) = &content.source else { return Ok(false) };
        let opened = rustix::fs::fstat(opened)?;
        let _naming = self.naming.lock();
        match rustix::fs::statat(self.folder(digest).descriptor(), digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.set_aside(digest)?;
        self.remember(digest, None);
        Ok(true)
    }

    /// Moves what lies under the digest to the quarantine. The caller holds names still.
    pub(super) fn set_aside(&self, digest: &Digest) -> io::Result<()> {
        make_folder(&self.root.join(QUARANTINE))?;
        let folder = self.folder(digest).descriptor();
        for number in 0..KEPT_ASIDE {
            let to = self.place_aside(digest, number);
            match rustix::fs::renameat_with(&*folder, digest.hex(), CWD, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => {
                    result?;
                    self.count_set_aside();
                    return Ok(());
                }
            }
        }
        Ok(rustix::fs::unlinkat(&*folder, digest.hex(), AtFlags::empty())?)
    }

    fn place_aside(&self, digest: &Digest, number: u32) -> PathBuf {
        self.root.join(QUARANTINE).join(format!("{}-{}.{number}", digest.algorithm(), digest.hex()))
    }

    /// Drops what was set aside under one digest, as far as that can be done.
    pub(super) fn drop_set_aside_as(&self, digest: &Digest) {
        if self.known.read().aside.contains(digest) {
            for number in 0..KEPT_ASIDE {
                let _ = remove(&self.place_aside(digest, number));
            }
            self.count_set_aside();
        }
    }

    pub(super) fn drop_set_aside(&self) -> io::Result<()> {
        let dropped = remove_all(&self.root.join(QUARANTINE));
        self.count_set_aside();
        dropped
    }

    /// Counted anew each time: they are few, and somebody who inspects them may delete some.
    pub(super) fn count_set_aside(&self) {
        let (mut bytes, mut digests) = (0, HashSet::new());
        for entry in fs::read_dir(self.root.join(QUARANTINE)).into_iter().flatten().flatten() {
            bytes += entry.metadata().ok().filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len());
            digests.extend(digest_of(&entry));
        }
        let mut known = self.known.write();
        (known.set_aside, known.aside) = (bytes, digests);
    }
}

fn digest_of(entry: &fs::DirEntry) -> Option<Digest> {
    let name = entry.file_name().into_string().ok()?;
    let (digest, _number) = name.rsplit_once('.')?;
    digest.replacen('-', ":", 1).parse().ok()
}

fn remove_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        remove(&entry?.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
