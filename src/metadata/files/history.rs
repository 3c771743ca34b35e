//! The changes of a tag, one JSON line each, oldest first; the last of them are kept.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use super::Files;
use super::plain::{names_in, open_plain, read_end};
use crate::metadata::names::{HISTORY, TAGS};
use crate::metadata::{CHANGES_KEPT, HistoryEntry, Location, TagKey, TagRecord, merged};
use crate::oci::Tag;

/// A history of so many bytes may have more changes than are kept: it is written anew with each further one.
const LONG_HISTORY: u64 = 256 << 10;
/// What is kept is not longer, in bytes. One of an earlier version may be: of that the end counts.
const LONGEST_HISTORY: u64 = 16 << 20;

impl Files {
    /// Removes the histories of those tags of which `stays` says no.
    pub(in crate::metadata) fn retain_histories(
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
    pub(in crate::metadata) fn history(&self, location: &Location, tag: &Tag) -> io::Result<Vec<HistoryEntry>> {
        let Some(bytes) = read_end(&self.tag_folder(location, tag).join(HISTORY), LONGEST_HISTORY)? else {
            return Ok(Vec::new());
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut entries: Vec<HistoryEntry> = lines.collect();
        entries.dedup_by(|later, earlier| later.digest == earlier.digest);
        entries.drain(..entries.len().saturating_sub(CHANGES_KEPT));
        Ok(entries)
    }

    /// Adds what somebody else saw.
    pub(in crate::metadata) fn add_history(
        &self,
        location: &Location,
        tag: &Tag,
        entries: &[HistoryEntry],
    ) -> io::Result<()> {
        let mine = self.history(location, tag)?;
        let all = merged(mine.clone(), entries.to_vec());
        if all == mine {
            return Ok(());
        }
        self.write_whole(&self.tag_folder(location, tag).join(HISTORY), &lines(&all)?)
    }

    pub(super) fn append_history(&self, key: &TagKey, record: &TagRecord) -> io::Result<()> {
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
    use super::*;
    use crate::clock::Timestamp;
    use crate::oci::{AcceptSet, Algorithm, Descriptor, Digest, MediaType, Places};

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
            TagRecord {
                descriptor,
                checked_at: Timestamp(n as u64),
                since: Timestamp(n as u64),
                observed_at: None,
                places: Places::default(),
            }
        };
        files.put_tag(&key, &record(0)).expect("written");
        // As one of an earlier version may be.
        let many: Vec<_> = (0..3 * CHANGES_KEPT).map(|n| HistoryEntry::of(&key, &record(n))).collect();
        let path = files.tag_folder(&location, &key.tag).join(HISTORY);
        std::fs::write(&path, lines(&many).expect("json")).expect("written");
        let kept = files.history(&location, &key.tag).expect("read");
        assert_eq!((kept.len(), kept[0].at), (CHANGES_KEPT, Timestamp(2 * CHANGES_KEPT as u64)));
        let before = vec![b'x'; LONGEST_HISTORY as usize];
        std::fs::write(&path, [before, b"\n".to_vec(), lines(&many).expect("json")].concat()).expect("written");
        assert_eq!(files.history(&location, &key.tag).expect("read"), kept, "however much there was before");
        let last = 3 * CHANGES_KEPT;
        files.put_tag(&key, &record(last)).expect("written");
        let kept = files.history(&location, &key.tag).expect("read");
        assert_eq!((kept.len(), kept[CHANGES_KEPT - 1].at), (CHANGES_KEPT, Timestamp(last as u64)));
        let left = std::fs::read(&path).expect("read").split(|byte| *byte == b'\n').count();
        assert_eq!(left, CHANGES_KEPT + 1, "the file is short again");
        files.put_tag(&key, &record(last + 1)).expect("written");
        assert_eq!(
            files.history(&location, &key.tag).expect("read").last().map(|entry| entry.at),
            Some(Timestamp(last as u64 + 1))
        );
    }
}
