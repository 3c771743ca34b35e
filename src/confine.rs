//! Where this process may write: below a few folders, whatever else its user may do (Landlock).
//!
//! The kernel keeps a thread to that, and the threads that it starts. One thread is started before and stays
//! free, for programs that are to write where they always do, such as credential helpers, and for the thread that
//! writes the audit, whose folder may be made anew. Truth: what is read
//! is not restricted, and a kernel that cannot do this changes nothing but a line in the log.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

/// Writing, moving from folder to folder, cutting: what came with later kernels needs no rule here.
const WRITING: ABI = ABI::V3;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that is free.
static FREE: OnceLock<Sender<Job>> = OnceLock::new();

/// Why nothing is restricted.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel cannot, or does not want to.
    #[error("this kernel has no Landlock that knows of renames (Linux 5.19), or it is off")]
    Unsupported,
    /// A folder cannot be opened.
    #[error(transparent)]
    Folder(#[from] PathFdError),
    /// The kernel refuses; under systemd its filter of system calls may.
    #[error(transparent)]
    Refused(#[from] RulesetError),
    /// No thread.
    #[error("starting a thread: {0}")]
    Thread(#[from] io::Error),
}

/// From now on this thread, and those that it starts, write below `folders` only. To be called before any
/// other thread is there.
///
/// # Errors
/// [`ConfineError`]; nothing is restricted then.
pub fn confine<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<(), ConfineError> {
    let (jobs, todo) = channel::<Job>();
    std::thread::Builder::new().name("free".into()).spawn(move || todo.into_iter().for_each(|job| job()))?;
    restrict(folders)?;
    // Whoever was first keeps his: it is as free.
    let _ = FREE.set(jobs);
    Ok(())
}

fn restrict<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<(), ConfineError> {
    let writing = AccessFs::from_write(WRITING);
    // Without a rule for it the kernel refuses to rename from folder to folder, and nothing could be stored.
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer);
    let rules = rules.map_err(|_| ConfineError::Unsupported)?;
    let rules = rules.set_compatibility(CompatLevel::BestEffort).handle_access(writing)?;
    let mut rules = rules.create()?;
    for folder in folders {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, writing))?;
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(ConfineError::Unsupported),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// Has `work` done by the thread that is free, or here and now where nothing is restricted. Must not take long.
///
/// # Errors
/// The thread is gone.
pub async fn freely<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let Some(free) = FREE.get() else { return Ok(work()) };
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let job = move || {
        let _inside = runtime.enter();
        let _nobody_waits_any_more = done.send(work());
    };
    free.send(Box::new(job)).map_err(|_| io::Error::other("the free thread has ended"))?;
    result.await.map_err(|_| io::Error::other("the free thread has ended"))
}

/// Starts a thread that writes wherever the user of this process may.
///
/// # Errors
/// There is none.
pub fn free_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let start = move || thread.spawn(work).map(drop);
    let Some(free) = FREE.get() else { return start() };
    let (done, started) = channel();
    let gone = || io::Error::other("the free thread has ended");
    free.send(Box::new(move || drop(done.send(start())))).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn write(path: &Path) -> Result<(), io::ErrorKind> {
        fs::write(path, "x").map_err(|error| error.kind())
    }

    #[test]
    fn a_confined_thread_writes_below_its_folders_only_and_programs_write_where_they_always_do() {
        let (inside, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (store, elsewhere) = (inside.path().to_owned(), outside.path().to_owned());
        write(&elsewhere.join("before")).expect("nothing is restricted yet");
        let confined = std::thread::spawn(move || {
            match confine([&*store]) {
                Ok(()) => {}
                Err(ConfineError::Unsupported) => return eprintln!("SKIPPED: this kernel has no Landlock"),
                Err(error) => panic!("{error}"),
            }
            fs::create_dir(store.join("a")).expect("inside");
            fs::create_dir(store.join("b")).expect("inside");
            write(&store.join("a/x")).expect("inside");
            fs::rename(store.join("a/x"), store.join("b/x")).expect("from folder to folder");
            fs::File::options().write(true).open(store.join("b/x")).and_then(|file| file.set_len(0)).expect("cut");
            fs::remove_dir_all(store.join("b")).expect("inside");
            let denied = Err(io::ErrorKind::PermissionDenied);
            assert_eq!(write(&elsewhere.join("new")), denied);
            assert_eq!(write(&elsewhere.join("before")), denied);
            assert_eq!(fs::remove_file(elsewhere.join("before")).map_err(|error| error.kind()), denied);
            assert_eq!(fs::read(elsewhere.join("before")).expect("reading is not restricted"), b"x");
            let (file, (done, wrote)) = (elsewhere.join("of a free thread"), channel());
            free_thread("writes", move || {
                let _ = done.send(write(&file));
            })
            .expect("started");
            wrote.recv().expect("no panic").expect("it is free");
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let file = elsewhere.join("of a worker");
                let denied_to_workers = tokio::spawn(async move { write(&file) }).await.expect("no panic");
                assert_eq!(denied_to_workers, denied);
                let mut touch = Command::new("touch");
                touch.arg(elsewhere.join("of a program"));
                assert!(freely(move || touch.status()).await.expect("it is there").expect("it ran").success());
                assert!(elsewhere.join("of a program").exists());
            });
        });
        confined.join().expect("no panic");
    }
}
