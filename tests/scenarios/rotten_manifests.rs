//! A stored manifest that cannot be read any more: everybody who speaks of its image says the same of
//! it, and what it may lead to stays.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
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
    /// Its end is not there.
    Cut,
    /// There is one byte behind its end.
    Longer,
    /// There are no bytes in it.
    Empty,
    /// A folder is in its place.
    Folder,
    /// A link that leads nowhere is in its place.
    Link,
    /// Nobody may read it. Root may all the same, so that it is a socket then, which nobody can.
    Closed,
    /// It is not there.
    Gone,
}

impl Rot {
    const ALL: [Rot; 9] = [
        Rot::Flipped,
        Rot::Shapeless,
        Rot::Cut,
        Rot::Longer,
        Rot::Empty,
        Rot::Folder,
        Rot::Link,
        Rot::Closed,
        Rot::Gone,
    ];

    /// What becomes of a file.
    #[allow(clippy::permissions_set_readonly_false)]
    fn befall(self, file: &Path) {
        let mut bytes = std::fs::read(file).unwrap();
        let mut permissions = std::fs::metadata(file).unwrap().permissions();
        permissions.set_readonly(false);
        std::fs::set_permissions(file, permissions.clone()).unwrap();
        match self {
            Rot::Flipped => bytes[20] ^= 1,
            Rot::Shapeless => bytes = format!("{{{:1$}}}", "", bytes.len() - 2).into_bytes(),
            Rot::Cut => bytes.truncate(bytes.len() / 2),
            Rot::Longer => bytes.push(b'\n'),
            Rot::Empty => bytes.clear(),
            Rot::Folder | Rot::Link | Rot::Closed | Rot::Gone => {
                std::fs::remove_file(file).unwrap();
                match self {
                    Rot::Folder => std::fs::create_dir(file).unwrap(),
                    Rot::Link => std::os::unix::fs::symlink("nowhere", file).unwrap(),
                    Rot::Closed => {
                        std::fs::write(file, bytes).unwrap();
                        permissions.set_mode(0o000);
                        std::fs::set_permissions(file, permissions).unwrap();
                        if std::fs::read(file).is_ok() {
                            std::fs::remove_file(file).unwrap();
                            drop(UnixListener::bind(file).unwrap());
                        }
                    }
                    _ => {}
                }
                return;
            }
        }
        std::fs::write(file, bytes).unwrap();
    }
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
    async fn of(which: Which) -> Scene {
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
        let room = if images.len() == 1 { 300_000 } else { 360_000 };
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
        Scene { _registry: registry, mirror, parts, rotten, other, fillers }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.mirror.store().join("blobs/sha256").join(digest.hex())
    }

    /// Stops, starts again, and goes on with what `meanwhile` left of the store.
    async fn restarted(self, meanwhile: impl FnOnce(&Path)) -> Scene {
        Scene { mirror: self.mirror.restart_after(meanwhile).await, ..self }
    }

