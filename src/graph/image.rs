//! What an image consists of, and whether all of it can be had without a network. Pure.
//!
//! An image is a manifest with its configuration and layers, or an index with one manifest per
//! platform. The same function answers `images`, `inspect`, `ready` and the refusal to serve
//! half an image offline, so they never disagree. What is stored is asked through a look-up; what
//! cannot be read is not there.

use std::collections::HashSet;

use crate::documents::{self, Content};
use crate::oci::{Descriptor, Digest, Platform};

/// A manifest and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest.
    pub manifest: Descriptor,
    /// What it leads to.
    pub parts: Parts,
}

/// What a manifest leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Not known: the manifest is not stored, or too deep in indexes.
    Unknown,
    /// Not known: what is stored as the manifest is not what its digest says.
    Damaged,
    /// Configuration and layers.
    Blobs(Vec<Descriptor>),
    /// The images of an index, each with its platform, where the index says so.
    Images(Vec<(Option<Platform>, Image)>),
}

impl Parts {
    const fn are_unknown(&self) -> bool {
        matches!(self, Parts::Unknown | Parts::Damaged)
    }
}

/// Which images of an index are meant. An image that is not in an index is always meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    /// All of them, with what is no image: signatures and attestations.
    All,
    /// Those for machines, whatever the machine.
    #[default]
    Machines,
    /// The first that suits each of these.
    Only(Vec<Platform>),
}

impl Platforms {
    /// The places of what is meant, among the platforms of an index; and the platforms it lacks.
    pub fn choose(&self, offered: &[Option<Platform>]) -> (Vec<usize>, Vec<Platform>) {
        let wanted = match self {
            Platforms::All => return ((0..offered.len()).collect(), Vec::new()),
            Platforms::Machines => {
                let machines = offered.iter().enumerate().filter(|(_, platform)| !is_attestation(platform.as_ref()));
                return (machines.map(|(place, _)| place).collect(), Vec::new());
            }
            Platforms::Only(wanted) => wanted,
        };
        let (mut chosen, mut lacking) = (Vec::new(), Vec::new());
        for platform in wanted {
            match offered.iter().position(|offered| offered.as_ref().is_some_and(|offered| platform.takes(offered))) {
                Some(place) if chosen.contains(&place) => {}
                Some(place) => chosen.push(place),
                None => lacking.push(platform.clone()),
            }
        }
        (chosen, lacking)
    }
}

/// Whether an entry of an index is for no machine: build tools mark attestations so.
pub fn is_attestation(platform: Option<&Platform>) -> bool {
    platform.is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown")
}

/// How much of an image is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// All that belongs to it, in bytes, as far as that is known.
    pub size: u64,
    /// What is not there. Below a manifest that is not there more may be missing.
    pub missing: Vec<Descriptor>,
    /// The sum of its sizes.
    pub missing_bytes: u64,
    /// Those of them that are manifests of which other bytes are stored.
    pub damaged: Vec<Digest>,
    /// Platforms that were asked for and that the image is not made for.
    pub lacking: Vec<Platform>,
}

impl Completeness {
    /// Whether nothing is missing.
    pub const fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.lacking.is_empty()
    }

    /// The same for people and scripts.
    pub fn document(&self) -> documents::Completeness {
        documents::Completeness {
            size_bytes: self.size,
            missing: self.missing.iter().map(Content::from).collect(),
            missing_bytes: self.missing_bytes,
            damaged: self.damaged.clone(),
            lacking: self.lacking.iter().map(Platform::to_string).collect(),
        }
    }
}

/// How much of an image is there, for these platforms. `have` says whether content is stored.
pub fn completeness(image: &Image, platforms: &Platforms, have: &dyn Fn(&Descriptor) -> bool) -> Completeness {
    let mut count = Completeness::default();
    let mut seen = HashSet::new();
    visit(image, platforms, &mut |descriptor, parts| {
        if seen.insert(descriptor.digest) {
            count.size = count.size.saturating_add(descriptor.size);
            if parts == Some(&Parts::Damaged) {
                count.damaged.push(descriptor.digest);
            }
            if parts.is_some_and(Parts::are_unknown) || !have(descriptor) {
                count.missing_bytes = count.missing_bytes.saturating_add(descriptor.size);
                count.missing.push(descriptor.clone());
            }
        }
    });
    if let Parts::Images(images) = &image.parts {
        let offered: Vec<_> = images.iter().map(|(platform, _)| platform.clone()).collect();
        count.lacking = platforms.choose(&offered).1;
    }
    count
}

/// Whether somebody can pull this without a network: the image whole, or an index of which at least
/// one image is whole. Which one will be wanted is not known yet.
pub fn is_pullable(image: &Image, have: &dyn Fn(&Descriptor) -> bool) -> bool {
    match &image.parts {
        Parts::Images(images) => images.iter().any(|(platform, image)| {
            !is_attestation(platform.as_ref()) && completeness(image, &Platforms::All, have).is_complete()
        }),
        _ => completeness(image, &Platforms::All, have).is_complete(),
    }
}

