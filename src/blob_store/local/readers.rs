//! Files that were handed out, as long as somebody may read them. The bytes of a deleted blob are the disk's
//! until the last of its readers has left.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Weak};

use crate::oci::Digest;

/// Those who have left are looked for when there are twice as many entries as there were readers then, and never
/// below so many.
const FEW: usize = 1024;

/// Who may be reading what. As large as there are open files.
#[derive(Debug, Default)]
pub(super) struct Readers {
    files: HashMap<Digest, Vec<Weak<File>>>,
    noted: usize,
    most: usize,
    /// What is deleted: in bytes, and who may be reading it.
    deleted: Vec<(u64, Vec<Weak<File>>)>,
}

impl Readers {
    pub(super) fn note(&mut self, digest: &Digest, file: &Arc<File>) {
        self.files.entry(*digest).or_default().push(Arc::downgrade(file));
        self.noted += 1;
        if self.noted > self.most.max(FEW) {
            self.files.retain(|_, files| {
                files.retain(is_open);
                !files.is_empty()
            });
            self.noted = self.files.values().map(Vec::len).sum();
            self.most = 2 * self.noted;
        }
    }

    /// The file that had this name is gone, and had so many bytes.
    pub(super) fn deleted(&mut self, digest: &Digest, size: u64) {
        let files = self.files.remove(digest).unwrap_or_default();
        self.noted -= files.len();
        if files.iter().any(is_open) {
            self.deleted.push((size, files));
        }
    }

    /// How many files are remembered, some of them without a reader.
    pub(super) const fn noted(&self) -> u64 {
        self.noted as u64
    }

    /// Bytes of what is deleted and still open.
    pub(super) fn lingering(&mut self) -> u64 {
        self.deleted.retain(|(_, files)| files.iter().any(is_open));
        self.deleted.iter().map(|(size, _)| size).sum()
    }

    /// What somebody reads and is not deleted.
    pub(super) fn reading(&self) -> HashSet<Digest> {
        let read = self.files.iter().filter(|(_, files)| files.iter().any(is_open));
        read.map(|(digest, _)| *digest).collect()
    }
}

fn is_open(file: &Weak<File>) -> bool {
    file.strong_count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_counts_until_its_last_reader_has_left_and_readers_are_forgotten() {
        let open = || Arc::new(tempfile::tempfile().expect("a file"));
        let [read, unread] = [1, 2].map(|number| Digest::Sha256([number; 32]));
        let mut readers = Readers::default();
        let (first, second) = (open(), open());
        for file in [&first, &second] {
            readers.note(&read, file);
        }
        readers.note(&unread, &open());
        assert_eq!(readers.reading(), HashSet::from([read]));
        readers.deleted(&read, 100);
        readers.deleted(&unread, 1000);
        drop(first);
        assert_eq!((readers.lingering(), readers.reading().len()), (100, 0));
        drop(second);
        assert_eq!(readers.lingering(), 0);
        let one = open();
        for number in 0..10 * FEW {
            readers.note(&Digest::Sha256([(number % 200) as u8; 32]), &one);
            readers.note(&unread, &open());
            assert!(readers.files.values().map(Vec::len).sum::<usize>() <= 2 * (number + 2).max(FEW));
        }
        drop(one);
        (0..=FEW * 30).for_each(|_| readers.note(&unread, &open()));
        assert!(readers.files.len() <= 1 && readers.noted <= FEW * 40, "{}", readers.noted);
    }
}
