//! What would be in a bundle: found out completely before the first byte is written, so that whoever
//! asked hears at once what is missing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use tokio::runtime::Handle;

use super::format::{self, DescribedImage, Description, DockerImage, Index, Listed, Pointer, Root};
use super::gathered::{Gathered, Scope, Variant};
use super::{ExportError, Stores};
use crate::clock::Timestamp;
use crate::documents::{self, Code, Exported, Receipt, Unavailable, orders};
use crate::graph::Graph;
use crate::metadata::{Location, TagRecord};
use crate::oci::manifest::{is_index, is_manifest};
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, Platform, Reference, Tag};

/// Configurations of images that an engine can run; what else is called a manifest may be anything.
const RUNNABLE: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What is to be in a bundle.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These images; all there are if empty.
    pub images: Vec<ImageName>,
    /// Of them only those that were used so recently.
    pub used_since: Option<Duration>,
    /// Of them only these platforms; those that are there if empty.
    pub platforms: Vec<Platform>,
    /// What the other side has.
    pub since: Receipt,
}

impl TryFrom<&orders::Export> for Selection {
    type Error = documents::Error;

    fn try_from(order: &orders::Export) -> Result<Selection, documents::Error> {
        let bad = |message: String| documents::Error::new(Code::Usage, message);
        if order.images.is_empty() && !order.all && order.used_since.is_none() {
            return Err(bad("name images, or say all or used_since".to_owned()));
        }
        if order.all && !order.images.is_empty() {
            return Err(bad("all is all: name no images".to_owned()));
        }
        let images = order.images.iter().map(|typed| typed.parse().map_err(|error| bad(format!("{typed:?}: {error}"))));
        let platforms = order.platforms.iter();
        let platforms = platforms.map(|typed| typed.parse().map_err(|error| bad(format!("{typed:?}: {error}"))));
        Ok(Selection {
            images: images.collect::<Result<_, _>>()?,
            used_since: order.used_since.map(Duration::from_secs),
            platforms: platforms.collect::<Result<_, _>>()?,
            since: order.since.clone(),
        })
    }
}

/// A bundle to be written.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) description: Description,
    pub(super) index: Index,
    pub(super) docker: Vec<DockerImage>,
    unavailable: Vec<Unavailable>,
    /// What the other side has once it took the bundle in.
    receipt: Receipt,
}

/// A tag, or a digest, and what it points at for whom.
type Selected = BTreeMap<(Location, Named), Vec<Pointer>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Tag(Tag),
    Digest(Digest),
}

impl Plan {
    /// Finds out what the bundle would be. Blocks; `runtime` drives the stores.
    ///
    /// # Errors
    /// [`ExportError::Metadata`].
    pub fn make(stores: &Stores, selection: &Selection, runtime: &Handle) -> Result<Plan, ExportError> {
        let _entered = runtime.enter();
        let (graph, plan) = (stores.graph(), Plan::empty(stores));
        let mut planner = Planner { stores, graph, selection, plan, contents: Vec::new() };
        let selected = planner.select()?;
        let locations: BTreeSet<Location> = selected.keys().map(|(location, _)| location.clone()).collect();
        for ((location, named), pointers) in selected {
            planner.add(&location, &named, pointers);
        }
        planner.add_referrers(&locations)?;
        Ok(planner.finish())
    }

    fn empty(stores: &Stores) -> Plan {
        Plan {
            description: Description {
                version: format::VERSION,
                made_by: concat!("registry-mirror/", env!("CARGO_PKG_VERSION")).to_owned(),
                made_at: stores.clock.now(),
                images: Vec::new(),
                contents: Vec::new(),
                left_out: Vec::new(),
            },
            index: Index::new(Vec::new()),
            docker: Vec::new(),
            unavailable: Vec::new(),
            receipt: Receipt::default(),
        }
    }

    /// Whether there would be nothing in it.
    pub fn is_empty(&self) -> bool {
        self.description.images.is_empty()
    }

    /// What there will be, in numbers.
    pub fn summary(&self) -> Exported {
        let bytes = |list: &[Listed]| list.iter().map(|listed| listed.size).sum();
        let Description { images, contents, left_out, .. } = &self.description;
        Exported {
            images: images.iter().map(|image| image.name().to_string()).collect(),
            unavailable: self.unavailable.clone(),
            blobs: contents.len(),
            size_bytes: bytes(contents),
            left_out: left_out.len(),
            left_out_bytes: bytes(left_out),
        }
    }

    /// What it would be, for whoever ordered it.
    pub fn document(&self) -> documents::Plan {
        documents::Plan { exported: self.summary(), receipt: self.receipt.clone() }
    }

    /// The blobs that will be in it.
    pub fn contents(&self) -> impl Iterator<Item = &Digest> {
        self.description.contents.iter().map(|content| &content.digest)
    }

