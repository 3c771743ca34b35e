//! The interface for operators, as the commands and scripts use it: HTTP and JSON, looked at on an
//! address and acted through on a Unix socket.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::Duration;

use scripted_registry::client::{self, Response};
use scripted_registry::{Digest, Gate, Image, Match, Registry, Rule, noise};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::mirror::{Settings, TestMirror};

const DAY: Duration = Duration::from_secs(86_400);
const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];

fn parsed(response: &Response) -> Value {
    assert!(response.complete);
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

/// What GET answers, when it does.
async fn look(mirror: &TestMirror, path: &str) -> Value {
    let response = client::get(mirror.admin, &format!("/api/v1/{path}"), &CONSENT).await;
    assert_eq!(response.status, 200, "{path}: {:?}", response.body);
    parsed(&response)
}

async fn post(mirror: &TestMirror, path: &str, body: Value) -> Response {
    client::post(mirror.socket(), &format!("/api/v1/{path}"), &CONSENT, &body.to_string()).await
}

/// What POST answers, when it does.
async fn act(mirror: &TestMirror, path: &str, body: Value) -> Value {
    let response = post(mirror, path, body).await;
    assert_eq!(response.status, 200, "{path}: {:?}", response.body);
    parsed(&response)
}

/// What POST tells line by line.
async fn told(mirror: &TestMirror, path: &str, body: Value) -> Vec<Value> {
    let response = post(mirror, path, body).await;
    assert_eq!((response.status, response.complete), (200, true));
    assert_eq!(response.header("content-type"), Some("application/jsonl"));
    let text = std::str::from_utf8(&response.body).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn paths(image: &Image) -> Vec<String> {
    let repository = &image.repository;
    std::iter::once(format!("/v2/{repository}/manifests/{}", image.tag))
        .chain(image.blobs().map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest)))
        .collect()
}

/// Pulls an image as a client does.
async fn pull(mirror: &TestMirror, image: &Image) {
    for path in paths(image) {
        let response = mirror.get(&path).await;
        assert_eq!((response.status, response.complete), (200, true), "{path}");
    }
    mirror.settled().await;
}

fn is_stored(mirror: &TestMirror, digest: &Digest) -> bool {
    mirror.store().join("blobs/sha256").join(digest.hex()).exists()
}

/// Whether all of an image is stored; half of one is neither.
fn is_whole(mirror: &TestMirror, image: &Image) -> bool {
    let parts: Vec<_> = image.blobs().chain([&image.manifest]).map(|part| is_stored(mirror, &part.digest)).collect();
    assert!(parts.iter().all(|stored| *stored == parts[0]), "{parts:?}");
    parts[0]
}

/// The word for where an answer came from.
fn origin(response: &Response) -> &str {
    let status = response.header("cache-status").expect("every answer says where it is from");
    status.rsplit_once("detail=").map_or_else(|| status.rsplit("; ").next().unwrap_or_default(), |(_, detail)| detail)
}

fn digest_of(response: &Response) -> Option<&str> {
    response.header("docker-content-digest")
}

