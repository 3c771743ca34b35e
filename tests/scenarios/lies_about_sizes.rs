//! A model of the store against upstreams that lie about sizes, in any order and at the same time: what goes
//! is no more than what came, and what is told does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use scripted_registry::{Algorithm, Digest, Gate, Match, Recorded, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const BUDGET: u64 = 2_000_000;
/// The largest blob that is sent whole, in bytes.
const LARGEST: u64 = 300_000;
/// What is evicted beyond what is needed, so that not every fill has to.
const SLACK: u64 = BUDGET / 50;
/// What is written, and reserved, at a time.
const STEP: u64 = 256 << 10;

/// What an upstream tells of a blob, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Truth,
    /// It breaks off once, and gives the rest to who asks for it.
    Resumed,
    /// All of it, and no length.
    NoLength,
    /// A part, and nothing more: of a length that was told, or that was not.
    TooMuch,
    NoLengthAndCut,
    /// More than there is, in a body that ends with its connection.
    BeyondTheEnd,
    /// Less than there is.
    TooLittle,
    /// Bytes behind the end, of a length that was not told.
    NoLengthAndMore,
    /// More than the store may ever hold, and one byte.
    Enormous,
}

const ALL: [Told; 9] = [
    Told::Truth,
    Told::Resumed,
    Told::NoLength,
    Told::TooMuch,
    Told::NoLengthAndCut,
    Told::BeyondTheEnd,
    Told::TooLittle,
    Told::NoLengthAndMore,
    Told::Enormous,
];

impl Told {
    /// Whether a client can have the blob in the end.
    fn can_be_had(self) -> bool {
        matches!(self, Told::Truth | Told::Resumed | Told::NoLength)
    }

    /// Makes it so, for a blob of `size` bytes of which `part` come where not all do.
    fn script(self, registry: &Registry, blob: &Digest, size: u64, part: u64) {
        let first = Rule::on(Match::blob(blob).get()).once();
        let rule = match self {
            Told::Truth => return,
            Told::Resumed => return registry.rule(first.close_after(part)),
            Told::NoLength => return registry.rule(Rule::on(Match::blob(blob).get()).chunked()),
            Told::TooMuch => first.close_after(part),
            Told::NoLengthAndCut => first.chunked().close_after(part),
            Told::BeyondTheEnd => first.declare_length(size * 3),
            Told::TooLittle => first.declare_length(part),
            Told::NoLengthAndMore => first.chunked().extra(noise(7, part as usize + 1)),
            Told::Enormous => first.declare_length(BUDGET * 10).close_after(1),
        };
        registry.rule(rule);
        // And has it no longer when it is asked again.
        registry.rule(Rule::on(Match::blob(blob).get()).refuse(404));
    }

    /// How many bytes came at most.
    fn came(self, size: u64, part: u64) -> u64 {
        match self {
            Told::Truth | Told::Resumed | Told::NoLength | Told::BeyondTheEnd => size,
            Told::TooMuch | Told::NoLengthAndCut | Told::TooLittle => part,
            Told::NoLengthAndMore => size + part + 1,
            Told::Enormous => 1,
        }
    }
}

fn path(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

/// The stored blobs and their sizes in bytes; each has the digest that it is called by.
fn stored(mirror: &TestMirror) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(mirror.store().join("blobs/sha256")).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| {
            let (name, bytes) =
                (file.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&file).unwrap());
            assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name);
            (name, bytes.len() as u64)
        })
        .collect()
}

/// How many bytes the index takes: a small store does not count the first part of it, and evicts for the rest.
fn index(mirror: &TestMirror) -> u64 {
    let mut folders = vec![mirror.store().join("metadata")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                metadata => bytes += metadata.map_or(0, |metadata| metadata.len()),
            }
        }
    }
    bytes
}

