//! An upstream of callers that is at another address than before: what the registry there had says nothing of who may
//! read what the one here has, though both have the same name and the same repositories.

use scripted_registry::client::Stream;
use scripted_registry::{Gate, Image, Match, Registry, Rule, TokenPolicy, noise};
use serde_json::Value;

use crate::access_kept::run;
use crate::access_mapped::{basic, users};
use crate::access_passing::{ask, paths, pull};
use crate::membership::{files_below, make_old};
use crate::support::mirror::{Settings, TestMirror};

/// How it is told where its upstream is now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Reload,
    Restart,
}

pub(crate) const BOTH: [How; 2] = [How::Reload, How::Restart];
pub(crate) const LINES: &str = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]\ncache.tag_ttl = \"1h\"\n\
                     cache.negative_ttl = \"0s\"";

/// A registry with one user, who may read a private repository.
pub(crate) async fn registry_of(user: &str) -> Registry {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user(user, user).private("team/private"));
    registry
}

pub(crate) fn in_front_of(registry: &Registry, more: &str) -> Settings {
    let settings = Settings::of(registry).config(LINES).config(more);
    settings.and("a.example", registry).having("access = \"pass-through\"")
}

pub(crate) async fn moved(mut mirror: TestMirror, how: How, from: &str, to: &str) -> TestMirror {
    let change = |settings: Settings| settings.replacing(from, to);
    match how {
        How::Reload => {
            let told = mirror.reload(change).await;
            assert_eq!(told.status, 200, "{}", String::from_utf8_lossy(&told.body));
            mirror
        }
        How::Restart => change(mirror.stop().await).start().await,
    }
}

pub(crate) fn below(rest: &str) -> String {
    format!("/v2/team/private/{rest}?ns=a.example")
}

/// Everything that can be had of an image by its digests, and by a tag that only it has.
pub(crate) fn of_it_alone(image: &Image) -> Vec<String> {
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let digest = &image.manifest.digest;
    let rest = [format!("manifests/{digest}"), format!("blobs/{digest}"), "manifests/old".to_owned()];
    rest.into_iter().chain(blobs).map(|rest| below(&rest)).collect()
}

/// An image in one registry, pulled by who may, by each of its tags; and another image of the same name in the other.
pub(crate) async fn scene(more: &str) -> (Registry, Image, Registry, Image, TestMirror) {
    let (there, here) = (registry_of("ann").await, registry_of("bob").await);
    let old = there.add_image("team/private", "1", &[noise(71, 200_000)]);
    there.move_tag("team/private", "old", &old.manifest.digest);
    let new = here.add_image("team/private", "1", &[noise(72, 1000)]);
    let (mirror, ann) = (in_front_of(&there, more).start().await, basic("ann", "ann"));
    // A manifest is no blob for whoever is asked each time.
    let all = paths(&old).into_iter().chain([below("manifests/old")]);
    for path in &all.collect::<Vec<_>>() {
        for method in ["GET", "HEAD"] {
            assert_eq!(ask(&mirror, method, path, &ann).await.status, 200, "{method} {path}");
            mirror.settled().await;
        }
    }
    (there, old, here, new, mirror)
}

#[tokio::test]
async fn what_the_registry_at_another_address_had_is_given_to_nobody_whom_the_one_here_gives_something() {
    for how in BOTH {
        let (there, old, here, new, mirror) = scene("").await;
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        there.forget_requests();
        let by_digest = below(&format!("manifests/{}", new.manifest.digest));
        assert_eq!(ask(&mirror, "GET", &by_digest, &bob).await.status, 200, "{how:?}: what he may read");
        let mut given = Vec::new();
        for (path, method) in of_it_alone(&old).iter().flat_map(|path| ["GET", "HEAD"].map(|method| (path, method))) {
            for (shown, expected) in [(&bob, 404), (&ann, 401)] {
                let status = ask(&mirror, method, path, shown).await.status;
                if status != expected {
                    given.push(format!("{method} {path}: {status} to {shown}"));
                }
            }
        }
        assert!(given.is_empty(), "{how:?}: {given:#?}");
        for method in ["HEAD", "GET", "HEAD"] {
            let answer = ask(&mirror, method, &below("manifests/1"), &bob).await;
            let digest = answer.header("docker-content-digest").map(str::to_owned);
            assert_eq!((answer.status, digest), (200, Some(new.manifest.digest.to_string())), "{how:?} {method}");
        }
        let tags = ask(&mirror, "GET", &below("tags/list"), &bob).await;
        let tags: Value = serde_json::from_slice(&tags.body).expect("JSON");
        assert_eq!(tags["tags"], serde_json::json!(["1"]), "{how:?}");
        assert_eq!(there.requests().len(), 0, "{how:?}: nobody is sent there any more");
    }
}

