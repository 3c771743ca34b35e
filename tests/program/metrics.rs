//! Metrics, as Prometheus' own linter reads them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::operate::Site;
use super::requirements::{DEMAND, demanded, find, say};

/// The answer to a GET of `/metrics`: head and body.
fn scrape(site: &Site, accept: &str) -> (String, String) {
    get(site, "/metrics", accept)
}

/// The answer of the admin address to a GET: head and body.
pub(super) fn get(site: &Site, path: &str, accept: &str) -> (String, String) {
    get_at(site.admin.strip_prefix("http://").unwrap(), path, accept)
}

/// The same of whoever is at an address.
pub(super) fn get_at(address: &str, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{accept}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    let Some(promtool) = find("promtool") else {
        assert!(!demanded(), "{DEMAND}=1, but promtool is missing");
        return say("skipped the linter of metrics, promtool is not here");
    };
    let site = Site::start();
    site.ok("pull app:1 --all-platforms");
    let (head, body) = scrape(&site, "");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let mut linter = Command::new(promtool);
    let linter = linter.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut linter = linter.spawn().unwrap();
    linter.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = linter.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn metrics_are_open_metrics_for_who_asks_for_that() {
    let site = Site::start();
    let (head, body) = scrape(&site, "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n") && body.contains("process_resident_memory_bytes "), "{body}");
    let (head, body) = scrape(&site, "Accept: */*\r\n");
    assert!(head.contains("content-type: text/plain; version=0.0.4") && !body.contains("# EOF"), "{head}");
}
