//! Bundles without a daemon: what is written is read back by everything that reads it, and what
//! somebody else made is believed no further than its digests. The whole way, from a pull to a pull,
//! is in the scenarios; real clients are in `clients/bundle.rs`.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry_mirror::blob_store::ingest::IngestDir;
use registry_mirror::blob_store::memory::MemoryBlobStore;
use registry_mirror::bundle::import::{Intake, import};
use registry_mirror::bundle::{ExportError, ImportError, Plan, Rest, Selection, Stores};
use registry_mirror::clock::{Clock as _, ManualClock, Timestamp};
use registry_mirror::documents::{Fate, Imported, Receipt};
use registry_mirror::metadata::memory::MemoryMetadata;
use registry_mirror::metadata::{BlobRecord, Location, Membership, Proof, TagKey, TagRecord};
use registry_mirror::oci::{AcceptSet, Algorithm, Descriptor, Digest, ImageName, MediaType, Places, Tag};
use serde_json::{Value, json};
use tar::{EntryType, Header};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// One side: a store in memory, and what it takes to work on it.
struct Side {
    stores: Stores,
    clock: Arc<ManualClock>,
    runtime: Runtime,
    folder: TempDir,
}

impl Side {
    fn new() -> Side {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::at(NOW));
        let stores = Stores {
            blobs: Arc::new(MemoryBlobStore::new()),
            ingests: Arc::new(IngestDir::open(folder.path()).expect("a folder")),
            metadata: Arc::new(MemoryMetadata::new()),
            places: Arc::default(),
            clock: clock.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        Side { stores, clock, runtime, folder }
    }

    fn keep(&self, location: &Location, bytes: impl Into<Bytes>, media_type: &str) -> Descriptor {
        let bytes: Bytes = bytes.into();
        let descriptor = describe(&bytes, media_type);
        let mut ingest = self.stores.ingests.begin(&descriptor.digest).expect("begins");
        ingest.append(&bytes).expect("writes");
        self.runtime.block_on(self.stores.blobs.commit(ingest, &descriptor.digest)).expect("commits");
        let record = BlobRecord::new(descriptor.size, self.clock.now());
        self.stores.metadata.put_blob(&descriptor.digest, &record).expect("writes");
        let member = Membership {
            descriptor: descriptor.clone(),
            proof: Proof::Bytes,
            anonymous: true,
            places: Places::default(),
        };
        self.stores.metadata.put_member(location, &member).expect("writes");
        descriptor
    }

    /// An image with one layer of these bytes.
    fn image(&self, location: &Location, layer: &str, architecture: &str) -> Descriptor {
        let config = json!({"architecture": architecture, "os": "linux", "of": layer}).to_string();
        let config = self.keep(location, config, MediaType::ImageConfig.as_ref());
        let layer = self.keep(location, layer.to_owned(), MediaType::ImageLayer.as_ref());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MediaType::ImageManifest.as_ref(),
            "config": wire(&config), "layers": [wire(&layer)],
        });
        self.keep(location, manifest.to_string(), MediaType::ImageManifest.as_ref())
    }

    fn index(&self, location: &Location, children: &[(&Descriptor, &str)]) -> Descriptor {
        let child = |(manifest, architecture): &(&Descriptor, &str)| {
            let mut child = wire(manifest);
            child["platform"] = json!({"architecture": architecture, "os": "linux"});
            child
        };
        let children: Vec<Value> = children.iter().map(child).collect();
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::ImageIndex.as_ref(), "manifests": children});
        self.keep(location, index.to_string(), MediaType::ImageIndex.as_ref())
    }

    fn tag(&self, location: &Location, tag: &str, manifest: &Descriptor) {
        let now = self.clock.now();
        let record = TagRecord {
            descriptor: manifest.clone(),
            checked_at: now,
            since: now,
            observed_at: None,
            places: Places::default(),
        };
        self.stores.metadata.put_tag(&key(location, tag), &record).expect("writes");
    }

    fn plan(&self, selection: &Selection) -> Plan {
        Plan::make(&self.stores, selection, self.runtime.handle()).expect("a plan")
    }

    fn export(&self, selection: &Selection) -> Vec<u8> {
        let mut bundle = Vec::new();
        self.plan(selection).write(&self.stores, &mut bundle, self.runtime.handle()).expect("is written");
        bundle
    }

    fn import(&self, bundle: impl Read) -> Result<Imported, ImportError> {
        self.import_with(bundle, &Intake::default())
    }

    fn import_with(&self, bundle: impl Read, intake: &Intake<'_>) -> Result<Imported, ImportError> {
        import(&self.stores, bundle, intake, self.runtime.handle())
    }

    fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        let content = self.runtime.block_on(self.stores.blobs.open(digest))?;
        content.read_at(0, 1 << 20).ok()
    }

    fn blobs(&self) -> BTreeMap<Digest, Bytes> {
        let listed = self.runtime.block_on(self.stores.blobs.list()).expect("lists");
        listed.into_iter().map(|(digest, _)| (digest, self.bytes(&digest).expect("opens"))).collect()
    }

    fn tagged(&self, location: &Location, tag: &str) -> Option<Digest> {
        let record = self.stores.metadata.tag(&key(location, tag)).expect("answers")?;
        Some(record.descriptor.digest)
    }

    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.folder.path()).expect("a folder").count()
    }
}