#[tokio::test]
async fn a_tag_is_asked_for_anew_also_where_the_registry_here_has_what_it_pointed_at() {
    for how in BOTH {
        let (there, old, here, new, mirror) = scene("").await;
        here.add_image("team/private", "other", &[noise(71, 200_000)]);
        let bob = basic("bob", "bob");
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        // His from here on, and stored.
        let by_digest = below(&format!("manifests/{}", old.manifest.digest));
        assert_eq!(ask(&mirror, "GET", &by_digest, &bob).await.status, 200, "{how:?}");
        mirror.settled().await;
        for method in ["HEAD", "GET"] {
            let answer = ask(&mirror, method, &below("manifests/1"), &bob).await;
            let digest = answer.header("docker-content-digest").map(str::to_owned);
            assert_eq!((answer.status, digest), (200, Some(new.manifest.digest.to_string())), "{how:?} {method}");
            assert_eq!(ask(&mirror, method, &below("manifests/old"), &bob).await.status, 404, "{how:?} {method}");
        }
    }
}

#[tokio::test]
async fn what_the_registry_here_has_too_comes_from_there_once_and_what_was_proven_before_stays_so() {
    for how in BOTH {
        let (there, old, here, _, mirror) = scene("").await;
        here.add_image("team/private", "1", &[noise(71, 200_000)]);
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        let all = vec![200; paths(&old).len() - 2];
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        for _ in 0..2 {
            assert_eq!(pull(&mirror, &old, &bob).await, all, "{how:?}");
            mirror.settled().await;
        }
        assert!(old.blobs().all(|blob| here.gets_of(&blob.digest) == 1), "{how:?}: its own bytes are the proof");
        let mirror = moved(mirror, how, &here.url(), &there.url()).await;
        there.forget_requests();
        assert_eq!(pull(&mirror, &old, &ann).await, all, "{how:?}");
        assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) == 0), "{how:?}: it gave it before");
    }
}

#[tokio::test]
async fn while_the_registry_here_is_away_nothing_stands_in_that_another_one_gave() {
    for (how, offline) in BOTH.map(|how| (how, false)).into_iter().chain([(How::Reload, true)]) {
        let (there, old, mut here, new, mirror) = scene("access.grant_ttl = \"0s\"").await;
        let bob = basic("bob", "bob");
        let mut mirror = moved(mirror, how, &there.url(), &here.url()).await;
        for path in &paths(&new)[..2] {
            assert_eq!(ask(&mirror, "GET", path, &bob).await.status, 200, "{how:?}");
        }
        mirror.settled().await;
        if offline {
            let lines = format!("{LINES}\naccess.grant_ttl = \"0s\"\ncache.mode = \"offline\"");
            assert_eq!(mirror.reload(|settings| settings.reconfigured(&lines)).await.status, 200);
        } else {
            here.stop().await;
        }
        let stale = ask(&mirror, "GET", &below("manifests/1"), &bob).await;
        assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{how:?}: it was his");
        assert_eq!(stale.header("docker-content-digest"), Some(&*new.manifest.digest.to_string()), "{how:?}");
        for (path, method) in of_it_alone(&old).iter().flat_map(|path| ["GET", "HEAD"].map(|method| (path, method))) {
            assert_eq!(ask(&mirror, method, path, &bob).await.status, 503, "{how:?} {offline}: {method} {path}");
        }
    }
}

#[tokio::test]
async fn an_address_more_or_less_makes_no_other_registry_of_it() {
    for how in BOTH {
        let (there, old, here, _, mirror) = scene("").await;
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        let all = vec![200; paths(&old).len() - 2];
        let one = |registry: &Registry| format!("url = \"{}\"", registry.url());
        let both = format!("url = [\"{}\", \"{}\"]", there.url(), here.url());
        let mirror = moved(mirror, how, &one(&there), &both).await;
        there.forget_requests();
        assert_eq!(pull(&mirror, &old, &ann).await, all, "{how:?}");
        assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) == 0), "{how:?}: it is stored");
        // However the address is spelled.
        let spelled = format!("url = \"{}/v2/\"", there.url());
        let mirror = moved(mirror, how, &both, &spelled).await;
        assert_eq!(pull(&mirror, &old, &ann).await, all, "{how:?}");
        assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) == 0), "{how:?}: it is stored");
        let mirror = moved(mirror, how, &spelled, &one(&here)).await;
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 200, "{how:?}");
        assert_eq!(ask(&mirror, "GET", &of_it_alone(&old)[0], &bob).await.status, 404, "{how:?}");
    }
}

