//! Whose image it is, by the operator's grants: two tenants behind one cache, each with what is his.

use std::path::PathBuf;

use scripted_registry::client::{self, Response};
use scripted_registry::{Image, Registry, base64, noise};
use tempfile::TempDir;

use crate::support::mirror::{Settings, TestMirror};

/// A file of users whose passwords are their names.
pub(crate) fn users(names: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |name: &&str| format!("{name}:{}\n", bcrypt::hash(name, 4).expect("a hash"));
    let file = folder.path().join("users");
    std::fs::write(&file, names.iter().map(line).collect::<String>()).expect("written");
    (folder, file)
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(&format!("{user}:{password}")))
}

/// Asks as a user; as nobody where the name is empty.
pub(crate) async fn ask(mirror: &TestMirror, method: &str, user: &str, path: &str) -> Response {
    let shown = basic(user, user);
    let headers = [("Authorization", shown.as_str()), ("Accept", "*/*")];
    client::request(mirror.address, method, path, if user.is_empty() { &headers[1..] } else { &headers }).await
}

/// What a client can tell from an answer.
pub(crate) fn told(response: &Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers.iter().map(|(name, value)| (name.to_string(), format!("{value:?}")));
    let headers = headers.filter(|(name, _)| name != "date").collect();
    (response.status, headers, response.body.to_vec())
}

/// Every way to ask for something of an image.
fn ways(repository: &str, image: &Image) -> Vec<(&'static str, String)> {
    let manifest = &image.manifest.digest;
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/1".to_owned(), format!("manifests/{manifest}"), format!("blobs/{manifest}")];
    let lists = ["tags/list".to_owned(), format!("referrers/{manifest}")];
    let paths: Vec<_> = rest.into_iter().chain(blobs).chain(lists).collect();
    let of = |method| paths.iter().map(move |path| (method, format!("/v2/{repository}/{path}?ns=a.example")));
    of("GET").chain(of("HEAD")).collect()
}

pub(crate) fn mapped(registry: &Registry, users: &std::path::Path, grants: &str) -> Settings {
    let lines = format!("access.htpasswd = \"{}\"\naccess.grant = [{grants}]", users.display());
    Settings::of(registry).config(&lines).and("a.example", registry).having("access = \"mapped\"")
}

#[tokio::test]
async fn each_tenant_gets_what_is_his_and_of_the_other_not_even_whether_it_is_stored() {
    let registry = Registry::start().await;
    let theirs = [("ann", 1), ("bob", 2)]
        .map(|(name, seed)| registry.add_image(&format!("{name}/app"), "1", &[noise(seed, 1000)]));
    let (_folder, users) = users(&["ann", "bob"]);
    let grants =
        "{ who = [\"user:ann\"], may = [\"a.example/ann/**\"] }, { who = \"user:bob\", may = \"a.example/bob/*\" }";
    let mut mirror = mapped(&registry, &users, grants).start().await;
    let mut before = Vec::new();
    for round in ["cold", "warm", "warm again", "after a restart"] {
        if round == "after a restart" {
            mirror = mirror.restart().await;
        }
        for ((owner, other), image) in [("ann", "bob"), ("bob", "ann")].into_iter().zip(&theirs) {
            let repository = format!("{owner}/app");
            registry.forget_requests();
            let mut refused = Vec::new();
            for (method, path) in ways(&repository, image) {
                for (user, status) in [(other, 403), ("", 401)] {
                    let answer = ask(&mirror, method, user, &path).await;
                    assert_eq!(answer.status, status, "{round}: {user:?} {method} {path}");
                    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
                    let challenged = answer.header("www-authenticate").is_some_and(|it| it.starts_with("Basic "));
                    assert_eq!(challenged, status == 401, "{round}: {user:?} {method} {path}");
                    refused.push(told(&answer));
                }
            }
            assert!(registry.requests().is_empty(), "{round}: nobody is asked for whom may not");
            before.push(refused);
            for (method, path) in ways(&repository, image) {
                let answer = ask(&mirror, method, owner, &path).await;
                assert_eq!(answer.status, 200, "{round}: {owner} {method} {path}");
                assert_eq!(answer.header("cache-control"), Some("private, no-store"), "{round}: {method} {path}");
            }
        }
        mirror.settled().await;
    }
    for later in before[2..].chunks(2) {
        assert_eq!(later, &before[..2], "stored and not stored are told alike");
    }
}