    /// Which blobs `verify` calls damaged.
    async fn verified(&self) -> Vec<String> {
        let response = client::post(self.mirror.socket(), "/api/v1/verify", &CONSENT, "{}").await;
        let lines = String::from_utf8(response.body.to_vec()).expect("UTF-8");
        let findings = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let damaged = findings.filter(|finding: &Value| finding["event"] == "damaged");
        damaged.map(|finding| finding["digest"].as_str().unwrap().to_owned()).collect()
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

    /// An image in the list of all.
    async fn listed(&self, name: &str) -> Value {
        let images = self.look("images").await["images"].clone();
        images.as_array().unwrap().iter().find(|image| image["image"] == name).expect("listed").clone()
    }

    /// What everybody says of the image: whether all of it is there, and which manifests are damaged.
    async fn said(&self) -> Vec<(&'static str, bool, Value)> {
        let platforms = json!(["linux/amd64", "linux/arm64"]);
        let (one, all) = (json!({ "images": [NAME] }), json!({ "images": [NAME], "platforms": platforms }));
        let whole_index = self.parts.len() > 4;
        let ready = self.act("ready", if whole_index { all } else { one }).await["images"][0].clone();
        let image = self.listed(NAME).await;
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

    /// Who says what of the image that everybody should not say.
    async fn wrong(&self, rot: Rot, moment: &str) -> Vec<String> {
        let expected = if rot == Rot::Gone { json!([]) } else { json!([self.rotten.to_string()]) };
        let mut wrong = Vec::new();
        for (who, whole, told) in self.said().await {
            // A bundle of what is there says nothing of what is not.
            let told = if told.is_null() && rot == Rot::Gone { json!([]) } else { told };
            if whole || told != expected {
                wrong.push(format!("{rot:?} {moment}: {who}: whole {whole}, damaged {told}"));
            }
        }
        wrong
    }

    /// The same before and after everything was read.
    async fn wrong_with_verify(&self, rot: Rot, moment: &str) -> Vec<String> {
        let mut wrong = self.wrong(rot, moment).await;
        for time in ["first", "second"] {
            let damaged = self.verified().await;
            if damaged.len() != usize::from(rot != Rot::Gone) || damaged.iter().any(|it| *it != self.rotten.to_string())
            {
                wrong.push(format!("{rot:?} {moment}: {time} verify: damaged {damaged:?}"));
            }
        }
        wrong.extend(self.wrong(rot, &format!("{moment}, verified")).await);
        wrong
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

const EACH: [Which; 3] = [Which::Image, Which::Index, Which::Child];

#[tokio::test]
async fn everybody_says_the_same_of_an_image_whose_manifest_cannot_be_read() {
    let mut wrong = Vec::new();
    for (which, rot) in EACH.into_iter().flat_map(|which| Rot::ALL.map(|rot| (which, rot))) {
        let scene = Scene::of(which).await;
        rot.befall(&scene.file(&scene.rotten));
        wrong.extend(scene.wrong_with_verify(rot, &format!("{which:?}")).await);
        let scene = scene.restarted(|_| ()).await;
        wrong.extend(scene.wrong_with_verify(rot, &format!("{which:?}, restarted")).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn everybody_says_the_same_of_what_rotted_while_nobody_looked() {
    let mut wrong = Vec::new();
    for (which, rot) in EACH.into_iter().flat_map(|which| Rot::ALL.map(|rot| (which, rot))) {
        let again: &[bool] = if matches!(which, Which::Image) { &[false, true] } else { &[true] };
        for &without_index in again {
            let scene = Scene::of(which).await;
            let file = scene.file(&scene.rotten);
            let scene = scene.restarted(|store| {
                rot.befall(&file);
                if without_index {
                    std::fs::remove_dir_all(store.join("metadata")).unwrap();
                }
            });
            let scene = scene.await;
            // The index knows of uses as soon as it was brought up to date.
            while scene.listed("docker.io/library/other:1").await["used_at"].is_null() {
                tokio::task::yield_now().await;
            }
            let moment = format!("{which:?}, {}", if without_index { "index lost" } else { "restarted" });
            wrong.extend(scene.wrong_with_verify(rot, &moment).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_a_manifest_that_cannot_be_read_may_lead_to_stays_with_it_and_goes_with_it() {
    let mut wrong = Vec::new();
    for (which, rot) in EACH.into_iter().flat_map(|which| Rot::ALL.map(|rot| (which, rot))) {
        let scene = Scene::of(which).await;
        rot.befall(&scene.file(&scene.rotten));
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
        if scene.parts.iter().any(|part| scene.file(part).symlink_metadata().is_ok()) {
            wrong.push(format!("{which:?} {rot:?}: a part of it stays for ever"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_call_it_damaged_and_pull_mends_it() {
    for rot in Rot::ALL.into_iter().filter(|rot| *rot != Rot::Gone) {
        let scene = Scene::of(Which::Child).await;
        rot.befall(&scene.file(&scene.rotten));
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
            (&["verify"], 6),
        ] {
            let (found, said) = run(arguments).await;
            assert!(found == code && said.contains("damaged"), "{rot:?} {arguments:?}: {found} {said}");
        }
        let (code, said) = run(&["pull", NAME, "--platform", "linux/amd64"]).await;
        assert_eq!(code, 0, "{rot:?}: {said}");
        assert_eq!(run(&ready).await.0, 0, "{rot:?}");
        assert!(scene.said().await.iter().all(|(_, whole, _)| *whole), "{rot:?}: {:?}", scene.said().await);
    }
}

/// What hangs on a layer is nothing, so it is not the collector's business.
#[tokio::test]
async fn a_layer_that_is_damaged_is_called_so_as_soon_as_that_shows() {
    let mut wrong = Vec::new();
    for rot in Rot::ALL {
        let mut scene = Scene::of(Which::Image).await;
        scene.rotten = scene.parts[1];
        rot.befall(&scene.file(&scene.rotten));
        let keeps_its_length = matches!(rot, Rot::Flipped | Rot::Shapeless);
        for moment in ["at first", "verified"] {
            if !keeps_its_length || moment == "verified" {
                wrong.extend(scene.wrong(rot, moment).await.into_iter().filter(|told| !told.contains(": gc: ")));
            }
            let damaged = scene.verified().await;
            if damaged.len() != usize::from(rot != Rot::Gone) {
                wrong.push(format!("{rot:?} {moment}: verify: {damaged:?}"));
            }
        }
        let scene = scene.restarted(|_| ()).await;
        wrong.extend(scene.wrong(rot, "restarted").await.into_iter().filter(|told| !told.contains(": gc: ")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