/// So many steps, each of so many blobs at the same time at most.
async fn history(seed: u64, steps: usize, at_once: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let registry = Registry::start().await;
    let config = format!("store.max_size = \"{BUDGET}B\"\nstore.min_free = \"0\"");
    let mirror = Settings::of(&registry).config(&config).start().await;
    let mut number = 1000 * seed;
    for step in 0..steps {
        mirror.advance(Duration::from_secs(600));
        let before = stored(&mirror);
        let free = BUDGET.saturating_sub(before.values().sum());
        let mut asked = Vec::new();
        for _ in 0..random.random_range(1..=at_once) {
            number += 1;
            // At first the store is filled.
            let told = if step < 6 { Told::Truth } else { ALL[random.random_range(0..ALL.len())] };
            let size = if told.can_be_had() { LARGEST } else { BUDGET * 3 / 2 };
            let size = random.random_range(2..size);
            let part = random.random_range(1..size);
            let blob = registry.add_blob("library/app", noise(number, size as usize));
            told.script(&registry, &blob, size, part);
            asked.push((blob, told, size, part));
        }
        let answers = join_all(asked.iter().map(|(blob, ..)| async { mirror.get(&path(blob)).await })).await;
        mirror.settled().await;
        let after = stored(&mirror);
        let index = index(&mirror);
        let history = format!("seed {seed}, step {step}: {asked:?} with {free} free and an index of {index}");
        for ((blob, told, size, _), answer) in asked.iter().zip(&answers) {
            let whole = answer.status == 200 && answer.complete && answer.body.len() as u64 == *size;
            let is_right = whole && Digest::of(Algorithm::Sha256, &answer.body) == *blob;
            assert!(!(answer.status == 200 && answer.complete) || is_right, "{told:?}: {history}");
            assert!(is_right || !told.can_be_had(), "{told:?}: {answer:?} {history}", answer = answer.status);
            if asked.len() == 1 {
                assert_eq!(after.contains_key(&blob.hex()), is_right, "{told:?}: {history}");
            }
        }
        let came: u64 = asked.iter().map(|(_, told, size, part)| told.came(*size, *part)).sum();
        let evicted: u64 = before.iter().filter(|(name, _)| !after.contains_key(*name)).map(|(_, size)| size).sum();
        // Whole blobs go, and some that came together are evicted for one another.
        let reserved = came + STEP * asked.len() as u64;
        let needed = if at_once == 1 { came } else { reserved }.saturating_sub(free);
        let most = if needed == 0 { 0 } else { needed + SLACK + LARGEST };
        assert!(evicted <= most, "{came} bytes came and {evicted} went: {history}");
        assert!(after.values().sum::<u64>() <= BUDGET, "{history}");
    }
}

#[tokio::test]
async fn one_after_another_lies_about_sizes_take_nothing_from_what_is_stored() {
    for seed in 1..=2 {
        history(seed, 40, 1).await;
    }
}

#[tokio::test]
async fn at_the_same_time_lies_about_sizes_take_no_more_than_what_came() {
    for seed in 3..=4 {
        history(seed, 25, 4).await;
    }
}

#[tokio::test]
async fn a_blob_without_end_ends_with_its_readers_and_takes_no_more_than_the_store_may() {
    const MOST: u64 = 5_000_000;
    let registry = Registry::start().await;
    let config = format!("store.max_size = \"{MOST}B\"\nstore.min_free = \"0\"");
    let mirror = Settings::of(&registry).config(&config).start().await;
    let blob = registry.add_blob("library/app", vec![7; 64_000_000]);
    registry.rule(Rule::on(Match::blob(&blob).get()).chunked());
    let mut stream = mirror.stream(&path(&blob)).await;
    // Beyond what can be kept, it comes all the same.
    assert_eq!(stream.read_exactly(8_000_000).await.len(), 8_000_000);
    stream.reset();
    mirror.settled().await;
    registry.hung_up(1).await;
    assert_eq!(stored(&mirror), BTreeMap::new());
    let unfinished = std::fs::read_dir(mirror.store().join("ingest")).unwrap().map(|file| file.unwrap().metadata());
    assert!(unfinished.map(|file| file.unwrap().len()).sum::<u64>() <= MOST);
}

/// A part of a blob, where it is given complete.
async fn part(mirror: &TestMirror, blob: &Digest, range: &str) -> Option<bytes::Bytes> {
    let answer = mirror.get_with(&path(blob), &[("Range", &format!("bytes={range}"))]).await;
    ((200..300).contains(&answer.status) && answer.complete).then_some(answer.body)
}

