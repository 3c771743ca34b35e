//! Bundles while the daemon runs: made and taken in by it, as the commands and the interface for
//! operators have it, while pulls go on and room is made.

use std::path::Path;
use std::time::Duration;

use registry_mirror::bundle::Selection;
use scripted_registry::client::{self, Response};
use scripted_registry::{Digest, Image, Registry, noise};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
const DAY: Duration = Duration::from_secs(86_400);

type Ran = (i32, String, String);

/// Runs a command, with these bytes on its standard input, on a thread of its own.
async fn run(arguments: &[&str], stdin: Vec<u8>) -> (i32, Vec<u8>, String) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let work = move || command::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &stdin);
    tokio::task::spawn_blocking(work).await.expect("ends")
}

async fn said(arguments: &[&str]) -> Ran {
    let (code, out, err) = run(arguments, Vec::new()).await;
    (code, String::from_utf8(out).expect("UTF-8"), err)
}

async fn post(mirror: &TestMirror, path: &str, body: impl AsRef<[u8]>) -> Response {
    client::post(mirror.socket(), &format!("/api/v1/{path}"), &CONSENT, body).await
}

fn parsed(response: &Response) -> Value {
    assert!(response.complete);
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Whether a client gets all of an image, with the right bytes.
async fn pull(mirror: &TestMirror, image: &Image) -> bool {
    let repository = &image.repository;
    let manifest = mirror.get(&format!("/v2/{repository}/manifests/{}", image.tag)).await;
    let mut whole = manifest.status == 200 && manifest.complete;
    for blob in image.blobs() {
        let response = mirror.get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await;
        whole &= response.complete && Digest::of(blob.digest.algorithm(), &response.body) == blob.digest;
    }
    mirror.settled().await;
    whole
}

fn is_stored(mirror: &TestMirror, digest: &Digest) -> bool {
    mirror.store().join("blobs/sha256").join(digest.hex()).exists()
}

fn is_whole(mirror: &TestMirror, image: &Image) -> bool {
    image.blobs().chain([&image.manifest]).all(|blob| is_stored(mirror, &blob.digest))
}

fn unfinished(mirror: &TestMirror) -> usize {
    std::fs::read_dir(mirror.store().join("ingest")).expect("a folder").count()
}

/// A mirror with its own store below `folder` that asks nobody.
async fn offline(registry: &Registry, folder: &Path) -> TestMirror {
    Settings::of(registry).store_at(&folder.join("there")).config("cache.mode = \"offline\"").start().await
}

/// A running mirror that pulled two images with a layer in common.
async fn running() -> (Registry, TestMirror, [Image; 2]) {
    let registry = Registry::start().await;
    let app = registry.add_image("library/app", "1", &[noise(171, 3_000_000), noise(172, 10)]);
    let other = registry.add_image("owner/other", "2", &[noise(173, 5000), noise(172, 10)]);
    let mirror = TestMirror::of(&registry).await;
    assert!(pull(&mirror, &app).await && pull(&mirror, &other).await);
    (registry, mirror, [app, other])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_mirror_exports_and_another_that_runs_without_a_network_takes_it_in() {
    let (mut registry, here, [app, other]) = running().await;
    registry.stop().await;
    let folder = tempfile::tempdir().expect("a folder");
    let there = offline(&registry, folder.path()).await;
    let [bundle, receipt] = ["app.tar", "receipt"].map(|name| folder.path().join(name).display().to_string());
    let [from, to] = [&here, &there].map(|mirror| mirror.store().display().to_string());
    // Somebody asked for it before it was there.
    assert!(!pull(&there, &app).await);

    // The lock of the store says that a daemon has it.
    let (code, out, err) = said(&["export", "app:1", "-o", &bundle, "--json", "--store", &from]).await;
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["images"], &report["blobs"]), (&json!(["docker.io/library/app:1"]), &json!(4)));
    let (code, out, err) = said(&["import", &bundle, "--receipt", &receipt, "--store", &to]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("docker.io/library/app:1: ready") && err.contains("4 blobs stored"), "{err}");
    assert!(pull(&there, &app).await && !pull(&there, &other).await);

    // The rest, through pipes, compressed on the way, named by socket.
    let [from, to] = [&here, &there].map(|mirror| format!("unix:{}", mirror.socket().display()));
    let rest = ["export", "--all", "--since", &receipt, "-o", "-", "--admin", &from];
    let (code, tar, err) = run(&rest, Vec::new()).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("2 images, 3 blobs") && err.contains("4 blobs, 2.9 MiB, are left out"), "{err}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).expect("memory");
    let (code, out, err) = run(&["import", "-", "--json", "--admin", &to], gzip.finish().expect("memory")).await;
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!((&report["bundles"][0]["stored"], &report["bundles"][0]["known"]), (&json!(3), &json!(0)));
    assert!(pull(&there, &app).await && pull(&there, &other).await);
    let status = client::get(there.admin, "/api/v1/status", &[("Host", "127.0.0.1")]).await;
    assert_eq!(parsed(&status)["store"]["blobs"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_a_store_without_a_daemon() {
    let (registry, here, [app, _]) = running().await;
    let folder = tempfile::tempdir().expect("a folder");
    let there = offline(&registry, folder.path()).await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (none, whole, half, bad) = (file("none.tar"), file("whole.tar"), file("half.tar"), file("bad.tar"));
    let [from, to] = [&here, &there].map(|mirror| format!("unix:{}", mirror.socket().display()));
    let (code, _, err) = said(&["export", "nobody:1", "-o", &none, "--admin", &from]).await;
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("registry-mirror pull docker.io/library/nobody:1"), "{err}");
    assert!(!Path::new(&none).exists(), "a bundle that is not whole is not there");
    assert_eq!(said(&["export", "nobody:1", "app:1", "-o", &whole, "--admin", &from]).await.0, 3);

    let bytes = std::fs::read(&whole).expect("reads");
    std::fs::write(&half, &bytes[..bytes.len() / 2]).expect("writes");
    let mut flipped = bytes;
    let place = flipped.len() - 3 * 512 + 5;
    flipped[place] ^= 1;
    std::fs::write(&bad, flipped).expect("writes");
    let (code, _, err) = said(&["import", &half, "--admin", &to]).await;
    assert!(code == 6 && err.contains("half.tar: the bundle cannot be understood"), "{code} {err}");
    assert_eq!(said(&["import", &bad, "--admin", &to]).await.0, 6);
    assert_eq!(said(&["import", &file("missing.tar"), "--admin", &to]).await.0, 1);
    std::fs::write(&half, b"\x28\xb5\x2f\xfd").expect("writes");
    let (code, _, err) = said(&["import", &half, "--admin", &to]).await;
    assert!(code == 6 && err.contains("zstd -d"), "{code} {err}");
    assert!(!pull(&there, &app).await);

    // Damage that comes to light while the bundle is written.
    let layer = here.store().join("blobs/sha256").join(app.layers[0].digest.hex());
    let mut bytes = std::fs::read(&layer).expect("a blob");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::remove_file(&layer).expect("removed");
    std::fs::write(&layer, bytes).expect("written");
    let (code, _, err) = said(&["export", "app:1", "-o", &none, "--admin", &from]).await;
    assert!(code == 6 && err.contains("is damaged and was set aside"), "{code} {err}");
    assert!(!Path::new(&none).exists());
    assert_eq!(unfinished(&there), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_sends_a_plain_tar_and_says_no_before_the_first_byte() {
    let (_registry, here, [app, _]) = running().await;
    let order = |images: &[&str], more: &str| {
        let mut order = json!({ "images": images });
        if !more.is_empty() {
            order[more] = true.into();
        }
        order.to_string()
    };
    let plan = parsed(&post(&here, "export", order(&["app:1", "nobody:1"], "dry_run")).await);
    assert_eq!(plan["images"], json!(["docker.io/library/app:1"]));
    assert_eq!(plan["unavailable"][0]["image"], "docker.io/library/nobody:1");
    assert_eq!(plan["receipt"].as_array().map(Vec::len), Some(4));
    let tar = post(&here, "export", order(&["app:1"], "")).await;
    assert_eq!((tar.status, tar.complete, tar.header("content-type")), (200, true, Some("application/x-tar")));
    assert!(tar.body.starts_with(b"oci-layout\0"));

    let nothing = post(&here, "export", order(&["nobody:1"], "")).await;
    assert_eq!(nothing.status, 404);
    let nothing = parsed(&nothing);
    assert_eq!((&nothing["document"], &nothing["code"]), (&json!("error"), &json!("nothing")));
    assert!(nothing["message"].to_string().contains("docker.io/library/nobody:1"), "{nothing}");
    for wrong in
        ["{}", r#"{"all":true,"images":["app:1"]}"#, r#"{"images":["A"]}"#, r#"{"all":true,"platforms":["x"]}"#]
    {
        assert_eq!(post(&here, "export", wrong).await.status, 400, "{wrong}");
    }
    for path in ["export", "import"] {
        let page = client::post(here.socket(), &format!("/api/v1/{path}"), &[("Host", "127.0.0.1")], "{}").await;
        assert_eq!(page.status, 403, "{path}");
    }
    let refused = post(&here, "import", b"nothing that anybody would call a tar".repeat(100)).await;
    assert_eq!((refused.status, &parsed(&refused)["code"]), (422, &json!("malformed")));

    // A stored layer turns out to be damaged: the tar must not look whole.
    let layer = here.store().join("blobs/sha256").join(app.layers[0].digest.hex());
    let mut bytes = std::fs::read(&layer).expect("a blob");
    bytes[0] ^= 1;
    std::fs::remove_file(&layer).expect("removed");
    std::fs::write(&layer, bytes).expect("written");
    let broken = post(&here, "export", order(&["app:1"], "")).await;
    assert!(broken.status == 200 && !broken.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_into_a_bundle_is_neither_evicted_nor_collected_meanwhile() {
    let registry = Registry::start().await;
    let images: Vec<_> = (0..4)
        .map(|number| registry.add_image(&format!("library/app{number}"), "1", &[noise(180 + number, 100_000)]))
        .collect();
    let limits = "store.max_size = \"250000B\"\nstore.min_free = \"0\"";
    let mirror = Settings::of(&registry).config(limits).start().await;
    assert!(pull(&mirror, &images[0]).await);
    let selection = Selection { images: vec!["app0:1".parse().expect("a name")], ..Selection::default() };
    let outgoing = mirror.mirror.plan_bundle(selection).await.expect("a plan");
    // It is by far the oldest, and nothing leads to it any more.
    for image in &images[1..] {
        mirror.advance(DAY);
        assert!(pull(&mirror, image).await);
    }
    assert_eq!(post(&mirror, "forget", r#"{"images":["app0:1"]}"#).await.status, 200);
    assert_eq!(post(&mirror, "gc", "").await.status, 200);
    assert!(is_whole(&mirror, &images[0]) && !is_whole(&mirror, &images[1]));
    outgoing.send(std::io::sink()).await.expect("is written whole");
    let collected = parsed(&post(&mirror, "gc", "").await);
    assert_eq!(collected["blobs"], 3, "nobody holds it any more");
    assert!(!is_stored(&mirror, &images[0].manifest.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_gets_its_room_from_what_is_older_and_never_more_than_there_is() {
    let (_registry, here, [app, other]) = running().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = |images: &[&str]| json!({ "images": images }).to_string();
    let large = post(&here, "export", bundle(&["app:1"])).await.body;
    let small = post(&here, "export", bundle(&["owner/other:2"])).await.body;

    let registry = Registry::start().await;
    let old = registry.add_image("library/old", "1", &[noise(190, 100_000)]);
    let limits = "store.max_size = \"176000B\"\nstore.min_free = \"0\"";
    let there = Settings::of(&registry).store_at(&folder.path().join("there")).config(limits).start().await;
    assert!(pull(&there, &old).await);
    there.advance(DAY);

    let refused = post(&there, "import", &large).await;
    assert_eq!((refused.status, &parsed(&refused)["code"]), (507, &json!("no-room")));
    assert!(is_whole(&there, &old), "nothing goes for what cannot come");
    let taken = parsed(&post(&there, "import", &small).await);
    assert_eq!((&taken["images"][0]["fate"], &taken["stored"]), (&json!("ready"), &json!(4)));
    assert!(is_whole(&there, &other) && !is_whole(&there, &old) && !is_whole(&there, &app));
    assert_eq!(unfinished(&there), 0);
    // Nothing stays promised: what needs nearly all the room gets it.
    there.advance(DAY);
    assert!(pull(&there, &old).await && is_whole(&there, &old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_leaves_nothing_half_done() {
    let (registry, here, [app, _]) = running().await;
    let folder = tempfile::tempdir().expect("a folder");
    let there = offline(&registry, folder.path()).await;
    let tar = post(&here, "export", json!({ "images": ["app:1"] }).to_string()).await.body;
    let mut stream = tokio::net::UnixStream::connect(there.socket()).await.expect("somebody listens");
    let head = format!(
        "POST /api/v1/import HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Registry-Mirror: 1\r\nContent-Length: {}\r\n\r\n",
        tar.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(&tar[..tar.len() - 1_000_000]).await.expect("writes");
    while unfinished(&there) == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while unfinished(&there) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!pull(&there, &app).await);
    // Sent again it is whole, and what came the first time need not be stored again.
    let taken = parsed(&post(&there, "import", &tar).await);
    assert_eq!(taken["images"][0]["fate"], "ready");
    assert!(pull(&there, &app).await);
}
