//! A daemon in front of a scripted registry, with pulls that happened, and its page.

use std::path::{Path, PathBuf};

use scripted_registry::{Image, Registry, client, noise};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::mirror::{Settings, TestMirror};

pub(super) const TOKEN: &str = "a token of 24 characters";
pub(super) const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];

/// Pulls as a client does.
pub(super) async fn pull(mirror: &TestMirror, repository: &str, tag: &str, image: &Image) {
    let below = format!("/v2/{repository}");
    assert_eq!(mirror.get(&format!("{below}/manifests/{tag}")).await.status, 200);
    assert_eq!(mirror.get(&format!("{below}/manifests/{}", image.manifest.digest)).await.status, 200);
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("{below}/blobs/{}", blob.digest)).await.status, 200);
        mirror.settled().await;
    }
}

pub(super) struct Site {
    pub(super) registry: Registry,
    pub(super) mirror: TestMirror,
    pub(super) arm64: Image,
    _folder: TempDir,
}

impl Site {
    /// With an index of which one platform is stored, an image that is stored whole, and one that is pinned and
    /// was never fetched; Docker Hub counts pulls.
    pub(super) async fn start() -> Site {
        Site::start_with(|_| String::new()).await
    }

    /// The same with further lines of configuration, which may name files in a folder.
    pub(super) async fn start_with(config: impl FnOnce(&Path) -> String) -> Site {
        let registry = Registry::start().await;
        registry.limit_pulls(100, 87);
        let shared = noise(701, 400_000);
        let amd64 = registry.add_image("library/redis", "amd64", &[shared.clone(), noise(702, 300_000)]);
        let arm64 = registry.add_image("library/redis", "arm64", &[shared.clone(), noise(703, 200_000)]);
        registry.add_index("library/redis", "7", &[(&amd64, "amd64"), (&arm64, "arm64")]);
        let app = registry.add_image("acme/api", "2.1", &[shared, noise(704, 5000)]);
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let config = format!(
            "server.admin_token = \"file:{}\"\ncache.prefetch = \"0\"\n{}",
            token.display(),
            config(folder.path())
        );
        let mirror = Settings::of(&registry).config(&config).start_now().await;
        let site = Site { registry, mirror, arm64, _folder: folder };
        for _ in 0..3 {
            pull(&site.mirror, "library/redis", "7", &amd64).await;
        }
        pull(&site.mirror, "acme/api", "2.1", &app).await;
        site.act("pin", &json!({ "images": ["ghcr.io/acme/never:1"] })).await;
        site
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.mirror.admin)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.mirror.socket()
    }

    pub(super) async fn look(&self, path: &str) -> Value {
        let answer = client::get(self.socket(), &format!("/api/v1/{path}"), &CONSENT).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub(super) async fn act(&self, act: &str, order: &Value) -> Value {
        let answer = client::post(self.socket(), &format!("/api/v1/{act}"), &CONSENT, order.to_string()).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// What is known of one image of the list.
    pub(super) async fn image(&self, name: &str) -> Value {
        let images = self.look("images").await;
        let found = images["images"].as_array().unwrap().iter().find(|image| image["image"] == name);
        found.unwrap_or_else(|| panic!("{name}: {images:#}")).clone()
    }

    /// The sum of a series over the labels that `wanted` likes.
    pub(super) async fn metric(&self, series: &str, wanted: impl Fn(&str) -> bool) -> f64 {
        let metrics = self.mirror.metrics().await;
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(series)?.rsplit_once(' '));
        lines.filter(|(labels, _)| wanted(labels)).map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    /// The same of what the store holds, as soon as that was told.
    pub(super) async fn store_used(&self) -> f64 {
        loop {
            let used = self.metric("mirror_store_used_bytes", |_| true).await;
            // The gauge lags behind.
            if self.look("status").await["store"]["used_bytes"].as_f64() == Some(used) {
                return used;
            }
        }
    }
}
