//! How a tag is asked for, for who may read it and nothing else of a repository, and names a digest: what one of them
//! asks for is no other's trouble, and what upstream did not say is no refusal.

use std::time::Duration;

use scripted_registry::{Digest, Image, Match, Registry, Rule, noise};

use crate::access_mapped::{ask, mapped, told, users};
use crate::support::mirror::TestMirror;

fn at(rest: &str) -> String {
    format!("/v2/app/{rest}?ns=a.example")
}

fn made_up(n: u64) -> Digest {
    Digest::of(scripted_registry::Algorithm::Sha256, &n.to_le_bytes())
}

/// What of an image is asked for by its digest.
fn parts(image: &Image) -> Vec<String> {
    let manifest = at(&format!("manifests/{}", image.manifest.digest));
    image.blobs().map(|blob| at(&format!("blobs/{}", blob.digest))).chain([manifest]).collect()
}

async fn each_part(mirror: &TestMirror, user: &str, image: &Image, status: u16, why: &str) {
    for path in parts(image) {
        for method in ["HEAD", "GET"] {
            assert_eq!(ask(mirror, method, user, &path).await.status, status, "{why}: {user} {method} {path}");
        }
    }
}

const ONE_TAG: &str = "{ who = [\"user:ann\", \"user:eve\"], may = \"a.example/app:1\" }, \
                       { who = \"user:bob\", may = \"a.example/app\" }";
const A_MOMENT: Duration = Duration::from_millis(100);
const A_WHILE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn what_one_caller_asks_for_in_vain_keeps_nobody_from_what_the_tag_leads_to_now() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    for is_there in [true, false] {
        for (who, kind) in [("eve", "blobs"), ("", "manifests"), ("eve", "referrers"), ("ann", "blobs")] {
            let registry = Registry::start().await;
            if is_there {
                registry.add_image("app", "1", &[noise(460, 1000)]);
            }
            let grants = format!("{ONE_TAG}, {{ who = \"anonymous\", may = \"a.example/app:1\" }}");
            let mirror = mapped(&registry, &users, &grants).config("cache.tag_ttl = \"1h\"").start().await;
            let refused = ask(&mirror, "GET", who, &at(&format!("{kind}/{}", made_up(1)))).await.status;
            assert_eq!(refused, if who.is_empty() { 401 } else { 403 });
            let new = registry.add_image("app", "1", &[noise(461, 1000), noise(462, 1000)]);
            mirror.advance(A_MOMENT);
            each_part(&mirror, "ann", &new, 200, &format!("{who} {kind} {is_there}")).await;
        }
    }
}

#[tokio::test]
async fn made_up_digests_of_one_caller_are_few_questions_and_leave_others_theirs() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(463, 1000)]);
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"0s\"").start().await;
    let asked = || registry.count_of(&Match::manifest("app", "1"));
    for n in 0..40 {
        for kind in ["manifests", "blobs", "referrers"] {
            assert_eq!(ask(&mirror, "GET", "eve", &at(&format!("{kind}/{}", made_up(n)))).await.status, 403, "{kind}");
        }
        mirror.advance(Duration::from_millis(10));
    }
    assert!((1..=5).contains(&asked()), "{} questions", asked());
    let new = registry.add_image("app", "1", &[noise(464, 1000)]);
    each_part(&mirror, "ann", &new, 200, "hers is asked for at once").await;
    let before = asked();
    for n in 0..20 {
        let path = at(&format!("blobs/{}", made_up(n)));
        assert_eq!(ask(&mirror, "HEAD", "eve", &path).await.status, 403);
    }
    assert_eq!(asked(), before, "she was refused these a moment ago");
}

#[tokio::test]
async fn what_upstream_does_not_say_is_no_refusal_and_nothing_of_it_is_remembered() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    for is_known in [true, false] {
        for trouble in ["503", "500", "429", "a cut"] {
            let registry = Registry::start().await;
            let other = registry.add_image("app", "2", &[noise(465, 1000)]);
            let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1m\"").start().await;
            each_part(&mirror, "bob", &other, 200, "stored").await;
            if is_known {
                let old = registry.add_image("app", "1", &[noise(466, 1000)]);
                each_part(&mirror, "bob", &old, 200, "stored").await;
                assert_eq!(ask(&mirror, "GET", "bob", &at("manifests/1")).await.status, 200);
            }
            mirror.settled().await;
            let new = registry.add_image("app", "1", &[noise(467, 1000)]);
            mirror.advance(A_WHILE);
            let rule = Rule::on(Match::manifests());
            registry.rule(match trouble {
                "a cut" => rule.reset_at_once(),
                "429" => rule.too_many_requests(None),
                status => rule.refuse(status.parse().expect("a status")),
            });
            let why = format!("{trouble}, known: {is_known}");
            for kind in ["manifests", "blobs"] {
                let [stored, absent, right] =
                    [other.manifest.digest, made_up(2), new.manifest.digest].map(|it| at(&format!("{kind}/{it}")));
                for path in [&right, &absent, &stored] {
                    assert_eq!(ask(&mirror, "GET", "eve", path).await.status, 503, "{why}: {path}");
                }
                // Each is told which one he asked for.
                let mut said = Vec::new();
                for path in [&stored, &absent] {
                    let answer = ask(&mirror, "GET", "eve", path).await;
                    let (status, headers, body) = told(&answer);
                    let digest = path.split(['/', '?']).find(|part| part.starts_with("sha256:")).expect("a digest");
                    said.push((status, headers, String::from_utf8_lossy(&body).replace(digest, "it")));
                }
                assert_eq!(said[0], said[1], "{why}");
            }
            registry.clear_rules();
            // It is left alone for a moment.
            mirror.advance(A_WHILE);
            each_part(&mirror, "eve", &new, 200, &why).await;
            let stored = ask(&mirror, "GET", "eve", &at(&format!("manifests/{}", other.manifest.digest))).await;
            assert_eq!(stored.status, 403, "{why}");
        }
    }
}

