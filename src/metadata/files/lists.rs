//! Lists that upstreams sent, as small files of bounded size and number.
//!
//! Below a repository lie `_lists/tags.<question>` and `_lists/<algorithm>.<hex>.<question>`, the
//! latter about the manifest of that digest; the question is hashed. Truth: all lists together, with the folders that
//! they may be alone in, never take more than [`MOST_BYTES`]. Who has them kept without end drives out his own: the
//! repository that takes most gives way. What gives way here stays in the bucket; what is no longer so leaves that, too.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use super::Files;
use super::plain::{entries, read_whole, report_damage};
use super::tally::on_disk;
use crate::metadata::lists::about_this;
use crate::metadata::names::{self, LISTS};
use crate::metadata::{BLOCK, KeptList, ListKey, Location};
use crate::oci::Digest;

/// A longer list is not kept, in bytes.
const LONGEST_LIST: usize = 1 << 20;
/// All lists together, in bytes on disk. As much as the memory for them holds.
const MOST_BYTES: u64 = 32 << 20;

/// What the files take, counted when the first one is written.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Option<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// When each was written, and what it takes.
    files: HashMap<PathBuf, (u64, u64)>,
    bytes: u64,
    writes: u64,
}

impl Files {
    pub(in crate::metadata) fn list(&self, key: &ListKey) -> io::Result<Option<KeptList>> {
        let path = self.list_path(key);
        let Some(bytes) = read_whole(&path, LONGEST_LIST as u64 + BLOCK)? else { return Ok(None) };
        let kept = KeptList::of_written(key, &bytes);
        if kept.is_none() {
            report_damage(&path, "it is not the list that was kept there");
        }
        Ok(kept)
    }

    pub(in crate::metadata) fn put_list(&self, key: &ListKey, list: &KeptList) -> io::Result<()> {
        let path = self.list_path(key);
        if list.body.as_ref().is_some_and(|body| body.len() > LONGEST_LIST) || key.part.len() as u64 > BLOCK / 2 {
            self.away(&path);
            return self.remove_list_files(vec![path]);
        }
        let bytes = list.written(key);
        let size = self.cost(&path, bytes.len() as u64);
        let gone = self.counted().as_mut().map(|counted| counted.add(path.clone(), size, MOST_BYTES));
        self.remove_list_files(gone.unwrap_or_default())?;
        let written = self.write_whole(&path, &bytes);
        if written.is_err() {
            self.uncount(&path);
        }
        written
    }

    pub(in crate::metadata) fn remove_lists(&self, location: &Location, about: Option<&Digest>) -> io::Result<()> {
        let folder = self.repository_folder(location).join(LISTS);
        let prefix = about_this(about);
        let concerned = entries(&folder).filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let paths: Vec<_> = concerned.map(|entry| entry.path()).collect();
        paths.iter().for_each(|path| self.away(path));
        self.remove_list_files(paths)
    }

    pub(in crate::metadata) fn shrink_lists(&self, most: u64) -> io::Result<()> {
        let gone = self.counted().as_mut().map(|counted| counted.shrink(most));
        self.remove_list_files(gone.unwrap_or_default())
    }

    /// What a list takes on disk, in bytes, with the folders that it may be alone in.
    fn cost(&self, path: &Path, length: u64) -> u64 {
        let folders = path.parent().and_then(|folder| folder.strip_prefix(&self.root).ok());
        on_disk(length) + folders.map_or(0, |folders| folders.components().count() as u64 * BLOCK)
    }

    fn remove_list_files(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        for path in paths {
            self.remove(&path)?;
            self.uncount(&path);
        }
        Ok(())
    }

    fn uncount(&self, path: &Path) {
        if let Some(counted) = self.counted().as_mut() {
            counted.remove(path);
        }
    }

    fn list_path(&self, key: &ListKey) -> PathBuf {
        self.store.join(names::list(key))
    }

    /// The ledger, with every file in it. Blocks for as long as it takes to look for them, once.
    fn counted(&self) -> MutexGuard<'_, Option<Counted>> {
        let mut ledger = self.ledger.0.lock();
        if ledger.is_none() {
            let mut found = Vec::new();
            let look = self.for_each_repository(&mut |_, folder| {
                found.extend(entries(&folder.join(LISTS)).filter_map(|entry| found_file(&entry)));
                Ok(())
            });
            // What is not found is not counted, and found at the next start.
            if let Err(error) = look {
                tracing::debug!(%error, "not all lists on disk are counted");
            }
            found.sort_unstable();
            let mut counted = Counted::default();
            for (_, path, size) in found {
                let size = self.cost(&path, size);
                counted.add(path, size, u64::MAX);
            }
            *ledger = Some(counted);
        }
        ledger
    }
}

