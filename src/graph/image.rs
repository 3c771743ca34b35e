//! What an image consists of, and whether all of it can be had without a network. Pure.
//!
//! An image is a manifest with its configuration and layers, or an index with one manifest per
//! platform. The same function answers `images`, `inspect`, `ready` and the refusal to serve
//! half an image offline, so they never disagree. What is stored was looked up before.

use std::collections::{HashMap, HashSet};

use super::{MAX_DEPTH, MOST_BYTES, MOST_MANIFESTS, Unreadable};
use crate::documents::{self, Content, counted};
use crate::oci::{Descriptor, Digest, Platform};

/// A manifest and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest.
    pub manifest: Descriptor,
    /// What it leads to.
    pub parts: Parts,
    /// How many more parts it has that cannot be read.
    pub unreadable: usize,
    /// What it is for, as its configuration says; told of an image that is in no index.
    pub platform: Option<Platform>,
}

impl Image {
    /// With as much as its manifest says.
    pub const fn new(manifest: Descriptor, parts: Parts) -> Image {
        Image { manifest, parts, unreadable: 0, platform: None }
    }
}

/// What a manifest leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Not known: the manifest is missing.
    Unknown,
    /// Not followed: it lies deeper in indexes, or behind more manifests, than anybody builds.
    TooDeep,
    /// Not known: the manifest is damaged.
    Damaged,
    /// None: an index lists a blob, as the caches of BuildKit do.
    Nothing,
    /// Configuration and layers.
    Blobs(Vec<Descriptor>),
    /// The images of an index, each with its platform, where the index says so.
    Images(Vec<(Option<Platform>, Image)>),
}

/// Which images of an index are meant. An image that is not in an index is always meant, but may be made for
/// something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    /// All of them, with what is no image: signatures and attestations.
    All,
    /// Those for machines, whatever the machine.
    #[default]
    Machines,
    /// The first that suits this machine. An image that is in no index will do, whatever it is made for.
    Ours,
    /// The first that suits each of these.
    Only(Vec<Platform>),
}

impl Platforms {
    /// What is meant of the images of an index, by place; and the platforms it lacks. Blobs are for every
    /// platform; and so may be, where one is lacking, those of which it is not known for what they are.
    pub fn choose(&self, images: &[(Option<Platform>, Image)]) -> (Vec<usize>, Vec<Platform>) {
        let places = |wanted: &dyn Fn(&Option<Platform>, &Image) -> bool| -> Vec<usize> {
            let all = images.iter().enumerate();
            all.filter(|(_, (platform, image))| wanted(platform, image)).map(|(place, _)| place).collect()
        };
        let ours = [Platform::default()];
        let wanted = match self {
            Platforms::All => return (places(&|_, _| true), Vec::new()),
            Platforms::Machines => return (places(&|platform, _| !is_attestation(platform.as_ref())), Vec::new()),
            Platforms::Ours => &ours[..],
            Platforms::Only(wanted) => wanted,
        };
        let mut chosen = places(&|_, image| image.parts == Parts::Nothing);
        let mut lacking = Vec::new();
        for platform in wanted {
            let suits = |offered: &Option<Platform>| offered.as_ref().is_some_and(|offered| platform.takes(offered));
            match images.iter().position(|(offered, _)| suits(offered)) {
                Some(place) if chosen.contains(&place) => {}
                Some(place) => chosen.push(place),
                None => lacking.push(platform.clone()),
            }
        }
        let nameless = places(&|platform, image| platform.is_none() && image.parts != Parts::Nothing);
        if !lacking.is_empty() && (!nameless.is_empty() || is_cache(images)) {
            chosen.extend(nameless);
            lacking.clear();
        }
        (chosen, lacking)
    }
}

/// Whether an index lists blobs and no images.
fn is_cache(images: &[(Option<Platform>, Image)]) -> bool {
    !images.is_empty() && images.iter().all(|(_, image)| image.parts == Parts::Nothing)
}

