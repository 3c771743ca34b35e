//! Trouble is laid at the door of whoever has it: one resource, a storage host, the whole upstream.

use std::time::Duration;

use scripted_registry::{Gate, Image, Match, Registry, Rule, client, noise};

use crate::support::mirror::{Settings, TestMirror};

fn manifest(repository: &str, tag: &str) -> String {
    format!("/v2/library/{repository}/manifests/{tag}")
}

/// A registry with many small images of `fast`.
async fn registry() -> Registry {
    let registry = Registry::start().await;
    for tag in 0..20 {
        registry.add_image("library/fast", &tag.to_string(), &[noise(920, 1000)]);
    }
    registry
}

/// Cold tags of another repository are served, one after the other and together.
async fn assert_others_are_served(mirror: &TestMirror, tags: std::ops::Range<u32>) {
    for tag in tags.clone() {
        if tag % 2 == 0 {
            assert_eq!(mirror.get(&manifest("fast", &tag.to_string())).await.status, 200, "{tag}");
        }
    }
    let together = tags.filter(|tag| tag % 2 == 1).map(|tag| {
        let path = manifest("fast", &tag.to_string());
        async move { mirror.get(&path).await.status }
    });
    let statuses = futures_util::future::join_all(together).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn silence_of_one_resource_is_not_silence_of_the_host() {
    for big in [&["t"][..], &["t", "u", "v"]] {
        let registry = registry().await;
        let gate = Gate::new();
        registry.rule(Rule::on(Match::repository("library/big")).stall_before_headers(&gate));
        let timeouts = "connect_timeout = \"1s\"\nfirst_byte_timeout = \"6s\"";
        let mirror = Settings::of(&registry).upstream(timeouts).start().await;
        for round in 0..3 {
            tokio::time::pause();
            for tag in big {
                assert_eq!(mirror.get(&manifest("big", tag)).await.status, 503);
            }
            tokio::time::resume();
            assert_others_are_served(&mirror, round * 6..round * 6 + 6).await;
            mirror.advance(Duration::from_secs(10));
        }
        gate.open();
    }
}

/// Everything that can be asked for of a repository, as `method path`.
fn questions(image: &Image) -> Vec<(&'static str, String)> {
    let Image { repository, tag, manifest, layers, .. } = image;
    let at = |rest: String| format!("/v2/{repository}/{rest}");
    let paths = [
        at(format!("manifests/{tag}")),
        at(format!("manifests/{}", manifest.digest)),
        at(format!("blobs/{}", layers[0].digest)),
        at("tags/list".to_owned()),
        at(format!("referrers/{}", manifest.digest)),
    ];
    paths.into_iter().flat_map(|path| [("HEAD", path.clone()), ("GET", path)]).collect()
}

#[tokio::test]
async fn silence_of_whatever_kind_of_resource_is_not_silence_of_the_host() {
    let image = registry().await.add_image("library/big", "t", &[noise(933, 1000)]);
    for (method, path) in questions(&image) {
        let registry = registry().await;
        registry.add_image("library/big", "t", &[noise(933, 1000)]);
        let gate = Gate::new();
        registry.rule(Rule::on(Match::repository("library/big")).stall_before_headers(&gate));
        let timeouts = "connect_timeout = \"1s\"\nfirst_byte_timeout = \"6s\"";
        let mirror = Settings::of(&registry).upstream(timeouts).start().await;
        for round in 0..2 {
            tokio::time::pause();
            assert_eq!(client::request(mirror.address, method, &path, &[]).await.status, 503, "{method} {path}");
            tokio::time::resume();
            assert_others_are_served(&mirror, round * 6..round * 6 + 6).await;
            mirror.advance(Duration::from_secs(10));
        }
        gate.open();
    }
}

#[tokio::test]
async fn trouble_of_where_manifests_and_lists_are_kept_is_none_of_the_registry() {
    let mut gone = Registry::start().await;
    let dead = format!("{}/x", gone.url());
    gone.stop().await;
    let limited = Registry::start().await;
    limited.rule(Rule::on(Match::any()).too_many_requests(Some("900")));
    let big = || Match::repository("library/big");
    for (number, rule) in [
        Rule::on(big()).redirect(&dead),
        Rule::on(big()).redirect_to_host(&limited.url().replace("127.0.0.1", "localhost")),
        Rule::on(Match::manifest("library/big", "t")).reset_at_once(),
    ]
    .into_iter()
    .enumerate()
    {
        let registry = registry().await;
        let image = registry.add_image("library/big", "t", &[noise(934, 1000)]);
        let other = registry.add_blob("library/fast", noise(935, 1000));
        registry.rule(rule);
        let mirror = TestMirror::of(&registry).await;
        for round in 0..2 {
            tokio::time::pause();
            for (method, path) in questions(&image).into_iter().filter(|(_, path)| number < 2 || path.ends_with("/t")) {
                let answer = client::request(mirror.address, method, &path, &[]).await;
                assert_eq!(answer.status, 503, "{number} {method} {path}");
            }
            tokio::time::resume();
            assert_others_are_served(&mirror, round * 6..round * 6 + 6).await;
            assert!(mirror.get(&format!("/v2/library/fast/blobs/{other}")).await.complete, "{number}");
            mirror.advance(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn an_upstream_in_trouble_is_left_alone_whatever_it_does_and_is_asked_for() {
    let changes: [fn(Rule) -> Rule; 3] = [|rule| rule.refuse(500), |rule| rule.refuse(502), Rule::close_at_once];
    for (number, change) in changes.into_iter().enumerate() {
        let registry = registry().await;
        let images = ["t", "u"].map(|tag| registry.add_image("library/big", tag, &[noise(936, 1000)]));
        let of_tags = |(_, path): &(&str, String)| !path.contains("/blobs/") && !path.contains("manifests/sha256:");
        let questions: Vec<_> = images.iter().flat_map(questions).filter(of_tags).collect();
        let mirror = TestMirror::of(&registry).await;
        for (_, path) in &questions {
            assert_eq!(mirror.get(path).await.status, 200, "{path}");
        }
        mirror.settled().await;
        mirror.advance(Duration::from_secs(301));
        registry.rule(change(Rule::on(Match::any())));
        let all_are_stale = async |most: Duration| {
            registry.forget_requests();
            tokio::time::pause();
            let asked = tokio::time::Instant::now();
            for (method, path) in &questions {
                let response = client::request(mirror.address, method, path, &[]).await;
                let told = (response.status, response.header("warning").is_some());
                assert_eq!(told, (200, true), "{number} {method} {path}");
            }
            tokio::time::resume();
            assert!(asked.elapsed() <= most, "{number}: {:?}", asked.elapsed());
            registry.requests().len()
        };
        // Those that find it out wait no longer than anybody has to.
        all_are_stale(Duration::from_secs(8)).await;
        assert_eq!(all_are_stale(Duration::from_millis(100)).await, 0, "{number}: known to be in trouble");
        mirror.advance(Duration::from_secs(60));
        if number == 2 {
            // What is cut may be so by itself, and is found out for each.
            all_are_stale(Duration::from_secs(8)).await;
            continue;
        }
        let asked = all_are_stale(Duration::from_millis(400)).await;
        assert!((1..=2).contains(&asked), "{number}: one finds out for all: {asked}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_for_one_blob_ends_for_no_other() {
    let registry = registry().await;
    let broken = registry.add_blob("library/big", noise(921, 1000));
    registry.rule(Rule::on(Match::blob(&broken)).reset_at_once());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/big/blobs/{broken}");
    for round in 0..3 {
        tokio::time::pause();
        assert_eq!(mirror.get(&path).await.status, 503);
        tokio::time::resume();
        assert_others_are_served(&mirror, round * 6..round * 6 + 6).await;
        mirror.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn trouble_of_a_storage_host_is_none_of_the_registry() {
    // Nobody listens there.
    let mut gone = Registry::start().await;
    let dead = format!("{}/x", gone.url());
    gone.stop().await;
    let gate = Gate::new();
    let storage = || Rule::on(Match::storage());
    for rule in [
        storage().too_many_requests(Some("900")),
        storage().refuse(500),
        storage().reset_at_once(),
        storage().stall_before_headers(&gate),
        Rule::on(Match::blobs()).redirect(&dead),
    ] {
        let registry = registry().await.with_storage_host().await;
        let broken: Vec<_> = (0..4).map(|n| registry.add_blob("library/big", noise(922 + n, 1000))).collect();
        registry.rule(rule);
        let mirror = TestMirror::of(&registry).await;
        for round in 0..3 {
            tokio::time::pause();
            for blob in &broken {
                assert_eq!(mirror.get(&format!("/v2/library/big/blobs/{blob}")).await.status, 503);
            }
            tokio::time::resume();
            assert_others_are_served(&mirror, round * 6..round * 6 + 6).await;
            mirror.advance(Duration::from_secs(1));
        }
    }
    gate.open();
}

#[tokio::test]
async fn an_upstream_that_says_500_to_everything_is_asked_once_in_a_while_for_all() {
    let registry = registry().await;
    let mirror = TestMirror::of(&registry).await;
    let paths: Vec<_> = (0..10).map(|tag| manifest("fast", &tag.to_string())).collect();
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 200);
    }
    mirror.settled().await;
    mirror.advance(Duration::from_secs(301));
    registry.rule(Rule::on(Match::any()).refuse(500));
    registry.forget_requests();
    let all_are_stale = async |most: Duration| {
        tokio::time::pause();
        let asked = tokio::time::Instant::now();
        for path in &paths {
            let response = mirror.get(path).await;
            assert_eq!((response.status, response.header("warning").is_some()), (200, true));
        }
        tokio::time::resume();
        assert!(asked.elapsed() <= most, "{:?}", asked.elapsed());
        let asked = registry.requests().len();
        registry.forget_requests();
        asked
    };
    // Two have to fail before it is known.
    assert_eq!(all_are_stale(Duration::from_secs(4)).await, 6);
    for _ in 0..5 {
        assert_eq!(all_are_stale(Duration::from_millis(100)).await, 0, "known to be in trouble");
    }
    for pause in [1, 2, 4, 8, 16, 30] {
        mirror.advance(Duration::from_secs(pause));
        let asked = all_are_stale(Duration::from_millis(400)).await;
        assert_eq!(asked, 1, "one finds out for all, after {pause} s");
    }
    assert_eq!(mirror.get(&manifest("fast", "15")).await.status, 503);
    assert_eq!(registry.requests().len(), 1, "what is not stored is asked for, and once");
    registry.clear_rules();
    assert_eq!(mirror.get(&manifest("fast", "16")).await.status, 200);
    assert_eq!(mirror.get(&paths[0]).await.header("warning"), None, "any answer ends it");
}

#[tokio::test]
async fn a_tag_that_moves_between_our_two_questions_is_asked_for_in_one() {
    for upstream_fails_then in [false, true] {
        let registry = Registry::start().await;
        let stored = registry.add_image("library/app", "1", &[noise(930, 1000)]);
        let mirror = TestMirror::of(&registry).await;
        let path = manifest("app", "1");
        assert_eq!(mirror.get(&path).await.status, 200);
        mirror.advance(Duration::from_secs(301));

        let between = registry.add_image("library/app", "1", &[noise(931, 1000)]);
        let gate = Gate::new();
        let tag = || Match::manifest("library/app", "1");
        registry.rule(Rule::on(tag().head()).stall_before_headers(&gate));
        if upstream_fails_then {
            registry.rule(Rule::on(tag().get()).refuse(500));
        }
        let moves = async {
            gate.reached().await;
            registry.remove_manifest("library/app", &between.manifest.digest);
            let now = registry.add_image("library/app", "1", &[noise(932, 1000)]);
            gate.open();
            now
        };
        let (response, now) = tokio::join!(mirror.get(&path), moves);
        assert_eq!(response.status, 200);
        let (expected, is_stale) = if upstream_fails_then { (&stored, true) } else { (&now, false) };
        let expected = expected.manifest.digest.to_string();
        assert_eq!(response.header("docker-content-digest"), Some(expected.as_str()));
        assert_eq!(response.header("warning").is_some(), is_stale);
    }
}

#[tokio::test]
async fn a_no_by_digest_to_what_a_head_has_told_is_none_to_get_by_tag() {
    let by_digest = || Rule::on(Match::manifests().get().and(Match::when(|asked| asked.path.contains("sha256:"))));
    let page = || by_digest().answer(200, "text/html", "<html>x</html>");
    let no = |status| by_digest().refuse(status);
    let rules = [400, 401, 403, 404, 405, 410, 451].map(no).into_iter().chain([page()]);
    for (number, rule) in rules.enumerate() {
        for stored in [false, true] {
            let registry = registry().await;
            let mut mirror = TestMirror::of(&registry).await;
            if stored {
                assert_eq!(mirror.get(&manifest("fast", "1")).await.status, 200);
                mirror.settled().await;
                mirror.advance(Duration::from_secs(301));
            }
            let moved = registry.add_image("library/fast", "1", &[noise(921, 1000)]).manifest.digest.to_string();
            registry.rule(rule.clone());
            for restarted in [false, true] {
                let answer = mirror.get(&manifest("fast", "1")).await;
                let told = (answer.status, answer.header("docker-content-digest"), answer.header("warning"));
                assert_eq!(told, (200, Some(moved.as_str()), None), "{number}, stored: {stored}, again: {restarted}");
                if !restarted {
                    mirror = mirror.restart().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_one_thing_of_a_registry_is_told_by_503_holds_back_nothing_else() {
    for kind in ["manifests", "blobs"] {
        let path = |n: u32| match kind {
            "blobs" => format!("/v2/library/big/blobs/sha256:{n:064}"),
            _ => manifest("big", &n.to_string()),
        };
        let registry = registry().await;
        registry.rule(Rule::on(Match::repository("library/big")).refuse(503).header("retry-after", "600"));
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
        assert_others_are_served(&mirror, 0..2).await;
        for _ in 0..3 {
            let answer = mirror.get(&path(0)).await;
            assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{kind}");
        }
        assert_eq!(registry.count_of(&Match::repository("library/big")), 1, "{kind}");
        assert_others_are_served(&mirror, 0..6).await;
        // Two that nothing came between speak for all.
        for n in 1..4 {
            assert_eq!(mirror.get(&path(n)).await.status, 503, "{kind} {n}");
        }
        assert_eq!(mirror.get(&manifest("fast", "7")).await.status, 503, "{kind}");
        assert_eq!(registry.count_of(&Match::repository("library/big")), 3, "{kind}");
        let stale = mirror.get(&manifest("fast", "0")).await;
        assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{kind}");
    }
}

#[tokio::test]
async fn how_long_a_storage_host_wants_to_be_left_alone_is_told() {
    for retry in ["17", "1746136938"] {
        let registry = Registry::start().await.with_storage_host().await;
        let image = registry.add_image("library/app", "1", &[noise(2, 1000)]);
        registry.rule(Rule::on(Match::storage()).too_many_requests(Some(retry)));
        let mirror = TestMirror::of(&registry).await;
        let path = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        for method in ["GET", "HEAD"] {
            let answer = client::request(mirror.address, method, &path, &[]).await;
            assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{method} {retry}");
        }
        assert_eq!(mirror.get(&manifest("app", "1")).await.status, 200);
    }
}
