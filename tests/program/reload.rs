//! The configuration read again: by the command and by SIGHUP, told to people, scripts, the log and the audit.

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::operators::{Daemon, run};

const CANARY: &str = "canary-of-a-password";

/// Puts lines behind those that the daemon was started with.
fn write(folder: &Path, lines: &str) {
    let file = folder.join("mirror.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let own = text.lines().take(2).collect::<Vec<_>>().join("\n");
    std::fs::write(file, format!("{own}\n{lines}\n")).unwrap();
}

fn reload(folder: &Path, more: &str) -> (i32, String, String) {
    run(&format!("reload{more} --admin unix:{}", folder.join("store/admin.sock").display()))
}

fn metrics(daemon: &Daemon) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(daemon.admin).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Sends the signal and waits until it was obeyed, for the time that it is.
fn hang_up(daemon: &Daemon, result: &str, time: u32) {
    kill_process(Pid::from_child(&daemon.child), Signal::HUP).unwrap();
    until(daemon, &format!("mirror_reloads_total{{result=\"{result}\"}} {time}\n"));
}

fn until(daemon: &Daemon, line: &str) {
    while !metrics(daemon).contains(line) {
        std::thread::yield_now();
    }
}

#[test]
fn the_command_says_what_changed_and_a_bad_file_is_told_as_check_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with(folder.path(), "");
    let file = folder.path().join("mirror.toml");
    let (code, out, err) = reload(folder.path(), "");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "nothing changed\n", ""));
    write(
        folder.path(),
        "log.level = \"debug\"\n[[upstream]]\nhost = \"a.example\"\n[[access.grant]]\nname = \"ci\"\nwho = \"user:ci\"\nmay = \"a.example/**\"",
    );
    let (code, out, err) = reload(folder.path(), "");
    assert_eq!(
        (code, out.as_str()),
        (0, "access.grant ci added\nlog.level changed\nupstream a.example added\n"),
        "{err}"
    );
    for wrong in [
        "cache.tag_tll = \"5m\"",
        "log.level = \"loud\"\ncache.tag_ttl = 5",
        "[[upstream]]\nhost = \"a.example\"\nca = \"/nonexistent\"",
        "[server",
    ] {
        write(folder.path(), wrong);
        let (code, out, err) = reload(folder.path(), "");
        let (checked, _, told) = run(&format!("check {}", file.display()));
        assert_eq!((code, checked, out.as_str()), (2, 2, ""), "{err}");
        let errors = |text: &str| text.split_once("error: ").map(|(_, errors)| errors.to_owned()).unwrap();
        assert_eq!(errors(&err), format!("{}the daemon goes on with the settings that it had\n", errors(&told)));
    }
    let (code, out, _) = reload(folder.path(), " --json");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &said["document"], &said["code"]), (2, &json!("error"), &json!("configuration")));
    write(folder.path(), "server.drain = \"7s\"\nstore.scrub_rate = \"2MiB\"\nlog.level = \"warn\"");
    for _ in 0..2 {
        let (code, out, err) = reload(folder.path(), " --json");
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &said["restart"]), (3, &json!(["server.drain", "store.scrub_rate"])), "{err}");
        for key in ["server.drain", "store.scrub_rate"] {
            assert!(err.contains(&format!("{key} stays as it was until the daemon is restarted\n")), "{err}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(reload(folder.path(), "").0, 2, "a file that is gone is none without settings");
    assert_eq!(run("reload --admin unix:/nonexistent").0, 4);
    drop(daemon);
}

#[test]
fn a_hang_up_does_the_same_and_the_log_and_the_audit_say_who_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit/lines");
    std::fs::create_dir(folder.path().join("audit")).unwrap();
    let own = format!("access.audit = \"{}\"", audit.display());
    let daemon = Daemon::start_with(folder.path(), &own);
    write(folder.path(), &format!("{own}\nlog.level = \"debug\""));
    hang_up(&daemon, "done", 1);
    // Moved away, it is opened anew, also where the file is not valid.
    while !std::fs::read_to_string(&audit).is_ok_and(|lines| lines.ends_with('\n')) {
        std::thread::yield_now();
    }
    std::fs::rename(&audit, folder.path().join("audit/old")).unwrap();
    write(folder.path(), &format!("{own}\nlog.level = \"loud\""));
    hang_up(&daemon, "refused", 1);
    assert_eq!(reload(folder.path(), "").0, 2);
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.path().join("audit").join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    while lines("lines").len() < 2 {
        std::thread::yield_now();
    }
    let (old, new) = (lines("old"), lines("lines"));
    assert_eq!((old.len(), &old[0]["peer"], &old[0]["act"]), (1, &json!("SIGHUP"), &json!("reload")));
    assert_eq!(old[0]["caller"], "SIGHUP");
    let uid = format!("uid={}", rustix::process::getuid().as_raw());
    assert_eq!((new.len(), &new[1]["caller"], &new[1]["act"]), (2, &json!(uid), &json!("reload")));
    // Where it cannot be opened, a line is lost and counted, and nothing else happens.
    std::fs::remove_file(&audit).unwrap();
    std::fs::create_dir(&audit).unwrap();
    hang_up(&daemon, "refused", 3);
    until(&daemon, "mirror_audit_lost_total 1\n");
    let (_, _, told) = run(&format!("check {}", folder.path().join("mirror.toml").display()));
    assert!(!told.contains("access.audit"), "it is not valid: {told}");
    write(folder.path(), &own);
    let (code, _, told) = run(&format!("check {}", folder.path().join("mirror.toml").display()));
    assert!(code == 0 && told.contains("warning: access.audit: ") && told.contains("its lines are lost"), "{told}");
    let nowhere = folder.path().join("none/audit.jsonl");
    write(folder.path(), &format!("access.audit = \"{}\"", nowhere.display()));
    let (_, _, told) = run(&format!("check {}", folder.path().join("mirror.toml").display()));
    assert!(told.contains(&format!("install -d -o USER -m 0700 {}", nowhere.parent().unwrap().display())), "{told}");
    write(folder.path(), &own);
    // A folder that was made anew is another one, and it is written all the same.
    std::fs::remove_dir_all(folder.path().join("audit")).unwrap();
    std::fs::create_dir(folder.path().join("audit")).unwrap();
    write(folder.path(), &format!("{own}\nlog.level = \"debug\""));
    hang_up(&daemon, "done", 2);
    while lines("lines").is_empty() {
        std::thread::yield_now();
    }
    let log = daemon.terminate();
    let by = |message: &str| -> Vec<&str> {
        log.iter().filter(|line| line["message"] == message).filter_map(|line| line["by"].as_str()).collect()
    };
    assert_eq!(by("the settings were read again"), ["SIGHUP"; 2]);
    assert_eq!(by("a setting is taken"), ["SIGHUP"]);
    assert_eq!(by("the settings stay as they were"), ["SIGHUP", &uid, "SIGHUP"]);
    assert!(log.iter().any(|line| line["level"] == "DEBUG"), "as it was told");
}

