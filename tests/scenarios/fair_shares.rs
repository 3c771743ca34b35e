//! What one client may have: a limit that he reaches is his own trouble.

use scripted_registry::client::{Connection, Response};
use scripted_registry::{Gate, Match, Registry, Rule, TokenPolicy, noise};

use crate::access_mapped::basic;
use crate::support::mirror::{Settings, TestMirror};

const GREEDY: [u8; 4] = [127, 0, 0, 11];
const HONEST: [u8; 4] = [127, 0, 0, 12];

async fn get(mirror: &TestMirror, from: [u8; 4], path: &str) -> Response {
    get_with(mirror, from, path, &[]).await
}

async fn get_with(mirror: &TestMirror, from: [u8; 4], path: &str, headers: &[(&str, &str)]) -> Response {
    let connection = Connection::open_from(from, mirror.address).await;
    connection.send("GET", path, headers).await.expect("an answer").finish().await
}

fn is_refused_by(response: &Response, limit: &str) -> bool {
    let told = String::from_utf8_lossy(&response.body);
    let wait = response.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
    response.status == 429
        && wait.is_some_and(|wait| (1..=60).contains(&wait))
        && response.header("content-type") == Some("application/json")
        && told.contains("TOOMANYREQUESTS")
        && told.contains(limit)
}

async fn counted(mirror: &TestMirror, limit: &str) -> u64 {
    let series = format!("mirror_limited_total{{limit=\"{limit}\"}} ");
    let metrics = mirror.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn requests_beyond_a_clients_rate_are_429_for_him_alone_warm_or_cold() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let settings = Settings::of(&registry);
    let mirror = settings.config("server.admin = [\"127.0.0.1:0\"]\nlimits.requests_per_client = 3").start().await;
    let digest = &image.manifest.digest;
    let paths =
        ["/v2/library/app/manifests/1".to_owned(), format!("/v2/library/app/manifests/{digest}"), "/v2/".into()];
    for path in &paths {
        assert_eq!(get(&mirror, GREEDY, path).await.status, 200, "{path}");
    }
    let mut refused = 0;
    for path in paths.iter().cycle().take(12) {
        let response = get(&mirror, GREEDY, path).await;
        assert!(response.status == 200 || is_refused_by(&response, "limits.requests_per_client"), "{response:?}");
        refused += u64::from(response.status == 429);
    }
    assert!(refused > 0);
    assert_eq!(get(&mirror, HONEST, &paths[0]).await.status, 200);
    assert_eq!(counted(&mirror, "requests_per_client").await, refused);
}

#[tokio::test]
async fn questions_to_upstreams_beyond_a_clients_rate_are_429_and_what_is_stored_is_served() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    registry.add_image("library/other", "1", &[noise(2, 1000)]);
    let (manifest, layer) = (&image.manifest.digest, image.blobs().next().expect("a blob").digest);
    let mirror = Settings::of(&registry).config("limits.cold_per_client = 2").start().await;
    let warm = ["/v2/library/app/manifests/1".to_owned(), format!("/v2/library/app/blobs/{layer}")];
    for path in &warm {
        assert_eq!(get(&mirror, GREEDY, path).await.status, 200, "{path}");
    }
    mirror.settled().await;
    registry.forget_requests();
    for cold in [
        "/v2/library/other/manifests/1".to_owned(),
        format!("/v2/library/other/manifests/{manifest}"),
        format!("/v2/library/other/blobs/{layer}"),
        "/v2/library/other/tags/list".to_owned(),
        format!("/v2/library/other/referrers/{manifest}"),
    ] {
        let response = get(&mirror, GREEDY, &cold).await;
        assert!(is_refused_by(&response, "limits.cold_per_client"), "{cold}: {response:?}");
    }
    assert_eq!(registry.requests().len(), 0, "upstream heard of it");
    for path in &warm {
        assert_eq!(get(&mirror, GREEDY, path).await.status, 200, "{path}");
    }
    // A tag that has grown old is served as it is, and said to be.
    mirror.advance(std::time::Duration::from_secs(3600));
    let stale = get(&mirror, GREEDY, &warm[0]).await;
    assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{stale:?}");
    assert_eq!(get(&mirror, HONEST, "/v2/library/other/manifests/1").await.status, 200);
}

