//! Tags and memberships as small files: the truth that every index is rebuilt from.
//!
//! Below `<store>/repositories/<upstream>/<repository>/` lie `_tags/<tag>/<accepted types>` (a
//! [`TagRecord`]), `_tags/<tag>/history` (the last changes of the tag, one JSON line
//! each), `_links/<algorithm>/<hex>` (a [`Membership`]) and a file for each [`Note`]; see
//! [`pins`] and [`lists`] for more. No component of a repository starts with `_` and no upstream with `.`,
//! so nothing clashes. Files are written under another
//! name, synced and renamed, so a reader sees the old or the new one, whole. A damaged file counts
//! as absent: what it said is asked of upstream again. The file is long because all that is written
//! and removed below a repository is counted in one place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use parking_lot::RwLock;

use self::tally::Tally;
use super::names::{self, HISTORY, LINKS, LISTS, TAGS};
use super::{CHANGES_KEPT, HistoryEntry, Location, Membership, Names, Note, TagKey, TagRecord, merged};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Algorithm, Digest, RegistryName, Repository, Tag};
use crate::owed::{Coming, Owed};

mod lists;
mod pins;
mod tags;
mod tally;

pub use tags::a_tag;

/// No record is longer than this, in bytes; a longer file is damaged.
const LONGEST_RECORD: u64 = 64 * 1024;

/// Nearly all are shorter than this, in bytes.
const USUAL_RECORD: usize = 512;

/// A history of so many bytes may have more changes than are kept: it is written anew with each further one.
const LONG_HISTORY: u64 = 256 << 10;

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

/// The name of a record in the tree.
#[derive(Debug)]
pub(super) enum Key {
    /// Of a tag.
    Tag(TagKey),
    /// Of a membership.
    Member(Location, Digest),
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

