//! The audit: who got what, and who did what, JSON lines of their own.
//!
//! A thread writes them, at the end of a file that it opens anew when it is told to. Truths: nobody waits for it; what
//! cannot be written, because the disk is full or slow, is counted and lost, and spoils nothing that is written later.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use serde::Serialize;

use crate::clock::Clock;
use crate::confine::free_thread;
use crate::documents::Moment;
use crate::metrics::Metrics;
use crate::oci::{Digest, ImageName};

/// Lines that wait to be written.
const QUEUE: usize = 8192;
/// So many bytes of them are written at once.
const AT_ONCE: usize = 8 << 10;
/// How long a stop waits for them.
const TO_WRITE: Duration = Duration::from_secs(1);

/// Where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the standard error output.
    Stderr,
    /// To a file, at its end.
    File(PathBuf),
}

/// An image that an act was done to.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    upstream: String,
    repository: String,
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl Image {
    /// By its name, and what that meant, where that is known.
    pub fn new(name: &ImageName, digest: Option<&Digest>) -> Image {
        let ImageName { registry, repository, reference } = name;
        let digest = digest.or(name.digest()).map(ToString::to_string);
        let (upstream, repository) = (registry.to_string(), repository.to_string());
        Image { upstream, repository, reference: reference.to_string(), digest }
    }
}

/// A line, but for its time. What is not known is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line<'a> {
    /// The address, or the user at the socket.
    pub peer: String,
    /// The address that we listen at where it came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
    /// Who asks, where he said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What was done, where it is an act.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<&'a str>,
    /// What it is to be done to, as it was ordered: the beginning of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<&'a str>,
    /// The images that it was done to, all of them; of an import those that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<&'a [Image]>,
    /// The method of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// What kind of thing a request is for: `manifest`, `blob`, `tags`, `referrers`, `ping` or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'a str>,
    /// The path of a request that is refused as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<&'a str>,
    /// What was asked for, or about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `allowed` or `refused`; `failed` where an act may be done and nothing came of it.
    pub verdict: &'a str,
    /// The mode or the grant that allowed it; the mode, where it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where the answer came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'a str>,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The status of the upstream's refusal, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// How many bytes of content were sent; of a bundle that is taken in, how many came.
    pub bytes: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    at: Moment,
    #[serde(flatten)]
    line: &'a Line<'a>,
}

enum Job {
    Write(Vec<u8>),
    OpenAnew,
}

/// The audit. Whoever drops it waits until it is written, but not for long for what takes nothing.
pub struct Audit {
    jobs: Option<SyncSender<Job>>,
    /// Hears when nothing writes any more.
    ended: Mutex<Receiver<()>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    /// Begins to write. A file that cannot be opened is tried again with each line.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn begin(place: Place, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> io::Result<Audit> {
        let (jobs, todo) = sync_channel(QUEUE);
        let counted = Arc::clone(&metrics);
        let (ends, ended) = sync_channel(0);
        let writing = move || {
            Writer::new(place, counted).run(&todo);
            drop(ends);
        };
        // A folder that was removed and made anew is another one to whatever restricts the others.
        free_thread("audit", writing)?;
        Ok(Audit { jobs: Some(jobs), ended: Mutex::new(ended), clock, metrics })
    }

    /// Writes a line, or counts it as lost.
    pub fn write(&self, line: &Line<'_>) {
        let written = Written { at: self.clock.now().into(), line };
        let queued = serde_json::to_vec(&written).is_ok_and(|mut bytes| {
            bytes.push(b'\n');
            self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(Job::Write(bytes)).is_ok())
        });
        if !queued {
            self.metrics.audit_lost(1);
        }
    }

    /// Opens the file anew: what rotates it has moved it away.
    pub fn open_anew(&self) {
        let _ = self.jobs.as_ref().map(|jobs| jobs.try_send(Job::OpenAnew));
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.ended.get_mut().recv_timeout(TO_WRITE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the audit takes nothing; what waited for it is lost");
        }
    }
}