#[tokio::test]
async fn who_joins_a_question_that_is_under_way_asks_none_of_his_own() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(3, 300_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(100_000, &gate));
    let mirror = Settings::of(&registry).config("limits.cold_per_client = 1").start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut bodies = Vec::new();
    for from in [HONEST, GREEDY, GREEDY, GREEDY] {
        let connection = Connection::open_from(from, mirror.address).await;
        let stream = connection.send("GET", &path, &[]).await.expect("an answer");
        assert_eq!(stream.status, 200);
        bodies.push(stream);
    }
    gate.open();
    for body in bodies {
        assert!(body.finish().await.complete);
    }
}

#[tokio::test]
async fn the_connections_of_one_client_take_none_from_others() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(4, 300_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(100_000, &gate));
    let lines = "server.admin = [\"127.0.0.1:0\"]\nserver.header_timeout = \"200ms\"\nserver.max_connections = 4\n\
                 limits.connections_per_client = 1000";
    let mirror = Settings::of(&registry).config(lines).start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut held = Vec::new();
    // Half of all is the most that one may have, whatever is written.
    for _ in 0..2 {
        let connection = Connection::open_from(GREEDY, mirror.address).await;
        held.push(connection.send("GET", &path, &[]).await.expect("an answer"));
    }
    let more = std::iter::repeat_with(|| get(&mirror, GREEDY, "/v2/")).take(6);
    let more = futures_util::future::join_all(more);
    let honest = async {
        for _ in 0..20 {
            assert_eq!(get(&mirror, HONEST, "/v2/").await.status, 200);
        }
    };
    let (more, ()) = tokio::join!(more, honest);
    for response in more {
        assert!(is_refused_by(&response, "limits.connections_per_client"), "{response:?}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(counted(&mirror, "connections_per_client").await, 6);
    gate.open();
    for stream in held {
        assert!(stream.finish().await.complete);
    }
    assert_eq!(get(&mirror, GREEDY, "/v2/").await.status, 200, "his places are free again");
}

#[tokio::test]
async fn one_connection_more_than_a_client_may_have_waits_for_a_place() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(5, 300_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(100_000, &gate));
    let mirror = Settings::of(&registry).config("limits.connections_per_client = 1").start().await;
    let held = Connection::open_from(GREEDY, mirror.address).await;
    let held = held.send("GET", &format!("/v2/library/app/blobs/{digest}"), &[]).await.expect("an answer");
    let waits = get(&mirror, GREEDY, "/v2/");
    let ends = async {
        assert_eq!(get(&mirror, HONEST, "/v2/").await.status, 200);
        gate.open();
        assert!(held.finish().await.complete);
    };
    let (waited, ()) = tokio::join!(waits, ends);
    assert_eq!(waited.status, 200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_is_whom_the_proxy_names() {
    let registry = Registry::start().await;
    let lines = "server.trusted_proxies = [\"127.0.0.11\", \"10.0.0.0/8\"]\nlimits.requests_per_client = 1\n\
                 limits.connections_per_client = 1";
    let mirror = Settings::of(&registry).config(lines).start().await;
    // The proxy itself has as many connections as it wants.
    let idle =
        [Connection::open_from(GREEDY, mirror.address).await, Connection::open_from(GREEDY, mirror.address).await];
    let status =
        async |from, client: &str| get_with(&mirror, from, "/v2/", &[("X-Forwarded-For", client)]).await.status;
    for n in 1..20 {
        let client = format!("192.0.2.250, 198.51.100.{n}, 10.1.2.3");
        assert_eq!(status(GREEDY, &client).await, 200, "{client}");
    }
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(status(GREEDY, "made-up, 198.51.100.99").await);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    // Of somebody else nobody believes whom he names.
    let mut statuses = Vec::new();
    for n in 1..10 {
        statuses.push(status(HONEST, &format!("198.51.100.{n}")).await);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    drop(idle);
}

#[tokio::test]
async fn bytes_go_to_each_client_at_his_own_rate_whatever_they_are() {
    let registry = Registry::start().await;
    let large = registry.add_blob("library/app", noise(6, 400_000));
    let image = registry.add_image("library/app", "1", &[noise(7, 40_000)]);
    let mirror = Settings::of(&registry).config("limits.egress_per_client = \"100KB\"").start().await;
    let layer = image.blobs().last().expect("a blob").digest;
    let begun = std::time::Instant::now();
    // Cold, stored, and by pieces: nobody sends faster than that.
    let path = format!("/v2/library/app/blobs/{large}");
    let slow = async {
        let response = get(&mirror, GREEDY, &path).await;
        assert!(response.complete && response.body.len() == 400_000);
        begun.elapsed()
    };
    let other = async {
        let response = get(&mirror, HONEST, &format!("/v2/library/app/blobs/{layer}")).await;
        assert!(response.complete);
        begun.elapsed()
    };
    let (slow, other) = tokio::join!(slow, other);
    assert!(other < slow, "{other:?} {slow:?}");
    // 400 kB at 100 kB a second, one second's worth at once: the network would need a hundredth.
    assert!(slow.as_millis() > 2_500, "{slow:?}");
}

#[tokio::test]
async fn clients_take_turns_at_an_upstream_and_bodies_never_take_all_of_its_places() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(8, 1000)]);
    let blobs: Vec<_> = (0..6).map(|n| registry.add_blob("library/app", noise(20 + n, 300_000))).collect();
    let (first, others) = (Gate::new(), Gate::new());
    for (blob, gate) in blobs.iter().zip([&first].into_iter().chain(std::iter::repeat(&others))) {
        registry.rule(Rule::on(Match::blob(blob).get()).stall_after(100_000, gate));
    }
    let lines = "limits.fill_wait = \"60s\"";
    let mirror = Settings::of(&registry).config(lines).upstream("connections = 2").start().await;
    let ask = async |from, n: usize| {
        let connection = Connection::open_from(from, mirror.address).await;
        let path = format!("/v2/library/app/blobs/{}", blobs[n]);
        connection.send("GET", &path, &[]).await.expect("an answer").finish().await
    };
    let greedy = futures_util::future::join_all((0..5).map(|n| ask(GREEDY, n)));
    let honest = async {
        while registry.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        // One body is under way, and a question finds its place.
        assert_eq!(get(&mirror, HONEST, "/v2/library/app/manifests/1").await.status, 200);
        let last = ask(HONEST, 5);
        let opens = async {
            while mirror.mirror.fills() < 6 {
                tokio::task::yield_now().await;
            }
            // His turn comes after one of the other's, at most: he waits as soon as he is among the fills.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            first.open();
            others.open();
        };
        tokio::join!(last, opens).0
    };
    let (greedy, honest) = tokio::join!(greedy, honest);
    assert!(honest.complete && greedy.iter().all(|response| response.complete));
    let order: Vec<_> = registry.requests().iter().filter_map(|request| blob_of(&request.path, &blobs)).collect();
    let place = order.iter().position(|n| *n == 5).expect("asked for");
    assert!(place <= 2, "{order:?}");
}

