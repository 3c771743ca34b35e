//! Settings that are read again while clients pull: all of a file or nothing, and no pull fails for it.

use std::time::Duration;

use futures_util::future::join_all;
use scripted_registry::client::{self, Connection, Response, Stream};
use scripted_registry::{Gate, Match, Registry, Rule, TokenPolicy, noise};
use serde_json::{Value, json};

use crate::access_mapped::{ask, basic, users};
use crate::support::mirror::{Settings, TestMirror};

const OF_A: &str = "/v2/team/app/manifests/1?ns=a.example";

fn document(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).expect("a document")
}

/// What was taken, as people are told it, and what stays as it was until a restart.
fn taken(answer: &Response) -> (Vec<String>, Vec<String>) {
    let said = document(answer);
    assert_eq!((answer.status, &said["document"]), (200, &json!("reload")), "{said}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let change = |change: &Value| {
        let words = ["key", "name", "change"].map(|key| text(&change[key]));
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let changed = said["changed"].as_array().expect("a list").iter().map(change).collect();
    (changed, said["restart"].as_array().expect("a list").iter().filter_map(text).collect())
}

async fn registry() -> Registry {
    let registry = Registry::start().await;
    registry.add_image("team/app", "1", &[noise(801, 3000)]);
    registry.add_image("library/app", "1", &[noise(802, 3000)]);
    registry
}

#[tokio::test]
async fn grants_and_users_count_from_the_next_request_on() {
    let registry = registry().await;
    let (_ann, ann) = users(&["ann"]);
    let (_both, both) = users(&["ann", "bob"]);
    let settings = |users: &std::path::Path, grants: &str| {
        let lines = format!("access.htpasswd = \"{}\"\naccess.grant = [{grants}]", users.display());
        move |settings: Settings| settings.reconfigured(&lines)
    };
    let all = "{ name = \"all\", who = \"user:*\", may = \"a.example/**\" }";
    let first = Settings::of(&registry).and("a.example", &registry).having("access = \"mapped\"");
    let mut mirror = settings(&ann, all)(first).start().await;
    assert_eq!(
        (ask(&mirror, "GET", "ann", OF_A).await.status, ask(&mirror, "GET", "bob", OF_A).await.status),
        (200, 401)
    );
    let (changed, restart) = taken(&mirror.reload(settings(&both, all)).await);
    assert_eq!((changed, restart), (vec!["access.htpasswd changed".to_owned()], vec![]));
    assert_eq!(ask(&mirror, "GET", "bob", OF_A).await.status, 200);
    let (changed, _) = taken(&mirror.reload(settings(&both, "")).await);
    assert_eq!(changed, ["access.grant all removed"]);
    for user in ["ann", "bob"] {
        assert_eq!(ask(&mirror, "GET", user, OF_A).await.status, 403, "{user}: what is stored, too");
    }
    taken(&mirror.reload(settings(&both, all)).await);
    assert_eq!(ask(&mirror, "GET", "bob", OF_A).await.status, 200);
    // What was judged a moment ago does not count for who is no user any more; the file is the same by name.
    std::fs::copy(&ann, &both).expect("written");
    let (changed, _) = taken(&mirror.reload(settings(&both, all)).await);
    assert_eq!(changed, ["access.htpasswd changed"]);
    assert_eq!(
        (ask(&mirror, "GET", "ann", OF_A).await.status, ask(&mirror, "GET", "bob", OF_A).await.status),
        (200, 401)
    );
    assert_eq!(taken(&mirror.reload(|settings| settings).await), (vec![], vec![]), "nothing is other");
}

#[test]
fn a_daemon_that_begins_hears_a_hang_up_before_it_has_read_anything() {
    let mut heard = registry_mirror::daemon::hang_up().expect("a handler");
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::HUP).expect("a signal");
    let later = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    assert_eq!(later.block_on(heard.recv()), Some(()));
}

