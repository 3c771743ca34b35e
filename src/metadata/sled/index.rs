//! The engine behind the index, as far as it can fail: opening, closing, and giving it up.
//!
//! Damage makes sled fail, hang or panic, so it is opened on a thread with a time limit and every
//! call is fenced by [`Index::call`]. Truths: an index that was not closed in order says so, and is
//! not believed before it was rebuilt; a damaged one is moved aside and begun anew at the next start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sled::{Db, IVec, Tree};

use super::pages::Pages;
use crate::small_file::{self, InTheWay};
use crate::staged;

/// How long an index may take to open before it is taken for damaged.
const LONGEST_OPEN: Duration = Duration::from_secs(10);

/// The settings of an index are no longer, in bytes; the engine reads them whole.
const LONGEST_CONF: u64 = 64 << 10;

/// In bytes. A ceiling, not an allocation; sled needs more memory with a smaller one.
const CACHE_CAPACITY: u64 = 256 * 1024 * 1024;

/// How long it is taken to be as large on disk as it was.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Present in the folder of an index that was closed in order. Holds the number that the index
/// wrote last, under [`CLOSINGS`]: an index that lost its end without noticing has another one.
const CLOSED_MARK: &str = "closed-in-order";
/// The key of how often the index was closed in order.
const CLOSINGS: &str = "closings";
/// The key of what an index holds, and what it holds now: one of an earlier version is rebuilt from the files.
const FORM: &str = "form";
const FORM_NOW: &str = "2";
/// Present in the folder of an index that failed while it was in use.
const DAMAGED_MARK: &str = "damaged";

/// What the index is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IndexState {
    /// It answers.
    Ready,
    /// It is new, or its last user crashed: `SledMetadata::rebuild` is due, the files answer.
    Behind,
    /// It failed or cannot be opened: the files answer.
    Absent,
}

/// An index that was opened.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    state: AtomicU8,
    /// Whether it was there and was not closed in order.
    pub(super) interrupted: bool,
    pub(super) db: Db,
    pub(super) tags: Tree,
    pub(super) members: Tree,
    /// Who has a digest, as keys.
    pub(super) holders: Tree,
    pub(super) blobs: Pages,
    /// What it took on disk, in bytes, and when that was found.
    measured: Mutex<Option<(Instant, u64)>>,
}

impl Index {
    fn open(path: PathBuf) -> sled::Result<Index> {
        // It names images that may be private; sled would let everybody read it.
        let _ = DirBuilder::new().mode(0o700).create(&path);
        let db = sled::Config::new().path(&path).cache_capacity(CACHE_CAPACITY).flush_every_ms(None).open()?;
        let (tags, members, holders) = (db.open_tree("tags")?, db.open_tree("members")?, db.open_tree("holders")?);
        let blobs = Pages(db.open_tree("pages")?);
        let last = db.get(CLOSINGS)?;
        let marked =
            small_file::read(&path.join(CLOSED_MARK), 64).is_ok_and(|mark| last.is_some_and(|last| last == mark));
        // The mark must be gone from the disk before the first write, or a crash goes unnoticed.
        let unmarked = fs::remove_file(path.join(CLOSED_MARK)).and_then(|()| File::open(&path)?.sync_all());
        let current = db.get(FORM)?.is_some_and(|form| form == FORM_NOW);
        let state = if marked && current && unmarked.is_ok() { IndexState::Ready } else { IndexState::Behind };
        let interrupted = db.was_recovered() && !marked;
        let (state, measured) = (AtomicU8::new(state as u8), Mutex::default());
        Ok(Index { path, state, interrupted, db, tags, members, holders, blobs, measured })
    }

