//! Private images with each caller's own rights: what the upstream gives to him, and the bytes once for all.

use std::time::{Duration, Instant};

use scripted_registry::client::{self, Response, Stream};
use scripted_registry::{Gate, Image, Match, Registry, Rule, TokenPolicy, noise};
use serde_json::Value;

use crate::access_mapped::{basic, users};
use crate::support::mirror::{Settings, TestMirror};

pub(crate) fn policy() -> TokenPolicy {
    TokenPolicy::bearer().user("ann", "ann").user("bob", "bob").private("team/private")
}

/// A registry with an image for its users and one for everybody, and a mirror in front of it.
pub(crate) async fn scene(more: &str) -> (Registry, Image, TestMirror) {
    let registry = Registry::start().await;
    registry.require_tokens(policy());
    let image = registry.add_image("team/private", "1", &[noise(61, 200_000)]);
    registry.add_image("team/open", "1", &[noise(62, 1000)]);
    let lines = format!("server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]\n{more}");
    let settings =
        Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"pass-through\"");
    let mirror = settings.start().await;
    (registry, image, mirror)
}

pub(crate) fn paths(image: &Image) -> Vec<String> {
    let manifest = &image.manifest.digest;
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    let rest = ["manifests/1".to_owned(), format!("manifests/{manifest}")].into_iter();
    let lists = ["tags/list".to_owned(), format!("referrers/{manifest}")];
    rest.chain(blobs).chain(lists).map(|path| format!("/v2/team/private/{path}?ns=a.example")).collect()
}

pub(crate) async fn ask(mirror: &TestMirror, method: &str, path: &str, shown: &str) -> Response {
    let headers = [("Authorization", shown)];
    client::request(mirror.address, method, path, if shown.is_empty() { &[] } else { &headers }).await
}

/// A token of the registry's own service, as clients get it that are sent there.
pub(crate) async fn token(registry: &Registry, user: &str) -> String {
    let shown = basic(user, user);
    let path = "/token?scope=repository:team/private:pull";
    let headers = [("Authorization", shown.as_str())];
    let answer = client::get(registry.address(), path, if user.is_empty() { &[] } else { &headers }).await;
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    format!("Bearer {}", answer["token"].as_str().expect("a token"))
}

fn told(response: &Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers.iter().map(|(name, value)| (name.to_string(), format!("{value:?}")));
    (response.status, headers.filter(|(name, _)| name != "date").collect(), response.body.to_vec())
}

#[tokio::test]
async fn silence_towards_one_caller_is_his_own() {
    let (registry, image, mirror) = scene("access.grant_ttl = \"0s\"\ncache.tag_ttl = \"0s\"").await;
    for n in 0..4 {
        registry.add_image(&format!("team/open{n}"), "1", &[noise(63, 1000)]);
    }
    let (ann, eve) = (basic("ann", "ann"), basic("bob", "bob"));
    let path = &paths(&image)[0];
    assert_eq!(ask(&mirror, "GET", path, &ann).await.status, 200);
    let (gate, shown) = (Gate::new(), eve.clone());
    let of_eve = move |asked: &scripted_registry::Recorded| asked.header("authorization") == Some(shown.as_str());
    registry.rule(Rule::on(Match::when(of_eve)).before_auth().stall_before_headers(&gate));
    tokio::time::pause();
    let paths = (0..4).map(|n| format!("/v2/team/open{n}/manifests/1?ns=a.example"));
    let silent = paths.map(|path| {
        let (mirror, eve) = (&mirror, eve.as_str());
        async move { ask(mirror, "GET", &path, eve).await.status }
    });
    let answers = futures_util::future::join_all(silent).await;
    assert_eq!(answers, [503; 4]);
    tokio::time::resume();
    let answer = ask(&mirror, "GET", path, &ann).await;
    assert_eq!((answer.status, answer.header("warning")), (200, None), "after {answers:?}");
    gate.open();
}