/// Whether an entry of an index is for no machine: build tools mark attestations so.
pub fn is_attestation(platform: Option<&Platform>) -> bool {
    platform.is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown")
}

/// Parts that are stored neither whole nor for this repository, and why.
pub type Lacking = HashMap<Digest, Unreadable>;

/// How much of an image is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// All that belongs to it, in bytes, as far as that is known.
    pub size: u64,
    /// What is not there. Below a manifest that is not there more may be missing.
    pub missing: Vec<Descriptor>,
    /// The sum of its sizes.
    pub missing_bytes: u64,
    /// The sum of the sizes of what is not stored, and not missing because the bucket has it.
    pub behind_bytes: u64,
    /// Those of what is missing that are damaged.
    pub damaged: Vec<Digest>,
    /// Those of what is missing below which nothing is followed.
    pub too_deep: Vec<Digest>,
    /// How many parts there are besides of which it cannot be read what they are.
    pub unreadable: usize,
    /// Platforms that were asked for and that the image is not made for.
    pub lacking: Vec<Platform>,
}

impl Completeness {
    /// Whether nothing is missing.
    pub const fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.lacking.is_empty() && self.unreadable == 0
    }

    /// In a sentence, why it is not known what all belongs to it, where that is not for want of a manifest.
    pub fn unknown(&self) -> Option<String> {
        if !self.too_deep.is_empty() {
            let manifests = format!("{MOST_MANIFESTS} manifests or {} MiB of them", MOST_BYTES >> 20);
            let bounds = format!("nested more than {MAX_DEPTH} deep, or lead to more than {manifests}");
            return Some(format!("its indexes are {bounds}; what is below is not followed"));
        }
        let odd = counted(self.unreadable, "part");
        (self.unreadable > 0).then(|| format!("its manifests name {odd} of which digest or size cannot be read"))
    }

    /// In a clause, why it is not complete.
    pub fn why_incomplete(&self) -> String {
        let lacking: Vec<_> = self.lacking.iter().map(Platform::to_string).collect();
        let unmade = (!lacking.is_empty()).then(|| format!("it is not made for {}", lacking.join(", ")));
        self.unknown().or(unmade).unwrap_or_else(|| self.shortfall())
    }

    /// In a clause, how much is missing.
    pub fn shortfall(&self) -> String {
        let (parts, bytes) = (counted(self.missing.len(), "part"), counted(self.missing_bytes, "byte"));
        format!("{parts} with {bytes} {} missing", if self.missing.len() == 1 { "is" } else { "are" })
    }

    /// The same for people and scripts.
    pub fn document(&self) -> documents::Completeness {
        documents::Completeness {
            size_bytes: self.size,
            missing: self.missing.iter().map(Content::from).collect(),
            missing_bytes: self.missing_bytes,
            bucket_bytes: self.behind_bytes,
            damaged: self.damaged.clone(),
            lacking: self.lacking.iter().map(Platform::to_string).collect(),
        }
    }
}

/// How much of an image is there, for these platforms.
pub fn completeness(image: &Image, platforms: &Platforms, lacking: &Lacking) -> Completeness {
    let mut count = Completeness::default();
    let mut seen = HashSet::new();
    visit(image, platforms, &mut |descriptor, image| {
        if seen.insert(descriptor.digest) {
            count.size = count.size.saturating_add(descriptor.size);
            count.unreadable += image.map_or(0, |image| image.unreadable);
            if image.is_some_and(|image| image.parts == Parts::TooDeep) {
                count.too_deep.push(descriptor.digest);
            }
            let why = lack(descriptor, image, lacking);
            if why == Some(Unreadable::Behind) {
                count.behind_bytes = count.behind_bytes.saturating_add(descriptor.size);
            } else if let Some(why) = why {
                count.missing_bytes = count.missing_bytes.saturating_add(descriptor.size);
                count.missing.push(descriptor.clone());
                count.damaged.extend((why == Unreadable::Damaged).then_some(descriptor.digest));
            }
        }
    });
    count.lacking = match (&image.parts, platforms, &image.platform) {
        (Parts::Images(images), ..) => platforms.choose(images).1,
        (_, Platforms::Only(wanted), Some(is)) => wanted.iter().filter(|wanted| !wanted.takes(is)).cloned().collect(),
        _ => Vec::new(),
    };
    count
}

