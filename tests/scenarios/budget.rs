//! The budget: the store stays within it, and no pull pays for that.

use futures_util::future::join_all;
use registry_mirror::documents::Verdict;
use scripted_registry::{Digest, Gate, Image, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

/// Pulls an image as a client does: the manifest by its tag, then every blob. Whether all of it came.
async fn pull(mirror: &TestMirror, image: &Image) -> bool {
    let manifest = mirror.get(&format!("/v2/{}/manifests/{}", image.repository, image.tag)).await;
    let paths: Vec<_> =
        image.blobs().map(|blob| (blob, format!("/v2/{}/blobs/{}", image.repository, blob.digest))).collect();
    let blobs = join_all(paths.iter().map(|(_, path)| mirror.get(path))).await;
    let whole = blobs.iter().zip(&paths).all(|(response, (blob, _))| {
        response.complete && Digest::of(blob.digest.algorithm(), &response.body) == blob.digest
    });
    manifest.status == 200 && manifest.complete && whole
}

/// Bytes of blobs on disk.
fn stored(mirror: &TestMirror) -> u64 {
    let files = std::fs::read_dir(mirror.store().join("blobs/sha256")).unwrap();
    files.filter_map(|file| file.unwrap().metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn is_stored(mirror: &TestMirror, digest: &Digest) -> bool {
    mirror.store().join("blobs/sha256").join(digest.hex()).exists()
}

fn image(registry: &Registry, number: u64) -> Image {
    registry.add_image(&format!("library/app{number}"), "1", &[noise(1000 + number, 100_000)])
}

/// A mirror that may hold `bytes`.
async fn mirror_of(registry: &Registry, bytes: u64) -> TestMirror {
    Settings::of(registry).config(&format!("store.max_size = \"{bytes}B\"\nstore.min_free = \"0\"")).start().await
}

#[tokio::test]
async fn the_oldest_image_leaves_whole_when_room_is_needed() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 350_000).await;
    let images: Vec<Image> = (0..3).map(|number| image(&registry, number)).collect();
    for image in &images {
        assert!(pull(&mirror, image).await);
        mirror.settled().await;
        mirror.advance(std::time::Duration::from_secs(3600));
    }
    for descriptor in images[0].blobs().chain([&images[0].manifest]) {
        assert!(!is_stored(&mirror, &descriptor.digest), "{}", descriptor.digest);
    }
    for descriptor in images[1..].iter().flat_map(|image| image.blobs().chain([&image.manifest])) {
        assert!(is_stored(&mirror, &descriptor.digest), "{}", descriptor.digest);
    }
    assert!(stored(&mirror) <= 350_000);
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("mirror_evicted_blobs_total 3"), "{metrics}");
    assert!(pull(&mirror, &images[0]).await, "it can be had again");
}

#[tokio::test]
async fn a_pinned_image_stays_also_when_others_are_passed_through_for_it() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 250_000).await;
    let pinned = image(&registry, 0);
    assert!(pull(&mirror, &pinned).await);
    mirror.settled().await;
    let folder = mirror.store().join("repositories/docker.io/library/app0/_pins");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1"), "").unwrap();
    for number in 1..6 {
        mirror.advance(std::time::Duration::from_secs(3600));
        assert!(pull(&mirror, &image(&registry, number)).await);
        mirror.settled().await;
    }
    assert!(pinned.blobs().chain([&pinned.manifest]).all(|blob| is_stored(&mirror, &blob.digest)));
    assert!(stored(&mirror) <= 250_000);
}

#[tokio::test]
async fn a_layer_that_a_kept_image_needs_stays() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 420_000).await;
    let base = noise(7, 100_000);
    let old = registry.add_image("library/old", "1", &[base.clone(), noise(8, 100_000)]);
    let kept = registry.add_image("library/kept", "1", &[base, noise(9, 50_000)]);
    for image in [&old, &kept] {
        assert!(pull(&mirror, image).await);
        mirror.settled().await;
        mirror.advance(std::time::Duration::from_secs(3600));
    }
    assert!(pull(&mirror, &image(&registry, 1)).await);
    mirror.settled().await;
    assert!(!is_stored(&mirror, &old.layers[1].digest));
    assert!(kept.blobs().chain([&kept.manifest]).all(|blob| is_stored(&mirror, &blob.digest)));
}

#[tokio::test]
async fn what_is_larger_than_the_budget_is_passed_through_and_drives_nothing_out() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 250_000).await;
    let small = image(&registry, 1);
    assert!(pull(&mirror, &small).await);
    mirror.settled().await;
    let large = registry.add_blob("library/large", noise(5, 300_000));
    let response = mirror.get(&format!("/v2/library/large/blobs/{large}")).await;
    assert!(response.complete && response.body == noise(5, 300_000));
    mirror.settled().await;
    assert!(!is_stored(&mirror, &large));
    assert!(small.blobs().all(|blob| is_stored(&mirror, &blob.digest)));
    assert!(mirror.metrics().await.contains("mirror_reservations_refused_total 1"));
    let large = |mirror: &TestMirror| mirror.mirror.status().problems.iter().any(|it| it.told().contains("passed on"));
    assert!(large(&mirror));
    mirror.advance(std::time::Duration::from_secs(3600));
    assert!(!large(&mirror), "an hour ago");
}