#[test]
fn what_is_read_again_is_told_without_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("login");
    std::fs::write(&secret, "us:first").unwrap();
    let upstream =
        format!("[[upstream]]\nhost = \"a.example\"\naccess = \"shared\"\nauth = \"file:{}\"", secret.display());
    let daemon = Daemon::start_with(folder.path(), &format!("log.level = \"trace\"\n{upstream}"));
    let mut said = String::new();
    std::fs::write(&secret, format!("us:{CANARY}")).unwrap();
    std::fs::write(folder.path().join("token"), format!("{CANARY}{CANARY}\n")).unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, format!("ann:{CANARY}\n")).unwrap();
    let with_users = format!("log.level = \"trace\"\naccess.htpasswd = \"{}\"\n{upstream}", users.display());
    for (lines, expected) in [
        (format!("log.level = \"trace\"\n{upstream}"), 0),
        (with_users, 2),
        (upstream.replace("file:", &format!("{CANARY}:")), 2),
        (upstream.replace("host", &format!("url = \"https://us:{CANARY}@a.example\"\nhost")), 2),
    ] {
        write(folder.path(), &lines);
        for more in ["", " --json"] {
            let (code, out, err) = reload(folder.path(), more);
            assert_eq!(code, expected, "{out} {err}");
            said.push_str(&(out + &err));
        }
    }
    assert!(said.contains("upstream a.example changed") && said.contains("server.admin_token changed"), "{said}");
    said.push_str(&metrics(&daemon));
    said.extend(daemon.terminate().iter().map(Value::to_string));
    assert!(!said.contains(CANARY));
}

#[test]
fn a_daemon_whose_file_has_another_socket_by_now_is_found_by_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let own = |socket: &str| {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let socket = if socket == "off" { socket.to_owned() } else { path(socket) };
        format!("store.path = \"{}\"\nserver.admin_socket = \"{socket}\"", path("store"))
    };
    let daemon = Daemon::start_with(folder.path(), &own("a.sock"));
    let reload = || run(&format!("reload --json -c {}", folder.path().join("mirror.toml").display()));
    assert_eq!(reload().0, 0);
    for socket in ["b.sock", "off"] {
        write(folder.path(), &own(socket));
        let (code, out, err) = reload();
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &said["restart"]), (3, &json!(["server.admin_socket"])), "{err}");
    }
    daemon.terminate();
    assert_eq!(reload().0, 4, "what it said is no longer so");
}

#[test]
fn the_unit_reloads_by_the_command_that_waits() {
    let unit =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/registry-mirror.service")).unwrap();
    assert!(unit.contains("\nExecReload=/usr/bin/registry-mirror reload\n"), "{unit}");
    let help = Command::new(env!("CARGO_BIN_EXE_registry-mirror")).args(["reload", "--help"]).output().unwrap();
    assert!(help.status.success());
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_once_and_the_right_file_is_taken_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let hash = "$2y$04$abcdefghijklmnopqrstuuJZ3eJg5Ge1tFBkAQk5B8yCcWMz9XEyS";
    std::fs::write(place("users"), format!("ann:{hash}\n")).unwrap();
    std::fs::write(place("secret"), "user:password\n").unwrap();
    let named = format!("file:{}", place("secret").display());
    let lines = format!(
        "access.htpasswd = \"{}\"\n[[upstream]]\nhost = \"a.example\"\n\
         auth = \"{named}\"",
        place("users").display()
    );
    let daemon = Daemon::start_with(folder.path(), "");
    write(folder.path(), &lines);
    let (code, _, err) = reload(folder.path(), "");
    assert_eq!(code, 0, "{err}");
    for name in ["users", "secret", "mirror.toml"] {
        let text = std::fs::read(place(name)).unwrap();
        std::fs::remove_file(place(name)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, place(name), rustix::fs::Mode::RUSR).unwrap();
        let (code, _, err) = reload(folder.path(), "");
        // A credential that cannot be read is a warning: what is public is to be had without.
        let expected = if name == "secret" { 0 } else { 2 };
        assert!(code == expected && err.contains("it is no regular file"), "{name}: {code} {err}");
        std::fs::remove_file(place(name)).unwrap();
        std::fs::write(place(name), text).unwrap();
        let (code, _, err) = reload(folder.path(), "");
        assert_eq!(code, 0, "{name}: {err}");
    }
    drop(daemon);
}
