//! Tags and memberships as small files: the truth that every index is rebuilt from.
//!
//! Below `<store>/repositories/<upstream>/<repository>/` lie `_tags/<tag>/<accepted types>` (a
//! [`TagRecord`]), `_tags/<tag>/history` (the last changes of the tag, one JSON line
//! each), `_links/<algorithm>/<hex>` (a [`Membership`]) and a file for each [`Note`]; see
//! [`pins`] and [`lists`] for more. No component of a repository starts with `_` and no upstream with `.`,
//! so nothing clashes. Files are written under another
//! name, synced and renamed, so a reader sees the old or the new one, whole. A damaged file counts
//! as absent: what it said is asked of upstream again. All that is written and removed below a repository is
//! counted here.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::Serialize;

pub(super) use self::plain::read_record;
use self::plain::{entries, names_in, present, report_damage, sync_folder, write_synced};
use self::tally::Tally;
pub(super) use self::walk::Key;
use super::names::{self, HISTORY, LISTS};
use super::{Location, Membership, Names, Note, Noted, TagKey, TagRecord};
use crate::oci::{AcceptSet, Digest, Tag};
use crate::owed::{Coming, Owed};

mod history;
mod lists;
mod pins;
mod plain;
mod tags;
mod tally;
mod walk;

pub use tags::a_tag;

/// The folder of small files.
#[derive(Debug)]
pub(super) struct Files {
    store: PathBuf,
    root: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
    ledger: lists::Ledger,
    tally: Tally,
    /// Written while folders disappear, read while a file is put into one.
    shape: RwLock<()>,
    /// Told of what has to go up into the bucket, where there is one.
    owed: Option<Arc<Owed>>,
}

impl Files {
    /// The tree below a store. Creates nothing yet; removes what a crash left half written.
    pub(super) fn open(store: &Path, owed: Option<Arc<Owed>>) -> Files {
        let root = store.join(names::REPOSITORIES);
        let staging = root.join(".staging");
        for leftover in fs::read_dir(&staging).into_iter().flatten().flatten() {
            let _ = fs::remove_file(leftover.path());
        }
        let (ledger, tally) = (lists::Ledger::default(), Tally::default());
        let (store, next, shape) = (store.to_owned(), AtomicU64::new(0), RwLock::default());
        Files { store, root, staging, next, ledger, tally, shape, owed }
    }

    pub(super) fn tag(&self, key: &TagKey) -> io::Result<Option<TagRecord>> {
        read_record(&self.tag_path(key))
    }

    /// What a tag points at, for each set of accepted types.
    pub(super) fn tag_records(&self, location: &Location, tag: &Tag) -> io::Result<Vec<(AcceptSet, TagRecord)>> {
        let folder = self.tag_folder(location, tag);
        let accepts = names_in(&folder).filter_map(|name| Some((name.parse::<AcceptSet>().ok()?, folder.join(name))));
        accepts
            .filter_map(|(accept, path)| Some(read_record(&path).transpose()?.map(|record| (accept, record))))
            .collect()
    }

    /// Writes what a tag points at, and adds to its history when it points elsewhere than before.
    pub(super) fn put_tag(&self, key: &TagKey, record: &TagRecord) -> io::Result<()> {
        let path = self.tag_path(key);
        let before = self.tag(key)?;
        // History first: after a crash a digest may stand there twice, but never be missing.
        if before.is_none_or(|before| before.descriptor.digest != record.descriptor.digest) {
            self.append_history(key, record)?;
        }
        self.write_record(&path, record)
    }

    /// Removes one pointer of a tag.
    pub(super) fn remove_tag_for(&self, key: &TagKey) -> io::Result<()> {
        self.remove(&self.tag_path(key)).map(drop)
    }

    /// Removes the pointers of a tag. Its history stays.
    pub(super) fn remove_tag(&self, location: &Location, tag: &Tag) -> io::Result<()> {
        let folder = self.tag_folder(location, tag);
        let Some(entries) = present(fs::read_dir(&folder))? else { return Ok(()) };
        for entry in entries {
            let name = entry?.file_name();
            if name != HISTORY {
                self.unlink(&folder.join(name))?;
            }
        }
        self.gone_from(&folder)
    }