/// Visits everything that is meant, manifests before what they lead to, and with that.
fn visit<'i>(image: &'i Image, platforms: &Platforms, visitor: &mut dyn FnMut(&'i Descriptor, Option<&'i Parts>)) {
    visitor(&image.manifest, Some(&image.parts));
    match &image.parts {
        Parts::Unknown | Parts::Damaged => {}
        Parts::Blobs(blobs) => blobs.iter().for_each(|blob| visitor(blob, None)),
        Parts::Images(images) => {
            let offered: Vec<_> = images.iter().map(|(platform, _)| platform.clone()).collect();
            for place in platforms.choose(&offered).0 {
                if let Some((_, image)) = images.get(place) {
                    visit(image, &Platforms::All, visitor);
                }
            }
        }
    }
}

/// Everything of an image that is meant, each once.
pub fn parts<'i>(image: &'i Image, platforms: &Platforms) -> Vec<&'i Descriptor> {
    pick(image, platforms, |_| true)
}

/// The configurations and layers that are meant, each once.
pub fn blobs<'i>(image: &'i Image, platforms: &Platforms) -> Vec<&'i Descriptor> {
    pick(image, platforms, |parts| parts.is_none())
}

/// The platforms of an index.
pub fn platforms(image: &Image) -> impl Iterator<Item = &Platform> {
    let images = if let Parts::Images(images) = &image.parts { &images[..] } else { &[] };
    images.iter().filter_map(|(platform, _)| platform.as_ref())
}

fn pick<'i>(image: &'i Image, platforms: &Platforms, wanted: fn(Option<&Parts>) -> bool) -> Vec<&'i Descriptor> {
    let (mut picked, mut seen) = (Vec::new(), HashSet::new());
    visit(image, platforms, &mut |descriptor, parts| {
        if wanted(parts) && seen.insert(descriptor.digest) {
            picked.push(descriptor);
        }
    });
    picked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType};

    fn content(name: &str, size: u64) -> Descriptor {
        Descriptor { digest: Digest::of(Algorithm::Sha256, name.as_bytes()), size, media_type: MediaType::ImageLayer }
    }

    fn image(name: &str, layers: &[(&str, u64)]) -> Image {
        let blobs = layers.iter().map(|(name, size)| content(name, *size)).collect();
        Image { manifest: content(name, 1), parts: Parts::Blobs(blobs) }
    }

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    fn index() -> Image {
        let images = vec![
            (Some(platform("linux/amd64")), image("amd", &[("base", 10), ("a", 100)])),
            (Some(platform("linux/arm64/v8")), image("arm", &[("base", 10), ("b", 1000)])),
            (Some(platform("unknown/unknown")), image("attestation", &[("c", 10_000)])),
        ];
        Image { manifest: content("index", 1), parts: Parts::Images(images) }
    }

    fn without(missing: &'static [&'static str]) -> impl Fn(&Descriptor) -> bool {
        move |descriptor| !missing.iter().any(|name| content(name, 0).digest == descriptor.digest)
    }

    #[test]
    fn an_image_is_complete_for_a_platform_when_all_that_it_needs_is_there() {
        let only = |text| Platforms::Only(vec![platform(text)]);
        for (platforms, missing, size, missing_bytes, lacking) in [
            (only("linux/amd64"), &["b", "c", "arm"][..], 112, 0, 0),
            (only("linux/arm64"), &["a"], 1012, 0, 0),
            (only("linux/amd64"), &["a"], 112, 100, 0),
            (only("linux/amd64"), &["base", "amd"], 112, 11, 0),
            (only("linux/s390x"), &[], 1, 0, 1),
            (Platforms::Only(vec![platform("linux/amd64"), platform("linux/arm64")]), &["b"], 1113, 1000, 0),
            (Platforms::Machines, &["c"], 1113, 0, 0),
            (Platforms::All, &["c"], 11_114, 10_000, 0),
        ] {
            let found = completeness(&index(), &platforms, &without(missing));
            assert_eq!(
                (found.size, found.missing_bytes, found.lacking.len()),
                (size, missing_bytes, lacking),
                "{platforms:?}"
            );
            assert_eq!(found.is_complete(), missing_bytes == 0 && lacking == 0);
        }
    }

    #[test]
    fn a_manifest_that_is_not_stored_is_missing_whatever_the_look_up_says() {
        for (parts, damaged) in [(Parts::Unknown, vec![]), (Parts::Damaged, vec![content("x", 1).digest])] {
            let found = completeness(&Image { parts, ..image("x", &[]) }, &Platforms::All, &|_| true);
            assert_eq!((found.missing, found.damaged), (vec![content("x", 1)], damaged));
        }
    }

    #[test]
    fn an_index_is_pullable_when_one_of_its_images_is_whole() {
        assert!(is_pullable(&index(), &without(&["b", "c"])));
        assert!(!is_pullable(&index(), &without(&["a", "b"])), "attestations are nothing to run");
        assert!(!is_pullable(&image("x", &[("a", 1)]), &without(&["a"])));
    }
}
