//! The audit: a line for each request and each act, and never in the way of a pull.

use std::path::Path;

use scripted_registry::{Match, Registry, Rule, TokenPolicy, client, noise};
use serde_json::{Value, json};

use crate::access_mapped::{ask, basic, users};
use crate::support::mirror::Settings;

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("an audit");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn it_says_who_got_what_and_who_did_what() {
    let registry = Registry::start().await;
    let image = registry.add_image("app", "1", &[noise(41, 1000)]);
    let open = registry.add_image("library/app", "1", &[noise(42, 1000)]);
    let (folder, users) = users(&["ann", "bob"]);
    let file = folder.path().join("audit.jsonl");
    let config = format!(
        "access.htpasswd = \"{}\"\naccess.audit = \"{}\"\n\
         access.grant = [{{ name = \"of ann\", who = \"user:ann\", may = \"a.example/**\" }}]",
        users.display(),
        file.display()
    );
    let mirror = Settings::of(&registry).config(&config).and("a.example", &registry).having("access = \"mapped\"");
    let mirror = mirror.start().await;
    let blob = image.blobs().next().expect("one").clone();
    let at_blob = format!("/v2/app/blobs/{}?ns=a.example", blob.digest);
    for (user, path) in [
        ("ann", "/v2/app/manifests/1?ns=a.example"),
        ("ann", at_blob.as_str()),
        ("bob", at_blob.as_str()),
        ("", at_blob.as_str()),
        ("", "/v2/library/app/manifests/1"),
        ("", "/v2/library/app/manifests/1"),
        ("ann", "/v2/library/app/manifests/1"),
        ("", "/v2/"),
        ("", "/nowhere"),
    ] {
        ask(&mirror, "GET", user, path).await;
    }
    let order = json!({ "images": ["app:1"] }).to_string();
    let consent = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
    assert_eq!(client::post(mirror.socket(), "/api/v1/pin", &consent, &order).await.status, 200);
    drop(mirror.stop().await);
    let lines = lines(&file);
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let key = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            [key("caller"), key("verdict"), key("rule"), line["status"].to_string()].join(" ")
        })
        .collect();
    let expected = [
        "user:ann allowed grant of ann 200",
        "user:ann allowed grant of ann 200",
        "user:bob refused mapped 403",
        "- refused mapped 401",
        "- allowed public 200",
        "- allowed public 200",
        "user:ann allowed public 200",
        "- allowed - 200",
        "- refused - 404",
    ];
    assert_eq!(told[..9], expected);
    for line in &lines[4..7] {
        assert_eq!(line["digest"], json!(open.manifest.digest.to_string()), "cold, and warm from memory: {line}");
    }
    let (manifest, blob_line, act) = (&lines[0], &lines[1], &lines[9]);
    for (key, value) in [
        ("upstream", json!("a.example")),
        ("repository", json!("app")),
        ("reference", json!("1")),
        ("digest", json!(image.manifest.digest.to_string())),
        ("outcome", json!("fill")),
        ("bytes", json!(image.manifest.size)),
    ] {
        assert_eq!(manifest[key], value, "{manifest}");
    }
    assert_eq!((&blob_line["digest"], &blob_line["bytes"]), (&json!(blob.digest.to_string()), &json!(blob.size)));
    assert!(manifest["at"].as_str().is_some_and(|at| at.starts_with("2023-11-14T") && at.ends_with('Z')), "{manifest}");
    assert!(manifest["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{manifest}");
    assert_eq!((&act["act"], &act["verdict"]), (&json!("pin"), &json!("allowed")));
    assert!(act["caller"].as_str().is_some_and(|caller| caller.starts_with("uid=")), "{act}");
    let text = std::fs::read_to_string(&file).expect("an audit");
    assert!(!text.contains(&basic("ann", "ann")[6..]), "no secret");
}

