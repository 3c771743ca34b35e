//! Upstream says 200 and sends what cannot be what was asked for: nothing of it is kept, nobody gets it, and
//! what was good before stays.

use std::time::Duration;

use registry_mirror::oci::{Algorithm, Digest};
use scripted_registry::client;
use scripted_registry::{Match, Registry, Rule, noise};
use serde_json::{Value, json};

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Media type and body of answers that no manifest can be.
fn implausible() -> Vec<(&'static str, String)> {
    let descriptor = json!({"digest": format!("sha256:{}", "a".repeat(64)), "size": 3});
    let sized = |size: Value| json!({"digest": descriptor["digest"], "size": size});
    let both = json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor], "manifests": [descriptor]});
    let configuration = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers"}});
    let page = "<!DOCTYPE html><html><body>Please log in</body></html>".to_owned();
    let errors = json!({"errors": [{"code": "UNAVAILABLE", "message": "later"}]}).to_string();
    let deep = format!("{{\"manifests\":[],\"annotations\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200));
    vec![
        ("text/html", page.clone()),
        ("text/html; charset=utf-8", page.clone()),
        (IMAGE, page),
        (IMAGE, String::new()),
        ("application/json", String::new()),
        (IMAGE, errors.clone()),
        ("application/json", errors),
        (IMAGE, both.to_string()),
        (INDEX, both.to_string()),
        (INDEX, both.to_string().replace("manifests", "Manifests")),
        ("application/json", both.to_string()),
        (IMAGE, "not JSON".to_owned()),
        ("application/json", "not JSON".to_owned()),
        ("application/json", json!({"status": "ok"}).to_string()),
        ("image/png", json!({"config": descriptor, "layers": []}).to_string()),
        (INDEX, deep),
        (IMAGE, json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string()),
        (IMAGE, "{}".to_owned()),
        (IMAGE, json!({"schemaVersion": 2}).to_string()),
        (IMAGE, json!({"message": "quota"}).to_string()),
        (IMAGE, json!({"schemaVersion": 2, "config": descriptor, "layers": "x"}).to_string()),
        (IMAGE, json!({"schemaVersion": 2, "config": {"digest": "none"}, "layers": []}).to_string()),
        (IMAGE, json!({"schemaVersion": 2, "config": descriptor, "layers": [sized(json!(-1))]}).to_string()),
        (IMAGE, json!({"schemaVersion": 2, "config": descriptor, "layers": [sized(json!("3"))]}).to_string()),
        (IMAGE, json!({"schemaVersion": 1, "config": descriptor, "layers": []}).to_string()),
        (INDEX, json!({"schemaVersion": 2, "manifests": "x"}).to_string()),
        (INDEX, json!({"schemaVersion": 2, "manifests": [{"size": 3}]}).to_string()),
        ("application/json", configuration.to_string()),
        ("application/vnd.oci.image.config.v1+json", configuration.to_string()),
        ("application/vnd.example.thing+json", configuration.to_string()),
        ("application/vnd.example.thing+json", json!({"error": "no", "message": "later"}).to_string()),
        ("application/problem+json", json!({"config": descriptor, "layers": []}).to_string()),
        ("application/problem+json", json!({"title": "later", "status": 503}).to_string()),
    ]
}

fn lies(registry: &Registry, content_type: &str, body: &str) {
    registry.rule(
        Rule::on(Match::manifests().or(Match::lists()))
            .answer(200, content_type, body.to_owned())
            .without_header("docker-content-digest")
            .without_header("etag"),
    );
}

