//! `registry-mirror status`: how the daemon is doing.

use std::time::{Duration, Instant};

use super::client::{At, Remote};
use super::talk::{clear, print_fitted};
use super::{Exit, show};
use crate::documents::{
    BucketStatus, Endpoint, EndpointState, Error, FillStatus, Mode, Status, UpstreamStatus, counted,
};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);
/// The columns of a bar.
const BAR: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look again every second, with what goes on and how fast
    #[arg(long)]
    watch: bool,
    /// Only the names of upstreams, one a line; for completions
    #[arg(long, hide = true, conflicts_with_all = ["json", "watch"])]
    names: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let remote = Remote::find(&args.at)?;
    if args.names {
        let upstreams = remote.get::<Status>("status")?.document.upstreams;
        upstreams.iter().try_for_each(|upstream| super::print(&upstream.host))?;
        return Ok(Exit::Done);
    }
    let mut before: Option<(Status, Instant)> = None;
    loop {
        let (said, at) = (remote.get::<Status>("status")?, Instant::now());
        if args.watch && !args.at.json {
            clear()?;
        }
        let since = before.as_ref().map(|(status, earlier)| Since { status, took: at - *earlier });
        if args.at.json {
            said.print(true, |_| String::new())?;
        } else {
            print_fitted(&described(&said.document, since))?;
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        before = Some((said.document, at));
        std::thread::sleep(EVERY);
    }
}

/// What was seen some time earlier.
#[derive(Clone, Copy)]
struct Since<'a> {
    status: &'a Status,
    took: Duration,
}

impl Since<'_> {
    /// Bytes a second.
    fn rate(&self, earlier: u64, now: u64) -> u64 {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        now.saturating_sub(earlier).saturating_mul(1000) / millis
    }

    fn of(&self, fill: &FillStatus) -> Option<u64> {
        let same = |known: &&FillStatus| known.digest == fill.digest && known.repository == fill.repository;
        let earlier = self.status.fills.iter().find(same)?;
        Some(self.rate(earlier.written_bytes, fill.written_bytes))
    }
}

fn described(status: &Status, since: Option<Since<'_>>) -> String {
    let Status { requests, bytes, store, .. } = status;
    let mut lines = vec![
        format!(
            "registry-mirror {}, {}, since {}",
            status.program,
            status.mode.as_str(),
            show::moment(status.started_at)
        ),
        format!(
            "  hits       {} of {}, {} of bytes",
            show::percent(requests.hit_ratio),
            counted(requests.total, "request"),
            show::percent(bytes.hit_ratio)
        ),
        format!(
            "  served     {}, fetched {}, saved {}",
            show::size(bytes.total),
            show::size(status.fetched_bytes),
            show::size(status.saved_bytes)
        ),
        format!(
            "  store      {} in {}, of {}",
            show::size(store.used_bytes),
            counted(store.blobs, "blob"),
            show::size(store.budget_bytes)
        ),
    ];
    if let Some(BucketStatus { name, trouble, backlog, conditions_hold, leases }) = &status.bucket {
        let trouble = trouble.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        let lies = if *conditions_hold == Some(false) { ", which does not keep to conditions" } else { "" };
        let leases = leases.map_or("no leases".to_owned(), |held| format!("{} held", counted(held, "lease")));
        lines.push(format!("  bucket     {name}{lies}{trouble}, {} to go up, {leases}", counted(*backlog, "object")));
    }
    if let Some(since) = since {
        let (out, up) = (since.status.bytes.total, since.status.fetched_bytes);
        let [out, up] = [since.rate(out, bytes.total), since.rate(up, status.fetched_bytes)].map(show::size);
        lines.push(format!("  now        {out}/s to clients, {up}/s from upstreams"));
    }
    let problems =
        status.problems.iter().map(|problem| format!("  {:<9}  {}", problem.verdict.as_str(), problem.told()));
    lines.extend(problems);
    lines.push(format!("  filling    {}", status.fills.len()));
    lines.extend(status.fills.iter().map(|one| fill(one, since)));
    lines.push("  upstreams".to_owned());
    let (quiet, told): (Vec<_>, Vec<_>) = status.upstreams.iter().partition(|upstream| is_quiet(upstream));
    let mut rows = Vec::new();
    for upstream in told {
        for (at, endpoint) in upstream.endpoints.iter().enumerate() {
            let host = if at == 0 { upstream.host.clone() } else { String::new() };
            let fills = if at == 0 { fills(upstream) } else { String::new() };
            rows.push(vec![format!("    {host}"), endpoint.url.clone(), format!("{}{fills}", fares(endpoint))]);
        }
    }
    if !rows.is_empty() {
        lines.push(show::table(&rows));
    }
    let quiet: Vec<_> = quiet.into_iter().map(|upstream| upstream.host.as_str()).collect();
    if !quiet.is_empty() {
        let asked = if status.mode == Mode::Offline { "never asked" } else { "up as far as is known" };
        lines.push(format!("    {}: {asked}", quiet.join(", ")));
    }
    lines.join("\n")
}

/// Whether there is nothing to tell of an upstream.
fn is_quiet(upstream: &UpstreamStatus) -> bool {
    let up = |endpoint: &Endpoint| {
        endpoint.state == EndpointState::Up && endpoint.last_error.is_none() && endpoint.pulls.is_none()
    };
    upstream.filling + upstream.waiting == 0 && upstream.endpoints.iter().all(up)
}

