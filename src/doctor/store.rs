//! The store: whether its disk takes what comes, and how fast.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use crate::documents::Checked;
use crate::plain::quoted;

/// A sync that takes longer holds pulls up.
const SLOW_SYNC: Duration = Duration::from_millis(200);
/// A rename, or a small write, that takes longer is on no local disk.
const SLOW: Duration = Duration::from_millis(50);

/// The folder of the store and what it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The folder.
    pub path: PathBuf,
    /// Whether it is there.
    pub there: bool,
    /// What is free, or why that cannot be told.
    pub space: Result<Space, String>,
    /// How long it took to write, or why nothing can be written.
    pub written: Result<Times, Unwritable>,
    /// Whether files can carry notes (user extended attributes); `None` where nothing could be written.
    pub attributes: Option<bool>,
    /// The kind of file system, where it is one to know of.
    pub kind: Option<Kind>,
    /// What of it is closed to the daemon.
    pub closed: Option<Closed>,
    /// Why the list of what is owed to the bucket cannot be read, where it can be had and cannot be read.
    pub list: Option<String>,
}

/// Something that a daemon cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What it is.
    pub part: PathBuf,
    /// Why, and whose it is.
    pub why: String,
    /// What opens it.
    pub opening: String,
    /// Whether no daemon starts without it.
    pub is_needed: bool,
}

/// What is free, in bytes and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that there are; 0 where nobody counts.
    pub bytes: u64,
    /// Bytes that are free for us.
    pub free: u64,
    /// Bytes that stay free, by the configuration.
    pub min_free: u64,
    /// Files that may be made still.
    pub inodes_free: u64,
    /// Files that there may be; 0 where nobody counts.
    pub inodes: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// How long the steps of a commit took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Writing 64 KiB.
    pub write: Duration,
    /// Having them on the disk.
    pub sync: Duration,
    /// Giving them another name, and having that on the disk.
    pub rename: Duration,
}

/// Why nothing can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// There is no store yet.
    Absent,
    /// It is mounted read-only.
    ReadOnly,
    /// There is no room.
    Full,
    /// This user may not.
    Denied,
    /// Something else stands there, or on the way there.
    NoFolder(PathBuf),
    /// The folder cannot be made, in the words of the system.
    Unmakeable(String),
    /// It did not end within this time.
    Late(Duration),
    /// Something else, in the words of the system.
    Other(String),
}

/// A kind of file system that has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another machine's.
    Network,
    /// In memory.
    Memory,
    /// A layer over another, as containers have.
    Overlay,
}

/// A line for each thing that there is to say.
pub fn judge(disk: &Disk) -> Vec<Checked> {
    let is_nowhere = matches!(disk.written, Err(Unwritable::NoFolder(_) | Unwritable::Unmakeable(_)));
    let mut checks: Vec<_> = (!is_nowhere).then(|| space(disk)).into_iter().collect();
    checks.extend(written(disk));
    checks.extend(disk.closed.as_ref().filter(|_| disk.written.is_ok()).map(closed));
    checks.extend(disk.list.as_deref().map(list));
    checks.extend(abilities(disk));
    checks
}

const ABOUT: &str = "store";

fn space(Disk { path, space, .. }: &Disk) -> Checked {
    let (typed, path) = (quoted(path), path.display());
    let Space { bytes, free, min_free, inodes_free, inodes, read_only } = match space {
        Ok(space) => space,
        Err(why) => {
            return Checked::fail(
                ABOUT,
                format!("{path} cannot be looked at: {why}"),
                "see that this user may enter it",
            );
        }
    };
    let size = |bytes: u64| ByteSize::b(bytes).display().iec().to_string();
    if *read_only {
        let hint = format!("mount it for writing: mount -o remount,rw \"$(df --output=target {typed} | tail -1)\"");
        return Checked::fail(ABOUT, format!("{path} is on a file system that is mounted read-only"), hint);
    }
    if *bytes > 0 && *free == 0 {
        let hint = "free some, or have the store hold less: max_size under [store], then registry-mirror gc";
        return Checked::fail(ABOUT, format!("the disk of {path} is full"), hint);
    }
    if *inodes > 0 && *inodes_free == 0 {
        let hint = "free some, or put the store on a file system with more inodes: store.path";
        return Checked::fail(ABOUT, format!("the disk of {path} takes no more files: no inodes are left"), hint);
    }
    if *bytes > 0 && free < min_free {
        let hint = "free some: below that images leave the store, and then pulls are passed on and not kept";
        return Checked::warn(
            ABOUT,
            format!("{} are free at {path}, less than min_free, {}", size(*free), size(*min_free)),
            hint,
        );
    }
    if *inodes > 0 && inodes_free.saturating_mul(20) < *inodes {
        let hint = "free some, or put the store on a file system with more inodes: store.path";
        return Checked::warn(ABOUT, format!("{inodes_free} of {inodes} inodes are left at {path}"), hint);
    }
    Checked::ok(ABOUT, format!("{} are free at {path}", size(*free)))
}

