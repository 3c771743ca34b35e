//! What operators asked for, as small files: images to keep and tags to hold still.
//!
//! Below a repository lie `_pins/<tag or digest>` and `_frozen/<tag>`. A pin is its file's name; the
//! line inside is for people. The file of a frozen tag holds the digest. Truth: a listing is whole
//! or fails, because what it leaves out may be evicted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Files;
use super::plain::{folders, present, read_record, report_damage};
use crate::metadata::names::{self, FROZEN, PINS};
use crate::metadata::{FrozenTag, Location, Pin};
use crate::oci::{Digest, Reference, RegistryName, Repository, Tag};

impl Files {
    pub(in crate::metadata) fn pin(&self, pin: &Pin) -> io::Result<()> {
        let path = self.pin_path(pin);
        if path.exists() {
            return Ok(());
        }
        self.write_record(&path, &pin.to_string())
    }

    pub(in crate::metadata) fn unpin(&self, pin: &Pin) -> io::Result<bool> {
        let path = self.pin_path(pin);
        let removed = self.remove(&path)?;
        if removed {
            self.away(&path);
        }
        Ok(removed)
    }

    pub(in crate::metadata) fn pins(&self) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        self.for_each_repository(&mut |location, folder| {
            for name in names_in(&folder.join(PINS))? {
                let reference =
                    name.parse().map(Reference::Tag).ok().or_else(|| name.parse().map(Reference::Digest).ok());
                match reference {
                    Some(reference) => pins.push(Pin { location: location.clone(), reference }),
                    None => report_damage(&folder.join(PINS).join(name), "its name is neither a tag nor a digest"),
                }
            }
            Ok(())
        })?;
        Ok(pins)
    }

    pub(in crate::metadata) fn freeze(&self, frozen: &FrozenTag) -> io::Result<()> {
        self.write_record(&self.frozen_path(&frozen.location, &frozen.tag), &frozen.digest)
    }

    pub(in crate::metadata) fn unfreeze(&self, location: &Location, tag: &Tag) -> io::Result<bool> {
        let path = self.frozen_path(location, tag);
        let removed = self.remove(&path)?;
        if removed {
            self.away(&path);
        }
        Ok(removed)
    }

    pub(in crate::metadata) fn frozen(&self, location: &Location, tag: &Tag) -> io::Result<Option<Digest>> {
        read_record(&self.frozen_path(location, tag))
    }

    pub(in crate::metadata) fn frozen_tags(&self) -> io::Result<Vec<FrozenTag>> {
        let mut frozen = Vec::new();
        self.for_each_repository(&mut |location, folder| {
            for tag in names_in(&folder.join(FROZEN))?.into_iter().filter_map(|name| name.parse::<Tag>().ok()) {
                if let Some(digest) = self.frozen(location, &tag)? {
                    frozen.push(FrozenTag { location: location.clone(), tag, digest });
                }
            }
            Ok(())
        })?;
        Ok(frozen)
    }

    fn pin_path(&self, pin: &Pin) -> PathBuf {
        self.store.join(names::pin(pin))
    }

    fn frozen_path(&self, location: &Location, tag: &Tag) -> PathBuf {
        self.store.join(names::frozen(location, tag))
    }

    pub(in crate::metadata) fn repositories(&self) -> io::Result<Vec<Location>> {
        let mut repositories = Vec::new();
        self.for_each_repository(&mut |location, _| {
            repositories.push(location.clone());
            Ok(())
        })?;
        Ok(repositories)
    }

    /// Visits the folder of every repository, and ends at the first that cannot be read.
    pub(super) fn for_each_repository(
        &self,
        visit: &mut dyn FnMut(&Location, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(_) = present(fs::read_dir(&self.root))? else { return Ok(()) };
        for (name, path) in folders(&self.root) {
            if let Ok(upstream) = name.parse() {
                visit_inner(&upstream, "", &path, visit)?;
            }
        }
        Ok(())
    }
}

fn visit_inner(
    upstream: &RegistryName,
    outer: &str,
    path: &Path,
    visit: &mut dyn FnMut(&Location, &Path) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let inner = if outer.is_empty() { name } else { format!("{outer}/{name}") };
        // Also the bound of the recursion: a repository has at most 255 bytes.
        if let Ok(repository) = inner.parse::<Repository>() {
            let location = Location { upstream: upstream.clone(), repository };
            visit(&location, &entry.path())?;
            visit_inner(upstream, &inner, &entry.path(), visit)?;
        }
    }
    Ok(())
}

/// The names in a folder, which need not be there.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = present(fs::read_dir(folder))? else { return Ok(Vec::new()) };
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    entries.filter_map(|entry| entry.map(name).transpose()).collect()
}
