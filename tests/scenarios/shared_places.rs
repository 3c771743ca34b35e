//! No client has all places of a pool that all share, nor have several together: who has none gets one.

use std::time::Duration;

use futures_util::future::join_all;
use scripted_registry::client::{Connection, Response, Stream};
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const GREEDY: [u8; 4] = [127, 0, 0, 11];
const GREEDY_TOO: [u8; 4] = [127, 0, 0, 12];
const HONEST: [u8; 4] = [127, 0, 0, 13];
const HONEST_TOO: [u8; 4] = [127, 0, 0, 14];
const SIZE: usize = 300_000;

/// A registry whose repository `library/slow` stands still until the gate opens, with `blobs` blobs there and two
/// besides.
async fn slow_registry(blobs: usize) -> (Registry, Gate, Vec<Digest>, Vec<Digest>) {
    let (registry, gate) = (Registry::start().await, Gate::new());
    let slow = (0..blobs as u64).map(|n| registry.add_blob("library/slow", noise(600 + n, SIZE))).collect();
    let quick = (0..2).map(|n| registry.add_blob("library/app", noise(700 + n, SIZE))).collect();
    registry.rule(Rule::on(Match::repository("library/slow").and(Match::blobs()).get()).stall_after(90_000, &gate));
    registry.rule(Rule::on(Match::repository("library/slow")).stall_before_headers(&gate));
    (registry, gate, slow, quick)
}

async fn get(mirror: &TestMirror, from: [u8; 4], path: &str) -> Response {
    let connection = Connection::open_from(from, mirror.address).await;
    let answer = async { connection.send("GET", path, &[]).await.expect("an answer").finish().await };
    tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer in time")
}

/// Begins to read each of these.
async fn begin(mirror: &TestMirror, from: [u8; 4], blobs: &[Digest], headers: &[(&str, &str)]) -> Vec<Stream> {
    let begun = blobs.iter().map(async |blob| {
        let connection = Connection::open_from(from, mirror.address).await;
        let path = format!("/v2/library/slow/blobs/{blob}");
        let mut stream = connection.send("GET", &path, headers).await.expect("an answer");
        stream.read_exactly(1000).await;
        stream
    });
    join_all(begun).await
}

fn outcome(response: &Response) -> &str {
    let status = response.header("cache-status").unwrap_or_default();
    status.rsplit_once("detail=").map_or(status, |(_, outcome)| outcome)
}

async fn is_given(mirror: &TestMirror, from: [u8; 4], blob: &Digest) {
    let response = get(mirror, from, &format!("/v2/library/app/blobs/{blob}")).await;
    assert!(response.complete && response.body.len() == SIZE, "{} {:?}", response.status, response.headers);
    assert_eq!(outcome(&response), "fill");
}

#[tokio::test]
async fn who_has_no_place_among_the_fills_gets_one_of_those_who_have_most() {
    for greedy in [&[GREEDY, GREEDY, GREEDY, GREEDY], &[GREEDY, GREEDY, GREEDY_TOO, GREEDY_TOO]] {
        let (registry, gate, slow, quick) = slow_registry(5).await;
        let mirror = Settings::of(&registry).config("limits.fills = 4\nlimits.fill_wait = \"60s\"").start().await;
        let mut streams = Vec::new();
        for (from, blob) in greedy.iter().zip(&slow) {
            streams.extend(begin(&mirror, *from, std::slice::from_ref(blob), &[]).await);
        }
        let path = format!("/v2/library/slow/blobs/{}", slow[4]);
        let fifth = get(&mirror, GREEDY, &path);
        let honest = async {
            tokio::join!(is_given(&mirror, HONEST, &quick[0]), is_given(&mirror, HONEST_TOO, &quick[1]));
            // Nobody was passed on without a place, and who gave his up goes on where he was.
            assert!(mirror.metrics().await.contains("\nmirror_fills_unplaced_total 0\n"));
            gate.open();
        };
        let (fifth, ()) = tokio::join!(fifth, honest);
        assert!(fifth.complete);
        for (n, stream) in streams.into_iter().enumerate() {
            let rest = stream.finish().await;
            assert!(rest.complete && noise(600 + n as u64, SIZE)[1000..] == rest.body[..], "blob {n}");
        }
    }
}

