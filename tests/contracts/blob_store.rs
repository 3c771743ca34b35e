//! What every blob store promises, and what the one on disk promises when its folder is tampered with.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use registry_mirror::blob_store::ingest::{Ingest, IngestDir, Origin, Resumed};
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::blob_store::lock::{LockError, StoreLock};
use registry_mirror::blob_store::memory::MemoryBlobStore;
use registry_mirror::blob_store::{BlobStore, Content, Usage, read_file_at};
use registry_mirror::oci::{Algorithm, Digest};
use tempfile::TempDir;

fn ingested(ingests: &IngestDir, bytes: &[u8]) -> (Ingest, Digest) {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let mut ingest = ingests.begin(&digest).expect("begins");
    for chunk in bytes.chunks(1000) {
        ingest.append(chunk).expect("appends");
    }
    (ingest, digest)
}

async fn stored(store: &dyn BlobStore, ingests: &IngestDir, bytes: &[u8]) -> Digest {
    let (ingest, digest) = ingested(ingests, bytes);
    store.commit(ingest, &digest).await.expect("commits");
    digest
}

fn bytes_of(content: &Content) -> Vec<u8> {
    content.read_at(0, usize::MAX).expect("reads").to_vec()
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("is there").next().is_none()
}

/// The cases, each a test of its own for each adapter.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                let folder = tempfile::tempdir().expect("a folder");
                let ingests = super::IngestDir::open(folder.path().join("ingest")).expect("opens");
                super::$case(&super::MemoryBlobStore::new(), &ingests, &folder.path().join("ingest")).await;
            })*
        }
        mod local {
            $(#[tokio::test]
            async fn $case() {
                let folder = tempfile::tempdir().expect("a folder");
                let ingests = super::IngestDir::open(folder.path().join("ingest")).expect("opens");
                let store = super::LocalBlobStore::open(folder.path()).expect("opens");
                super::$case(&store, &ingests, &folder.path().join("ingest")).await;
            })*
        }
    };
}

contract! {
    what_was_committed_can_be_read_at_any_offset,
    nothing_is_visible_before_the_commit,
    a_dropped_ingest_leaves_nothing,
    a_commit_takes_the_ingest_away,
    committing_what_is_there_succeeds,
    a_deleted_blob_is_a_miss_and_stays_readable_where_it_was_open,
    deleting_what_is_not_there_succeeds,
    the_list_and_the_usage_agree,
    an_empty_blob_is_a_blob,
    a_sha512_blob_is_not_found_under_another_algorithm,
    an_ingest_can_be_read_while_it_grows_and_after_the_commit,
    equal_blobs_committed_at_once_count_once,
    the_number_of_removals_rises_with_each,
    what_was_set_aside_is_damaged_until_it_is_replaced_or_goes,
}

async fn what_was_committed_can_be_read_at_any_offset(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let bytes = some_bytes(10_000);
    let digest = stored(store, ingests, &bytes).await;
    let content = store.open(&digest).await.expect("a hit");
    assert_eq!(content.size, 10_000);
    for (offset, length) in [(0, 10_000), (0, 1), (1, 4096), (9_999, 1), (9_990, 100), (10_000, 5), (20_000, 5)] {
        let end = (offset + length).min(bytes.len());
        let expected = bytes.get(offset..end).unwrap_or_default();
        assert_eq!(content.read_at(offset as u64, length).expect("reads"), expected, "{offset}+{length}");
    }
}

async fn nothing_is_visible_before_the_commit(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let (ingest, digest) = ingested(ingests, b"not yet");
    assert!(store.open(&digest).await.is_none());
    assert_eq!(store.list().await.expect("lists"), []);
    assert_eq!(store.usage(), Usage::default());
    store.commit(ingest, &digest).await.expect("commits");
    assert!(store.open(&digest).await.is_some());
}

async fn a_dropped_ingest_leaves_nothing(store: &dyn BlobStore, ingests: &IngestDir, folder: &Path) {
    let (ingest, digest) = ingested(ingests, b"given up");
    assert!(!is_empty(folder));
    drop(ingest);
    assert!(is_empty(folder));
    assert!(store.open(&digest).await.is_none());
    let (mut read, digest) = ingested(ingests, b"somebody reads this");
    read.append(b", and then some").expect("written");
    let bytes = read.written();
    let reader = read.file();
    drop((read, digest));
    assert_eq!(ingests.lingering(), bytes, "it takes its room as long as somebody reads it");
    drop(reader);
    assert_eq!(ingests.lingering(), 0);
}