#[tokio::test]
async fn images_and_inspect_say_what_was_pulled_and_how_much_of_it_is_stored() {
    let registry = Registry::start().await;
    let whole = registry.add_image("library/app", "1", &[noise(1, 1000), noise(2, 2000)]);
    let part = registry.add_image("library/part", "2", &[noise(3, 3000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(look(&mirror, "images").await["images"], json!([]));
    pull(&mirror, &whole).await;
    mirror.get("/v2/library/part/manifests/2").await;

    let images = look(&mirror, "images").await["images"].clone();
    let names = ["docker.io/library/app:1", "docker.io/library/part:2"];
    assert_eq!(
        [&images[0]["image"], &images[1]["image"], &images[2]],
        [&json!(names[0]), &json!(names[1]), &json!(null)]
    );
    assert_eq!((&images[0]["state"], &images[1]["state"]), (&json!("complete"), &json!("partly")));
    assert_eq!(images[0]["stored_bytes"], whole.blob_bytes() + whole.manifest.size);
    assert_eq!(images[1]["missing_bytes"], part.blob_bytes());

    for name in ["app:1", "docker.io%2Flibrary%2Fapp:1"] {
        let detail = look(&mirror, &format!("images/inspect?image={name}")).await;
        assert_eq!(detail["digest"], whole.manifest.digest.to_string());
        let blobs = detail["images"][0]["blobs"].as_array().expect("a list").clone();
        let digests: Vec<_> = blobs.iter().map(|blob| blob["digest"].as_str().unwrap().to_owned()).collect();
        assert_eq!(digests, whole.blobs().map(|blob| blob.digest.to_string()).collect::<Vec<_>>());
        assert!(blobs.iter().all(|blob| blob["stored"] == true));
        assert_eq!(detail["history"][0]["digest"], whole.manifest.digest.to_string());
    }
}

#[tokio::test]
async fn what_was_pulled_ahead_for_a_platform_is_a_hit_when_the_upstream_is_gone() {
    let mut registry = Registry::start().await;
    let amd = registry.add_image("library/app", "amd", &[noise(11, 100_000)]);
    let arm = registry.add_image("library/app", "arm", &[noise(12, 100_000)]);
    let index = registry.add_index("library/app", "1", &[(&amd, "amd64"), (&arm, "arm64")]);
    let mirror = TestMirror::of(&registry).await;
    let events = told(&mirror, "pull", json!({ "images": ["app:1"], "platforms": ["linux/arm64"] })).await;
    let last = events.last().expect("a last word");
    assert_eq!(
        (&last["event"], &last["complete"], &last["blobs"]),
        (&json!("done"), &json!(true), &json!(2)),
        "{events:?}"
    );
    assert_eq!(last["fetched_bytes"], arm.blob_bytes());
    assert!(!is_stored(&mirror, &amd.manifest.digest) && !is_stored(&mirror, &amd.layers[0].digest));
    registry.stop().await;

    let tag = mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!((tag.status, digest_of(&tag)), (200, Some(index.digest.to_string().as_str())));
    let manifest = mirror.get(&format!("/v2/library/app/manifests/{}", arm.manifest.digest)).await;
    assert_eq!((manifest.status, origin(&manifest)), (200, "hit"));
    for blob in arm.blobs() {
        let answer = mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await;
        assert_eq!((answer.status, answer.complete, origin(&answer)), (200, true, "hit"));
        assert_eq!(Digest::of(blob.digest.algorithm(), &answer.body), blob.digest);
    }
    let again = told(&mirror, "pull", json!({ "images": ["app:1"], "platforms": ["linux/arm64"] })).await;
    assert_eq!(again.last().unwrap()["fetched_bytes"], 0, "nothing is fetched twice");
    let other = told(&mirror, "pull", json!({ "images": ["app:1"], "platforms": ["linux/s390x"] })).await;
    assert_eq!((&other[1]["event"], &other[1]["failure"]), (&json!("failed"), &json!("not-found")), "{other:?}");
    assert_eq!(other.last().unwrap()["complete"], false);
}

#[tokio::test]
async fn ready_says_whether_an_image_is_complete_and_what_of_it_is_missing() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(21, 1000), noise(22, 2000)]);
    let mirror = TestMirror::of(&registry).await;
    let ready = async || act(&mirror, "ready", json!({ "images": ["app:1"] })).await["images"][0].clone();
    let unknown = ready().await;
    assert_eq!((&unknown["ready"], &unknown["digest"]), (&json!(false), &json!(null)));
    assert!(registry.requests().is_empty(), "whoever asks for this wants to know what is here");
    for path in &paths(&image)[..3] {
        mirror.get(path).await;
    }
    mirror.settled().await;
    let part = ready().await;
    assert_eq!((&part["ready"], &part["completeness"]["missing_bytes"]), (&json!(false), &json!(image.layers[1].size)));
    assert_eq!(part["completeness"]["missing"][0]["digest"], image.layers[1].digest.to_string());
    assert!(part["reason"].as_str().unwrap().contains("1 part with"), "{part}");
    pull(&mirror, &image).await;
    let whole = ready().await;
    assert_eq!((&whole["ready"], &whole["digest"]), (&json!(true), &json!(image.manifest.digest.to_string())));
    assert_eq!(whole["reason"], json!(null));
    // While its upstream is away nobody gets it by this tag any more.
    mirror.advance(31 * DAY);
    let old = ready().await;
    assert!(old["ready"] == false && old["reason"].as_str().unwrap().contains("stale_if_error"), "{old}");
    let by_digest = json!({ "images": [format!("app@{}", image.manifest.digest)] });
    assert_eq!(act(&mirror, "ready", by_digest).await["ready"], true);
}