struct Writer {
    place: Place,
    file: Option<Box<dyn Write + Send>>,
    /// Whole lines that are still to be written.
    waiting: Vec<u8>,
    /// Whether the last that was written is a part of a line, which counts as lost.
    cut: bool,
    /// Whether the log says already that lines are lost.
    told: bool,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn new(place: Place, metrics: Arc<Metrics>) -> Writer {
        Writer { place, file: None, waiting: Vec::new(), cut: false, told: false, metrics }
    }

    fn run(mut self, todo: &Receiver<Job>) {
        while let Ok(job) = todo.recv() {
            let mut next = Some(job);
            while let Some(job) = next {
                let done = self.does(job);
                self.note(done);
                next = todo.try_recv().ok();
            }
            let flushed = self.flush();
            self.note(flushed);
        }
    }

    fn does(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::OpenAnew => {
                let flushed = self.flush();
                self.file = None;
                flushed
            }
            Job::Write(line) => {
                self.waiting.extend(line);
                if self.waiting.len() < AT_ONCE { Ok(()) } else { self.flush() }
            }
        }
    }

    /// Writes what waits. Of that nothing is left then but what could not be written.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, ends_in_a_part) = open(&self.place)?;
                let ends_in_a_part = ends_in_a_part.unwrap_or(self.cut);
                if ends_in_a_part {
                    self.waiting.insert(0, b'\n');
                    // Who died in the middle of it counted nothing.
                    self.metrics.audit_lost(u64::from(!self.cut));
                }
                self.cut = ends_in_a_part;
                self.file.insert(file)
            }
        };
        let mut written = 0;
        let done = loop {
            match file.write(&self.waiting[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if written == self.waiting.len() {
                break file.flush();
            }
        };
        if let Some(last) = self.waiting[..written].last() {
            self.cut = *last != b'\n';
        }
        self.waiting.drain(..written);
        done
    }

    fn note(&mut self, done: io::Result<()>) {
        let Err(error) = done else {
            self.told &= !self.waiting.is_empty();
            return;
        };
        // Each ends in one, also the one of which a part was written.
        let lines = self.waiting.iter().filter(|byte| **byte == b'\n').count() as u64;
        // The end of what was cut before is no line.
        let ends_only = self.waiting.first() == Some(&b'\n');
        self.metrics.audit_lost(lines - u64::from(ends_only && lines > 0));
        self.waiting.clear();
        self.file = None;
        if !std::mem::replace(&mut self.told, true) {
            tracing::error!(%error, "the audit cannot be written; lines are lost, see mirror_audit_lost_total");
        }
    }
}

/// User and group of the folder, where this is root and it is not root's.
fn another_whose_folder_it_is(path: &Path) -> Option<(u32, u32)> {
    let folder = path.parent()?.metadata().ok()?;
    (rustix::process::geteuid().is_root() && folder.uid() != 0).then(|| (folder.uid(), folder.gid()))
}

/// A service that keeps its audit there would lose its lines, were the file root's. A link that it has laid is not
/// for root to follow.
fn open_for((uid, gid): (u32, u32), options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed()).open(path)
        }
        made => {
            let file = made?;
            fchown(&file, Some(uid), Some(gid))?;
            Ok(file)
        }
    }
}

/// Where lines go, and whether what is there ends in a part of a line, where that can be seen.
fn open(place: &Place) -> io::Result<(Box<dyn Write + Send>, Option<bool>)> {
    match place {
        Place::Stderr => Ok((Box::new(io::stderr()), None)),
        Place::File(path) => {
            // A pipe that nobody reads, or not fast enough, would hold up all lines: they are lost and counted.
            let waits_for_nobody = OFlags::NONBLOCK;
            let mut options = OpenOptions::new();
            options.append(true).mode(0o600).custom_flags(waits_for_nobody.bits().cast_signed());
            let file: File = match another_whose_folder_it_is(path) {
                None => options.create(true).open(path)?,
                Some(owner) => open_for(owner, &mut options, path)?,
            };
            let ends_in_a_part = ends_in_a_part(&file, path);
            Ok((Box::new(file), ends_in_a_part))
        }
    }
}

