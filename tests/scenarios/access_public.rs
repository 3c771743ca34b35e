//! What is public is proven without our credential, where we have one.

use std::time::Duration;

use scripted_registry::{Image, Match, Registry, Rule, TokenPolicy, noise};
use tempfile::TempDir;

use crate::support::mirror::{Settings, TestMirror};

const HOUR: Duration = Duration::from_secs(3600);

/// A registry with something private, and a mirror that may pull it.
async fn scene(access: &str) -> (Registry, Settings, TempDir) {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("us", "secret").private("owner/private"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("auth");
    std::fs::write(&file, "us:secret").expect("written");
    let lines = format!("auth = \"file:{}\"\naccess = \"{access}\"", file.display());
    let settings =
        Settings::of(&registry).config("cache.stale_if_error = \"2h\"").and("a.example", &registry).having(&lines);
    (registry, settings, folder)
}

fn paths(repository: &str, image: &Image) -> Vec<String> {
    let manifest = &image.manifest.digest;
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/1".to_owned(), format!("manifests/{manifest}"), "tags/list".to_owned()].into_iter();
    rest.chain(blobs).map(|path| format!("/v2/{repository}/{path}?ns=a.example")).collect()
}

async fn statuses(mirror: &TestMirror, paths: &[String]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in paths {
        statuses.extend([mirror.get(path).await.status, mirror.head(path).await.status]);
    }
    statuses
}

#[tokio::test]
async fn what_is_private_is_not_there_for_anybody_stored_or_not() {
    let (registry, settings, _folder) = scene("public").await;
    let private = registry.add_image("owner/private", "1", &[noise(51, 1000)]);
    let open = registry.add_image("owner/open", "1", &[noise(52, 1000)]);
    let (private, open) = (paths("owner/private", &private), paths("owner/open", &open));
    let mirror = settings.start().await;
    assert_eq!(statuses(&mirror, &private).await, vec![404; 2 * private.len()]);
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
    let absent = mirror.get("/v2/owner/nothing/manifests/1?ns=a.example").await;
    let refused = mirror.get(&private[0]).await;
    let text = |body: &[u8]| String::from_utf8_lossy(body).replace("nothing", "private");
    assert_eq!((absent.status, text(&absent.body)), (refused.status, text(&refused.body)));
    // Stored for those of whom it was said that they may.
    mirror.settled().await;
    let settings = mirror.stop().await;
    let shared = settings.clone().replacing("access = \"public\"", "access = \"shared\"").start().await;
    assert_eq!(statuses(&shared, &private).await, vec![200; 2 * private.len()]);
    shared.settled().await;
    let mirror = shared.stop().await.replacing("access = \"shared\"", "access = \"public\"").start().await;
    assert_eq!(statuses(&mirror, &private).await, vec![404; 2 * private.len()]);
}

#[tokio::test]
async fn a_proof_is_good_for_an_hour_and_while_upstream_is_away_as_long_as_a_tag() {
    let (mut registry, settings, _folder) = scene("public").await;
    let open = registry.add_image("owner/open", "1", &[noise(53, 1000)]);
    let open = paths("owner/open", &open);
    let mirror = settings.start().await;
    let anonymous = |registry: &Registry| {
        registry.count(|request| request.path == "/token" && request.header("authorization").is_none())
    };
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
    let before = anonymous(&registry);
    assert!(before > 0);
    mirror.advance(HOUR - Duration::from_secs(60));
    let mirror = mirror.restart().await;
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
    assert_eq!(anonymous(&registry), before, "noted, also over a restart");
    registry.stop().await;
    mirror.advance(HOUR);
    assert_eq!(mirror.get(&open[1]).await.status, 200);
    mirror.advance(HOUR);
    assert_eq!(mirror.get(&open[1]).await.status, 503, "away, and never not public");
}

#[tokio::test]
async fn of_what_was_never_asked_for_nothing_is_said_while_upstream_is_away() {
    let (mut registry, settings, _folder) = scene("public").await;
    let open = registry.add_image("owner/open", "latest", &[noise(58, 1000)]);
    let referrers = format!("/v2/owner/open/referrers/{}?ns=a.example", open.manifest.digest);
    let paths = paths("owner/open", &open).into_iter().filter(|path| !path.contains("manifests"));
    let paths: Vec<_> = paths.chain([referrers]).collect();
    let mirror = settings.start().await;
    let blob = paths.iter().find(|path| path.contains("blobs")).expect("one");
    assert_eq!(mirror.get(blob).await.status, 404, "nobody has shown that it is public");
    registry.stop().await;
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 503, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_longer_public_is_not_there_after_an_hour() {
    let (registry, settings, _folder) = scene("public").await;
    let image = registry.add_image("owner/open", "1", &[noise(54, 1000)]);
    let open = paths("owner/open", &image);
    let mirror = settings.start().await;
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
    registry.require_tokens(TokenPolicy::bearer().user("us", "secret").private("owner/open"));
    registry.expire_tokens();
    mirror.advance(HOUR + Duration::from_secs(1));
    assert_eq!(statuses(&mirror, &open).await, vec![404; 2 * open.len()]);
    registry.require_tokens(TokenPolicy::bearer().user("us", "secret"));
    registry.expire_tokens();
    assert_eq!(mirror.get(&open[0]).await.status, 200);
}

#[tokio::test]
async fn what_was_public_at_another_address_need_not_be_so_here() {
    for (restart, is_away) in [(false, false), (true, false), (false, true), (true, true)] {
        let (there, settings, _folder) = scene("public").await;
        let open = there.add_image("owner/open", "1", &[noise(60, 1000)]);
        let open = paths("owner/open", &open);
        let mut here = Registry::start().await;
        here.require_tokens(TokenPolicy::bearer().user("us", "secret").private("owner/open"));
        here.add_image("owner/open", "1", &[noise(60, 1000)]);
        let mut mirror = settings.start().await;
        assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
        mirror.settled().await;
        let moved = |settings: Settings| settings.replacing(&there.url(), &here.url());
        if restart {
            mirror = moved(mirror.stop().await).start().await;
        } else {
            assert_eq!(mirror.reload(moved).await.status, 200);
        }
        if is_away {
            here.stop().await;
        }
        let expected = if is_away { 503 } else { 404 };
        let of_it = &open[..2];
        assert_eq!(statuses(&mirror, of_it).await, vec![expected; 4], "{restart} {is_away}");
        let back = |settings: Settings| settings.replacing(&here.url(), &there.url());
        mirror = back(mirror.stop().await).start().await;
        assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()], "{restart} {is_away}: it is so there");
    }
}

