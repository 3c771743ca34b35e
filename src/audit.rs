//! The audit: who got what, and who did what, JSON lines of their own.
//!
//! A thread writes them, at the end of a file that it opens anew when it is told to. Truth: nobody waits for it.
//! What cannot be written, because the disk is full or slow, is counted and lost.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
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
            Writer { place, file: None, unwritten: 0, told: false, metrics: counted }.run(&todo);
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
    file: Option<BufWriter<Box<dyn Write + Send>>>,
    /// Lines that may not have reached the file.
    unwritten: u64,
    /// Whether the log says already that lines are lost.
    told: bool,
    metrics: Arc<Metrics>,
}

impl Writer {
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
                self.unwritten += 1;
                let file = match &mut self.file {
                    Some(file) => file,
                    None => self.file.insert(BufWriter::new(open(&self.place)?)),
                };
                file.write_all(&line)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)?;
        self.unwritten = 0;
        Ok(())
    }

    fn note(&mut self, done: io::Result<()>) {
        let Err(error) = done else {
            self.told &= self.unwritten > 0;
            return;
        };
        self.metrics.audit_lost(std::mem::take(&mut self.unwritten));
        // What is left in the buffer is lost with it, rather than cut in two.
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
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

fn open(place: &Place) -> io::Result<Box<dyn Write + Send>> {
    match place {
        Place::Stderr => Ok(Box::new(io::stderr())),
        Place::File(path) => {
            // A pipe that nobody reads, or not fast enough, would hold up all lines: they are lost and counted.
            let waits_for_nobody = OFlags::NONBLOCK;
            let mut options = OpenOptions::new();
            options.append(true).mode(0o600).custom_flags(waits_for_nobody.bits().cast_signed());
            let file: File = match another_whose_folder_it_is(path) {
                None => options.create(true).open(path)?,
                Some(owner) => open_for(owner, &mut options, path)?,
            };
            Ok(Box::new(file))
        }
    }
}