#[tokio::test]
async fn what_cannot_be_a_manifest_is_neither_served_nor_kept_nor_does_it_replace_a_good_tag() {
    for (content_type, body) in implausible() {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
        let digest = image.manifest.digest.to_string();
        lies(&registry, content_type, &body);
        let mirror = TestMirror::of(&registry).await;
        for method in ["GET", "HEAD"] {
            let cold = client::request(mirror.address, method, TAG, &[]).await;
            assert_eq!(cold.status, 502, "cold {method} {content_type} {body}");
        }
        registry.clear_rules();
        assert_eq!(mirror.get(TAG).await.status, 200, "nothing was remembered of {content_type} {body}");
        lies(&registry, content_type, &body);
        mirror.advance(Duration::from_secs(301));
        for method in ["GET", "HEAD"] {
            let stale = client::request(mirror.address, method, TAG, &[]).await;
            let told = (stale.status, stale.header("docker-content-digest"));
            assert_eq!(told, (200, Some(digest.as_str())), "stored {method} {content_type} {body}");
            assert!(stale.header("cache-status").unwrap().contains("stale"), "{content_type} {body}");
            assert!(stale.header("warning").is_some(), "{content_type} {body}");
        }
        let mirror = mirror.restart().await;
        let after = mirror.get(TAG).await;
        assert_eq!(after.header("docker-content-digest"), Some(digest.as_str()), "restarted {content_type} {body}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_manifest_is_not_served_by_its_digest_either() {
    for (content_type, body) in implausible() {
        let registry = Registry::start().await;
        let digest = registry.add_manifest("library/app", &["1"], body.clone(), content_type);
        let mirror = TestMirror::of(&registry).await;
        let path = format!("/v2/library/app/manifests/{digest}");
        for (method, path) in [("GET", path.as_str()), ("HEAD", &path), ("GET", TAG), ("HEAD", TAG)] {
            let answer = client::request(mirror.address, method, path, &[]).await;
            // A head alone may be that of a manifest.
            let may = method == "HEAD" && answer.status == 200;
            assert!(answer.status == 502 || may, "{method} {path} {content_type} {body}: {}", answer.status);
        }
        mirror.settled().await;
        assert!(!mirror.store().join("blobs/sha256").join(digest.hex()).exists(), "{content_type} {body}");
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_that_of_the_blob_opens_no_membership() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/other", noise(2, 1000));
    let path = format!("/v2/library/app/blobs/{digest}");
    let other = format!("sha256:{}", "b".repeat(64));
    let mirror = Settings::of(&registry).config("cache.negative_ttl = \"0s\"").start().await;
    assert!(mirror.get(&path.replace("app", "other")).await.complete);
    mirror.settled().await;
    let at = || Match::path(&path);
    type Lie = fn(Rule, &str) -> Rule;
    let lies: [Lie; 4] = [
        |rule, _| rule.answer(200, "text/html", "<html>Please log in</html>"),
        |rule, _| rule.answer(200, "application/octet-stream", noise(3, 999)),
        |rule, other| {
            rule.answer(200, "application/octet-stream", noise(3, 1000)).header("docker-content-digest", other)
        },
        |rule, _| rule.answer(200, "application/octet-stream", ""),
    ];
    for lie in lies {
        registry.rule(lie(Rule::on(at()), &other));
        let head = mirror.head(&path).await;
        assert_eq!(head.status, 502);
        let get = mirror.get(&path).await;
        assert!(get.status == 502 || !get.complete, "{}", get.status);
        mirror.settled().await;
        registry.clear_rules();
        registry.rule(Rule::on(at()).refuse(404));
        assert_eq!(mirror.get(&path).await.status, 404, "no membership was opened");
        registry.clear_rules();
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_one_replaces_no_list_and_is_not_taken_for_an_empty_one() {
    let deep = format!(r#"{{"tags":[],"manifests":[],"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for (content_type, body) in [
        ("text/html", "<html>Please log in</html>"),
        (INDEX, "<html>Please log in</html>"),
        ("application/json", r#"{"errors":[{"code":"UNAVAILABLE"}]}"#),
        ("application/json", r#"{"name":"library/app","errors":[]}"#),
        ("application/json", "{}"),
        ("application/json", ""),
        ("application/json", "[]"),
        ("application/json", "no JSON"),
        (INDEX, &deep),
        (INDEX, r#"{"schemaVersion":2,"tags":7,"manifests":[],"layers":[]}"#),
        (INDEX, r#"{"schemaVersion":2,"tags":7,"manifests":[{}]}"#),
    ] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
        let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
        let paths = ["/v2/library/app/tags/list", &referrers, &format!("{referrers}?artifactType=a%2Fb")];
        lies(&registry, content_type, body);
        let mirror = TestMirror::of(&registry).await;
        for (method, path) in paths.iter().flat_map(|path| [("HEAD", path), ("GET", path)]) {
            let cold = client::request(mirror.address, method, path, &[]).await;
            assert_eq!(cold.status, 502, "cold {method} {path} {content_type} {body}");
        }
        registry.clear_rules();
        assert_eq!(mirror.get(TAG).await.status, 200);
        let mut good = Vec::new();
        for path in paths {
            good.push(mirror.get(path).await);
        }
        assert!(good.iter().all(|list| list.status == 200), "nothing was remembered of {content_type} {body}");
        mirror.settled().await;
        lies(&registry, content_type, body);
        mirror.advance(Duration::from_secs(31));
        let mirror = mirror.restart().await;
        for (path, good) in paths.iter().zip(&good) {
            let stale = mirror.get(path).await;
            assert_eq!((stale.status, &stale.body), (200, &good.body), "stored {path} {content_type} {body}");
            assert!(stale.header("warning").is_some(), "{path} {content_type} {body}");
        }
    }
    for empty in [
        r#"{"name":"library/app","tags":null}"#,
        r#"{"name":"library/app"}"#,
        r#"{"tags":null}"#,
        r#"{"Name":"library/app"}"#,
        r#"{"Tags":[]}"#,
    ] {
        let registry = Registry::start().await;
        lies(&registry, "application/json", empty);
        assert_eq!(TestMirror::of(&registry).await.get("/v2/library/app/tags/list").await.status, 200, "{empty}");
    }
}

#[tokio::test]
async fn where_one_address_sends_what_cannot_be_an_answer_the_next_is_asked() {
    let (portal, registry) = (Registry::start().await, Registry::start().await);
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    lies(&portal, "text/html", "<html>Please log in</html>");
    let mirror = Settings::of(&portal).or_at(&registry).start().await;
    let answer = mirror.get(TAG).await;
    let digest = image.manifest.digest.to_string();
    assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(digest.as_str())));
}

/// Runs a command at the mirror. Exit code and all that it says.
async fn run(mirror: &TestMirror, arguments: &[&str]) -> (i32, String) {
    let admin = format!("unix:{}", mirror.socket().display());
    let arguments: Vec<String> = arguments.iter().chain(&["--admin", &admin]).map(|&word| word.to_owned()).collect();
    let work = move || command::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    let (code, out, err) = tokio::task::spawn_blocking(work).await.expect("ends");
    (code, String::from_utf8(out).expect("UTF-8") + &err)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_manifest_is_not_fetched_ahead() {
    for (content_type, body) in implausible().into_iter().take(8) {
        let registry = Registry::start().await;
        lies(&registry, content_type, &body);
        let mirror = TestMirror::of(&registry).await;
        let (code, said) = run(&mirror, &["pull", "app:1"]).await;
        assert_eq!(code, 6, "{content_type} {body}: {said}");
        assert_eq!(run(&mirror, &["ready", "app:1"]).await.0, 5, "{content_type} {body}");
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

/// An image layout of one image.
fn layout(media_type: &str, manifest: &str, blob: &str) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media_type, "digest": digest(manifest).to_string(), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "docker.io/library/app:1"}}]});
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_bytes()).expect("writes");
    };
    add("oci-layout".to_owned(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    for bytes in [manifest, blob] {
        add(format!("blobs/sha256/{}", digest(bytes).hex()), bytes);
    }
    add("index.json".to_owned(), &index.to_string());
    tar.into_inner().expect("ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_manifest_gets_no_name_by_import() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let descriptor = json!({"digest": digest("{}").to_string(), "size": 2, "mediaType": "application/x.layer.v1"});
    let image = json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]});
    let both = json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor], "manifests": []});
    for (media_type, manifest, taken) in
        [(IMAGE, &image, true), (INDEX, &image, false), (IMAGE, &both, false), (INDEX, &both, false)]
    {
        let bundle = folder.path().join("bundle.tar").display().to_string();
        std::fs::write(&bundle, layout(media_type, &manifest.to_string(), "{}")).expect("writes");
        let mirror = TestMirror::of(&registry).await;
        let (code, said) = run(&mirror, &["import", &bundle]).await;
        assert_eq!(code == 0, taken, "{media_type} {manifest}: {code} {said}");
        assert_eq!(run(&mirror, &["ready", "app:1", "--all-platforms"]).await.0 == 0, taken, "{media_type} {manifest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_says_what_a_manifest_has_wrong_about_a_size() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let of = |blob: &scripted_registry::Descriptor, size| json!({"mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": size});
    let (config, layer) = (of(&image.config, image.config.size), of(&image.layers[0], image.layers[0].size + 1));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    registry.add_manifest("library/app", &["1"], manifest.to_string(), IMAGE);
    let mirror = TestMirror::of(&registry).await;
    for _ in 0..2 {
        let (code, said) = run(&mirror, &["pull", "app:1"]).await;
        let told = format!("says that it has {} bytes, and it has {}", image.layers[0].size + 1, image.layers[0].size);
        assert!(code != 0 && said.contains(&told) && !said.contains("could not keep"), "{code} {said}");
    }
}

#[tokio::test]
async fn a_head_of_a_blob_that_tells_no_bytes_is_none_where_get_has_them() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(1, 1000));
    registry.rule(Rule::on(Match::blobs().head()).answer(200, "application/octet-stream", ""));
    let mirror = TestMirror::of(&registry).await;
    let head = mirror.head(&format!("/v2/library/app/blobs/{digest}")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
}