#[tokio::test]
async fn upstreams_come_and_go_and_become_stricter() {
    let registry = registry().await;
    let path = "/v2/library/app/manifests/1";
    let mut mirror = Settings::of(&registry).start().await;
    assert_eq!(mirror.get(OF_A).await.status, 404);
    let (changed, _) = taken(&mirror.reload(|settings| settings.and("a.example", &registry)).await);
    assert_eq!(changed, ["upstream a.example added"]);
    mirror.settled().await;
    for _ in 0..5 {
        assert_eq!(mirror.get(OF_A).await.status, 200);
    }
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("upstream=\"a.example\""), "it has series of its own");
    assert!(!metrics.contains("mirror_shortcuts_bytes 0\n"), "it is recognised by its bytes");
    assert_eq!(mirror.get(path).await.status, 200);
    // What is stored, and recognised by its bytes, too.
    let (changed, _) = taken(&mirror.reload(|settings| settings.having("access = \"mapped\"")).await);
    assert!(mirror.metrics().await.contains("mirror_shortcuts_bytes 0\n"), "and nothing is now");
    assert_eq!(changed, ["upstream a.example changed"]);
    assert_eq!((mirror.get(OF_A).await.status, mirror.get(path).await.status), (401, 200));
    let gone = |settings: Settings| {
        let whole = settings.text();
        let more = whole.split_once("[[upstream]]\nhost = \"a.example\"").expect("there").1.to_owned();
        settings.replacing(&format!("[[upstream]]\nhost = \"a.example\"{more}"), "")
    };
    let (changed, _) = taken(&mirror.reload(gone).await);
    assert_eq!(changed, ["upstream a.example removed"]);
    assert_eq!((mirror.get(OF_A).await.status, mirror.get(path).await.status), (404, 200));
}

#[tokio::test]
async fn limits_change_and_connections_are_kept() {
    let registry = registry().await;
    let path = "/v2/library/app/manifests/1";
    let mut mirror = Settings::of(&registry).start().await;
    let kept = Connection::open(mirror.address).await;
    let kept = kept.send("GET", path, &[]).await.expect("answered").done().await.expect("kept");
    let lines = "limits.requests_per_client = 1\nlimits.connections_per_client = 1";
    let (changed, restart) = taken(&mirror.reload(|settings| settings.config(lines)).await);
    assert_eq!(changed, ["limits.connections_per_client changed", "limits.requests_per_client changed"]);
    assert!(restart.is_empty());
    let stream = kept.send("GET", path, &[]).await.expect("answered");
    assert_eq!(stream.status, 200);
    let kept = stream.done().await.expect("kept");
    let stream = kept.send("GET", path, &[]).await.expect("answered");
    assert_eq!(stream.status, 429, "the limit counts on a connection that was there before");
    let kept = stream.done().await.expect("kept");
    taken(&mirror.reload(|settings| settings.reconfigured("")).await);
    let stream = kept.send("GET", path, &[]).await.expect("answered");
    assert_eq!(stream.status, 200);
}