    pub(super) fn member(&self, location: &Location, digest: &Digest) -> io::Result<Option<Membership>> {
        let path = self.member_path(location, digest);
        let found: Option<Membership> = read_record(&path)?;
        if found.as_ref().is_some_and(|member| member.descriptor.digest != *digest) {
            report_damage(&path, "it names another digest");
            return Ok(None);
        }
        Ok(found)
    }

    /// Writes a membership, unless exactly this is there already. What stands then.
    pub(super) fn put_member(&self, location: &Location, membership: &Membership) -> io::Result<Membership> {
        let digest = &membership.descriptor.digest;
        let before = self.member(location, digest)?;
        let now = membership.clone().after(before.as_ref());
        if before.as_ref() != Some(&now) {
            self.write_record(&self.member_path(location, digest), &now)?;
        }
        Ok(now)
    }

    /// The repositories that have this content, by a look into each.
    pub(super) fn holders(&self, digest: &Digest) -> io::Result<Vec<(Location, Membership)>> {
        let mut holders = Vec::new();
        self.for_each_repository(&mut |location, _| {
            holders.extend(self.member(location, digest)?.map(|member| (location.clone(), member)));
            Ok(())
        })?;
        Ok(holders)
    }

    pub(super) fn noted(&self, location: &Location, note: Note) -> io::Result<Option<Noted>> {
        read_record(&self.note_path(location, note))
    }

    pub(super) fn note(&self, location: &Location, note: Note, noted: Option<&Noted>) -> io::Result<()> {
        let path = self.note_path(location, note);
        match noted {
            Some(noted) => self.write_record(&path, noted),
            None => {
                // What is public is told by who asked; a name may also leave because nothing is stored.
                if note == Note::Denied {
                    self.away(&path);
                }
                self.remove(&path).map(drop)
            }
        }
    }

    /// What has this name is no longer so, for all replicas.
    pub(super) fn away(&self, path: &Path) {
        let key = path.strip_prefix(&self.store).ok().and_then(Path::to_str);
        if let Some((owed, key)) = self.owed.as_ref().zip(key) {
            owed.away(key);
        }
    }

    pub(super) fn remove_member(&self, location: &Location, digest: &Digest) -> io::Result<()> {
        self.remove(&self.member_path(location, digest)).map(drop)
    }

    /// Who is told that this file is about to get its name.
    fn coming(&self, path: &Path) -> Option<Coming> {
        let (owed, key) = (self.owed.as_ref()?, path.strip_prefix(&self.store).ok()?.to_str()?);
        names::is_shared(key).then(|| owed.coming(key))?
    }

    fn write_record(&self, path: &Path, record: &impl Serialize) -> io::Result<()> {
        self.write_whole(path, &serde_json::to_vec(record)?)
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let _coming = self.coming(path);
        self.create_folder(&self.staging)?;
        let staged = self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let written = write_synced(&staged, bytes).and_then(|()| self.put_in_place(&staged, path, folder));
        if written.is_err() {
            let _ = fs::remove_file(&staged);
        }
        written?;
        sync_folder(folder)
    }

