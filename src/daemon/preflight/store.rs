//! What a start would stumble over in the folder of the store, and on its disk.
//!
//! Root works there in the name of its owner, so it is what that one may that counts.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytesize::ByteSize;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::owner::{Owner, Reached, by_its_name};
use super::Findings;
use crate::blob_store::closed::{self, Closed};
use crate::blob_store::format;
use crate::blob_store::unusable::Unusable;
use crate::config::{Limit, Store};
use crate::documents::{Code, Error};
use crate::owed::{self, Owed};
use crate::small_file::InTheWay;

/// What of a store this user may have to make files in.
const FOLDERS: [&str; 6] = ["", "blobs", "blobs/sha256", "repositories", "ingest", "metadata"];

/// The folders without which it serves all the same.
const OPTIONAL: [&str; 3] = ["metadata", "usage", "quarantine"];

/// Whether the folder can be used, or made.
pub(super) fn look_at_folder(store: &Store, found: &mut Findings) {
    let path = &store.path;
    if format::examine(path).is_err() {
        return;
    }
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path);
    match rustix::fs::stat(there).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => {}
        Ok(_) => {
            let message = format!("{} cannot be made: {} is no folder", path.display(), there.display());
            return found.problem("store.path", message);
        }
        Err(error) => {
            let why = InTheWay::of_folder(there).map_or_else(|| error.to_string(), |it| it.to_string());
            return found.warn(format!("the store {} cannot be used: {why}", path.display()));
        }
    }
    if let Some(it) = in_the_way(store) {
        return found.warn(format!("the store {} cannot be used: {it}", path.display()));
    }
    if let Some(it) = OPTIONAL.into_iter().find_map(|part| InTheWay::of_folder(&path.join(part))) {
        let what = "can be used, and what cannot is asked for anew";
        return found.warn(format!("not all of the store {} {what}: {it}", path.display()));
    }
    match closed_to_its_owner(store, there) {
        Ok(told) => found.warnings.extend(told),
        Err(error) => found.warn(error.message),
    }
}

/// What is closed to who would work there, and how to open it; a list of what is owed that cannot be read. `there` is the
/// store, or where it begins to be made.
fn closed_to_its_owner(config: &Store, there: &Path) -> Result<Option<String>, Error> {
    let store = config.path.as_path();
    let owner = Owner::to_write_for(there);
    let reached = Reached::by(owner, there)?;
    let _in_his_name = owner.map(|owner| owner.enter_or_refuse(there)).transpose()?;
    let Some(closed) = closed_part(&reached.path, there == store, config.bucket.is_some()) else {
        let flaw = Owed::flaw(&reached.path).filter(|_| there == store && config.bucket.is_some());
        return Ok(flaw.map(|why| flaw_of_list(store, &why)));
    };
    let (part, why) = (closed.path(&reached.path), closed.error.to_string());
    let is_denied = closed.error.kind() == io::ErrorKind::PermissionDenied;
    let (is_needed, unusable) = (closed.is_needed, Unusable::of(&reached.path, closed));
    let (is_there, store, part) = (there == store, store.display(), part.display());
    let who = if owner.is_some() { "its owner" } else { "this user" };
    let told = match (is_needed, is_there) {
        (true, true) => format!("the store {store} cannot be used by {who}: {part}: {why}"),
        (true, false) => format!("the store {store} cannot be made by {who}: {part}: {why}"),
        (false, _) => format!(
            "not all of the store {store} can be used by {who}, and what cannot is asked for anew: {part}: {why}"
        ),
    };
    let whose = unusable.whose().map(|whose| format!("; {whose}")).unwrap_or_default();
    let giving = if whose.is_empty() { unusable.hint() } else { Some(format!("as root: {}", unusable.giving())) };
    let giving = giving.filter(|_| is_denied).map(|giving| format!("; {giving}"));
    let told = Error { hint: giving, ..Error::new(Code::Failed, told + &whose) };
    let told = by_its_name(told, &reached.path, there);
    Ok(Some(told.message + &told.hint.unwrap_or_default()))
}