#[tokio::test]
async fn who_has_more_connections_than_he_may_now_keeps_them_and_gets_no_more() {
    let registry = registry().await;
    let bytes = noise(803, 600_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(400_000, &gate));
    let (blob, path) = (format!("/v2/library/app/blobs/{digest}"), "/v2/library/app/manifests/1");
    let impatient = "server.header_timeout = \"50ms\"";
    let mut mirror = Settings::of(&registry).config(impatient).start().await;
    let (first, second) = (mirror.stream(&blob).await, mirror.stream(&blob).await);
    let limited = |limit: usize| format!("{impatient}\nlimits.connections_per_client = {limit}");
    let (one, three) = (limited(1), limited(3));
    taken(&mirror.reload(|settings| settings.reconfigured(&one)).await);
    assert_eq!(mirror.get(path).await.status, 429);
    taken(&mirror.reload(|settings| settings.reconfigured(&three)).await);
    assert_eq!(mirror.get(path).await.status, 200, "a third place, and no more excess");
    taken(&mirror.reload(|settings| settings.reconfigured(&one)).await);
    gate.open();
    for stream in [first, second] {
        let answer = stream.finish().await;
        assert!(answer.complete && answer.body == bytes);
    }
    // The places of those that have ended come back, but for the one that was too many.
    while mirror.get(path).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_is_not_valid_changes_nothing_and_what_needs_a_restart_is_named() {
    let registry = registry().await;
    let mut mirror = Settings::of(&registry).start().await;
    let path = "/v2/library/app/manifests/1";
    for wrong in [
        "limits.requests_per_client = 1\ncache.tag_tll = \"5m\"\n",
        "limits.requests_per_client = 1\naccess.htpasswd = \"/nonexistent\"\n",
        "limits.requests_per_client = 1\n[[upstream]]\nhost = \"a.example\"\nca = \"/nonexistent\"\n",
        "limits.requests_per_client = 1\nserver.admin_token = \"file:/nonexistent\"\n",
    ] {
        let answer = mirror.reload_text(wrong).await;
        let said = document(&answer);
        assert_eq!((answer.status, &said["document"], &said["code"]), (500, &json!("error"), &json!("configuration")));
        assert_eq!(said["problems"].as_array().map(Vec::len), Some(1), "{said}");
        for _ in 0..3 {
            assert_eq!(mirror.get(path).await.status, 200, "{said}");
        }
    }
    let lines = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nserver.drain = \"1s\"\naccess.audit = \"stderr\"\n\
                 log.format = \"json\"\nlimits.requests_per_client = 1";
    for _ in 0..2 {
        let answer = mirror.reload(|settings| settings.reconfigured(lines)).await;
        assert_eq!(taken(&answer).1, ["server.listen", "server.drain", "access.audit", "log.format"]);
    }
    mirror.get(path).await;
    assert_eq!(mirror.get(path).await.status, 429, "the rest is taken");
    let metrics = mirror.metrics().await;
    for (result, count) in [("refused", 4), ("partly", 2)] {
        assert!(metrics.contains(&format!("mirror_reloads_total{{result=\"{result}\"}} {count}\n")), "{metrics}");
    }
}

#[tokio::test]
async fn a_pull_that_is_half_delivered_goes_on_with_what_it_began_with() {
    let registry = Registry::start().await;
    let other = Registry::start().await;
    let bytes = noise(810, 600_000);
    let digest = registry.add_blob("team/app", bytes.clone());
    other.add_blob("team/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(400_000, &gate));
    let mut mirror = Settings::of(&registry).and("a.example", &registry).start().await;
    let path = format!("/v2/team/app/blobs/{digest}?ns=a.example");
    let mut slow = mirror.stream(&path).await;
    slow.read_exactly(10_000).await;
    let url = format!("url = \"{}\"", registry.url());
    let elsewhere = format!("url = \"{}\"\naccess = \"mapped\"", other.url());
    let (changed, _) = taken(&mirror.reload(|settings| settings.replacing(&url, &elsewhere)).await);
    assert_eq!(changed, ["upstream a.example changed"]);
    for seconds in 1..5 {
        let lines = format!("cache.negative_ttl = \"{seconds}s\"\nlimits.fills = {seconds}");
        taken(&mirror.reload(|settings| settings.reconfigured(&lines)).await);
    }
    assert_eq!(mirror.get(&path).await.status, 401, "who comes now is asked who he is");
    let status = document(&client::get(mirror.admin, "/api/v1/status", &[]).await);
    assert!(status["fills"].is_null() || !status["fills"].as_array().expect("a list").is_empty(), "{status}");
    gate.open();
    let slow = slow.finish().await;
    assert!(slow.complete && slow.body == bytes.slice(10_000..));
    assert_eq!((registry.gets_of(&digest), other.gets_of(&digest)), (1, 0));
    mirror.settled().await;
}

/// A registry with something private, and a mirror that has a credential for it.
async fn private() -> (Registry, TestMirror, tempfile::TempDir) {
    let registry = registry().await;
    registry.require_tokens(TokenPolicy::bearer().user("us", "secret").private("team/app"));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("login"), "us:secret").expect("written");
    let auth = format!("auth = \"file:{}\"\naccess = \"shared\"", folder.path().join("login").display());
    let mirror = Settings::of(&registry).and("a.example", &registry).having(&auth).start().await;
    (registry, mirror, folder)
}

#[tokio::test]
async fn what_came_with_a_credential_is_asked_for_anew_when_that_is_gone() {
    let (registry, mut mirror, folder) = private().await;
    let digest = registry.add_blob("team/app", noise(811, 600_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(400_000, &gate));
    let blob = format!("/v2/team/app/blobs/{digest}?ns=a.example");
    for _ in 0..2 {
        assert_eq!(mirror.get(OF_A).await.status, 200);
    }
    let mut ours = mirror.stream(&blob).await;
    ours.read_exactly(10_000).await;
    let auth = format!("auth = \"file:{}\"\naccess = \"shared\"", folder.path().join("login").display());
    taken(&mirror.reload(|settings| settings.replacing(&auth, "")).await);
    assert_ne!(mirror.get(OF_A).await.status, 200, "what is stored");
    // The fill that runs was begun with the credential: nobody else joins it.
    assert_ne!(mirror.get(&blob).await.status, 200, "what is on its way");
    gate.open();
    let ours = ours.finish().await;
    assert!(ours.complete, "who began with it has it whole");
    mirror.settled().await;
    assert_ne!(mirror.get(&blob).await.status, 200, "what has come meanwhile");
}

#[tokio::test]
async fn what_an_upstream_said_stays_known_where_it_is_the_same_and_else_is_forgotten() {
    let (registry, mut mirror, folder) = private().await;
    let image = registry.add_image("team/other", "2", &[noise(812, 1000)]);
    assert_eq!(mirror.get(OF_A).await.status, 200);
    let tokens = registry.token_requests();
    let lines = "cache.tag_ttl = \"0s\"\nlimits.fills = 8\ncache.patience = \"3s\"";
    let (changed, _) = taken(&mirror.reload(|settings| settings.config(lines)).await);
    assert_eq!(changed, ["cache.patience changed", "cache.tag_ttl changed", "limits.fills changed"]);
    registry.forget_requests();
    assert_eq!(mirror.get(OF_A).await.status, 200);
    assert_eq!(registry.count_of(&Match::manifests().head()), 1, "a tag is looked up each time now");
    assert_eq!(registry.token_requests(), 0, "with the token that was there ({tokens})");
    // Another password in the same file.
    registry.require_tokens(TokenPolicy::bearer().user("us", "changed").private("team/app"));
    std::fs::write(folder.path().join("login"), "us:changed").expect("written");
    let (changed, _) = taken(&mirror.reload(|settings| settings).await);
    assert_eq!(changed, ["upstream a.example changed"]);
    let answer = mirror.get(&format!("/v2/team/other/manifests/{}?ns=a.example", image.manifest.digest)).await;
    assert_eq!(answer.status, 200);
    assert!(registry.token_requests() > 0, "tokens of the old one are of no use");
}

#[tokio::test]
async fn what_an_upstream_granted_to_a_caller_is_forgotten_with_what_it_was() {
    let registry = registry().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private("team/app"));
    let lines = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]";
    let settings =
        Settings::of(&registry).config(lines).and("a.example", &registry).having("access = \"pass-through\"");
    let mut mirror = settings.start().await;
    let token = client::get(
        registry.address(),
        "/token?scope=repository:team/app:pull",
        &[("Authorization", basic("ann", "ann").as_str())],
    )
    .await;
    let token = format!("Bearer {}", document(&token)["token"].as_str().expect("a token"));
    let digest = document(&ask_as(&mirror, OF_A, &token).await)["config"]["digest"].as_str().expect("JSON").to_owned();
    let blob = format!("/v2/team/app/blobs/{digest}?ns=a.example");
    assert_eq!(ask_as(&mirror, &blob, &token).await.status, 200);
    mirror.settled().await;
    registry.forget_requests();
    taken(&mirror.reload(|settings| settings.config("cache.negative_ttl = \"1s\"")).await);
    assert_eq!(ask_as(&mirror, &blob, &token).await.status, 200);
    assert_eq!(registry.requests().len(), 0, "the grant holds");
    // What does not say who is asked, or who asks, makes no other upstream of it.
    for (key, value) in [("budget_floor", "20%"), ("first_byte_timeout", "7s"), ("parallel", "")] {
        let line = if value.is_empty() { format!("{key} = 2") } else { format!("{key} = \"{value}\"") };
        let (changed, _) = taken(&mirror.reload(|settings| settings.having(&line)).await);
        assert_eq!(changed, ["upstream a.example changed"], "{key}");
        assert_eq!(ask_as(&mirror, &blob, &token).await.status, 200, "{key}");
        assert_eq!(registry.requests().len(), 0, "{key}: the grant holds");
    }
    registry.rule(Rule::on(Match::when(|_| true)).refuse(500).before_auth());
    let refused = client::get(mirror.address, OF_A, &[]).await;
    let challenge = refused.header("www-authenticate");
    assert!(refused.status == 401 && challenge.is_some(), "what it wants to see is known: {}", refused.status);
    registry.clear_rules();
    registry.forget_requests();
    taken(&mirror.reload(|settings| settings.having("auth_realms = \"tokens.example\"")).await);
    assert_eq!(ask_as(&mirror, &blob, &token).await.status, 200);
    assert_ne!(registry.requests().len(), 0, "another upstream is asked");
}

