//! What is kept of private images: damaged and fetched again, carried in by a bundle, counted. None of it is a way round
//! what the upstream says to who asks.

use std::collections::BTreeSet;

use scripted_registry::{Digest, noise};

use crate::access_mapped::basic;
use crate::access_passing::{ask, paths, pull, scene};
use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

/// Runs a command on a thread of its own.
pub(crate) async fn run(line: String) {
    let work = move || command::run(&line.split(' ').collect::<Vec<_>>(), b"");
    let (code, _, err) = tokio::task::spawn_blocking(work).await.expect("ends");
    assert_eq!(code, 0, "{err}");
}

#[tokio::test]
async fn what_is_damaged_of_a_private_image_comes_again_by_who_may_have_it_and_for_nobody_else() {
    let (registry, image, mirror) = scene("").await;
    let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!(pull(&mirror, &image, &ann).await, all);
    mirror.settled().await;
    let layer = image.layers[0].digest;
    let file = mirror.store().join("blobs/sha256").join(layer.hex());
    let other = file.with_extension("other");
    std::fs::write(&other, noise(1, 200_000)).expect("written");
    std::fs::rename(&other, &file).expect("in its place");
    registry.forget_requests();
    assert_eq!(mirror.mirror.scrub_once(0).await, 1);
    let shown: Vec<_> =
        registry.requests().iter().filter_map(|sent| sent.header("authorization").map(str::to_owned)).collect();
    assert!(!shown.iter().any(|shown| shown.starts_with("Basic")), "nobody asked, and nobody's credential is kept");
    assert!(!file.exists(), "what is damaged is served to nobody");
    let path = format!("/v2/team/private/blobs/{layer}?ns=a.example");
    for shown in ["", "Bearer made-up", &basic("eve", "eve")] {
        assert_eq!(ask(&mirror, "GET", &path, shown).await.status, 401, "{shown}");
    }
    let given = ask(&mirror, "GET", &path, &bob).await;
    assert!(given.complete && Digest::of(layer.algorithm(), &given.body) == layer);
    mirror.settled().await;
    assert!(file.exists(), "it is kept again");
    assert_eq!(pull(&mirror, &image, &ann).await, all);
    assert_eq!(ask(&mirror, "GET", &path, "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_that_a_bundle_brought_is_given_to_who_may_have_it_and_to_nobody_else() {
    let (registry, image, here) = scene("").await;
    let ann = basic("ann", "ann");
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!(pull(&here, &image, &ann).await, all);
    here.settled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("private.tar").display().to_string();
    let socket = |mirror: &TestMirror| format!("--admin unix:{}", mirror.socket().display());
    run(format!("export a.example/team/private:1 -o {bundle} {}", socket(&here))).await;
    let settings = Settings::of(&registry).store_at(&folder.path().join("there"));
    let there = settings.and("a.example", &registry).having("access = \"pass-through\"").start().await;
    run(format!("import {bundle} {}", socket(&there))).await;
    registry.forget_requests();
    for shown in ["", "Bearer made-up", &basic("eve", "eve")] {
        assert_eq!(pull(&there, &image, shown).await, vec![401; all.len()], "{shown}");
    }
    assert_eq!(pull(&there, &image, &ann).await, all);
    assert!(image.blobs().all(|blob| registry.gets_of(&blob.digest) == 0), "its bytes came by the bundle");
    // Whoever had no yes here gets none while nobody can say it.
    let offline = there.stop().await.reconfigured("cache.mode = \"offline\"").start().await;
    for shown in ["", &basic("bob", "bob"), &basic("eve", "eve")] {
        let statuses = pull(&offline, &image, shown).await;
        assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{shown}: {statuses:?}");
    }
}

#[tokio::test]
async fn what_is_counted_names_upstreams_that_are_configured_and_neither_callers_nor_what_they_ask_for() {
    let (_registry, image, mirror) = scene("").await;
    let (ann, eve) = (basic("ann", "ann"), basic("eve", "eve"));
    for shown in [ann.as_str(), &eve, "", "Bearer made-up"] {
        pull(&mirror, &image, shown).await;
        ask(&mirror, "GET", "/v2/team/private/manifests/1?ns=elsewhere.example", shown).await;
        ask(&mirror, "GET", "/v2/elsewhere.example/team/private/manifests/1", shown).await;
    }
    mirror.settled().await;
    let metrics = mirror.metrics().await;
    let digest = image.manifest.digest.to_string();
    for word in ["team/", "elsewhere.example", "\"ann", ":ann", "\"eve", ":eve", &digest] {
        assert!(!metrics.contains(word), "{word}");
    }
    let named = metrics.split("upstream=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let named: BTreeSet<_> = named.filter(|name| !name.is_empty()).collect();
    assert!(named.contains("a.example"), "{named:?}");
    let well_known =
        "ghcr.io quay.io registry.k8s.io gcr.io mcr.microsoft.com public.ecr.aws registry.gitlab.com nvcr.io";
    let configured: BTreeSet<_> =
        ["docker.io", "a.example", "none", "other"].into_iter().chain(well_known.split(' ')).collect();
    assert!(named.is_subset(&configured), "{named:?}");
}