async fn a_commit_takes_the_ingest_away(store: &dyn BlobStore, ingests: &IngestDir, folder: &Path) {
    stored(store, ingests, b"kept").await;
    assert!(is_empty(folder));
}

async fn committing_what_is_there_succeeds(store: &dyn BlobStore, ingests: &IngestDir, folder: &Path) {
    let digest = stored(store, ingests, b"twice").await;
    let first = store.open(&digest).await.expect("a hit");
    assert_eq!(stored(store, ingests, b"twice").await, digest);
    assert_eq!(bytes_of(&first), b"twice");
    assert_eq!(bytes_of(&store.open(&digest).await.expect("a hit")), b"twice");
    assert_eq!(store.usage(), Usage { bytes: 5, blobs: 1, set_aside: 0 });
    assert!(is_empty(folder));
}

async fn a_deleted_blob_is_a_miss_and_stays_readable_where_it_was_open(
    store: &dyn BlobStore,
    ingests: &IngestDir,
    _: &Path,
) {
    let digest = stored(store, ingests, b"being read").await;
    let content = store.open(&digest).await.expect("a hit");
    store.delete(&digest).await.expect("deletes");
    assert!(store.open(&digest).await.is_none());
    assert_eq!(bytes_of(&content), b"being read");
    assert_eq!(store.usage(), Usage::default());
}

async fn the_number_of_removals_rises_with_each(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let (one, other) = (stored(store, ingests, b"one").await, stored(store, ingests, b"other").await);
    let at_first = store.removals();
    store.open(&one).await.expect("is there");
    assert_eq!(store.removals(), at_first, "looking takes nothing away");
    store.delete(&one).await.expect("deleted");
    let then = store.removals();
    assert!(then > at_first);
    let content = store.open(&other).await.expect("is there");
    assert!(store.set_aside(&other, &content).await.expect("set aside"));
    assert!(store.removals() > then);
}

async fn what_was_set_aside_is_damaged_until_it_is_replaced_or_goes(
    store: &dyn BlobStore,
    ingests: &IngestDir,
    _: &Path,
) {
    let set_aside = async || {
        let digest = stored(store, ingests, b"one").await;
        assert!(!store.is_damaged(&digest));
        let content = store.open(&digest).await.expect("is there");
        assert!(store.set_aside(&digest, &content).await.expect("set aside"));
        assert!(store.is_damaged(&digest));
        digest
    };
    set_aside().await;
    // Replaced, and set aside again.
    let digest = set_aside().await;
    store.delete(&digest).await.expect("deleted");
    assert!(!store.is_damaged(&digest), "deleted is no damage");
    set_aside().await;
    store.drop_set_aside().await.expect("drops");
    assert!(!store.is_damaged(&digest), "nothing of it is left");
    assert!(!store.is_damaged(&Digest::of(Algorithm::Sha256, b"never stored")));
}

async fn deleting_what_is_not_there_succeeds(store: &dyn BlobStore, _: &IngestDir, _: &Path) {
    store.delete(&Digest::of(Algorithm::Sha256, b"never stored")).await.expect("deletes");
}

async fn the_list_and_the_usage_agree(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let mut expected = Vec::new();
    for length in [1, 20, 300] {
        expected.push((stored(store, ingests, &some_bytes(length)).await, length as u64));
    }
    store.delete(&expected.remove(1).0).await.expect("deletes");
    let mut listed = store.list().await.expect("lists");
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(store.usage(), Usage { bytes: 301, blobs: 2, set_aside: 0 });
}

async fn an_empty_blob_is_a_blob(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let digest = stored(store, ingests, b"").await;
    let content = store.open(&digest).await.expect("a hit");
    assert_eq!((content.size, bytes_of(&content)), (0, vec![]));
    assert_eq!(store.usage(), Usage { bytes: 0, blobs: 1, set_aside: 0 });
}

async fn a_sha512_blob_is_not_found_under_another_algorithm(store: &dyn BlobStore, ingests: &IngestDir, _: &Path) {
    let digest = Digest::of(Algorithm::Sha512, b"long");
    let mut ingest = ingests.begin(&digest).expect("begins");
    ingest.append(b"long").expect("appends");
    store.commit(ingest, &digest).await.expect("commits");
    assert_eq!(bytes_of(&store.open(&digest).await.expect("a hit")), b"long");
    assert!(store.open(&Digest::of(Algorithm::Sha256, b"long")).await.is_none());
    assert_eq!(store.list().await.expect("lists"), [(digest, 4)]);
}