async fn ask_as(mirror: &TestMirror, path: &str, shown: &str) -> Response {
    client::get(mirror.address, path, &[("Authorization", shown)]).await
}

#[tokio::test]
async fn many_who_ask_for_it_at_once_are_served_one_after_the_other_and_strangers_are_refused() {
    let registry = registry().await;
    let mut mirror = Settings::of(&registry).config("access.audit = \"/dev/null\"").start().await;
    taken(&mirror.reload(|settings| settings.config("cache.tag_ttl = \"7m\"")).await);
    let ours = [("X-Registry-Mirror", "1")];
    let socket = || client::post(mirror.socket(), "/api/v1/reload", &ours, "");
    let answers = join_all((0..8).map(|_| socket())).await;
    assert!(answers.iter().all(|answer| taken(answer) == (vec![], vec![])));
    let stranger = client::post(mirror.admin, "/api/v1/reload", &ours, "").await;
    assert!(matches!(stranger.status, 401 | 403), "an address acts with a token: {}", stranger.status);
    let guessed = [ours[0], ("Authorization", "Bearer guessed")];
    assert_eq!(client::post(mirror.admin, "/api/v1/reload", &guessed, "").await.status, 401);
    assert_eq!(client::post(mirror.socket(), "/api/v1/reload", &[], "").await.status, 403, "a page");
    assert_eq!(client::get(mirror.socket(), "/api/v1/reload", &[]).await.status, 405);
    assert_eq!(client::post(mirror.socket(), "/api/v1/reload", &ours, "{\"force\":true}").await.status, 400);
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
}