fn describe(bytes: &[u8], media_type: &str) -> Descriptor {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    Descriptor { digest, size: bytes.len() as u64, media_type: MediaType::from(media_type) }
}

fn wire(descriptor: &Descriptor) -> Value {
    json!({"mediaType": descriptor.media_type.as_ref(), "digest": descriptor.digest.to_string(), "size": descriptor.size})
}

fn app() -> Location {
    at("library/app")
}

fn at(repository: &str) -> Location {
    Location { upstream: "docker.io".parse().expect("valid"), repository: repository.parse().expect("valid") }
}

fn key(location: &Location, tag: &str) -> TagKey {
    let tag: Tag = tag.parse().expect("valid");
    TagKey { location: location.clone(), tag, accept: AcceptSet::everything() }
}

fn images(names: &[&str]) -> Selection {
    Selection { images: names.iter().map(|name| name.parse().expect("a name")).collect(), ..Selection::default() }
}

/// A side that holds `app:1` for two platforms, and `app:2`.
fn two_images() -> (Side, Descriptor) {
    let side = Side::new();
    let (amd64, arm64) = (side.image(&app(), "for amd64", "amd64"), side.image(&app(), "for arm64", "arm64"));
    let index = side.index(&app(), &[(&amd64, "amd64"), (&arm64, "arm64")]);
    side.tag(&app(), "1", &index);
    let other = side.image(&app(), "another", "amd64");
    side.tag(&app(), "2", &other);
    (side, index)
}

/// The files of a tar.
fn files(bundle: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bundle);
    let entries = archive.entries().expect("a tar");
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("text");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        (name, content)
    };
    entries.map(read).collect()
}

fn json_file(bundle: &[u8], name: &str) -> Value {
    let (_, content) = files(bundle).into_iter().find(|(found, _)| found == name).expect("the file is there");
    serde_json::from_slice(&content).expect("JSON")
}

#[test]
fn a_bundle_brings_the_exact_bytes_and_the_tags() {
    let (here, index) = two_images();
    let bundle = here.export(&images(&["app:1"]));
    let there = Side::new();
    let report = there.import(&*bundle).expect("is taken in");
    assert_eq!(
        report.images.iter().map(|i| (i.image.as_str(), &i.fate)).collect::<Vec<_>>(),
        [("docker.io/library/app:1", &Fate::Ready)]
    );
    assert_eq!((report.stored, report.known, report.ignored), (7, 0, 1), "manifest.json is for engines");
    assert_eq!(there.tagged(&app(), "1"), Some(index.digest));
    let (sent, arrived) = (here.blobs(), there.blobs());
    assert!(arrived.iter().all(|(digest, bytes)| sent.get(digest) == Some(bytes)));
    for digest in arrived.keys() {
        let (left, right) = (&here.stores.metadata, &there.stores.metadata);
        let (left, right) =
            (left.member(&app(), digest).expect("answers"), right.member(&app(), digest).expect("answers"));
        let imported = left.map(|member| Membership { proof: Proof::Import, anonymous: false, ..member });
        assert_eq!(imported, right);
    }
    let again = there.import(&*bundle).expect("is taken in again");
    assert_eq!((again.stored, again.known, again.images), (0, 7, report.images));
    assert_eq!(there.unfinished(), 0);
}