#[tokio::test]
async fn a_tag_that_means_the_same_here_is_asked_for_once() {
    for how in BOTH {
        let (there, old, here, _, mirror) = scene("").await;
        here.add_image("team/private", "1", &[noise(71, 200_000)]);
        let bob = basic("bob", "bob");
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        // By HEAD what it means, and then that: its pointer is left behind by what arrives.
        let by_digest = below(&format!("manifests/{}", old.manifest.digest));
        for (method, path) in [("HEAD", &below("manifests/1")), ("GET", &by_digest)] {
            assert_eq!(ask(&mirror, method, path, &bob).await.status, 200, "{how:?}");
            mirror.settled().await;
        }
        here.forget_requests();
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 200, "{how:?}");
        assert_eq!(here.count_of(&Match::manifests()), 0, "{how:?}: it is known what it means here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bundle_brought_is_of_the_address_of_then() {
    let (there, old, here, _, mirror) = scene("").await;
    let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("private.tar").display().to_string();
    let socket = |mirror: &TestMirror| format!("--admin unix:{}", mirror.socket().display());
    run(format!("export a.example/team/private:1 -o {bundle} {}", socket(&mirror))).await;
    let taken_in = in_front_of(&there, "").start().await;
    run(format!("import {bundle} {}", socket(&taken_in))).await;
    there.forget_requests();
    let taken_in = moved(taken_in, How::Restart, &there.url(), &here.url()).await;
    assert_eq!(ask(&taken_in, "GET", &below("manifests/1"), &bob).await.status, 200);
    for path in of_it_alone(&old) {
        assert_eq!(ask(&taken_in, "GET", &path, &bob).await.status, 404, "{path}");
    }
    let taken_in = moved(taken_in, How::Restart, &here.url(), &there.url()).await;
    assert_eq!(pull(&taken_in, &old, &ann).await, vec![200; paths(&old).len() - 2]);
    assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) == 0), "its bytes came by the bundle");
}

/// Takes out of the names of a store where the upstreams were that gave them.
fn forget_places(store: &std::path::Path) {
    make_old(store, None);
    for path in files_below(store, "/_tags/") {
        let text = std::fs::read_to_string(&path).expect("text");
        if let Ok(mut record) = serde_json::from_str::<Value>(&text)
            && let Some(fields) = record.as_object_mut().filter(|fields| fields.contains_key("since"))
        {
            assert!(fields.remove("places").is_some(), "{text}");
            std::fs::write(&path, record.to_string()).expect("written");
        }
    }
}

#[tokio::test]
async fn what_an_earlier_version_left_is_given_and_is_from_then_on_of_who_says_that_it_may_be() {
    let (there, old, here, _, mirror) = scene("").await;
    let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
    let mirror = mirror.restart_after(forget_places).await;
    there.forget_requests();
    for path in paths(&old).iter().chain(&of_it_alone(&old)) {
        assert_eq!(ask(&mirror, "GET", path, &ann).await.status, 200, "{path}");
    }
    assert_eq!(there.count_of(&Match::blobs().get().or(Match::manifests().get())), 0, "all of it is stored");
    mirror.settled().await;
    let mirror = moved(mirror, How::Restart, &there.url(), &here.url()).await;
    assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 200);
    for path in of_it_alone(&old) {
        assert_eq!(ask(&mirror, "GET", &path, &bob).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn what_an_earlier_version_left_and_nobody_asked_for_since_is_of_where_the_upstream_was_at_the_first_start() {
    for how in BOTH {
        let (there, old, here, _, mirror) = scene("").await;
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        let as_it_was = |store: &std::path::Path| {
            forget_places(store);
            std::fs::remove_file(store.join("places")).expect("it was written");
        };
        let mirror = mirror.restart_after(as_it_was).await;
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 200, "{how:?}");
        for path in of_it_alone(&old) {
            assert_eq!(ask(&mirror, "GET", &path, &bob).await.status, 404, "{how:?} {path}");
        }
        let mirror = moved(mirror, how, &here.url(), &there.url()).await;
        there.forget_requests();
        assert_eq!(pull(&mirror, &old, &ann).await, vec![200; paths(&old).len() - 2], "{how:?}");
        assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) == 0), "{how:?}: it is stored");
    }
}

