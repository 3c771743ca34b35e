//! What no name leads to any more: found from the roots, deleted only when asked to.
//!
//! Roots are tags, pins and frozen tags; what they lead to stays, and what refers to something that
//! stays, such as a signature, stays too. Images that are pulled by digest have no name: what was used
//! lately stays, unless it was forgotten in every repository. What a manifest leads to is not known
//! while it cannot be read, so everything in its repositories stays until it was fetched again.
//! Eviction, which makes room, is another matter.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::documents::Garbage;
use crate::metadata::{BlobRecord, TagKey};
use crate::mirror::images::catalog::CatalogError;
use crate::mirror::{Location, Mirror, Shared};
use crate::oci::manifest::{MAX_MANIFEST_SIZE, is_image, is_index};
use crate::oci::{Descriptor, Digest, Manifest, Reference};

/// What was used more recently is pulled by digest, or is being pulled just now.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// What manifests lead to.
#[derive(Debug, Default)]
struct Links {
    children: HashMap<Digest, Vec<Digest>>,
    /// From what is referred to, to the manifests that refer to it.
    referrers: HashMap<Digest, Vec<Digest>>,
    /// Manifests that are missing or damaged, and where they belong.
    unreadable: HashMap<Digest, Vec<Location>>,
    /// What is in those repositories.
    neighbours: HashMap<Location, Vec<Digest>>,
}

impl Mirror {
    /// Deletes what no name leads to, or with `dry_run` only says what that is.
    ///
    /// # Errors
    /// [`CatalogError::Metadata`] when it is not known what must stay; nothing is deleted then.
    pub async fn collect_garbage(&self, dry_run: bool) -> Result<Garbage, CatalogError> {
        let blobs = self.0.metadata.blobs()?;
        let members = self.0.metadata.members()?;
        let links = self.links(&members).await;
        let mut kept = reachable(self.roots()?, &links);
        let unreadable = links.unreadable.keys().filter(|manifest| kept.contains(manifest));
        let unreadable = unreadable
            .inspect(|manifest| tracing::warn!(%manifest, "cannot be read; what is in its repositories stays"))
            .count() as u64;
        kept.extend(self.0.holds.all());
        let members: HashSet<Digest> = members.into_iter().map(|(_, descriptor)| descriptor.digest).collect();
        let mut garbage = Garbage { dry_run, unreadable, ..Garbage::default() };
        for (digest, record) in unused(&blobs, &kept, &members, self.0.clock.now()) {
            if !dry_run && !self.delete(&digest).await {
                garbage.failed += 1;
                continue;
            }
            garbage.blobs += 1;
            garbage.size_bytes += record.size;
            garbage.digests.push(digest);
        }
        let Garbage { blobs, size_bytes: bytes, failed, .. } = garbage;
        tracing::info!(dry_run, blobs, bytes, failed, "looked for what no name leads to");
        Ok(garbage)
    }

    /// Whether it is gone. What somebody holds stays.
    async fn delete(&self, digest: &Digest) -> bool {
        let _nobody_takes_hold = self.0.room.one_at_a_time().await;
        if self.0.holds.has(digest) {
            return false;
        }
        if let Err(error) = self.0.blobs.delete(digest).await {
            tracing::warn!(%digest, %error, "could not be deleted");
            return false;
        }
        if let Err(error) = self.0.metadata.remove_blob(digest) {
            tracing::warn!(%digest, %error, "deleted, but still in the index");
        }
        true
    }

    /// Where everything that is to stay begins.
    fn roots(&self) -> Result<Vec<Digest>, CatalogError> {
        let metadata = &self.0.metadata;
        let mut roots: Vec<Digest> =
            metadata.tags()?.into_iter().map(|(TagKey { .. }, record)| record.descriptor.digest).collect();
        roots.extend(metadata.frozen_tags()?.into_iter().map(|frozen| frozen.digest));
        roots.extend(metadata.pins()?.into_iter().filter_map(|pin| match pin.reference {
            Reference::Digest(digest) => Some(digest),
            // What it points at is among the tags.
            Reference::Tag(_) => None,
        }));
        Ok(roots)
    }

