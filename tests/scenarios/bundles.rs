//! Bundles the whole way: pulled through one mirror, carried in a file, pulled through another that
//! has no upstream. The commands are run as a shell runs them.

use std::path::Path;

use scripted_registry::{Image, Registry, noise};
use tempfile::TempDir;

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const OCI: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

/// Runs a command on a store. Exit code, stdout and stderr.
fn run(store: &Path, arguments: &[&str]) -> (i32, String, String) {
    let store = store.to_str().expect("UTF-8");
    let (code, out, err) = command::run(&[arguments, &["--store", store]].concat(), b"");
    (code, String::from_utf8(out).expect("UTF-8"), err)
}

/// The body of everything an image consists of, as a client gets it. `None` where it does not.
async fn pull(mirror: &TestMirror, image: &Image, accept: &str) -> Option<Vec<Vec<u8>>> {
    let repository = &image.repository;
    let manifests = [
        format!("/v2/{repository}/manifests/{}", image.tag),
        format!("/v2/{repository}/manifests/{}", image.manifest.digest),
    ];
    let blobs = image.blobs().map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest));
    let mut bodies = Vec::new();
    for path in manifests.into_iter().chain(blobs) {
        let response = mirror.get_with(&path, &[("Accept", accept)]).await;
        if response.status != 200 {
            return None;
        }
        bodies.push(response.body.to_vec());
    }
    Some(bodies)
}