    /// Removes the histories of those tags of which `stays` says no.
    pub(super) fn retain_histories(
        &self,
        location: &Location,
        stays: &dyn Fn(&Tag, &[HistoryEntry]) -> bool,
    ) -> io::Result<()> {
        for tag in names_in(&self.repository_folder(location).join(TAGS)).filter_map(|name| name.parse::<Tag>().ok()) {
            let path = self.tag_folder(location, &tag).join(HISTORY);
            if path.exists() && !stays(&tag, &self.history(location, &tag)?) {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// The last digests that a tag had, oldest first. Lines that a crash cut are left out.
    pub(super) fn history(&self, location: &Location, tag: &Tag) -> io::Result<Vec<HistoryEntry>> {
        let Some(bytes) = present(fs::read(self.tag_folder(location, tag).join(HISTORY)))? else {
            return Ok(Vec::new());
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut entries: Vec<HistoryEntry> = lines.collect();
        entries.dedup_by(|later, earlier| later.digest == earlier.digest);
        entries.drain(..entries.len().saturating_sub(CHANGES_KEPT));
        Ok(entries)
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

    pub(super) fn noted(&self, location: &Location, note: Note) -> io::Result<Option<Timestamp>> {
        read_record(&self.note_path(location, note))
    }

    pub(super) fn note(&self, location: &Location, note: Note, at: Option<Timestamp>) -> io::Result<()> {
        let path = self.note_path(location, note);
        match at {
            Some(at) => self.write_record(&path, &at),
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

    /// Visits the name of every record. What cannot be read on the way is left out: it is asked of
    /// upstream again.
    pub(super) fn for_each_key(&self, visit: &mut dyn FnMut(Key)) {
        for (name, path) in folders(&self.root) {
            if let Ok(upstream) = name.parse() {
                visit_repositories(&upstream, "", &path, visit);
            }
        }
    }

    /// Adds what somebody else saw.
    pub(super) fn add_history(&self, location: &Location, tag: &Tag, entries: &[HistoryEntry]) -> io::Result<()> {
        let mine = self.history(location, tag)?;
        let all = merged(mine.clone(), entries.to_vec());
        if all == mine {
            return Ok(());
        }
        self.write_whole(&self.tag_folder(location, tag).join(HISTORY), &lines(&all)?)
    }

    /// Who is told that this file is about to get its name.
    fn coming(&self, path: &Path) -> Option<Coming> {
        let (owed, key) = (self.owed.as_ref()?, path.strip_prefix(&self.store).ok()?.to_str()?);
        names::is_shared(key).then(|| owed.coming(key))?
    }

    fn append_history(&self, key: &TagKey, record: &TagRecord) -> io::Result<()> {
        let folder = self.tag_folder(&key.location, &key.tag);
        let _coming = self.coming(&folder.join(HISTORY));
        let entry = HistoryEntry::of(key, record);
        let shape = self.shape.read();
        self.create_folder(&folder)?;
        let mut file = open_plain(OpenOptions::new().read(true).append(true).create(true), &folder.join(HISTORY))?;
        drop(shape);
        let before = file.metadata()?.len();
        if before > LONG_HISTORY {
            let mut entries = self.history(&key.location, &key.tag)?;
            entries.push(entry);
            entries.drain(..entries.len().saturating_sub(CHANGES_KEPT));
            return self.write_whole(&folder.join(HISTORY), &lines(&entries)?);
        }
        let mut line = Vec::new();
        // A crash may have cut the last line: do not spoil the next one.
        if file.seek(SeekFrom::End(-1)).is_ok() {
            let mut last = [b'\n'];
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                line.push(b'\n');
            }
        }
        line.extend(lines(&[entry])?);
        file.write_all(&line)?;
        self.tally.replaced((before > 0).then_some(before), Some(before + line.len() as u64));
        // The folder is synced with what the tag points at now, which is written next.
        file.sync_data()
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

/// Goes down from `path`, which is that of `repository`; the empty one is the upstream itself.
fn visit_repositories(upstream: &RegistryName, repository: &str, path: &Path, visit: &mut dyn FnMut(Key)) {
    for (name, path) in folders(path) {
        if name.starts_with('_') {
            if let Ok(repository) = repository.parse::<Repository>() {
                let location = Location { upstream: upstream.clone(), repository };
                match name.as_str() {
                    TAGS => visit_tags(&location, &path, visit),
                    LINKS => visit_members(&location, &path, visit),
                    _ => {}
                }
            }
            continue;
        }
        let inner = if repository.is_empty() { name } else { format!("{repository}/{name}") };
        // Also the bound of the recursion: a repository has at most 255 bytes.
        if inner.parse::<Repository>().is_ok() {
            visit_repositories(upstream, &inner, &path, visit);
        }
    }
}

fn visit_tags(location: &Location, path: &Path, visit: &mut dyn FnMut(Key)) {
    for (name, path) in folders(path) {
        let Ok(tag) = name.parse::<Tag>() else { continue };
        for accept in names_in(&path).filter_map(|name| name.parse().ok()) {
            visit(Key::Tag(TagKey { location: location.clone(), tag: tag.clone(), accept }));
        }
    }
}

fn visit_members(location: &Location, path: &Path, visit: &mut dyn FnMut(Key)) {
    for algorithm in Algorithm::ALL {
        for hex in names_in(&path.join(algorithm.as_str())) {
            if let Some(digest) = algorithm.digest(&hex) {
                visit(Key::Member(location.clone(), digest));
            }
        }
    }
}

fn entries(path: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten()
}

fn names_in(path: &Path) -> impl Iterator<Item = String> {
    entries(path).filter_map(|entry| entry.file_name().into_string().ok())
}

/// The folders in a folder; links are not followed.
fn folders(path: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    entries(path)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// `None` for what is not there.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file without following a link and without waiting for the other end of a fifo.
fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.mode(0o600).custom_flags(flags).open(path)
}

/// Reads a record. `None` when there is none, or when what is there is damaged.
fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_whole(path, LONGEST_RECORD)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(_) => {
            report_damage(path, "it is not a whole record");
            Ok(None)
        }
    }
}

/// Reads a file, at most `longest` bytes of it. `None` when there is none, or no plain file.
fn read_whole(path: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_plain(OpenOptions::new().read(true), path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            report_damage(path, "it is a link");
            return Ok(None);
        }
        result => present(result)?,
    };
    let Some(file) = file else { return Ok(None) };
    if !file.metadata()?.is_file() {
        report_damage(path, "it is not a plain file");
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(USUAL_RECORD);
    file.take(longest).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn report_damage(path: &Path, reason: &str) {
    tracing::warn!(file = %path.display(), reason, "a damaged record is ignored; upstream is asked again");
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A process that ran before may have left one of this name; nobody reads it.
    let mut file = open_plain(OpenOptions::new().write(true).create(true).truncate(true), path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    File::open(path)?.sync_all()
}

fn lines(entries: &[HistoryEntry]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::clock::Timestamp;
    use crate::metadata::Proof;
    use crate::oci::{Algorithm, Descriptor, MediaType};

    thread_local! {
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn a_long_name_takes_no_more_syncs_than_a_short_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path(), None);
        let upstream: RegistryName = "docker.io".parse().expect("valid");
        let descriptor =
            Descriptor { digest: Digest::of(Algorithm::Sha256, b"x"), size: 1, media_type: MediaType::ImageManifest };
        let record = TagRecord { descriptor: descriptor.clone(), checked_at: Timestamp(1), since: Timestamp(1) };
        for repository in ["short".to_owned(), ["a"; 62].join("/")] {
            let location = Location { upstream: upstream.clone(), repository: repository.parse().expect("valid") };
            let tag = "1".parse().expect("valid");
            let key = TagKey { location: location.clone(), tag, accept: AcceptSet::everything() };
            SYNCED.take();
            let member = Membership { descriptor: descriptor.clone(), proof: Proof::Bytes, anonymous: false };
            files.put_member(&location, &member).expect("written");
            files.put_tag(&key, &record).expect("written");
            // What is written last in each folder is what those above are written down with.
            let [member, tag] = [files.member_path(&location, &descriptor.digest), files.tag_path(&key)]
                .map(|path| path.parent().map(Path::to_owned));
            assert_eq!(SYNCED.take().into_iter().map(Some).collect::<Vec<_>>(), [member, tag]);
        }
    }

    #[test]
    fn of_a_tag_that_moves_for_ever_the_last_changes_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path(), None);
        let location = Location {
            upstream: "docker.io".parse().expect("valid"),
            repository: "library/app".parse().expect("valid"),
        };
        let key =
            TagKey { location: location.clone(), tag: "1".parse().expect("valid"), accept: AcceptSet::everything() };
        let record = |n: usize| {
            let digest = Digest::of(Algorithm::Sha256, n.to_string().as_bytes());
            let descriptor = Descriptor { digest, size: 1, media_type: MediaType::ImageManifest };
            TagRecord { descriptor, checked_at: Timestamp(n as u64), since: Timestamp(n as u64) }
        };
        files.put_tag(&key, &record(0)).expect("written");
        // As one of an earlier version may be.
        let many: Vec<_> = (0..3 * CHANGES_KEPT).map(|n| HistoryEntry::of(&key, &record(n))).collect();
        let path = files.tag_folder(&location, &key.tag).join(HISTORY);
        fs::write(&path, lines(&many).expect("json")).expect("written");
        let kept = files.history(&location, &key.tag).expect("read");
        assert_eq!((kept.len(), kept[0].at), (CHANGES_KEPT, Timestamp(2 * CHANGES_KEPT as u64)));
        let last = 3 * CHANGES_KEPT;
        files.put_tag(&key, &record(last)).expect("written");
        let kept = files.history(&location, &key.tag).expect("read");
        assert_eq!((kept.len(), kept[CHANGES_KEPT - 1].at), (CHANGES_KEPT, Timestamp(last as u64)));
        let left = fs::read(&path).expect("read").split(|byte| *byte == b'\n').count();
        assert_eq!(left, CHANGES_KEPT + 1, "the file is short again");
        files.put_tag(&key, &record(last + 1)).expect("written");
        assert_eq!(
            files.history(&location, &key.tag).expect("read").last().map(|entry| entry.at),
            Some(Timestamp(last as u64 + 1))
        );
    }
}