fn blob_of(path: &str, blobs: &[scripted_registry::Digest]) -> Option<usize> {
    blobs.iter().position(|blob| path.ends_with(&blob.to_string()))
}

#[tokio::test]
async fn many_small_parts_open_no_more_connections_than_an_upstream_may_have() {
    const CONNECTIONS: usize = 8;
    let (registry, other) = (Registry::start().await, Registry::start().await);
    other.add_image("app", "1", &[noise(8, 1000)]);
    let blob = registry.add_blob("library/app", noise(9, 8 << 20));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    let settings = Settings::of(&registry).upstream(&format!("connections = {CONNECTIONS}"));
    let mirror = settings.and("a.example", &other).start().await;
    let blob_path = format!("/v2/library/app/blobs/{blob}");
    let mut askers = Vec::new();
    for n in 0..150_u64 {
        let connection = Connection::open_from([127, 0, 1, (n % 100) as u8 + 1], mirror.address).await;
        let (path, range) = if n % 5 == 0 {
            (format!("/v2/library/app/manifests/{n}"), String::new())
        } else {
            (blob_path.clone(), format!("bytes={}-{}", n * 1000, n * 1000 + 99))
        };
        askers.push(tokio::spawn(async move {
            let headers = [("Range", range.as_str())];
            connection
                .send("GET", &path, if range.is_empty() { &[] } else { &headers })
                .await
                .map(|answer| answer.status)
        }));
    }
    gate.reached_times(CONNECTIONS as u64).await;
    let path = "/v2/app/manifests/1?ns=a.example";
    for _ in 0..20 {
        assert_eq!(get(&mirror, HONEST, path).await.status, 200, "of another upstream");
        assert!(registry.open_connections() <= CONNECTIONS, "{} connections", registry.open_connections());
    }
    askers.iter().for_each(tokio::task::JoinHandle::abort);
    gate.open();
}

