//! A stored manifest that cannot be read any more: everybody who speaks of its image says the same of
//! it, and what it may lead to stays.

use std::path::PathBuf;
use std::time::Duration;

use scripted_registry::{Digest, Image, Registry, client, noise};
use serde_json::{Value, json};

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const DAY: Duration = Duration::from_secs(86_400);
const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
const NAME: &str = "docker.io/library/app:1";

/// What became of the file of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rot {
    /// One bit of it is another.
    Flipped,
    /// JSON of the same length that says nothing.
    Shapeless,
    /// Its end is not there. The store sees that by itself and sets it aside.
    Cut,
    /// It is not there.
    Gone,
}

/// Which manifest that is.
#[derive(Clone, Copy, Debug)]
enum Which {
    /// Of an image that is in no index.
    Image,
    /// An index.
    Index,
    /// Of an image in an index.
    Child,
}

/// An image that was pulled whole and used again, and beside it one that was used once, in between.
struct Scene {
    _registry: Registry,
    mirror: TestMirror,
    /// All of the image.
    parts: Vec<Digest>,
    rotten: Digest,
    other: Image,
    /// What does not fit in without something else going, one after the other.
    fillers: [Digest; 2],
}

impl Scene {
    async fn of(rot: Rot, which: Which) -> Scene {
        let registry = Registry::start().await;
        let tag = if matches!(which, Which::Image) { "1" } else { "amd" };
        let amd = registry.add_image("library/app", tag, &[noise(701, 50_000)]);
        let arm = registry.add_image("library/app", "arm", &[noise(702, 50_000)]);
        let (top, images) = match which {
            Which::Image => (amd.manifest.clone(), vec![&amd]),
            _ => (registry.add_index("library/app", "1", &[(&amd, "amd64"), (&arm, "arm64")]), vec![&amd, &arm]),
        };
        let other = registry.add_image("library/other", "1", &[noise(703, 100_000)]);
        let fillers = [704, 705].map(|seed| registry.add_blob("library/filler", noise(seed, 100_000)));
        let room = if images.len() == 1 { 200_000 } else { 250_000 };
        let mirror = Settings::of(&registry).config(&format!("store.max_size = \"{room}B\"")).start().await;
        let get = async |path: String| {
            let response = mirror.get(&format!("/v2/library/{path}")).await;
            assert!(response.status == 200 && response.complete, "{path}");
            mirror.settled().await;
        };
        let manifests = async || {
            get("app/manifests/1".to_owned()).await;
            for image in &images {
                get(format!("app/manifests/{}", image.manifest.digest)).await;
            }
        };
        manifests().await;
        for blob in images.iter().flat_map(|image| image.blobs()) {
            get(format!("app/blobs/{}", blob.digest)).await;
        }
        mirror.advance(3 * DAY);
        get("other/manifests/1".to_owned()).await;
        for blob in other.blobs() {
            get(format!("other/blobs/{}", blob.digest)).await;
        }
        mirror.advance(2 * DAY);
        manifests().await;
        let parts = images.iter().flat_map(|image| image.blobs().chain([&image.manifest])).chain([&top]);
        let parts = parts.map(|part| part.digest).collect();
        let rotten = if matches!(which, Which::Child) { amd.manifest.digest } else { top.digest };
        let scene = Scene { _registry: registry, mirror, parts, rotten, other, fillers };
        scene.spoil(rot);
        scene
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.mirror.store().join("blobs/sha256").join(digest.hex())
    }

