//! Where the file is looked for.
//!
//! The one that is named counts, by a flag or else by `REGISTRY_MIRROR_CONFIG`, also if it is not there; else the
//! first that is there of the user's and the system's.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::environment::Environment;

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
    /// Whether there is something. What this user may not look for is not there.
    pub exists: bool,
    /// Whether it is the one that counts.
    pub used: bool,
}

/// All places, in the order in which they are looked at. At most one is used.
pub(super) fn places(named: Option<&Path>, env: &Environment) -> Vec<Place> {
    let place = |path: PathBuf| Place { exists: path.exists(), path, used: false };
    let usual = env.config_folder().into_iter().chain([PathBuf::from(SYSTEM)]).map(|folder| place(folder.join(NAME)));
    let named = named.map(Path::to_owned).into_iter().chain(env.config_file()).map(place);
    let (mut places, usual): (Vec<_>, Vec<_>) = (named.collect(), usual.collect());
    let first = if places.is_empty() { usual.iter().position(|place| place.exists) } else { Some(0) };
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