/// Why a part is not whole; `image` is what it is, where it is a manifest.
pub fn lack(part: &Descriptor, image: Option<&Image>, lacking: &Lacking) -> Option<Unreadable> {
    match image.map(|image| &image.parts) {
        Some(Parts::Damaged) => Some(Unreadable::Damaged),
        Some(Parts::Unknown | Parts::TooDeep) => Some(Unreadable::Missing),
        _ => lacking.get(&part.digest).copied(),
    }
}

/// Whether somebody can pull this without a network: the image whole, or an index of which at least
/// one image is whole. Which one will be wanted is not known yet. Of an index of blobs all are.
pub fn is_pullable(image: &Image, lacking: &Lacking) -> bool {
    match &image.parts {
        Parts::Images(images) if !is_cache(images) => images.iter().any(|(platform, image)| {
            let is_image = image.parts != Parts::Nothing && !is_attestation(platform.as_ref());
            is_image && completeness(image, &Platforms::All, lacking).is_complete()
        }),
        _ => completeness(image, &Platforms::All, lacking).is_complete(),
    }
}

/// Visits everything that is meant, manifests before what they lead to, and as what they are.
fn visit<'i>(image: &'i Image, platforms: &Platforms, visitor: &mut dyn FnMut(&'i Descriptor, Option<&'i Image>)) {
    visitor(&image.manifest, (image.parts != Parts::Nothing).then_some(image));
    match &image.parts {
        Parts::Unknown | Parts::TooDeep | Parts::Damaged | Parts::Nothing => {}
        Parts::Blobs(blobs) => blobs.iter().for_each(|blob| visitor(blob, None)),
        Parts::Images(images) => {
            for place in platforms.choose(images).0 {
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
    pick(image, platforms, |image| image.is_none())
}

/// The configurations that say what images are for of which no index does.
pub fn configurations<'i>(image: &'i Image, platforms: &Platforms) -> Vec<&'i Descriptor> {
    let configuration = |image: &'i Image| if let Parts::Blobs(blobs) = &image.parts { blobs.first() } else { None };
    match (&image.parts, platforms) {
        (_, Platforms::All | Platforms::Machines) => Vec::new(),
        (Parts::Images(images), _) => {
            let chosen = platforms.choose(images).0.into_iter().filter_map(|place| images.get(place));
            let nameless = chosen.filter(|(platform, _)| platform.is_none());
            nameless.filter_map(|(_, image)| configuration(image)).collect()
        }
        (_, Platforms::Ours) => Vec::new(),
        (_, Platforms::Only(_)) => configuration(image).into_iter().collect(),
    }
}

/// What the images of an index are for, or an image that is in none.
pub fn platforms(image: &Image) -> impl Iterator<Item = &Platform> {
    let images = if let Parts::Images(images) = &image.parts { &images[..] } else { &[] };
    images.iter().filter_map(|(platform, _)| platform.as_ref()).chain(&image.platform)
}

fn pick<'i>(image: &'i Image, platforms: &Platforms, wanted: fn(Option<&Image>) -> bool) -> Vec<&'i Descriptor> {
    let (mut picked, mut seen) = (Vec::new(), HashSet::new());
    visit(image, platforms, &mut |descriptor, image| {
        if wanted(image) && seen.insert(descriptor.digest) {
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
        Image::new(content(name, 1), Parts::Blobs(blobs))
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
        Image::new(content("index", 1), Parts::Images(images))
    }

    fn without(missing: &[&str]) -> Lacking {
        missing.iter().map(|name| (content(name, 0).digest, Unreadable::Missing)).collect()
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
            let found = completeness(&Image { parts, ..image("x", &[]) }, &Platforms::All, &without(&[]));
            assert_eq!((found.missing, found.damaged), (vec![content("x", 1)], damaged));
        }
    }

    #[test]
    fn an_index_is_pullable_when_one_of_its_images_is_whole() {
        assert!(is_pullable(&index(), &without(&["b", "c"])));
        assert!(!is_pullable(&index(), &without(&["a", "b"])), "attestations are nothing to run");
        assert!(!is_pullable(&image("x", &[("a", 1)]), &without(&["a"])));
    }

    #[test]
    fn an_image_in_no_index_is_made_for_what_its_configuration_says() {
        let arm = Image { platform: Some(platform("linux/arm64")), ..image("x", &[("a", 1)]) };
        let lacking = |image: &Image, platforms| completeness(image, &platforms, &without(&[])).lacking;
        let wanted = ["linux/amd64", "linux/arm64", "linux/s390x"].map(platform);
        assert_eq!(lacking(&arm, Platforms::Only(wanted.to_vec())), [wanted[0].clone(), wanted[2].clone()]);
        assert_eq!(lacking(&image("x", &[("a", 1)]), Platforms::Only(wanted.to_vec())), [], "nobody knows");
        for platforms in [Platforms::All, Platforms::Machines, Platforms::Ours] {
            assert_eq!(lacking(&arm, platforms), [], "whoever takes what there is gets it");
        }
    }

    #[test]
    fn who_does_not_say_for_what_he_is_may_be_what_is_wanted() {
        let only = Platforms::Only(vec![platform("linux/amd64")]);
        let nameless = |name: &str, layer: &'static str| (None, image(name, &[("config", 1), (layer, 10)]));
        let of = |images| Image::new(content("index", 1), Parts::Images(images));
        let unnamed = of(vec![nameless("one", "a"), nameless("other", "b")]);
        assert_eq!(completeness(&unnamed, &only, &without(&["b"])).missing, [content("b", 10)]);
        assert_eq!(configurations(&unnamed, &only), [&content("config", 1), &content("config", 1)]);
        let named = of(vec![nameless("one", "a"), (Some(platform("linux/amd64")), image("amd", &[("b", 10)]))]);
        assert!(completeness(&named, &only, &without(&["a"])).is_complete(), "it is named elsewhere");
        let arm = of(vec![(Some(platform("linux/arm64")), image("arm", &[("b", 10)]))]);
        assert_eq!(completeness(&arm, &only, &without(&[])).lacking.len(), 1);
    }

    #[test]
    fn blobs_of_an_index_are_for_every_platform() {
        let leaf = |name| (None, Image::new(content(name, 5), Parts::Nothing));
        let cache = Image::new(content("cache", 1), Parts::Images(vec![leaf("a"), leaf("b")]));
        for platforms in [Platforms::All, Platforms::Machines, Platforms::Only(vec![platform("linux/amd64")])] {
            assert_eq!(blobs(&cache, &platforms).len(), 2, "{platforms:?}");
            assert_eq!(completeness(&cache, &platforms, &without(&["b"])).missing, [content("b", 5)], "{platforms:?}");
        }
        assert!(is_pullable(&cache, &without(&[])) && !is_pullable(&cache, &without(&["b"])));
    }

    #[test]
    fn what_nobody_can_read_is_never_complete() {
        let odd = Image { unreadable: 1, ..image("x", &[("a", 1)]) };
        assert!(!completeness(&odd, &Platforms::All, &without(&[])).is_complete());
        let deep = Image { parts: Parts::TooDeep, ..image("x", &[]) };
        let found = completeness(&deep, &Platforms::All, &without(&[]));
        assert_eq!((found.too_deep.len(), found.missing.len()), (1, 1));
    }
}
