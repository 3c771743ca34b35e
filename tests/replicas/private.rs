//! A private image, in each of the four modes: on every replica as on a single mirror, whoever fetched it.

use std::path::Path;

use futures_util::future::join;
use scripted_registry::client::{self, Stream};
use scripted_registry::{Gate, Image, Match, Registry, Rule, TokenPolicy, base64, noise};

use crate::mirror::{Settings, TestMirror};
use crate::{Scene, leases};

const REPOSITORY: &str = "team/private";
/// One who may, one who is known and may not, one who is not known, and nobody.
const CALLERS: [&str; 4] = ["ann", "bob", "eve", ""];

/// What a mirror says to all of them, whichever way they ask for any part of the image.
async fn statuses(mirror: &TestMirror, image: &Image) -> Vec<(String, u16)> {
    let manifest = &image.manifest.digest;
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/1".to_owned(), format!("manifests/{manifest}")].into_iter();
    let lists = ["tags/list".to_owned(), format!("referrers/{manifest}")];
    let mut statuses = Vec::new();
    for part in rest.chain(blobs).chain(lists) {
        for (caller, method) in CALLERS.into_iter().flat_map(|caller| [(caller, "GET"), (caller, "HEAD")]) {
            let path = format!("/v2/{REPOSITORY}/{part}?ns=a.example");
            let shown = format!("Basic {}", base64(&format!("{caller}:{caller}")));
            let headers = [("Accept", "*/*"), ("Authorization", shown.as_str())];
            let headers = if caller.is_empty() { &headers[..1] } else { &headers };
            let answer = client::request(mirror.address, method, &path, headers).await;
            if answer.status == 200 {
                assert_eq!(answer.header("cache-control"), Some("private, no-store"));
            }
            statuses.push((format!("{caller:?} {method} {part}"), answer.status));
        }
    }
    statuses
}

/// The lines of each mode, and what stands with the upstream.
fn modes(folder: &Path) -> [(&'static str, String, String); 4] {
    let auth = format!("auth = \"file:{}\"", folder.join("auth").display());
    let users = format!("access.htpasswd = \"{}\"", folder.join("users").display());
    let grant = "access.grant = [{ who = [\"user:ann\"], may = [\"a.example/team/**\"] }]";
    let listen = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]";
    [
        ("public", String::new(), format!("{auth}\naccess = \"public\"")),
        ("shared", users.clone(), format!("{auth}\naccess = \"shared\"")),
        ("mapped", format!("{users}\n{grant}"), format!("{auth}\naccess = \"mapped\"")),
        ("pass-through", listen.to_owned(), "access = \"pass-through\"".to_owned()),
    ]
}

#[tokio::test]
async fn a_private_image_is_given_on_every_replica_as_on_one_in_each_of_the_modes() {
    for n in 0..4 {
        let mut scene = Scene::set().await;
        let folder = tempfile::tempdir().unwrap();
        let user = |name: &str| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap());
        std::fs::write(folder.path().join("users"), ["ann", "bob"].map(user).concat()).unwrap();
        std::fs::write(folder.path().join("auth"), "us:secret").unwrap();
        let policy = TokenPolicy::bearer().user("us", "secret").user("ann", "ann").user("bob", "bob");
        scene.registry.require_tokens(policy.private_to(REPOSITORY, &["us", "ann"]));
        let image = scene.registry.add_image(REPOSITORY, "1", &[noise(500, 300_000), noise(501, 100)]);
        let (mode, lines, upstream) = &modes(folder.path())[n];
        let under = |settings: Settings| settings.config(lines).and("a.example", &scene.registry).having(upstream);
        let alone = under(Settings::of(&scene.registry)).start().await;
        let expected = statuses(&alone, &image).await;
        let may = *mode != "public";
        assert_eq!(expected.iter().any(|(_, status)| *status == 200), may, "{mode}: {expected:?}");
        assert!(expected.iter().any(|(_, status)| matches!(*status, 401 | 403 | 404)), "{mode}: {expected:?}");
        assert_eq!(statuses(&alone, &image).await, expected, "{mode}: warm");

        let start = async || {
            let door = crate::Door::shut().await;
            let mirror = under(scene.settings().config(&scene.told_others(&door))).start().await;
            door.lead_to(mirror.address);
            leases::has_leases(&mirror).await;
            (mirror, door)
        };
        let (first, second) = (start().await, start().await);
        let both = join(statuses(&first.0, &image), statuses(&second.0, &image)).await;
        assert_eq!(both, (expected.clone(), expected.clone()), "{mode}: cold, at once");
        for (mirror, _) in [&first, &second] {
            mirror.settled().await;
            while leases::bucket_of(mirror).await["backlog"] != 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(statuses(mirror, &image).await, expected, "{mode}: warm");
        }
        let third = start().await;
        assert_eq!(statuses(&third.0, &image).await, expected, "{mode}: from the bucket");
        let fourth = start().await;
        scene.registry.stop().await;
        for ((way, status), (_, most)) in statuses(&fourth.0, &image).await.iter().zip(&expected) {
            assert!(*status != 200 || *most == 200, "{mode}: {way} {status} with upstream gone");
        }
    }
}

