//! Who acts on a running daemon, and what a command shows to whom.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use registry_mirror::documents::{self, Changed, Code, Error, Pinned};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");
const TOKEN: &str = "a token of 24 characters";

/// Runs a command without any environment; its exit code, stdout and stderr.
pub(super) fn run(line: &str) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    let output = command.args(line.split(' ')).env_clear().env("HOME", "/nonexistent").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A daemon with a token, and what it logs until it is terminated.
pub(super) struct Daemon {
    pub(super) child: Child,
    pub(super) admin: SocketAddr,
    log: Option<std::thread::JoinHandle<Vec<Value>>>,
}

impl Daemon {
    fn start(folder: &Path) -> Daemon {
        Daemon::start_with(folder, "")
    }

    /// With these lines more in its file.
    pub(super) fn start_with(folder: &Path, lines: &str) -> Daemon {
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
        let config = format!(
            "store.min_free = \"0\"\nserver.admin_token = \"file:{}\"\n{lines}",
            folder.join("token").display()
        );
        std::fs::write(folder.join("mirror.toml"), config).unwrap();
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "-c"])
            .arg(folder.join("mirror.toml"))
            .arg("--store")
            .arg(folder.join("store"))
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let admin = loop {
            let line: Value = serde_json::from_str(&lines.next().expect("it starts").unwrap()).unwrap();
            let admin = line["admin"].as_str().map(|list| list.trim_matches(['[', ']']).parse().unwrap());
            log.push(line);
            if let Some(admin) = admin {
                break admin;
            }
        };
        let rest = std::thread::spawn(move || {
            log.extend(lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()));
            log
        });
        Daemon { child, admin, log: Some(rest) }
    }

    pub(super) fn terminate(mut self) -> Vec<Value> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_act_is_in_the_log_with_who_did_it() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let (socket, token) = (folder.path().join("store/admin.sock"), folder.path().join("token"));
    let (socket, token, address) = (socket.display(), token.display(), format!("http://{}", daemon.admin));
    std::fs::write(folder.path().join("wrong"), "another token of some length").unwrap();
    for (line, expected) in [
        (format!("gc --admin unix:{socket}"), 0),
        (format!("gc --dry-run --admin {address} --admin-token {token}"), 0),
        // The file of the daemon says where the token is.
        (format!("verify --admin {address} -c {}", folder.path().join("mirror.toml").display()), 0),
        (format!("gc --admin {address}"), 1),
        (format!("gc --admin {address} --admin-token {}", folder.path().join("wrong").display()), 1),
        (format!("images --admin {address}"), 0),
    ] {
        let (code, _, err) = run(&line);
        assert_eq!(code, expected, "{line}: {err}");
        assert!(expected == 0 || err.contains("token"), "{line}: {err}");
    }
    let log = daemon.terminate();
    let acts: Vec<_> = log
        .iter()
        .filter(|line| line["message"] == "act")
        .map(|line| (line["act"].as_str().unwrap(), line["by"].as_str().unwrap().to_owned()))
        .collect();
    let me = format!("uid={}", rustix::process::getuid().as_raw());
    assert_eq!(acts, [("gc", me), ("gc", "token".to_owned()), ("verify", "token".to_owned())]);
    let all = serde_json::to_string(&log).unwrap();
    assert!(!all.contains(TOKEN) && !all.contains("another token"), "no token is logged");
}

#[test]
fn the_log_says_why_a_request_is_refused_and_nothing_that_was_written_into_a_path_of_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let (_, out, _) = run(&format!("status --json --admin http://{}", daemon.admin));
    let status: Value = serde_json::from_str(&out).unwrap();
    let pull = status["listening"][0].as_str().unwrap().replace("http://", "");
    let asked = ["/", "/v2/Library/app/manifests/1", "/v2/library/app/blobs/none", "/v1/"];
    let answers = asked.map(|path| super::metrics::get_at(&pull, path, "").1);
    let log = daemon.terminate();
    let told: Vec<_> = log.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(told.len(), asked.len());
    for ((path, answer), line) in asked.iter().zip(answers).zip(told) {
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let shown = if *path == "/" { Value::from("/") } else { Value::Null };
        assert_eq!((&line["path"], &line["error"]), (&shown, &answer["errors"][0]["message"]), "{line}");
    }
}

/// The head of the request that a command sends to whoever listens on an address.
fn asked(arguments: impl FnOnce(SocketAddr) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = arguments(listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        String::from_utf8(head).unwrap()
    });
    run(&line);
    asked.join().unwrap()
}