    /// Writes other bytes into the file of the manifest, as a disk does.
    #[allow(clippy::permissions_set_readonly_false)]
    fn spoil(&self, rot: Rot) {
        let file = self.file(&self.rotten);
        let mut bytes = std::fs::read(&file).unwrap();
        match rot {
            Rot::Flipped => bytes[20] ^= 1,
            Rot::Shapeless => bytes = format!("{{{:1$}}}", "", bytes.len() - 2).into_bytes(),
            Rot::Cut => bytes.truncate(bytes.len() / 2),
            Rot::Gone => return std::fs::remove_file(file).unwrap(),
        }
        let mut permissions = std::fs::metadata(&file).unwrap().permissions();
        permissions.set_readonly(false);
        std::fs::set_permissions(&file, permissions).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    async fn look(&self, path: &str) -> Value {
        let response = client::get(self.mirror.admin, &format!("/api/v1/{path}"), &CONSENT).await;
        assert_eq!(response.status, 200, "{path}: {:?}", response.body);
        serde_json::from_slice(&response.body).expect("JSON")
    }

    async fn act(&self, path: &str, body: Value) -> Value {
        let path = format!("/api/v1/{path}");
        let response = client::post(self.mirror.socket(), &path, &CONSENT, body.to_string()).await;
        assert_eq!(response.status, 200, "{path}: {:?}", response.body);
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// What everybody says of the image: whether all of it is there, and which manifests are damaged.
    async fn said(&self) -> Vec<(&'static str, bool, Value)> {
        let platforms = json!(["linux/amd64", "linux/arm64"]);
        let (one, all) = (json!({ "images": [NAME] }), json!({ "images": [NAME], "platforms": platforms }));
        let whole_index = self.parts.len() > 4;
        let ready = self.act("ready", if whole_index { all } else { one }).await["images"][0].clone();
        let images = self.look("images").await["images"].clone();
        let image = images.as_array().unwrap().iter().find(|image| image["image"] == NAME).expect("listed").clone();
        let detail = self.look(&format!("images/inspect?image={NAME}")).await;
        let complete = detail["images"].as_array().unwrap().iter().all(|image| image["complete"] == true);
        let garbage = self.act("gc", json!({ "dry_run": true })).await;
        let bundle = self.act("export", json!({ "images": [NAME], "dry_run": true })).await;
        let receipt = bundle["receipt"].as_array().unwrap();
        let exported = self.parts.iter().all(|part| receipt.contains(&json!(part.to_string())));
        vec![
            ("ready", ready["ready"] == true, ready["completeness"]["damaged"].clone()),
            ("images", image["state"] == "complete", image["damaged"].clone()),
            ("inspect", complete && detail["state"] == "complete", detail["damaged"].clone()),
            ("gc", garbage["unreadable"] == 0, garbage["damaged"].clone()),
            ("export", exported, bundle.pointer("/unavailable/0/damaged").cloned().unwrap_or_default()),
        ]
    }

    async fn fill(&self, with: &Digest) {
        assert!(self.mirror.get(&format!("/v2/library/filler/blobs/{with}")).await.complete);
        self.mirror.settled().await;
    }

    /// What of the image went, besides what was spoiled.
    fn lost(&self) -> Vec<&Digest> {
        self.parts.iter().filter(|part| **part != self.rotten && !self.file(part).exists()).collect()
    }
}

#[tokio::test]
async fn everybody_says_the_same_of_an_image_whose_manifest_cannot_be_read() {
    let mut wrong = Vec::new();
    for which in [Which::Image, Which::Index, Which::Child] {
        for rot in [Rot::Flipped, Rot::Shapeless, Rot::Cut, Rot::Gone] {
            let scene = Scene::of(rot, which).await;
            let damaged = matches!(rot, Rot::Flipped | Rot::Shapeless);
            let expected = if damaged { json!([scene.rotten.to_string()]) } else { json!([]) };
            for (who, whole, told) in scene.said().await {
                // A bundle of what is there says nothing of what is not.
                let told = if told.is_null() && !damaged { json!([]) } else { told };
                if whole || told != expected {
                    wrong.push(format!("{which:?} {rot:?}: {who}: whole {whole}, damaged {told}"));
                }
            }
            let garbage = scene.act("gc", json!({})).await;
            if garbage["blobs"] != 0 || !scene.lost().is_empty() {
                wrong.push(format!("{which:?} {rot:?}: gc took {}", garbage["digests"]));
            }
            let [first, second] = scene.fillers;
            scene.fill(&first).await;
            if !scene.lost().is_empty() || scene.other.blobs().all(|blob| scene.file(&blob.digest).exists()) {
                wrong.push(format!("{which:?} {rot:?}: evicted {} parts of it", scene.lost().len()));
            }
            // It goes when it is its turn, and then all of it.
            scene.mirror.advance(20 * DAY);
            scene.fill(&first).await;
            scene.fill(&second).await;
            if scene.parts.iter().any(|part| scene.file(part).exists()) {
                wrong.push(format!("{which:?} {rot:?}: a part of it stays for ever"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_call_it_damaged_and_pull_mends_it() {
    let scene = Scene::of(Rot::Shapeless, Which::Child).await;
    let admin = format!("unix:{}", scene.mirror.socket().display());
    let bundle = scene.mirror.store().join("bundle.tar").display().to_string();
    let run = async |arguments: &[&str]| {
        let arguments: Vec<String> =
            arguments.iter().chain(&["--admin", &admin]).map(|&word| word.to_owned()).collect();
        let work = move || command::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        let (code, out, err) = tokio::task::spawn_blocking(work).await.expect("ends");
        (code, String::from_utf8(out).expect("UTF-8") + &err)
    };
    let ready = ["ready", NAME, "--platform", "linux/amd64"];
    for (arguments, code) in [
        (&ready[..], 5),
        (&["images"], 0),
        (&["inspect", NAME], 0),
        (&["gc", "--dry-run"], 0),
        (&["export", NAME, "-o", &bundle], 5),
    ] {
        let (found, said) = run(arguments).await;
        assert!(found == code && said.contains("damaged"), "{arguments:?}: {found} {said}");
    }
    let (code, said) = run(&["pull", NAME, "--platform", "linux/amd64"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(run(&ready).await.0, 0);
    assert!(scene.said().await.iter().all(|(_, whole, _)| *whole), "{:?}", scene.said().await);
}
