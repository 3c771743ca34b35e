//! Bundles that are small on the wire and large once they are understood.

use std::io::Write as _;

use scripted_registry::Registry;
use scripted_registry::client;

use crate::daemon::Process;

/// A tar with these entries, compressed.
fn bundle(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).expect("memory");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar.into_inner().expect("memory")).expect("memory");
    gzip.finish().expect("memory")
}

/// As much JSON as a file of a bundle may have: `begin`, `piece` again and again, `end`.
fn filled(begin: &str, piece: &str, end: &str) -> Vec<u8> {
    const LONGEST: usize = 32 << 20;
    let pieces = (LONGEST - begin.len() - end.len() - 1) / piece.len();
    format!("{begin}{}{end}", piece.repeat(pieces).trim_end_matches(',')).into_bytes()
}

#[tokio::test]
async fn a_small_bundle_takes_no_large_memory() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path(), &registry.url(), "");
    let before = process.most_memory();
    let layout: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let odd_layout = filled(r#"{"imageLayoutVersion":"1.0.0","x":["#, "[],", "]}");
    let description = filled(r#"{"version":1,"x":["#, "0,", "]}");
    let newer = filled(r#"{"version":2,"x":["#, "[],", "]}");
    let annotated = r#"{"mediaType":"","digest":"","size":1,"annotations":{"a":""}},"#;
    let index = filled(r#"{"schemaVersion":2,"manifests":["#, annotated, "]}");
    for entries in [
        vec![("oci-layout", odd_layout.as_slice())],
        vec![layout, ("mirror-bundle.json", &description)],
        vec![layout, ("mirror-bundle.json", &newer)],
        vec![layout, ("index.json", &index)],
    ] {
        let bundle = bundle(&entries);
        assert!(bundle.len() < 256 << 10, "{}", bundle.len());
        let consent = [("Host", "localhost"), ("X-Registry-Mirror", "1")];
        let answer = client::post(folder.path().join("admin.sock"), "/api/v1/import", &consent, &bundle).await;
        assert!([200, 422].contains(&answer.status), "{:?}", answer.body);
        let grown = process.most_memory() - before;
        assert!(grown < 128 << 20, "{} MiB for {}", grown >> 20, entries[entries.len() - 1].0);
    }
}