#[tokio::test]
async fn a_page_or_an_error_in_place_of_a_small_blob_is_told_as_one_by_every_question_also_after_a_restart() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(14, 5000));
    let path = format!("/v2/library/app/blobs/{digest}");
    let long = ("text/html", "log in ".repeat(20_000));
    for (kind, body) in implausible().into_iter().step_by(2).take(5).chain([long]) {
        registry.clear_rules();
        registry.rule(Rule::on(Match::blob(&digest)).answer(200, kind, body.clone()));
        let mut mirror = TestMirror::of(&registry).await;
        for _ in 0..2 {
            for range in [&[][..], &[("Range", "bytes=0-0")], &[("Range", "bytes=1-")], &[("Range", "bytes=0-0,2-2")]] {
                let answer = mirror.get_with(&path, range).await;
                assert_eq!(answer.status, 502, "{kind}, {range:?}: {body:.100}");
            }
            let head = mirror.head(&path).await.status;
            assert_eq!(head == 502, kind.starts_with("text/html") || body.is_empty(), "{kind}: {head}: {body:.100}");
            let old = client::raw(mirror.address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
            assert!(old.starts_with(b"HTTP/1.0 502") || old.starts_with(b"HTTP/1.1 502"), "{kind}: {old:?}");
            mirror = mirror.restart().await;
        }
        registry.clear_rules();
        assert!(mirror.get(&path).await.complete, "{kind}");
    }
}