#[tokio::test]
async fn who_may_read_a_tag_alone_gets_what_it_leads_to_on_whichever_replica_he_asks() {
    let mut scene = Scene::set().await;
    let folder = tempfile::tempdir().unwrap();
    let user = |name: &str| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap());
    std::fs::write(folder.path().join("users"), ["ann", "bob"].map(user).concat()).unwrap();
    let image = scene.registry.add_image(REPOSITORY, "0", &[noise(520, 300_000), noise(521, 100)]);
    let index = scene.registry.add_index(REPOSITORY, "1", &[(&image, "linux/amd64")]);
    let other = scene.registry.add_image(REPOSITORY, "2", &[noise(522, 100)]);
    let lines = format!(
        "access.htpasswd = \"{}\"\naccess.grant = [{{ who = \"user:ann\", may = \"a.example/team/*:1\" }}, \
         {{ who = \"user:bob\", may = \"a.example/team/*\" }}]\ncache.tag_ttl = \"1h\"",
        folder.path().join("users").display()
    );
    let start = async |scene: &Scene| {
        let settings = scene.settings().config(&lines).and("a.example", &scene.registry);
        settings.having("access = \"mapped\"").start().await
    };
    let ask = async |mirror: &TestMirror, method: &str, user: &str, part: &str| {
        let path = format!("/v2/{REPOSITORY}/{part}?ns=a.example");
        let shown = format!("Basic {}", base64(&format!("{user}:{user}")));
        client::request(mirror.address, method, &path, &[("Authorization", &shown), crate::MANIFEST_TYPES]).await.status
    };
    let manifests = [index.digest, image.manifest.digest].map(|digest| format!("manifests/{digest}"));
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let parts: Vec<_> = manifests.into_iter().chain(blobs).collect();
    let first = start(&scene).await;
    assert_eq!(ask(&first, "GET", "ann", "manifests/1").await, 200);
    for part in &parts {
        // Nothing of it is on its disk, and perhaps not in the bucket.
        let replica = start(&scene).await;
        assert_eq!(ask(&replica, "GET", "ann", part).await, 200, "{part}");
        assert_eq!(ask(&replica, "GET", "ann", &format!("manifests/{}", other.manifest.digest)).await, 403, "{part}");
    }
    for part in &parts {
        assert_eq!(ask(&first, "GET", "ann", part).await, 200, "{part}");
    }
    // Seen by one replica, while another one has asked a moment ago.
    let second = start(&scene).await;
    assert_eq!(ask(&second, "GET", "ann", "manifests/1").await, 200);
    let is_carried = async |mirror: &TestMirror| {
        mirror.settled().await;
        while leases::bucket_of(mirror).await["backlog"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    is_carried(&first).await;
    is_carried(&second).await;
    scene.registry.stop().await;
    for (part, method) in parts.iter().flat_map(|part| ["GET", "HEAD"].map(|method| (part, method))) {
        let replica = start(&scene).await;
        assert_eq!(ask(&replica, method, "ann", part).await, 200, "upstream is away: {method} {part}");
        // The tag may lead there by now, and nobody can say.
        assert_eq!(ask(&replica, method, "ann", &format!("manifests/{}", other.manifest.digest)).await, 503);
    }
}

/// A replica with an empty disk, whose upstream of that name is this registry, asked with what each caller shows.
async fn passing(scene: &Scene, registry: &Registry) -> (TestMirror, crate::Door) {
    let door = crate::Door::shut().await;
    let listen = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]";
    let settings = scene.settings().config(&scene.told_others(&door)).config(listen);
    let mirror = settings.and("a.example", registry).having("access = \"pass-through\"").start().await;
    door.lead_to(mirror.address);
    leases::has_leases(&mirror).await;
    (mirror, door)
}

