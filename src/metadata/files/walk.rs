//! A walk through all names, for an index that is made anew.

use std::cell::Cell;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::Files;
use super::plain::{folders_among, present};
use crate::metadata::names::{self, LINKS, TAGS};
use crate::metadata::{Location, TagKey};
use crate::oci::{Algorithm, Digest, RegistryName, Repository, Tag};

/// The name of a record in the tree.
#[derive(Debug)]
pub(in crate::metadata) enum Key {
    /// Of a tag.
    Tag(TagKey),
    /// Of a membership.
    Member(Location, Digest),
}

impl Files {
    /// Visits the name of every record. What cannot be read on the way is left out: it is asked of
    /// upstream again. Returns whether nothing was.
    pub(in crate::metadata) fn for_each_key(&self, visit: &mut dyn FnMut(Key)) -> bool {
        let is_whole = Cell::new(true);
        let mut walk = Walk { visit, is_whole: &is_whole };
        for (name, path) in walk.folders(&self.root) {
            if let Ok(upstream) = name.parse() {
                walk.repositories(&upstream, "", &path);
            }
        }
        is_whole.get()
    }

    /// The same of the memberships of a repository.
    pub(in crate::metadata) fn for_each_member(&self, of: &Location, visit: &mut dyn FnMut(Key)) {
        let links = self.store.join(names::repository(of)).join(LINKS);
        Walk { visit, is_whole: &Cell::new(true) }.members(of, &links);
    }
}

struct Walk<'a> {
    visit: &'a mut dyn FnMut(Key),
    /// Whether all folders could be listed so far.
    is_whole: &'a Cell<bool>,
}

impl<'a> Walk<'a> {
    /// Goes down from `path`, which is that of `repository`; the empty one is the upstream itself.
    fn repositories(&mut self, upstream: &RegistryName, repository: &str, path: &Path) {
        for (name, path) in self.folders(path) {
            if name.starts_with('_') {
                if let Ok(repository) = repository.parse::<Repository>() {
                    let location = Location { upstream: upstream.clone(), repository };
                    match name.as_str() {
                        TAGS => self.tags(&location, &path),
                        LINKS => self.members(&location, &path),
                        _ => {}
                    }
                }
                continue;
            }
            let inner = if repository.is_empty() { name } else { format!("{repository}/{name}") };
            // Also the bound of the recursion: a repository has at most 255 bytes.
            if inner.parse::<Repository>().is_ok() {
                self.repositories(upstream, &inner, &path);
            }
        }
    }

    fn tags(&mut self, location: &Location, path: &Path) {
        for (name, path) in self.folders(path) {
            let Ok(tag) = name.parse::<Tag>() else { continue };
            for accept in self.names(&path).filter_map(|name| name.parse().ok()) {
                (self.visit)(Key::Tag(TagKey { location: location.clone(), tag: tag.clone(), accept }));
            }
        }
    }

    fn members(&mut self, location: &Location, path: &Path) {
        for algorithm in Algorithm::ALL {
            for hex in self.names(&path.join(algorithm.as_str())) {
                if let Some(digest) = algorithm.digest(&hex) {
                    (self.visit)(Key::Member(location.clone(), digest));
                }
            }
        }
    }

    fn folders(&self, path: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<'a> {
        folders_among(self.entries(path))
    }

    fn names(&self, path: &Path) -> impl Iterator<Item = String> + use<'a> {
        self.entries(path).filter_map(|entry| entry.file_name().into_string().ok())
    }

    fn entries(&self, path: &Path) -> impl Iterator<Item = DirEntry> + use<'a> {
        let is_whole = self.is_whole;
        let listed = present(fs::read_dir(path)).inspect_err(|_| is_whole.set(false));
        let entries = listed.ok().flatten().into_iter().flatten();
        entries.filter_map(|entry| entry.inspect_err(|_| is_whole.set(false)).ok())
    }
}
