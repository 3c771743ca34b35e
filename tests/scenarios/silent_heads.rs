//! Kind: HEAD stays without an answer where GET has one. It is asked for in the other way, too, and by HEAD no more for a
//! while.

use std::time::Duration;

use scripted_registry::{Gate, Image, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

const TAGS: &str = "/v2/library/app/tags/list";

fn tag(name: &str) -> String {
    format!("/v2/library/app/manifests/{name}")
}

/// A registry that does not answer HEAD, and a mirror of it that has not heard of it.
async fn silent_to_heads() -> (Registry, Gate, TestMirror, Image) {
    let registry = Registry::start().await;
    for (tag, seed) in [("1", 11), ("2", 12), ("3", 13)] {
        registry.add_image("library/app", tag, &[noise(seed, 1000)]);
    }
    let image = registry.add_image("library/app", "4", &[noise(14, 1000)]);
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any().head()).stall_before_headers(&gate));
    let mirror = TestMirror::of(&registry).await;
    tokio::time::pause();
    (registry, gate, mirror, image)
}

fn heads(registry: &Registry) -> usize {
    registry.count_of(&Match::any().head())
}

#[tokio::test]
async fn the_first_answer_ever_is_had_by_get_where_heads_stay_away() {
    for head in [false, true] {
        for kind in 0..3 {
            let (registry, _gate, mirror, image) = silent_to_heads().await;
            let manifest = tag(&image.manifest.digest.to_string());
            let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
            let path = [tag("1"), manifest, blob][kind].clone();
            let answer = if head { mirror.head(&path).await } else { mirror.get(&path).await };
            assert_eq!(answer.status, 200, "{path}, HEAD: {head}");
            assert_eq!(mirror.get(&path).await.status, 200, "{path}");
            assert_eq!(heads(&registry), usize::from(head), "{path}");
            tokio::time::resume();
        }
    }
}

#[tokio::test]
async fn a_tag_whose_head_stays_away_is_asked_for_by_get_the_next_time_and_so_is_everything_else() {
    let (registry, gate, mirror, image) = silent_to_heads().await;
    assert_eq!(mirror.get(&tag("1")).await.status, 200);
    assert_eq!(heads(&registry), 0, "it may be dead, and is asked for all of it at once");
    assert_eq!(mirror.get(&tag("2")).await.status, 200);
    assert_eq!(mirror.head(&tag("3")).await.status, 200);
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    assert_eq!(mirror.head(&blob).await.status, 200);
    assert_eq!(heads(&registry), 1);
    // Some day it may answer again.
    mirror.advance(Duration::from_secs(601));
    gate.open();
    assert_eq!(mirror.head(&tag("4")).await.status, 200);
    assert_eq!(heads(&registry), 2);
}

#[tokio::test]
async fn a_head_that_stays_away_where_others_are_answered_is_not_waited_for_to_the_end() {
    for head in [false, true] {
        let (registry, _gate, mirror, image) = silent_to_heads().await;
        assert_eq!(mirror.get(TAGS).await.status, 200);
        let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        for path in [tag("1"), tag("2"), tag(&image.manifest.digest.to_string()), blob] {
            let answer = if head { mirror.head(&path).await } else { mirror.get(&path).await };
            assert_eq!(answer.status, 200, "{path}");
        }
        assert_eq!(heads(&registry), 1, "HEAD: {head}");
        tokio::time::resume();
    }
}
