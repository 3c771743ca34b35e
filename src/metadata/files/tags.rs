//! Any tag that is remembered, for who wants to ask an upstream for something that it has. Needs no lock of the store.

use std::path::Path;

use super::plain::{folders, names_in};
use crate::metadata::names::{HISTORY, TAGS};
use crate::oci::{RegistryName, Repository, Tag};

/// A tag of an upstream that is remembered in the store at `store`. Blocks on the disk.
pub fn a_tag(store: &Path, upstream: &RegistryName) -> Option<(Repository, Tag)> {
    below("", &store.join("repositories").join(upstream.to_string()))
}

fn below(repository: &str, path: &Path) -> Option<(Repository, Tag)> {
    folders(path).find_map(|(name, path)| match name.strip_prefix('_') {
        Some(_) if name == TAGS => {
            let kept = folders(&path).find(|(_, tag)| names_in(tag).any(|name| name != HISTORY));
            Some((repository.parse().ok()?, kept?.0.parse().ok()?))
        }
        Some(_) => None,
        None => {
            let inner = if repository.is_empty() { name } else { format!("{repository}/{name}") };
            // Also the bound of the recursion.
            inner.parse::<Repository>().ok().and_then(|_| below(&inner, &path))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::metadata::files::Files;
    use crate::metadata::{Location, TagKey, TagRecord};
    use crate::oci::{AcceptSet, Algorithm, Descriptor, Digest, MediaType, Places};

    #[test]
    fn a_tag_is_found_of_the_upstream_that_is_meant() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path(), None);
        let upstream: RegistryName = "quay.io".parse().expect("a name");
        let other = "ghcr.io".parse().expect("a name");
        assert_eq!(a_tag(folder.path(), &upstream), None);
        let repository: Repository = "a/b/c".parse().expect("a name");
        let tag: Tag = "7".parse().expect("a tag");
        let location = Location { upstream: upstream.clone(), repository: repository.clone() };
        let key = TagKey { location: location.clone(), tag: tag.clone(), accept: AcceptSet::everything() };
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let descriptor = Descriptor { digest, size: 1, media_type: MediaType::ImageManifest };
        let record = TagRecord {
            descriptor,
            checked_at: Timestamp(1),
            since: Timestamp(1),
            observed_at: None,
            places: Places::default(),
        };
        files.put_tag(&key, &record).expect("written");
        assert_eq!(a_tag(folder.path(), &upstream), Some((repository, tag.clone())));
        assert_eq!(a_tag(folder.path(), &other), None);
        files.remove_tag(&location, &tag).expect("removed");
        assert_eq!(a_tag(folder.path(), &upstream), None, "a history is no tag");
    }
}
