//! What our own mirror says on its admin listener: bytes received from upstreams, fills in flight. And
//! what it is told there: to forget an image.
//!
//! Two series of one page; a mirror that is not ours, or not there, is no error but says nothing.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use crate::oci::ImageName;

const RECEIVED: &str = "mirror_upstream_received_bytes_total";
const FILLS: &str = "mirror_fills_in_flight";
/// How much of the page is read, in bytes.
const MAX_PAGE: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a mirror may take to delete what it forgot.
const DELETING: Duration = Duration::from_secs(60);

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

/// Makes the mirror forget an image, and delete what nothing leads to then.
///
/// # Errors
/// What the mirror said instead, for people.
pub(super) async fn forget(admin: &Url, image: &ImageName) -> Result<(), String> {
    let images = json!({ "images": [image.to_string()] });
    for (act, order) in [("forget", images.to_string()), ("gc", "{}".to_owned())] {
        let asked = tokio::time::timeout(DELETING, ask(admin, &format!("POST /api/v1/{act}"), &order)).await;
        match asked {
            Ok(Some((200, _))) => {}
            Ok(Some((status, said))) => return Err(format!("{act} was answered with {status}: {}", said.trim())),
            Ok(None) => return Err("no mirror of ours answers there".to_owned()),
            Err(_) => return Err(format!("{act} took longer than {DELETING:?}")),
        }
    }
    Ok(())
}

async fn metrics(admin: &Url) -> Option<String> {
    let (status, page) = ask(admin, "GET /metrics", "").await?;
    (status == 200).then_some(page)
}

/// The status and the body of an answer. HTTP/1.0, so that its end is the end of the connection.
async fn ask(admin: &Url, what: &str, body: &str) -> Option<(u16, String)> {
    let (host, port) = (admin.host_str()?, admin.port_or_known_default()?);
    let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.ok()?;
    let (method, path) = what.split_once(' ')?;
    let path = format!("{}{path}", admin.path().trim_end_matches('/'));
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nX-Registry-Mirror: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(MAX_PAGE).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, page) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, page.to_owned()))
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