#[tokio::test]
async fn each_gets_what_the_upstream_gives_to_him_and_is_sent_where_he_can_log_in() {
    let (registry, image, mirror) = scene("").await;
    let (ann, nobody) = (token(&registry, "ann").await, token(&registry, "").await);
    let mut refusals = Vec::new();
    for round in 0..2 {
        for path in paths(&image).iter().filter(|path| !path.contains("blobs/")) {
            for method in ["GET", "HEAD"] {
                for shown in ["", nobody.as_str(), "Bearer made-up", &basic("eve", "eve")] {
                    let refused = ask(&mirror, method, path, shown).await;
                    assert_eq!(refused.status, 401, "{round}: {method} {path} {shown}");
                    assert_eq!(refused.header("cache-control"), Some("private, no-store"));
                    let text = String::from_utf8_lossy(&refused.body).into_owned();
                    assert!(method == "HEAD" || text.contains("log in as a user of a.example"), "{text}");
                    let challenge = refused.header("www-authenticate").expect("a challenge").to_owned();
                    let realm = format!("Bearer realm=\"{}/token\"", registry.url());
                    assert!(challenge.starts_with(&realm), "{challenge}");
                    assert!(challenge.contains("scope=\"repository:team/private:pull\""), "{challenge}");
                    refusals.push(told(&refused));
                }
            }
        }
        // Stored from here on.
        for path in paths(&image) {
            for shown in [&ann, &basic("bob", "bob")] {
                let given = ask(&mirror, "GET", &path, shown).await;
                assert_eq!(given.status, 200, "{round}: {path}");
                assert_eq!(given.header("cache-control"), Some("private, no-store"));
            }
        }
        mirror.settled().await;
    }
    let (cold, warm) = refusals.split_at(refusals.len() / 2);
    assert!(cold == warm, "stored and not stored are told alike");
    for blob in image.blobs() {
        assert_eq!(registry.gets_of(&blob.digest), 1, "the bytes are shared");
        let path = format!("/v2/team/private/blobs/{}?ns=a.example", blob.digest);
        assert_eq!(ask(&mirror, "GET", &path, "").await.status, 401);
        assert_eq!(ask(&mirror, "GET", &path, "Bearer made-up").await.status, 401);
    }
    let open = ask(&mirror, "GET", "/v2/team/open/manifests/1?ns=a.example", "").await;
    assert_eq!((open.status, open.header("www-authenticate")), (200, None), "what is public is not challenged");
}

pub(crate) async fn pull(mirror: &TestMirror, image: &Image, shown: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in paths(image).iter().filter(|path| !path.contains("list") && !path.contains("referrers")) {
        statuses.push(ask(mirror, "GET", path, shown).await.status);
    }
    statuses
}