#[tokio::test]
async fn what_a_tag_led_to_when_it_was_last_asked_for_is_asked_about_before_it_is_given_to_who_never_began() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    for restarts in [false, true] {
        for (then, status) in [("it moved", 403), ("it was deleted", 403), ("it stayed", 200), ("away", 200)] {
            for method in ["GET", "HEAD"] {
                let registry = Registry::start().await;
                let image = registry.add_image("app", "1", &[noise(468, 1000)]);
                let mut mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1m\"").start().await;
                assert_eq!(ask(&mirror, method, "ann", &at("manifests/1")).await.status, 200);
                each_part(&mirror, "ann", &image, 200, "led").await;
                mirror.settled().await;
                match then {
                    "it moved" => drop(registry.add_image("app", "1", &[noise(469, 1000)])),
                    "it was deleted" => registry.remove_tag("app", "1"),
                    "away" => registry.rule(Rule::on(Match::manifests()).refuse(503)),
                    _ => {}
                }
                mirror.advance(A_WHILE);
                if restarts {
                    mirror = mirror.restart().await;
                } else {
                    each_part(&mirror, "ann", &image, 200, "who has begun goes on").await;
                }
                let why = format!("{method}, {then}, restarted: {restarts}");
                each_part(&mirror, "eve", &image, status, &why).await;
                mirror.advance(A_WHILE);
                each_part(&mirror, "eve", &image, status, &why).await;
            }
        }
    }
}

fn an_index(registry: &Registry, tag: &str, seed: u64) -> Vec<Image> {
    let children: Vec<_> =
        (0..40).map(|n| registry.add_image("app", &format!("{tag}-{n}"), &[noise(seed + n, 500)])).collect();
    let platforms: Vec<_> = (0..40).map(|n| format!("linux/a{n}")).collect();
    let named: Vec<_> = children.iter().zip(&platforms).map(|(image, platform)| (image, &**platform)).collect();
    registry.add_index("app", tag, &named);
    children
}

#[tokio::test]
async fn what_an_index_of_many_leads_to_is_looked_for_once_for_all_and_takes_no_questions_of_who_asks() {
    let registry = Registry::start().await;
    let children = an_index(&registry, "1", 500);
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let config = "cache.tag_ttl = \"1h\"\nlimits.cold_per_client = 6";
    let of_children = || registry.count_of(&Match::manifests().get().and(Match::when(|it| it.path.contains("sha256"))));

    let mirror = mapped(&registry, &users, ONE_TAG).config(config).start().await;
    let layer = at(&format!("blobs/{}", children[37].layers[0].digest));
    assert_eq!(ask(&mirror, "GET", "eve", &layer).await.status, 200, "of the 38th");

    let mirror = mapped(&registry, &users, ONE_TAG).config(config).start().await;
    registry.forget_requests();
    let manifest = at(&format!("manifests/{}", made_up(3)));
    assert_eq!(ask(&mirror, "GET", "eve", &manifest).await.status, 403);
    assert_eq!(of_children(), 0, "the index names all manifests");
    let child = at(&format!("manifests/{}", children[38].manifest.digest));
    assert_eq!(ask(&mirror, "GET", "eve", &child).await.status, 200);
    registry.remove_manifest("app", &children[2].manifest.digest);
    registry.forget_requests();
    for (n, user) in [(4, "eve"), (5, "ann"), (6, "eve"), (7, "ann")] {
        assert_eq!(ask(&mirror, "HEAD", user, &at(&format!("blobs/{}", made_up(n)))).await.status, 403);
        mirror.advance(Duration::from_secs(60));
    }
    assert_eq!(of_children(), 39, "each once, also one that is not there");
}