#[tokio::test]
async fn a_pin_keeps_an_image_through_gc_until_it_is_unpinned() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(31, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let name = json!({ "images": [format!("app@{}", image.manifest.digest)] });
    mirror.get(&format!("/v2/library/app/manifests/{}", image.manifest.digest)).await;
    for path in &paths(&image)[1..] {
        mirror.get(path).await;
    }
    mirror.settled().await;
    assert_eq!(act(&mirror, "pin", name.clone()).await["images"][0]["changed"], true);
    mirror.advance(2 * DAY);
    assert_eq!(act(&mirror, "gc", json!({})).await["blobs"], 0);
    assert!(is_whole(&mirror, &image));
    assert_eq!(look(&mirror, "images").await["images"][0]["pinned"], true);
    assert_eq!(act(&mirror, "unpin", name.clone()).await["images"][0]["changed"], true);
    assert_eq!(act(&mirror, "unpin", name).await["images"][0]["changed"], false);
    assert_eq!(act(&mirror, "gc", json!({})).await["blobs"], 3);
    assert!(!is_whole(&mirror, &image));
}

#[tokio::test]
async fn a_pin_keeps_an_image_from_eviction_until_it_is_unpinned() {
    let registry = Registry::start().await;
    let images: Vec<_> = (0..6)
        .map(|number| registry.add_image(&format!("library/app{number}"), "1", &[noise(40 + number, 100_000)]))
        .collect();
    let limits = "store.max_size = \"250000B\"\nstore.min_free = \"0\"";
    let mirror = Settings::of(&registry).config(limits).start().await;
    pull(&mirror, &images[0]).await;
    let name = json!({ "images": ["app0:1"] });
    act(&mirror, "pin", name.clone()).await;
    for image in &images[1..4] {
        mirror.advance(DAY);
        pull(&mirror, image).await;
    }
    assert!(is_whole(&mirror, &images[0]));
    act(&mirror, "unpin", name).await;
    for image in &images[4..] {
        mirror.advance(DAY);
        pull(&mirror, image).await;
    }
    assert!(!is_whole(&mirror, &images[0]));
}

