//! What upstream told lately to who asked for the head of a manifest. Bounded, and in memory: how long it is
//! believed is decided as for tags.

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::metadata::{Location, TagKey};
use crate::oci::{AcceptSet, Descriptor, Digest, Reference, Tag, Together};

/// A tag or digest, and the types that it was asked for with.
pub(crate) type HeadKey = (Location, Reference, AcceptSet);

/// A head, when it was told, and where.
pub(crate) type Told = (Descriptor, Timestamp, Together);

/// Heads, and when they were told.
pub(crate) struct Heads {
    told: Cache<HeadKey, Told>,
    /// The tags that were told to point at a manifest that is not stored.
    pointing: Cache<(Location, Digest), Vec<TagKey>>,
    /// What each tag was last told to point at, for whatever types, and when.
    latest: Cache<(Location, Tag), (Digest, Timestamp)>,
}

impl Default for Heads {
    fn default() -> Heads {
        Heads { told: Cache::new(Heads::MOST), pointing: Cache::new(Heads::MOST), latest: Cache::new(Heads::MOST) }
    }
}

impl Heads {
    const MOST: u64 = 10_000;
    /// So many tags of one manifest are remembered.
    const TAGS: usize = 16;

    /// How many entries there are.
    pub(crate) fn tables(&self) -> [(&'static str, u64); 3] {
        [
            ("heads", self.told.entry_count()),
            ("tags_told", self.pointing.entry_count()),
            ("tags_told_last", self.latest.entry_count()),
        ]
    }

    pub(crate) fn get(&self, key: &HeadKey) -> Option<Told> {
        self.told.get(key)
    }

    pub(crate) fn keep(&self, (location, reference, accept): HeadKey, told: Told) {
        let key = (location, reference, accept.key());
        if let (location, Reference::Tag(tag), accept) = &key {
            self.latest.entry((location.clone(), tag.clone())).and_upsert_with(|known| {
                let known = known.map(moka::Entry::into_value).filter(|(_, at)| *at > told.1);
                known.unwrap_or((told.0.digest, told.1))
            });
            let key = TagKey { location: location.clone(), tag: tag.clone(), accept: accept.clone() };
            let entry = self.pointing.entry((location.clone(), told.0.digest));
            entry.and_upsert_with(|known| {
                let mut tags = known.map_or_else(Vec::new, moka::Entry::into_value);
                tags.retain(|known| *known != key);
                tags.push(key);
                tags.drain(..tags.len().saturating_sub(Heads::TAGS));
                tags
            });
        }
        self.told.insert(key, told);
    }

    /// The tags that were told to point at this manifest, which is stored now, when and where: no longer remembered here.
    pub(crate) fn arrived(&self, location: &Location, digest: Digest) -> Vec<(TagKey, Timestamp, Together)> {
        let tags = self.pointing.remove(&(location.clone(), digest)).unwrap_or_default();
        // Another answer may have come meanwhile.
        let still = |key: TagKey| {
            let (_, told_at, at) = self.tag(&key).filter(|(descriptor, ..)| descriptor.digest == digest)?;
            Some((key, told_at, at))
        };
        tags.into_iter().filter_map(still).collect()
    }

    /// When a tag was last told to point at this manifest, which is not stored, and nothing else for the same types since.
    pub(crate) fn points(&self, location: &Location, tag: &Tag, digest: &Digest) -> Option<Timestamp> {
        let tags = self.pointing.get(&(location.clone(), *digest)).unwrap_or_default();
        let told = tags.iter().filter(|key| key.tag == *tag).filter_map(|key| self.tag(key));
        told.filter(|(descriptor, ..)| descriptor.digest == *digest).map(|(_, at, _)| at).max()
    }

    /// What a tag was last told to point at, for whatever types, and when.
    pub(crate) fn last(&self, location: &Location, tag: &Tag) -> Option<(Digest, Timestamp)> {
        self.latest.get(&(location.clone(), tag.clone()))
    }

    /// The types for which a tag was told to point at this manifest, which is not stored, and nothing else since.
    pub(crate) fn told_to(&self, location: &Location, tag: &Tag, digest: &Digest) -> Vec<AcceptSet> {
        let keys = self.pointing.get(&(location.clone(), *digest)).unwrap_or_default();
        let of_it = keys.into_iter().filter(|key| key.tag == *tag);
        let still = |key: &TagKey| self.tag(key).is_some_and(|(descriptor, ..)| descriptor.digest == *digest);
        of_it.filter(still).map(|key| key.accept).collect()
    }

    /// Whether anybody was told that a tag points elsewhere than at this manifest, then or later.
    pub(crate) fn told_other(&self, location: &Location, tag: &Tag, manifest: &Digest, then: Timestamp) -> bool {
        self.last(location, tag).is_some_and(|(digest, at)| digest != *manifest && at >= then)
    }

    /// What a tag was told to point at, when and where.
    pub(crate) fn tag(&self, key: &TagKey) -> Option<Told> {
        let TagKey { location, tag, accept } = key.clone();
        self.told.get(&(location, Reference::Tag(tag), accept))
    }

    /// Upstream says that it is not there for these types.
    pub(crate) fn forget(&self, TagKey { location, tag, accept }: &TagKey) {
        self.told.invalidate(&(location.clone(), Reference::Tag(tag.clone()), accept.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType, RegistryName, Tag};

    #[test]
    fn made_up_tags_do_not_fill_the_memory() {
        let heads = Heads::default();
        let (upstream, repository): (RegistryName, _) =
            ("docker.io".parse().expect("a name"), "a/b".parse().expect("a name"));
        let location = Location { upstream, repository };
        for n in 0..2 * Heads::MOST {
            let tag: Tag = format!("t{n}").parse().expect("a tag");
            let digest = Digest::of(Algorithm::Sha256, &n.to_le_bytes());
            let descriptor = Descriptor { digest, size: 1, media_type: MediaType::ImageManifest };
            let told = (descriptor, Timestamp(1), Together::default());
            heads.keep((location.clone(), Reference::Tag(tag), AcceptSet::default()), told);
        }
        heads.told.run_pending_tasks();
        heads.pointing.run_pending_tasks();
        heads.latest.run_pending_tasks();
        assert_eq!(heads.tables().map(|(_, entries)| entries), [Heads::MOST; 3]);
    }

    #[test]
    fn what_a_tag_was_last_told_to_point_at_is_known_whatever_types_were_asked_for() {
        let heads = Heads::default();
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "a/b".parse().expect("a name") };
        let (tag, other): (Tag, Tag) = ("1".parse().expect("a tag"), "2".parse().expect("a tag"));
        let [old, new] = [b"old", b"new"].map(|content| Digest::of(Algorithm::Sha256, content));
        let tell = |digest: Digest, accept: AcceptSet, at| {
            let descriptor = Descriptor { digest, size: 1, media_type: MediaType::ImageManifest };
            let key = (location.clone(), Reference::Tag(tag.clone()), accept);
            heads.keep(key, (descriptor, Timestamp(at), Together::default()));
        };
        tell(old, AcceptSet::default(), 5);
        assert!(!heads.told_other(&location, &tag, &old, Timestamp(5)));
        tell(new, AcceptSet::everything(), 7);
        assert!(heads.told_other(&location, &tag, &old, Timestamp(5)));
        assert!(!heads.told_other(&location, &tag, &new, Timestamp(5)), "it is what it was told");
        assert!(!heads.told_other(&location, &tag, &old, Timestamp(8)), "it was told before");
        assert!(!heads.told_other(&location, &other, &old, Timestamp(5)), "another tag");
        tell(old, AcceptSet::default(), 6);
        assert!(heads.told_other(&location, &tag, &old, Timestamp(5)), "what is older takes no place of what is newer");
    }
}