#[tokio::test]
async fn a_refusal_says_which_line_would_have_to_allow_it_and_a_wrong_password_is_a_401() {
    let registry = Registry::start().await;
    registry.add_image("ann/app", "1", &[noise(3, 1000)]);
    let (_folder, users) = users(&["ann", "bob"]);
    let mirror = mapped(&registry, &users, "{ name = \"of ann\", who = \"user:ann\", may = \"a.example/ann/**\" }")
        .start()
        .await;
    let path = "/v2/ann/app/manifests/1?ns=a.example";
    let refused = ask(&mirror, "GET", "bob", path).await;
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("DENIED") && text.contains("user:bob") && text.contains("access.grant"), "{text}");
    for wrong in
        [basic("ann", "bob"), basic("eve", "eve"), basic("ann", ""), "Basic x".to_owned(), "Bearer x".to_owned()]
    {
        let refused = client::get(mirror.address, path, &[("Authorization", &wrong)]).await;
        assert_eq!(refused.status, 401, "{wrong}");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(text.contains("UNAUTHORIZED") && text.contains("not right"), "{text}");
    }
    let right = basic("ann", "ann");
    let twice = [("Authorization", right.as_str()), ("Authorization", right.as_str())];
    for path in [path, "/v2/", "/v2/library/app/manifests/1"] {
        assert_eq!(client::get(mirror.address, path, &twice).await.status, 400, "{path}: nobody knows which counts");
    }
    assert_eq!(ask(&mirror, "GET", "ann", path).await.status, 200);
}

#[tokio::test]
async fn what_is_for_everybody_is_given_whatever_is_shown() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(4, 1000)]);
    registry.add_image("open/app", "1", &[noise(5, 1000)]);
    let (_folder, users) = users(&["ann"]);
    let mirror = mapped(&registry, &users, "{ who = \"anonymous\", may = \"a.example/open/*\" }").start().await;
    for path in ["/v2/library/app/manifests/1", "/v2/open/app/manifests/1?ns=a.example"] {
        for shown in [None, Some(basic("ann", "wrong")), Some("Bearer x".to_owned()), Some(basic("ann", "ann"))] {
            let header = [("Authorization", shown.as_deref().unwrap_or_default())];
            let answer = client::get(mirror.address, path, if shown.is_some() { &header } else { &[] }).await;
            assert_eq!(answer.status, 200, "{path} {shown:?}");
            assert_eq!(answer.header("cache-control").is_some(), path.contains("open"), "{path}");
        }
    }
}

#[tokio::test]
async fn who_may_read_a_tag_gets_what_it_leads_to_and_nothing_beside_it() {
    let registry = Registry::start().await;
    let [one, two] = [6, 7].map(|n| registry.add_image("app", &(n - 5).to_string(), &[noise(n, 1000)]));
    let many = registry.add_index("app", "all", &[(&one, "linux/amd64")]);
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let grants = "{ who = \"user:ann\", may = \"a.example/app:1\" }, { who = \"user:bob\", may = \"a.example/app\" }, \
                  { who = \"user:eve\", may = \"a.example/app:all\" }";
    let mut mirror = mapped(&registry, &users, grants).start().await;
    let at = |rest: String| format!("/v2/app/{rest}?ns=a.example");
    let all = |image: &Image| -> Vec<String> {
        let blobs = image.blobs().map(|blob| at(format!("blobs/{}", blob.digest)));
        std::iter::once(at(format!("manifests/{}", image.manifest.digest))).chain(blobs).collect()
    };
    // A client may ask for the head of a tag, and then for its manifest by digest.
    assert_eq!(ask(&mirror, "HEAD", "ann", &at("manifests/1".into())).await.status, 200);
    for path in all(&one) {
        assert_eq!(ask(&mirror, "GET", "ann", &path).await.status, 200, "{path}");
    }
    for path in [at("manifests/2".into()), at("manifests/all".into()), at("tags/list".into())].iter().chain(&all(&two))
    {
        assert_eq!(ask(&mirror, "GET", "ann", path).await.status, 403, "{path}");
        if !path.contains("list") {
            assert_eq!(ask(&mirror, "GET", "bob", path).await.status, 200, "{path}");
        }
        assert_eq!(ask(&mirror, "GET", "ann", path).await.status, 403, "stored: {path}");
    }
    mirror.settled().await;
    for _ in 0..2 {
        let index = at(format!("manifests/{}", many.digest));
        assert_eq!(ask(&mirror, "GET", "eve", &at("manifests/all".into())).await.status, 200);
        for path in std::iter::once(index).chain(all(&one)) {
            assert_eq!(ask(&mirror, "GET", "eve", &path).await.status, 200, "{path}");
        }
        for path in all(&two) {
            for user in ["ann", "eve"] {
                assert_eq!(ask(&mirror, "GET", user, &path).await.status, 403, "{path}");
            }
        }
        mirror = mirror.restart().await;
    }
}