#[tokio::test]
async fn what_a_replica_has_of_a_registry_is_not_given_by_one_whose_upstream_of_that_name_is_another_registry() {
    let (scene, other) = (Scene::set().await, Registry::start().await);
    scene.registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private(REPOSITORY));
    other.require_tokens(TokenPolicy::bearer().user("bob", "bob").private(REPOSITORY));
    let image = scene.registry.add_image(REPOSITORY, "old", &[noise(510, 300_000)]);
    let large = scene.registry.add_blob(REPOSITORY, noise(511, 2_000_000));
    other.add_image(REPOSITORY, "1", &[noise(512, 100)]);
    let (there, here) = (passing(&scene, &scene.registry).await, passing(&scene, &other).await);
    let [ann, bob] = ["ann", "bob"].map(|user| format!("Basic {}", base64(&format!("{user}:{user}"))));
    let below = |rest: &str| format!("/v2/{REPOSITORY}/{rest}?ns=a.example");
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/old".to_owned(), format!("manifests/{}", image.manifest.digest)];
    let mut paths: Vec<_> = rest.into_iter().chain(blobs).map(|rest| below(&rest)).collect();
    for path in &paths {
        let given = client::get(there.0.address, path, &[("Authorization", &ann)]).await;
        assert_eq!(given.status, 200, "{path}");
    }
    let whole = below(&format!("blobs/{large}"));
    paths.push(whole.clone());
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&large).get()).stall_after(1_000_000, &gate));
    let mut under_way = Stream::get(there.0.address, &whole, &[("Authorization", &ann)]).await;
    assert_eq!(under_way.read_exactly(500_000).await.len(), 500_000);
    let is_refused = async |when: &str| {
        let his = client::get(here.0.address, &below("manifests/1"), &[("Authorization", &bob)]).await;
        assert_eq!(his.status, 200, "{when}: what he may read");
        for (path, method) in paths.iter().flat_map(|path| ["HEAD", "GET"].map(|method| (path, method))) {
            let answer = client::request(here.0.address, method, path, &[("Authorization", &bob)]).await;
            assert_eq!(answer.status, 404, "{when}: {method} {path}");
        }
    };
    is_refused("while it comes there").await;
    gate.open();
    assert!(under_way.finish().await.complete);
    there.0.settled().await;
    while leases::bucket_of(&there.0).await["backlog"] != 0 {
        tokio::task::yield_now().await;
    }
    is_refused("from the bucket").await;
    let third = passing(&scene, &scene.registry).await;
    scene.registry.forget_requests();
    for path in &paths {
        let given = client::get(third.0.address, path, &[("Authorization", &ann)]).await;
        assert_eq!(given.status, 200, "{path}: on a replica of the same");
    }
    assert_eq!(scene.registry.count_of(&Match::blobs().get()), 0, "from the bucket");
}

