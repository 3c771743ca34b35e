//! One small file, or one folder, at a time: read whole or not at all, no link followed, written down for good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::de::DeserializeOwned;

/// No record is longer than this, in bytes; a longer file is damaged.
const LONGEST_RECORD: u64 = 64 * 1024;

/// Nearly all are shorter than this, in bytes.
const USUAL_RECORD: usize = 512;

pub(super) fn entries(path: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten()
}

pub(super) fn names_in(path: &Path) -> impl Iterator<Item = String> {
    entries(path).filter_map(|entry| entry.file_name().into_string().ok())
}

/// The folders in a folder; links are not followed.
pub(super) fn folders(path: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    folders_among(entries(path))
}

pub(super) fn folders_among(entries: impl Iterator<Item = fs::DirEntry>) -> impl Iterator<Item = (String, PathBuf)> {
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// `None` for what is not there.
pub(super) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file without following a link and without waiting for the other end of a fifo.
pub(super) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.mode(0o600).custom_flags(flags).open(path)
}

/// Reads a record. `None` when there is none, or when what is there is damaged.
pub(in crate::metadata) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
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
pub(super) fn read_whole(path: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_to_read(path)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(USUAL_RECORD);
    file.take(longest).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The same of its end.
pub(super) fn read_end(path: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(mut file) = open_to_read(path)? else { return Ok(None) };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(longest)))?;
    let mut bytes = Vec::with_capacity(USUAL_RECORD);
    file.take(longest).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
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
    Ok(Some(file))
}

pub(super) fn report_damage(path: &Path, reason: &str) {
    tracing::warn!(file = %path.display(), reason, "a damaged record is ignored; upstream is asked again");
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A process that ran before may have left one of this name; nobody reads it.
    let mut file = open_plain(OpenOptions::new().write(true).create(true).truncate(true), path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    File::open(path)?.sync_all()
}

#[cfg(test)]
thread_local! {
    /// The folders that this thread synced.
    pub(super) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}