#[tokio::test]
async fn a_frozen_tag_keeps_its_digest_without_asking_and_follows_again_when_unfrozen() {
    let registry = Registry::start().await;
    let one = registry.add_image("library/app", "1", &[noise(51, 1000)]);
    let two = registry.add_image("library/app", "2", &[noise(52, 1000)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    let asked = post(&mirror, "freeze", json!({ "image": "app:1" })).await;
    assert_eq!(asked.status, 404, "what it has is not known");
    pull(&mirror, &one).await;
    let frozen = act(&mirror, "freeze", json!({ "image": "app:1" })).await;
    assert_eq!(frozen["digest"], one.manifest.digest.to_string());
    registry.move_tag("library/app", "1", &two.manifest.digest);
    registry.forget_requests();
    for _ in 0..2 {
        mirror.advance(DAY);
        let answer = mirror.get("/v2/library/app/manifests/1").await;
        assert_eq!(digest_of(&answer), Some(one.manifest.digest.to_string().as_str()));
    }
    assert!(registry.requests().is_empty(), "upstream is not asked about a frozen tag");
    assert_eq!(look(&mirror, "images").await["images"][0]["frozen"], true);
    assert_eq!(act(&mirror, "unfreeze", json!({ "image": "app:1" })).await["changed"], true);
    let answer = mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!(digest_of(&answer), Some(two.manifest.digest.to_string().as_str()));
    let by_digest = json!({ "image": format!("app@{}", one.manifest.digest) });
    assert_eq!(post(&mirror, "freeze", by_digest).await.status, 400, "a digest never moves");
}

#[tokio::test]
async fn a_tag_can_be_frozen_to_what_it_had_before() {
    let registry = Registry::start().await;
    let one = registry.add_image("library/app", "1", &[noise(55, 1000)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    pull(&mirror, &one).await;
    let two = registry.add_image("library/app", "1", &[noise(56, 1000)]);
    pull(&mirror, &two).await;
    let digest = one.manifest.digest.to_string();
    act(&mirror, "freeze", json!({ "image": "app:1", "digest": digest })).await;
    let answer = mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!((digest_of(&answer), origin(&answer)), (Some(digest.as_str()), "hit"));
    mirror.advance(2 * DAY);
    act(&mirror, "gc", json!({})).await;
    assert!(is_whole(&mirror, &one), "what a tag is frozen to stays");
}

#[tokio::test]
async fn what_was_forgotten_is_fetched_again_and_served_from_nowhere_else() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(61, 50_000)]);
    let mirror = TestMirror::of(&registry).await;
    pull(&mirror, &image).await;
    pull(&mirror, &image).await;
    let forgotten = act(&mirror, "forget", json!({ "images": ["app:1"] })).await;
    assert_eq!(forgotten["images"][0]["changed"], true);
    assert_eq!(look(&mirror, "images").await["images"], json!([]));
    registry.stop().await;
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    for path in paths(&image).iter().chain([&by_digest]) {
        assert_eq!(mirror.get(path).await.status, 503, "{path}");
    }
    registry.restart_on_same_port().await;
    mirror.advance(DAY);
    act(&mirror, "gc", json!({})).await;
    assert!(!is_whole(&mirror, &image), "what is in no repository goes at once");
    for path in paths(&image) {
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status, answer.complete, origin(&answer)), (200, true, "fill"), "{path}");
    }
    mirror.settled().await;
    let again = act(&mirror, "forget", json!({ "images": ["other:1"] })).await;
    assert_eq!(again["images"][0]["changed"], false);
}