#[test]
fn a_command_shows_the_token_on_loopback_only_to_whom_somebody_named() {
    let folder = tempfile::tempdir().unwrap();
    let (token, config) = (folder.path().join("token"), folder.path().join("mirror.toml"));
    std::fs::write(&token, TOKEN).unwrap();
    let (token, config) = (token.display(), config.display());
    let configured = |address: SocketAddr| {
        let text =
            format!("[server]\nadmin = [\"{address}\"]\nadmin_socket = \"off\"\nadmin_token = \"file:{token}\"\n");
        std::fs::write(folder.path().join("mirror.toml"), text).unwrap();
    };
    let shown = format!("authorization: Bearer {TOKEN}\r\n");
    // Whoever listens there while the daemon is down.
    let head = asked(|address| {
        configured(address);
        format!("status -c {config}")
    });
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    let head = asked(|address| {
        configured(address);
        format!("status -c {config} --admin-token {token}")
    });
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    let head = asked(|address| format!("status -c {config} --admin http://{address}"));
    assert!(head.contains(&shown), "{head}");
    let head = asked(|address| format!("status --admin http://localhost:{} --admin-token {token}", address.port()));
    assert!(head.contains(&shown), "{head}");
    let head = asked(|address| format!("status --admin http://{address}"));
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
}

#[test]
fn a_token_that_can_be_guessed_or_is_not_there_is_an_error_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (config, token) = (folder.path().join("mirror.toml"), folder.path().join("token"));
    std::fs::write(&token, "fifteen bytes..\n").unwrap();
    for (typed, why) in [
        (format!("file:{}", token.display()), "less than 16 bytes"),
        ("file:/nonexistent/token".to_owned(), "cannot be read"),
        ("fifteen bytes..".to_owned(), "a secret stands in a file of its own"),
    ] {
        std::fs::write(&config, format!("server.admin_token = \"{typed}\"\n")).unwrap();
        for command in ["check", "serve -c"] {
            let (code, out, err) = run(&format!("{command} {}", config.display()));
            assert_eq!((code, out.as_str()), (2, ""), "{command}: {err}");
            assert!(err.contains(why) && !err.contains("fifteen"), "{command}: {err}");
        }
    }
}

#[test]
fn what_a_daemon_says_moves_no_cursor_and_passes_for_no_line_of_ours() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let evil = "app\u{1b}[2J\u{9b}31m\u{202e}\n  docker.io/library/other:1: pinned";
    let pinned = documents::line(&Pinned {
        images: vec![Changed { image: evil.to_owned(), changed: true, stored: None, unpinned: None, unfrozen: None }],
    });
    let error = documents::line(&Error::new(Code::Failed, evil).with_hint(evil));
    let daemon = std::thread::spawn(move || {
        for body in [&pinned, &pinned, &error] {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    let obeyed = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let (code, out, err) = run(&format!("pin app:1 --admin http://{address}"));
    assert_eq!((code, obeyed(&out), out.lines().count()), (0, false, 1), "{out:?} {err:?}");
    assert!(out.contains(r"app\u{1b}[2J\u{9b}31m\u{202e}\u{a}  docker.io"), "{out}");
    let (code, out, _) = run(&format!("pin app:1 --json --admin http://{address}"));
    assert_eq!((code, obeyed(&out), out.lines().count()), (0, false, 1), "{out:?}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["images"][0]["image"], evil, "scripts get what was said");
    let (code, _, err) = run(&format!("pin app:1 --admin http://{address}"));
    assert_eq!((code, obeyed(&err), err.lines().count()), (1, false, 2), "{err:?}");
    daemon.join().unwrap();
}

#[test]
fn a_hang_up_ends_no_daemon_that_has_no_certificates_to_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    kill_process(Pid::from_child(&daemon.child), Signal::HUP).unwrap();
    let (code, _, err) = run(&format!("healthcheck --admin http://{}", daemon.admin));
    assert_eq!(code, 0, "{err}");
    daemon.terminate();
}

#[test]
fn a_file_that_is_no_bundle_is_told_so_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (folder.path().join("notes"), folder.path().join("store"));
    for content in ["my password is canary\n".repeat(100), "my password is canary".to_owned(), String::new()] {
        std::fs::write(&file, content).unwrap();
        let (code, out, err) = run(&format!("import {} --store {}", file.display(), store.display()));
        assert_eq!((code, out.as_str()), (6, ""), "{err}");
        assert!(err.contains("notes: the bundle cannot be understood") && !err.contains("canary"), "{err}");
    }
}

#[test]
fn an_address_at_which_something_else_answers_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        for body in ["", "{}", "{}\n", "hello"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            while !head.next().unwrap().unwrap().is_empty() {}
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..4 {
        let (code, out, err) = run(&format!("pull redis --admin http://{at}"));
        assert!(code == 1 && out.is_empty() && err.starts_with("error: "), "{code} {out} {err}");
    }
    answers.join().unwrap();
}