fn written(Disk { path, there, written, .. }: &Disk) -> Option<Checked> {
    let (typed, path) = (quoted(path), path.display());
    let why = match written {
        Ok(Times { write, sync, rename }) => {
            let [w, s, r] = [write, sync, rename].map(|took| format!("{:.1} ms", took.as_secs_f64() * 1e3));
            let message = format!("it writes in {w}, syncs in {s}, renames in {r}");
            let slow = *sync >= SLOW_SYNC || *write >= SLOW || *rename >= SLOW_SYNC;
            let hint =
                "put it on a faster or less busy disk, a local one: store.path; every part of a pull waits for it once";
            return Some(if slow {
                Checked::warn(ABOUT, format!("slow: {message}"), hint)
            } else {
                Checked::ok(ABOUT, message)
            });
        }
        Err(why) => why,
    };
    Some(match why {
        Unwritable::Absent => Checked::ok(ABOUT, format!("{path} is not there yet; serve makes it")),
        // It is said already.
        Unwritable::ReadOnly => return None,
        Unwritable::Full => Checked::fail(
            ABOUT,
            format!("nothing can be written to {path}: no room is left"),
            "free some, or have the store hold less: max_size under [store], then registry-mirror gc",
        ),
        Unwritable::NoFolder(other) => Checked::fail(
            ABOUT,
            format!("{path} cannot be made: {} is there, and no folder", other.display()),
            "move that away, or choose another folder: store.path",
        ),
        Unwritable::Unmakeable(why) => {
            Checked::fail(ABOUT, format!("{path} cannot be made: {why}"), "choose a folder on a disk: store.path")
        }
        Unwritable::Denied if !there => Checked::fail(
            ABOUT,
            format!("{path} is not there, and this user may not make it"),
            "make it as root, for the user of the daemon: install -d -m 700 -o USER FOLDER; or choose another: store.path"
                .replace("FOLDER", &typed),
        ),
        Unwritable::Denied => Checked::fail(
            ABOUT,
            format!("this user may not write to {path}"),
            "run this as the user of the daemon, or as root; if it is that one: chown -R USER FOLDER"
                .replace("FOLDER", &typed),
        ),
        Unwritable::Late(after) => Checked::fail(
            ABOUT,
            format!("{path} did not take 64 KiB within {} s", after.as_secs()),
            "see whether its disk is broken, or the network to it: dmesg; move it with store.path",
        ),
        Unwritable::Other(why) => Checked::fail(
            ABOUT,
            format!("nothing can be written to {path}: {why}"),
            "see what the system says of its disk: dmesg",
        ),
    })
}

fn closed(Closed { part, why, opening, is_needed }: &Closed) -> Checked {
    let part = part.display();
    if *is_needed {
        return Checked::fail(ABOUT, format!("a daemon cannot use {part}: {why}; it does not start"), opening);
    }
    Checked::warn(ABOUT, format!("a daemon cannot use {part}: {why}; it asks for that anew each time"), opening)
}

fn list(why: &str) -> Checked {
    Checked::warn(
        ABOUT,
        format!("the list of what is owed to the bucket, owed, cannot be read: {why}"),
        "nothing to do: the next start sets it aside as owed.damaged-N, and looks in the bucket for all that is stored",
    )
}