#[tokio::test]
async fn forgetting_an_image_takes_nothing_from_what_is_pinned_beside_it() {
    let mut registry = Registry::start().await;
    let base = noise(65, 1000);
    let pinned = registry.add_image("library/app", "1", &[base.clone(), noise(66, 1000)]);
    let other = registry.add_image("library/app", "2", &[base, noise(67, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let by_digest = format!("/v2/library/app/manifests/{}", pinned.manifest.digest);
    for path in [&by_digest].into_iter().chain(&paths(&pinned)[1..]) {
        mirror.get(path).await;
    }
    pull(&mirror, &other).await;
    act(&mirror, "pin", json!({ "images": [format!("app@{}", pinned.manifest.digest)] })).await;
    act(&mirror, "forget", json!({ "images": ["app:2"] })).await;
    act(&mirror, "gc", json!({})).await;
    registry.stop().await;
    for path in [&by_digest].into_iter().chain(&paths(&pinned)[1..]) {
        let answer = mirror.get(path).await;
        assert_eq!((answer.status, origin(&answer)), (200, "hit"), "{path}");
    }
}

#[tokio::test]
async fn gc_that_is_only_tried_deletes_nothing_and_names_what_gc_then_deletes() {
    let registry = Registry::start().await;
    let old = registry.add_image("library/app", "1", &[noise(71, 1000), noise(72, 2000)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    pull(&mirror, &old).await;
    let new = registry.add_image("library/app", "1", &[noise(71, 1000), noise(73, 3000)]);
    pull(&mirror, &new).await;
    assert_eq!(act(&mirror, "gc", json!({})).await["blobs"], 0, "it was used just now");
    mirror.advance(2 * DAY);

    let tried = act(&mirror, "gc", json!({ "dry_run": true })).await;
    assert!(is_whole(&mirror, &old) && is_whole(&mirror, &new));
    let done = act(&mirror, "gc", json!({})).await;
    let sorted = |garbage: &Value| {
        let digests = garbage["digests"].as_array().expect("a list").iter();
        let mut digests: Vec<_> = digests.map(|digest| digest.as_str().unwrap().to_owned()).collect();
        digests.sort();
        (digests, garbage["size_bytes"].as_u64())
    };
    assert_eq!(sorted(&tried), sorted(&done));
    let gone = [&old.manifest, &old.config, &old.layers[1]];
    let mut expected: Vec<_> = gone.iter().map(|part| part.digest.to_string()).collect();
    expected.sort();
    assert_eq!(sorted(&done), (expected, Some(gone.iter().map(|part| part.size).sum())));
    assert!(is_whole(&mirror, &new), "the layer both have stays");
    assert!(gone.iter().all(|part| !is_stored(&mirror, &part.digest)));
    assert_eq!(act(&mirror, "gc", json!({})).await["blobs"], 0);
}

#[tokio::test]
async fn verify_finds_a_flipped_bit_and_with_repair_fetches_the_blob_again() {
    let registry = Registry::start().await;
    let bytes = noise(81, 100_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let get = async || {
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes);
        mirror.settled().await;
        origin(&answer).to_owned()
    };
    get().await;
    let file = mirror.store().join("blobs/sha256").join(digest.hex());
    let flip = || {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = std::fs::File::options().write(true).open(&file).unwrap();
        file.write_all_at(&[bytes[5000] ^ 1], 5000).unwrap();
    };
    let verify = async |repair: bool| {
        let findings = told(&mirror, "verify", json!({ "repair": repair, "rate": 0 })).await;
        let done = findings.last().expect("a last word").clone();
        assert_eq!(done["event"], "done");
        let damaged: Vec<_> = findings.into_iter().filter(|finding| finding["event"] == "damaged").collect();
        (damaged, done["damaged"].as_u64().unwrap(), done["repaired"].as_u64().unwrap())
    };
    let found = |repaired: bool| {
        vec![
            json!({ "document": "verify", "version": 1, "event": "damaged", "digest": digest.to_string(), "repaired": repaired }),
        ]
    };
    assert_eq!(verify(false).await, (vec![], 0, 0));
    flip();
    assert_eq!(verify(false).await, (found(false), 1, 0));
    assert_eq!(get().await, "fill", "what is damaged is out of sight");
    flip();
    assert_eq!(verify(true).await, (found(true), 1, 1));
    assert_eq!(get().await, "hit");
    assert_eq!(registry.gets_of(&digest), 3);
}

#[tokio::test]
async fn what_is_damaged_stays_so_until_it_is_sound_whatever_upstream_says() {
    for status in [404, 410, 403, 500] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(86, 5000)]);
        let mirror = TestMirror::of(&registry).await;
        pull(&mirror, &image).await;
        mirror.settled().await;
        for part in [&image.layers[0], &image.manifest] {
            let file = mirror.store().join("blobs/sha256").join(part.digest.hex());
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().write_all_at(b"\0", 0).unwrap();
            registry.rule(Rule::on(Match::any()).refuse(status));
            for repair in [true, true, false] {
                let end = told(&mirror, "verify", json!({ "repair": repair, "rate": 0 })).await;
                let end = end.last().expect("a last word");
                assert_eq!((&end["damaged"], &end["repaired"]), (&json!(1), &json!(0)), "{status} {repair}: {end}");
                mirror.advance(DAY);
            }
            registry.clear_rules();
            for repaired in [1, 0] {
                let end = told(&mirror, "verify", json!({ "repair": true, "rate": 0 })).await;
                let end = end.last().expect("a last word");
                assert_eq!(
                    (&end["damaged"], &end["repaired"]),
                    (&json!(repaired), &json!(repaired)),
                    "{status}: {end}"
                );
            }
        }
    }
}

#[tokio::test]
async fn verify_reads_at_the_speed_of_the_disk_unless_it_is_told_a_rate() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(85, 50_000));
    let mirror = Settings::of(&registry).config("store.scrub_rate = \"1000B\"").start().await;
    mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    mirror.settled().await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    told(&mirror, "verify", json!({ "rate": 10_000 })).await;
    let asked_for = start.elapsed();
    assert!(asked_for >= Duration::from_secs(5));
    told(&mirror, "verify", json!({})).await;
    assert!(start.elapsed() - asked_for < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn status_tells_of_fills_of_the_store_and_of_the_hit_ratio() {
    let registry = Registry::start().await;
    let bytes = noise(91, 100_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let slow = registry.add_blob("library/slow", noise(92, 200_000));
    let mirror = TestMirror::of(&registry).await;
    let fresh = look(&mirror, "status").await;
    assert_eq!((&fresh["requests"]["hit_ratio"], &fresh["fills"]), (&json!(null), &json!([])));
    assert_eq!(fresh["upstreams"][0]["host"], "docker.io");
    for _ in 0..4 {
        mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
        mirror.settled().await;
    }
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&slow)).stall_after(150_000, &gate));
    let mut stream = mirror.stream(&format!("/v2/library/slow/blobs/{slow}")).await;
    stream.read_exactly(100_000).await;
    let status = look(&mirror, "status").await;
    let fill = &status["fills"][0];
    assert_eq!((&fill["digest"], &fill["size_bytes"]), (&json!(slow.to_string()), &json!(200_000)));
    assert_eq!((&fill["repository"], &fill["readers"]), (&json!("docker.io/library/slow"), &json!(1)));
    let upstream = status["upstreams"].as_array().unwrap().iter().find(|upstream| upstream["host"] == "docker.io");
    assert_eq!(upstream.map(|upstream| [&upstream["filling"], &upstream["waiting"]]), Some([&json!(1), &json!(0)]));
    assert!(fill["written_bytes"].as_u64().is_some_and(|written| (100_000..=150_000).contains(&written)), "{fill}");
    // It counts with its bytes, and not when it has ended.
    let sent = status["bytes"]["missed"].as_u64().expect("a number");
    assert_eq!([&status["requests"]["total"], &status["requests"]["missed"]], [5, 2], "{status}");
    assert!(sent > 100_000, "{status}");
    let usage = look(&mirror, "usage").await["since_start"].clone();
    assert!(usage["requests"]["fill"] == 2 && usage["bytes"]["fill"].as_u64() >= Some(sent), "{usage}");
    gate.open();
    assert!(stream.finish().await.complete);
    mirror.settled().await;
    let status = look(&mirror, "status").await;
    assert_eq!(status["fills"], json!([]));
    let requests = &status["requests"];
    assert_eq!([&requests["total"], &requests["hit"], &requests["missed"]], [5, 3, 2]);
    assert_eq!(requests["hit_ratio"], 0.6);
    assert_eq!([&status["fetched_bytes"], &status["saved_bytes"]], [300_000, 300_000]);
    assert_eq!([&status["store"]["used_bytes"], &status["store"]["blobs"]], [300_000, 2]);
}

