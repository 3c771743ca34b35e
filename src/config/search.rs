//! Where the file is looked for.
//!
//! The one that is named counts, by a flag or else by `REGISTRY_MIRROR_CONFIG`, also if it is not there; else the
//! first that is there of the user's and the system's.
//!
//! A place that cannot be looked at counts as one where it is: who may read what would be decided without it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::environment::Environment;
use super::problem::Problem;

/// What all files are called.
const NAME: &str = "registry-mirror/mirror.toml";
/// Where those of the whole system are.
const SYSTEM: &str = "/etc";

/// Where the service that reads the system's file keeps its store, as its unit says.
const STORE_OF_SERVICE: &str = "/var/cache/registry-mirror";

/// A place where the file may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Whether there is something, as far as this user may look.
    pub exists: bool,
    /// Whether it is the one that counts.
    pub used: bool,
    /// Why it cannot be looked at, or not be read.
    pub trouble: Option<String>,
}

impl Place {
    fn at(path: PathBuf) -> Place {
        let (exists, trouble) = match look_at(&path) {
            Ok(exists) => (exists, may_read(&path).err()),
            Err(error) => (false, Some(error)),
        };
        let trouble = trouble.map(|error| told(&path, &error));
        Place { path, exists, used: false, trouble }
    }

    /// Whether a file is there, or may be.
    fn is_taken(&self) -> bool {
        self.exists || self.trouble.is_some()
    }
}

/// Whether something is there. Only what nobody has made is not.
fn look_at(path: &Path) -> io::Result<bool> {
    let Err(error) = path.metadata() else { return Ok(true) };
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return Err(error);
    }
    // The file, our folder, and the one in which all have theirs.
    let is_cut = |path: &&Path| path.is_symlink() && path.metadata().is_err();
    match path.ancestors().take(3).find(is_cut) {
        Some(link) => Err(io::Error::other(format!("{} is a link that leads to nothing", link.display()))),
        None => Ok(false),
    }
}

/// Whether this user may read what is there. It is not opened: it may be a pipe.
fn may_read(path: &Path) -> io::Result<()> {
    match rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// What the system says of it, with the folder that is closed.
fn told(path: &Path, error: &io::Error) -> String {
    let closed = |folder: &&Path| {
        let may = rustix::fs::accessat(CWD, *folder, Access::EXEC_OK, AtFlags::EACCESS);
        folder.is_dir() && may.is_err()
    };
    let closed = path.ancestors().skip(1).find(closed).filter(|_| error.kind() == io::ErrorKind::PermissionDenied);
    closed.map_or_else(|| error.to_string(), |folder| format!("{error}: {} is closed to this user", folder.display()))
}

/// What there is to say of a file that counts and cannot be read.
pub(super) fn unreadable(path: &Path, why: &str) -> Problem {
    let hint = "a configuration that may be there is not passed over: let this user read it, take away what is in \
                its place, or name another with -c FILE or $REGISTRY_MIRROR_CONFIG";
    Problem::at(path.display().to_string(), format!("cannot be read: {why}")).hint(Some(hint.to_owned()))
}

/// All places, in the order in which they are looked at. At most one is used.
pub(super) fn places(named: Option<&Path>, env: &Environment) -> Vec<Place> {
    let folders = env.config_folder().into_iter().chain([PathBuf::from(SYSTEM)]);
    let usual = folders.map(|folder| Place::at(folder.join(NAME)));
    let named = named.map(Path::to_owned).into_iter().chain(env.config_file()).map(Place::at);
    let (mut places, usual): (Vec<_>, Vec<_>) = (named.collect(), usual.collect());
    let first = if places.is_empty() { usual.iter().position(Place::is_taken) } else { Some(0) };
    places.extend(usual);
    if let Some(first) = first {
        places[first].used = true;
    }
    places
}

/// The store of the service whose file this is: of a command that reads the system's file it is the store that is
/// meant, where root types it or its owner. `None` for another file, for anybody else, and where no service has kept
/// one there yet. It may be a link that only root may follow.
pub(super) fn store_of_service(file: Option<&Path>) -> Option<PathBuf> {
    store_below(Path::new("/"), file?, rustix::process::geteuid().as_raw())
}

fn store_below(root: &Path, file: &Path, user: u32) -> Option<PathBuf> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let (store, of_system) = (below(STORE_OF_SERVICE), below(SYSTEM).join(NAME));
    let is_there = store.symlink_metadata().is_ok();
    let may = user == 0 || store.metadata().is_ok_and(|store| store.uid() == user);
    (is_there && may && is_same(file, &of_system)).then_some(store)
}

