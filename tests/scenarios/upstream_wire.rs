//! As lenient as the clients that people compare us with: what an upstream writes that others can read.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use scripted_registry::{Image, Match, Registry, Rule, TokenPolicy, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";
const LIST: &str = "/v2/library/app/tags/list";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Requests that come on a connection that has carried one before.
fn on_a_used_connection() -> Match {
    let used = Mutex::new(HashSet::new());
    Match::when(move |request| !used.lock().unwrap().insert(request.at_connection))
}

#[tokio::test]
async fn a_request_lost_on_a_reused_connection_goes_out_again_and_nothing_is_held_against_the_upstream() {
    type Change = fn(Rule) -> Rule;
    let told = |rule: Rule| rule.refuse(408).header("connection", "close").close_afterwards();
    for (what, change) in
        [("closed", Rule::close_at_once as Change), ("reset", Rule::reset_at_once), ("told", told as Change)]
    {
        let registry = Registry::start().await;
        let blob = registry.add_blob("library/app", noise(400, 1000));
        for tag in 0..24 {
            registry.add_image("library/app", &format!("t{tag}"), &[noise(401, 100)]);
        }
        registry.rule(change(Rule::on(on_a_used_connection())));
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
        for round in 0..3 {
            for tag in 0..24 {
                let response = mirror.get(&format!("/v2/library/app/manifests/t{tag}")).await;
                assert_eq!((response.status, response.header("warning")), (200, None), "{what} {round} t{tag}");
            }
        }
        assert_eq!(mirror.get(LIST).await.status, 200, "{what}");
        assert!(mirror.get(&format!("/v2/library/app/blobs/{blob}")).await.complete, "{what}");
    }
}

#[tokio::test]
async fn a_lost_token_request_goes_out_again() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(402, 100)]);
    registry.require_tokens(TokenPolicy::bearer());
    registry.rule(Rule::on(Match::token().and(on_a_used_connection())).close_at_once().before_auth());
    let mirror = TestMirror::of(&registry).await;
    // The token service is asked on the connection that has brought the challenge.
    assert_eq!(mirror.get(PATH).await.status, 200);
}

#[tokio::test]
async fn a_refusal_of_any_number_stays_a_refusal() {
    for status in [400, 402, 405, 406, 407, 408, 409, 410, 416, 418, 422, 423, 425, 428, 451, 499] {
        // These say that there was no time.
        let expected = if [408, 425].contains(&status) { 503..504 } else { 400..500 };
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(403, 100)]);
        registry.rule(Rule::on(Match::any()).refuse(status));
        let mirror = Settings::of(&registry).config("cache.negative_ttl = \"0s\"").start().await;
        let layer = &image.layers[0].digest;
        for path in [
            PATH.to_owned(),
            format!("/v2/library/app/manifests/{}", image.manifest.digest),
            format!("/v2/library/app/blobs/{layer}"),
            LIST.to_owned(),
            format!("/v2/library/app/referrers/{}", image.manifest.digest),
        ] {
            let told = mirror.get(&path).await.status;
            assert!(expected.contains(&told), "{status} became {told} for {path}");
            let told = mirror.head(&path).await.status;
            assert!(expected.contains(&told), "{status} became {told} for HEAD {path}");
        }
    }
}

#[tokio::test]
async fn a_refusal_takes_nothing_away_that_is_stored() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(404, 100)]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    registry.rule(Rule::on(Match::any()).refuse(451));
    assert_eq!(mirror.get(PATH).await.status, 404);
    registry.clear_rules();
    registry.rule(Rule::on(Match::any()).refuse(500));
    let response = mirror.get(PATH).await;
    assert_eq!((response.status, response.header("warning").is_some()), (200, true), "the tag is still known");
}

#[tokio::test]
async fn an_interface_that_is_not_implemented_is_a_refusal() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(405, 100)]);
    registry.rule(Rule::on(Match::any()).refuse(501));
    let mirror = TestMirror::of(&registry).await;
    let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    for path in [referrers.as_str(), LIST] {
        assert_eq!(mirror.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn who_says_how_long_it_is_away_is_left_alone_and_clients_are_told() {
    for status in [429, 503] {
        let registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(406, 100)]);
        registry.add_image("library/app", "2", &[noise(407, 100)]);
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
        assert_eq!(mirror.get(PATH).await.status, 200);
        registry.forget_requests();
        registry.rule(Rule::on(Match::any()).refuse(status).header("retry-after", "7"));
        for asked in 0..10 {
            let response = mirror.get("/v2/library/app/manifests/2").await;
            assert_eq!((response.status, response.header("retry-after")), (503, Some("7")), "{status} {asked}");
        }
        assert_eq!(registry.requests().len(), 1, "{status}");
        let stale = mirror.get(PATH).await;
        assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{status}");
        registry.clear_rules();
        mirror.advance(Duration::from_secs(8));
        assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 200, "{status}");
    }
}