#[tokio::test]
async fn no_part_is_given_early_of_a_blob_of_another_size_than_its_manifest_says() {
    for restarted in [false, true] {
        let registry = Registry::start().await;
        let layer = registry.add_layer("library/app", "1", noise(61, 1000));
        registry.rule(Rule::on(Match::blob(&layer).get()).answer(
            200,
            "application/octet-stream",
            vec![b'Z'; 5_000_000],
        ));
        let mut mirror = TestMirror::of(&registry).await;
        for round in 0..2 {
            assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
            for range in ["0-999", "0-9", "0-9,100-199"] {
                assert_eq!(part(&mirror, &layer, range).await, None, "{range}, round {round}");
            }
            mirror.settled().await;
            if restarted {
                mirror = mirror.restart().await;
            }
        }
    }
}

#[tokio::test]
async fn no_part_is_given_early_on_the_word_of_who_sends_the_blob() {
    // Whether it has that size or not: nobody else says so.
    for size in [1000, 5_000_000] {
        let registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(63, 1000)]);
        let blob = registry.add_blob("library/app", noise(64, size));
        registry.rule(Rule::on(Match::blob(&blob)).answer(200, "application/octet-stream", vec![b'Z'; 5_000_000]));
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
        for range in ["0-999", "0-9", "0-9,100-199", "4000000-4000999"] {
            mirror.head(&path(&blob)).await;
            assert_eq!(part(&mirror, &blob, range).await, None, "{range} of {size}");
        }
    }
}

#[tokio::test]
async fn a_part_is_given_early_where_a_manifest_that_was_stored_before_the_restart_says_the_size() {
    let (registry, gate) = (Registry::start().await, Gate::new());
    let bytes = noise(65, 5_000_000);
    let layer = registry.add_layer("library/app", "1", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    mirror.settled().await;
    let mirror = mirror.restart().await;
    registry.rule(Rule::on(Match::blob(&layer).get().without_header("range")).stall_after(200_000, &gate));
    let answer = mirror.get_with(&path(&layer), &[("Range", "bytes=4000000-4000999")]).await;
    assert!(answer.complete && answer.body == bytes.slice(4_000_000..4_001_000), "{}", answer.status);
    let told = answer.header("cache-status").is_some_and(|status| status.contains("detail=relayed"));
    assert!(told, "ahead of the fill");
    gate.open();
}

#[tokio::test]
async fn what_is_given_early_of_a_blob_is_no_more_for_being_begun_again() {
    let registry = Registry::start().await;
    let bytes = noise(66, 5_000_000);
    let layer = registry.add_layer("library/app", "1", bytes.clone());
    let is_part = |request: &Recorded| request.header("range").is_some_and(|range| !range.ends_with('-'));
    registry.rule(Rule::on(Match::blob(&layer).get().and(Match::when(move |request| !is_part(request)))).refuse(500));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    assert_eq!(part(&mirror, &layer, "3000000-3999999").await, Some(bytes.slice(3_000_000..4_000_000)));
    mirror.settled().await;
    assert_eq!(part(&mirror, &layer, "3000000-3999999").await, None);
}

#[tokio::test]
async fn no_part_is_given_early_of_a_blob_that_was_something_else_a_moment_ago() {
    let registry = Registry::start().await;
    let blob = registry.add_layer("library/app", "1", noise(62, 5_000_000));
    registry.rule(Rule::on(Match::blob(&blob).get()).flip_bit_at(4_999_999).flip_bit_at(5));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    assert!(!mirror.get(&path(&blob)).await.complete, "it is found out");
    for range in ["0-9", "2000000-2000099"] {
        mirror.settled().await;
        assert_eq!(part(&mirror, &blob, range).await, None, "{range}");
    }
    registry.add_layer("library/other", "1", noise(62, 5_000_000));
    assert_eq!(mirror.get("/v2/library/other/manifests/1").await.status, 200);
    let elsewhere = path(&blob).replace("library/app", "library/other");
    let answer = mirror.get_with(&elsewhere, &[("range", "bytes=2000000-2000099")]).await;
    assert!(!answer.complete || answer.status >= 500, "another repository of that upstream has none either");
}