#[tokio::test]
async fn who_was_given_an_image_by_its_tag_ends_his_pull_when_the_tag_moves_and_nobody_else_begins_one() {
    let registry = Registry::start().await;
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let grants = "{ who = [\"user:ann\", \"user:eve\"], may = \"a.example/app:1\" }, \
                  { who = \"user:bob\", may = \"a.example/app\" }";
    let mirror = mapped(&registry, &users, grants).config("cache.tag_ttl = \"0s\"").start().await;
    let at = |rest: String| format!("/v2/app/{rest}?ns=a.example");
    let tag = at("manifests/1".into());
    for (n, first, indexed) in [(0, "GET", false), (1, "HEAD", false), (2, "GET", true), (3, "HEAD", true)] {
        let old = registry.add_image("app", "1", &[noise(300 + n, 1000), noise(310 + n, 1000)]);
        let index = indexed.then(|| registry.add_index("app", "1", &[(&old, "linux/amd64")]).digest);
        assert_eq!(ask(&mirror, first, "ann", &tag).await.status, 200);
        let new = registry.add_image("app", "1", &[noise(320 + n, 1000)]).manifest.digest;
        let moved = ask(&mirror, "GET", "bob", &tag).await;
        assert_eq!(moved.header("docker-content-digest"), Some(new.to_string().as_str()));
        mirror.settled().await;
        let manifests = index.into_iter().chain([old.manifest.digest]).map(|digest| at(format!("manifests/{digest}")));
        let blobs = old.blobs().map(|blob| at(format!("blobs/{}", blob.digest)));
        for path in manifests.chain(blobs) {
            assert_eq!(ask(&mirror, "GET", "eve", &path).await.status, 403, "{first}: {path}");
            assert_eq!(ask(&mirror, "GET", "ann", &path).await.status, 200, "{first}: {path}");
            mirror.settled().await;
            assert_eq!(ask(&mirror, "HEAD", "ann", &path).await.status, 200, "{first}: {path}");
            assert_eq!(ask(&mirror, "GET", "eve", &path).await.status, 403, "{first}, stored: {path}");
        }
    }
}

#[tokio::test]
async fn what_a_tag_leads_to_is_given_right_behind_it() {
    let registry = Registry::start().await;
    let (_folder, users) = users(&["ann"]);
    let mirror = mapped(&registry, &users, "{ who = \"user:ann\", may = \"a.example/*/app:1\" }").start().await;
    for number in 0..10 {
        let image = registry.add_image(&format!("r{number}/app"), "0", &[noise(160 + number, 1000)]);
        registry.add_index(&format!("r{number}/app"), "1", &[(&image, "linux/amd64")]);
        let at = |rest: String| format!("/v2/r{number}/app/{rest}?ns=a.example");
        // Nobody waits for the disk in between.
        let rest = image.blobs().map(|blob| at(format!("blobs/{}", blob.digest)));
        let manifest = at(format!("manifests/{}", image.manifest.digest));
        for path in [at("manifests/1".into()), manifest].into_iter().chain(rest) {
            assert_eq!(ask(&mirror, "GET", "ann", &path).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn a_login_without_a_user_and_a_password_is_none() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(9, 1000)]);
    let (_folder, users) = users(&["ann"]);
    let mirror = mapped(&registry, &users, "{ who = \"user:ann\", may = \"a.example/app\" }").start().await;
    let path = "/v2/app/manifests/1?ns=a.example";
    let (nothing, empty) = (client::get(mirror.address, path, &[]).await, basic("", ""));
    let empty = client::get(mirror.address, path, &[("Authorization", &empty)]).await;
    assert_eq!(nothing.status, 401);
    assert_eq!(told(&empty), told(&nothing));
    let wrong = client::get(mirror.address, path, &[("Authorization", &basic("", "x"))]).await;
    assert!(String::from_utf8_lossy(&wrong.body).contains("what was shown is not right"), "{wrong:?}");
}

#[tokio::test]
async fn the_hubs_names_are_never_challenged_by_whatever_way() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(8, 1000)]);
    let (_folder, users) = users(&["ann"]);
    let lines = format!(
        "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]\naccess.htpasswd = \"{}\"\n\
         access.grant = [{{ who = \"user:ann\", may = [\"docker.io/**\", \"a.example/**\"] }}]",
        users.display()
    );
    let mirror = Settings::of(&registry).config(&lines).upstream("access = \"mapped\"").and("a.example", &registry);
    let mirror = mirror.having("access = \"mapped\"").start().await;
    for path in [
        "/v2/",
        "/v2/library/app/manifests/1",
        "/v2/app/manifests/1?ns=docker.io",
        "/v2/docker.io/app/manifests/1",
        "/registry-1.docker.io/v2/app/manifests/1",
    ] {
        for shown in [None, Some(basic("ann", "wrong"))] {
            let header = [("Authorization", shown.as_deref().unwrap_or_default())];
            let header = if shown.is_some() { &header[..] } else { &[] };
            let refused = client::get(mirror.address, path, header).await;
            assert_eq!((refused.status, refused.header("www-authenticate")), (401, None), "{path}");
        }
        assert_eq!(ask(&mirror, "GET", "ann", path).await.status, 200, "{path}");
    }
    // At a listener for another upstream one logs in, and that is asked for.
    let other = mirror.addresses[1];
    for (path, challenged) in [
        ("/v2/", true),
        ("/v2/?ns=docker.io", false),
        ("/v2/?ns=INDEX.docker.io", false),
        ("/docker.io/v2/", false),
        ("/v2/?ns=a.example", true),
        ("/v2/?ns=nowhere.example", true),
        ("/v2/app/manifests/1?ns=docker.io", false),
        ("/v2/x/manifests/1", true),
    ] {
        let refused = client::get(other, path, &[]).await;
        assert_eq!((refused.status, refused.header("www-authenticate").is_some()), (401, challenged), "{path}");
    }
    let right = basic("ann", "ann");
    assert_eq!(client::get(other, "/v2/", &[("Authorization", &right)]).await.status, 200);
}