/// How many requests the metrics count, by outcome.
async fn counted(mirror: &TestMirror) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in mirror.metrics().await.lines().filter(|line| line.starts_with("mirror_requests_total{")) {
        let (labels, count) = line.rsplit_once(' ').expect("a value");
        let outcome = labels.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an outcome");
        *counts.entry(outcome.to_owned()).or_default() += count.parse::<u64>().expect("a number");
    }
    counts
}

#[tokio::test]
async fn status_and_usage_count_the_requests_that_the_metrics_count() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(98, 1000)]);
    let settings = Settings::of(&registry).and("a.example", &registry).having("access = \"pass-through\"");
    let mirror = settings.start().await;
    let (digest, layer) = (&image.manifest.digest, &image.blobs().next().expect("one").digest);
    let (known, nothing) = (format!("\"{digest}\""), "bytes=99999999-");
    let (blob, referrers) = (format!("/v2/library/app/blobs/{layer}"), format!("/v2/library/app/referrers/{digest}"));
    let manifest = "/v2/library/app/manifests/1";
    type Headers<'h> = &'h [(&'h str, &'h str)];
    let asked: &[(&str, &str, Headers<'_>)] = &[
        ("GET", manifest, &[]),
        ("HEAD", manifest, &[]),
        ("GET", manifest, &[("If-None-Match", &known)]),
        ("GET", &blob, &[]),
        ("GET", &blob, &[("Range", "bytes=0-1")]),
        ("GET", &blob, &[("Range", nothing)]),
        ("GET", "/v2/library/app/tags/list", &[]),
        ("GET", "/v2/library/app/tags/list", &[]),
        ("GET", &referrers, &[]),
        ("GET", "/v2/library/app/tags/list?ns=a.example", &[]),
        ("GET", "/v2/library/app/manifests/none", &[]),
        ("PUT", manifest, &[]),
        ("GET", "/v2/", &[]),
        ("GET", "/nowhere", &[]),
    ];
    for (method, path, headers) in asked {
        client::request(mirror.address, method, path, headers).await;
        mirror.settled().await;
    }
    // A request is counted when its last byte is sent, which its client may see a little earlier.
    let mut counts = counted(&mirror).await;
    while counts.values().sum::<u64>() < asked.len() as u64 {
        counts = counted(&mirror).await;
    }
    assert!(counts.remove("local") >= Some(4) && counts["relayed"] == 1 && counts["fill"] >= 3, "{counts:?}");
    let told = async |path| parsed(&client::get(mirror.socket(), path, &CONSENT).await);
    let usage = told("/api/v1/usage").await;
    for told in [&usage["since_start"], &usage["of_all_time"]] {
        let told = told["requests"].as_object().expect("counts").iter();
        let told: BTreeMap<_, _> =
            told.filter_map(|(word, n)| Some((word.clone(), n.as_u64().filter(|n| *n > 0)?))).collect();
        assert_eq!(told, counts);
    }
    let requests = told("/api/v1/status").await["requests"].clone();
    let all = counts.values().sum::<u64>();
    let missed = counts["fill"] + counts["relayed"];
    assert_eq!([&requests["total"], &requests["missed"], &requests["hit"]], [all, missed, all - missed]);
    assert_eq!(requests["hit_ratio"], (all - missed) as f64 / all as f64);
    assert_eq!(requests["hit_ratio"], usage["since_start"]["hit_ratio"]);
}

