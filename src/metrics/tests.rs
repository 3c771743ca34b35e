//! The names that dashboards depend on.

use super::*;

fn docker_hub() -> RegistryName {
    "docker.io".parse().expect("valid")
}

#[test]
fn events_become_series_with_the_promised_names() {
    let metrics = Metrics::new([docker_hub()]);
    metrics.request(Some(&docker_hub()), RequestKind::Blob, Outcome::Hit, 200);
    metrics.request(None, RequestKind::Ping, Outcome::Local, 200);
    metrics.sent(Some(&docker_hub()), Outcome::Hit, 10);
    metrics.upstream_request("docker.io", "ok");
    metrics.upstream_received("docker.io", 7);
    metrics.upstream_up(&docker_hub(), "registry-1.docker.io", true);
    metrics.upstream_budget(&docker_hub(), "registry-1.docker.io", 100, 76, 1_700_000_000);
    metrics.fill_started();
    metrics.fill_started();
    metrics.fill_ended(FillResult::Stored);
    metrics.error("store");
    metrics.time_to_first_byte(Outcome::Hit, Duration::from_millis(2));
    metrics.sent_by(SentBy::Sendfile);
    metrics.store(1, 2, 3);
    metrics.index_rebuilt();
    metrics.tag_moved(true);
    metrics.evicted(5);
    let text = metrics.encode();
    for line in [
        r#"mirror_requests_total{upstream="docker.io",kind="blob",outcome="hit",status="200"} 1"#,
        r#"mirror_requests_total{upstream="none",kind="ping",outcome="local",status="200"} 1"#,
        r#"mirror_sent_bytes_total{upstream="docker.io",outcome="hit"} 10"#,
        r#"mirror_upstream_requests_total{upstream="docker.io",result="ok"} 1"#,
        r#"mirror_upstream_received_bytes_total{upstream="docker.io"} 7"#,
        r#"mirror_upstream_up{upstream="docker.io",endpoint="registry-1.docker.io"} 1"#,
        r#"mirror_upstream_budget_limit{upstream="docker.io",endpoint="registry-1.docker.io"} 100"#,
        r#"mirror_upstream_budget_left{upstream="docker.io",endpoint="registry-1.docker.io"} 76"#,
        r#"mirror_upstream_budget_reset_timestamp_seconds{upstream="docker.io",endpoint="registry-1.docker.io"} 1700000000"#,
        r#"mirror_fills_total{result="stored"} 1"#,
        r#"mirror_fills_total{result="mismatch"} 0"#,
        "mirror_fills_in_flight 1",
        r#"mirror_errors_total{class="store"} 1"#,
        r#"mirror_time_to_first_byte_seconds_count{outcome="hit"} 1"#,
        r#"mirror_bodies_total{path="sendfile"} 1"#,
        r#"mirror_bodies_total{path="copy"} 0"#,
        "mirror_store_used_bytes 1",
        "mirror_store_blobs 2",
        "mirror_store_budget_bytes 3",
        r#"mirror_tag_moves_total{kind="rollback"} 1"#,
        r#"mirror_tag_moves_total{kind="move"} 0"#,
        "mirror_index_rebuilds_total 1",
        "mirror_evicted_blobs_total 1",
        "mirror_evicted_bytes_total 5",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_million_names_from_outside_make_no_more_series_than_one() {
    let metrics = Metrics::new([docker_hub()]);
    let series_after = |names: std::ops::Range<u32>| {
        for n in names {
            let name: RegistryName = format!("r{n}.example").parse().expect("valid");
            metrics.request(Some(&name), RequestKind::Manifest, Outcome::Fill, 200);
            metrics.upstream_request(name.as_str(), "ok");
        }
        metrics.encode().lines().count()
    };
    let of_one = series_after(0..1);
    assert_eq!(series_after(1..1_000_000), of_one);
    assert!(metrics.encode().contains(r#"upstream="other""#));
}