/// What a start does with a list of what is owed that cannot be read.
fn flaw_of_list(store: &Path, why: &str) -> String {
    let list = store.join(owed::NAME);
    format!(
        "{}: {why}: a start sets it aside as {}.damaged-N, and looks in the bucket for all that is stored",
        list.display(),
        owed::NAME
    )
}

/// What of it this user cannot use, where it is a store, or where one begins to be made. Nothing is served without the
/// list of what is owed where there is a bucket.
fn closed_part(root: &Path, is_store: bool, has_bucket: bool) -> Option<Closed> {
    let mut folders = FOLDERS.iter().take(if is_store { FOLDERS.len() } else { 1 });
    let unwritable = folders.find_map(|part| {
        let folder = root.join(part);
        let error = folder.exists().then(|| cannot_write(&folder))??;
        Some(Closed { part: part.into(), error, is_needed: true })
    });
    let closed = unwritable.or_else(|| is_store.then(|| closed::first(root, closed::A_FEW))?)?;
    let is_list = has_bucket && closed.part == Path::new(owed::NAME);
    Some(Closed { is_needed: closed.is_needed || is_list, ..closed })
}

/// Whether the disk has what the store may grow to, and what is to stay free. A part of the file system is what the
/// store may have at most, not what it wants.
pub(super) fn look_at_room(store: &Store, found: &mut Findings) {
    let there = store.path.ancestors().find(|path| path.exists()).unwrap_or(&store.path);
    let Ok(disk) = rustix::fs::statvfs(there).map_err(drop) else { return };
    let capacity = disk.f_blocks.saturating_mul(disk.f_frsize);
    if capacity == 0 {
        return;
    }
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let min_free = store.min_free.of(capacity);
    let path = store.path.display();
    if free < min_free {
        return found.warn(format!(
            "store.min_free: {} is to stay free where {path} is, and only {} is: nothing new is kept until there is more",
            ByteSize::b(min_free).display().iec(),
            ByteSize::b(free).display().iec()
        ));
    }
    let Limit::Bytes(max_size) = store.max_size else { return };
    let room = (free - min_free).saturating_add(size_of_blobs(&store.path));
    if room < max_size {
        found.warn(format!(
            "store.max_size: {path} may grow to {}, and the disk has room for {}: when that is taken, images leave \
             the store earlier than max_size says",
            ByteSize::b(max_size).display().iec(),
            ByteSize::b(room).display().iec()
        ));
    }
}

/// How much of the disk the blobs take, as far as they can be looked at.
fn size_of_blobs(store: &Path) -> u64 {
    let folders = ["blobs/sha256", "blobs/sha512"].into_iter().filter_map(|part| store.join(part).read_dir().ok());
    let sizes = folders.flatten().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.blocks().saturating_mul(512)));
    sizes.sum()
}

/// What stands where the store wants a folder or a file of its own. Links to the folders of blobs are not followed.
fn in_the_way(store: &Store) -> Option<InTheWay> {
    let at = |part: &str| store.path.join(part);
    let folders = ["blobs", "ingest", "repositories"].into_iter().find_map(|part| InTheWay::of_folder(&at(part)));
    let own = || ["blobs/sha256", "blobs/sha512"].into_iter().find_map(|part| InTheWay::of_own_folder(&at(part)));
    folders.or_else(own).or_else(|| InTheWay::of_file(&at("lock")))
}

/// Why this user cannot make files in a folder. A file without a name is made, where the file system has such.
pub(super) fn cannot_write(folder: &Path) -> Option<io::Error> {
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::accessat(CWD, folder, all, AtFlags::EACCESS) {
        return Some(error.into());
    }
    match rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(_) => None,
        // Not every file system has them. One without any room is none for files.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
            let room = rustix::fs::statvfs(folder).map_or(1, |stat| stat.f_blocks);
            (room == 0).then(|| io::Error::other("that file system holds no files"))
        }
        Err(error) => Some(error.into()),
    }
}
