//! An upstream of callers with several addresses, of which one is taken away: what that one gave is not what the ones
//! that stay gave.

use scripted_registry::{Image, Match, Registry, Rule, noise};

use crate::access_mapped::basic;
use crate::access_moved::{BOTH, How, below, in_front_of, moved, of_it_alone, registry_of};
use crate::access_passing::{ask, paths, pull};
use crate::support::mirror::TestMirror;

fn at(registries: &[&Registry]) -> String {
    let urls = registries.iter().map(|registry| format!("\"{}\"", registry.url())).collect::<Vec<_>>();
    if let [one] = &urls[..] { format!("url = {one}") } else { format!("url = [{}]", urls.join(", ")) }
}

async fn in_front_of_both(first: &Registry, second: &Registry) -> TestMirror {
    in_front_of(first, "").replacing(&at(&[first]), &at(&[first, second])).start().await
}

/// An image at the first of two addresses, pulled by who may, by each of its tags; and another one of that name at the
/// second.
async fn scene() -> (Registry, Image, Registry, Image, TestMirror) {
    let (first, second) = (registry_of("ann").await, registry_of("bob").await);
    let old = first.add_image("team/private", "1", &[noise(81, 200_000)]);
    first.move_tag("team/private", "old", &old.manifest.digest);
    let new = second.add_image("team/private", "1", &[noise(82, 1000)]);
    let (mirror, ann) = (in_front_of_both(&first, &second).await, basic("ann", "ann"));
    for path in paths(&old).into_iter().chain([below("manifests/old")]) {
        for method in ["HEAD", "GET", "HEAD"] {
            assert_eq!(ask(&mirror, method, &path, &ann).await.status, 200, "{method} {path}");
            mirror.settled().await;
        }
    }
    (first, old, second, new, mirror)
}

fn all(image: &Image) -> Vec<u16> {
    vec![200; paths(image).len() - 2]
}

async fn given_to(mirror: &TestMirror, image: &Image, shown: &str) -> Vec<String> {
    let mut given = Vec::new();
    for (path, method) in of_it_alone(image).iter().flat_map(|path| ["GET", "HEAD"].map(|method| (path, method))) {
        let status = ask(mirror, method, path, shown).await.status;
        if status != 404 {
            given.push(format!("{method} {path}: {status}"));
        }
    }
    given
}

#[tokio::test]
async fn what_one_of_two_addresses_gave_is_given_to_nobody_when_the_other_one_stays() {
    for how in BOTH {
        let (first, old, second, new, mirror) = scene().await;
        let bob = basic("bob", "bob");
        let mirror = moved(mirror, how, &at(&[&first, &second]), &at(&[&second])).await;
        let by_digest = below(&format!("manifests/{}", new.manifest.digest));
        assert_eq!(ask(&mirror, "GET", &by_digest, &bob).await.status, 200, "{how:?}: what he may read");
        assert_eq!(given_to(&mirror, &old, &bob).await, Vec::<String>::new(), "{how:?}");
        for method in ["HEAD", "GET"] {
            let answer = ask(&mirror, method, &below("manifests/1"), &bob).await;
            let digest = answer.header("docker-content-digest").map(str::to_owned);
            assert_eq!((answer.status, digest), (200, Some(new.manifest.digest.to_string())), "{how:?} {method}");
        }
    }
}

#[tokio::test]
async fn what_the_address_that_stays_gave_is_not_asked_for_again() {
    for how in BOTH {
        let (first, old, second, _, mirror) = scene().await;
        let mirror = moved(mirror, how, &at(&[&first, &second]), &at(&[&first])).await;
        first.forget_requests();
        assert_eq!(pull(&mirror, &old, &basic("ann", "ann")).await, all(&old), "{how:?}");
        let asked = Match::manifests().get().or(Match::blobs().get());
        assert_eq!(first.count_of(&asked), 0, "{how:?}: it is stored");
    }
}

