//! Points tags at what has arrived: memberships first, a tag only when its image is wholly there.

use std::collections::HashSet;

use tokio::runtime::Handle;

use super::ImportError;
use super::reading::Taken;
use crate::bundle::Stores;
use crate::bundle::format::{DescribedImage, Pointer};
use crate::bundle::gathered::{Gathered, Scope};
use crate::documents::{Fate, Imported, ImportedImage};
use crate::graph::Graph;
use crate::metadata::{Location, Membership, Proof, TagKey, TagRecord};
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, Reference};

/// Makes the images of a bundle available, as far as they are there. `name` is for the only image of
/// a layout that has no name for it.
pub(super) fn arrive(
    stores: &Stores,
    runtime: &Handle,
    name: Option<&ImageName>,
    taken: Taken,
) -> Result<Imported, ImportError> {
    let Taken { index, description, blobs, report } = taken;
    let _entered = runtime.enter();
    let mut arrivals = Arrivals { stores, graph: stores.graph(), report };
    let left_out = description.iter().flat_map(|description| &description.left_out);
    let scope: HashSet<Digest> = blobs.into_iter().chain(left_out.map(|content| content.digest)).collect();
    let described = description.map(|description| description.images).unwrap_or_default();
    for image in described.iter().cloned().map(Arrival::from) {
        arrivals.arrive(image, &scope)?;
    }
    let single = index.manifests.len() == 1;
    for root in &index.manifests {
        let Some(manifest) = root.manifest() else { continue };
        let named = root.name().or_else(|| name.cloned().filter(|_| single));
        let told = |image: &DescribedImage| Some(image.name()) == named;
        if !described.iter().any(told) {
            arrivals.arrive(Arrival { name: named, manifest, pointers: Vec::new() }, &scope)?;
        }
    }
    stores.metadata.flush()?;
    Ok(arrivals.report)
}

struct Arrivals<'a> {
    stores: &'a Stores,
    graph: Graph,
    report: Imported,
}

impl Arrivals<'_> {
    /// Makes an image available under its name, if it is all there.
    fn arrive(&mut self, arrival: Arrival, scope: &HashSet<Digest>) -> Result<(), ImportError> {
        let scope = Scope { manifests: Some(scope), ..Scope::default() };
        let roots = std::iter::once(&arrival.manifest).chain(arrival.pointers.iter().map(|pointer| &pointer.manifest));
        let mut image = Gathered::default();
        let mut walked_already = HashSet::new();
        for root in roots.filter(|root| walked_already.insert(root.digest)) {
            let walked = Gathered::of(&self.graph, root, &scope);
            image.contents.extend(walked.contents);
            image.missing.extend(walked.missing);
            image.variants.extend(walked.variants);
        }
        let complete = image.usable() && image.missing.is_empty();
        let fate = match &arrival.name {
            _ if !complete => Fate::Incomplete,
            // Signatures and the like belong to other images, by digest.
            None => match self.adopt(&image)? {
                true => return Ok(()),
                false => Fate::Nameless,
            },
            Some(name) => self.point(name, &arrival, &image.contents)?,
        };
        let digest = arrival.manifest.digest;
        self.report.images.push(ImportedImage {
            image: arrival.name.map_or_else(|| digest.to_string(), |name| name.to_string()),
            digest,
            fate,
            missing: image.missing,
        });
        Ok(())
    }

    /// Makes a referrer part of every repository that its subject came into. Whether there is one.
    fn adopt(&self, image: &Gathered) -> Result<bool, ImportError> {
        let contents = &image.contents;
        let manifests = image.variants.iter().filter_map(|variant| self.graph.manifest(None, &variant.manifest).ok());
        let subjects: HashSet<Digest> = manifests.filter_map(|manifest| manifest.subject()).collect();
        let mut adopted = false;
        for image in self.report.images.iter().filter(|image| matches!(image.fate, Fate::Ready | Fate::KeptNewer)) {
            let Ok(name) = image.image.parse::<ImageName>() else { continue };
            let location = Location { upstream: name.registry, repository: name.repository };
            for subject in &subjects {
                if self.stores.metadata.member(&location, subject)?.is_some() {
                    self.enrol(&location, contents)?;
                    adopted = true;
                }
            }
        }
        Ok(adopted)
    }

    fn enrol(&self, location: &Location, contents: &[Descriptor]) -> Result<(), ImportError> {
        for content in contents {
            let known = self.stores.metadata.member(location, &content.digest)?;
            let descriptor = known.map_or_else(|| content.clone(), |known| known.descriptor);
            let places = self.stores.places.of(&location.upstream).into();
            let membership = Membership { descriptor, proof: Proof::Import, anonymous: false, places };
            self.stores.metadata.put_member(location, &membership)?;
        }
        Ok(())
    }

    /// Records memberships, then moves the tag, unless upstream said something else more recently.
    fn point(&self, name: &ImageName, arrival: &Arrival, contents: &[Descriptor]) -> Result<Fate, ImportError> {
        let location = Location { upstream: name.registry.clone(), repository: name.repository.clone() };
        self.enrol(&location, contents)?;
        let Reference::Tag(tag) = &name.reference else { return Ok(Fate::Ready) };
        let now = self.stores.clock.now();
        let mut pointers = arrival.pointers.clone();
        let checked_at = pointers.iter().map(|pointer| pointer.checked_at).max().unwrap_or(now);
        if !pointers.iter().any(|pointer| pointer.accept == AcceptSet::everything()) {
            let since = pointers.iter().map(|pointer| pointer.since).min().unwrap_or(now);
            let accept = AcceptSet::everything();
            pointers.push(Pointer { accept, manifest: arrival.manifest.clone(), checked_at, since });
        }
        let mut fate = Fate::Ready;
        for Pointer { accept, manifest, checked_at, since } in pointers {
            let key = TagKey { location: location.clone(), tag: tag.clone(), accept };
            // Nobody's clock but ours decides how fresh a tag is.
            let (checked_at, since) = (checked_at.min(now), since.min(checked_at).min(now));
            let newer =
                |before: &TagRecord| before.checked_at > checked_at && before.descriptor.digest != manifest.digest;
            if self.stores.metadata.tag(&key)?.as_ref().is_some_and(newer) {
                fate = Fate::KeptNewer;
                continue;
            }
            let places = self.stores.places.of(&location.upstream).into();
            let record = TagRecord { descriptor: manifest, checked_at, since, observed_at: None, places };
            self.stores.metadata.put_tag(&key, &record)?;
        }
        Ok(fate)
    }
}

/// An image that a bundle claims to bring.
struct Arrival {
    name: Option<ImageName>,
    manifest: Descriptor,
    pointers: Vec<Pointer>,
}

impl From<DescribedImage> for Arrival {
    fn from(image: DescribedImage) -> Arrival {
        Arrival { name: Some(image.name()), manifest: image.manifest, pointers: image.pointers }
    }
}
