//! What our own mirror says on its admin listener: bytes received from upstreams, fills in flight.
//!
//! Two series of one page; a mirror that is not ours, or not there, is no error but says nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

const RECEIVED: &str = "mirror_upstream_received_bytes_total";
const FILLS: &str = "mirror_fills_in_flight";
/// How much of the page is read, in bytes.
const MAX_PAGE: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of content received from all upstreams so far.
pub(super) async fn upstream_bytes(admin: &Url) -> Option<u64> {
    read(admin, RECEIVED).await
}

/// Fills that have not ended.
pub(super) async fn fills_in_flight(admin: &Url) -> Option<u64> {
    read(admin, FILLS).await
}

async fn read(admin: &Url, series: &str) -> Option<u64> {
    let page = tokio::time::timeout(PATIENCE, metrics(admin)).await.ok()??;
    sum(&page, series)
}

/// The page of metrics. HTTP/1.0, so that its end is the end of the connection.
async fn metrics(admin: &Url) -> Option<String> {
    let (host, port) = (admin.host_str()?, admin.port_or_known_default()?);
    let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.ok()?;
    let path = format!("{}/metrics", admin.path().trim_end_matches('/'));
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(MAX_PAGE).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, page) = answer.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200")).then(|| page.to_owned())
}

/// The series over all its labels. A page of ours that lacks it has counted nothing yet.
fn sum(page: &str, series: &str) -> Option<u64> {
    let ours = page.lines().any(|line| line.starts_with("# TYPE mirror_"));
    let samples = page.lines().filter_map(|line| line.strip_prefix(series)).filter(|rest| rest.starts_with(['{', ' ']));
    let values = samples.map(|rest| rest.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()));
    if ours { values.sum() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_over_its_labels() {
        let page = "# TYPE mirror_upstream_received_bytes counter\n\
                    mirror_upstream_received_bytes_total{upstream=\"docker.io\"} 40\n\
                    mirror_upstream_received_bytes_total{upstream=\"ghcr.io\"} 2\n\
                    mirror_upstream_received_bytes_total_else 7\n";
        assert_eq!(sum(page, RECEIVED), Some(42));
        assert_eq!(sum("# TYPE mirror_requests counter\n", RECEIVED), Some(0));
        assert_eq!(sum("# TYPE go_goroutines gauge\ngo_goroutines 7\n", RECEIVED), None, "another program's page");
        assert_eq!(sum("", RECEIVED), None);
    }
}