impl Counted {
    /// Counts a file that is about to be written. Returns those that have to go for it.
    fn add(&mut self, path: PathBuf, size: u64, most: u64) -> Vec<PathBuf> {
        self.remove(&path);
        let mut gone = Vec::new();
        if self.bytes + size > most {
            // A little more than is needed, so that it is not done for every list from now on.
            gone = self.shrink((most - most / 8).saturating_sub(size));
        }
        self.writes += 1;
        self.bytes += size;
        self.files.insert(path, (self.writes, size));
        gone
    }

    /// Those that have to go, so that all take no more than `most` bytes: each time the oldest of the folder that takes
    /// most.
    fn shrink(&mut self, most: u64) -> Vec<PathBuf> {
        let mut gone = Vec::new();
        if self.bytes <= most {
            return gone;
        }
        let mut by_age: Vec<_> = self.files.iter().map(|(path, (at, size))| (*at, path.clone(), *size)).collect();
        by_age.sort_unstable();
        let mut folders: HashMap<PathBuf, (u64, VecDeque<(PathBuf, u64)>)> = HashMap::new();
        for (_, path, size) in by_age {
            let (bytes, files) = folders.entry(path.parent().unwrap_or(&path).to_owned()).or_default();
            *bytes += size;
            files.push_back((path, size));
        }
        let mut by_size: BinaryHeap<_> = folders.into_values().collect();
        while self.bytes > most
            && let Some((bytes, mut files)) = by_size.pop()
        {
            let Some((path, size)) = files.pop_front() else { continue };
            self.remove(&path);
            gone.push(path);
            by_size.push((bytes - size, files));
        }
        gone
    }

    fn remove(&mut self, path: &Path) {
        if let Some((_, size)) = self.files.remove(path) {
            self.bytes -= size;
        }
    }
}

fn found_file(entry: &fs::DirEntry) -> Option<(SystemTime, PathBuf, u64)> {
    let about = entry.metadata().ok()?;
    Some((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path(), about.len()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;

    fn key(repository: &str, part: &str) -> ListKey {
        let upstream = "docker.io".parse().expect("name");
        let location = Location { upstream, repository: repository.parse().expect("name") };
        ListKey { location, about: None, part: part.to_owned() }
    }

    fn list(size: usize) -> KeptList {
        KeptList { at: Timestamp(7), body: Some(Bytes::from(vec![b'x'; size])) }
    }

    fn bytes_on_disk(files: &Files) -> u64 {
        let mut bytes = 0;
        let mut count = |_: &Location, folder: &Path| {
            let sizes = entries(&folder.join(LISTS)).filter_map(|entry| entry.metadata().ok());
            bytes += sizes.map(|about| about.len().div_ceil(BLOCK) * BLOCK).sum::<u64>();
            Ok(())
        };
        files.for_each_repository(&mut count).expect("listed");
        bytes
    }

    #[test]
    fn all_lists_together_are_bounded_also_after_a_restart_and_the_oldest_go_first() {
        let store = tempfile::tempdir().expect("a folder");
        let mut files = Files::open(store.path(), None);
        let most = MOST_BYTES >> 20;
        for n in 0..most + 20 {
            if n == most / 2 {
                files = Files::open(store.path(), None);
            }
            files.put_list(&key(&format!("app{}", n % 5), &n.to_string()), &list(LONGEST_LIST)).expect("kept");
            assert!(bytes_on_disk(&files) <= MOST_BYTES, "after {n} lists");
        }
        let kept = |n: u64| files.list(&key(&format!("app{}", n % 5), &n.to_string())).expect("read").is_some();
        assert!(kept(most + 19) && !kept(0) && !kept(19));
    }

    #[test]
    fn the_lists_of_one_repository_drive_out_no_others() {
        let store = tempfile::tempdir().expect("a folder");
        let files = Files::open(store.path(), None);
        let honest: Vec<_> = (0..20).map(|n| key(&format!("app{n}"), "")).collect();
        for key in &honest {
            files.put_list(key, &list(5000)).expect("kept");
        }
        for n in 0..2 * (MOST_BYTES >> 20) {
            files.put_list(&key("made-up", &n.to_string()), &list(LONGEST_LIST)).expect("kept");
        }
        assert!(honest.iter().all(|key| files.list(key).expect("read").is_some()));
        // What is written last is there, and with less room than for the others theirs go, too.
        assert!(files.list(&key("made-up", &(2 * (MOST_BYTES >> 20) - 1).to_string())).expect("read").is_some());
        files.shrink_lists(0).expect("gone");
        assert_eq!(bytes_on_disk(&files), 0);
    }

    #[test]
    fn a_list_that_is_too_long_is_not_kept_and_takes_the_one_before_it_along() {
        let store = tempfile::tempdir().expect("a folder");
        let files = Files::open(store.path(), None);
        files.put_list(&key("app", ""), &list(10)).expect("kept");
        files.put_list(&key("app", ""), &list(LONGEST_LIST + 1)).expect("done");
        assert_eq!(files.list(&key("app", "")).expect("read"), None);
        assert_eq!(bytes_on_disk(&files), 0);
    }
}