#[tokio::test]
async fn history_has_both_digests_of_a_tag_that_moved() {
    let registry = Registry::start().await;
    let one = registry.add_image("library/app", "1", &[noise(95, 1000)]);
    let two = registry.add_image("library/app", "2", &[noise(96, 1000)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    pull(&mirror, &one).await;
    registry.move_tag("library/app", "1", &two.manifest.digest);
    mirror.advance(DAY);
    mirror.get("/v2/library/app/manifests/1").await;
    let history = look(&mirror, "history?image=app:1").await["history"].clone();
    let seen: Vec<_> = history.as_array().expect("a list").iter().map(|entry| entry["digest"].clone()).collect();
    assert_eq!(seen, [&one, &two].map(|image| json!(image.manifest.digest.to_string())));
    // The clock of the tests stands still at 1,700,000,000 seconds until it is moved.
    let times = [&history[0]["seen_at"], &history[1]["seen_at"]];
    assert_eq!(times, ["2023-11-14T22:13:20.000Z", "2023-11-15T22:13:20.000Z"]);
    assert_eq!(history[0]["from"], "docker.io");
}

#[tokio::test]
async fn a_change_that_a_page_could_have_sent_is_refused_and_changes_nothing() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(97, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    pull(&mirror, &image).await;
    let body = json!({ "images": ["app:1"] }).to_string();
    let here = ("Host", "127.0.0.1");
    let foreign = [("Host", "evil.example"), ("X-Registry-Mirror", "1")];
    for path in ["pin", "forget", "gc", "verify", "pull", "ready"] {
        let path = format!("/api/v1/{path}");
        for headers in [&[here][..], &[here, ("X-Registry-Mirror", "0")]] {
            let refused = client::post(mirror.socket(), &path, headers, &body).await;
            assert_eq!(refused.status, 403, "{path} {headers:?}");
            assert!(parsed(&refused)["message"].is_string());
        }
        assert_eq!(client::post(mirror.admin, &path, &foreign, &body).await.status, 403, "{path}");
    }
    let images = look(&mirror, "images").await;
    assert_eq!((&images["images"][0]["pinned"], images["images"].as_array().unwrap().len()), (&json!(false), 1));
}

/// A page whose name its owner made point here sends requests under that name.
#[tokio::test]
async fn under_a_foreign_name_nothing_is_told_but_health_and_numbers() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let status = |host: &str| format!("GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for path in
        ["status", "images", "images/inspect?image=app:1", "history?image=app:1", "receipt", "canary", "nothing"]
    {
        let path = format!("/api/v1/{path}");
        for host in ["evil.example", "evil.example:5080", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            let refused = client::get(mirror.admin, &path, &[("Host", host)]).await;
            assert_eq!(refused.status, 403, "{path} {host}");
            assert!(parsed(&refused)["message"].as_str().expect("a sentence").contains("by its address"));
        }
        for host in ["127.0.0.1", "localhost:5080", "[::1]:5080", "192.0.2.7:5080"] {
            assert_ne!(client::get(mirror.admin, &path, &[("Host", host)]).await.status, 403, "{path} {host}");
        }
    }
    let two = client::raw(mirror.admin, status("127.0.0.1\r\nHost: evil.example").as_bytes()).await;
    assert!(two.starts_with(b"HTTP/1.1 400 "), "{two:?}");
    for odd in [
        "GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /api/v1/status HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let answer = client::raw(mirror.admin, odd.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.0 403 "), "{odd}: {answer}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = client::get(mirror.admin, path, &[("Host", "mirror.monitoring.svc:5080")]).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let mut socket = tokio::net::UnixStream::connect(mirror.store().join("admin.sock")).await.expect("it listens");
    socket.write_all(status("anything").as_bytes()).await.expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200 "), "the file of the socket has a mode: {answer}");
}

#[tokio::test]
async fn looking_is_get_and_changing_is_post_and_the_other_way_round_is_405() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for path in ["pull", "ready", "pin", "unpin", "forget", "freeze", "unfreeze", "gc", "verify"] {
        for method in ["GET", "HEAD", "DELETE"] {
            let refused = client::request(mirror.admin, method, &format!("/api/v1/{path}"), &CONSENT).await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method} {path}");
        }
    }
    for path in ["status", "images", "images/inspect", "history"] {
        let refused = post(&mirror, path, json!({})).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{path}");
        assert!(parsed(&refused)["message"].is_string());
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_in_json() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for (path, expected) in [
        ("nothing", 404),
        ("images/inspect?image=never:1", 404),
        ("history?image=never:1", 404),
        ("images/inspect", 400),
        ("images/inspect?image=UPPER", 400),
        ("images/inspect?image=elsewhere.example/app:1", 400),
    ] {
        let answer = client::get(mirror.admin, &format!("/api/v1/{path}"), &CONSENT).await;
        assert_eq!(answer.status, expected, "{path}");
        assert!(!parsed(&answer)["message"].as_str().expect("a sentence").is_empty(), "{path}");
    }
    for (path, body) in [
        ("pull", json!({})),
        ("pull", json!({ "images": ["app:1"], "platforms": ["plan9"] })),
        ("pin", json!({ "images": ["app:1"], "imges": [] })),
        ("gc", json!({ "dry-run": true })),
        ("freeze", json!({ "image": "" })),
    ] {
        let answer = post(&mirror, path, body).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(parsed(&answer)["message"].is_string());
    }
    let long = json!({ "images": ["a".repeat(2 << 20)] }).to_string();
    let answer = client::post(mirror.socket(), "/api/v1/pin", &CONSENT, &long).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_answers_like_the_address() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(99, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    pull(&mirror, &image).await;
    let path = mirror.store().join("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let ask = async |request: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("somebody listens");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let images = ask("GET /api/v1/images HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(images.starts_with("HTTP/1.1 200 ") && images.contains("docker.io/library/app:1"), "{images}");
    let body = json!({ "images": ["app:1"] }).to_string();
    let head = "POST /api/v1/pin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Registry-Mirror: 1\r\n";
    let pinned = ask(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    assert!(pinned.starts_with("HTTP/1.1 200 "), "{pinned}");
    assert_eq!(look(&mirror, "images").await["images"][0]["pinned"], true);
    let mirror = mirror.restart().await;
    assert_eq!(mirror.store().join("admin.sock"), path);
    let again = ask("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(again.starts_with("HTTP/1.1 200 "), "what was left over is taken over: {again}");
}