#[tokio::test]
async fn it_says_of_each_act_who_did_it_and_what_came_of_it() {
    const TOKEN: &str = "a token of 24 characters";
    let registry = Registry::start().await;
    let image_of_app = registry.add_image("library/app", "1", &[noise(45, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let [file, token] = ["audit.jsonl", "token"].map(|name| folder.path().join(name));
    std::fs::write(&token, TOKEN).expect("written");
    let config = format!("access.audit = \"{}\"\nserver.admin_token = \"file:{}\"", file.display(), token.display());
    let mirror = Settings::of(&registry).config(&config).start().await;
    let consent = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
    let image = json!({ "images": ["app:1"] }).to_string();
    let missing = json!({ "image": "app:none" }).to_string();
    let none = json!({ "images": ["app:none"] }).to_string();
    let both = json!({ "images": ["app:none", "app:1"] }).to_string();
    let export = json!({ "images": ["app:1"] }).to_string();
    let acts = [
        ("pull", image.as_str(), 200),
        ("pull", &none, 200),
        ("ready", &image, 200),
        ("pin", &image, 200),
        ("unpin", &image, 200),
        ("freeze", &missing, 404),
        ("unfreeze", &json!({ "image": "app:1" }).to_string(), 200),
        ("gc", "{}", 200),
        ("verify", "{}", 200),
        ("export", "{}", 400),
        ("export", &export, 200),
        ("import?name=app%3A2", "no tar", 422),
        ("import", "no tar", 422),
        ("forget", "{}", 400),
        ("forget", &both, 200),
        ("forget", &image, 200),
        ("import", "the bundle", 200),
        ("freeze", &json!({ "image": "app:1" }).to_string(), 200),
        ("store/push", "{}", 500),
        ("store/pull", "{}", 500),
        ("reload", "{\"x\":1}", 400),
        ("page", "{}", 200),
    ];
    let mut bundle = bytes::Bytes::new();
    for (act, order, status) in acts {
        let body = if order == "the bundle" { &bundle[..] } else { order.as_bytes() };
        let answer = client::post(mirror.socket(), &format!("/api/v1/{act}"), &consent, body).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        // What is no bundle is refused in more than one way.
        let is_bad_bundle = act.starts_with("import") && status >= 400 && answer.status >= 400;
        assert!(answer.status == status || is_bad_bundle, "{act}: {said}");
        if act == "export" && status == 200 {
            bundle = answer.body.clone();
        }
    }
    let with = |token: &str| format!("Bearer {token}");
    let (right, wrong) = (with(TOKEN), with("another token"));
    let shown = |token| [consent[0], consent[1], ("Authorization", token)];
    for (headers, act, status) in [
        (&shown(&right)[..], "pin", 200),
        (&shown(&wrong), "pin", 401),
        (&consent, "forget", 401),
        (&shown(&right)[2..], "forget", 403),
        (&consent, "login", 401),
    ] {
        let order = if act == "login" { "{\"login\":\"made-up\"}" } else { image.as_str() };
        let answer = client::post(mirror.admin, &format!("/api/v1/{act}"), headers, order).await;
        assert_eq!(answer.status, status, "{act}: {:?}", answer.body);
    }
    let mirror_admin = mirror.admin;
    drop(mirror.stop().await);
    let uid = format!("uid={}", rustix::process::getuid().as_raw());
    let told: Vec<_> = lines(&file)
        .iter()
        .map(|line| {
            let key = |key: &str| line[key].as_str().unwrap_or("-").replace(&uid, "uid");
            [key("act"), key("caller"), key("verdict"), key("order")].join(" ")
        })
        .collect();
    let bytes: Vec<_> = lines(&file).iter().filter_map(|line| line["bytes"].as_u64()).collect();
    let whole = bundle.len() as u64;
    assert!(bytes[9] == whole && bytes[15] == whole && whole > 1000, "{bytes:?}, and {whole} of the bundle");
    assert!(bytes[10] == 6 && bytes[..9].iter().all(|bytes| *bytes == 0), "{bytes:?}");
    let order = |text: &str| text.to_owned();
    let expected = [
        format!("pull uid allowed {image}"),
        format!("pull uid failed {none}"),
        format!("pin uid allowed {image}"),
        format!("unpin uid allowed {image}"),
        format!("freeze uid failed {missing}"),
        order("unfreeze uid failed {\"image\":\"app:1\"}"),
        order("gc uid allowed {}"),
        order("verify uid allowed {}"),
        order("export uid failed {}"),
        format!("export uid allowed {export}"),
        order("import uid failed {\"name\":\"app:2\"}"),
        order("import uid failed {\"name\":null}"),
        order("forget uid failed {}"),
        format!("forget uid allowed {both}"),
        format!("forget uid failed {image}"),
        order("import uid allowed {\"name\":null}"),
        order("freeze uid allowed {\"image\":\"app:1\"}"),
        order("store/push uid failed {}"),
        order("store/pull uid failed {}"),
        order("reload uid failed {\"x\":1}"),
        order("page uid allowed {}"),
        format!("pin token allowed {image}"),
        order("pin - refused -"),
        order("forget - refused -"),
        order("forget token refused -"),
        order("login - refused -"),
    ];
    assert_eq!(told, expected);
    let digest = image_of_app.manifest.digest.to_string();
    let app = json!({ "upstream": "docker.io", "repository": "library/app", "reference": "1" });
    let with_digest = |mut image: Value| {
        image["digest"] = json!(digest);
        image
    };
    let done_to = |n: usize| lines(&file)[n]["images"].clone();
    for (n, expected) in [
        (0, json!([app])),
        (1, json!([])),
        (2, json!([app])),
        (4, Value::Null),
        (5, json!([])),
        (9, json!([app])),
        (11, Value::Null),
        (13, json!([app])),
        (14, json!([])),
        (15, json!([with_digest(app.clone())])),
        (16, json!([with_digest(app)])),
        (17, Value::Null),
    ] {
        assert_eq!(done_to(n), expected, "{}", told[n]);
    }
    let at: Vec<_> = lines(&file).iter().map(|line| line["listener"].clone()).collect();
    assert!(at[..21].iter().all(Value::is_null), "at the socket: {at:?}");
    assert!(at[21..].iter().all(|at| *at == json!(mirror_admin.to_string())), "{at:?}");
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_keeps_nobody_from_pulling() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(43, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    for place in ["/dev/full", "/nonexistent/audit", &pipe.display().to_string()] {
        let mirror = Settings::of(&registry).config(&format!("access.audit = \"{place}\"")).start().await;
        for _ in 0..3 {
            assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
        }
        let lost = async {
            while !mirror.metrics().await.contains("mirror_audit_lost_total 3\n") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), lost).await.expect("counted");
        let status = client::get(mirror.admin, "/api/v1/status", &[("Host", "localhost")]).await;
        let status: Value = serde_json::from_slice(&status.body).expect("JSON");
        let told = status["problems"].as_array().and_then(|told| told.iter().find(|told| told["about"] == "audit"));
        let message = told.and_then(|told| told["message"].as_str()).unwrap_or_default();
        assert!(message.starts_with("3 lines since the start"), "{place}: {status}");
        drop(mirror.stop().await);
    }
}

#[tokio::test]
async fn it_says_that_the_upstream_has_refused_what_the_rules_leave_to_it() {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").user("eve", "eve").private_to("app", &["ann"]));
    let image = registry.add_image("app", "1", &[noise(44, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let config =
        format!("server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]\naccess.audit = \"{}\"", file.display());
    let mirror = Settings::of(&registry).config(&config);
    let mirror = mirror.and("a.example", &registry).having("access = \"pass-through\"").start().await;
    let paths = ["tags/list".to_owned(), format!("referrers/{}", image.manifest.digest), "manifests/1".to_owned()];
    for path in &paths {
        for (user, status) in [("ann", 200), ("eve", 401), ("", 401)] {
            let answer = ask(&mirror, "GET", user, &format!("/v2/app/{path}?ns=a.example")).await;
            assert_eq!(answer.status, status, "{user} {path}");
        }
    }
    let shown = basic("ann", "wrong");
    assert_eq!(client::get(mirror.addresses[1], "/v2/", &[("Authorization", &shown)]).await.status, 401);
    let addresses = [mirror.address.to_string(), mirror.addresses[1].to_string()];
    drop(mirror.stop().await);
    let told = lines(&file).into_iter();
    let told: Vec<_> =
        told.map(|line| ["verdict", "rule", "upstream_status", "listener"].map(|key| line[key].clone())).collect();
    let (door, rest) = told.split_last().expect("lines");
    let at = |place: usize| json!(addresses[place]);
    let refused = [json!("refused"), json!("pass-through"), json!(401)];
    for told in rest.chunks(3) {
        assert_eq!(told[0], [json!("allowed"), json!("pass-through"), Value::Null, at(0)]);
        assert!(told[1..].iter().all(|told| told[..3] == refused && told[3] == at(0)), "{told:?}");
    }
    assert_eq!(rest.len(), 3 * paths.len());
    assert!(door[..2] == refused[..2] && door[3] == at(1), "{door:?}");
}

#[tokio::test]
async fn a_list_that_no_answer_came_to_was_allowed_to_nobody_who_has_no_grant() {
    let mut registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").user("bob", "bob").private_to("app", &["ann"]));
    let image = registry.add_image("app", "1", &[noise(48, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let mirror = Settings::of(&registry).config(&format!("access.audit = \"{}\"", file.display()));
    let mirror = mirror.and("a.example", &registry).having("access = \"pass-through\"").start().await;
    let path = |of: &str| format!("/v2/app/{of}?ns=a.example");
    assert_eq!(ask(&mirror, "GET", "ann", &path("manifests/1")).await.status, 200);
    mirror.settled().await;
    // As some say it to who may not.
    registry.rule(Rule::on(Match::lists()).before_auth().refuse(404));
    let mut expected = vec!["allowed".to_owned()];
    let lists = ["tags/list".to_owned(), format!("referrers/{}", image.manifest.digest)];
    for is_away in [false, true] {
        if is_away {
            registry.stop().await;
        }
        for list in &lists {
            for (user, verdict) in [("bob", "refused"), ("ann", "allowed")] {
                let answer = ask(&mirror, "GET", user, &path(list)).await;
                assert!(user == "ann" || answer.status >= 400, "{list}: {}", answer.status);
                expected.push(verdict.to_owned());
            }
        }
    }
    drop(mirror.stop().await);
    let told: Vec<_> = lines(&file).iter().map(|line| line["verdict"].as_str().unwrap_or("-").to_owned()).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_is_given_by_grace_says_so() {
    let mut registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private("app"));
    registry.add_image("app", "1", &[noise(47, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let config = format!("access.audit = \"{}\"\ncache.tag_ttl = \"0s\"\naccess.grant_ttl = \"0s\"", file.display());
    let mirror = Settings::of(&registry).config(&config);
    let mirror = mirror.and("a.example", &registry).having("access = \"pass-through\"").start().await;
    let path = "/v2/app/manifests/1?ns=a.example";
    assert_eq!(ask(&mirror, "GET", "ann", path).await.status, 200);
    mirror.settled().await;
    registry.stop().await;
    for (user, status) in [("ann", 200), ("eve", 503)] {
        assert_eq!(ask(&mirror, "GET", user, path).await.status, status, "{user}");
    }
    drop(mirror.stop().await);
    let told: Vec<_> =
        lines(&file).iter().map(|line| ["verdict", "rule", "outcome"].map(|key| line[key].clone())).collect();
    assert_eq!(
        told[..2],
        [[json!("allowed"), json!("pass-through"), json!("fill")], [json!("allowed"), json!("grace"), json!("stale")]]
    );
    assert_ne!(told[2][0], json!("allowed"));
}

#[tokio::test]
async fn it_says_what_was_asked_for_where_that_was_refused_unread() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(46, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let config = format!("access.audit = \"{}\"", file.display());
    let mirror = Settings::of(&registry).config(&config).and("a.example", &registry).start().await;
    let digest = image.manifest.digest.to_string();
    let referrers = format!("/v2/library/app/referrers/{digest}");
    let upload = "/v2/a.example/app/blobs/uploads/1234";
    let two = "/v2/a.example/app/manifests/1";
    let long = format!("/{}", "x".repeat(1000));
    let asked = [
        ("PUT", "/v2/app/manifests/1?ns=a.example", 405, "manifest a.example app 1 -"),
        ("POST", "/v2/app/blobs/uploads/?ns=a.example", 405, "other a.example app - /v2/app/blobs/uploads/"),
        ("PATCH", upload, 405, &format!("other a.example app - {upload}")),
        ("GET", "/v2/evil.example/app/manifests/1", 404, "manifest evil.example app 1 -"),
        ("GET", "/v2/team/app/manifests/1?ns=evil.example", 404, "manifest evil.example team/app 1 -"),
        ("GET", &format!("{two}?ns=docker.io"), 400, &format!("manifest - - 1 {two}")),
        ("GET", "/v2/app/manifests/a%2Fb", 400, "other docker.io library/app - /v2/app/manifests/a%2Fb"),
        ("GET", "/v2/a%2Fb/manifests/1", 400, "other - - - /v2/a%2Fb/manifests/1"),
        ("GET", "/v2/_catalog", 404, "other - - - /v2/_catalog"),
        ("GET", &long, 404, &format!("other - - - {}", &long[..300])),
        ("GET", "/v2/", 200, "ping - - - -"),
        ("GET", "/v2/app/tags/list", 200, "tags docker.io library/app - -"),
        ("GET", &referrers, 200, &format!("referrers docker.io library/app {digest} -")),
    ];
    for (method, path, status, _) in asked {
        let answer = ask(&mirror, method, "", path).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    drop(mirror.stop().await);
    let keys = ["kind", "upstream", "repository", "reference", "path"];
    let told = |line: &Value| keys.map(|key| line[key].as_str().unwrap_or("-").to_owned()).join(" ");
    assert_eq!(lines(&file).iter().map(told).collect::<Vec<_>>(), asked.map(|(.., told)| told.to_owned()));
}

#[tokio::test]
async fn it_says_what_was_asked_for_too_often() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(47, 1000)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let config = format!("access.audit = \"{}\"\nlimits.requests_per_client = 1", file.display());
    let mirror = Settings::of(&registry).config(&config).start().await;
    while ask(&mirror, "GET", "", "/v2/app/manifests/1").await.status != 429 {}
    drop(mirror.stop().await);
    let lines = lines(&file);
    let refused = lines.iter().find(|line| line["status"] == 429).expect("a line");
    let told = ["kind", "upstream", "repository", "reference", "verdict"].map(|key| &refused[key]);
    assert_eq!(told, ["manifest", "docker.io", "library/app", "1", "refused"]);
}
