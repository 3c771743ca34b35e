//! What is said to one question is said to that question: to one method, about one kind of object, for one set
//! of accepted types.

use std::time::Duration;

use bytes::Bytes;
use scripted_registry::{Image, Match, Registry, Rule, client, noise};

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ARTIFACT: &str = "application/vnd.example.thing.manifest.v1+json";
const EXPIRED: Duration = Duration::from_secs(301);

async fn run(mirror: &TestMirror, arguments: &[&str]) -> (i32, String) {
    let admin = format!("unix:{}", mirror.socket().display());
    let arguments: Vec<String> = arguments.iter().chain(&["--admin", &admin]).map(|&word| word.to_owned()).collect();
    let work = move || command::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
    let (code, out, err) = tokio::task::spawn_blocking(work).await.expect("ends");
    (code, String::from_utf8(out).expect("UTF-8") + &err)
}

async fn pull(mirror: &TestMirror, image: &Image) {
    assert_eq!(mirror.get(&format!("/v2/{}/manifests/{}", image.repository, image.tag)).await.status, 200);
    for blob in image.blobs() {
        assert!(mirror.get(&format!("/v2/{}/blobs/{}", image.repository, blob.digest)).await.complete);
    }
    mirror.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_of_one_kind_of_object_is_not_removed_by_a_question_about_another() {
    for status in [404, 403] {
        for restarted in [false, true] {
            let registry = Registry::start().await;
            let image = registry.add_image("library/app", "1", &[noise(1, 1000), noise(2, 1000)]);
            let mut mirror = TestMirror::of(&registry).await;
            pull(&mirror, &image).await;
            let path =
                |keyword: &str, digest: &scripted_registry::Digest| format!("/v2/library/app/{keyword}/{digest}");
            for blob in image.blobs() {
                let asked = path("manifests", &blob.digest);
                registry.rule(Rule::on(Match::path(&asked)).refuse(status));
                for method in ["GET", "HEAD"] {
                    assert_eq!(client::request(mirror.address, method, &asked, &[]).await.status, 404);
                }
            }
            let asked = path("blobs", &image.manifest.digest);
            registry.rule(Rule::on(Match::path(&asked)).refuse(status));
            registry.rule(Rule::on(Match::lists()).refuse(404));
            for method in ["GET", "HEAD"] {
                client::request(mirror.address, method, &asked, &[]).await;
                let referrers = path("referrers", &image.manifest.digest);
                client::request(mirror.address, method, &referrers, &[]).await;
            }
            registry.clear_rules();
            registry.rule(Rule::on(Match::any()).close_at_once());
            if restarted {
                mirror = mirror.restart().await;
            }
            for blob in image.blobs() {
                assert!(mirror.get(&path("blobs", &blob.digest)).await.complete, "{status} restarted {restarted}");
            }
            assert_eq!(mirror.get(&path("manifests", &image.manifest.digest)).await.status, 200);
            let (code, said) = run(&mirror, &["ready", "app:1"]).await;
            assert_eq!(code, 0, "{status} restarted {restarted}: {said}");
        }
    }
}

/// A blob that one repository brought, and the path of it in another.
async fn brought() -> (Registry, TestMirror, scripted_registry::Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(3, 100_000);
    let digest = registry.add_blob("library/a", bytes.clone());
    registry.add_blob("library/b", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    assert!(mirror.get(&format!("/v2/library/a/blobs/{digest}")).await.complete);
    mirror.settled().await;
    let path = format!("/v2/library/b/blobs/{digest}");
    (registry, mirror, digest, bytes, path)
}

#[tokio::test]
async fn a_no_to_head_of_a_blob_is_none_to_get() {
    for status in [404, 403, 401, 400, 410] {
        for asked_by_head in [false, true] {
            let (registry, mirror, digest, bytes, path) = brought().await;
            registry.rule(Rule::on(Match::path(&path).head()).refuse(status));
            if asked_by_head {
                assert_eq!(mirror.head(&path).await.status, 404, "what the registry says to HEAD");
            }
            let sent = registry.body_bytes_sent(&digest);
            let answer = mirror.get(&path).await;
            assert!(answer.status == 200 && answer.body == bytes, "{status} {asked_by_head}: {}", answer.status);
            let sent = registry.body_bytes_sent(&digest) - sent;
            assert!(sent <= 1, "{status} {asked_by_head}: what is here is not fetched again: {sent}");
            assert_eq!(mirror.head(&path).await.status, 200, "it is known now");
        }
    }
    // Cold, the head is not even asked for.
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/a", noise(4, 1000));
    let path = format!("/v2/library/a/blobs/{digest}");
    registry.rule(Rule::on(Match::path(&path).head()).refuse(404));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.head(&path).await.status, 404);
    assert!(mirror.get(&path).await.complete);
}

#[tokio::test]
async fn a_no_to_head_is_none_to_get_of_any_kind() {
    for config in ["", "cache.negative_ttl = \"0s\""] {
        for status in [404, 403, 405] {
            let registry = Registry::start().await;
            let image = registry.add_image("library/app", "1", &[noise(17, 1000)]);
            let elsewhere = registry.add_image("library/other", "1", &[noise(17, 1000)]);
            let mirror = Settings::of(&registry).config(config).start().await;
            pull(&mirror, &elsewhere).await;
            registry.rule(Rule::on(Match::any().head()).refuse(status));
            for path in [
                "tags/list".to_owned(),
                format!("referrers/{}", image.manifest.digest),
                format!("manifests/{}", image.manifest.digest),
                format!("blobs/{}", image.layers[0].digest),
                "manifests/1".to_owned(),
            ] {
                let path = format!("/v2/library/app/{path}");
                mirror.head(&path).await;
                let answer = mirror.get(&path).await;
                assert!(answer.status == 200 && answer.complete, "{config} {status} {path}: {}", answer.status);
            }
        }
    }
}

#[tokio::test]
async fn where_no_part_of_a_blob_is_to_be_had_the_whole_of_it_tells() {
    let (registry, mirror, _, bytes, path) = brought().await;
    registry.rule(Rule::on(Match::path(&path).head()).refuse(404));
    registry.rule(Rule::on(Match::path(&path).with_header("range")).refuse(416));
    let answer = mirror.get(&path).await;
    assert!(answer.status == 200 && answer.body == bytes);
}

#[tokio::test]
async fn whether_a_blob_is_stored_elsewhere_does_not_show_in_a_404() {
    let (registry, mirror, digest, _, path) = brought().await;
    registry.remove_blob("library/b", &digest);
    let nowhere = format!("/v2/library/b/blobs/sha256:{}", "0".repeat(64));
    let text = |answer: client::Response, digest: &str| {
        assert_eq!(answer.status, 404);
        String::from_utf8(answer.body.to_vec()).unwrap().replace(digest, "DIGEST")
    };
    for _ in 0..2 {
        let stored = text(mirror.get(&path).await, &digest.to_string());
        let unknown = text(mirror.get(&nowhere).await, nowhere.rsplit('/').next().unwrap());
        assert_eq!(stored, unknown);
    }
}

#[tokio::test]
async fn a_no_to_head_of_a_tag_is_none_to_get() {
    for status in [404, 403, 401, 400, 405, 501] {
        for method in ["GET", "HEAD"] {
            let registry = Registry::start().await;
            let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
            registry.rule(Rule::on(Match::manifests().head()).refuse(status));
            let mirror = TestMirror::that_heard(&registry).await;
            let digest = image.manifest.digest.to_string();
            let by_digest = format!("/v2/library/app/manifests/{digest}");
            for path in [TAG, by_digest.as_str(), TAG] {
                let answer = client::request(mirror.address, method, path, &[]).await;
                let told = (answer.status, answer.header("docker-content-digest"));
                assert_eq!(told, (200, Some(digest.as_str())), "{status} to HEAD, {method} {path}");
                mirror.advance(EXPIRED);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_to_one_set_of_types_concerns_that_set() {
    let no = |status: u16| move |rule: Rule| rule.refuse(status);
    let schema1 = |rule: Rule| {
        let text = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        rule.answer(200, "application/vnd.docker.distribution.manifest.v1+prettyjws", text)
            .without_header("docker-content-digest")
    };
    type Answer = Box<dyn Fn(Rule) -> Rule>;
    let cases: [(&[(&str, &str)], Answer); 6] = [
        (&[("Accept", DOCKER_MANIFEST)], Box::new(no(404))),
        (&[], Box::new(no(404))),
        (&[("Accept", DOCKER_MANIFEST)], Box::new(no(403))),
        (&[], Box::new(no(401))),
        (&[], Box::new(schema1)),
        (&[("Accept", DOCKER_MANIFEST)], Box::new(schema1)),
    ];
    for (number, (accept, answer)) in cases.iter().enumerate() {
        let mut registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
        let oci = [("Accept", OCI_MANIFEST)];
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get_with(TAG, &oci).await.status, 200);
        for blob in image.blobs() {
            mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await;
        }
        let takes_oci = |request: &scripted_registry::Recorded| {
            request.header("accept").is_some_and(|accept| accept.contains("oci.image.manifest"))
        };
        let odd = Match::manifests().and(Match::when(move |request| !takes_oci(request)));
        registry.rule(answer(Rule::on(odd)));
        mirror.advance(EXPIRED);
        for method in ["GET", "HEAD"] {
            let refused = client::request(mirror.address, method, TAG, accept).await;
            assert_eq!(refused.status, 404, "case {number}, {method}");
        }
        assert_eq!(run(&mirror, &["ready", "app:1"]).await.0, 0, "case {number}");
        let listed = run(&mirror, &["images", "--json"]).await.1;
        assert!(listed.contains(&image.manifest.digest.to_string()), "case {number}: {listed}");
        registry.stop().await;
        for _ in 0..2 {
            let normal = mirror.get_with(TAG, &oci).await;
            assert_eq!(normal.status, 200, "case {number}");
            mirror.advance(EXPIRED);
        }
        let mirror = mirror.restart().await;
        assert_eq!(mirror.get_with(TAG, &oci).await.status, 200, "case {number}, restarted");
    }
}

#[tokio::test]
async fn a_tag_that_is_gone_is_gone_for_all_whose_types_were_asked_for() {
    let mut registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let (narrow, wide) = (OCI_MANIFEST.to_owned(), format!("{OCI_MANIFEST}, {OCI_INDEX}"));
    assert_eq!(mirror.get_with(TAG, &[("Accept", &narrow)]).await.status, 200);
    registry.remove_tag("library/app", "1");
    mirror.advance(EXPIRED);
    assert_eq!(mirror.get_with(TAG, &[("Accept", &wide)]).await.status, 404);
    registry.stop().await;
    mirror.advance(EXPIRED);
    assert_eq!(mirror.get_with(TAG, &[("Accept", &narrow)]).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_never_had_before_gets_what_fits_him_best_and_not_what_was_told_last() {
    let mut registry = Registry::start().await;
    let amd = registry.add_image("library/app", "amd", &[noise(1, 1000)]);
    let arm = registry.add_image("library/app", "arm", &[noise(2, 1000)]);
    let index = registry.add_index("library/app", "1", &[(&amd, "amd64"), (&arm, "arm64")]);
    registry.negotiate_tag("library/app", "1", &[index.digest, amd.manifest.digest]);
    let mirror = TestMirror::of(&registry).await;
    let (index, image) = (index.digest.to_string(), amd.manifest.digest.to_string());
    let get = async |mirror: &TestMirror, accept: &str| {
        let answer = mirror.get_with(TAG, &[("Accept", accept)]).await;
        (answer.status, answer.header("docker-content-digest").unwrap_or_default().to_owned())
    };
    assert_eq!(get(&mirror, &format!("{OCI_INDEX}, {OCI_MANIFEST}")).await, (200, index.clone()));
    mirror.advance(Duration::from_secs(10));
    assert_eq!(get(&mirror, OCI_MANIFEST).await, (200, image.clone()));
    registry.stop().await;
    assert_eq!(get(&mirror, "*/*").await, (200, index.clone()), "before a restart");
    let mirror = mirror.restart().await;
    for (accept, expected) in [
        (format!("{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_MANIFEST}"), &index),
        (format!("{OCI_INDEX}, */*"), &index),
        ("*/*".to_owned(), &index),
        (format!("{DOCKER_MANIFEST}, {OCI_MANIFEST}"), &image),
        (format!("{OCI_INDEX};q=0, {OCI_MANIFEST}, {DOCKER_MANIFEST}"), &image),
    ] {
        assert_eq!(get(&mirror, &accept).await, (200, expected.clone()), "{accept}");
    }
    assert!(run(&mirror, &["inspect", "app:1"]).await.1.contains(&index));
    assert!(run(&mirror, &["images", "--json"]).await.1.contains(&index));
    assert_eq!(run(&mirror, &["freeze", "app:1"]).await.0, 0);
    assert_eq!(get(&mirror, "*/*").await, (200, index));
}

#[tokio::test]
async fn what_the_client_takes_is_what_upstream_is_asked_for() {
    let registry = Registry::start().await;
    let manifest = r#"{"schemaVersion":2,"blobs":[]}"#;
    let digest = registry.add_manifest("library/app", &["1"], manifest, ARTIFACT);
    registry.options(|options| options.strict_accept = true);
    let unnamed = Match::when(|request| !request.header("accept").is_some_and(|accept| accept.contains(ARTIFACT)));
    registry.rule(Rule::on(Match::manifests().and(unnamed)).refuse(404));
    let seven = format!(
        "{OCI_INDEX}, {OCI_MANIFEST}, application/vnd.docker.distribution.manifest.list.v2+json, {DOCKER_MANIFEST}, \
         application/vnd.docker.distribution.manifest.v1+prettyjws, application/vnd.docker.distribution.manifest.v1+json, \
         application/json"
    );
    let eight = format!("{seven}, {ARTIFACT}");
    let by_digest = format!("/v2/library/app/manifests/{digest}");
    for path in [TAG, by_digest.as_str()] {
        for named_first in [false, true] {
            let mirror = TestMirror::of(&registry).await;
            let mut cases = vec![(&seven, 404), (&eight, 200)];
            if named_first {
                cases.reverse();
            }
            for (accept, expected) in cases {
                for method in ["GET", "HEAD", "GET"] {
                    let answer = client::request(mirror.address, method, path, &[("Accept", accept)]).await;
                    // What is stored under a digest is served whatever is accepted.
                    let expected = if named_first && path == by_digest { 200 } else { expected };
                    assert_eq!(answer.status, expected, "{method} {path} {accept}");
                }
            }
        }
    }
    // By several lines, and with an odd byte in one of them.
    let mirror = TestMirror::of(&registry).await;
    let odd = format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nAccept: x/\u{e9}, {ARTIFACT}\r\nConnection: close\r\n\r\n");
    let answer = client::raw(mirror.address, odd.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_type_of_weight_zero_is_not_asked_for() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = Settings::of(&registry).start().await;
    let accept = format!("{OCI_INDEX};q=0, {OCI_MANIFEST};q=0.5, {ARTIFACT};q=0.0");
    mirror.get_with(TAG, &[("Accept", &accept)]).await;
    let asked = registry.requests();
    let asked = asked.iter().find(|request| request.path == TAG).expect("asked");
    assert_eq!(asked.header("accept"), Some(OCI_MANIFEST));
}

#[tokio::test]
async fn made_up_types_fill_no_disk() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    for number in 0..100 {
        let accept = format!("{OCI_MANIFEST}, application/vnd.made-up-{number}");
        assert_eq!(mirror.get_with(TAG, &[("Accept", &accept)]).await.status, 200);
    }
    let folder = mirror.store().join("repositories/docker.io/library/app/_tags/1");
    assert!(std::fs::read_dir(folder).unwrap().count() < 20);
}

#[tokio::test]
async fn media_types_are_named_in_any_case_and_form() {
    for accept in [
        "APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON",
        "application/vnd.oci.image.manifest.v1+json;q=0.9",
        "application/vnd.oci.image.manifest.v1+json ; q=1.0 ; x=y",
        "application/vnd.oci.image.manifest.v1+json;charset=utf-8",
        "application/*",
        "application/*;q=0.8, text/html",
        "*/*;q=0.1",
        "",
        ",,",
        "application/json, application/vnd.oci.image.manifest.v1+json",
    ] {
        for method in ["GET", "HEAD"] {
            let mut registry = Registry::start().await;
            registry.add_image("library/app", "1", &[noise(2, 1000)]);
            let mirror = TestMirror::of(&registry).await;
            let get = async |mirror: &TestMirror, method: &str| {
                client::request(mirror.address, method, TAG, &[("Accept", accept)]).await
            };
            assert_eq!(get(&mirror, method).await.status, 200, "{accept:?}");
            assert_eq!(get(&mirror, "GET").await.status, 200, "{accept:?}");
            registry.stop().await;
            let mirror = mirror.restart().await;
            mirror.advance(EXPIRED);
            let stale = get(&mirror, method).await;
            assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{accept:?}");
            // Another client, never seen before, who can read it.
            let other = mirror.get_with(TAG, &[("Accept", OCI_MANIFEST)]).await;
            assert_eq!(other.status, 200, "{accept:?}");
        }
    }
}

#[tokio::test]
async fn questions_about_one_kind_of_object_take_nothing_from_another() {
    for method in ["GET", "HEAD"] {
        let mut registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(9, 1000)]);
        let mirror = Settings::of(&registry).config("cache.negative_ttl = \"0s\"").start().await;
        assert_eq!(mirror.get(TAG).await.status, 200);
        let (layer, manifest) = (image.layers[0].digest, image.manifest.digest);
        assert!(mirror.get(&format!("/v2/library/app/blobs/{layer}")).await.complete);
        mirror.settled().await;
        for path in [
            format!("manifests/{layer}"),
            format!("manifests/{}", layer.hex()),
            format!("blobs/{manifest}"),
            format!("referrers/{layer}"),
            format!("referrers/{manifest}"),
        ] {
            registry.rule(Rule::on(Match::path(&format!("/v2/library/app/{path}"))).refuse(404));
            client::request(mirror.address, method, &format!("/v2/library/app/{path}"), &[]).await;
        }
        registry.stop().await;
        let mirror = mirror.restart().await;
        assert_eq!(mirror.get(TAG).await.status, 200, "{method}");
        assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{manifest}")).await.status, 200, "{method}");
        assert!(mirror.get(&format!("/v2/library/app/blobs/{layer}")).await.complete, "{method}");
    }
}

#[tokio::test]
async fn every_type_that_a_client_accepts_is_asked_for_however_many_and_long_they_are() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(15, 100)]);
    let wanted = "application/vnd.zz+json";
    let names_it = Match::when(move |asked| asked.header("accept").is_some_and(|line| line.contains(wanted)));
    registry.rule(Rule::on(Match::manifests().and(Match::when(move |asked| !names_it.matches(asked)))).refuse(404));
    let many: Vec<_> = (0..250).map(|number| format!("application/vnd.a{number}+json")).collect();
    let long = format!("application/vnd.{}+json", "b".repeat(2000));
    for others in [many.join(", "), long] {
        for accept in [format!("{others}, {wanted}"), format!("{wanted}, {others}")] {
            for reference in ["1".to_owned(), image.manifest.digest.to_string()] {
                for method in ["GET", "HEAD"] {
                    let mirror = TestMirror::of(&registry).await;
                    let path = format!("/v2/library/app/manifests/{reference}");
                    let answer = client::request(mirror.address, method, &path, &[("Accept", &accept)]).await;
                    assert_eq!(answer.status, 200, "{method} {reference} {accept:.60}");
                }
            }
        }
    }
}