#[tokio::test]
async fn who_gave_his_place_up_and_gets_none_in_time_is_passed_on_or_told() {
    for relays in [true, false] {
        let (registry, gate, slow, quick) = slow_registry(2).await;
        // Two places; beside them three connections for what is passed on, or none.
        let connections = if relays { "connections = 8" } else { "connections = 3" };
        let lines = "limits.fills = 2\nlimits.fill_wait = \"1s\"";
        let mirror = Settings::of(&registry).config(lines).upstream(connections).start().await;
        let streams = begin(&mirror, GREEDY, &slow, &[]).await;
        // It holds the place that it gets.
        let held = Gate::new();
        registry.rule(Rule::on(Match::blob(&quick[0]).get()).stall_after(90_000, &held));
        let connection = Connection::open_from(HONEST, mirror.address).await;
        let path = format!("/v2/library/app/blobs/{}", quick[0]);
        let mut honest = connection.send("GET", &path, &[]).await.expect("an answer");
        honest.read_exactly(1000).await;
        while !mirror.metrics().await.contains("\nmirror_fills_unplaced_total 1\n") {
            tokio::task::yield_now().await;
        }
        held.open();
        assert!(honest.finish().await.complete);
        gate.open();
        let mut complete = 0;
        for (n, stream) in streams.into_iter().enumerate() {
            let rest = stream.finish().await;
            let right = noise(600 + n as u64, SIZE);
            assert!(right[1000..].starts_with(&rest.body), "{relays}: blob {n}");
            assert!(!rest.complete || rest.body.len() == SIZE - 1000, "{relays}: blob {n}");
            complete += usize::from(rest.complete);
        }
        assert!(complete == 2 || !relays && complete == 1, "{relays}: {complete}");
    }
}

#[tokio::test]
async fn who_has_no_place_for_a_question_gets_one_of_those_who_have_most() {
    for kind in ["manifests/1", "tags/list", "HEAD"] {
        let (registry, gate, slow, _) = slow_registry(8).await;
        let image = registry.add_image("library/app", "1", &[noise(710, 1000)]);
        registry.add_referrer("library/app", &image.manifest, "application/vnd.x", noise(711, 10));
        let lines = "limits.fill_wait = \"60s\"";
        let mirror = Settings::of(&registry).config(lines).upstream("connections = 4").start().await;
        let greedy = async {
            let ask = async |n: usize| {
                let connection = Connection::open_from(GREEDY, mirror.address).await;
                let (method, path) = match kind {
                    "HEAD" => ("HEAD", format!("/v2/library/slow/blobs/{}", slow[n])),
                    "tags/list" => ("GET", format!("/v2/library/slow/tags/list?n={}", n + 1)),
                    _ => ("GET", format!("/v2/library/slow/manifests/{n}")),
                };
                connection.send(method, &path, &[]).await.expect("an answer").finish().await.status
            };
            join_all((0..8).map(ask)).await
        };
        let honest = async {
            while registry.requests().len() < if kind == "tags/list" { 1 } else { 4 } {
                tokio::task::yield_now().await;
            }
            for (from, path) in [
                (HONEST, "/v2/library/app/manifests/1".to_owned()),
                (HONEST_TOO, "/v2/library/app/tags/list".to_owned()),
                (HONEST, format!("/v2/library/app/referrers/{}", image.manifest.digest)),
                (HONEST_TOO, format!("/v2/library/app/blobs/{}", image.layers[0].digest)),
            ] {
                assert_eq!(get(&mirror, from, &path).await.status, 200, "{kind}: {path}");
            }
            gate.open();
        };
        let (greedy, ()) = tokio::join!(greedy, honest);
        // They were asked again.
        assert!(greedy.iter().all(|status| [200, 404].contains(status)), "{kind}: {greedy:?}");
    }
}

#[tokio::test]
async fn parts_of_blobs_that_one_client_reads_keep_nobody_from_an_upstream() {
    let (registry, gate, slow, quick) = slow_registry(1).await;
    let lines = "limits.fill_wait = \"60s\"";
    let mirror = Settings::of(&registry).config(lines).upstream("connections = 3").start().await;
    // One for the fill, and one for what is not there yet.
    let parts = begin(&mirror, GREEDY, &slow, &[("Range", "bytes=150000-299999")]).await;
    is_given(&mirror, HONEST, &quick[0]).await;
    gate.open();
    for (n, part) in parts.into_iter().enumerate() {
        let rest = part.finish().await;
        assert!(rest.complete && noise(600 + n as u64, SIZE)[151_000..] == rest.body[..], "blob {n}");
    }
}