    /// The one way to sled. A call that fails or panics ends the index, never the process; `None`
    /// then and from then on.
    pub(super) fn call<T>(&self, doing: &'static str, call: impl FnOnce(&Index) -> sled::Result<T>) -> Option<T> {
        if self.state() == IndexState::Absent {
            return None;
        }
        let reason = match catch_unwind(AssertUnwindSafe(|| call(self))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        self.give_up(doing, &reason);
        None
    }

    /// Closes an index; in good order if it answered.
    pub(super) fn close(self) {
        let ready = self.state() == IndexState::Ready;
        let closing = if ready { self.call("closing it", Index::write_closing) } else { None };
        let path = self.path.clone();
        // Closing a damaged index may panic like everything else.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(self))).is_ok();
        if let Some(closing) = closing.filter(|_| closed) {
            // Without the mark the next start rebuilds: slower, not wrong.
            let _ = mark_closed(&path, &closing);
        }
    }

    /// What it takes on disk, in bytes, or took a moment ago.
    pub(super) fn on_disk(&self) -> u64 {
        let mut measured = self.measured.lock();
        let lately = measured.filter(|(at, _)| at.elapsed() < MEASURE_EVERY);
        measured.insert(lately.unwrap_or_else(|| (Instant::now(), size_of(&self.path)))).1
    }

    /// Notes whether everything is in it that this version looks for; if not, the next start begins it anew.
    pub(super) fn mark_form(&self, is_whole: bool) -> sled::Result<()> {
        if is_whole { self.db.insert(FORM, FORM_NOW) } else { self.db.remove(FORM) }.map(drop)
    }

    /// Writes, as the last thing, how often the index was closed.
    fn write_closing(&self) -> sled::Result<IVec> {
        let last = self.db.get(CLOSINGS)?;
        let last = last.and_then(|last| std::str::from_utf8(&last).ok()?.parse::<u64>().ok()).unwrap_or_default();
        let closing = IVec::from(last.wrapping_add(1).to_string().as_str());
        self.db.flush()?;
        self.db.insert(CLOSINGS, closing.clone())?;
        self.db.flush()?;
        Ok(closing)
    }

    pub(super) fn state(&self) -> IndexState {
        match self.state.load(Ordering::Acquire) {
            state if state == IndexState::Ready as u8 => IndexState::Ready,
            state if state == IndexState::Behind as u8 => IndexState::Behind,
            _ => IndexState::Absent,
        }
    }

    /// From behind only: an index that failed meanwhile stays given up.
    pub(super) fn become_ready(&self) {
        let (behind, ready) = (IndexState::Behind as u8, IndexState::Ready as u8);
        let _ = self.state.compare_exchange(behind, ready, Ordering::AcqRel, Ordering::Acquire);
    }

    fn give_up(&self, doing: &'static str, reason: &str) {
        if self.state.swap(IndexState::Absent as u8, Ordering::AcqRel) != IndexState::Absent as u8 {
            let _ = File::create(self.path.join(DAMAGED_MARK));
            tracing::warn!(doing, reason, "the metadata index failed; the files answer, a restart begins a new index");
        }
    }
}

/// The index below `path`, or a new one in its place, or none; and whether it was replaced.
pub(super) fn open_or_replace(path: &Path) -> (Option<Index>, bool) {
    let reason = match open_guarded(path, LONGEST_OPEN) {
        Ok(index) => return (Some(index), false),
        Err(reason) => reason,
    };
    if let Err(error) = staged::set_aside(path) {
        tracing::warn!(%reason, %error, "the metadata index cannot be opened nor moved aside; going on without one");
        return (None, false);
    }
    match open_guarded(path, LONGEST_OPEN) {
        Ok(index) => {
            tracing::warn!(%reason, "the metadata index was damaged and is rebuilt from the files");
            (Some(index), true)
        }
        Err(error) => {
            tracing::warn!(%reason, %error, "no metadata index can be opened; going on without one");
            (None, true)
        }
    }
}

/// Opens an index on a thread of its own. A thread that hangs is left behind with the folder it
/// hangs on, which is then moved aside.
fn open_guarded(path: &Path, limit: Duration) -> Result<Index, String> {
    if path.join(DAMAGED_MARK).exists() {
        return Err("it failed while it was last used".to_owned());
    }
    // The engine follows links, waits for pipes, and reads whatever is there into memory.
    let strange = fs::read_dir(path).into_iter().flatten().flatten().find_map(|entry| not_of_an_index(&entry.path()));
    if let Some(strange) = strange {
        return Err(strange);
    }
    let path = path.to_owned();
    within(limit, move || Index::open(path))
}

fn within(limit: Duration, open: impl FnOnce() -> sled::Result<Index> + Send + 'static) -> Result<Index, String> {
    let (sender, receiver) = mpsc::channel();
    let open = move || {
        // A receiver that gave up drops the index.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(open)));
    };
    thread::Builder::new().name("open-index".to_owned()).spawn(open).map_err(|error| error.to_string())?;
    match receiver.recv_timeout(limit) {
        Ok(Ok(Ok(index))) => Ok(index),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("opening it panicked".to_owned()),
        Err(_) => Err(format!("it did not open within {limit:?}")),
    }
}

/// Why what has this name in the folder of an index can be none of its files, nor its folder of large values.
fn not_of_an_index(path: &Path) -> Option<String> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if let Some(strange) = InTheWay::of_file(path).filter(|_| !is_folder) {
        return Some(strange.to_string());
    }
    let is_conf = path.file_name().is_some_and(|name| name == "conf");
    let is_long = is_conf && fs::symlink_metadata(path).is_ok_and(|found| found.len() > LONGEST_CONF);
    is_long.then(|| format!("{} is longer than {LONGEST_CONF} bytes", path.display()))
}

