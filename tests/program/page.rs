//! The page: its address with a login, how that gets to a browser, and what it knows after a kill.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use super::operate::Site;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

#[test]
fn the_address_of_the_page_has_a_login_that_is_made_at_the_socket_only() {
    let site = Site::start();
    let out = site.ok("page");
    let (address, login) = out.trim().split_once("/#login=").unwrap();
    assert_eq!((address, login.len()), (site.admin.as_str(), 64), "{out}");
    let (code, page) = site.json("page");
    assert_eq!((code, &page["document"], &page["lasts_seconds"]), (0, &"page".into(), &60.into()));
    assert_ne!(page["address"], out.trim(), "each has a login of its own");
    let (code, out, err) = super::operate::run(&format!("page --admin {}", site.admin), "");
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("token") || err.contains("socket"), "{err}");
}

#[test]
fn the_browser_gets_the_login_in_a_file_and_not_as_an_argument() {
    let site = Site::start();
    let (bin, runtime, seen) =
        (site.folder.path().join("bin"), site.folder.path().join("runtime"), site.folder.path().join("seen"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&runtime).unwrap();
    let opener = bin.join("xdg-open");
    std::fs::write(&opener, format!("#!/bin/sh\necho \"$@\" >{}\n", seen.display())).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = |path: &std::path::Path| {
        let socket = format!("unix:{}", site.folder.path().join("store/admin.sock").display());
        let mut command = Command::new(BINARY);
        command.args(["page", "--open", "--admin", &socket]).env_clear();
        command.env("PATH", path).env("XDG_RUNTIME_DIR", &runtime).output().unwrap()
    };
    let output = open(&bin);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty() && !err.contains("login="), "{err}");
    let file = std::fs::read_to_string(&seen).unwrap();
    let file = std::path::Path::new(file.trim());
    assert!(file.starts_with(&runtime), "{}", file.display());
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let page = std::fs::read_to_string(file).unwrap();
    assert!(page.contains(&format!("url={}/#login=", site.admin)), "{page}");
    std::fs::remove_file(file).unwrap();
    let output = open(&site.folder.path().join("nothing"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && err.contains("registry-mirror page"), "{err}");
    assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 0, "nothing with a login is left");
}

#[test]
fn what_was_counted_and_written_is_there_after_a_kill() {
    let mut site = Site::start();
    site.ok("pull app:1 --all-platforms");
    let usage = |site: &Site| -> Value {
        let answer = super::metrics::get(site, "/api/v1/usage", "");
        serde_json::from_str(&answer.1).unwrap()
    };
    let before = usage(&site);
    let fetched = before["of_all_time"]["fetched_bytes"].as_u64().unwrap();
    assert!(fetched > 50_000, "{before}");
    let ring = site.folder.path().join("store/usage/ring.json");
    let written =
        || std::fs::read_to_string(&ring).is_ok_and(|text| text.contains(&format!("\"received\":{fetched},")));
    while !written() {
        // It takes its time, and asks nothing that changes it.
        site.ok("healthcheck");
    }
    site.kill_and_start_again();
    let after = usage(&site);
    assert_eq!(after["of_all_time"], before["of_all_time"]);
    assert_eq!((&after["hours"], &after["counted_since_at"]), (&before["hours"], &before["counted_since_at"]));
    assert_eq!(after["since_start"]["fetched_bytes"], 0);
    std::fs::write(&ring, "damaged").unwrap();
    site.kill_and_start_again();
    assert_eq!(usage(&site)["of_all_time"]["fetched_bytes"], 0, "begun anew");
}
