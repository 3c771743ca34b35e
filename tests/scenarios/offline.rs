//! Without a network: what was fetched ahead, what is missing, and what is refused.

use std::time::Duration;

use registry_mirror::documents::{Failure, PullEvent};
use registry_mirror::graph::image::Platforms;
use registry_mirror::oci::{ImageName, Platform};
use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use tokio::sync::mpsc;

use crate::support::known;
use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

fn app() -> ImageName {
    "app:1".parse().expect("a name")
}

fn amd64() -> Platforms {
    Platforms::Only(vec!["linux/amd64".parse::<Platform>().expect("a platform")])
}

/// Fetches ahead and gives what was told, progress apart.
async fn prefetch(mirror: &TestMirror, platforms: &Platforms) -> (bool, Vec<PullEvent>) {
    let (events, mut told) = mpsc::channel(1000);
    let complete = mirror.mirror.prefetch(&app(), platforms, &events).await;
    drop(events);
    let mut all = Vec::new();
    while let Some(event) = told.recv().await {
        if !matches!(event, PullEvent::Progress { .. }) {
            all.push(event);
        }
    }
    (complete, all)
}

/// An index of two platforms that share a layer.
fn two_platforms(registry: &Registry) -> (String, String) {
    let base = noise(71, 5000);
    let amd = registry.add_image("library/app", "amd", &[base.clone(), noise(72, 3000)]);
    let arm = registry.add_image("library/app", "arm", &[base, noise(73, 3000)]);
    registry.add_index("library/app", "1", &[(&amd, "amd64"), (&arm, "arm64")]);
    (amd.manifest.digest.to_string(), arm.manifest.digest.to_string())
}

#[tokio::test]
async fn what_was_fetched_ahead_for_a_platform_can_be_pulled_for_it_and_no_more_is_fetched() {
    let mut registry = Registry::start().await;
    let (amd, arm) = two_platforms(&registry);
    let mirror = TestMirror::of(&registry).await;
    assert!(!mirror.mirror.readiness(&app(), &amd64()).await.expect("answers").ready);
    let (complete, events) = prefetch(&mirror, &amd64()).await;
    assert!(complete, "{events:?}");
    let finished = |event: &&PullEvent| matches!(event, PullEvent::Finished { fetched: true, .. });
    assert_eq!(events.iter().filter(finished).count(), 3, "configuration and two layers");
    assert_eq!(registry.count_of(&Match::blobs()), 3);
    assert!(mirror.mirror.readiness(&app(), &amd64()).await.expect("answers").ready);
    let both = mirror.mirror.readiness(&app(), &Platforms::Machines).await.expect("answers");
    assert!(!both.ready && both.digest.is_some());

    let (complete, events) = prefetch(&mirror, &amd64()).await;
    assert!(complete && !events.iter().any(|event| finished(&event)), "nothing is fetched twice");
    registry.stop().await;
    mirror.advance(Duration::from_secs(3600));
    assert_eq!(mirror.get(PATH).await.status, 200);
    assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{amd}")).await.status, 200);
    assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{arm}")).await.status, 503);
}

#[tokio::test]
async fn a_tag_that_was_fetched_ahead_is_as_fresh_for_clients_as_one_that_they_pulled() {
    let types = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    for method in ["GET", "HEAD"] {
        for pulled_before in [false, true] {
            let mut registry = Registry::start().await;
            two_platforms(&registry);
            let mut mirror = TestMirror::of(&registry).await;
            if pulled_before {
                assert_eq!(mirror.get_with(PATH, &[("Accept", types)]).await.status, 200);
                mirror.settled().await;
                mirror.advance(Duration::from_secs(301));
            }
            assert!(prefetch(&mirror, &amd64()).await.0);
            let asked = registry.count_of(&Match::path(PATH));
            for restarted in [false, true] {
                if restarted {
                    mirror = mirror.restart().await;
                }
                let answer = client::request(mirror.address, method, PATH, &[("Accept", types)]).await;
                assert_eq!(answer.status, 200, "{method} {pulled_before} {restarted}");
                assert_eq!(
                    answer.header("cache-status"),
                    Some("registry-mirror; hit; detail=hit"),
                    "{method} {restarted}"
                );
            }
            assert_eq!(registry.count_of(&Match::path(PATH)), asked, "{method}: nobody is asked");
            // Upstream may have another one for who does not read this type.
            let other = [("Accept", "application/vnd.docker.distribution.manifest.v2+json")];
            client::request(mirror.address, method, PATH, &other).await;
            assert!(registry.count_of(&Match::path(PATH)) > asked, "{method}");
            registry.stop().await;
            mirror.advance(Duration::from_secs(301));
            let answer = client::request(mirror.address, method, PATH, &[("Accept", types)]).await;
            let told = answer.header("cache-status").is_some_and(|status| status.contains("detail=stale"));
            assert!(answer.status == 200 && told, "{method}: {:?}", answer.header("cache-status"));
        }
    }
}

#[tokio::test]
async fn fetching_ahead_tells_what_could_not_be_had_and_gets_the_rest() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(74, 3000), noise(75, 3000)]);
    let lost = known(&image.layers[0].digest);
    registry.remove_blob("library/app", &image.layers[0].digest);
    let mirror = TestMirror::of(&registry).await;
    let (complete, events) = prefetch(&mirror, &amd64()).await;
    assert!(!complete);
    let failures: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            PullEvent::Failed { digest, failure, .. } => Some((*digest, *failure)),
            _ => None,
        })
        .collect();
    assert_eq!(failures, [(Some(lost), Failure::NotFound)]);
    let missing = mirror.mirror.readiness(&app(), &amd64()).await.expect("answers").completeness.missing;
    assert_eq!(missing.iter().map(|part| part.digest).collect::<Vec<_>>(), [lost]);
}