#[test]
fn engines_find_names_configuration_and_layers() {
    let (here, index) = two_images();
    let bundle = here.export(&images(&["app:1", "app:2"]));
    let names: Vec<String> = files(&bundle).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..4], ["oci-layout", "mirror-bundle.json", "index.json", "manifest.json"]);
    let docker = json_file(&bundle, "manifest.json");
    let tags: Vec<_> = docker.as_array().expect("a list").iter().map(|image| image["RepoTags"][0].clone()).collect();
    assert_eq!(tags, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    for image in docker.as_array().expect("a list") {
        for name in image["Layers"].as_array().expect("a list").iter().chain([&image["Config"]]) {
            assert!(names.iter().any(|held| name == held), "{name} is in the bundle");
        }
    }
    let layout = json_file(&bundle, "index.json");
    assert_eq!(layout["manifests"][0]["digest"], index.digest.to_string());
    for annotation in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        assert_eq!(layout["manifests"][0]["annotations"][annotation], "docker.io/library/app:1");
    }
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len(), "what images share is there once");
}

#[test]
fn only_the_platforms_that_are_wanted_are_taken() {
    let (here, index) = two_images();
    let platforms = vec!["linux/arm64".parse().expect("a platform")];
    let bundle = here.export(&Selection { platforms, ..images(&["app:1"]) });
    let there = Side::new();
    let report = there.import(&*bundle).expect("is taken in");
    assert_eq!((report.stored, &report.images[0].fate), (4, &Fate::Ready));
    assert_eq!(there.tagged(&app(), "1"), Some(index.digest), "the index is as it was");
    let nobody = vec!["windows/amd64".parse().expect("a platform")];
    assert!(here.plan(&Selection { platforms: nobody, ..images(&["app:1"]) }).is_empty());
}

#[test]
fn what_the_other_side_has_is_left_out_and_found_there() {
    let (here, _) = two_images();
    let there = Side::new();
    there.import(&*here.export(&images(&["app:1"]))).expect("is taken in");
    let receipt: Receipt = there.blobs().into_keys().collect();

    let shared = here.image(&app(), "for amd64", "riscv64");
    here.tag(&app(), "3", &shared);
    let plan = here.plan(&Selection { since: receipt, ..images(&["app:3"]) });
    assert_eq!((plan.summary().blobs, plan.summary().left_out), (2, 1), "the layer is there already");
    let mut bundle = Vec::new();
    plan.write(&here.stores, &mut bundle, here.runtime.handle()).expect("is written");
    assert_eq!(json_file(&bundle, "manifest.json"), json!([]), "an engine could not use it");
    let report = there.import(&*bundle).expect("is taken in");
    assert_eq!((report.stored, &report.images[0].fate), (2, &Fate::Ready));

    let stranger = Side::new();
    let report = stranger.import(&*bundle).expect("is taken in as far as it goes");
    assert_eq!(report.images[0].fate, Fate::Incomplete);
    assert_eq!(report.images[0].missing, [Digest::of(Algorithm::Sha256, b"for amd64")]);
    assert_eq!(stranger.tagged(&app(), "3"), None, "a tag never leads to half an image");
}

#[test]
fn the_receipt_of_an_export_says_what_the_other_side_then_has() {
    let (here, _) = two_images();
    let first = here.plan(&images(&["app:1"]));
    let there = Side::new();
    there.import(&*here.export(&images(&["app:1"]))).expect("is taken in");
    assert_eq!(first.receipt(), &there.blobs().into_keys().collect::<Receipt>());
    let second = here.plan(&Selection { since: first.receipt().clone(), ..images(&["app:1"]) });
    assert_eq!((second.summary().blobs, second.receipt()), (0, first.receipt()));
}

#[test]
fn only_what_was_used_lately_is_taken_when_nothing_is_named() {
    let (here, _) = two_images();
    here.clock.advance(Duration::from_secs(10 * 86_400));
    let lately = Selection { used_since: Some(Duration::from_secs(7 * 86_400)), ..Selection::default() };
    assert!(here.plan(&lately).is_empty());
    let used = here.tagged(&app(), "2").expect("tagged");
    here.stores.metadata.touch(&[(used, here.clock.now())]).expect("writes");
    assert_eq!(here.plan(&lately).summary().images, ["docker.io/library/app:2"]);
    assert_eq!(here.plan(&Selection::default()).summary().images.len(), 2, "all there are");
}