/// Who appends need not be able to read, and nobody reads from a pipe.
fn ends_in_a_part(file: &File, path: &Path) -> Option<bool> {
    let there = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let Some(last) = there.len().checked_sub(1) else { return Some(false) };
    let waits_for_nobody = OFlags::NONBLOCK.bits().cast_signed();
    let to_read = OpenOptions::new().read(true).custom_flags(waits_for_nobody).open(path).ok()?;
    let same = to_read.metadata().ok().filter(|it| (it.dev(), it.ino()) == (there.dev(), there.ino()));
    let mut byte = [0];
    same.and_then(|_| to_read.read_exact_at(&mut byte, last).ok()).map(|()| byte != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk on which there is room for so many bytes.
    struct Full(File, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = self.0.write(&bytes[..bytes.len().min(self.1)])?;
            self.1 -= written;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn to_append(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).expect("a file")
    }

    fn put(writer: &mut Writer, lines: &[&str]) {
        for line in lines {
            let done = writer.does(Job::Write(format!("{line}\n").into_bytes()));
            writer.note(done);
        }
        let done = writer.flush();
        writer.note(done);
    }

    #[test]
    fn half_a_line_is_lost_alone_and_counted_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        // So much of two lines is written; what of that ends with its line, and how many are lost: what lacks but its
        // end is whole when that is written.
        for (room, whole, expected) in [(0, "", 2), (2, "", 2), (3, "", 1), (4, "one\n", 1), (6, "one\n", 1)] {
            for again in [false, true] {
                let _ = std::fs::remove_file(&path);
                let metrics = Arc::new(Metrics::new([]));
                let mut writer = Writer::new(Place::File(path.clone()), Arc::clone(&metrics));
                writer.file = Some(Box::new(Full(to_append(&path), room)));
                put(&mut writer, &["one", "two"]);
                assert_eq!(metrics.lost_of_audit(), expected, "{room}");
                if again {
                    let done = writer.does(Job::OpenAnew);
                    writer.note(done);
                }
                put(&mut writer, &["three", "four"]);
                put(&mut writer, &["five"]);
                let rest = if room == whole.len() { "" } else { &"one\ntwo\n"[whole.len()..room] };
                let end = if rest.is_empty() { "" } else { "\n" };
                let text = std::fs::read_to_string(&path).expect("text");
                assert_eq!(text, format!("{whole}{rest}{end}three\nfour\nfive\n"), "{room} {again}");
                assert_eq!(metrics.lost_of_audit(), expected, "{room} {again}");
            }
        }
    }

    #[test]
    fn half_a_line_that_somebody_left_is_ended_and_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        for (left, expected, count) in [("", "a\n", 0), ("x\n", "x\na\n", 0), ("x\ny", "x\ny\na\n", 1)] {
            std::fs::write(&path, left).expect("written");
            let metrics = Arc::new(Metrics::new([]));
            let mut writer = Writer::new(Place::File(path.clone()), Arc::clone(&metrics));
            put(&mut writer, &["a"]);
            assert_eq!(std::fs::read_to_string(&path).expect("text"), expected);
            assert_eq!(metrics.lost_of_audit(), count, "{left:?}");
        }
        // There is still no room: nothing more than that line is lost.
        std::fs::write(&path, "x\ny").expect("written");
        let metrics = Arc::new(Metrics::new([]));
        let mut writer = Writer::new(Place::File(path.clone()), Arc::clone(&metrics));
        (writer.cut, writer.waiting) = (true, b"\n".to_vec());
        writer.file = Some(Box::new(Full(to_append(&path), 0)));
        put(&mut writer, &["a"]);
        assert_eq!(metrics.lost_of_audit(), 1);
        put(&mut writer, &["b"]);
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "x\ny\nb\n");
        assert_eq!(metrics.lost_of_audit(), 1);
    }
}