#[tokio::test]
async fn what_is_not_for_the_upstream_to_say_is_served_wherever_the_operator_says_that_it_is() {
    let (folder, users) = users(&["ann"]);
    std::fs::write(folder.path().join("login"), "ann:ann\n").expect("written");
    let (auth, ann) = (format!("auth = \"file:{}\"", folder.path().join("login").display()), basic("ann", "ann"));
    let grants = "access.grant = [{ who = \"user:ann\", may = \"a.example/**\" }]";
    let mapped = format!("access.htpasswd = \"{}\"\n{grants}", users.display());
    let modes = [("public", "", ""), ("shared", "", auth.as_str()), ("mapped", mapped.as_str(), auth.as_str())];
    for ((access, lines, keys), how) in modes.into_iter().flat_map(|mode| BOTH.map(|how| (mode, how))) {
        let (there, mut here) = (Registry::start().await, Registry::start().await);
        let image = there.add_image("team/private", "1", &[noise(73, 100_000)]);
        let all = vec![200; paths(&image).len() - 2];
        let settings = Settings::of(&there).config(lines).and("a.example", &there);
        let mirror = settings.having(&format!("access = \"{access}\"\n{keys}")).start().await;
        assert_eq!(pull(&mirror, &image, &ann).await, all, "{access}");
        mirror.settled().await;
        here.stop().await;
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        assert_eq!(pull(&mirror, &image, &ann).await, all, "{access} {how:?}: with nobody there");
    }
}

#[tokio::test]
async fn what_is_half_there_is_not_gone_on_with_at_another_address() {
    for how in BOTH {
        let (there, here) = (registry_of("ann").await, registry_of("bob").await);
        let content = noise(74, 2_000_000);
        let digest = there.add_blob("team/private", content.clone());
        here.add_blob("team/private", content.clone());
        let mirror = in_front_of(&there, "").start().await;
        let path = below(&format!("blobs/{digest}"));
        there.rule(Rule::on(Match::blob(&digest).get()).once().close_after(1_000_000));
        there.rule(Rule::on(Match::blob(&digest).get()).refuse(503));
        let cut = ask(&mirror, "GET", &path, &basic("ann", "ann")).await;
        assert!(!cut.complete, "{}", cut.status);
        mirror.settled().await;
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        let given = ask(&mirror, "GET", &path, &basic("bob", "bob")).await;
        assert!(given.complete && given.body == content, "{how:?}: {}", given.status);
        let rest = Match::blob(&digest).get().with_header("range");
        assert_eq!(here.count_of(&rest), 0, "{how:?}: all of it comes from here");
    }
}

#[tokio::test]
async fn who_asks_while_a_fill_from_the_address_of_before_is_under_way_gets_it_from_the_one_of_now_and_both_get_all() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("login"), "ann:ann\n").expect("written");
    let auth = format!("auth = \"file:{}\"", folder.path().join("login").display());
    for (access, keys) in [("public", ""), ("shared", auth.as_str())] {
        let (there, here) = (Registry::start().await, Registry::start().await);
        let content = noise(75, 2_000_000);
        let digest = there.add_blob("team/private", content.clone());
        here.add_blob("team/private", content.clone());
        let settings = Settings::of(&there).and("a.example", &there);
        let mirror = settings.having(&format!("access = \"{access}\"\n{keys}")).start().await;
        let (path, gate) = (below(&format!("blobs/{digest}")), Gate::new());
        there.rule(Rule::on(Match::blob(&digest).get()).stall_after(1_000_000, &gate));
        let mut first = Stream::get(mirror.address, &path, &[]).await;
        let begun = first.read_exactly(500_000).await;
        let mirror = moved(mirror, How::Reload, &there.url(), &here.url()).await;
        let second = mirror.get(&path).await;
        assert!(second.complete && second.body == content, "{access}: {}", second.status);
        assert_eq!((there.gets_of(&digest), here.gets_of(&digest)), (1, 1), "{access}: nobody waits for the other one");
        gate.open();
        let rest = first.finish().await;
        assert!(rest.complete && [&begun[..], &rest.body[..]].concat() == content, "{access}");
        mirror.settled().await;
        here.forget_requests();
        assert_eq!(mirror.get(&path).await.body, content, "{access}");
        assert_eq!(here.gets_of(&digest), 0, "{access}: it is stored");
    }
}