#[tokio::test]
async fn a_store_that_can_keep_nothing_says_so_until_it_can() {
    let registry = Registry::start().await;
    let (first, second) = (image(&registry, 1), image(&registry, 2));
    let mirror = mirror_of(&registry, 1).await;
    assert!(pull(&mirror, &first).await);
    mirror.settled().await;
    let problems = mirror.mirror.status().problems;
    assert!(
        problems.iter().any(|it| it.verdict == Verdict::Fail && it.told().contains("keeps nothing")),
        "{problems:?}"
    );
    let mirror = mirror.stop().await.reconfigured("store.max_size = \"9MB\"\nstore.min_free = \"0\"").start().await;
    assert!(pull(&mirror, &second).await);
    mirror.settled().await;
    assert_eq!(mirror.mirror.status().problems, []);
}

#[tokio::test]
async fn wrong_bytes_from_an_upstream_are_told_for_an_hour() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(12, 300_000));
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    assert!(!mirror.get(&format!("/v2/library/app/blobs/{digest}")).await.complete);
    mirror.settled().await;
    let told = |mirror: &TestMirror| {
        let problems = mirror.mirror.status().problems;
        problems.iter().any(|it| it.about == "upstream docker.io" && it.told().contains(&digest.to_string()))
    };
    assert!(told(&mirror), "{:?}", mirror.mirror.status().problems);
    mirror.advance(std::time::Duration::from_secs(3600));
    assert!(!told(&mirror));
}

#[tokio::test]
async fn a_blob_of_unknown_size_reserves_as_it_grows_and_is_passed_through_at_the_end_of_the_budget() {
    let registry = Registry::start().await;
    let bytes = noise(6, 12_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    registry.rule(Rule::on(Match::blob(&digest)).chunked());
    let mirror = mirror_of(&registry, 10_000_000).await;
    let response = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    assert!(response.complete && response.body == bytes);
    mirror.settled().await;
    assert_eq!(stored(&mirror), 0);
}

#[tokio::test]
async fn a_blob_that_is_evicted_while_it_is_read_is_read_to_its_end() {
    let registry = Registry::start().await;
    let bytes = noise(3, 6_000_000);
    let digest = registry.add_blob("library/slow", bytes.clone());
    let mirror = mirror_of(&registry, 6_400_000).await;
    let path = format!("/v2/library/slow/blobs/{digest}");
    mirror.get(&path).await;
    mirror.settled().await;
    let mut slow = scripted_registry::client::Connection::open_narrow(mirror.address, 4096)
        .await
        .send("GET", &path, &[])
        .await
        .expect("an answer");
    let head = slow.read_exactly(1000).await;
    for number in 0..5 {
        mirror.advance(std::time::Duration::from_secs(3600));
        assert!(pull(&mirror, &image(&registry, number)).await);
        mirror.settled().await;
    }
    assert!(is_stored(&mirror, &digest), "others go first: it would free nothing yet");
    assert!(is_stored(&mirror, &image(&registry, 4).manifest.digest));
    mirror.advance(std::time::Duration::from_secs(100 * 3600));
    mirror.mirror.collect_garbage(false).await.unwrap();
    assert!(!is_stored(&mirror, &digest));
    let rest = slow.finish().await;
    assert!(rest.complete && [head, rest.body].concat() == bytes);
}

/// 95 % full and under load: every pull succeeds, and what is on disk stays within the budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_pulls_at_the_end_of_the_budget_all_succeed_and_none_overshoots() {
    /// Names take a part of it.
    const BUDGET: u64 = 2_700_000;
    let registry = Registry::start().await;
    // Three times what there is room for; shared bases; used unequally.
    let base = noise(1, 60_000);
    let images: Vec<Image> = (0..40)
        .map(|number| {
            let files = [
                base.clone(),
                noise(2000 + number, 20_000 + 5_000 * (number as usize % 10)),
                noise(3000 + number, 90_000),
            ];
            registry.add_image(&format!("library/app{number}"), "1", &files)
        })
        .collect();
    let mirror = mirror_of(&registry, BUDGET).await;
    let (mut failed, mut most) = (0, 0);
    for round in 0..50_usize {
        let now: Vec<&Image> = (0..8)
            .map(|n| &images[(round * round + n * n * 7 + n * round) % if n < 4 { 8 } else { images.len() }])
            .collect();
        let results = join_all(now.into_iter().map(|image| pull(&mirror, image))).await;
        failed += results.iter().filter(|whole| !**whole).count();
        most = most.max(stored(&mirror));
        mirror.advance(std::time::Duration::from_secs(120));
    }
    mirror.settled().await;
    assert_eq!(failed, 0, "of 400 pulls");
    assert!(most <= BUDGET, "{most} bytes of {BUDGET}");
    assert!(most > BUDGET * 6 / 10, "the test never filled the store: {most} bytes");
}