#[tokio::test]
async fn a_part_of_a_list_is_never_passed_on_as_the_whole() {
    let long = "x".repeat(3000);
    let longest = "x".repeat(9000);
    for (link, goes_on) in [
        ("</v2/library/app/tags/list?n=1&last=a>; rel='next'".to_owned(), true),
        ("</v2/library/app/tags/list?n=1&last=a>".to_owned(), true),
        ("/v2/library/app/tags/list?n=1&last=a; rel=\"next\"".to_owned(), true),
        ("</v2/library/app/tags/list?n=1&last=a&von=hübsch>; rel=\"next\"".to_owned(), true),
        (format!("</v2/library/app/tags/list?n=1&last=a&state={long}>; rel=\"next\""), true),
        (format!("</v2/library/app/tags/list?n=1&last=a&state={longest}>; rel=\"next\""), false),
        ("next".to_owned(), false),
        ("</v2/library/app/tags/list/2>; rel=\"next\"".to_owned(), false),
    ] {
        let registry = Registry::start().await;
        for tag in ["a", "b"] {
            registry.add_image("library/app", tag, &[noise(408, 100)]);
        }
        let first = Match::path(LIST).and(Match::when(|request| !request.query.contains("last=")));
        let body = r#"{"name":"library/app","tags":["a"]}"#;
        registry.rule(Rule::on(first).answer(200, "application/json", body).header("link", &link));
        let mirror = TestMirror::of(&registry).await;
        let page = mirror.get(LIST).await;
        if !goes_on {
            assert_eq!(page.status, 502, "{link:.80}");
            continue;
        }
        assert_eq!(page.status, 200, "{link:.80}");
        let next = page.header("link").expect("more").split(['<', '>']).nth(1).expect("a target").to_owned();
        let rest = mirror.get(&next).await;
        assert_eq!(rest.status, 200, "{link:.80}");
        assert!(String::from_utf8_lossy(&rest.body).contains("[\"b\"]"), "{link:.80}");
    }
}

#[tokio::test]
async fn a_part_of_the_referrers_is_never_passed_on_as_the_whole() {
    for (link, status) in [("next", 502), ("</x?page=2>; rel='next'", 200), ("</x>; rel=next", 502)] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(409, 100)]);
        let path = format!("/v2/library/app/referrers/{}", image.manifest.digest);
        registry.rule(Rule::on(Match::path(&path)).header("link", link));
        let mirror = TestMirror::of(&registry).await;
        let page = mirror.get(&path).await;
        assert_eq!((page.status, page.header("link").is_some()), (status, status == 200), "{link}");
    }
}

#[tokio::test]
async fn a_content_encoding_that_is_no_coding_leaves_it_to_the_digest() {
    for (coding, status) in
        [("aws-chunked", 200), ("utf-8", 200), ("none", 200), ("", 200), ("aws-chunked, gzip", 502), ("ZSTD", 502)]
    {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(410, 1000)]);
        registry.rule(Rule::on(Match::any()).header("content-encoding", coding));
        let mirror = TestMirror::of(&registry).await;
        let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        for path in [PATH, &blob, LIST] {
            assert_eq!(mirror.head(path).await.status, status, "{coding:?} HEAD {path}");
            assert_eq!(mirror.get(path).await.status, status, "{coding:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_content_encoding_that_is_no_coding_is_none_of_anything() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(410, 300_000)]);
    registry.require_tokens(TokenPolicy::bearer());
    let aws = || Rule::on(Match::any()).header("content-encoding", "aws-chunked");
    registry.rule(Rule::on(Match::blobs().get()).once().header("content-encoding", "aws-chunked").close_after(150_000));
    registry.rule(aws().before_auth());
    for (method, path) in questions(&image) {
        let mirror = TestMirror::of(&registry).await;
        let answer = client::request(mirror.address, method, &path, &[]).await;
        assert!(answer.status == 200 && answer.complete, "{method} {path}: {}", answer.status);
    }
    assert!(registry.count_of(&Match::blobs().with_header("range")) > 0, "the rest was asked for");
}

#[tokio::test]
async fn a_location_in_raw_text_is_followed() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(411, 1000)]);
    let layer = &image.layers[0];
    let stored = Match::path("/speicher/sch%C3%B6n%20hier");
    let bytes = registry.content(|content| content.repository("library/app").blobs[&layer.digest].clone());
    registry.rule(Rule::on(stored.clone()).answer(200, "application/octet-stream", bytes));
    registry.rule(Rule::on(Match::blobs()).redirect("/speicher/schön hier?x=ü"));
    let mirror = TestMirror::of(&registry).await;
    assert!(mirror.get(&format!("/v2/library/app/blobs/{}", layer.digest)).await.complete);
    assert_eq!(registry.requests().last().map(|request| request.query.clone()).as_deref(), Some("x=%C3%BC"));
}

