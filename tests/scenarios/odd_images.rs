//! Images as registries really have them: commands and clients agree on what they consist of, and what cannot
//! be known is not taken for nothing.

use bytes::Bytes;
use scripted_registry::{Digest, Match, Registry, Rule, noise};
use serde_json::{Value, json};

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const APP: &str = "library/app";

async fn run(mirror: &TestMirror, arguments: &[&str]) -> (i32, String) {
    let admin = format!("unix:{}", mirror.socket().display());
    let arguments: Vec<String> = arguments.iter().chain(&["--admin", &admin]).map(|&word| word.to_owned()).collect();
    let work = move || command::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    let (code, out, err) = tokio::task::spawn_blocking(work).await.expect("ends");
    (code, String::from_utf8(out).expect("UTF-8") + &err)
}

fn entry(digest: &Digest, size: usize, media_type: &str) -> Value {
    json!({"digest": digest.to_string(), "size": size, "mediaType": media_type})
}

/// A blob, and what a manifest says of it.
fn blob(registry: &Registry, bytes: impl Into<Bytes>, media_type: &str) -> (Digest, Value) {
    let bytes = bytes.into();
    let digest = registry.add_blob(APP, bytes.clone());
    let entry = entry(&digest, bytes.len(), media_type);
    (digest, entry)
}

fn config(registry: &Registry, architecture: &str) -> Value {
    let config = json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
    blob(registry, config.to_string(), "application/vnd.oci.image.config.v1+json").1
}

/// A manifest under a tag, and what an index says of it.
fn manifest(registry: &Registry, tag: &str, text: String, media_type: &str) -> Value {
    let digest = registry.add_manifest(APP, &[tag], text.clone(), media_type);
    entry(&digest, text.len(), media_type)
}

/// An image of one layer; what an index says of it, and its layer.
fn image(registry: &Registry, tag: &str, architecture: &str, seed: u64) -> (Value, Digest) {
    let (layer, entry) = blob(registry, noise(seed, 1000), LAYER);
    let text =
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config(registry, architecture), "layers": [entry]});
    (manifest(registry, tag, text.to_string(), IMAGE), layer)
}

fn index(registry: &Registry, tag: &str, entries: &[&Value]) -> Value {
    let text = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    manifest(registry, tag, text.to_string(), INDEX)
}