#[test]
fn what_this_mirror_would_not_serve_is_not_exported() {
    let (here, _) = two_images();
    let layer = Digest::of(Algorithm::Sha256, b"another");
    here.stores.metadata.remove_member(&app(), &layer).expect("removes");
    let summary = here.plan(&images(&["app:2", "app:1", "nobody:1"])).summary();
    assert_eq!(summary.images, ["docker.io/library/app:1"]);
    let unavailable: Vec<_> = summary.unavailable.iter().map(|u| (u.image.as_str(), &*u.missing)).collect();
    assert_eq!(unavailable, [("docker.io/library/nobody:1", &[][..]), ("docker.io/library/app:2", &[layer])]);
}

#[test]
fn signatures_travel_with_what_they_sign() {
    let (here, index) = two_images();
    let layer = here.keep(&app(), "a signature", "application/octet-stream");
    let config = here.keep(&app(), "{}", "application/vnd.oci.empty.v1+json");
    let signature = json!({
        "schemaVersion": 2, "mediaType": MediaType::ImageManifest.as_ref(), "artifactType": "application/signature",
        "config": wire(&config), "layers": [wire(&layer)], "subject": wire(&index),
    });
    let signature = here.keep(&app(), signature.to_string(), MediaType::ImageManifest.as_ref());
    let there = Side::new();
    let report = there.import(&*here.export(&images(&["app:1"]))).expect("is taken in");
    assert_eq!(report.images.len(), 1, "it is no image of its own");
    for digest in [signature.digest, layer.digest] {
        assert!(there.stores.metadata.member(&app(), &digest).expect("answers").is_some());
        assert!(there.bytes(&digest).is_some());
    }
    let alone = there.import(&*here.export(&images(&["app:2"]))).expect("is taken in");
    assert_eq!(alone.known + alone.stored, 3, "nothing refers to this one");
}

#[test]
fn a_frozen_tag_is_exported_as_what_it_is_frozen_to() {
    let (here, index) = two_images();
    let (location, tag) = (app(), "2".parse().expect("valid"));
    let frozen = registry_mirror::metadata::FrozenTag { location, tag, digest: index.digest };
    here.stores.metadata.freeze(&frozen).expect("writes");
    let there = Side::new();
    there.import(&*here.export(&images(&["app:2"]))).expect("is taken in");
    assert_eq!(there.tagged(&app(), "2"), Some(index.digest));
}

#[test]
fn a_tag_that_is_newer_here_stays() {
    let (here, _) = two_images();
    let bundle = here.export(&images(&["app:2"]));
    let there = Side::new();
    there.clock.advance(Duration::from_secs(60));
    let newer = there.image(&app(), "newer", "amd64");
    there.tag(&app(), "2", &newer);
    let report = there.import(&*bundle).expect("is taken in");
    assert_eq!(report.images[0].fate, Fate::KeptNewer);
    assert_eq!(there.tagged(&app(), "2"), Some(newer.digest));
}

#[test]
fn a_tag_from_the_future_counts_as_seen_now() {
    let (here, _) = two_images();
    here.clock.advance(Duration::from_secs(1000 * 86_400));
    here.tag(&app(), "2", &here.image(&app(), "another", "amd64"));
    let there = Side::new();
    there.import(&*here.export(&images(&["app:2"]))).expect("is taken in");
    let record = there.stores.metadata.tag(&key(&app(), "2")).expect("answers").expect("is there");
    assert_eq!((record.checked_at, record.since), (NOW, NOW));
}

#[test]
fn a_stored_blob_that_is_damaged_ends_the_export() {
    let (here, _) = two_images();
    let plan = here.plan(&images(&["app:2"]));
    let digest = Digest::of(Algorithm::Sha256, b"another");
    // A store that does not hold what it says: the same content under the wrong digest.
    let mut ingest = here.stores.ingests.begin(&digest).expect("begins");
    ingest.append(b"an0ther").expect("writes");
    here.runtime.block_on(here.stores.blobs.delete(&digest)).expect("deletes");
    here.runtime.block_on(here.stores.blobs.commit(ingest, &digest)).expect("commits");
    let mut bundle = Vec::new();
    let error = plan.write(&here.stores, &mut bundle, here.runtime.handle());
    assert!(matches!(error, Err(ExportError::Damaged(damaged)) if damaged == digest), "{error:?}");
    let error = plan.write(&here.stores, &mut bundle, here.runtime.handle());
    assert!(matches!(error, Err(ExportError::Gone(gone)) if gone == digest), "{error:?}");
}