#[tokio::test]
async fn a_smaller_budget_after_a_restart_is_kept_to() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 1_000_000).await;
    let images: Vec<Image> = (0..5).map(|number| image(&registry, number)).collect();
    for image in &images {
        assert!(pull(&mirror, image).await);
        mirror.settled().await;
        mirror.advance(std::time::Duration::from_secs(60));
    }
    let store = mirror.stop().await;
    let mirror = store.reconfigured("store.max_size = \"250000B\"").start().await;
    while stored(&mirror) > 250_000 {
        tokio::task::yield_now().await;
    }
    assert!(images[4].blobs().all(|blob| is_stored(&mirror, &blob.digest)), "the last one stays");
}

#[tokio::test]
async fn a_fill_that_a_stop_interrupted_is_resumed_by_the_next_start() {
    let registry = Registry::start().await;
    let bytes = noise(4, 3_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).times(1).stall_after(2_000_000, &gate));
    let mirror = Settings::of(&registry).config("server.drain = \"10ms\"").start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut stream = mirror.stream(&path).await;
    stream.read_exactly(1_500_000).await;
    let mirror = mirror.restart().await;
    gate.open();
    registry.forget_requests();
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
    let asked = registry.requests().into_iter().find(|request| request.method == "GET").expect("a request");
    let range = asked.headers.get("range").and_then(|range| range.to_str().ok()).expect("a range").to_owned();
    let start: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a number");
    assert!(start >= 1_400_000, "{range}");
}

#[tokio::test]
async fn what_was_garbled_in_an_unfinished_fill_is_noticed_before_a_client_gets_it() {
    let registry = Registry::start().await;
    let bytes = noise(4, 3_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).times(1).stall_after(2_000_000, &gate));
    let mirror = Settings::of(&registry).config("server.drain = \"10ms\"").start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    mirror.stream(&path).await.read_exactly(1_500_000).await;
    let settings = mirror.stop().await;
    let unfinished =
        std::fs::read_dir(settings.store().join("ingest")).unwrap().next().expect("a file").unwrap().path();
    use std::os::unix::fs::FileExt as _;
    std::fs::File::options().write(true).open(unfinished).unwrap().write_all_at(b"garbage", 1000).unwrap();
    gate.open();
    let mirror = settings.start().await;
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
    mirror.settled().await;
    assert!(is_stored(&mirror, &digest));
}

/// After a power cut a file has the length it should have, and zeros where bytes never reached the
/// disk; or it is shorter.
#[tokio::test]
async fn what_a_power_cut_took_from_an_unfinished_fill_is_fetched_again() {
    for cut in [None, Some(300_000)] {
        let registry = Registry::start().await;
        let bytes = noise(4, 3_000_000);
        let digest = registry.add_blob("library/app", bytes.clone());
        let gate = Gate::new();
        registry.rule(Rule::on(Match::blob(&digest).get()).times(1).stall_after(2_000_000, &gate));
        let mirror = Settings::of(&registry).config("server.drain = \"10ms\"").start().await;
        let path = format!("/v2/library/app/blobs/{digest}");
        mirror.stream(&path).await.read_exactly(1_500_000).await;
        let settings = mirror.stop().await;
        let unfinished =
            std::fs::read_dir(settings.store().join("ingest")).unwrap().next().expect("a file").unwrap().path();
        let file = std::fs::File::options().write(true).open(unfinished).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(cut.unwrap_or(1_000_000)).unwrap();
        if cut.is_none() {
            file.set_len(length).unwrap();
        }
        gate.open();
        let mirror = settings.start().await;
        let response = mirror.get(&path).await;
        assert!(response.complete && response.body == bytes, "cut to {cut:?}");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_ten_years_either_way_breaks_neither_pulls_nor_eviction() {
    use registry_mirror::clock::{Clock as _, Timestamp};
    const TEN_YEARS: u64 = 10 * 365 * 86_400_000;
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 250_000).await;
    let start = mirror.clock.now().0;
    for (number, now) in [start, start + TEN_YEARS, start - TEN_YEARS, 0, start].into_iter().enumerate() {
        mirror.clock.set(Timestamp(now));
        for number in [number as u64, 0] {
            assert!(pull(&mirror, &image(&registry, number)).await);
            mirror.settled().await;
        }
        assert!(stored(&mirror) <= 250_000);
    }
}