/// Fetched by pull, ready afterwards, and served while upstream is away.
async fn is_pulled(registry: Registry, tag: &str, arguments: &[&str], layers: &[&Digest]) {
    let mirror = TestMirror::of(&registry).await;
    let name = format!("app:{tag}");
    let with = |command: &'static str| [&[command, name.as_str()], arguments].concat();
    let (code, said) = run(&mirror, &with("ready")).await;
    assert_eq!(code, 5, "cold: {said}");
    let (code, said) = run(&mirror, &with("pull")).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&mirror, &with("ready")).await;
    assert_eq!(code, 0, "{said}");
    registry.rule(Rule::on(Match::any()).close_at_once());
    for layer in layers {
        assert!(mirror.get(&format!("/v2/{APP}/blobs/{layer}")).await.complete, "{layer}");
    }
    let bundle = mirror.store().join("out.tar").display().to_string();
    let (code, said) = run(&mirror, &["export", &name, "-o", &bundle]).await;
    assert_eq!(code, 0, "export: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_of_an_index_entry_that_names_none_is_that_of_its_configuration() {
    for platform in [json!(null), json!({}), json!({"os": "linux"})] {
        let registry = Registry::start().await;
        let ((mut arm, other), (mut amd, layer)) =
            (image(&registry, "arm", "arm64", 1), image(&registry, "amd", "amd64", 2));
        if !platform.is_null() {
            (arm["platform"], amd["platform"]) = (platform.clone(), platform);
        }
        index(&registry, "1", &[&arm, &amd]);
        let mirror = TestMirror::of(&registry).await;
        let (code, said) = run(&mirror, &["pull", "app:1", "--platform", "linux/s390x"]).await;
        assert_eq!(code, 5, "{said}");
        assert!(said.contains("linux/amd64") && said.contains("linux/arm64"), "{said}");
        assert_eq!(run(&mirror, &["pull", "app:1", "--platform", "linux/amd64"]).await.0, 0);
        assert_eq!((registry.gets_of(&layer), registry.gets_of(&other)), (1, 0), "one platform is wanted");
        assert_eq!(run(&mirror, &["ready", "app:1", "--platform", "linux/amd64"]).await.0, 0);
        assert_eq!(run(&mirror, &["ready", "app:1", "--platform", "linux/arm64"]).await.0, 5);
        is_pulled(registry, "1", &["--platform", "linux/amd64"], &[&layer]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_parsers_of_other_programs_read_leniently_is_read_so() {
    for kind in 0..6 {
        let registry = Registry::start().await;
        let (layer, mut entry) = blob(&registry, noise(3, 1000), LAYER);
        let (other, second) = blob(&registry, noise(4, 1000), LAYER);
        let config = config(&registry, "amd64");
        match kind {
            0 => entry["annotations"] = json!({"x": null}),
            1 => drop(entry.as_object_mut().unwrap().remove("mediaType")),
            2 => entry["platform"] = json!({}),
            3 => entry["mediaType"] = json!(null),
            _ => {}
        }
        let text = match kind {
            4 => format!(r#"{{"schemaVersion":2,"Config":{config},"Layers":[{entry},{second}]}}"#),
            5 => format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{entry}],"layers":[{second}]}}"#),
            _ => format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{entry},{second}]}}"#),
        };
        manifest(&registry, "1", text, IMAGE);
        is_pulled(registry, "1", &[], &[&layer, &other]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_taken_for_nothing() {
    for odd in [
        json!({"digest": format!("blake3:{}", "0".repeat(64)), "size": 7, "mediaType": LAYER}),
        json!({"digest": format!("sha256:{}", "0".repeat(64)), "mediaType": LAYER}),
    ] {
        let registry = Registry::start().await;
        let (layer, entry) = blob(&registry, noise(5, 1000), LAYER);
        let text = json!({"schemaVersion": 2, "config": config(&registry, "amd64"), "layers": [entry, odd]});
        manifest(&registry, "1", text.to_string(), IMAGE);
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(&format!("/v2/{APP}/manifests/1")).await.status, 200, "clients may know better");
        let (code, said) = run(&mirror, &["pull", "app:1"]).await;
        assert_eq!((code, said.contains("cannot be read")), (3, true), "{odd}: {said}");
        assert_eq!(registry.gets_of(&layer), 1, "the rest is fetched");
        let (code, said) = run(&mirror, &["ready", "app:1"]).await;
        assert_eq!((code, said.contains("cannot be read")), (5, true), "{odd}: {said}");
    }
    // Nor is an index that comes as an image.
    let registry = Registry::start().await;
    let (amd, _) = image(&registry, "amd", "amd64", 6);
    let text = json!({"schemaVersion": 2, "manifests": [amd]}).to_string();
    manifest(&registry, "1", text, IMAGE);
    let mirror = TestMirror::of(&registry).await;
    assert_ne!(run(&mirror, &["pull", "app:1"]).await.0, 0);
    assert_eq!(run(&mirror, &["ready", "app:1"]).await.0, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_not_there_ends_no_walk() {
    for missing in 0..3 {
        let registry = Registry::start().await;
        let images = [("amd64", 7), ("arm64", 8), ("s390x", 9)].map(|(architecture, seed)| {
            let (mut entry, layer) = image(&registry, architecture, architecture, seed);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            (entry, layer)
        });
        index(&registry, "1", &images.each_ref().map(|(entry, _)| entry));
        let gone = images[missing].0["digest"].as_str().unwrap();
        registry.remove_manifest(APP, &gone.parse().unwrap());
        let mirror = TestMirror::of(&registry).await;
        // The second time nothing is fetched any more, and it is no less partly there.
        for _ in 0..2 {
            let (code, said) = run(&mirror, &["pull", "app:1", "--all-platforms"]).await;
            assert_eq!((code, said.contains(gone)), (3, true), "{missing}: {said}");
        }
        for (number, (_, layer)) in images.iter().enumerate() {
            assert_eq!(registry.gets_of(layer), usize::from(number != missing), "{missing} {number}");
        }
        assert_eq!(run(&mirror, &["ready", "app:1", "--all-platforms"]).await.0, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_refused_in_whatever_way_ends_no_walk() {
    for refusal in [401, 403, 451, 500, 200] {
        let registry = Registry::start().await;
        let images = [("amd64", 7), ("arm64", 8)].map(|(architecture, seed)| {
            let (mut entry, layer) = image(&registry, architecture, architecture, seed);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            (entry, layer)
        });
        index(&registry, "1", &images.each_ref().map(|(entry, _)| entry));
        let refused = images[0].0["digest"].as_str().unwrap();
        let rule = Rule::on(Match::manifest(APP, refused));
        registry.rule(match refusal {
            200 => rule.answer(200, "text/html", "<html>Please log in</html>"),
            status => rule.refuse(status),
        });
        let mirror = TestMirror::of(&registry).await;
        let (code, said) = run(&mirror, &["pull", "app:1", "--all-platforms"]).await;
        assert_eq!((code, said.contains(refused)), (3, true), "{refusal}: {said}");
        assert_eq!((registry.gets_of(&images[0].1), registry.gets_of(&images[1].1)), (0, 1), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_deep_keeps_nothing_back_that_is_not() {
    let registry = Registry::start().await;
    let (mut deep, _) = image(&registry, "deep", "arm64", 15);
    for level in 0..9 {
        deep = index(&registry, &format!("level{level}"), &[&deep]);
    }
    let (good, layer) = image(&registry, "good", "amd64", 16);
    index(&registry, "1", &[&deep, &good]);
    let mirror = TestMirror::of(&registry).await;
    let (code, said) = run(&mirror, &["pull", "app:1", "--all-platforms"]).await;
    assert_eq!((code, said.contains("nested more than 8 deep")), (3, true), "{said}");
    assert_eq!(registry.gets_of(&layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_nothing_is_made_for_no_platform() {
    let registry = Registry::start().await;
    index(&registry, "1", &[]);
    let mirror = TestMirror::of(&registry).await;
    let (code, said) = run(&mirror, &["pull", "app:1"]).await;
    assert_eq!((code, said.contains("its index names no platform")), (5, true), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_an_index_lists_are_fetched_as_blobs() {
    for arguments in [&[][..], &["--all-platforms"]] {
        let registry = Registry::start().await;
        let (one, first) = blob(&registry, noise(10, 1000), "application/vnd.oci.image.layer.v1.tar+gzip");
        let (two, second) = blob(&registry, noise(11, 1000), "application/vnd.docker.image.rootfs.diff.tar.gzip");
        let (state, last) = blob(&registry, "{}", "application/vnd.buildkit.cacheconfig.v0");
        index(&registry, "1", &[&first, &second, &last]);
        // Fault 10 on the way: a question for them among the manifests.
        registry.rule(Rule::on(Match::manifest(APP, &one.to_string())).refuse(404));
        is_pulled(registry, "1", arguments, &[&one, &two, &state]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_within_indexes_are_followed_to_a_stated_depth() {
    for (levels, expected) in [(1, 0), (4, 0), (8, 0), (9, 1), (20, 1)] {
        let registry = Registry::start().await;
        let (mut inner, layer) = image(&registry, "inner", "amd64", 12);
        for level in 0..levels {
            inner = index(&registry, &format!("level{level}"), &[&inner]);
        }
        let tag = format!("level{}", levels - 1);
        if expected == 0 {
            is_pulled(registry, &tag, &[], &[&layer]).await;
            continue;
        }
        let mirror = TestMirror::of(&registry).await;
        let (code, said) = run(&mirror, &["pull", &format!("app:{tag}")]).await;
        assert_eq!((code, said.contains("nested more than 8 deep")), (expected, true), "{levels}: {said}");
        let (code, said) = run(&mirror, &["ready", &format!("app:{tag}")]).await;
        assert_eq!((code, said.contains("nested more than 8 deep")), (5, true), "{levels}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_with_urls_come_from_the_registry_or_are_said_to_be_missing() {
    for foreign in [LAYER, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"] {
        for there in [true, false] {
            let (registry, elsewhere) = (Registry::start().await, Registry::start().await);
            let (layer, mut entry) = blob(&registry, noise(13, 1000), foreign);
            elsewhere.add_blob(APP, noise(13, 1000));
            entry["urls"] = json!([format!("{}/v2/{APP}/blobs/{layer}", elsewhere.url())]);
            let text = json!({"schemaVersion": 2, "config": config(&registry, "amd64"), "layers": [entry]});
            manifest(&registry, "1", text.to_string(), IMAGE);
            if there {
                is_pulled(registry, "1", &[], &[&layer]).await;
            } else {
                registry.remove_blob(APP, &layer);
                let mirror = Settings::of(&registry).start().await;
                let (code, said) = run(&mirror, &["pull", "app:1"]).await;
                assert_eq!((code, said.contains(&layer.to_string())), (3, true), "{said}");
                assert_eq!(run(&mirror, &["ready", "app:1"]).await.0, 5);
            }
            assert!(elsewhere.requests().is_empty());
        }
    }
}