#[test]
fn there_must_be_room() {
    let (here, _) = two_images();
    let bundle = here.export(&images(&["app:1"]));
    let there = Side::new();
    let little = Rest { blobs: Arc::clone(&there.stores.blobs), budget: 100 };
    let intake = Intake { space: Some(&little), name: None };
    let refused = there.import_with(&*bundle, &intake);
    assert!(matches!(refused, Err(ImportError::NoRoom { room: 100, .. })), "{refused:?}");
    assert!(there.blobs().is_empty(), "refused before anything was written");
    // A bundle that does not say what it brings.
    let files: Vec<_> = files(&bundle).into_iter().filter(|(name, _)| name != "mirror-bundle.json").collect();
    let refused = there.import_with(&*pack(&files), &intake);
    assert!(matches!(refused, Err(ImportError::NoRoom { .. })), "{refused:?}");
    assert!(there.stores.blobs.usage().bytes <= 100);
    let enough = Rest { blobs: Arc::clone(&there.stores.blobs), budget: here.stores.blobs.usage().bytes };
    there.import_with(&*bundle, &Intake { space: Some(&enough), name: None }).expect("fits");
}

#[test]
fn a_bundle_that_was_compressed_with_gzip_is_read_as_it_is() {
    let (here, _) = two_images();
    let bundle = here.export(&images(&["app:1"]));
    let there = Side::new();
    let report = there.import(&*gzip(&bundle)).expect("is taken in");
    assert_eq!(report.images.iter().map(|image| &image.fate).collect::<Vec<_>>(), [&Fate::Ready]);
    assert_eq!(there.blobs().len() as u64, report.stored);
    // In pieces, as pigz and cat write it.
    let (front, back) = bundle.split_at(700);
    let report = there.import(&*[gzip(front), gzip(back)].concat()).expect("is taken in");
    assert_eq!((report.stored, report.images.len()), (0, 1));

    let whole = gzip(&bundle);
    for cut in [3, 20, whole.len() / 2, whole.len() - 9] {
        let cut_short = Side::new().import(&whole[..cut]);
        assert!(matches!(cut_short, Err(ImportError::Malformed(_))), "{cut}: {cut_short:?}");
    }
}

#[test]
fn what_expands_without_end_is_bound_by_what_its_entries_may_have() {
    let there = Side::new();
    let zeros = || behind(entry(b"blobs/sha256/x", EntryType::GNULongName, b"", 8 << 30, b""));
    assert_hostile_or_malformed(&there.import(&*gzip(&zeros())));
    // A long name of zeros, far smaller than what it expands to.
    let mut name = entry(b"././@LongLink", EntryType::GNULongName, b"", 64 << 20, b"");
    name.resize(name.len() + (64 << 20), 0);
    let bomb = gzip(&name);
    assert!(bomb.len() < 1_000_000);
    assert_hostile_or_malformed(&there.import(&*bomb));
    // A layer that there is no room for is refused before it is expanded.
    let digest = "1".repeat(64);
    let layer = entry(format!("blobs/sha256/{digest}").as_bytes(), EntryType::Regular, b"", 8 << 30, b"");
    let space = Rest { blobs: Arc::clone(&there.stores.blobs), budget: 1 << 20 };
    let refused = there.import_with(&*gzip(&layer), &Intake { space: Some(&space), name: None });
    assert!(matches!(refused, Err(ImportError::NoRoom { .. })), "{refused:?}");
    assert_eq!((there.blobs().len(), there.unfinished()), (0, 0));
}

fn assert_hostile_or_malformed(result: &Result<Imported, ImportError>) {
    assert!(matches!(result, Err(ImportError::Hostile { .. } | ImportError::Malformed(_))), "{result:?}");
}

