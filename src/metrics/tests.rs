//! The names that dashboards depend on.

use super::*;

fn docker_hub() -> RegistryName {
    "docker.io".parse().expect("valid")
}

#[test]
fn events_become_series_with_the_promised_names() {
    let metrics = Metrics::new([docker_hub()]);
    metrics.request(metrics.place(Some(&docker_hub())), RequestKind::Blob, Outcome::Hit, 200);
    metrics.request(metrics.place(None), RequestKind::Ping, Outcome::Local, 200);
    metrics.sent(metrics.place(Some(&docker_hub())), Outcome::Hit, 10);
    metrics.upstream_request("docker.io", "ok");
    metrics.upstream_received("docker.io", 7, Duration::from_millis(500));
    metrics.upstream_up(&docker_hub(), "registry-1.docker.io", true);
    metrics.upstream_budget(&docker_hub(), "registry-1.docker.io", 100, 76, 1_700_000_000);
    metrics.fill_started();
    metrics.fill_started();
    metrics.fill_ended(FillResult::Stored);
    metrics.error("store");
    metrics.time_to_first_byte(Outcome::Hit, Duration::from_millis(2));
    metrics.sent_by(SentBy::Sendfile);
    metrics.store(1, 2);
    metrics.store_may_hold(3);
    metrics.index_rebuilt();
    metrics.tag_moved(true);
    metrics.evicted(5);
    let text = metrics.encode(Format::OpenMetrics);
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
            metrics.request(metrics.place(Some(&name)), RequestKind::Manifest, Outcome::Fill, 200);
            metrics.upstream_request(name.as_str(), "ok");
        }
        metrics.encode(Format::OpenMetrics).lines().count()
    };
    let of_one = series_after(0..1);
    assert_eq!(series_after(1..1_000_000), of_one);
    assert!(metrics.encode(Format::OpenMetrics).contains(r#"upstream="other""#));
}

/// The rules of the Prometheus text format, and what its linter looks at besides: each family has a help and a
/// type in front of its series, once; counters, and they alone, end in `_total`.
fn assert_prometheus(text: &str) {
    let mut families: Vec<(String, String)> = Vec::new();
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a help");
            assert!(!words.is_empty(), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(help.take().as_deref(), Some(name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.iter().all(|(known, _)| known != name), "{name} twice");
            families.push((name.to_owned(), kind.to_owned()));
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().expect("a number");
            let name = series.split('{').next().expect("a name");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
            let (family, kind) = families.last().expect("a head");
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| *name == format!("{family}{suffix}")), "{line} below {family}");
        }
    }
    assert!(families.len() > 30 && text.ends_with('\n'));
}

#[test]
fn the_prometheus_format_keeps_its_rules_and_the_names_of_series() {
    let metrics = Metrics::new([docker_hub()]);
    metrics.request(metrics.place(Some(&docker_hub())), RequestKind::Blob, Outcome::Hit, 200);
    metrics.time_to_first_byte(Outcome::Hit, Duration::from_millis(2));
    metrics.upstream_up(&docker_hub(), "registry-1.docker.io", true);
    let (prometheus, open_metrics) = (metrics.encode(Format::Prometheus), metrics.encode(Format::OpenMetrics));
    assert_prometheus(&prometheus);
    // Both name the same series; what is measured of the process changes meanwhile.
    let series = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(series(&prometheus), series(&open_metrics));
    assert!(open_metrics.ends_with("# EOF\n"));
}

#[test]
fn the_process_has_the_names_of_all_exporters() {
    let text = Metrics::new([]).encode(Format::Prometheus);
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse::<f64>().expect("a number")
    };
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_threads",
    ] {
        assert!(value(name) >= 0.0, "{name}");
    }
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") >= 3.0);
    let written = tempfile::tempfile().and_then(|file| file.metadata()?.modified()).expect("a file of now");
    let now = written.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let started = value("process_start_time_seconds");
    assert!(started <= now + 2.0 && started > now - 86_400.0, "{started} is not before {now}");
}