/// What a folder and all in it take on disk.
fn size_of(path: &Path) -> u64 {
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path()));
    fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512) + below.sum::<u64>()
}

/// Marks an index as closed in order, after everything in it reached the disk.
fn mark_closed(path: &Path, closing: &[u8]) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() { File::open(path)? } else { small_file::open(OpenOptions::new().read(true), &path)? }
            .sync_all()?;
    }
    let mut mark = File::create(path.join(CLOSED_MARK))?;
    mark.write_all(closing)?;
    mark.sync_all()?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_hangs_while_it_is_opened_is_given_up() {
        let (end, hangs) = mpsc::channel::<()>();
        let refused = within(Duration::from_millis(20), move || {
            let _ = hangs.recv();
            Err(sled::Error::Unsupported("it went on".into()))
        });
        assert!(refused.expect_err("it hangs").contains("did not open within"));
        drop(end);
    }

    #[test]
    fn what_is_no_file_of_an_index_is_not_given_to_the_engine() {
        let aside = tempfile::tempdir().expect("a folder");
        let elsewhere = aside.path().join("elsewhere");
        fs::write(&elsewhere, "kept").expect("written");
        for (name, said) in [
            ("conf", "a pipe"),
            ("db", "a pipe"),
            ("db", "a link"),
            ("snap.0000000000000001", "a link"),
            ("blobs", "a link"),
            ("conf", "longer than"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join(name);
            match said {
                "a pipe" => {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a pipe");
                }
                "a link" => std::os::unix::fs::symlink(&elsewhere, &path).expect("a link"),
                _ => File::create(&path).expect("a file").set_len(LONGEST_CONF + 1).expect("a length"),
            }
            let refused = open_guarded(folder.path(), LONGEST_OPEN).expect_err("it is no index");
            assert!(refused.contains(said) && refused.contains(name), "{name}: {refused}");
        }
        assert_eq!(fs::read_to_string(&elsewhere).expect("read"), "kept");
    }

    #[test]
    fn what_an_index_takes_on_disk_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let index = open_guarded(folder.path(), LONGEST_OPEN).expect("it opens");
        let before = index.on_disk();
        assert!((1..1 << 20).contains(&before), "{before}");
        fs::write(folder.path().join("blobs/large"), vec![1; 2 << 20]).expect("written");
        assert_eq!(index.on_disk(), before, "it was looked at a moment ago");
        *index.measured.lock() = None;
        assert!(index.on_disk() >= before + (2 << 20), "{}", index.on_disk());
    }
}