#[tokio::test]
async fn an_image_is_not_there_for_a_platform_that_it_is_not_made_for() {
    let registry = Registry::start().await;
    two_platforms(&registry);
    let mirror = TestMirror::of(&registry).await;
    let sparc = Platforms::Only(vec!["linux/sparc64".parse().expect("a platform")]);
    let (complete, events) = prefetch(&mirror, &sparc).await;
    assert!(!complete);
    let said = events.iter().any(|event| {
        matches!(event, PullEvent::Failed { failure: Failure::NotFound, message, .. } if message.contains("linux/arm64"))
    });
    assert!(said, "{events:?}");
}

#[tokio::test]
async fn a_part_of_an_image_is_refused_offline_when_the_operator_wants_that() {
    for (complete_only, expected) in [(true, 503), (false, 200)] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(76, 3000), noise(77, 3000)]);
        let mirror = TestMirror::of(&registry).await;
        let pulled = |digest: &str| format!("/v2/library/app/blobs/{digest}");
        assert_eq!(mirror.get(PATH).await.status, 200);
        for blob in [&image.config, &image.layers[0]] {
            assert_eq!(mirror.get(&pulled(&blob.digest.to_string())).await.status, 200);
        }
        mirror.settled().await;
        let settings = mirror.stop().await;
        let settings = settings.config(&format!("cache.complete_only = {complete_only}"));
        // In an outage, and in offline mode by tag and by digest.
        registry.rule(Rule::on(Match::manifests()).refuse(503));
        let mirror = settings.clone().config("cache.tag_ttl = \"0s\"").start().await;
        let response = mirror.get(PATH).await;
        assert_eq!(response.status, expected);
        let why = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(why.contains("1 part with"), complete_only, "{why}");
        let mirror = mirror.stop().await.config("cache.mode = \"offline\"").start().await;
        assert_eq!(mirror.get(PATH).await.status, expected);
        let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
        assert_eq!(mirror.get(&by_digest).await.status, expected);

        registry.clear_rules();
        let mirror = mirror.stop().await.reconfigured("cache.complete_only = true").start().await;
        assert_eq!(mirror.get(&pulled(&image.layers[1].digest.to_string())).await.status, 200);
        mirror.settled().await;
        let mirror = mirror.stop().await.config("cache.mode = \"offline\"").start().await;
        assert_eq!(mirror.get(PATH).await.status, 200, "now it is whole");
    }
}

/// The time that passes is the runtime's own: it stands still while anybody has something to do.
#[tokio::test]
async fn prefer_cache_answers_from_the_store_within_300_ms_of_silence() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(75, 1000)]);
    let mirror = Settings::of(&registry).config("cache.mode = \"prefer-cache\"").start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    mirror.settled().await;
    mirror.advance(Duration::from_secs(301));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    registry.forget_requests();
    tokio::time::pause();
    let asked = tokio::time::Instant::now();
    let response = mirror.get(PATH).await;
    let waited = asked.elapsed();
    assert_eq!((response.status, response.complete), (200, true));
    assert!(response.header("cache-status").unwrap().contains("stale"));
    assert_eq!(registry.requests().len(), 1, "upstream was asked");
    let patience = Duration::from_millis(300);
    assert!(waited >= patience && waited < patience + Duration::from_millis(10), "{waited:?}");
    gate.open();
}

#[tokio::test]
async fn what_is_missing_of_a_long_index_is_looked_up_once_for_all_who_ask_and_again_when_more_is_stored() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(78, 1000)]);
    let platform = r#""platform":{"os":"linux","architecture":"amd64"}"#;
    let entry = |digest: &str, size| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},{platform}}}"#
        )
    };
    let mut entries: Vec<_> = (0..2_000).map(|number| entry(&format!("sha256:{number:064x}"), 1)).collect();
    entries.push(entry(&image.manifest.digest.to_string(), image.manifest.size));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    assert!(index.len() > 256 << 10);
    registry.add_manifest("library/app", &["long"], index, "application/vnd.oci.image.index.v1+json");
    let settings = Settings::of(&registry).config("cache.complete_only = true\ncache.tag_ttl = \"0s\"");
    let mirror = settings.start().await;
    let long = "/v2/library/app/manifests/long";
    assert_eq!(mirror.get(long).await.status, 200);
    mirror.settled().await;

    registry.rule(Rule::on(Match::manifests()).refuse(503));
    let asked = futures_util::future::join_all((0..8).map(|_| mirror.get(long))).await;
    for response in asked {
        let said = String::from_utf8_lossy(&response.body).into_owned();
        assert!(response.status == 503 && said.contains("2001 parts with"), "{} {said}", response.status);
    }
    // Counted every few seconds.
    let is_counted = async {
        while !mirror.metrics().await.contains("mirror_entries{table=\"images_looked_at\"} 1\n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_counted).await.expect("what was seen is kept");

    registry.clear_rules();
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    assert_eq!(mirror.get(&by_digest).await.status, 200);
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.status, 200);
    }
    mirror.settled().await;
    registry.rule(Rule::on(Match::manifests()).refuse(503));
    assert_eq!(mirror.get(long).await.status, 200, "one image of it is whole");
}