    fn put_in_place(&self, staged: &Path, path: &Path, folder: &Path) -> io::Result<()> {
        let _shape = self.shape.read();
        self.create_folder(folder)?;
        let length = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.len());
        let (before, after) = (length(path), length(staged));
        fs::rename(staged, path)?;
        self.tally.replaced(before, after);
        Ok(())
    }

    /// Creates a folder and those above it. Who puts something into it syncs it; those above go with it, since what was
    /// made earlier is written down no later. To sync each of them would take a long name longer than all else.
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        self.create_folder(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                self.tally.folders(1);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a file for good, and what is empty then above it; whether it was there.
    fn remove(&self, path: &Path) -> io::Result<bool> {
        let was_there = self.unlink(path)?;
        if was_there {
            path.parent().map_or(Ok(()), |folder| self.gone_from(folder))?;
        }
        Ok(was_there)
    }

    /// Removes a file; whether it was there. [`Files::gone_from`] is for afterwards.
    fn unlink(&self, path: &Path) -> io::Result<bool> {
        let length = fs::symlink_metadata(path).ok().map(|found| found.len());
        let removed = present(fs::remove_file(path))?.is_some();
        if removed {
            self.tally.replaced(length, None);
        }
        Ok(removed)
    }

    /// Something was removed from a folder: for good, and with the folders that are empty now.
    fn gone_from(&self, folder: &Path) -> io::Result<()> {
        present(sync_folder(folder))?;
        let _shape = self.shape.write();
        for folder in folder.ancestors().take_while(|folder| **folder != self.root) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
            self.tally.folders(-1);
        }
        Ok(())
    }

    /// What all names take. Right once [`Files::count_names`] has run.
    pub(super) fn names(&self) -> Names {
        self.tally.names()
    }

    /// Counts what is there. Blocks for as long as it takes to list all folders.
    pub(super) fn count_names(&self) {
        let before = self.tally.names();
        let (found, mut open) = (Tally::default(), vec![self.root.clone()]);
        while let Some(folder) = open.pop() {
            let may_be_long = folder.ends_with(LISTS);
            for entry in entries(&folder) {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.folders(1);
                    open.push(entry.path());
                } else if may_be_long || entry.file_name() == HISTORY {
                    found.replaced(None, entry.metadata().ok().map(|found| found.len()));
                } else {
                    // Takes one block, whatever it is.
                    found.replaced(None, Some(1));
                }
            }
        }
        self.tally.correct(before, found.names());
    }

    fn repository_folder(&self, location: &Location) -> PathBuf {
        self.store.join(names::repository(location))
    }

    fn tag_folder(&self, location: &Location, tag: &Tag) -> PathBuf {
        self.store.join(names::tag_folder(location, tag))
    }

    fn tag_path(&self, key: &TagKey) -> PathBuf {
        self.store.join(names::tag(key))
    }

    fn note_path(&self, location: &Location, note: Note) -> PathBuf {
        self.store.join(names::note(location, note))
    }

    fn member_path(&self, location: &Location, digest: &Digest) -> PathBuf {
        self.store.join(names::member(location, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::plain::SYNCED;
    use super::*;
    use crate::clock::Timestamp;
    use crate::metadata::Proof;
    use crate::oci::{Algorithm, Descriptor, MediaType, Places, RegistryName};

    #[test]
    fn a_long_name_takes_no_more_syncs_than_a_short_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path(), None);
        let upstream: RegistryName = "docker.io".parse().expect("valid");
        let descriptor =
            Descriptor { digest: Digest::of(Algorithm::Sha256, b"x"), size: 1, media_type: MediaType::ImageManifest };
        let record = TagRecord {
            descriptor: descriptor.clone(),
            checked_at: Timestamp(1),
            since: Timestamp(1),
            observed_at: None,
            places: Places::default(),
        };
        for repository in ["short".to_owned(), ["a"; 62].join("/")] {
            let location = Location { upstream: upstream.clone(), repository: repository.parse().expect("valid") };
            let tag = "1".parse().expect("valid");
            let key = TagKey { location: location.clone(), tag, accept: AcceptSet::everything() };
            SYNCED.take();
            let member = Membership {
                descriptor: descriptor.clone(),
                proof: Proof::Bytes,
                anonymous: false,
                places: Places::default(),
            };
            files.put_member(&location, &member).expect("written");
            files.put_tag(&key, &record).expect("written");
            // What is written last in each folder is what those above are written down with.
            let [member, tag] = [files.member_path(&location, &descriptor.digest), files.tag_path(&key)]
                .map(|path| path.parent().map(Path::to_owned));
            assert_eq!(SYNCED.take().into_iter().map(Some).collect::<Vec<_>>(), [member, tag]);
        }
    }
}