#[test]
fn other_compressions_are_named_with_what_undoes_them() {
    for (start, tool) in
        [(&b"\x28\xb5\x2f\xfd\x04"[..], "zstd -d"), (b"\xfd7zXZ\0\0", "xz -d"), (b"BZh91AY", "bzip2 -d")]
    {
        let error = Side::new().import(start).expect_err("is not read").to_string();
        assert!(error.contains(tool) && error.contains("decompress it first"), "{error}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).expect("memory");
    encoder.finish().expect("memory")
}

// What others make.

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o7777);
        builder.append_data(&mut header, name, &**content).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// An entry whose name is taken as it is.
fn entry(name: &[u8], kind: EntryType, link: &[u8], size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o777);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The bundle of `app:2` with something in front.
fn behind(prefix: Vec<u8>) -> Vec<u8> {
    let (here, _) = two_images();
    [prefix, here.export(&images(&["app:2"]))].concat()
}

fn assert_hostile(bundle: &[u8], told: &str) {
    let there = Side::new();
    let refused = there.import(bundle);
    assert!(matches!(refused, Err(ImportError::Hostile { .. })), "{told}: {refused:?}");
    assert!(there.stores.metadata.tags().expect("answers").is_empty(), "{told}: no tag was set");
    assert_eq!(there.unfinished(), 0, "{told}: nothing is left over");
}

#[test]
fn a_name_that_leads_somewhere_ends_the_import() {
    let hex = Digest::of(Algorithm::Sha256, b"x").hex();
    for name in ["../x", "/etc/passwd", "blobs/../../x", "blobs/sha256/..", "blobs//x", "a\\..\\b", "./../x"] {
        assert_hostile(&behind(entry(name.as_bytes(), EntryType::Regular, b"", 1, b"x")), name);
    }
    let long = format!("blobs/sha256/../../{}/{hex}", "a/".repeat(60));
    assert_hostile(&behind(pack_long(&long)), "a long name");
}

/// A long name as GNU tar writes it: an entry of its own in front. `Builder` refuses such names.
fn pack_long(name: &str) -> Vec<u8> {
    let link =
        entry(b"././@LongLink", EntryType::GNULongName, b"", name.len() as u64 + 1, format!("{name}\0").as_bytes());
    [link, entry(b"x", EntryType::Regular, b"", 1, b"x")].concat()
}

#[test]
fn a_link_in_place_of_content_ends_the_import_and_another_is_skipped() {
    let blob = format!("blobs/sha256/{}", Digest::of(Algorithm::Sha256, b"x").hex());
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char] {
        for name in [blob.as_str(), "index.json", "oci-layout", "mirror-bundle.json"] {
            assert_hostile(&behind(entry(name.as_bytes(), kind, b"/etc/passwd", 0, b"")), &format!("{kind:?} {name}"));
        }
        let there = Side::new();
        let report = there.import(&*behind(entry(b"elsewhere", kind, b"/etc/passwd", 0, b""))).expect("is skipped");
        assert_eq!((report.ignored, &report.images[0].fate), (2, &Fate::Ready));
    }
}

#[test]
fn a_size_beyond_reason_ends_the_import_before_anything_is_read() {
    let blob = format!("blobs/sha256/{}", Digest::of(Algorithm::Sha256, b"x").hex());
    for (name, size) in [(blob.as_str(), 1 << 50), ("index.json", 1 << 30), ("mirror-bundle.json", 1 << 40)] {
        assert_hostile(&entry(name.as_bytes(), EntryType::Regular, b"", size, b"x"), name);
    }
    // A size that is told twice, the second time by an extension that outweighs the first.
    let told = b"23 size=99999999999999\n";
    let extension = entry(b"pax", EntryType::XHeader, b"", told.len() as u64, told);
    assert_hostile(&[extension, entry(blob.as_bytes(), EntryType::Regular, b"", 1, b"x")].concat(), "PAX");
}

#[test]
fn headers_without_end_end_the_import() {
    let there = Side::new();
    let endless = io::repeat(b'a');
    let header = entry(b"././@LongLink", EntryType::GNULongName, b"", 1 << 40, b"");
    let refused = there.import(Cursor::new(header).chain(endless));
    assert!(matches!(refused, Err(ImportError::Malformed(_))), "{refused:?}");
}

#[test]
fn a_file_that_is_there_twice_ends_the_import() {
    let (here, _) = two_images();
    let bundle = files(&here.export(&images(&["app:2"])));
    for name in ["index.json", "oci-layout", "mirror-bundle.json"] {
        let again = bundle.iter().find(|(found, _)| found == name).expect("is there");
        assert_hostile(&pack(&[bundle.clone(), vec![again.clone()]].concat()), name);
    }
    let blobs: Vec<_> = bundle.iter().filter(|(name, _)| name.starts_with("blobs/")).cloned().collect();
    let report = Side::new().import(&*pack(&[bundle, blobs].concat())).expect("a blob may be there twice");
    assert_eq!((report.stored, report.known, report.damaged.len()), (3, 3, 0));
}