#[tokio::test]
async fn who_finds_no_place_at_an_upstream_in_time_is_told_when_to_come_again() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(9, 1000)]);
    let blobs: Vec<_> = (0..2).map(|n| registry.add_blob("library/app", noise(30 + n, 300_000))).collect();
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&blobs[0]).get()).stall_after(100_000, &gate));
    let lines = "limits.fill_wait = \"0s\"";
    let mirror = Settings::of(&registry).config(lines).upstream("connections = 2").start().await;
    let path = |n: usize| format!("/v2/library/app/blobs/{}", blobs[n]);
    let first = Connection::open_from(GREEDY, mirror.address).await;
    let first = first.send("GET", &path(0), &[]).await.expect("an answer");
    let refused = get(&mirror, HONEST, &path(1)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    assert_eq!(get(&mirror, HONEST, "/v2/library/app/manifests/1").await.status, 200);
    gate.open();
    assert!(first.finish().await.complete);
    assert_eq!(get(&mirror, HONEST, &path(1)).await.status, 200);
}

#[tokio::test]
async fn who_reads_slowly_what_cannot_be_kept_keeps_nobody_else_from_its_upstream() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(40, 1000)]);
    let large = noise(41, 48 << 20);
    let (slow, quick) =
        (registry.add_blob("library/app", large.clone()), registry.add_blob("library/app", noise(42, 300_000)));
    let lines = "store.max_size = \"50000B\"\nstore.min_free = \"0\"\nlimits.fill_wait = \"5s\"";
    let mirror = Settings::of(&registry).config(lines).upstream("connections = 2").start().await;
    // More than memory and the buffers of both connections take: upstream waits for him.
    let greedy = Connection::open_from(GREEDY, mirror.address).await;
    let mut greedy = greedy.send("GET", &format!("/v2/library/app/blobs/{slow}"), &[]).await.expect("an answer");
    let begun = greedy.read_exactly(1000).await;
    let honest = get(&mirror, HONEST, &format!("/v2/library/app/blobs/{quick}")).await;
    assert!(
        honest.status == 200 && honest.complete,
        "{} {:?}",
        honest.status,
        String::from_utf8_lossy(&honest.body[..honest.body.len().min(300)])
    );
    assert_eq!(registry.gets_of(&slow), 1);
    // And who was slow goes on where he was.
    let rest = greedy.finish().await;
    assert!(rest.complete && [begun, rest.body].concat() == large);
    assert_eq!(registry.gets_of(&slow), 2);
}

#[tokio::test]
async fn who_has_a_grant_of_an_upstream_has_a_rate_of_his_own_and_who_makes_tokens_up_has_none() {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private("team/app"));
    registry.add_image("team/app", "1", &[noise(1, 1000)]);
    let settings = Settings::of(&registry).config("limits.requests_per_client = 3\naccess.grant_ttl = \"5m\"");
    let mirror = settings.and("a.example", &registry).having("access = \"pass-through\"").start().await;
    let path = "/v2/team/app/manifests/1?ns=a.example";
    let ann = basic("ann", "ann");
    assert_eq!(get_with(&mirror, GREEDY, path, &[("Authorization", &ann)]).await.status, 200);
    let mut made_up = Vec::new();
    for n in 0..12 {
        let shown = format!("Bearer {n}");
        made_up.push(get_with(&mirror, GREEDY, path, &[("Authorization", &shown)]).await.status);
    }
    assert!(made_up.contains(&429), "they are all of one address: {made_up:?}");
    let hers = get_with(&mirror, GREEDY, path, &[("Authorization", &ann)]).await;
    assert_eq!(hers.status, 200, "what others of her address have had is not her affair: {hers:?}");
}
