//! A private image, in each of the four modes: on every replica as on a single mirror, whoever fetched it.

use std::path::Path;

use futures_util::future::join;
use scripted_registry::{Image, TokenPolicy, base64, client, noise};

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