#[tokio::test]
async fn a_moved_tag_whose_manifest_is_made_up_stays_what_it_was() {
    for (content_type, body) in implausible().into_iter().step_by(3) {
        let registry = Registry::start().await;
        let old = registry.add_image("library/app", "1", &[noise(18, 1000)]).manifest.digest.to_string();
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(TAG).await.status, 200);
        mirror.settled().await;
        let new = registry.add_image("library/app", "1", &[noise(19, 1000)]).manifest.digest;
        // HEAD is honest.
        registry.rule(
            Rule::on(Match::manifests().get())
                .answer(200, content_type, body.clone())
                .without_header("docker-content-digest"),
        );
        mirror.advance(Duration::from_secs(301));
        let what = format!("{content_type} {body:.100}");
        let stale = mirror.get(TAG).await;
        let told = (stale.status, stale.header("docker-content-digest"), stale.header("warning").is_some());
        assert_eq!(told, (200, Some(old.as_str()), true), "{what}");
        let mirror = mirror.restart().await;
        assert_eq!(mirror.get(TAG).await.header("docker-content-digest"), Some(old.as_str()), "restarted: {what}");
        assert!(!mirror.store().join("blobs/sha256").join(new.hex()).exists(), "{what}");
    }
}

#[tokio::test]
async fn a_head_of_a_manifest_opens_no_membership() {
    for status in [404, 200] {
        let registry = Registry::start().await;
        let digest = registry.add_image("library/other", "1", &[noise(20, 1000)]).manifest.digest;
        registry.add_image("library/app", "1", &[noise(20, 1000)]);
        let mirror = Settings::of(&registry).config("cache.negative_ttl = \"0s\"").start().await;
        assert_eq!(mirror.get("/v2/library/other/manifests/1").await.status, 200);
        mirror.settled().await;
        let path = format!("/v2/library/app/manifests/{digest}");
        let of_app = Rule::on(Match::path(&path).get());
        registry.rule(match status {
            200 => of_app.answer(200, "text/html", "<html>Please log in</html>"),
            status => of_app.refuse(status),
        });
        for _ in 0..2 {
            assert_eq!(mirror.head(&path).await.status, 200, "what the registry says to HEAD");
            let expected = if status == 200 { 502 } else { status };
            assert_eq!(mirror.get(&path).await.status, expected, "{status}");
        }
    }
}