fn abilities(Disk { path, attributes, kind, .. }: &Disk) -> Vec<Checked> {
    let path = path.display();
    let kind = kind.map(|kind| match kind {
        Kind::Network => Checked::warn(
            ABOUT,
            format!("{path} is on a network file system"),
            "put it on a local disk: store.path; locks, syncs and renames of others are slow, or lie",
        ),
        Kind::Memory => Checked::warn(
            ABOUT,
            format!("{path} is in memory, and empty after a reboot"),
            "move it to a disk: store.path",
        ),
        Kind::Overlay => Checked::warn(
            ABOUT,
            format!("{path} is in a container's own layer, and gone with the container"),
            "mount a volume there",
        ),
    });
    let notes = attributes.filter(|has| !has).map(|_| {
        let hint = "put it on ext4, xfs or btrfs: store.path";
        Checked::warn(ABOUT, "unfinished downloads begin anew after a restart: no user extended attributes", hint)
    });
    kind.into_iter().chain(notes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Verdict;

    const SPACE: Space =
        Space { bytes: 1 << 41, free: 1 << 40, min_free: 1 << 30, inodes_free: 90, inodes: 100, read_only: false };
    const TIMES: Times = Times { write: Duration::ZERO, sync: Duration::from_millis(2), rename: Duration::ZERO };

    fn disk() -> Disk {
        Disk {
            path: "/store".into(),
            there: true,
            space: Ok(SPACE),
            written: Ok(TIMES),
            attributes: Some(true),
            kind: None,
            closed: None,
            list: None,
        }
    }

    #[test]
    fn what_is_to_be_typed_names_the_store_as_a_shell_takes_it() {
        let odd = || Disk { path: "/my $(id) store".into(), attributes: None, ..disk() };
        for odd in [
            Disk { space: Ok(Space { read_only: true, ..SPACE }), written: Err(Unwritable::ReadOnly), ..odd() },
            Disk { written: Err(Unwritable::Denied), ..odd() },
            Disk { written: Err(Unwritable::Denied), there: false, ..odd() },
        ] {
            let hints: Vec<_> = judge(&odd).into_iter().filter_map(|line| line.hint).collect();
            let [hint] = &hints[..] else { panic!("{hints:?}") };
            assert!(hint.contains(" '/my $(id) store'"), "{hint}");
        }
    }

    #[test]
    fn each_trouble_of_the_store_has_its_line_and_its_advice() {
        let space = |space| Disk { space: Ok(space), ..disk() };
        let unwritable = |why| Disk { written: Err(why), attributes: None, ..disk() };
        let closed = Closed {
            part: "/store/repositories".into(),
            why: "Permission denied".to_owned(),
            opening: "as root: chown -R 988:988 /store".to_owned(),
            is_needed: false,
        };
        let needed = Closed { part: "/store/owed".into(), is_needed: true, ..closed.clone() };
        let slow = Times { sync: Duration::from_millis(900), ..TIMES };
        use Verdict::{Fail, Warn};
        for (disk, verdict, said, advised) in [
            (space(Space { free: 0, ..SPACE }), Fail, "is full", "max_size"),
            (space(Space { inodes_free: 0, ..SPACE }), Fail, "no inodes", "more inodes"),
            (space(Space { free: 1, ..SPACE }), Warn, "less than min_free", "free some"),
            (space(Space { inodes_free: 4, ..SPACE }), Warn, "4 of 100 inodes", "more inodes"),
            (
                Disk { written: Err(Unwritable::ReadOnly), ..space(Space { read_only: true, ..SPACE }) },
                Fail,
                "read-only",
                "remount,rw",
            ),
            (Disk { space: Err("gone".to_owned()), ..disk() }, Fail, "cannot be looked at: gone", "may enter"),
            (unwritable(Unwritable::Full), Fail, "no room is left", "max_size"),
            (unwritable(Unwritable::Denied), Fail, "may not write", "chown -R USER /store"),
            (
                Disk { there: false, ..unwritable(Unwritable::Denied) },
                Fail,
                "may not make it",
                "install -d -m 700 -o USER /store",
            ),
            (unwritable(Unwritable::NoFolder("/x".into())), Fail, "/x is there, and no folder", "move that away"),
            (
                Disk {
                    space: Ok(Space { bytes: 0, free: 0, inodes: 0, ..SPACE }),
                    ..unwritable(Unwritable::Unmakeable("No such file".to_owned()))
                },
                Fail,
                "cannot be made: No such file",
                "store.path",
            ),
            (unwritable(Unwritable::Late(Duration::from_secs(10))), Fail, "within 10 s", "dmesg"),
            (unwritable(Unwritable::Other("EIO".to_owned())), Fail, "EIO", "dmesg"),
            (Disk { written: Ok(slow), ..disk() }, Warn, "slow: it writes in 0.0 ms, syncs in 900.0 ms", "faster"),
            (Disk { attributes: Some(false), ..disk() }, Warn, "begin anew", "ext4"),
            (Disk { kind: Some(Kind::Network), ..disk() }, Warn, "network file system", "local disk"),
            (Disk { kind: Some(Kind::Memory), ..disk() }, Warn, "in memory", "store.path"),
            (
                Disk { closed: Some(closed), ..disk() },
                Warn,
                "cannot use /store/repositories: Permission denied",
                "as root: chown -R 988:988 /store",
            ),
            (
                Disk { closed: Some(needed), ..disk() },
                Fail,
                "/store/owed: Permission denied; it does not start",
                "chown",
            ),
            (
                Disk { list: Some("it is no text".to_owned()), ..disk() },
                Warn,
                "owed, cannot be read: it is no text",
                "owed.damaged-N",
            ),
            (Disk { kind: Some(Kind::Overlay), ..disk() }, Warn, "container", "volume"),
        ] {
            let lines = judge(&disk);
            let trouble: Vec<_> = lines.iter().filter(|line| line.verdict != Verdict::Ok).collect();
            let [line] = &trouble[..] else { panic!("{lines:?}") };
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.message.contains(said), "{}", line.message);
            assert!(line.hint.as_ref().is_some_and(|hint| hint.contains(advised)), "{:?}", line.hint);
        }
        for well in [disk(), unwritable(Unwritable::Absent), space(Space { inodes: 0, inodes_free: 0, ..SPACE })] {
            assert!(judge(&well).iter().all(|line| line.verdict == Verdict::Ok), "{well:?}");
        }
    }
}
