//! Store, eviction and tags against a small model: any sequence of operations, with restarts in
//! between, leaves what the model says.
//!
//! The model knows which images were put, tagged, pinned, used and removed; it does not know the
//! policy, only its promises: what is evicted is whole images, nothing that is pinned or that a kept
//! image needs, and enough.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use registry_mirror::blob_store::BlobStore as _;
use registry_mirror::blob_store::ingest::IngestDir;
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::clock::Timestamp;
use registry_mirror::metadata::sled::SledMetadata;
use registry_mirror::metadata::{BlobRecord, Location, MetadataStore as _, TagKey, TagRecord};
use registry_mirror::mirror::keep::eviction::{Stock, plan};
use registry_mirror::oci::{AcceptSet, Algorithm, Descriptor, Digest, MediaType, Places, Tag};

/// Images are numbers: number `n` has the layers `n`, `n / 2` and `n / 4`, so they share.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Get(u8),
    Tag(u8, u8),
    Untag(u8),
    Evict(u16),
    Restart { index_lost: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12_u8).prop_map(Step::Put),
        2 => (0..12_u8).prop_map(Step::Get),
        2 => (0..4_u8, 0..12_u8).prop_map(|(tag, image)| Step::Tag(tag, image)),
        1 => (0..4_u8).prop_map(Step::Untag),
        2 => (1..400_u16).prop_map(Step::Evict),
        1 => any::<bool>().prop_map(|index_lost| Step::Restart { index_lost }),
    ];
    prop::collection::vec(step, 1..30)
}

fn manifest(image: u8) -> Vec<u8> {
    format!("manifest of {image}").into_bytes()
}

fn layers(image: u8) -> [Vec<u8>; 3] {
    [image, image / 2, image / 4].map(|layer| vec![layer; 20 + usize::from(layer)])
}

fn name(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

struct World {
    blobs: LocalBlobStore,
    ingests: IngestDir,
    metadata: SledMetadata,
    now: u64,
}

fn location() -> Location {
    Location { upstream: "docker.io".parse().unwrap(), repository: "library/app".parse().unwrap() }
}

fn key(tag: u8) -> TagKey {
    let tag: Tag = format!("t{tag}").parse().unwrap();
    TagKey { location: location(), tag, accept: AcceptSet::default() }
}

impl World {
    async fn open(store: &Path, now: u64) -> World {
        let blobs = LocalBlobStore::open(store).unwrap();
        let metadata = SledMetadata::open(store);
        if let Ok(known) = metadata.blobs() {
            blobs.remember_sizes(known.into_iter().map(|(digest, record)| (digest, record.size)));
        }
        metadata.rebuild(&blobs.list().await.unwrap(), Timestamp(now));
        World { blobs, ingests: IngestDir::open(store.join("ingest")).unwrap(), metadata, now }
    }

    async fn put(&self, bytes: &[u8]) {
        let digest = name(bytes);
        let mut ingest = self.ingests.begin(&digest).unwrap();
        ingest.append(bytes).unwrap();
        self.blobs.commit(ingest, &digest).await.unwrap();
        self.metadata.put_blob(&digest, &BlobRecord::new(bytes.len() as u64, Timestamp(self.now))).unwrap();
    }

    /// What is stored, by the files.
    async fn stored(&self) -> BTreeSet<Digest> {
        self.blobs.list().await.unwrap().into_iter().map(|(digest, _)| digest).collect()
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::open(folder.path(), 0).await;
    // The model.
    let (mut images, mut tags) = (BTreeSet::new(), BTreeMap::new());
    for step in steps {
        world.now += 60_000;
        match step {
            Step::Put(image) => {
                for bytes in layers(image).iter().chain([&manifest(image)]) {
                    world.put(bytes).await;
                }
                images.insert(image);
            }
            Step::Get(image) => {
                let content = world.blobs.open(&name(&manifest(image))).await;
                prop_assert_eq!(content.is_some(), images.contains(&image));
                if let Some(content) = content {
                    prop_assert_eq!(content.read_at(0, 100).unwrap(), manifest(image));
                    world.metadata.touch(&[(name(&manifest(image)), Timestamp(world.now))]).unwrap();
                }
            }
            Step::Tag(tag, image) => {
                let bytes = manifest(image);
                let descriptor =
                    Descriptor { digest: name(&bytes), size: bytes.len() as u64, media_type: MediaType::ImageManifest };
                let record = TagRecord {
                    descriptor,
                    checked_at: Timestamp(world.now),
                    since: Timestamp(0),
                    observed_at: None,
                    places: Places::default(),
                };
                world.metadata.put_tag(&key(tag), &record).unwrap();
                tags.insert(tag, image);
            }
            Step::Untag(tag) => {
                world.metadata.remove_tag(&location(), &key(tag).tag).unwrap();
                tags.remove(&tag);
            }
            Step::Evict(needed) => evict(&world, u64::from(needed), &mut images, &tags).await?,
            Step::Restart { index_lost } => {
                let now = world.now;
                drop(world);
                if index_lost {
                    std::fs::remove_dir_all(folder.path().join("metadata")).unwrap();
                }
                world = World::open(folder.path(), now).await;
            }
        }
        let expected: BTreeSet<Digest> = images
            .iter()
            .flat_map(|image| layers(*image).into_iter().chain([manifest(*image)]))
            .map(|bytes| name(&bytes))
            .collect();
        prop_assert_eq!(world.stored().await, expected.clone());
        let known: BTreeSet<Digest> = world.metadata.blobs().unwrap().into_iter().map(|(digest, _)| digest).collect();
        prop_assert_eq!(known, expected);
        for tag in 0..4 {
            let found = world.metadata.tag(&key(tag)).unwrap().map(|record| record.descriptor.digest);
            prop_assert_eq!(found, tags.get(&tag).map(|image| name(&manifest(*image))));
        }
    }
    Ok(())
}

/// Evicts by the plan; the tag `t0` pins what it points at.
async fn evict(
    world: &World,
    needed: u64,
    images: &mut BTreeSet<u8>,
    tags: &BTreeMap<u8, u8>,
) -> Result<(), TestCaseError> {
    let pinned = tags.get(&0).copied();
    let stock = Stock {
        blobs: world.metadata.blobs().unwrap(),
        children: images
            .iter()
            .map(|image| {
                (name(&manifest(*image)), layers(*image).iter().map(|bytes| name(bytes)).collect::<Arc<[Digest]>>())
            })
            .collect(),
        pinned: pinned.iter().map(|image| name(&manifest(*image))).collect(),
    };
    let victims = plan(&stock, needed, Timestamp(world.now));
    let freed: u64 = victims.iter().map(|victim| victim.size).sum();
    let gone: HashSet<Digest> = victims.iter().map(|victim| victim.digest).collect();
    prop_assert_eq!(gone.len(), victims.len(), "nothing goes twice");
    for victim in victims {
        world.blobs.delete(&victim.digest).await.unwrap();
        world.metadata.remove_blob(&victim.digest).unwrap();
    }
    images.retain(|image| !gone.contains(&name(&manifest(*image))));
    prop_assert!(pinned.is_none_or(|image| !gone.contains(&name(&manifest(image)))));
    let left = images.iter().filter(|image| Some(**image) != pinned).count();
    prop_assert!(freed >= needed || left == 0, "{freed} of {needed} although {left} images could go");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_leaves_what_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