#[test]
fn bytes_that_do_not_match_their_name_are_told_and_not_kept() {
    let (here, _) = two_images();
    let mut bundle = files(&here.export(&images(&["app:1", "app:2"])));
    let damaged = Digest::of(Algorithm::Sha256, b"another");
    for (name, content) in &mut bundle {
        if name.ends_with(&damaged.hex()) {
            content[0] ^= 1;
        }
    }
    let there = Side::new();
    let report = there.import(&*pack(&bundle)).expect("the rest is taken in");
    assert_eq!(report.damaged, [damaged]);
    assert_eq!(there.bytes(&damaged), None);
    let fates: Vec<_> = report.images.iter().map(|image| (image.image.as_str(), &image.fate)).collect();
    assert_eq!(fates, [("docker.io/library/app:1", &Fate::Ready), ("docker.io/library/app:2", &Fate::Incomplete)]);
    assert_eq!(there.tagged(&app(), "2"), None);
    assert_eq!(there.unfinished(), 0);
    let report = there.import(&*here.export(&images(&["app:2"]))).expect("a good bundle completes it");
    assert_eq!((report.stored, &report.images[0].fate), (1, &Fate::Ready));
}

#[test]
fn a_bundle_that_is_cut_short_sets_no_tag_wherever_it_is_cut_and_can_be_taken_in_again() {
    let (here, index) = two_images();
    let whole = here.export(&images(&["app:1"]));
    let end = whole.len() - 1024;
    let there = Side::new();
    for cut in (0..end).step_by(256) {
        let result = there.import(&whole[..cut]);
        assert!(matches!(result, Err(ImportError::Malformed(_))), "cut at {cut}: {result:?}");
        assert_eq!(there.tagged(&app(), "1"), None, "cut at {cut}");
        assert_eq!(there.unfinished(), 0, "cut at {cut}");
    }
    let report = there.import(&*whole).expect("is taken in");
    assert_eq!((report.stored + report.known, there.tagged(&app(), "1")), (7, Some(index.digest)));
    assert!(report.known > 0, "what had arrived was not stored again");
}

#[test]
fn what_cannot_be_read_is_not_the_fault_of_the_bundle() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the stick was pulled out"))
        }
    }
    let (here, _) = two_images();
    let whole = here.export(&images(&["app:1"]));
    let there = Side::new();
    for cut in [0, 600, 5000] {
        let result = there.import(whole[..cut].chain(Broken));
        assert!(matches!(result, Err(ImportError::Read(_))), "{result:?}");
    }
}

#[test]
fn a_layout_of_another_tool_is_taken_in_under_the_name_that_is_given() {
    let (here, _) = two_images();
    let mut bundle = files(&here.export(&images(&["app:2"])));
    bundle.retain(|(name, _)| name != "mirror-bundle.json" && name != "manifest.json");
    for (name, content) in &mut bundle {
        if name == "index.json" {
            let mut index: Value = serde_json::from_slice(content).expect("JSON");
            index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "2"});
            *content = index.to_string().into_bytes();
        }
    }
    let bundle = pack(&bundle);
    let there = Side::new();
    let report = there.import(&*bundle).expect("is taken in");
    assert_eq!(report.images[0].fate, Fate::Nameless);
    let name: ImageName = "ghcr.io/owner/app:2".parse().expect("a name");
    let report = there.import_with(&*bundle, &Intake { space: None, name: Some(&name) }).expect("is taken in");
    assert_eq!((report.images[0].image.as_str(), &report.images[0].fate), ("ghcr.io/owner/app:2", &Fate::Ready));
}

#[test]
fn what_is_not_a_bundle_is_told_as_that() {
    for bytes in [
        &b""[..],
        &[0; 1024],
        b"this is not a tar, and long enough to have a header of 512 bytes".repeat(10).as_slice(),
    ] {
        let refused = Side::new().import(bytes);
        assert!(matches!(refused, Err(ImportError::Malformed(_))), "{refused:?}");
    }
    let old = pack(&[("manifest.json".to_owned(), b"[]".to_vec()), ("abc/layer.tar".to_owned(), b"x".to_vec())]);
    let Err(ImportError::Malformed(told)) = Side::new().import(&*old) else { panic!("it has no layout") };
    assert!(told.contains("docker save"), "{told}");
}