async fn an_ingest_can_be_read_while_it_grows_and_after_the_commit(
    store: &dyn BlobStore,
    ingests: &IngestDir,
    _: &Path,
) {
    let digest = Digest::of(Algorithm::Sha256, b"abcdef");
    let mut ingest = ingests.begin(&digest).expect("begins");
    let file = ingest.file();
    let read = |offset, length| registry_mirror::blob_store::read_file_at(&file, offset, length);
    ingest.append(b"abc").expect("appends");
    assert_eq!(read(1, 2).expect("reads"), &b"bc"[..]);
    assert!(read(0, 4).is_err(), "what is not there yet is not content");
    ingest.append(b"def").expect("appends");
    assert_eq!(ingest.written(), 6);
    store.commit(ingest, &digest).await.expect("commits");
    assert_eq!(read(0, 6).expect("reads"), &b"abcdef"[..]);
}

async fn equal_blobs_committed_at_once_count_once(store: &dyn BlobStore, ingests: &IngestDir, folder: &Path) {
    let (one, digest) = ingested(ingests, b"at once");
    let (other, _) = ingested(ingests, b"at once");
    let (one, other) = tokio::join!(store.commit(one, &digest), store.commit(other, &digest));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(store.usage(), Usage { bytes: 7, blobs: 1, set_aside: 0 });
    assert!(is_empty(folder));
}

/// A store on disk with one blob in it.
struct OnDisk {
    folder: TempDir,
    ingests: IngestDir,
    store: LocalBlobStore,
    digest: Digest,
}

const CONTENT: &[u8] = b"some content of a layer";

impl OnDisk {
    async fn new() -> OnDisk {
        let folder = tempfile::tempdir().expect("a folder");
        let ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
        let store = LocalBlobStore::open(folder.path()).expect("opens");
        let digest = stored(&store, &ingests, CONTENT).await;
        OnDisk { folder, ingests, store, digest }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("blobs/sha256").join(self.digest.hex())
    }

    fn reopen(&mut self) {
        self.store = LocalBlobStore::open(self.folder.path()).expect("opens");
    }

    async fn assert_miss(&self) {
        assert!(self.store.open(&self.digest).await.is_none());
    }

    /// A miss that is told as what it is.
    async fn assert_damaged(&self) {
        self.assert_miss().await;
        assert!(self.store.is_damaged(&self.digest));
    }

    async fn assert_hit(&self) {
        assert_eq!(bytes_of(&self.store.open(&self.digest).await.expect("a hit")), CONTENT);
    }

    /// The next fill heals whatever was wrong.
    async fn assert_healed_by_a_commit(&self) {
        stored(&self.store, &self.ingests, CONTENT).await;
        self.assert_hit().await;
        assert_eq!(self.store.list().await.expect("lists"), [(self.digest, CONTENT.len() as u64)]);
        let usage = self.store.usage();
        assert_eq!((usage.bytes, usage.blobs), (CONTENT.len() as u64, 1));
    }
}

fn truncate(path: &Path, length: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    OpenOptions::new().write(true).open(path).expect("opens").set_len(length).expect("truncates");
}

#[tokio::test]
async fn what_was_set_aside_and_is_open_counts_until_its_last_reader_has_left() {
    let disk = OnDisk::new().await;
    let content = disk.store.open(&disk.digest).await.expect("a hit");
    assert!(disk.store.set_aside(&disk.digest, &content).await.expect("set aside"));
    disk.store.drop_set_aside().await.expect("drops");
    let usage = disk.store.usage();
    assert_eq!((usage.bytes, usage.set_aside, disk.store.lingering()), (0, 0, CONTENT.len() as u64));
    drop(content);
    assert_eq!(disk.store.lingering(), 0);
}

