//! Why a store cannot be used, and what to do about it: whose it is and who asks, a disk that is read-only or full, a
//! file system without locks.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getuid};

use super::closed::Closed;
use crate::plain::quoted;
use crate::small_file::InTheWay;

/// What of a store somebody else may have made, in the order in which it is opened.
const PARTS: [&str; 11] = [
    "",
    "format",
    "lock",
    "owed",
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "repositories",
    "ingest",
    "metadata",
    "usage",
];

/// What the system said to who wanted to use a store, and what is known about that.
#[derive(Debug)]
pub struct Unusable {
    path: PathBuf,
    /// What of it, where that is known.
    part: Option<PathBuf>,
    source: io::Error,
    /// What is not this user's, and whose it is.
    foreign: Option<(PathBuf, u32)>,
    us: Ids,
}

/// A user and a group.
#[derive(Clone, Copy, Debug)]
struct Ids {
    uid: u32,
    gid: u32,
    /// Whether root works in the name of this user.
    by_root: bool,
}

impl Unusable {
    /// The store at `path` could not be used for this reason. Looks whose it is.
    pub fn new(path: &Path, source: io::Error) -> Unusable {
        let by_root = getuid().is_root() && !geteuid().is_root();
        let us = Ids { uid: geteuid().as_raw(), gid: getegid().as_raw(), by_root };
        let there = path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path);
        let parts = PARTS.iter().take(if there == path { PARTS.len() } else { 1 });
        let foreign = parts
            .map(|part| if part.is_empty() { there.to_owned() } else { there.join(part) })
            .filter_map(|part| Some((part.symlink_metadata().ok()?.uid(), part)))
            .find(|(owner, _)| *owner != us.uid)
            .map(|(owner, part)| (part, owner));
        Unusable { path: path.to_owned(), part: None, source, foreign, us }
    }

    /// The same where it is known what of it is closed.
    pub fn of(root: &Path, closed: Closed) -> Unusable {
        let part = closed.path(root);
        let whose = part.symlink_metadata().ok().map(|found| (part.clone(), found.uid()));
        let unusable = Unusable::new(root, closed.error);
        let foreign = whose.filter(|(_, owner)| *owner != unusable.us.uid);
        Unusable { part: Some(part), foreign, ..unusable }
    }

    /// What root types to give all of it to this user, or to move away what stands in its place.
    pub fn giving(&self) -> String {
        if let Some(InTheWay { path, .. }) = InTheWay::in_error(&self.source) {
            return format!("mv {} ELSEWHERE", quoted(path));
        }
        let Ids { uid, gid, .. } = self.us;
        // Where a link leads there, it is not the link that is to be given.
        let slash = if self.path.is_symlink() { "/" } else { "" };
        format!("chown -R {uid}:{gid} {}{slash}", quoted(&self.path))
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        if let Some(InTheWay { path, .. }) = InTheWay::in_error(&self.source) {
            let path = quoted(path);
            return Some(format!("move that away, and what belongs there is made anew: mv {path} ELSEWHERE"));
        }
        let (path, Ids { uid, gid, .. }) = (quoted(&self.path), self.us);
        Some(match self.kind()? {
            Kind::Denied if self.foreign.is_some() => format!(
                "run this as that user, or give it to this one: {}; of a container's volume: podman \
                 run --userns=keep-id:uid={uid},gid={gid}, or :U behind the volume; in Kubernetes securityContext.fsGroup: \
                 {gid}; or name another folder with --store, or as store.path",
                self.giving()
            ),
            Kind::Denied => format!("let this user in: chmod -R u+rwX {path}, and see what stands above it"),
            Kind::ReadOnly => {
                "mount it for writing, or name another folder with --store, or as store.path; one that has been used is \
                 served read-only, too"
                    .to_owned()
            }
            Kind::Full => format!("make room there: df -h {path}; df -i {path}"),
            Kind::NoLocks => "put it on a local disk; or mount NFS as version 4, or with local_lock=flock where no other \
                              machine uses this folder"
                .to_owned(),
        })
    }

    /// What is not this user's, and whose it is.
    pub fn whose(&self) -> Option<String> {
        let (part, owner) = self.foreign.as_ref()?;
        let us = if self.us.by_root { "root works here as" } else { "this is" };
        Some(format!("{} belongs to uid {owner}, and {us} uid {}", part.display(), self.us.uid))
    }

    fn kind(&self) -> Option<Kind> {
        Some(match Errno::from_io_error(&self.source)? {
            Errno::ACCESS | Errno::PERM => Kind::Denied,
            Errno::ROFS => Kind::ReadOnly,
            Errno::NOSPC | Errno::DQUOT => Kind::Full,
            Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS => Kind::NoLocks,
            _ => return None,
        })
    }
}

