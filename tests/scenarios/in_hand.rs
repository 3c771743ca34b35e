//! Large answers that clients do not take: they are their own trouble, and bounded.

use bytes::Bytes;
use scripted_registry::client::Connection;
use scripted_registry::{Match, Registry, Rule};

use crate::support::mirror::{Settings, TestMirror};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// More than the kernel takes for a client who does not read.
const LARGE: usize = 7 << 20;

fn index(number: usize) -> String {
    let padding = "x".repeat(LARGE);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"n":"{number}","x":"{padding}"}}}}"#
    )
}

/// Waits until large bodies are in memory, or none.
async fn are_in_memory(mirror: &TestMirror, some: bool) {
    loop {
        let metrics = mirror.metrics().await;
        let bytes = metrics.lines().find_map(|line| line.strip_prefix("mirror_bodies_used_bytes ")?.parse().ok());
        let bytes: usize = bytes.expect("a metric");
        if (bytes >= LARGE) == some {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lists_that_one_client_does_not_take_are_refused_to_him_alone() {
    let registry = Registry::start().await;
    let digest = registry.add_manifest("library/app", &["1"], Bytes::from(index(0)), INDEX);
    let paths: Vec<String> =
        (0..3).map(|number| format!("/v2/library/app/referrers/{digest}?artifactType=a%2Fb{number}")).collect();
    let of_type = |request: &scripted_registry::Recorded| request.path.contains("/referrers/");
    registry.rule(Rule::on(Match::when(of_type)).answer(200, INDEX, index(1)));
    let mirror = TestMirror::of(&registry).await;
    let greedy = || Connection::open_narrow(mirror.address, 4096);
    let mut held = Vec::new();
    for path in [&paths[0], &paths[1], &paths[1], &paths[0]] {
        let stream = greedy().await.send("GET", path, &[]).await.expect("an answer");
        assert_eq!(stream.status, 200, "what he has in hand he may have again");
        held.push(stream);
    }
    let refused = greedy().await.send("GET", &paths[2], &[]).await.expect("an answer").finish().await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(String::from_utf8_lossy(&refused.body).contains("UNAVAILABLE"));
    // No body is in memory for who wants none, and what is stored goes from its file.
    assert_eq!(mirror.head(&paths[2]).await.status, 200);
    let manifest = format!("/v2/library/app/manifests/{digest}");
    for _ in 0..2 {
        assert!(mirror.get(&manifest).await.complete);
    }
    let honest = Connection::open_from([127, 0, 0, 12], mirror.address).await;
    let whole = honest.send("GET", &paths[2], &[]).await.expect("an answer").finish().await;
    assert!(whole.status == 200 && whole.complete && whole.body == index(1));
    drop(held);
    while !mirror.metrics().await.contains("\nmirror_entries{table=\"answers_untaken\"} 0\n") {
        tokio::task::yield_now().await;
    }
    // What is remembered of them has its part of the budget.
    are_in_memory(&mirror, true).await;
    assert!(mirror.get(&paths[2]).await.complete);
}

#[tokio::test]
async fn a_large_manifest_costs_no_memory_while_a_client_takes_it_and_one_that_cannot_be_stored_does() {
    let registry = Registry::start().await;
    let large: Vec<_> = (0..6)
        .map(|n| registry.add_manifest("library/app", &[&format!("t{n}")], Bytes::from(index(n)), INDEX))
        .collect();
    for is_stored in [true, false] {
        let most = if is_stored { "1GB" } else { "1MB" };
        let config = format!("store.max_size = \"{most}\"\nstore.min_free = \"0\"");
        let mirror = Settings::of(&registry).config(&config).start().await;
        let mut unread = Vec::new();
        for (number, digest) in large.iter().enumerate() {
            let path = format!("/v2/library/app/manifests/{digest}");
            let connection = Connection::open_narrow(mirror.address, 4096).await;
            let stream = connection.send("GET", &path, &[]).await.expect("an answer");
            assert_eq!(stream.status, if is_stored || number < 2 { 200 } else { 503 }, "{number} of {is_stored}");
            are_in_memory(&mirror, !is_stored).await;
            unread.push(stream);
        }
        let first = unread.remove(0).finish().await;
        assert!(first.complete && first.body == index(0));
    }
}

#[tokio::test]
async fn lists_that_nobody_takes_make_way_for_who_takes_his() {
    let registry = Registry::start().await;
    let digest = registry.add_manifest("library/app", &["1"], Bytes::from(index(0)), INDEX);
    let path = |number: u8| format!("/v2/library/app/referrers/{digest}?artifactType=a%2Fb{number}");
    let of_type = |request: &scripted_registry::Recorded| request.path.contains("/referrers/");
    registry.rule(Rule::on(Match::when(of_type)).answer(200, INDEX, index(1)));
    let mirror = TestMirror::of(&registry).await;
    // Half of 128 MiB and what is at hand besides.
    let mut deaf = Vec::new();
    for number in 0..=10 {
        let connection = Connection::open_narrow_from([127, 0, 0, 60 + number], mirror.address, 4096).await;
        let stream = connection.send("GET", &path(number), &[]).await.expect("an answer");
        deaf.push((stream.status, stream));
    }
    let untaken = async || -> Option<usize> {
        let metrics = mirror.metrics().await;
        let line = "mirror_bodies_part_used_bytes{part=\"untaken\"} ";
        metrics.lines().find_map(|told| told.strip_prefix(line)?.parse().ok())
    };
    while untaken().await.is_none_or(|bytes| bytes < LARGE) {
        tokio::task::yield_now().await;
    }
    let honest = Connection::open_from([127, 0, 0, 12], mirror.address).await;
    let whole = honest.send("GET", &path(50), &[]).await.expect("an answer").finish().await;
    assert!(whole.status == 200 && whole.complete && whole.body == index(1), "{whole:?}");
    drop(deaf);
}
