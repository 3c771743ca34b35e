//! Fills whose clients hang up, however they had asked, with TLS and without: each gives its place to whoever waits
//! for one.

use std::time::Duration;

use rustls::pki_types::ServerName;
use scripted_registry::{Gate, Match, Registry, Rule, noise};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::mirror::{Settings, TestMirror};
use crate::tls;

/// Longer than anything here takes, so that what hangs fails; and shorter than the wait for a place.
const LONG: Duration = Duration::from_secs(30);

/// How a request for a cold blob is written: its version, and further lines.
const FORMS: [(&str, &str); 6] = [
    ("1.1", ""),
    ("1.0", ""),
    ("1.0", "Connection: keep-alive\r\n"),
    ("1.1", "Range: bytes=5-\r\n"),
    ("1.1", "Range: bytes=-5\r\n"),
    ("1.1", "Range: bytes=0-9,50000-50009\r\nConnection: close\r\n"),
];

/// What a fill does when its client hangs up.
#[derive(Clone, Copy, Debug)]
enum Upstream {
    /// It has not answered yet.
    Silent,
    /// It stands still, after a byte of so many.
    Stalled,
    /// It stands still, and never said how many there are.
    StalledWithoutLength,
}

async fn abandons(
    mirror: &TestMirror,
    registry: &Registry,
    connector: Option<&TlsConnector>,
    seed: u64,
    upstream: Upstream,
    form: (&str, &str),
) {
    let gate = Gate::new();
    let slow = registry.add_blob("library/slow", noise(seed, 100_000));
    let rule = Rule::on(Match::blob(&slow).get());
    registry.rule(match upstream {
        Upstream::Silent => rule.stall_before_headers(&gate),
        Upstream::Stalled => rule.stall_after(1, &gate),
        Upstream::StalledWithoutLength => rule.chunked().stall_after(1, &gate),
    });
    let (version, lines) = form;
    let head = format!("GET /v2/library/slow/blobs/{slow} HTTP/{version}\r\nHost: m\r\n{lines}\r\n");
    let mut stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
    match connector {
        None => {
            stream.write_all(head.as_bytes()).await.expect("sent");
            gate.reached().await;
            stream.set_zero_linger().expect("an option of every socket");
            drop(stream);
        }
        Some(connector) => {
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = connector.connect(name, stream).await.expect("TLS");
            stream.write_all(head.as_bytes()).await.expect("sent");
            gate.reached().await;
            stream.get_ref().0.set_zero_linger().expect("an option of every socket");
            drop(stream);
        }
    }
    let honest = registry.add_blob("library/app", noise(seed + 1, 1000));
    let path = format!("/v2/library/app/blobs/{honest}");
    let asked = async {
        match connector {
            None => {
                let answer = mirror.get(&path).await;
                assert!(answer.complete);
                format!("{} {:?} {}", answer.status, answer.headers, answer.body.len())
            }
            Some(connector) => String::from_utf8_lossy(&tls::get(mirror.address, connector, &path).await).into_owned(),
        }
    };
    let answer = tokio::time::timeout(LONG, asked).await;
    let answer = answer.unwrap_or_else(|_| panic!("{upstream:?}, {form:?}: nobody gave his place up"));
    assert!(answer.contains("200") && answer.contains("detail=fill"), "{upstream:?}, {form:?}: {answer:?}");
    gate.open();
    mirror.settled().await;
}

#[tokio::test]
async fn a_fill_that_was_asked_for_in_whatever_form_gives_its_place_up_when_its_client_hangs_up() {
    let registry = Registry::start().await;
    let config = "limits.fills = 1\nlimits.fill_wait = \"60s\"\n";
    let mirror = Settings::of(&registry).config(config).start().await;
    all_forms(&mirror, &registry, None).await;
    mirror.stop().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, connector) = tls::certified(folder.path());
    let mirror = Settings::of(&registry).config(config).config(&lines).start().await;
    all_forms(&mirror, &registry, Some(&connector)).await;
}

async fn all_forms(mirror: &TestMirror, registry: &Registry, connector: Option<&TlsConnector>) {
    for (number, form) in FORMS.into_iter().enumerate() {
        for (which, upstream) in
            [Upstream::Silent, Upstream::Stalled, Upstream::StalledWithoutLength].into_iter().enumerate()
        {
            // Other blobs with TLS than without.
            let seed = 100 * number as u64 + 10 * which as u64 + if connector.is_some() { 10_000 } else { 0 };
            abandons(mirror, registry, connector, seed, upstream, form).await;
        }
    }
}