/// What is known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This user may not.
    Denied,
    /// Nothing can be written there by anybody.
    ReadOnly,
    /// There is no room, or there are no inodes.
    Full,
    /// The file system, or the other machine, has no locks.
    NoLocks,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.kind() == Some(Kind::NoLocks) { "locked" } else { "used" };
        write!(f, "the store {} cannot be {what}: ", self.path.display())?;
        // What is in the way names itself.
        let part = self.part.as_ref().filter(|part| **part != self.path && InTheWay::in_error(&self.source).is_none());
        part.map_or(Ok(()), |part| write!(f, "{}: ", part.display()))?;
        write!(f, "{}", self.source)?;
        match self.whose().filter(|_| self.kind() == Some(Kind::Denied)) {
            Some(whose) => write!(f, ": {whose}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_says_what_to_do_and_whose_it_is_where_that_is_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let said = |errno: Errno, foreign: Option<(&str, u32)>| {
            let foreign = foreign.map(|(part, owner)| (folder.path().join(part), owner));
            let us = Ids { uid: 10001, gid: 10002, by_root: false };
            let unusable = Unusable { foreign, us, ..Unusable::new(folder.path(), errno.into()) };
            format!("{unusable}\n{}", unusable.hint().unwrap_or_default())
        };
        for (errno, foreign, expected) in [
            (
                Errno::ACCESS,
                Some(("lock", 0)),
                &["/lock belongs to uid 0, and this is uid 10001", "fsGroup: 10002"][..],
            ),
            (Errno::ACCESS, Some(("", 0)), &["chown -R 10001:10002 ", "--userns=keep-id:uid=10001,gid=10002"]),
            (Errno::ACCESS, None, &["chmod -R u+rwX"]),
            (Errno::ROFS, Some(("", 0)), &["Read-only file system", "mount it for writing"]),
            (Errno::NOSPC, None, &["No space left", "df -i"]),
            (Errno::DQUOT, None, &["make room there"]),
            (Errno::NOLCK, None, &["cannot be locked: No locks available", "local_lock=flock"]),
            (Errno::IO, None, &["cannot be used: Input/output error"]),
        ] {
            let said = said(errno, foreign);
            assert!(expected.iter().all(|part| said.contains(part)), "{said}");
            assert_eq!(said.contains("belongs to"), errno == Errno::ACCESS && foreign.is_some(), "{said}");
        }
    }

    #[test]
    fn a_path_is_told_as_it_is_typed() {
        for (path, typed) in [("/srv", "/srv"), ("/srv/my store", "'/srv/my store'")] {
            let giving = Unusable::new(Path::new(path), Errno::ACCESS.into()).giving();
            assert!(giving.ends_with(&format!(" {typed}")), "{giving}");
        }
    }

    #[test]
    fn what_is_ours_is_not_said_to_be_somebody_elses() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("not/there");
        assert!(Unusable::new(&store, Errno::ACCESS.into()).foreign.is_none());
        let absent = Unusable::new(Path::new("/proc/1/not/there"), Errno::ACCESS.into());
        assert!(
            absent.to_string().starts_with("the store /proc/1/not/there cannot be used: Permission denied"),
            "{absent}"
        );
    }
}