/// Takes out of what the bucket has where upstreams were, as an earlier version wrote it. How many it was in.
fn forget_places(scene: &Scene) -> usize {
    let records = scene.bucket.keys().into_iter().filter_map(|key| {
        let mut record: serde_json::Value = serde_json::from_slice(&scene.bucket.object(&key)?).ok()?;
        record.as_object_mut()?.remove("places")?;
        Some((key, record))
    });
    let records: Vec<_> = records.collect();
    records.iter().for_each(|(key, record)| scene.bucket.put(key, record.to_string()));
    records.len()
}

#[tokio::test]
async fn what_an_earlier_version_left_in_the_bucket_is_given_to_nobody_whose_upstream_has_not_given_it() {
    let (scene, other) = (Scene::set().await, Registry::start().await);
    scene.registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private(REPOSITORY));
    other.require_tokens(TokenPolicy::bearer().user("bob", "bob").private(REPOSITORY));
    let image = scene.registry.add_image(REPOSITORY, "old", &[noise(531, 3_000)]);
    other.add_image(REPOSITORY, "1", &[noise(532, 100)]);
    let below = |rest: &str| format!("/v2/{REPOSITORY}/{rest}?ns=a.example");
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/old".to_owned(), format!("manifests/{}", image.manifest.digest)];
    let paths: Vec<_> = rest.into_iter().chain(blobs).map(|rest| below(&rest)).collect();
    let [ann, bob] = ["ann", "bob"].map(|user| format!("Basic {}", base64(&format!("{user}:{user}"))));
    let is_given = async |mirror: &TestMirror, caller: &str, status: u16, when: &str| {
        for (path, method) in paths.iter().flat_map(|path| ["HEAD", "GET", "GET"].map(|method| (path, method))) {
            let answer = client::request(mirror.address, method, path, &[("Authorization", caller)]).await;
            assert_eq!(answer.status, status, "{when}: {method} {path}");
        }
        mirror.settled().await;
        while leases::bucket_of(mirror).await["backlog"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    let there = passing(&scene, &scene.registry).await;
    is_given(&there.0, &ann, 200, "where it is").await;
    assert!(forget_places(&scene) >= paths.len());
    let here = passing(&scene, &other).await;
    let his = client::get(here.0.address, &below("manifests/1"), &[("Authorization", &bob)]).await;
    assert_eq!(his.status, 200, "what he may read");
    is_given(&here.0, &bob, 404, "where it is not").await;
    let again = passing(&scene, &scene.registry).await;
    is_given(&again.0, &ann, 200, "asked for anew where it is").await;
    is_given(&passing(&scene, &other).await.0, &bob, 404, "after that").await;
}

#[tokio::test]
async fn what_still_comes_from_where_an_upstream_was_is_given_to_no_replica_of_where_it_is_now() {
    let (scene, other) = (Scene::set().await, Registry::start().await);
    scene.registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private(REPOSITORY));
    other.require_tokens(TokenPolicy::bearer().user("bob", "bob").private(REPOSITORY));
    let large = scene.registry.add_blob(REPOSITORY, noise(521, 2_000_000));
    other.add_image(REPOSITORY, "1", &[noise(522, 100)]);
    let (mut first, second) = (passing(&scene, &scene.registry).await, passing(&scene, &other).await);
    let whole = format!("/v2/{REPOSITORY}/blobs/{large}?ns=a.example");
    let shown = ["ann", "bob"].map(|user| format!("Basic {}", base64(&format!("{user}:{user}"))));
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&large).get()).stall_after(1_000_000, &gate));
    let mut under_way = Stream::get(first.0.address, &whole, &[("Authorization", &shown[0])]).await;
    assert_eq!(under_way.read_exactly(500_000).await.len(), 500_000);
    let moved = first.0.reload(|settings| settings.replacing(&scene.registry.url(), &other.url())).await;
    assert_eq!(moved.status, 200);
    let his = format!("/v2/{REPOSITORY}/manifests/1?ns=a.example");
    for (path, status) in [(&his, 200), (&whole, 404)] {
        let answer = client::get(second.0.address, path, &[("Authorization", &shown[1])]).await;
        assert_eq!(answer.status, status, "{path}");
    }
    gate.open();
    assert!(under_way.finish().await.complete, "what was begun goes on");
}