#[tokio::test]
async fn a_warm_pull_costs_one_question_for_the_life_of_a_grant() {
    let (registry, image, mirror) = scene("").await;
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!(pull(&mirror, &image, &basic("ann", "ann")).await, all);
    mirror.settled().await;
    for (user, questions) in [("bob", 1), ("bob", 0), ("ann", 0)] {
        registry.forget_requests();
        assert_eq!(pull(&mirror, &image, &basic(user, user)).await, all);
        let asked = registry.count_of(&Match::manifests().or(Match::blobs()));
        assert_eq!(asked, questions, "{user}: {:?}", registry.requests().iter().map(|it| &it.path).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn each_image_costs_one_question_for_each_life_of_a_grant_however_often_it_is_pulled() {
    let life = Duration::from_millis(200);
    let (registry, image, mirror) = scene(&format!("access.grant_ttl = \"{}ms\"", life.as_millis())).await;
    let all = vec![200; paths(&image).len() - 2];
    let ann = basic("ann", "ann");
    assert_eq!(pull(&mirror, &image, &ann).await, all);
    mirror.settled().await;
    registry.forget_requests();
    let questions = Match::manifests().head();
    let start = Instant::now();
    while registry.count_of(&questions) < 5 {
        assert!(start.elapsed() < 300 * life, "it is never asked again");
        assert_eq!(pull(&mirror, &image, &ann).await, all);
    }
    let lives = start.elapsed().as_millis() / life.as_millis();
    assert!(lives >= 4, "5 questions within {lives} lives");
    assert_eq!(registry.count_of(&Match::manifests().or(Match::blobs()).get()), 0, "a yes costs no bytes");
}

#[tokio::test]
async fn who_is_let_in_by_a_tag_gets_what_upstream_says_that_it_points_at_and_not_what_it_was() {
    for ask_before in [&["HEAD"] as &[_], &["GET"], &["HEAD", "GET"]] {
        let (registry, before, mirror) = scene("cache.tag_ttl = \"1h\"").await;
        let path = paths(&before)[0].clone();
        // From memory, too.
        for _ in 0..3 {
            assert_eq!(ask(&mirror, "GET", &path, &basic("ann", "ann")).await.status, 200);
            mirror.settled().await;
        }
        let now = registry.add_image("team/private", "1", &[noise(64, 1000)]).manifest.digest.to_string();
        assert_ne!(now, before.manifest.digest.to_string());
        for user in ["bob", "ann"] {
            for method in ask_before.iter().chain(&["GET", "HEAD"]) {
                let given = ask(&mirror, method, &path, &basic(user, user)).await;
                let digest = given.header("docker-content-digest");
                assert_eq!((given.status, digest), (200, Some(now.as_str())), "{user} {method}");
                mirror.settled().await;
            }
        }
    }
}

#[tokio::test]
async fn a_tag_that_moved_is_news_for_every_set_of_types_also_after_a_restart() {
    let (manifest, index) = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json");
    let sets = ["*/*".to_owned(), manifest.to_owned(), format!("{manifest}, {index}")];
    for (restarts, first) in [(false, "GET"), (false, "HEAD"), (true, "GET"), (true, "HEAD")] {
        let (registry, before, mirror) = scene("cache.tag_ttl = \"1h\"").await;
        let path = paths(&before)[0].clone();
        let told = async |mirror: &TestMirror, method: &str, user: &str, accept: &str| {
            let shown = basic(user, user);
            let headers = [("Authorization", shown.as_str()), ("Accept", accept)];
            let answer = client::request(mirror.address, method, &path, &headers).await;
            mirror.settled().await;
            (answer.status, answer.header("docker-content-digest").map(str::to_owned))
        };
        for accept in &sets {
            assert_eq!(told(&mirror, "GET", "ann", accept).await.0, 200);
        }
        let now = registry.add_image("team/private", "1", &[noise(64, 1000)]).manifest.digest.to_string();
        let mirror = if restarts { mirror.restart().await } else { mirror };
        // Who was let in by the first answer is not asked for again.
        for (method, accept) in [first, "GET", "HEAD"].into_iter().flat_map(|it| sets.iter().map(move |set| (it, set)))
        {
            let found = told(&mirror, method, "bob", accept).await;
            assert_eq!(found, (200, Some(now.clone())), "{restarts} {first}: {method} {accept}");
        }
    }
}

#[tokio::test]
async fn rights_that_are_withdrawn_end_with_the_grant_and_for_nobody_else() {
    let (registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
    let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!(pull(&mirror, &image, &ann).await, all);
    mirror.settled().await;
    registry.require_tokens(TokenPolicy::bearer().user("bob", "bob").private("team/private"));
    registry.expire_tokens();
    assert_eq!(pull(&mirror, &image, &ann).await, vec![401; all.len()]);
    registry.forget_requests();
    assert_eq!(pull(&mirror, &image, &bob).await, all);
    for blob in image.blobs() {
        assert_eq!(registry.gets_of(&blob.digest), 0, "nothing was forgotten");
    }
}

#[tokio::test]
async fn rights_that_are_withdrawn_end_within_the_life_of_a_grant_however_long_tokens_live() {
    let half = Duration::from_secs(60);
    let lasting = |policy: TokenPolicy| policy.expires_in(Some(3600));
    let open = || lasting(TokenPolicy::bearer().user("ann", "ann"));
    let without_rights = || lasting(TokenPolicy::bearer().user("ann", "ann").private_to("team/private", &["bob"]));
    let other_password = || lasting(policy().user("ann", "changed"));
    for (shown, before, after) in [
        (basic("ann", "ann"), lasting(policy()), without_rights()),
        (basic("ann", "ann"), lasting(policy()), other_password()),
        (String::new(), open(), without_rights()),
    ] {
        let (registry, image, mirror) = scene("").await;
        registry.require_tokens(before);
        let all = async || {
            let mut statuses = Vec::new();
            for path in paths(&image) {
                statuses.push(ask(&mirror, "GET", &path, &shown).await.status);
            }
            statuses
        };
        let later = async |time| {
            tokio::time::pause();
            tokio::time::advance(time).await;
            tokio::time::resume();
        };
        let warm = vec![200; paths(&image).len()];
        assert_eq!(all().await, warm);
        mirror.settled().await;
        for _ in 0..2 {
            later(2 * half).await;
            registry.forget_requests();
            assert_eq!(all().await, warm);
            let questions = registry.count_of(&Match::manifests().head().or(Match::blobs()));
            assert_eq!((registry.token_requests(), questions), (1, 1), "in each life of a grant");
        }
        // Tokens that are out say what they said, for an hour.
        registry.require_tokens(after);
        later(half).await;
        assert_eq!(all().await, warm, "as long as the grant lives");
        later(half).await;
        assert_eq!(all().await, vec![401; warm.len()]);
    }
}

#[tokio::test]
async fn whatever_one_caller_is_told_in_place_of_a_yes_changes_nothing_for_another() {
    let (mut registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
    registry.require_tokens(TokenPolicy::basic("ann", "ann"));
    let (ann, eve) = (basic("ann", "ann"), basic("eve", "eve"));
    let of_eve = eve.clone();
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!(pull(&mirror, &image, &ann).await, all);
    mirror.settled().await;
    for status in [401, 403, 404, 429, 500] {
        let of_eve = of_eve.clone();
        let hers = Match::when(move |request| request.header("authorization") == Some(of_eve.as_str()));
        registry.clear_rules();
        registry.rule(Rule::on(hers).refuse(status).before_auth());
        for path in paths(&image) {
            let answer = ask(&mirror, "GET", &path, &eve).await;
            let expected = if [401, 403, 404].contains(&status) { status } else { 503 };
            assert_eq!(answer.status, expected, "{path}");
            let private = [401, 403, 404].contains(&answer.status);
            assert!(!private || answer.header("cache-control") == Some("private, no-store"), "{path} {status}");
        }
        assert_eq!(pull(&mirror, &image, &ann).await, all, "{status}: hers is hers");
    }
    for blob in image.blobs() {
        let whole = Match::blob(&blob.digest).get().without_header("range");
        assert_eq!(registry.count_of(&whole), 1, "nothing was forgotten");
    }
    registry.stop().await;
    assert_eq!(pull(&mirror, &image, &ann).await, all, "nor what the tag leads to");
}

#[tokio::test]
async fn who_shows_nothing_has_his_questions_at_the_door_counted_too() {
    let (registry, _image, mirror) = scene("limits.cold_per_client = 3").await;
    for _ in 0..3 {
        assert_eq!(client::get(mirror.addresses[1], "/v2/", &[]).await.status, 401);
    }
    registry.forget_requests();
    for _ in 0..2 {
        let refused = client::get(mirror.addresses[1], "/v2/", &[]).await;
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true));
    }
    assert_eq!(registry.count_of(&Match::any()), 0);
}

#[tokio::test]
async fn no_answer_about_what_is_not_public_is_for_anybody_else() {
    let (mut registry, image, _) = scene("").await;
    let (_folder, users) = users(&["ann"]);
    let names = ["a", "m", "s"].map(|name| format!("{name}.example"));
    let listen: Vec<_> = names.iter().map(|name| format!("\"127.0.0.1:0={name}\"")).collect();
    let config = format!(
        "server.listen = [\"127.0.0.1:0\", {}]\naccess.htpasswd = \"{}\"\n\
         access.grant = [{{ who = \"user:ann\", may = \"m.example/**\" }}]",
        listen.join(", "),
        users.display()
    );
    let mut settings = Settings::of(&registry).config(&config);
    for (name, access) in names.iter().zip(["pass-through", "mapped", "shared"]) {
        settings = settings.and(name, &registry).having(&format!("access = \"{access}\""));
    }
    let mirror = settings.start().await;
    registry.stop().await;
    let (ann, of_upstream) = (basic("ann", "ann"), basic("eve", "eve"));
    let shown = [of_upstream, ann.clone(), ann];
    let private = Some("private, no-store");
    for method in ["GET", "HEAD"] {
        let open = client::request(mirror.address, method, "/v2/", &[]).await;
        assert_eq!((open.status, open.header("cache-control")), (200, None));
        for ((address, name), shown) in mirror.addresses[1..].iter().zip(&names).zip(&shown) {
            let shown = [("Authorization", shown.as_str())];
            let welcome = client::request(*address, method, "/v2/", &shown).await;
            assert_eq!((welcome.status, welcome.header("cache-control")), (200, private), "{name}");
            for path in paths(&image) {
                let path = path.replace("a.example", name);
                let away = client::request(*address, method, &path, &shown).await;
                assert_eq!((away.status, away.header("cache-control")), (503, private), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_path_that_says_v2_twice_is_told_so_where_the_upstream_has_nothing_there() {
    let (_registry, _image, mirror) = scene("").await;
    for (path, told) in [("v2/team/open", true), ("team/none", false)] {
        for rest in ["manifests/1", "tags/list"] {
            let answer = ask(&mirror, "GET", &format!("/v2/{path}/{rest}?ns=a.example"), &basic("ann", "ann")).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, text.contains("says /v2/ twice")), (404, told), "{path}/{rest}: {text}");
        }
    }
}

#[tokio::test]
async fn a_no_at_the_door_ends_what_was_granted_to_him_and_to_nobody_else() {
    let (registry, image, mirror) = scene("").await;
    let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
    let all = vec![200; paths(&image).len() - 2];
    assert_eq!([pull(&mirror, &image, &ann).await, pull(&mirror, &image, &bob).await], [all.clone(), all.clone()]);
    mirror.settled().await;
    registry.require_tokens(TokenPolicy::bearer().user("bob", "bob").private("team/private"));
    registry.expire_tokens();
    let login = client::get(mirror.addresses[1], "/v2/", &[("Authorization", &ann)]).await;
    assert_eq!(login.status, 401);
    assert_eq!(pull(&mirror, &image, &ann).await, vec![401; all.len()]);
    assert_eq!(pull(&mirror, &image, &bob).await, all);
}

#[tokio::test]
async fn while_the_upstream_is_away_only_the_very_same_password_opens_what_it_had_opened() {
    let (mut registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
    let (ann, bearer) = (basic("ann", "ann"), token(&registry, "ann").await);
    let path = paths(&image)[1].clone();
    for shown in [&ann, &bearer] {
        assert_eq!(ask(&mirror, "GET", &path, shown).await.status, 200);
    }
    mirror.settled().await;
    registry.stop().await;
    for (shown, status) in [(ann.as_str(), 200), (&bearer, 503), ("", 401), (&basic("ann", "other"), 503)] {
        let answer = ask(&mirror, "GET", &path, shown).await;
        assert_eq!((answer.status, answer.header("www-authenticate").is_some()), (status, status == 401), "{shown}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(status != 503 || text.contains("pull it again"), "as in every other mode: {text}");
    }
    let login = client::get(mirror.addresses[1], "/v2/", &[]).await;
    assert_eq!(login.status, 200, "nobody is turned away at the door of an upstream that is away");
}

#[tokio::test]
async fn nobody_is_sent_to_log_in_at_an_upstream_that_went_away_a_moment_ago() {
    let (mut registry, _, mirror) = scene("").await;
    assert_eq!(client::get(mirror.addresses[1], "/v2/", &[]).await.status, 401);
    registry.rule(Rule::on(Match::token()).close_at_once());
    assert_eq!(client::get(mirror.addresses[1], "/v2/", &[]).await.status, 200, "nor where its token service did");
    registry.clear_rules();
    registry.stop().await;
    assert_eq!(client::get(mirror.addresses[1], "/v2/", &[]).await.status, 200);
}

#[tokio::test]
async fn who_had_a_yes_waits_for_a_hanging_upstream_no_longer_than_he_is_patient_and_is_told_that_it_is_stale() {
    let mut unmarked = Vec::new();
    for (mode, patience) in [("online", 2000), ("prefer-cache", 300)] {
        let lines = format!("access.grant_ttl = \"0s\"\ncache.mode = \"{mode}\"");
        let (registry, image, mirror) = scene(&lines).await;
        let ann = basic("ann", "ann");
        assert_eq!(pull(&mirror, &image, &ann).await, vec![200; paths(&image).len() - 2]);
        mirror.settled().await;
        registry.rule(Rule::on(Match::when(|_| true)).stall_before_headers(&Gate::new()).before_auth());
        tokio::time::pause();
        let mut most = Duration::from_millis(patience + 10);
        for path in paths(&image).iter().filter(|path| !path.contains("list") && !path.contains("referrers")) {
            let asked = tokio::time::Instant::now();
            let answer = ask(&mirror, "GET", path, &ann).await;
            let waited = asked.elapsed();
            assert!(waited <= most, "{mode}: {path}: {waited:?}");
            let outcome = answer.header("cache-status").unwrap_or_default().to_owned();
            assert_eq!(answer.status, 200, "{mode}: {path}");
            if answer.header("warning").is_none() || !outcome.contains("detail=stale") {
                unmarked.push(format!("{mode}: {path}: {outcome}"));
            }
            // The question is under way, or it is known what came of it.
            most = Duration::from_millis(310);
        }
        let asked = tokio::time::Instant::now();
        let login = client::get(mirror.addresses[1], "/v2/", &[("Authorization", &ann)]).await;
        assert_eq!(login.status, 200, "{mode}");
        assert!(asked.elapsed() <= Duration::from_millis(patience + 10), "{mode}: {:?}", asked.elapsed());
        tokio::time::resume();
    }
    assert!(unmarked.is_empty(), "{unmarked:#?}");
}

#[tokio::test]
async fn who_shows_nothing_is_told_at_a_hanging_upstream_how_to_log_in_as_soon_as_who_is_patient_ends() {
    let (registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
    let path = paths(&image)[0].clone();
    let before = ask(&mirror, "GET", &path, "").await;
    assert_eq!(before.status, 401);
    registry.rule(Rule::on(Match::when(|_| true)).stall_before_headers(&Gate::new()).before_auth());
    tokio::time::pause();
    for most in [2010, 310] {
        let asked = tokio::time::Instant::now();
        let answer = ask(&mirror, "GET", &path, "").await;
        assert!(asked.elapsed() <= Duration::from_millis(most), "{:?}", asked.elapsed());
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, before.header("www-authenticate")));
    }
    let asked = tokio::time::Instant::now();
    let login = client::get(mirror.addresses[1], "/v2/", &[]).await;
    assert!([200, 401].contains(&login.status), "{}", login.status);
    assert!(asked.elapsed() <= Duration::from_millis(2010), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn the_door_is_asked_about_each_password_once_for_each_life_of_a_grant() {
    let (registry, _, mirror) = scene("").await;
    let (ann, wrong) = (basic("ann", "ann"), basic("ann", "wrong"));
    let knock = async |shown: &str| {
        let headers = [("Authorization", shown)];
        client::get(mirror.addresses[1], "/v2/", if shown.is_empty() { &[] } else { &headers }).await.status
    };
    assert_eq!([knock("").await, knock(&ann).await, knock(&wrong).await], [401, 200, 401]);
    registry.forget_requests();
    for _ in 0..3 {
        assert_eq!(knock(&ann).await, 200);
    }
    assert_eq!(registry.requests().len(), 0, "it is known that it lets her in");
    assert_eq!(knock(&wrong).await, 401);
    assert_ne!(registry.requests().len(), 0, "a no is not kept");
    tokio::time::pause();
    registry.forget_requests();
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!(knock(&ann).await, 200);
    assert_ne!(registry.requests().len(), 0, "when the grant is over");
    // It wants something else now.
    registry.require_tokens(TokenPolicy::basic("ann", "changed"));
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!([knock(&ann).await, knock(&basic("ann", "changed")).await], [401, 200]);
}

#[tokio::test]
async fn what_opens_the_admin_interface_is_shown_to_no_upstream() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let token = "a-token-of-24-characters";
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let (registry, image, mut mirror) = scene(&format!("server.admin_token = \"file:{}\"", file.display())).await;
    let shown =
        |token: &str| [format!("Bearer {token}"), format!("bearer   {token} "), basic("x", token), basic(token, "x")];
    let sent = |registry: &Registry, token: &str| {
        let shown = shown(token);
        registry.count(move |request| {
            let sent = request.header("authorization").unwrap_or_default();
            shown.iter().any(|shown| shown.trim() == sent)
        })
    };
    for path in [paths(&image)[0].as_str(), "/v2/"] {
        for shown in shown(token) {
            for at in [mirror.address, mirror.addresses[1]] {
                let answer = client::get(at, path, &[("Authorization", &shown)]).await;
                let expected = if path == "/v2/" && at == mirror.address { 200 } else { 401 };
                assert_eq!(answer.status, expected, "{path} {shown}");
            }
        }
    }
    assert_eq!(sent(&registry, token), 0);
    // Another one counts from the next request on.
    let next = "another-token-of-the-admin";
    std::fs::write(&file, next).expect("written");
    assert_eq!(mirror.reload(|settings| settings).await.status, 200);
    assert_eq!(ask(&mirror, "GET", &paths(&image)[0], &format!("Bearer {next}")).await.status, 401);
    assert_eq!(sent(&registry, next), 0);
    assert_eq!(ask(&mirror, "GET", &paths(&image)[0], &basic("ann", "ann")).await.status, 200);
}

#[tokio::test]
async fn offline_mode_is_like_an_upstream_that_is_away() {
    let online = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]\naccess.grant_ttl = \"0s\"";
    let (registry, image, mut mirror) = scene("access.grant_ttl = \"0s\"").await;
    let (ann, path) = (basic("ann", "ann"), paths(&image)[1].clone());
    let open = "/v2/team/open/manifests/1?ns=a.example";
    for (path, shown, status) in [(path.as_str(), ann.as_str(), 200), (&path, "", 401), (open, "", 200)] {
        assert_eq!(ask(&mirror, "GET", path, shown).await.status, status, "{path} {shown}");
    }
    mirror.settled().await;
    let offline = format!("{online}\ncache.mode = \"offline\"");
    assert_eq!(mirror.reload(|settings| settings.reconfigured(&offline)).await.status, 200);
    registry.forget_requests();
    let (other, mut unmarked) = (basic("ann", "other"), 0);
    for (path, shown, status) in
        [(path.as_str(), ann.as_str(), 200), (&path, "", 401), (open, "", 200), (&path, &other, 503)]
    {
        let answer = ask(&mirror, "GET", path, shown).await;
        let told = answer.header("www-authenticate").is_some();
        assert_eq!((answer.status, told), (status, status == 401), "{path} {shown}");
        unmarked += usize::from(status == 200 && answer.header("warning").is_none());
    }
    assert!(registry.requests().is_empty(), "nobody is asked");
    assert_eq!(mirror.reload(|settings| settings.reconfigured(online)).await.status, 200);
    let answer = ask(&mirror, "GET", &path, &ann).await;
    assert_eq!((answer.status, answer.header("warning")), (200, None));
    assert!(!registry.requests().is_empty(), "it is asked again");
    assert_eq!(unmarked, 0, "what is given by grace is stale");
}

#[tokio::test]
async fn one_logs_in_at_the_listener_of_the_upstream_with_the_upstreams_own_password() {
    let (registry, _, mirror) = scene("").await;
    let at = mirror.addresses[1];
    let refused = client::get(at, "/v2/", &[]).await;
    let challenge = refused.header("www-authenticate").unwrap_or_default().to_owned();
    assert!(refused.status == 401 && challenge.starts_with("Bearer realm="), "{challenge}");
    for (shown, status) in [
        (basic("ann", "ann"), 200),
        (basic("ann", "wrong"), 401),
        (token(&registry, "ann").await, 200),
        ("Bearer made-up".to_owned(), 401),
    ] {
        assert_eq!(client::get(at, "/v2/", &[("Authorization", &shown)]).await.status, status, "{shown}");
    }
    assert_eq!(client::get(mirror.address, "/v2/", &[]).await.status, 200, "another listener");
}

#[tokio::test]
async fn what_is_ours_to_judge_is_never_sent_to_an_upstream() {
    let (_folder, users) = users(&["ci"]);
    let (registry, image, mirror) = scene(&format!("access.htpasswd = \"{}\"", users.display())).await;
    let path = paths(&image)[0].clone();
    for password in ["ci", "wrong"] {
        assert_eq!(ask(&mirror, "GET", &path, &basic("ci", password)).await.status, 401);
        client::get(mirror.addresses[1], "/v2/", &[("Authorization", &basic("ci", password))]).await;
    }
    let sent = registry.requests().iter().any(|request| {
        let shown = request.header("authorization").unwrap_or_default().to_owned();
        [basic("ci", "ci"), basic("ci", "wrong")].contains(&shown)
    });
    assert!(!sent);
    assert_eq!(ask(&mirror, "GET", &path, &basic("ann", "ann")).await.status, 200);
}

#[tokio::test]
async fn what_keeps_the_upstream_from_answering_nobody_in_particular_does_not_hide_how_to_log_in() {
    let (registry, image, mirror) = scene("").await;
    let before = ask(&mirror, "GET", &paths(&image)[0], "").await;
    assert_eq!(before.status, 401);
    for (rule, list) in [(429, false), (503, false), (429, true), (500, true)] {
        let strangers = Match::when(move |request| {
            let token = request.header("authorization").unwrap_or_default().to_owned();
            !token.starts_with("Basic") && request.path.contains(if list { "list" } else { "manifests" })
        });
        registry.clear_rules();
        registry.rule(Rule::on(strangers).refuse(rule).before_auth());
        let path = paths(&image).into_iter().find(|path| path.contains("list") == list).expect("one");
        let refused = ask(&mirror, "GET", &path, "").await;
        assert_eq!(refused.status, 401, "{rule} {path}");
        assert_eq!(refused.header("www-authenticate"), before.header("www-authenticate"), "{rule} {path}");
    }
}

#[tokio::test]
async fn who_follows_a_download_goes_on_with_his_own_rights_where_those_of_the_first_end() {
    let registry = Registry::start().await;
    registry.require_tokens(policy());
    let content = noise(64, 1_000_000);
    let digest = registry.add_blob("team/private", content.clone());
    let settings = Settings::of(&registry).and("a.example", &registry).having("access = \"pass-through\"");
    let mirror = settings.start().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(300_000, &gate).close_after(400_000));
    let path = format!("/v2/team/private/blobs/{digest}?ns=a.example");
    let [ann, bob] = ["ann", "bob"].map(|user| basic(user, user));
    let mut first = Stream::get(mirror.address, &path, &[("Authorization", &ann)]).await;
    assert_eq!(first.read_exactly(200_000).await.len(), 200_000);
    let mut second = Stream::get(mirror.address, &path, &[("Authorization", &bob)]).await;
    assert_eq!(second.header("cache-status").map(|it| it.contains("detail=join")), Some(true));
    assert_eq!(second.read_exactly(100_000).await, content.slice(..100_000));
    registry.require_tokens(TokenPolicy::bearer().user("bob", "bob").private("team/private"));
    registry.expire_tokens();
    gate.open();
    let second = second.finish().await;
    assert!(second.complete && second.body == content.slice(100_000..), "{} bytes", second.body.len());
    assert!(!first.finish().await.complete, "who was refused gets no more");
    mirror.settled().await;
    registry.forget_requests();
    assert_eq!(ask(&mirror, "GET", &path, &bob).await.body, content, "it is stored");
    assert_eq!(registry.gets_of(&digest), 0);
}

#[tokio::test]
async fn what_needs_no_credential_is_given_to_whoever_shows_one_right_wrong_or_while_the_upstream_is_away() {
    let (mut registry, _, mirror) = scene("").await;
    let digest = registry.add_image("team/open", "2", &[noise(63, 1000)]).manifest.digest;
    let open = |rest: String| format!("/v2/team/open/{rest}?ns=a.example");
    let paths = [open("manifests/2".into()), open(format!("manifests/{digest}")), open("tags/list".into())];
    let shown = [basic("ann", "ann"), basic("eve", "eve"), "Bearer made-up".to_owned(), String::new()];
    assert_eq!(ask(&mirror, "GET", &paths[0], "").await.status, 200);
    mirror.settled().await;
    for (path, shown) in paths.iter().flat_map(|path| shown.iter().map(move |shown| (path, shown))) {
        for method in ["GET", "HEAD"] {
            let given = ask(&mirror, method, path, shown).await;
            assert_eq!((given.status, given.header("www-authenticate")), (200, None), "{method} {path} {shown}");
        }
    }
    registry.stop().await;
    for (path, shown) in paths[..2].iter().flat_map(|path| shown.iter().map(move |shown| (path, shown))) {
        assert_eq!(ask(&mirror, "GET", path, shown).await.status, 200, "{path} {shown}");
    }
    let private = ask(&mirror, "GET", "/v2/team/private/manifests/1?ns=a.example", &shown[1]).await;
    assert_ne!(private.status, 200, "nothing private opens by it");
}

#[tokio::test]
async fn what_is_given_to_everybody_is_told_by_no_token_service_that_the_registry_may_not_name() {
    let (registry, _, mirror) = scene("").await;
    let foreign = Registry::start().await;
    foreign.require_tokens(policy());
    let realm = foreign.url().replace("127.0.0.1", "127.0.0.9");
    registry.require_tokens(policy().realm(&realm));
    let path = "/v2/team/open/manifests/1?ns=a.example";
    let refused = ask(&mirror, "GET", path, "").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, None), "{refused:?}");
    assert_eq!(foreign.requests().len(), 0, "it is not even asked");
}
