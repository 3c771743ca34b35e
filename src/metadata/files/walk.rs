//! A walk through all names, for an index that is made anew.

use std::path::Path;

use super::Files;
use super::plain::{folders, names_in};
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
    /// upstream again.
    pub(in crate::metadata) fn for_each_key(&self, visit: &mut dyn FnMut(Key)) {
        for (name, path) in folders(&self.root) {
            if let Ok(upstream) = name.parse() {
                visit_repositories(&upstream, "", &path, visit);
            }
        }
    }

    /// The same of the memberships of a repository.
    pub(in crate::metadata) fn for_each_member(&self, of: &Location, visit: &mut dyn FnMut(Key)) {
        visit_members(of, &self.store.join(names::repository(of)).join(LINKS), visit);
    }
}

/// Goes down from `path`, which is that of `repository`; the empty one is the upstream itself.
fn visit_repositories(upstream: &RegistryName, repository: &str, path: &Path, visit: &mut dyn FnMut(Key)) {
    for (name, path) in folders(path) {
        if name.starts_with('_') {
            if let Ok(repository) = repository.parse::<Repository>() {
                let location = Location { upstream: upstream.clone(), repository };
                match name.as_str() {
                    TAGS => visit_tags(&location, &path, visit),
                    LINKS => visit_members(&location, &path, visit),
                    _ => {}
                }
            }
            continue;
        }
        let inner = if repository.is_empty() { name } else { format!("{repository}/{name}") };
        // Also the bound of the recursion: a repository has at most 255 bytes.
        if inner.parse::<Repository>().is_ok() {
            visit_repositories(upstream, &inner, &path, visit);
        }
    }
}

fn visit_tags(location: &Location, path: &Path, visit: &mut dyn FnMut(Key)) {
    for (name, path) in folders(path) {
        let Ok(tag) = name.parse::<Tag>() else { continue };
        for accept in names_in(&path).filter_map(|name| name.parse().ok()) {
            visit(Key::Tag(TagKey { location: location.clone(), tag: tag.clone(), accept }));
        }
    }
}

fn visit_members(location: &Location, path: &Path, visit: &mut dyn FnMut(Key)) {
    for algorithm in Algorithm::ALL {
        for hex in names_in(&path.join(algorithm.as_str())) {
            if let Some(digest) = algorithm.digest(&hex) {
                visit(Key::Member(location.clone(), digest));
            }
        }
    }
}
