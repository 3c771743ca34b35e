//! What was written where, and what stood there before: in a folder that only its owner can look into.
//!
//! The record is written before the files that it speaks of, so that whatever happens in between can be undone.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::files::{Content, Place, Root};
use crate::documents::{Code, Error};
use crate::oci::{Algorithm, Digest};
use crate::setup::{Kind, Settings};

const NAME: &str = "record.json";
const VERSION: u32 = 1;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) settings: Settings,
    pub(super) files: Vec<Kept>,
    /// The folders that were made for it, outer ones first.
    pub(super) folders: Vec<String>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) path: String,
    pub(super) kind: Kind,
    before: Option<Written>,
    after: Written,
    /// What the backup holds, as it is read once.
    #[serde(skip)]
    content: Option<Content>,
}

/// What a file said, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    digest: Digest,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Written {
    fn of(Content { bytes, mode, uid, gid }: &Content) -> Written {
        Written { digest: digest(bytes), mode: *mode, uid: *uid, gid: *gid }
    }

    /// The name of its backup.
    fn name(&self) -> String {
        format!("{}.before", self.digest.hex())
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

impl Kept {
    pub(super) fn new(path: String, kind: Kind, before: Option<Content>, after: &Content) -> Kept {
        Kept { path, kind, before: before.as_ref().map(Written::of), after: Written::of(after), content: before }
    }

    /// What stood there before.
    pub(super) fn before(&self) -> Option<&Content> {
        self.content.as_ref()
    }

    /// Whether the file is as it was left.
    pub(super) fn is_as_written(&self, now: &Content) -> bool {
        Written::of(now) == self.after
    }

    /// Whether it says what was written, whosever it is now.
    pub(super) fn says_what_was_written(&self, now: &Content) -> bool {
        digest(&now.bytes) == self.after.digest
    }
}

impl Record {
    pub(super) const fn new(settings: Settings, files: Vec<Kept>) -> Record {
        Record { version: VERSION, settings, files, folders: Vec::new() }
    }

    pub(super) fn having_made(self, folders: Vec<String>) -> Record {
        Record { folders, ..self }
    }
}

/// The folder of the record of one client.
pub(super) struct Drawer {
    folder: OwnedFd,
    path: String,
}

impl Drawer {
    /// The folder at `path`; `None` where there is none and none is made. Folders that are made are added to `made`.
    pub(super) fn open(root: &Root, path: &str, made: Option<&mut Vec<String>>) -> Result<Option<Drawer>, Error> {
        let folder = root.own_folder(path, made)?;
        Ok(folder.map(|folder| Drawer { folder, path: root.shown(path) }))
    }

    fn failed(&self, name: &str, error: impl std::fmt::Display) -> Error {
        Error::new(Code::Failed, format!("{}/{name}: {error}", self.path))
    }

    fn read(&self, name: &str) -> Result<Option<Content>, Error> {
        Place::of(&self.folder, name).and_then(|place| place.read()).map_err(|error| self.failed(name, error))
    }

    /// What was written, with what stood there before.
    pub(super) fn record(&self) -> Result<Option<Record>, Error> {
        let Some(Content { bytes, .. }) = self.read(NAME)? else { return Ok(None) };
        let mut record: Record = serde_json::from_slice(&bytes).map_err(|error| {
            let hint = format!("see what of it is still whole, mend the files by hand, and take {} away", self.path);
            self.failed(NAME, error).with_hint(hint)
        })?;
        if record.version != VERSION {
            return Err(self.failed(NAME, format_args!("it is of version {}", record.version)));
        }
        for kept in &mut record.files {
            let Some(backup) = &kept.before else { continue };
            let found = self.read(&backup.name())?.filter(|found| digest(&found.bytes) == backup.digest);
            let Some(Content { bytes, .. }) = found else {
                return Err(self.failed(&backup.name(), "what stood in a file before is not here any more"));
            };
            kept.content = Some(Content { bytes, mode: backup.mode, uid: backup.uid, gid: backup.gid });
        }
        Ok(Some(record))
    }

    /// Writes all of it down, and takes away what an earlier record needed.
    pub(super) fn keep(&self, record: &Record, earlier: Option<&Record>) -> Result<(), Error> {
        let mut names = Vec::new();
        for kept in &record.files {
            let (Some(backup), Some(content)) = (&kept.before, &kept.content) else { continue };
            self.write(&backup.name(), content.bytes.clone())?;
            names.push(backup.name());
        }
        let text = serde_json::to_vec_pretty(record).map_err(|error| self.failed(NAME, error))?;
        self.write(NAME, text)?;
        let old = earlier.into_iter().flat_map(|record| &record.files).filter_map(|kept| kept.before.as_ref());
        old.map(Written::name).filter(|name| !names.contains(name)).try_for_each(|name| self.remove(&name))
    }

    fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let content = Content { mode: 0o600, ..Content::new(bytes) };
        let written = Place::of(&self.folder, name).and_then(|place| place.write(&content));
        written.map_err(|error| self.failed(name, error))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let removed: io::Result<()> = Place::of(&self.folder, name).and_then(|place| place.remove());
        removed.map_err(|error| self.failed(name, error))
    }

    /// Takes all of it away: nothing is to be undone any more.
    pub(super) fn empty(&self, record: &Record) -> Result<(), Error> {
        self.remove(NAME)?;
        let backups = record.files.iter().filter_map(|kept| kept.before.as_ref());
        backups.map(Written::name).try_for_each(|name| self.remove(&name))
    }
}