    /// What the other side has once it took the bundle in.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

/// A plan in the making.
struct Planner<'a> {
    stores: &'a Stores,
    graph: Graph,
    selection: &'a Selection,
    plan: Plan,
    /// What belongs to the images, each once.
    contents: Vec<Descriptor>,
}

impl Planner<'_> {
    /// The images that are asked for, as far as anything is known of them.
    fn select(&mut self) -> Result<Selected, ExportError> {
        let mut tags: Selected = BTreeMap::new();
        for (key, record) in self.stores.metadata.tags()? {
            let pointer = pointer(key.accept, record);
            tags.entry((key.location, Named::Tag(key.tag))).or_default().push(pointer);
        }
        let mut selected = if self.selection.images.is_empty() { tags } else { self.named(&tags)? };
        for ((location, named), pointers) in &mut selected {
            self.thaw(location, named, pointers)?;
            // Best first: what most clients get, then what was confirmed last.
            pointers.sort_by_key(|p| {
                (!is_index(&p.manifest.media_type), std::cmp::Reverse(p.checked_at), p.accept.clone())
            });
        }
        if let Some(age) = self.selection.used_since {
            let uses: BTreeMap<Digest, Timestamp> =
                self.stores.metadata.blobs()?.into_iter().map(|(digest, record)| (digest, record.used_at)).collect();
            let now = self.stores.clock.now();
            let recent = |at: Timestamp| at.age(now).is_none_or(|since| since <= age);
            let used = |p: &Pointer| recent(p.checked_at) || uses.get(&p.manifest.digest).copied().is_some_and(recent);
            selected.retain(|_, pointers| pointers.iter().any(used));
        }
        Ok(selected)
    }

    fn named(&mut self, tags: &Selected) -> Result<Selected, ExportError> {
        let mut selected = Selected::new();
        for name in &self.selection.images {
            let location = Location { upstream: name.registry.clone(), repository: name.repository.clone() };
            let (named, pointers) = match &name.reference {
                Reference::Tag(tag) => {
                    let named = Named::Tag(tag.clone());
                    let pointers = tags.get(&(location.clone(), named.clone())).cloned();
                    (named, pointers.unwrap_or_default())
                }
                Reference::Digest(digest) => {
                    let member = self.stores.metadata.member(&location, digest)?;
                    (
                        Named::Digest(*digest),
                        member.map(|member| confirmed(member.descriptor, Timestamp(0))).into_iter().collect(),
                    )
                }
            };
            if pointers.is_empty() {
                let (image, missing, damaged) = (name.to_string(), Vec::new(), Vec::new());
                self.plan.unavailable.push(Unavailable { image, missing, damaged });
            } else {
                selected.insert((location, named), pointers);
            }
        }
        Ok(selected)
    }

    /// A frozen tag means what it was frozen to.
    fn thaw(&self, location: &Location, named: &Named, pointers: &mut Vec<Pointer>) -> Result<(), ExportError> {
        let Named::Tag(tag) = named else { return Ok(()) };
        let Some(digest) = self.stores.metadata.frozen(location, tag)? else { return Ok(()) };
        if let Some(manifest) = self.stores.metadata.member(location, &digest)? {
            let checked_at = pointers.iter().map(|pointer| pointer.checked_at).max().unwrap_or_default();
            *pointers = vec![confirmed(manifest.descriptor, checked_at)];
        }
        Ok(())
    }

    /// Adds an image with everything its pointers lead to; or notes what is missing.
    fn add(&mut self, location: &Location, named: &Named, pointers: Vec<Pointer>) {
        let scope = Scope { within: Some(location), platforms: &self.selection.platforms, manifests: None };
        let mut walked: Vec<(Digest, Gathered)> = Vec::new();
        for pointer in &pointers {
            if !walked.iter().any(|(digest, _)| *digest == pointer.manifest.digest) {
                walked.push((pointer.manifest.digest, Gathered::of(&self.graph, &pointer.manifest, &scope)));
            }
        }
        let usable: HashSet<Digest> =
            walked.iter().filter(|(_, image)| image.usable()).map(|(digest, _)| *digest).collect();
        let described = DescribedImage {
            upstream: location.upstream.clone(),
            repository: location.repository.clone(),
            tag: if let Named::Tag(tag) = named { Some(tag.clone()) } else { None },
            manifest: match pointers.iter().find(|pointer| usable.contains(&pointer.manifest.digest)) {
                Some(best) => best.manifest.clone(),
                None => return self.give_up(location, named, &walked),
            },
            platforms: Vec::new(),
            pointers: pointers.into_iter().filter(|pointer| usable.contains(&pointer.manifest.digest)).collect(),
        };
        for (digest, image) in walked.into_iter().filter(|(digest, _)| usable.contains(digest)) {
            self.take(&image.contents);
            if digest == described.manifest.digest {
                self.publish(described.clone(), &image.variants);
            }
        }
    }

    fn give_up(&mut self, location: &Location, named: &Named, walked: &[(Digest, Gathered)]) {
        let name = match named {
            Named::Tag(tag) => format!("{location}:{tag}"),
            Named::Digest(digest) => format!("{location}@{digest}"),
        };
        let first = walked.first().map(|(_, image)| (image.missing.clone(), image.damaged.clone()));
        let (missing, damaged) = first.unwrap_or_default();
        self.plan.unavailable.push(Unavailable { image: name, missing, damaged });
    }

    /// Names the image in every list that a reader may look at.
    fn publish(&mut self, mut described: DescribedImage, variants: &[Variant]) {
        let name = described.name();
        described.platforms = variants.iter().filter_map(|variant| variant.platform.clone()).collect();
        described.pointers.retain(|_| described.tag.is_some());
        self.plan.index.manifests.push(Root::new(&described.manifest, Some(&name)));
        self.plan.docker.extend(docker_image(&name, variants));
        self.plan.description.images.push(described);
    }

    fn take(&mut self, contents: &[Descriptor]) {
        let known: HashSet<Digest> = self.contents.iter().map(|held| held.digest).collect();
        self.contents.extend(contents.iter().filter(|new| !known.contains(&new.digest)).cloned());
    }

    /// Adds signatures and the like, and what in turn refers to them.
    fn add_referrers(&mut self, locations: &BTreeSet<Location>) -> Result<(), ExportError> {
        let members = self.stores.metadata.members(None)?;
        let here = |(at, member): &(Location, Descriptor)| locations.contains(at) && is_manifest(&member.media_type);
        let mut referrers: Vec<(Location, Descriptor, Digest)> = Vec::new();
        for (location, member) in members.into_iter().filter(here) {
            let manifest = self.graph.manifest(Some(&location), &member);
            if let Some(subject) = manifest.ok().and_then(|manifest| manifest.subject()) {
                referrers.push((location, member, subject));
            }
        }
        loop {
            let known: HashSet<Digest> = self.contents.iter().map(|held| held.digest).collect();
            let (due, rest): (Vec<_>, Vec<_>) =
                referrers.into_iter().partition(|(_, _, subject)| known.contains(subject));
            if due.is_empty() {
                return Ok(());
            }
            for (location, member, _) in due.into_iter().filter(|(_, member, _)| !known.contains(&member.digest)) {
                let scope = Scope { within: Some(&location), ..Scope::default() };
                let image = Gathered::of(&self.graph, &member, &scope);
                if image.usable() {
                    self.take(&image.contents);
                    self.plan.index.manifests.push(Root::new(&member, None));
                }
            }
            referrers = rest;
        }
    }

    /// Parts what goes into the bundle from what the other side has.
    fn finish(self) -> Plan {
        let (mut plan, since) = (self.plan, &self.selection.since);
        let listed = |content: &Descriptor| Listed { digest: content.digest, size: content.size };
        let (left_out, contents): (Vec<_>, Vec<_>) =
            self.contents.iter().map(listed).partition(|c| since.has(&c.digest));
        let present: HashSet<String> = contents.iter().map(|content| format::blob_name(&content.digest)).collect();
        // An engine has no store to find the rest in.
        plan.docker.retain(|image| present.contains(&image.config) && image.layers.iter().all(|l| present.contains(l)));
        plan.receipt = since.clone();
        plan.receipt.extend(contents.iter().map(|content| content.digest));
        plan.description.contents = contents;
        plan.description.left_out = left_out;
        plan
    }
}