/// A mirror that pulled two images, and stopped; what the client got; and a folder for files.
async fn pulled() -> (Settings, [Image; 2], [Vec<Vec<u8>>; 2], TempDir) {
    let mut registry = Registry::start().await;
    let app = registry.add_image("library/app", "1", &[noise(71, 300_000), noise(72, 10)]);
    let other = registry.add_image("owner/other", "2", &[noise(73, 5000), noise(72, 10)]);
    let mirror = TestMirror::of(&registry).await;
    let bodies =
        [pull(&mirror, &app, OCI).await.expect("is pulled"), pull(&mirror, &other, OCI).await.expect("is pulled")];
    mirror.settled().await;
    let settings = mirror.stop().await;
    registry.stop().await;
    (settings, [app, other], bodies, tempfile::tempdir().expect("a folder"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_here_is_pulled_there_byte_for_byte_without_a_network() {
    let (here, images, bodies, folder) = pulled().await;
    let [bundle, receipt] = ["week.tar", "receipt"].map(|name| folder.path().join(name).display().to_string());
    let there = here.clone().store_at(&folder.path().join("there")).config("cache.mode = \"offline\"");

    let (code, out, err) =
        run(here.store(), &["export", "--used-since", "20years", "-o", &bundle, "--json", "--receipt", &receipt]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["images"], serde_json::json!(["docker.io/library/app:1", "docker.io/owner/other:2"]));

    let (code, out, err) = run(there.store(), &["import", &bundle]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("docker.io/library/app:1: ready"), "{err}");

    let mirror = there.start().await;
    for (image, bodies) in images.iter().zip(&bodies) {
        for accept in [
            OCI,
            "*/*",
            "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json",
        ] {
            assert!(pull(&mirror, image, accept).await.as_ref() == Some(bodies), "{}, for {accept}", image.repository);
        }
    }
    let settings = mirror.stop().await;

    let (code, _, err) = run(here.store(), &["export", "app:1", "-o", &bundle, "--since", &receipt]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("1 image, 0 blobs") && err.contains("the other side has them"), "{err}");
    let (code, _, err) = run(settings.store(), &["import", &bundle]);
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_bundle_is_not_there() {
    let (here, [app, other], _, folder) = pulled().await;
    let bundle = folder.path().join("app.tar").display().to_string();
    let (code, ..) = run(here.store(), &["export", "app:1", "-o", &bundle]);
    assert_eq!(code, 0);
    let there = here.clone().store_at(&folder.path().join("there")).config("cache.mode = \"offline\"");
    assert_eq!(run(there.store(), &["import", &bundle]).0, 0);
    let mirror = there.start().await;
    assert!(pull(&mirror, &app, OCI).await.is_some());
    assert!(pull(&mirror, &other, OCI).await.is_none());
    let shared = app.layers[1].digest;
    let path = format!("/v2/owner/other/blobs/{shared}");
    assert_eq!(mirror.get(&path).await.status, 503, "that a layer is here is no permission elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_scripts_how_it_went() {
    let (here, [app, _], _, folder) = pulled().await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (whole, none, half, bad) = (file("whole.tar"), file("none.tar"), file("half.tar"), file("bad.tar"));
    assert_eq!(run(here.store(), &["export", "-o", &none]).0, 2, "nothing is named");
    let (code, _, err) = run(here.store(), &["export", "nobody:1", "-o", &none]);
    assert_eq!(code, 5);
    assert!(err.contains("registry-mirror pull docker.io/library/nobody:1"), "{err}");
    assert!(!Path::new(&none).exists(), "a bundle that is not whole is not there");
    assert_eq!(run(here.store(), &["export", "nobody:1", "app:1", "-o", &whole]).0, 3);
    // What is no file stays what it is.
    let (link, pipe) = (file("link"), file("pipe"));
    std::os::unix::fs::symlink(&none, &link).expect("a link");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a pipe");
    for (odd, what) in
        [(link.as_str(), "a link"), (&pipe, "a pipe or a device"), ("/dev/null", "a device"), ("/tmp", "a folder")]
    {
        let before = std::fs::symlink_metadata(odd).expect("there").file_type();
        for line in [
            &["export", "app:1", "-o", odd][..],
            &["export", "app:1", "-o", &none, "--receipt", odd],
            &["import", &whole, "--receipt", odd],
        ] {
            let (code, _, err) = run(here.store(), line);
            assert!(code == 2 && err.contains(what), "{line:?}: {code} {err}");
        }
        assert_eq!(std::fs::symlink_metadata(odd).expect("still there").file_type(), before);
    }
    assert!(!Path::new(&none).exists());
    assert_eq!(run(here.store(), &["import", &whole, "--receipt", "-"]).0, 2, "that has the answer");
    // A file stays as open as it was.
    std::fs::write(&none, "").expect("writes");
    std::fs::set_permissions(&none, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("changes");
    assert_eq!(run(here.store(), &["export", "app:1", "-o", &none]).0, 0);
    let mode = |path: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).expect("there")) & 0o777;
    assert_eq!((mode(&none), mode(&whole)), (0o644, 0o600));

    let bytes = std::fs::read(&whole).expect("reads");
    std::fs::write(&half, &bytes[..bytes.len() / 2]).expect("writes");
    let mut flipped = bytes;
    // Within the last blob, which is smaller than a block; behind its block are the two that end a tar.
    let place = flipped.len() - 3 * 512 + 5;
    flipped[place] ^= 1;
    std::fs::write(&bad, flipped).expect("writes");
    let there = folder.path().join("there");
    assert_eq!(run(&there, &["import", &file("missing.tar")]).0, 1);
    let (code, _, err) = run(&there, &["import", &half]);
    assert_eq!(code, 6, "{err}");
    let (code, out, err) = run(&there, &["import", "--json", &bad]);
    assert_eq!(code, 6, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["bundles"][0]["damaged"].as_array().map(Vec::len), Some(1), "{report}");
    let (code, _, err) = run(&there, &["import", &whole]);
    assert_eq!(code, 0, "{err}");
    let (code, ..) = run(&there, &["import", "--receipt", &file("receipt")]);
    assert_eq!(code, 0);
    let receipt = std::fs::read_to_string(file("receipt")).expect("reads");
    assert!(app.blobs().all(|blob| receipt.contains(&blob.digest.to_string())), "{receipt}");
}
