//! Tags that move and go back, and clients that accept other types than those before them.

use std::time::Duration;

use registry_mirror::oci::descriptor::DOCKER_MANIFEST;
use scripted_registry::{Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

fn moves(metrics: &str) -> [&str; 2] {
    ["move", "rollback"].map(|kind| {
        let series = format!("mirror_tag_moves_total{{kind=\"{kind}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).expect("the series is there from the start")
    })
}

#[tokio::test]
async fn a_tag_that_moves_and_goes_back_is_counted_once_each_whoever_asks() {
    let registry = Registry::start().await;
    let one = registry.add_image("library/app", "1", &[noise(61, 1000)]);
    let two = registry.add_image("library/app", "2", &[noise(62, 1000)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    let oci = one.manifest.media_type.to_string();
    let both = format!("{oci}, {DOCKER_MANIFEST}");
    let everybody = async || {
        for accept in [&oci, &both, &oci] {
            mirror.advance(Duration::from_secs(1));
            assert_eq!(mirror.get_with(PATH, &[("Accept", accept)]).await.status, 200);
        }
        mirror.metrics().await
    };
    assert_eq!(moves(&everybody().await), ["0", "0"]);
    registry.move_tag("library/app", "1", &two.manifest.digest);
    assert_eq!(moves(&everybody().await), ["1", "0"]);
    registry.move_tag("library/app", "1", &one.manifest.digest);
    assert_eq!(moves(&everybody().await), ["1", "1"]);
}

#[tokio::test]
async fn in_an_outage_a_client_gets_what_others_were_told_if_it_can_read_that() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(63, 1000)]);
    let digest = image.manifest.digest.to_string();
    let oci = image.manifest.media_type.to_string();
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get_with(PATH, &[("Accept", &oci)]).await.status, 200);
    registry.stop().await;
    let both = format!("{oci}, {DOCKER_MANIFEST}");
    let stale = mirror.get_with(PATH, &[("Accept", &both)]).await;
    assert_eq!((stale.status, stale.header("docker-content-digest")), (200, Some(digest.as_str())));
    assert!(stale.header("cache-status").unwrap().contains("stale"));
    assert_eq!(mirror.get_with(PATH, &[("Accept", DOCKER_MANIFEST)]).await.status, 503);
}