    async fn links(&self, members: &[(Location, Descriptor)]) -> Links {
        let mut links = Links::default();
        for (_, descriptor) in members {
            let digest = descriptor.digest;
            let manifest = is_index(&descriptor.media_type) || is_image(&descriptor.media_type);
            if !manifest || links.children.contains_key(&digest) || links.unreadable.contains_key(&digest) {
                continue;
            }
            let Some(manifest) = self.0.sound_manifest(descriptor).await else {
                links.unreadable.insert(digest, Vec::new());
                continue;
            };
            let children = manifest.children();
            let parts = children.manifests.into_iter().chain(children.blobs).map(|part| part.digest);
            links.children.insert(digest, parts.collect());
            if let Some(subject) = manifest.subject() {
                links.referrers.entry(subject).or_default().push(digest);
            }
        }
        for (location, descriptor) in members {
            if let Some(locations) = links.unreadable.get_mut(&descriptor.digest) {
                locations.push(location.clone());
                links.neighbours.entry(location.clone()).or_default();
            }
        }
        for (location, descriptor) in members {
            if let Some(neighbours) = links.neighbours.get_mut(location) {
                neighbours.push(descriptor.digest);
            }
        }
        links
    }
}

impl Shared {
    /// A stored manifest, if it is whole.
    pub(crate) async fn sound_manifest(&self, descriptor: &Descriptor) -> Option<Manifest> {
        let content = self.blobs.open(&descriptor.digest).await.filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        let sound = Digest::of(descriptor.digest.algorithm(), &bytes) == descriptor.digest;
        sound.then(|| Manifest { descriptor: descriptor.clone(), bytes })
    }
}

/// Everything that the roots lead to, and what refers to it.
fn reachable(roots: Vec<Digest>, links: &Links) -> HashSet<Digest> {
    let mut kept = HashSet::new();
    let mut whole = HashSet::new();
    let mut next = roots;
    while let Some(digest) = next.pop() {
        if !kept.insert(digest) {
            continue;
        }
        let further = [links.children.get(&digest), links.referrers.get(&digest)];
        next.extend(further.into_iter().flatten().flatten());
        for location in links.unreadable.get(&digest).into_iter().flatten() {
            if whole.insert(location) {
                next.extend(links.neighbours.get(location).into_iter().flatten());
            }
        }
    }
    kept
}

/// What may go: what nothing leads to, once it is old, or at once if it is in no repository.
fn unused(
    blobs: &[(Digest, BlobRecord)],
    kept: &HashSet<Digest>,
    members: &HashSet<Digest>,
    now: Timestamp,
) -> Vec<(Digest, BlobRecord)> {
    let old = |at: Timestamp| at.age(now).is_some_and(|age| age >= GRACE);
    let may_go = |(digest, record): &&(Digest, BlobRecord)| {
        !kept.contains(digest) && (!members.contains(digest) || old(record.used_at) && old(record.stored_at))
    };
    blobs.iter().filter(may_go).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    #[test]
    fn what_a_root_leads_to_and_what_refers_to_it_stays() {
        let children = [("index", vec!["image"]), ("image", vec!["layer"]), ("signature", vec!["seal"])];
        let children = children.map(|(name, parts)| (digest(name), parts.into_iter().map(digest).collect()));
        let referrers = HashMap::from([(digest("image"), vec![digest("signature")])]);
        let links = Links { children: HashMap::from(children), referrers, ..Links::default() };
        let kept = reachable(vec![digest("index")], &links);
        let all = ["index", "image", "layer", "signature", "seal"].map(digest);
        assert_eq!(kept, HashSet::from(all));
    }

    #[test]
    fn what_an_unreadable_manifest_may_lead_to_stays() {
        let at = |repository: &str| Location {
            upstream: "docker.io".parse().expect("valid"),
            repository: repository.parse().expect("valid"),
        };
        let links = Links {
            unreadable: HashMap::from([
                (digest("broken"), vec![at("a/wanted")]),
                (digest("unwanted"), vec![at("a/other")]),
            ]),
            neighbours: HashMap::from([
                (at("a/wanted"), vec![digest("broken"), digest("layer")]),
                (at("a/other"), vec![digest("unwanted"), digest("chaff")]),
            ]),
            ..Links::default()
        };
        let kept = reachable(vec![digest("broken")], &links);
        assert_eq!(kept, HashSet::from([digest("broken"), digest("layer")]));
    }

    #[test]
    fn what_was_used_lately_stays_unless_it_is_in_no_repository() {
        let now = Timestamp(100 * 3_600_000);
        let blobs = [("kept", 1), ("old", 1), ("new", 99), ("in the future", 200), ("forgotten", 99)];
        let record = |used_at: u64| BlobRecord::new(1, Timestamp(used_at * 3_600_000));
        let blobs = blobs.map(|(name, used_at)| (digest(name), record(used_at)));
        let members = ["kept", "old", "new", "in the future"].map(digest).into();
        let gone = unused(&blobs, &HashSet::from([digest("kept")]), &members, now);
        assert_eq!(gone.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), ["old", "forgotten"].map(digest));
    }
}