#[tokio::test]
async fn what_is_stored_elsewhere_costs_upstream_no_more_than_what_is_nowhere() {
    let registry = Registry::start().await;
    let theirs = registry.add_image("bob/app", "1", &[noise(21, 1000)]);
    registry.add_image("ann/app", "1", &[noise(22, 1000)]);
    let (folder, users) = users(&["ann", "bob"]);
    let login = folder.path().join("login");
    std::fs::write(&login, "me:word").expect("written");
    let grants = "{ who = \"user:ann\", may = \"a.example/ann/**\" }, { who = \"user:bob\", may = \"a.example/**\" }";
    for auth in [String::new(), format!("auth = \"file:{}\"", login.display())] {
        for mode in ["mapped", "shared"] {
            let settings = mapped(&registry, &users, grants).replacing("mapped", mode).having(&auth);
            let mirror = settings.start().await;
            let blob = theirs.blobs().next().expect("one").digest;
            let at = |digest: &str| format!("/v2/ann/app/blobs/{digest}?ns=a.example");
            for path in ["manifests/1".to_owned(), format!("blobs/{blob}")] {
                let path = format!("/v2/bob/app/{path}?ns=a.example");
                assert_eq!(ask(&mirror, "GET", "bob", &path).await.status, 200, "{path}");
            }
            mirror.settled().await;
            // Where upstream has not got something it is asked once whether it knows us.
            ask(&mirror, "GET", "ann", &at(&format!("sha256:{}", "1".repeat(64)))).await;
            for method in ["GET", "HEAD"] {
                let mut costs = Vec::new();
                for digest in [blob.to_string(), format!("sha256:{}", "0".repeat(64))] {
                    registry.forget_requests();
                    let answer = ask(&mirror, method, "ann", &at(&digest)).await;
                    assert_eq!(answer.status, 404);
                    costs.push(registry.requests().iter().map(|asked| asked.method.clone()).collect::<Vec<_>>());
                }
                assert_eq!(costs[0], costs[1], "{mode} {auth} {method}");
                // What is remembered of it is another matter.
                mirror.advance(std::time::Duration::from_secs(3600));
            }
            // Where it is there, too, the word of upstream is enough.
            registry.add_blob("ann/app", noise(21, 1000));
            registry.content(|content| {
                let theirs = content.repository("bob/app").blobs[&blob].clone();
                content.repository("ann/app").blobs.insert(blob, theirs);
            });
            let sent = registry.body_bytes_sent(&blob);
            assert_eq!(ask(&mirror, "GET", "ann", &at(&blob.to_string())).await.status, 200);
            assert!(registry.body_bytes_sent(&blob) <= sent + 1, "{mode} {auth}");
            registry.remove_blob("ann/app", &blob);
        }
    }
}