#[tokio::test]
async fn a_file_truncated_under_a_running_store_is_a_miss_and_is_set_aside() {
    let disk = OnDisk::new().await;
    truncate(&disk.path(), 5);
    disk.assert_damaged().await;
    assert!(!disk.path().exists());
    assert!(!is_empty(&disk.folder.path().join("quarantine")));
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_file_truncated_after_it_was_first_opened_is_a_miss() {
    let mut disk = OnDisk::new().await;
    disk.reopen();
    disk.assert_hit().await;
    truncate(&disk.path(), 0);
    disk.assert_damaged().await;
}

#[tokio::test]
async fn a_file_truncated_while_the_store_was_closed_is_a_miss_when_its_size_was_recorded() {
    let mut disk = OnDisk::new().await;
    truncate(&disk.path(), 5);
    disk.reopen();
    disk.store.remember_sizes([(disk.digest, CONTENT.len() as u64)]);
    disk.assert_damaged().await;
    assert_eq!(disk.store.list().await.expect("lists"), []);
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_commit_replaces_a_file_of_the_wrong_size() {
    let disk = OnDisk::new().await;
    truncate(&disk.path(), 5);
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn many_damaged_files_of_one_digest_do_not_pile_up() {
    let disk = OnDisk::new().await;
    for _ in 0..12 {
        truncate(&disk.path(), 5);
        disk.assert_damaged().await;
        stored(&disk.store, &disk.ingests, CONTENT).await;
    }
    disk.assert_hit().await;
    assert_eq!(fs::read_dir(disk.folder.path().join("quarantine")).expect("is there").count(), 8);
}

#[tokio::test]
async fn a_link_in_place_of_a_file_is_a_miss() {
    let disk = OnDisk::new().await;
    let elsewhere = disk.folder.path().join("elsewhere");
    fs::rename(disk.path(), &elsewhere).expect("renames");
    symlink(&elsewhere, disk.path()).expect("links");
    disk.assert_damaged().await;
    disk.assert_healed_by_a_commit().await;
    assert_eq!(fs::read(&elsewhere).expect("reads"), CONTENT, "nothing was written through the link");
}

#[tokio::test]
async fn a_file_with_a_second_name_is_a_miss_until_that_name_is_gone() {
    let disk = OnDisk::new().await;
    let second = disk.folder.path().join("second");
    fs::hard_link(disk.path(), &second).expect("links");
    disk.assert_damaged().await;
    fs::remove_file(&second).expect("removes");
    disk.assert_hit().await;
    fs::hard_link(disk.path(), &second).expect("links");
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_fifo_in_place_of_a_file_is_a_miss_and_stops_nobody() {
    let disk = OnDisk::new().await;
    fs::remove_file(disk.path()).expect("removes");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, disk.path(), kind, mode, 0).expect("makes a fifo");
    disk.assert_damaged().await;
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_folder_in_place_of_a_file_is_a_miss() {
    let disk = OnDisk::new().await;
    fs::remove_file(disk.path()).expect("removes");
    fs::create_dir(disk.path()).expect("creates");
    fs::write(disk.path().join("inside"), "x").expect("writes");
    disk.assert_damaged().await;
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn an_unreadable_file_is_a_miss() {
    let disk = OnDisk::new().await;
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o000)).expect("chmod");
    if File::open(disk.path()).is_ok() {
        // The superuser reads everything; there is no unreadable file to be had.
        disk.assert_hit().await;
    } else {
        disk.assert_damaged().await;
    }
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_folder_swapped_for_a_link_under_a_running_store_leads_nowhere_else() {
    let disk = OnDisk::new().await;
    let folder = disk.folder.path().join("blobs/sha256");
    let trap = disk.folder.path().join("trap");
    fs::create_dir(&trap).expect("creates");
    fs::write(trap.join(disk.digest.hex()), "other bytes of some length").expect("writes");
    fs::rename(&folder, disk.folder.path().join("moved")).expect("renames");
    symlink(&trap, &folder).expect("links");
    disk.assert_hit().await;
}

#[tokio::test]
async fn a_file_that_is_swapped_all_the_time_is_itself_or_a_miss() {
    let disk = OnDisk::new().await;
    let (path, aside) = (disk.path(), disk.folder.path().join("aside"));
    let trap = disk.folder.path().join("trap");
    fs::write(&trap, vec![b'!'; CONTENT.len()]).expect("writes");
    let swapper = std::thread::spawn(move || {
        for _ in 0..500 {
            fs::rename(&path, &aside).expect("renames");
            symlink(&trap, &path).expect("links");
            fs::rename(&aside, &path).expect("renames");
        }
    });
    while !swapper.is_finished() {
        if let Some(content) = disk.store.open(&disk.digest).await {
            assert_eq!(bytes_of(&content), CONTENT);
        }
    }
    swapper.join().expect("swaps");
    disk.assert_hit().await;
}

#[tokio::test]
async fn a_link_in_place_of_a_folder_is_refused_at_the_start() {
    let disk = OnDisk::new().await;
    let folder = disk.folder.path().join("blobs/sha256");
    fs::rename(&folder, disk.folder.path().join("moved")).expect("renames");
    symlink(disk.folder.path().join("moved"), &folder).expect("links");
    assert!(LocalBlobStore::open(disk.folder.path()).is_err());
}

#[tokio::test]
async fn a_store_that_was_emptied_while_running_is_filled_again() {
    let disk = OnDisk::new().await;
    for entry in fs::read_dir(disk.folder.path()).expect("reads") {
        let entry = entry.expect("reads").path();
        if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.expect("removes");
    }
    disk.assert_miss().await;
    assert_eq!(disk.store.list().await.expect("lists"), []);
    assert_eq!(disk.store.usage(), Usage::default());
    disk.assert_healed_by_a_commit().await;
}

#[tokio::test]
async fn a_store_serves_what_it_held_before_and_counts_it_once_it_was_listed() {
    let mut disk = OnDisk::new().await;
    fs::write(disk.folder.path().join("blobs/sha256/not-a-digest"), "x").expect("writes");
    disk.reopen();
    assert_eq!(disk.store.usage(), Usage::default());
    assert_eq!(disk.store.list().await.expect("lists"), [(disk.digest, CONTENT.len() as u64)]);
    assert_eq!(disk.store.usage(), Usage { bytes: CONTENT.len() as u64, blobs: 1, set_aside: 0 });
    disk.assert_hit().await;
}

#[tokio::test]
async fn only_the_owner_can_look_into_the_store_and_nobody_writes_a_blob() {
    let mut disk = OnDisk::new().await;
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&disk.path()), 0o444);
    let folder = disk.folder.path().join("blobs/sha256");
    for folder in [&folder, &disk.folder.path().join("ingest"), &disk.folder.path().join("blobs")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("chmod");
    disk.reopen();
    assert_eq!(mode(&folder), 0o700);
    let (ingest, _) = ingested(&disk.ingests, b"x");
    assert_eq!(ingest.file().metadata().expect("is there").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn the_store_is_an_oci_image_layout() {
    let disk = OnDisk::new().await;
    let mark = fs::read_to_string(disk.folder.path().join("oci-layout")).expect("is there");
    assert_eq!(mark, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[tokio::test]
async fn unfinished_fills_of_an_earlier_process_are_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let ingests = IngestDir::open(folder.path()).expect("opens");
    let (ingest, _) = ingested(&ingests, b"cut by a crash");
    std::mem::forget(ingest);
    assert!(!is_empty(folder.path()));
    let _ingests = IngestDir::open(folder.path()).expect("opens");
    assert!(is_empty(folder.path()));
}

#[test]
fn bytes_ahead_of_their_turn_count_when_the_gap_closes_and_are_not_resumed_before_that() {
    const PART: usize = 300_000;
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = some_bytes(4 * PART);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let part = |number: usize| (number as u64 * PART as u64, &bytes[number * PART..(number + 1) * PART]);
    for (order, written) in [(&[2, 0, 3][..], PART), (&[2, 3, 1, 0][..], 4 * PART), (&[1, 0, 3, 2][..], 4 * PART)] {
        let ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
        let mut ingest = ingests.begin(&digest).expect("begins");
        ingests.make_resumable(&mut ingest, &origin(&digest));
        for number in order {
            let (offset, bytes) = part(*number);
            ingest.write_at(offset, bytes).expect("writes");
        }
        assert_eq!(ingest.written(), written as u64, "{order:?}");
        drop(ingest);
        let found = resume(&ingests, &digest).expect("is resumed");
        assert_eq!(found.written(), written as u64 - 4096, "{order:?}");
        let read = read_file_at(&found.file(), 0, found.written() as usize).expect("reads");
        assert!(read == bytes[..found.written() as usize]);
        found.discard();
        assert!(is_empty(&folder.path().join("ingest")), "{order:?}");
    }
}

fn origin(digest: &Digest) -> Origin {
    ("registry.example:5000".parse().expect("a name"), *digest)
}

#[test]
fn what_one_upstream_sent_is_gone_on_with_for_no_other_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = some_bytes(600_000);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let elsewhere: Origin = ("other.example".parse().expect("a name"), digest);
    let mut ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
    for (origin, length) in [(origin(&digest), 500_000), (elsewhere.clone(), 600_000)] {
        let mut ingest = ingests.begin(&digest).expect("begins");
        ingests.make_resumable(&mut ingest, &origin);
        ingest.append(&bytes[..length]).expect("writes");
        ingest.prove(&Digest::of(Algorithm::Sha256, &bytes[..length]));
        drop(ingest);
        assert!(ingests.left_over_of(&origin).is_some());
        ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
    }
    let unrelated: Origin = ("third.example".parse().expect("a name"), digest);
    assert!(ingests.left_over_of(&unrelated).is_none() && ingests.resume(&unrelated).is_none());
    assert!(ingests.left_over_of(&origin(&digest)).is_some() && ingests.left_over_of(&elsewhere).is_some());
    let own = resume(&ingests, &digest).expect("is its own");
    assert_eq!(own.written(), 500_000);
    own.discard();
    // As an earlier version wrote it: nobody knows whose it is.
    let file =
        std::fs::read_dir(folder.path().join("ingest")).expect("lists").next().expect("the other's").expect("is read");
    let note = [&600_000_u64.to_le_bytes()[..], Digest::of(Algorithm::Sha256, &bytes).as_bytes()].concat();
    let name = "user.registry-mirror.written";
    rustix::fs::setxattr(file.path(), name, &note, rustix::fs::XattrFlags::empty()).expect("is noted");
    let ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
    assert!(ingests.left_over_of(&elsewhere).is_none());
    assert!(is_empty(&folder.path().join("ingest")));
}

/// What can be gone on with, after it was hashed where that is due.
fn resume(ingests: &IngestDir, digest: &Digest) -> Option<Ingest> {
    let mut resumed = ingests.resume(&origin(digest))?;
    loop {
        match resumed {
            Resumed::Ready(ingest) => return Some(*ingest),
            Resumed::Unproven(unproven) => resumed = unproven.hash_next()?,
        }
    }
}

#[test]
fn after_a_kill_just_that_is_resumed_which_is_proven_to_have_been_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = some_bytes(1_200_000);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    for (proven, garbled, resumed) in [
        (None, None, None),
        (Some(600_000), None, Some(600_000)),
        (Some(600_000), Some(700_000), Some(600_000)),
        (Some(600_000), Some(599_999), None),
        (Some(100_000), None, None),
    ] {
        let ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
        let mut ingest = ingests.begin(&digest).expect("begins");
        ingests.make_resumable(&mut ingest, &origin(&digest));
        let first = proven.unwrap_or_default();
        ingest.append(&bytes[..first]).expect("writes");
        if proven.is_some() {
            ingest.prove(&Digest::of(Algorithm::Sha256, &bytes[..first]));
        }
        ingest.append(&bytes[first..900_000]).expect("writes");
        ingest.write_at(1_000_000, &bytes[1_000_000..]).expect("writes");
        if let Some(at) = garbled {
            let wrong = [bytes[at] ^ 1];
            std::os::unix::fs::FileExt::write_all_at(&*ingest.file(), &wrong, at as u64).expect("writes");
        }
        std::mem::forget(ingest);
        let ingests = IngestDir::open(folder.path().join("ingest")).expect("opens");
        let found = resume(&ingests, &digest);
        assert_eq!(found.as_ref().map(Ingest::written), resumed, "{proven:?} {garbled:?}");
        if let Some(mut found) = found {
            let hashed = found.take_hashed().expect("hashed already").finish();
            assert_eq!(hashed, Digest::of(Algorithm::Sha256, &bytes[..600_000]));
            found.discard();
        }
        assert!(is_empty(&folder.path().join("ingest")), "{proven:?} {garbled:?}");
    }
}

#[test]
fn a_store_has_one_daemon_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let first = StoreLock::acquire(&store).expect("nobody has it");
    let refused = StoreLock::acquire(&store).expect_err("somebody has it");
    assert!(matches!(&refused, LockError::Held { process, .. } if *process == Some(std::process::id())));
    assert!(refused.to_string().contains("is in use by another registry-mirror"), "{refused}");
    drop(first);
    StoreLock::acquire(&store).expect("it was given back");
}
