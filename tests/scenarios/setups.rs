//! The worked set-ups in `examples/`: their configurations are valid, and what their texts promise is so.

use std::path::Path;
use std::time::Duration;

use registry_mirror::access::Access;
use registry_mirror::config::{Config, Limit, Overrides};
use registry_mirror::metadata::sled::SledMetadata;
use registry_mirror::metadata::{Location, MetadataStore as _, Pin};
use registry_mirror::oci::Reference;
use scripted_registry::{Image, Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

const CLOUD_FOUNDRY: &str = include_str!("../../examples/cloud-foundry/mirror.toml");
const PRIVATE: [(&str, Access); 3] = [
    (include_str!("../../examples/cloud-foundry/mapped.toml"), Access::Mapped),
    (include_str!("../../examples/cloud-foundry/pass-through.toml"), Access::PassThrough),
    (include_str!("../../examples/ci/mirror.toml"), Access::Mapped),
];
const WORKSTATION: &str = include_str!("../../examples/workstation/mirror.toml");

fn parse(text: &str) -> Config {
    let home = [("HOME".to_owned(), "/home/someone".to_owned())];
    Config::parse(Path::new("mirror.toml"), text, home, Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_configurations_are_valid_and_say_what_their_texts_say() {
    let config = parse(CLOUD_FOUNDRY);
    assert_eq!(config.store.path, Path::new("/var/vcap/store/registry-mirror"));
    assert_eq!((config.store.max_size, config.store.min_free), (Limit::Percent(90), Limit::Bytes(100_000_000)));
    assert_eq!(config.cache.policy.stale_if_error, Duration::from_secs(400 * 86_400));
    let config = parse(WORKSTATION);
    assert_eq!(config.cache.policy.mode.as_str(), "prefer-cache");
    assert!(config.server.listen.iter().all(|listen| format!("{listen:?}").contains("127.0.0.1")), "for this machine");
    // What is pulled through these: tests/clients/set_ups.rs.
    for (text, access) in PRIVATE {
        let config = parse(text);
        let upstream = config.upstreams.iter().find(|upstream| upstream.host.as_str() == "registry.example");
        assert_eq!(upstream.map(|upstream| upstream.access), Some(access));
        assert!(config.server.tls.is_some(), "passwords and tokens come by TLS");
    }
}

/// The cache of the example, with a store of a thousandth of 2 GB.
fn scaled(registry: &Registry) -> Settings {
    let example: toml::Table = toml::from_str(CLOUD_FOUNDRY).expect("TOML");
    let cache = example["cache"].as_table().expect("a section");
    let lines: Vec<String> = cache.iter().map(|(key, value)| format!("cache.{key} = {value}")).collect();
    Settings::of(registry)
        .config(&lines.join("\n"))
        .config(&format!("store.max_size = \"{}B\"\nstore.min_free = \"0\"", VOLUME * 9 / 10))
}

/// In bytes.
const VOLUME: u64 = 2_000_000;

async fn pull(mirror: &TestMirror, image: &Image) -> bool {
    let manifest = mirror.get(&format!("/docker.io/v2/{}/manifests/{}", image.repository, image.tag)).await;
    let mut whole = manifest.status == 200 && manifest.complete;
    for blob in image.blobs() {
        let response = mirror.get(&format!("/docker.io/v2/{}/blobs/{}", image.repository, blob.digest)).await;
        whole &= response.status == 200 && response.complete && response.body.len() as u64 == blob.size;
    }
    mirror.settled().await;
    whole
}

/// Bytes of everything below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[tokio::test]
async fn what_is_staged_restarts_and_scales_while_docker_hub_is_away_on_a_volume_that_is_never_overrun() {
    let mut registry = Registry::start().await;
    let staged = registry.add_image("library/staged", "1", &[noise(81, 400_000), noise(82, 200_000)]);
    let settings = scaled(&registry);
    let pin = Pin {
        location: Location {
            upstream: "docker.io".parse().expect("valid"),
            repository: staged.repository.parse().expect("valid"),
        },
        reference: Reference::Tag(staged.tag.parse().expect("valid")),
    };
    SledMetadata::open(settings.store()).pin(&pin).expect("pins");
    let mirror = settings.start().await;
    assert!(pull(&mirror, &staged).await);

    let blobs = mirror.store().join("blobs");
    for number in 0..30 {
        mirror.advance(Duration::from_secs(3600));
        let other = registry.add_image(&format!("owner/app{number}"), "1", &[noise(900 + number, 150_000)]);
        assert!(pull(&mirror, &other).await, "what does not fit is passed through");
        let used = bytes_below(&blobs) + bytes_below(&mirror.store().join("ingest"));
        assert!(used <= VOLUME * 9 / 10, "{used} bytes after {number} more images");
    }

    registry.stop().await;
    mirror.advance(Duration::from_secs(300 * 86_400));
    let mirror = mirror.restart().await;
    for _instance in 0..5 {
        assert!(pull(&mirror, &staged).await);
    }
}

const DASHBOARD: &str = include_str!("../../examples/compose/grafana/dashboards/registry-mirror.json");

/// The names of our metrics in a query.
fn metrics_in(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("mirror_"))
}

#[tokio::test]
async fn every_metric_of_the_dashboard_is_there() {
    let registry = Registry::start().await;
    registry.limit_pulls(100, 50);
    let image = registry.add_image("library/app", "1", &[noise(241, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    mirror.get("/v2/library/app/manifests/1").await;
    for blob in image.blobs() {
        mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await;
    }
    mirror.settled().await;
    let text = mirror.metrics().await;
    let there = |name: &str| {
        let series = text.lines().filter_map(|line| line.strip_prefix(name));
        series.into_iter().any(|rest| rest.starts_with([' ', '{']))
    };
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("a list");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert!(queries.len() >= 20);
    for query in queries {
        assert!(metrics_in(query).count() > 0, "{query}");
        for name in metrics_in(query) {
            assert!(there(name), "{name} of {query} is not in\n{text}");
        }
        // A label that no series has makes an empty panel, too.
        let grouped = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        // Prometheus itself says of which instance a series is.
        let labels = grouped.flat_map(|labels| labels.split(',')).filter(|label| label.trim() != "instance");
        for label in labels {
            assert!(text.contains(&format!("{}=\"", label.trim())), "{label} of {query}");
        }
    }
}