/// Whether both are one file, whatever it is called.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(named: Option<&Path>, variables: &[(&str, &Path)]) -> Option<PathBuf> {
        let text = |path: &Path| path.display().to_string();
        let env = Environment::new(variables.iter().map(|(name, path)| ((*name).to_owned(), text(path))));
        let places = places(named, &env);
        assert!(places.iter().filter(|place| place.used).count() <= 1);
        assert_eq!(places.last().map(|place| text(&place.path)).as_deref(), Some("/etc/registry-mirror/mirror.toml"));
        places.into_iter().find(|place| place.used && !place.path.starts_with("/etc")).map(|place| place.path)
    }

    #[test]
    fn what_is_named_counts_and_else_the_first_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |below: &str| {
            let path = folder.path().join(below).join(NAME);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, "").expect("written");
            path
        };
        let (home, xdg) = (folder.path().join("home"), folder.path().join("xdg"));
        assert_eq!(used(None, &[("HOME", &home), ("XDG_CONFIG_HOME", &xdg)]), None);
        let of_home = file("home/.config");
        assert_eq!(used(None, &[("HOME", &home)]), Some(of_home.clone()));
        assert_eq!(used(None, &[("HOME", &home), ("XDG_CONFIG_HOME", &xdg)]), None, "in place of it, not besides");
        let of_xdg = file("xdg");
        assert_eq!(used(None, &[("HOME", &home), ("XDG_CONFIG_HOME", &xdg)]), Some(of_xdg));
        let relative = Path::new("relative");
        assert_eq!(used(None, &[("HOME", &home), ("XDG_CONFIG_HOME", relative)]), Some(of_home), "as XDG says");
        let (one, other) = (Path::new("/nonexistent/1"), Path::new("/nonexistent/2"));
        assert_eq!(used(None, &[("HOME", &home), ("REGISTRY_MIRROR_CONFIG", one)]).as_deref(), Some(one));
        assert_eq!(used(Some(other), &[("HOME", &home), ("REGISTRY_MIRROR_CONFIG", one)]).as_deref(), Some(other));
    }

    #[test]
    fn a_place_that_cannot_be_looked_at_is_not_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (home, file) = (folder.path().join("home"), folder.path().join("home/.config").join(NAME));
        let link = |target: &str, link: &Path| {
            std::fs::create_dir_all(link.parent().expect("a folder")).expect("made");
            std::os::unix::fs::symlink(target, link).expect("a link");
        };
        let at_home = || used(None, &[("HOME", &home)]);
        let look = |path: &Path| Place::at(path.to_owned()).trouble;
        for (taken, target, why) in [
            (file.clone(), "mirror.toml", "Too many levels of symbolic links"),
            (file.clone(), "/nonexistent/mirror.toml", "mirror.toml is a link that leads to nothing"),
            (
                folder.path().join("home/.config/registry-mirror"),
                "away",
                "registry-mirror is a link that leads to nothing",
            ),
            (folder.path().join("home/.config"), "away", ".config is a link that leads to nothing"),
        ] {
            link(target, &taken);
            assert_eq!(at_home(), Some(file.clone()), "{why}");
            let said = look(&file).expect("said");
            assert!(said.contains(why), "{said}");
            std::fs::remove_dir_all(&home).expect("removed");
        }
        let long = folder.path().join("x".repeat(300)).join(NAME);
        assert!(look(&long).is_some_and(|why| why.contains("File name too long")));
        // Homes of those who have none.
        for home in ["/dev/null", "/nonexistent"] {
            assert_eq!(used(None, &[("HOME", Path::new(home))]), None, "{home}");
        }
    }

    #[test]
    fn a_store_of_the_service_is_one_that_is_there_and_meant_by_its_file_only() {
        let root = tempfile::tempdir().expect("a folder");
        let (file, store) = (root.path().join("etc").join(NAME), root.path().join("var/cache/registry-mirror"));
        assert_eq!(store_below(root.path(), &file, 0), None, "nobody has kept one there");
        std::fs::create_dir_all(root.path().join("var/cache")).expect("made");
        std::os::unix::fs::symlink("private/registry-mirror", &store).expect("a link, as of a user that is made up");
        assert_eq!(store_below(root.path(), &file, 0), Some(store.clone()));
        assert_eq!(store_below(root.path(), &file, 4711), None, "it is not for everybody");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(&file, "").expect("written");
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(store_below(root.path(), &link, 0), Some(store), "by another name");
        assert_eq!(store_below(root.path(), &root.path().join("home/.config").join(NAME), 0), None);
        assert_eq!(store_of_service(None), None);
    }
}