#[tokio::test]
async fn pulls_go_on_while_everything_changes_again_and_again() {
    let registry = registry().await;
    let image = registry.add_image("library/large", "1", &[noise(820, 300_000), noise(821, 200_000)]);
    let mut mirror = Settings::of(&registry).start().await;
    let (address, done) = (mirror.address, tokio_util::sync::CancellationToken::new());
    let paths: Vec<_> = image
        .blobs()
        .map(|blob| format!("blobs/{}", blob.digest))
        .chain(["manifests/1".to_owned()])
        .map(|path| format!("/v2/library/large/{path}"))
        .collect();
    let pulling = done.clone();
    let pulls = tokio::spawn(async move {
        let mut count = 0;
        while !pulling.is_cancelled() {
            for path in &paths {
                let answer = Stream::get(address, path, &[]).await.finish().await;
                assert!(answer.status == 200 && answer.complete, "{path} {}", answer.status);
                count += 1;
            }
        }
        count
    });
    for n in 0..20 {
        let lines = format!("cache.tag_ttl = \"{n}s\"\nlimits.fills = {}\ncache.memory = \"{n}MiB\"", n + 1);
        let keys = format!("parallel = {}", n % 4 + 1);
        taken(
            &mirror
                .reload(|settings| settings.reconfigured(&lines).and(&format!("h{n}.example"), &registry).having(&keys))
                .await,
        );
    }
    done.cancel();
    let pulled = tokio::time::timeout(Duration::from_secs(60), pulls).await.expect("in time").expect("no pull failed");
    assert!(pulled > 0);
}