fn pointer(accept: AcceptSet, record: TagRecord) -> Pointer {
    Pointer { accept, manifest: record.descriptor, checked_at: record.checked_at, since: record.since }
}

fn confirmed(manifest: Descriptor, at: Timestamp) -> Pointer {
    Pointer { accept: AcceptSet::everything(), manifest, checked_at: at, since: at }
}

/// What `docker load` makes of the image: one platform, ours if it is there.
fn docker_image(name: &ImageName, variants: &[Variant]) -> Option<DockerImage> {
    let ours = Platform::default();
    let runnable =
        |variant: &&Variant| variant.blobs.first().is_some_and(|config| RUNNABLE.contains(&config.media_type.as_ref()));
    let is_ours = |variant: &&Variant| variant.platform.as_ref().is_some_and(|platform| ours.takes(platform));
    let mut runnable = variants.iter().filter(runnable).peekable();
    let first = *runnable.peek()?;
    let variant = runnable.find(is_ours).unwrap_or(first);
    let mut entries = variant.blobs.iter().map(|blob| format::blob_name(&blob.digest));
    let config = entries.next()?;
    let repo_tags = if matches!(name.reference, Reference::Tag(_)) { vec![name.to_string()] } else { Vec::new() };
    Some(DockerImage { config, repo_tags, layers: entries.collect() })
}