/// How an address fares, in words.
fn fares(endpoint: &Endpoint) -> String {
    let mut said = match endpoint.state {
        EndpointState::Up => "up".to_owned(),
        EndpointState::Down => "down".to_owned(),
        EndpointState::Probing => "down, being tried".to_owned(),
        EndpointState::Limited => "limits our rate".to_owned(),
    };
    if let Some(at) = endpoint.asked_again_at {
        said += &format!(", asked again {}", show::ahead(at));
    }
    if let Some(error) = &endpoint.last_error {
        said += &format!(", last error {} {}", error.class, show::ago(error.failed_at));
    }
    if let Some(pulls) = &endpoint.pulls {
        said += &format!(
            ", {} of {} left until {}",
            pulls.left,
            counted(pulls.limit, "pull"),
            show::moment(pulls.resets_at)
        );
    }
    said
}

fn fills(upstream: &UpstreamStatus) -> String {
    match (upstream.filling, upstream.waiting) {
        (0, 0) => String::new(),
        (filling, 0) => format!(", {filling} filling"),
        (filling, waiting) => format!(", {filling} filling, {waiting} waiting"),
    }
}

fn fill(fill: &FillStatus, since: Option<Since<'_>>) -> String {
    let total = fill.size_bytes.map_or_else(|| "?".to_owned(), show::size);
    let FillStatus { repository, digest, written_bytes: written, readers, .. } = fill;
    let mut line = format!("    {repository} {}", show::short(digest));
    if let (Some(_), Some(size)) = (since, fill.size_bytes) {
        line += &format!(" {}", bar(*written, size));
    }
    line += &format!(" {} of {total}, {readers} reading", show::size(*written));
    if let Some(rate) = since.and_then(|since| since.of(fill)) {
        line += &format!(", {}/s", show::size(rate));
        let left = fill.size_bytes.map(|size| size.saturating_sub(*written)).filter(|_| rate > 0);
        line += &left.map(|left| format!(", {} left", show::seconds(left.div_ceil(rate)))).unwrap_or_default();
    }
    line
}

/// How much of a whole there is.
fn bar(part: u64, whole: u64) -> String {
    let filled = usize::try_from(part.saturating_mul(BAR as u64) / whole.max(1)).unwrap_or(BAR).min(BAR);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{LastError, Moment, Pulls, Share, StoreStatus};
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn a_watched_fill_has_a_bar_a_rate_and_the_time_that_is_left() {
        let digest = Digest::of(Algorithm::Sha256, b"a layer");
        let fill = |written_bytes| FillStatus {
            repository: "ghcr.io/acme/api".to_owned(),
            digest,
            written_bytes,
            size_bytes: Some(40 << 20),
            readers: 7,
        };
        let status = |written: u64| Status {
            program: "0.1.0".to_owned(),
            started_at: Moment::from_millis(0),
            mode: Mode::Online,
            requests: Share::default(),
            bytes: Share { total: written * 7, ..Share::default() },
            fetched_bytes: written,
            saved_bytes: 0,
            fills: vec![fill(written)],
            upstreams: Vec::new(),
            store: StoreStatus::default(),
            problems: Vec::new(),
            bucket: None,
            listening: Vec::new(),
        };
        let (before, now) = (status(10 << 20), status(20 << 20));
        let since = Since { status: &before, took: Duration::from_secs(2) };
        let text = described(&now, Some(since));
        let line = format!(
            "    ghcr.io/acme/api {} ██████████░░░░░░░░░░ 20.0 MiB of 40.0 MiB, 7 reading, 5.0 MiB/s, 4s left",
            show::short(&digest)
        );
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(text.contains("  now        35.0 MiB/s to clients, 5.0 MiB/s from upstreams"), "{text}");
        assert!(!described(&now, None).contains(['█', '░']));
        for (part, whole, expected) in [(0, 0, 0), (1, 3, 6), (9, 9, BAR), (u64::MAX, 1, BAR)] {
            assert_eq!(bar(part, whole).matches('█').count(), expected, "{part} of {whole}");
        }
    }

    #[test]
    fn every_address_is_told_with_what_is_wrong_and_what_is_left() {
        let up = Endpoint {
            url: "https://a.example/".to_owned(),
            state: EndpointState::Up,
            asked_again_at: None,
            last_error: None,
            answered_at: None,
            latency_seconds: None,
            pulls: Some(Pulls { limit: 100, left: 76, resets_at: Moment::from_millis(1_700_000_000_000) }),
        };
        assert_eq!(fares(&up), "up, 76 of 100 pulls left until 2023-11-14T22:13:20Z");
        let error = Some(LastError { class: "unavailable".to_owned(), failed_at: Moment::from_millis(u64::MAX) });
        let state = EndpointState::Down;
        let down = Endpoint {
            state,
            asked_again_at: Some(Moment::from_millis(0)),
            last_error: error,
            pulls: None,
            ..up.clone()
        };
        assert_eq!(fares(&down), "down, asked again with the next request, last error unavailable just now");
        let quiet = Endpoint { pulls: None, ..up.clone() };
        let host = "a.example".to_owned();
        let mut upstream = UpstreamStatus { host, filling: 0, waiting: 0, endpoints: vec![quiet.clone(), quiet] };
        assert!(is_quiet(&upstream));
        upstream.waiting = 2;
        assert!(!is_quiet(&upstream));
        assert_eq!(fills(&upstream), ", 0 filling, 2 waiting");
        upstream = UpstreamStatus { waiting: 0, endpoints: vec![up, down], ..upstream };
        assert!(!is_quiet(&upstream));
    }
}
