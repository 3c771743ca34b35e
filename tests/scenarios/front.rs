//! What is at the address of the mirror itself: a page for browsers, the specification's error for clients.

use std::path::Path;
use std::process::Command;

use scripted_registry::{Registry, client};
use serde_json::Value;

use crate::support::mirror::TestMirror;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

#[tokio::test]
async fn a_browser_gets_the_page_with_the_address_that_it_asked_for_and_nobody_else_does() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let browser = [("Host", "mirror.example:5000"), ("Accept", BROWSER)];
    let page = mirror.get_with("/", &browser).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("vary")), (Some("nosniff"), Some("accept")));
    assert_eq!(page.header("cache-status"), Some("registry-mirror; detail=local"));
    let text = String::from_utf8(page.body.to_vec()).expect("text");
    for line in [
        "\"registry-mirrors\": [\n    \"http://mirror.example:5000\"",
        "[host.\"http://mirror.example:5000\"]",
        "location = \"mirror.example:5000/docker.io\"",
        "insecure = true",
        "docker pull mirror.example:5000/docker.io/library/alpine:3",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let head = client::head(mirror.address, "/", &browser).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(text.len().to_string().as_str())));
    let hostile = [("Host", "\"'><img/src=x>&"), ("Accept", BROWSER)];
    let text = String::from_utf8(mirror.get_with("/", &hostile).await.body.to_vec()).expect("text");
    assert!(!text.contains("img") && text.contains("http://mirror.example"), "{text}");
    for (path, accept) in [("/", "*/*"), ("/", "application/json"), ("/v1/", BROWSER), ("/page.js", BROWSER)] {
        let answer = mirror.get_with(path, &[("Accept", accept)]).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{path} {accept}");
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(said["errors"][0]["code"], "NAME_UNKNOWN", "{path} {accept}");
    }
    let posted = client::post(mirror.address, "/", &browser, "x").await;
    assert_eq!(posted.status, 405);
    assert_eq!(registry.requests().len(), 0, "nobody is asked for it");
}

/// All files below a folder, by their paths there.
fn files(folder: &Path, below: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder.join(below)).expect("a folder").map(|entry| entry.expect("an entry"));
    let found = entries.flat_map(|entry| {
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            return files(folder, &path);
        }
        vec![(path, std::fs::read_to_string(entry.path()).expect("text"))]
    });
    found.collect()
}

#[tokio::test]
async fn the_page_shows_what_setup_writes() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    // Most clients read no address of IPv6: the page says what name it writes in its place.
    for (host, mirror_address) in
        [("mirror.example:5000", "http://mirror.example:5000"), ("[::1]:1", "http://localhost:1")]
    {
        let page = mirror.get_with("/", &[("Host", host), ("Accept", BROWSER)]).await;
        let page = String::from_utf8(page.body.to_vec()).expect("text");
        for client in ["docker", "containerd", "podman", "k3s", "rke2", "buildkit"] {
            let root = tempfile::tempdir().expect("a folder");
            let mut setup = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
            setup.args(["setup", client, "--apply", "--mirror", mirror_address, "--root"]).arg(root.path()).env_clear();
            assert!(setup.output().expect("it runs").status.success(), "{client}");
            for (path, text) in files(root.path(), "etc") {
                let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("# Written by")).collect();
                let shown = format!("<pre tabindex=\"0\">{}</pre>", lines.join("\n").trim());
                assert!(page.contains(&format!("<p>In <code>/{path}</code>")), "{client} {path}: {page}");
                assert!(page.contains(&shown), "{client}: {shown}: {page}");
            }
        }
    }
}