#[tokio::test]
async fn an_answer_that_says_who_carried_it_is_an_answer() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(412, 1000)]);
    registry.rule(Rule::on(Match::any()).status(203));
    let mirror = TestMirror::of(&registry).await;
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    for path in [PATH, &blob, LIST] {
        assert_eq!(mirror.head(path).await.status, 200, "{path}");
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn an_odd_byte_discards_no_header() {
    let registry = Registry::start().await;
    let bytes = Bytes::from(r#"{"schemaVersion":2,"manifests":[]}"#);
    registry.add_manifest("library/app", &["1"], bytes, INDEX);
    let odd = format!("{INDEX}; by=\"Müller\"");
    registry.rule(Rule::on(Match::manifests()).header("content-type", &odd));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(PATH).await.header("content-type"), Some(INDEX));
    assert_eq!(registry.count_of(&Match::manifests().get()), 1);
}

#[tokio::test]
async fn what_is_no_blob_and_comes_compressed_is_read_as_go_reads_it() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(413, 1000)]);
    let honest = TestMirror::of(&registry).await;
    let (digest, paths) = (&image.manifest.digest, [PATH, LIST].map(str::to_owned));
    let by_digest = ["manifests", "referrers"].map(|kind| format!("/v2/library/app/{kind}/{digest}"));
    let paths: Vec<_> = paths.into_iter().chain(by_digest).collect();
    let mut bodies = Vec::new();
    for path in &paths {
        bodies.push(honest.get(path).await.body);
    }
    registry.require_tokens(TokenPolicy::bearer());
    registry.rule(Rule::on(Match::manifests().or(Match::lists()).or(Match::token())).gzip());
    for (path, body) in paths.iter().zip(&bodies) {
        let mirror = TestMirror::of(&registry).await;
        let head = mirror.head(path).await;
        assert_eq!((head.status, head.header("content-encoding")), (200, None), "HEAD {path}");
        let answer = mirror.get(path).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path}");
        assert_eq!(&answer.body, body, "{path}");
    }
    // What a head said of it before a restart is to be had after it.
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.head(PATH).await.header("docker-content-digest"), Some(digest.to_string().as_str()));
    assert_eq!(mirror.restart().await.get(&paths[2]).await.status, 200);
}

#[tokio::test]
async fn what_comes_compressed_is_bounded_by_what_it_becomes_and_has_to_be_whole() {
    let zeros = |mebibytes: usize| format!("{{{}", " ".repeat(mebibytes << 20));
    for (kind, path, body) in [(INDEX, PATH, zeros(9)), ("application/json", LIST, zeros(65))] {
        let registry = Registry::start().await;
        registry.rule(Rule::on(Match::path(path)).answer(200, kind, body).gzip());
        assert_eq!(TestMirror::of(&registry).await.get(path).await.status, 502, "{path}");
    }
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(414, 1000)]);
    let rule =
        Rule::on(Match::path(LIST)).answer(200, "application/json", r#"{"name":"library/app","tags":["1","2"]}"#);
    registry.rule(rule.gzip().without_length().close_after(40));
    assert!(TestMirror::of(&registry).await.get(LIST).await.status >= 500);
}