#[tokio::test]
async fn that_nobody_gets_a_token_is_a_no_only_where_the_token_service_says_that_nobody_may() {
    for (status, after_an_hour) in
        [(400, 200), (404, 200), (405, 200), (410, 200), (422, 200), (500, 200), (401, 404), (403, 404)]
    {
        let (registry, settings, _folder) = scene("public").await;
        let open = registry.add_image("owner/open", "1", &[noise(59, 1000)]);
        let open = paths("owner/open", &open);
        let mirror = settings.start().await;
        assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()], "{status}");
        registry.rule(Rule::on(Match::token().without_header("authorization")).refuse(status));
        mirror.advance(HOUR + Duration::from_secs(1));
        assert_eq!(mirror.get(&open[1]).await.status, after_an_hour, "{status}");
    }
}

#[tokio::test]
async fn a_tag_that_is_not_there_says_nothing_of_the_others() {
    let (registry, settings, _folder) = scene("public").await;
    let image = registry.add_image("owner/open", "1", &[noise(55, 1000)]);
    let open = paths("owner/open", &image);
    let mirror = settings.start().await;
    assert_eq!(mirror.get("/v2/owner/open/manifests/none?ns=a.example").await.status, 404);
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
    mirror.advance(HOUR + Duration::from_secs(1));
    assert_eq!(mirror.get("/v2/owner/open/manifests/none?ns=a.example").await.status, 404);
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
}

#[tokio::test]
async fn what_came_with_a_credential_that_is_gone_is_asked_for_anew() {
    let (registry, settings, _folder) = scene("shared").await;
    let private = registry.add_image("owner/private", "1", &[noise(56, 1000)]);
    let open = registry.add_image("owner/open", "1", &[noise(57, 1000)]);
    let (private, open) = (paths("owner/private", &private), paths("owner/open", &open));
    let mirror = settings.start().await;
    for paths in [&private, &open] {
        assert_eq!(statuses(&mirror, paths).await, vec![200; 2 * paths.len()]);
    }
    mirror.settled().await;
    let mut bare = mirror.stop().await;
    bare = bare.replacing("auth = ", "#auth = ").replacing("access = \"shared\"", "");
    let mirror = bare.start().await;
    for status in statuses(&mirror, &private).await {
        assert_ne!(status, 200);
    }
    assert_eq!(statuses(&mirror, &open).await, vec![200; 2 * open.len()]);
}

#[tokio::test]
async fn a_path_that_says_v2_twice_is_told_so_where_nothing_is_for_everybody() {
    let (_registry, settings, _folder) = scene("public").await;
    let mirror = settings.start().await;
    for (path, told) in [("v2/owner/app", true), ("owner/app", false)] {
        for rest in ["manifests/1", "tags/list"] {
            let answer = mirror.get(&format!("/v2/{path}/{rest}?ns=a.example")).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, text.contains("says /v2/ twice")), (404, told), "{path}/{rest}: {text}");
        }
    }
}
