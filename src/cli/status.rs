//! `registry-mirror status`: how the daemon is doing.

use std::time::Duration;

use super::client::{At, Remote};
use super::talk::clear;
use super::{Exit, show};
use crate::documents::{Endpoint, EndpointState, Error, FillStatus, Mode, Status, UpstreamStatus, counted};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look again every two seconds
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let remote = Remote::find(&args.at)?;
    loop {
        let said = remote.get::<Status>("status")?;
        if args.watch && !args.at.json {
            clear()?;
        }
        said.print(args.at.json, described)?;
        if !args.watch {
            return Ok(Exit::Done);
        }
        std::thread::sleep(EVERY);
    }
}

fn described(status: &Status) -> String {
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
        format!("  filling    {}", status.fills.len()),
    ];
    lines.extend(status.fills.iter().map(fill));
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

fn fill(fill: &FillStatus) -> String {
    let total = fill.size_bytes.map_or_else(|| "?".to_owned(), show::size);
    let FillStatus { repository, digest, written_bytes: written, readers, .. } = fill;
    format!("    {repository} {} {} of {total}, {readers} reading", show::short(digest), show::size(*written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{LastError, Moment, Pulls};

    #[test]
    fn every_address_is_told_with_what_is_wrong_and_what_is_left() {
        let up = Endpoint {
            url: "https://a.example/".to_owned(),
            state: EndpointState::Up,
            asked_again_at: None,
            last_error: None,
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