/// Everything that can be asked for of an image, by either method.
fn questions(image: &Image) -> Vec<(&'static str, String)> {
    let digest = image.manifest.digest;
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let [by_digest, referrers] = ["manifests", "referrers"].map(|kind| format!("/v2/library/app/{kind}/{digest}"));
    let paths = [PATH.to_owned(), by_digest, blob, LIST.to_owned(), referrers];
    paths.into_iter().flat_map(|path| [("HEAD", path.clone()), ("GET", path)]).collect()
}

#[tokio::test]
async fn a_location_in_raw_text_is_followed_whatever_is_asked_for_and_by_the_token_service() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(413, 1000)]);
    registry.require_tokens(TokenPolicy::bearer());
    let (manifest, blob) = registry.content(|content| {
        let holding = content.repository("library/app");
        (holding.manifests[&image.manifest.digest].clone(), holding.blobs[&image.layers[0].digest].clone())
    });
    for (method, path) in questions(&image) {
        let (kind, bytes) = match path.as_str() {
            LIST => ("application/json", Bytes::from(r#"{"name":"library/app","tags":["1"]}"#)),
            path if path.contains("/referrers/") => (INDEX, Bytes::from(r#"{"schemaVersion":2,"manifests":[]}"#)),
            path if path.contains("/blobs/") => ("application/octet-stream", blob.clone()),
            _ => (manifest.media_type.as_str(), manifest.bytes.clone()),
        };
        let stored = Match::path("/speicher/sch%C3%B6n%20hier");
        registry.clear_rules();
        let first = Match::token().and(Match::when(|asked| !asked.query.contains("schl%C3%BCssel")));
        let again = "/token?scope=repository:library/app:pull&raw=schlüssel";
        registry.rule(Rule::on(first).redirect(again).before_auth());
        registry.rule(Rule::on(stored.clone()).answer(200, kind, bytes).before_auth());
        registry.rule(Rule::on(Match::path(&path)).redirect("/speicher/schön hier?x=ü"));
        let mirror = TestMirror::of(&registry).await;
        let answer = client::request(mirror.address, method, &path, &[]).await;
        assert!(answer.status == 200 && answer.complete, "{method} {path}: {}", answer.status);
        assert!(registry.count_of(&stored) > 0, "{method} {path}");
        registry.forget_requests();
    }
}

#[tokio::test]
async fn a_request_lost_at_a_storage_host_goes_out_again_as_does_one_for_the_referrers() {
    let registry = Registry::start().await.with_storage_host().await;
    let images: Vec<_> =
        (0..6).map(|seed| registry.add_image("library/app", &seed.to_string(), &[noise(414 + seed, 1000)])).collect();
    registry.rule(Rule::on(on_a_used_connection()).close_at_once());
    let mirror = TestMirror::of(&registry).await;
    for (number, image) in images.iter().enumerate() {
        for blob in image.blobs() {
            let path = format!("/v2/library/app/blobs/{}", blob.digest);
            assert_eq!(mirror.head(&path).await.status, 200, "{number}");
            assert!(mirror.get(&path).await.complete, "{number}");
        }
        let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
        assert_eq!(mirror.head(&referrers).await.status, 200, "{number}");
        assert_eq!(mirror.get(&referrers).await.status, 200, "{number}");
    }
}

#[tokio::test]
async fn who_says_how_long_it_is_away_is_left_alone_whatever_was_asked_for() {
    let image = Registry::start().await.add_image("library/app", "1", &[noise(415, 100)]);
    for (status, (method, path)) in
        [429, 503].into_iter().flat_map(|status| questions(&image).into_iter().map(move |asked| (status, asked)))
    {
        let registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(415, 100)]);
        let mirror = TestMirror::of(&registry).await;
        registry.rule(Rule::on(Match::any()).refuse(status).header("retry-after", "7"));
        for asked in 0..5 {
            let answer = client::request(mirror.address, method, &path, &[]).await;
            let told = (answer.status, answer.header("retry-after"));
            assert_eq!(told, (503, Some("7")), "{status} {method} {path} {asked}");
        }
        assert_eq!(registry.requests().len(), 1, "{status} {method} {path}");
        registry.clear_rules();
        mirror.advance(Duration::from_secs(8));
        assert_eq!(client::request(mirror.address, method, &path, &[]).await.status, 200, "{status} {method} {path}");
    }
}
