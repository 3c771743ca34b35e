//! What is counted, as it is after restarts, after kills, and over the turns of hours.

use super::*;
use crate::clock::ManualClock;
use crate::metrics::RequestKind;
use crate::oci::RegistryName;
use crate::outcome::Outcome;

const NOON: u64 = 1_700_049_600_000;

struct Site {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Site {
    fn new() -> Site {
        Site { folder: tempfile::tempdir().expect("a folder"), clock: Arc::new(ManualClock::at(Timestamp(NOON))) }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("usage")
    }

    fn open(&self) -> (Arc<Metrics>, Usage) {
        let metrics = Arc::new(Metrics::new([docker()]));
        let usage = Usage::open(self.place(), metrics.clone(), self.clock.clone());
        (metrics, usage)
    }
}

fn docker() -> RegistryName {
    "docker.io".parse().expect("a name")
}

fn serve(metrics: &Metrics, outcome: Outcome, bytes: u64) {
    metrics.request(metrics.place(Some(&docker())), RequestKind::Blob, outcome, 200);
    metrics.sent(metrics.place(Some(&docker())), outcome, bytes);
}

fn fetch(metrics: &Metrics, bytes: u64, seconds: u64) {
    metrics.upstream_received("docker.io", bytes, Duration::from_secs(seconds));
    serve(metrics, Outcome::Fill, bytes);
}

#[test]
fn what_was_counted_is_there_after_a_restart_and_after_a_kill() {
    let site = Site::new();
    let (metrics, usage) = site.open();
    fetch(&metrics, 1000, 1);
    serve(&metrics, Outcome::Hit, 3000);
    usage.write();
    let before = usage.document();
    assert_eq!((before.of_all_time.requests["hit"], before.of_all_time.bytes["hit"]), (1, 3000));
    assert_eq!((before.of_all_time.fetched_bytes, before.of_all_time.saved_bytes), (1000, 3000));
    assert_eq!((before.of_all_time.hit_ratio, before.of_all_time.hit_ratio_of_bytes), (Some(0.5), Some(0.75)));
    serve(&metrics, Outcome::Stale, 1);
    // Nobody writes what came last: that is a kill.
    drop(usage);
    let (metrics, usage) = site.open();
    let after = usage.document();
    assert_eq!((after.of_all_time, after.hours), (before.of_all_time, before.hours));
    assert_eq!(after.since_start.requests.values().sum::<u64>(), 0);
    assert_eq!(after.since_start.hit_ratio, None);
    serve(&metrics, Outcome::Join, 500);
    let now = usage.document();
    assert_eq!(
        (now.since_start.bytes["join"], now.of_all_time.bytes["join"], now.of_all_time.bytes["hit"]),
        (500, 500, 3000)
    );
    assert_eq!(now.counted_since_at.millis(), NOON);
}

#[test]
fn time_saved_is_what_the_upstream_would_have_taken_at_its_rate_of_that_day() {
    let site = Site::new();
    let (metrics, usage) = site.open();
    // Of an upstream that has sent nothing nobody knows how fast it is.
    serve(&metrics, Outcome::Hit, 1_000_000);
    assert_eq!(usage.document().of_all_time.saved_seconds, 0);
    fetch(&metrics, 1000, 10);
    serve(&metrics, Outcome::Hit, 5000);
    assert_eq!(usage.document().since_start.saved_seconds, 50);
    usage.write();
    let (metrics, usage) = site.open();
    serve(&metrics, Outcome::Hit, 100);
    assert_eq!(usage.document().of_all_time.saved_seconds, 51, "the rate outlives a restart");
    site.clock.advance(Duration::from_secs(24 * 3600));
    fetch(&metrics, 1000, 1);
    serve(&metrics, Outcome::Revalidated, 1000);
    assert_eq!(usage.document().of_all_time.saved_seconds, 52, "another day has another rate");
    // Fetched ahead, for nobody yet: that is no time saved.
    metrics.upstream_received("docker.io", 2000, Duration::from_secs(2));
    assert_eq!(usage.document().of_all_time.saved_seconds, 50);
}

#[test]
fn there_are_24_hours_and_what_is_older_is_in_the_totals_only() {
    let site = Site::new();
    let (metrics, usage) = site.open();
    for hour in 1..=30_u64 {
        serve(&metrics, Outcome::Hit, hour);
        usage.write();
        site.clock.advance(Duration::from_secs(3600));
    }
    let told = usage.document();
    let bytes: Vec<u64> = told.hours.iter().map(|hour| hour.used.bytes["hit"]).collect();
    assert_eq!(bytes, (8..=30).chain([0]).collect::<Vec<_>>());
    assert_eq!(told.of_all_time.bytes["hit"], (1..=30).sum::<u64>());
    assert!(std::fs::metadata(site.place().join("ring.json")).expect("written").len() < 16 << 10);
    let (_, usage) = site.open();
    assert_eq!(usage.document().hours, told.hours);
}

#[test]
fn a_clock_that_was_set_back_takes_no_hour_twice() {
    let site = Site::new();
    let (metrics, usage) = site.open();
    site.clock.advance(Duration::from_secs(7200));
    serve(&metrics, Outcome::Hit, 1);
    usage.write();
    let back = Arc::new(ManualClock::at(Timestamp(NOON)));
    let metrics = Arc::new(Metrics::new([docker()]));
    let usage = Usage::open(site.place(), metrics.clone(), back);
    serve(&metrics, Outcome::Hit, 2);
    let told = usage.document();
    assert_eq!(told.hours.iter().map(|hour| hour.used.bytes["hit"]).sum::<u64>(), 2);
    assert_eq!(told.of_all_time.bytes["hit"], 3);
}

#[test]
fn a_damaged_ring_is_begun_anew_and_never_a_failed_start() {
    let site = Site::new();
    std::fs::create_dir_all(site.place()).expect("made");
    let ring = site.place().join("ring.json");
    let many = r#"{"begun":0,"sum":{"requests":{},"sent":{},"received":0,"saved_ms":0}},"#.repeat(25);
    let begin = r#""since":1,"total":{"requests":{},"sent":{},"received":5,"saved_ms":0},"hours":["#;
    for damaged in [
        String::new(),
        "{".to_owned(),
        "\0".repeat(4096),
        "[".repeat(100_000),
        "x".repeat(LONGEST as usize + 1),
        format!("{{\"version\":2,{begin}],\"rates\":{{}}}}"),
        format!("{{\"version\":1,{begin}{}],\"rates\":{{}}}}", many.trim_end_matches(',')),
    ] {
        std::fs::write(&ring, &damaged).expect("written");
        let (metrics, usage) = site.open();
        assert_eq!(usage.document().of_all_time.fetched_bytes, 0);
        serve(&metrics, Outcome::Hit, 7);
        usage.write();
        let (_, usage) = site.open();
        assert_eq!(usage.document().of_all_time.bytes["hit"], 7);
    }
}

#[test]
fn a_ring_that_cannot_be_written_is_tried_again() {
    let site = Site::new();
    std::fs::write(site.place(), "in the way").expect("written");
    let (metrics, usage) = site.open();
    serve(&metrics, Outcome::Hit, 7);
    usage.write();
    std::fs::remove_file(site.place()).expect("removed");
    usage.write();
    let (_, usage) = site.open();
    assert_eq!(usage.document().of_all_time.bytes["hit"], 7);
}
