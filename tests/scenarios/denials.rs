//! A repository that its registry denies: nothing of it is served any more, until it is given again.

use std::time::Duration;

use registry_mirror::oci::ImageName;
use scripted_registry::{Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

async fn status(mirror: &TestMirror, path: &str) -> u16 {
    mirror.get(path).await.status
}

/// Asks until the answer has this status: what is found out behind an answer shows with a later one.
async fn becomes(mirror: &TestMirror, path: &str, wanted: u16) {
    let wait = async {
        while status(mirror, path).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{path}: {wanted}"));
}

#[tokio::test]
async fn a_denial_of_a_repository_ends_what_is_served_of_it_by_tag_by_digest_and_as_a_list() {
    for (status_of_denial, begins_with_a_tag) in [(403, true), (401, true), (403, false)] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/private", "1", &[noise(1, 1000), noise(2, 200_000)]);
        registry.add_image("library/open", "1", &[noise(1, 1000)]);
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"1m\"").start().await;
        let (tag, list) = ("/v2/library/private/manifests/1", "/v2/library/private/tags/list");
        let by_digest = format!("/v2/library/private/manifests/{}", image.manifest.digest);
        let blobs: Vec<_> = image.blobs().map(|blob| format!("/v2/library/private/blobs/{}", blob.digest)).collect();
        let referrers = format!("/v2/library/private/referrers/{}", image.manifest.digest);
        let all: Vec<&str> =
            [tag, list, &referrers, &by_digest].into_iter().chain(blobs.iter().map(String::as_str)).collect();
        for path in all.iter().chain([&"/v2/library/open/manifests/1"]) {
            assert_eq!(status(&mirror, path).await, 200, "{path}");
        }
        mirror.settled().await;
        registry.rule(
            Rule::on(Match::when(|request| request.path.starts_with("/v2/library/private/"))).refuse(status_of_denial),
        );
        mirror.advance(Duration::from_secs(120));
        // Whoever asks upstream first hears of it.
        assert_eq!(status(&mirror, if begins_with_a_tag { tag } else { list }).await, 404);
        for path in &all {
            becomes(&mirror, path, 404).await;
            let head = mirror.head(path).await.status;
            assert_eq!(head, 404, "HEAD {path}");
        }
        let open = mirror.get("/v2/library/open/manifests/1").await;
        assert_eq!(open.status, 200, "another repository");

        registry.clear_rules();
        registry.forget_requests();
        becomes(&mirror, tag, 200).await;
        for path in &all {
            becomes(&mirror, path, 200).await;
        }
        for blob in image.blobs() {
            assert_eq!(registry.gets_of(&blob.digest), 0, "what is stored stays stored");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_one_thing_is_no_denial_of_the_repository() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(3, 1000)]);
    let mirror = Settings::of(&registry).start().await;
    let paths: Vec<_> = std::iter::once(format!("/v2/library/app/manifests/{}", image.manifest.digest))
        .chain(image.blobs().map(|blob| format!("/v2/library/app/blobs/{}", blob.digest)))
        .collect();
    for path in paths.iter().map(String::as_str).chain(["/v2/library/app/manifests/1"]) {
        assert_eq!(status(&mirror, path).await, 200, "{path}");
    }
    mirror.settled().await;
    registry.rule(Rule::on(Match::when(|request| request.path.contains("/tags/list"))).refuse(403));
    registry.forget_requests();
    assert_eq!(status(&mirror, "/v2/library/app/tags/list").await, 404);
    // It is looked into, and the manifest is there.
    while registry.gets_of(&image.manifest.digest) == 0 {
        tokio::task::yield_now().await;
    }
    for path in &paths {
        assert_eq!(status(&mirror, path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn what_was_denied_before_a_restart_is_denied_after_it_also_while_upstream_is_away() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/private", "1", &[noise(4, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let paths: Vec<_> = std::iter::once(format!("/v2/library/private/manifests/{}", image.manifest.digest))
        .chain(image.blobs().map(|blob| format!("/v2/library/private/blobs/{}", blob.digest)))
        .collect();
    for path in &paths {
        assert_eq!(status(&mirror, path).await, 200, "{path}");
    }
    mirror.settled().await;
    registry.rule(Rule::on(Match::repository("library/private")).refuse(403));
    assert_eq!(status(&mirror, "/v2/library/private/tags/list").await, 404);
    for path in &paths {
        becomes(&mirror, path, 404).await;
    }
    registry.stop().await;
    let mirror = mirror.restart().await;
    for path in &paths {
        assert_eq!(status(&mirror, path).await, 503, "{path}");
    }
    registry.clear_rules();
    registry.restart_on_same_port().await;
    mirror.advance(Duration::from_secs(3600));
    for path in &paths {
        becomes(&mirror, path, 200).await;
    }
    let mirror = mirror.restart().await;
    registry.stop().await;
    for path in &paths {
        assert_eq!(status(&mirror, path).await, 200, "{path}: a yes is remembered as well");
    }
}

#[tokio::test]
async fn a_denial_ends_also_what_is_served_of_a_repository_without_a_stored_manifest() {
    for status_of_denial in [403, 401] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/private", "1", &[noise(5, 1000)]);
        let mirror = TestMirror::of(&registry).await;
        let tag = "/v2/library/private/manifests/1";
        let blob = format!("/v2/library/private/blobs/{}", image.layers[0].digest);
        assert_eq!(status(&mirror, &blob).await, 200);
        mirror.settled().await;
        // A storage host that refuses denies no repository.
        let of_blobs = |request: &scripted_registry::Recorded| request.path.contains("/blobs/");
        registry.rule(Rule::on(Match::when(of_blobs)).refuse(403));
        registry.rule(Rule::on(Match::when(|request| request.path.contains("/tags/"))).refuse(403));
        registry.forget_requests();
        assert_eq!(status(&mirror, "/v2/library/private/tags/list").await, 404);
        while registry.count(|request| request.path.contains("/manifests/sha256:")) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(status(&mirror, &blob).await, 200);

        registry.clear_rules();
        registry.rule(Rule::on(Match::repository("library/private")).refuse(status_of_denial));
        mirror.advance(Duration::from_secs(31));
        assert_eq!(status(&mirror, tag).await, 404);
        becomes(&mirror, &blob, 404).await;
        let mirror = mirror.restart().await;
        assert_eq!(status(&mirror, &blob).await, 404, "after a restart");
        registry.clear_rules();
        mirror.advance(Duration::from_secs(31));
        becomes(&mirror, &blob, 200).await;
        registry.forget_requests();
        let quiet = async {
            loop {
                let before = registry.requests().len();
                assert_eq!(status(&mirror, &blob).await, 200);
                if registry.requests().len() == before {
                    break;
                }
            }
        };
        let lifted = tokio::time::timeout(Duration::from_secs(30), quiet).await;
        assert!(lifted.is_ok(), "it is given again without a question");
    }
}

#[tokio::test]
async fn a_list_of_referrers_is_not_there_where_what_it_is_about_is_refused_and_is_refused_where_that_is_given() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(6, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let list = |repository: &str| format!("/v2/{repository}/referrers/{}", image.manifest.digest);
    registry.rule(Rule::on(Match::repository("library/hidden")).refuse(403));
    registry.rule(Rule::on(Match::when(|request| request.path.contains("/referrers/"))).refuse(403));
    assert_eq!(status(&mirror, &list("library/hidden")).await, 404, "as its manifests");
    // A 404 would say that there is no such list, and signatures would seem to be missing.
    assert_eq!(status(&mirror, &list("library/app")).await, 403);
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    assert_eq!(status(&mirror, &by_digest).await, 200);
    assert_eq!(status(&mirror, &list("library/app")).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_to_know_what_a_pull_would_get_waits_for_what_a_refusal_means() {
    let registry = Registry::start().await;
    for name in ["library/app", "library/other"] {
        registry.add_image(name, "1", &[noise(7, 1000)]);
    }
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    for name in ["app", "other"] {
        assert_eq!(status(&mirror, &format!("/v2/library/{name}/manifests/1")).await, 200);
    }
    mirror.settled().await;
    let (gate, by_digest) = (Gate::new(), "/v2/library/app/manifests/sha256:");
    let rule = Rule::on(Match::when(move |request| request.path.starts_with(by_digest)));
    registry.rule(rule.refuse(403).stall_before_headers(&gate));
    registry.rule(Rule::on(Match::repository("library/app")).refuse(403));
    mirror.advance(Duration::from_secs(1));
    assert_eq!(status(&mirror, "/v2/library/app/manifests/1").await, 404);
    gate.reached().await;
    let [app, other] = ["app", "other"].map(|name| format!("docker.io/{name}:1").parse::<ImageName>().expect("a name"));
    let asked = mirror.mirror.clone();
    let why = tokio::spawn(async move { asked.why(&app).await });
    for _ in 0..3 {
        let other = mirror.mirror.why(&other).await.expect("told");
        assert_eq!(other.outcome.as_deref(), Some("revalidated"), "a refusal is an answer: {}", other.reason);
    }
    assert!(!why.is_finished(), "it is being looked into");
    gate.open();
    let why = tokio::time::timeout(Duration::from_secs(30), why).await.expect("in time").expect("ends").expect("told");
    assert!(why.reason.ends_with("until it gives it again; a pull asks it"), "{}", why.reason);
}