#[tokio::test]
async fn what_the_second_gave_while_the_first_was_away_is_of_the_second() {
    for how in BOTH {
        let (mut first, second) = (registry_of("ann").await, registry_of("bob").await);
        first.add_image("team/private", "1", &[noise(83, 1000)]);
        let image = second.add_image("team/private", "1", &[noise(84, 200_000)]);
        second.move_tag("team/private", "old", &image.manifest.digest);
        let mirror = in_front_of_both(&first, &second).await;
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        first.stop().await;
        assert_eq!(pull(&mirror, &image, &bob).await, all(&image), "{how:?}");
        assert_eq!(ask(&mirror, "GET", &below("manifests/old"), &bob).await.status, 200, "{how:?}");
        mirror.settled().await;
        first.restart_on_same_port().await;
        let mirror = moved(mirror, how, &at(&[&first, &second]), &at(&[&second])).await;
        second.forget_requests();
        assert_eq!(pull(&mirror, &image, &bob).await, all(&image), "{how:?}");
        assert!(image.blobs().all(|blob| second.gets_of(&blob.digest) == 0), "{how:?}: it is stored");
        let mirror = moved(mirror, how, &at(&[&second]), &at(&[&first])).await;
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &ann).await.status, 200, "{how:?}: what she may read");
        assert_eq!(given_to(&mirror, &image, &ann).await, Vec::<String>::new(), "{how:?}");
    }
}

#[tokio::test]
async fn what_each_of_two_gave_a_part_of_is_of_both_together() {
    for how in [How::Reload, How::Restart] {
        let (first, second) = (registry_of("ann").await, registry_of("ann").await);
        let content = noise(85, 2_000_000);
        let digest = first.add_blob("team/private", content.clone());
        second.add_blob("team/private", content.clone());
        first.rule(Rule::on(Match::blob(&digest).get()).once().close_after(1_000_000));
        first.rule(Rule::on(Match::blob(&digest).get()).refuse(503));
        let mirror = in_front_of_both(&first, &second).await;
        let (path, ann) = (below(&format!("blobs/{digest}")), basic("ann", "ann"));
        let given = async |mirror: &TestMirror| {
            let given = ask(mirror, "GET", &path, &ann).await;
            assert!(given.complete && given.body == content, "{how:?}: {}", given.status);
            mirror.settled().await;
        };
        let sent = || [&first, &second].map(|registry| registry.body_bytes_sent(&digest));
        given(&mirror).await;
        let parts = sent();
        assert!(parts.iter().all(|part| *part > 500_000) && parts[1] < 2_000_000, "{how:?}: {parts:?}");
        first.clear_rules();
        given(&mirror).await;
        assert_eq!(sent(), parts, "{how:?}: it is stored");
        let mirror = moved(mirror, how, &at(&[&first, &second]), &at(&[&second])).await;
        for _ in 0..2 {
            given(&mirror).await;
            assert_eq!(sent(), [parts[0], parts[1] + 2_000_000], "{how:?}: all of it comes from there, once");
        }
    }
}

#[tokio::test]
async fn the_word_of_one_for_what_the_other_gave_is_of_both_together() {
    for (how, method) in BOTH.into_iter().flat_map(|how| [(how, "GET"), (how, "HEAD")]) {
        let (mut first, second) = (registry_of("ann").await, registry_of("ann").await);
        let content = noise(86, 100_000);
        let digest = first.add_blob("team/private", content.clone());
        second.add_blob("team/other", content.clone());
        let (mirror, ann) = (in_front_of_both(&first, &second).await, basic("ann", "ann"));
        assert_eq!(ask(&mirror, "GET", &below(&format!("blobs/{digest}")), &ann).await.status, 200);
        mirror.settled().await;
        first.stop().await;
        let path = format!("/v2/team/other/blobs/{digest}?ns=a.example");
        assert_eq!(ask(&mirror, method, &path, &ann).await.status, 200, "{how:?} {method}");
        mirror.settled().await;
        assert!(second.body_bytes_sent(&digest) < 100_000, "{how:?} {method}: its word is enough");
        let mirror = moved(mirror, how, &at(&[&first, &second]), &at(&[&second])).await;
        assert_eq!(ask(&mirror, "GET", &path, &ann).await.status, 200, "{how:?} {method}");
        assert!(second.body_bytes_sent(&digest) >= 100_000, "{how:?} {method}: its own bytes are the proof");
    }
}
