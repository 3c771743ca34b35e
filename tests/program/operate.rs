//! The commands that ask a running daemon, as a shell sees them: what is said where, and the exit code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use scripted_registry::{Image, Match, Registry, Rule, noise};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// A daemon in front of a scripted registry as `docker.io`, with one image for each platform.
pub(super) struct Site {
    daemon: Child,
    pub(super) folder: TempDir,
    pub(super) admin: String,
    pub(super) registry: Registry,
    pub(super) amd64: Image,
    arm64: Image,
    // The registry runs on it, so it ends last.
    runtime: tokio::runtime::Runtime,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What a command left: exit code, stdout, stderr.
type Ran = (i32, String, String);

impl Site {
    pub(super) fn start() -> Site {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start());
        let shared = noise(1, 50_000);
        let amd64 = registry.add_image("library/app", "amd64", &[shared.clone(), noise(2, 2000)]);
        let arm64 = registry.add_image("library/app", "arm64", &[shared, noise(3, 3000)]);
        registry.add_index("library/app", "1", &[(&amd64, "amd64"), (&arm64, "arm64")]);
        registry.add_image("library/other", "2", &[noise(4, 1000)]);
        let folder = tempfile::tempdir().expect("a folder");
        let config =
            format!("store.min_free = \"0\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n", registry.url());
        std::fs::write(folder.path().join("mirror.toml"), config).expect("writes");
        let (daemon, admin) = serve(folder.path());
        Site { daemon, folder, admin, registry, amd64, arm64, runtime }
    }

    pub(super) fn kill_and_start_again(&mut self) {
        self.daemon.kill().expect("runs");
        self.daemon.wait().expect("ended");
        (self.daemon, self.admin) = serve(self.folder.path());
    }

    /// Ends the daemon as a service manager does.
    pub(super) fn stop(&mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.daemon), rustix::process::Signal::TERM)
            .expect("it runs");
        self.daemon.wait().expect("it ends");
    }

    /// Nobody answers any more where the registry was.
    pub(super) fn stop_upstream(&mut self) {
        self.runtime.block_on(self.registry.stop());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("store/admin.sock")
    }

    /// Runs a command against the daemon.
    pub(super) fn run(&self, line: &str) -> Ran {
        run(&format!("{line} --admin unix:{}", self.socket().display()), "")
    }

    /// The same with `--json`; stdout has to be one document.
    pub(super) fn json(&self, line: &str) -> (i32, Value) {
        let (code, out, err) = self.run(&format!("{line} --json"));
        (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out:?} {err:?}")))
    }

    pub(super) fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!(code, 0, "{line}: {out} {err}");
        out
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    }
}

/// A daemon with the store and the configuration in this folder, and its admin address.
fn serve(folder: &Path) -> (Child, String) {
    let mut daemon = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["-c".as_ref(), folder.join("mirror.toml").as_os_str()])
        .args(["--store".as_ref(), folder.join("store").as_os_str()])
        .env_remove("NOTIFY_SOCKET")
        .env_remove("RUNTIME_DIRECTORY")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let admin = admin_address(&mut daemon);
    (daemon, format!("http://{admin}"))
}

/// The address behind `admin` in what a starting daemon logs; the rest of its log is read and dropped.
fn admin_address(daemon: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(daemon.stderr.take().expect("piped")).lines();
    let found = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, rest) = line.split_once("\"admin\":\"[")?;
        rest.split([']', ',']).next()?.parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    found.expect("the daemon says where its admin listener is")
}

/// Runs a command with an environment of its own, and this on its stdin.
pub(super) fn run(line: &str, stdin: &str) -> Ran {
    let mut child = Command::new(BINARY)
        .args(line.split(' '))
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // It may end without reading it.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("ends by itself"), text(output.stdout), text(output.stderr))
}

/// The commands that take an image, with one.
const ABOUT_IMAGES: [&str; 9] = [
    "inspect app:1",
    "pull app:1",
    "ready app:1",
    "pin app:1",
    "unpin app:1",
    "forget app:1",
    "freeze app:1",
    "unfreeze app:1",
    "history app:1",
];
const ABOUT_ALL: [&str; 5] = ["images", "gc", "verify", "status", "healthcheck"];
const APP: &str = "docker.io/library/app:1";

#[test]
fn what_is_pulled_ahead_is_listed_looked_at_and_counted() {
    let site = Site::start();
    let (code, out, err) = site.run("pull app:1 --platform linux/amd64");
    assert_eq!((code, out.starts_with(&format!("{APP}: complete, 3 blobs, "))), (0, true), "{out} {err}");
    assert!(err.starts_with(&format!("{APP} is sha256:")), "talk goes to stderr: {err}");

    let (code, out, err) = site.run("pull app:1 --all-platforms --json");
    assert_eq!((code, err.as_str()), (0, ""));
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    assert_eq!(events.first().map(|event| &event["event"]), Some(&"resolved".into()));
    let last = events.last().expect("events");
    assert_eq!((&last["event"], &last["complete"], &last["blobs"]), (&"done".into(), &true.into(), &5.into()));

    let out = site.ok("images");
    assert!(out.starts_with("IMAGE ") && out.contains(APP) && out.contains("complete"), "{out}");
    let (code, images) = site.json("images");
    assert_eq!((code, &images["images"][0]["image"]), (0, &APP.into()));
    let out = site.ok("inspect app:1");
    assert!(out.contains("linux/amd64: complete") && out.contains("linux/arm64: complete"), "{out}");
    let (code, detail) = site.json("inspect app:1");
    assert_eq!((code, detail["images"].as_array().map(Vec::len)), (0, Some(2)));

    let out = site.ok("history app:1");
    assert!(out.contains(detail["digest"].as_str().expect("a digest")) && out.contains("docker.io"), "{out}");
    let (code, history) = site.json("history app:1");
    assert_eq!((code, &history["history"][0]["digest"]), (0, &detail["digest"]));

    let out = site.ok("status");
    assert!(out.contains("online") && out.contains(" in 8 blobs, of "), "{out}");
    let (code, status) = site.json("status");
    assert_eq!((code, &status["store"]["blobs"]), (0, &8.into()));
    assert_eq!(site.ok("healthcheck"), "ready\n");
    assert_eq!(
        site.json("healthcheck"),
        (0, serde_json::json!({ "document": "healthcheck", "version": 1, "ready": true }))
    );
}

#[test]
fn a_status_that_is_watched_comes_again_and_again() {
    let site = Site::start();
    let mut watching = Command::new(BINARY)
        .args(["status", "--watch", "--json", "--admin", &site.admin])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(watching.stdout.take().expect("piped")).lines().take(2);
    let seen: Vec<Value> = lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect();
    watching.kill().expect("our child");
    watching.wait().expect("our child");
    assert_eq!(seen.iter().filter(|status| status["program"].is_string()).count(), 2);
}

#[test]
fn ready_says_what_is_missing_and_fetches_it() {
    let site = Site::start();
    let (code, out, _) = site.run("ready app:1");
    assert_eq!((code, out), (5, format!("{APP}: not ready: it was never pulled through this mirror\n")));

    // One layer does not come.
    let layer = site.amd64.layers.last().expect("layers").digest;
    site.registry.rule(Rule::on(Match::blob(&layer)).refuse(403));
    assert_eq!(site.run("pull app:1 --platform linux/amd64").0, 3);
    let (code, out, _) = site.run("ready app:1 --platform linux/amd64");
    assert!(code == 5 && out.contains(&format!("\n  missing {layer} ")), "{code} {out}");
    let (code, said) = site.json("ready app:1 --platform linux/amd64");
    assert_eq!((code, &said["ready"]), (5, &false.into()));
    assert_eq!(said["images"][0]["completeness"]["missing"][0]["digest"], layer.to_string());

    // Talk about fetching does not get into the document.
    site.registry.clear_rules();
    let list = site.write("compose.yaml", "services:\n  app:\n    image: app:1\n  other:\n    image: \"other:2\"\n");
    let (code, said) = site.json(&format!("ready -f {list} --fetch --platform linux/amd64"));
    assert_eq!((code, &said["ready"], said["images"].as_array().map(Vec::len)), (0, &true.into(), Some(2)));
    let out = site.ok(&format!("ready -f {list} --platform linux/amd64"));
    assert!(out.starts_with(&format!("{APP}: ready, ")), "{out}");
    let (code, out, _) = run(&format!("ready -f - --platform linux/arm64 --admin {}", site.admin), "# mine\napp:1\n");
    assert_eq!((code, out.starts_with(&format!("{APP}: not ready: "))), (5, true), "{out}");
    let lacks = site.arm64.manifest.digest.to_string();
    assert!(out.contains(&lacks), "{out}");
}

#[test]
fn what_cannot_be_pulled_ends_with_a_code_that_says_why() {
    let site = Site::start();
    let (code, out, err) = site.run("pull other:2 nothing:here");
    assert_eq!(code, 3, "{out} {err}");
    assert!(out.contains("docker.io/library/nothing:here: not complete"), "{out}");
    assert!(err.contains("error: docker.io/library/nothing:here: "), "{err}");
    assert_eq!(site.run("pull nothing:here").0, 5);
    assert_eq!(site.run("pull app:1 --platform linux/s390x").0, 5);
    site.registry.rule(Rule::on(Match::blobs().get()).flip_last_byte());
    assert_eq!(site.run("pull app:1 --platform linux/amd64").0, 6);
    site.registry.clear_rules();
    site.registry.rule(Rule::on(Match::repository("library/private")).refuse(403));
    assert_eq!(site.run("pull private:1").0, 7);
}

#[test]
fn pins_frozen_tags_and_what_is_forgotten_are_told_apart() {
    let site = Site::start();
    site.ok("pull other:2");
    let other = "docker.io/library/other:2";
    assert_eq!(site.ok("pin other:2"), format!("{other}: pinned\n"));
    assert_eq!(site.json("pin other:2").0, 0);
    assert_eq!(site.json("images").1["images"][0]["pinned"], true);
    assert_eq!(site.run("unpin other:2 app:1").0, 3);
    assert_eq!(site.run("unpin other:2").1, format!("{other}: was not pinned\n"));
    let (code, said) = site.json("unpin other:2");
    assert_eq!((code, &said["images"][0]["changed"]), (5, &false.into()));

    let out = site.ok("freeze other:2");
    assert!(out.starts_with(&format!("{other}: frozen to sha256:")), "{out}");
    assert!(site.ok("why other:2").contains("the tag is frozen to one manifest, which is stored"));
    let one = out.trim_end().rsplit(' ').next().expect("a digest");
    assert_eq!(site.json(&format!("freeze other:2 --to {one}")).1["digest"], *one);
    assert_eq!(site.ok("unfreeze other:2"), format!("{other}: follows upstream again\n"));
    assert_eq!(
        site.json("unfreeze other:2"),
        (5, serde_json::json!({ "document": "unfreeze", "version": 1, "image": other, "changed": false }))
    );
    assert_eq!(site.run("freeze app:1").0, 5);

    site.ok("pin other:2");
    site.ok("freeze other:2");
    let forgotten = site.ok("forget other:2");
    assert_eq!(forgotten, format!("{other}: forgotten, no longer pinned, no longer frozen\n"));
    assert_eq!(site.json("forget other:2").0, 5);
    let would = site.ok("gc --dry-run");
    assert!(would.starts_with("3 blobs with ") && would.ends_with(" would be deleted\n"), "{would}");
    let (code, garbage) = site.json("gc");
    assert_eq!((code, &garbage["blobs"], &garbage["failed"]), (0, &3.into(), &0.into()));
    assert_eq!(site.ok("gc"), "0 blobs with 0 B deleted\n");
}

#[test]
fn verify_finds_what_is_damaged_and_fetches_it_again() {
    let site = Site::start();
    site.ok("pull app:1 --platform linux/amd64");
    assert!(site.ok("verify").ends_with(" 0 damaged, 0 repaired\n"));
    let layer = site.amd64.layers.last().expect("layers").digest;
    let damage = || {
        let path = site.folder.path().join("store/blobs/sha256").join(layer.hex());
        let mut bytes = std::fs::read(&path).expect("a blob");
        *bytes.last_mut().expect("bytes") ^= 1;
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, bytes).expect("written");
    };
    damage();
    let (code, out, err) = site.run("verify --repair --rate 50MB");
    assert_eq!((code, out.contains(&format!("{layer}: damaged, fetched again\n"))), (0, true), "{out} {err}");
    damage();
    let (code, out, _) = site.run("verify --json");
    let last: Value = serde_json::from_str(out.lines().last().expect("lines")).expect("JSON");
    assert_eq!((code, &last["event"], &last["damaged"]), (6, &"done".into(), &1.into()));
    let (code, out, _) = site.run("ready app:1 --platform linux/amd64");
    assert!(code == 5 && out.contains(&layer.to_string()), "it is not served any more: {out}");
}

#[test]
fn what_nobody_can_mean_is_refused_with_2() {
    let site = Site::start();
    for command in ABOUT_IMAGES {
        let line = command.replace("app:1", "Not/An/Image");
        let (code, out, err) = site.run(&line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.contains("an image is written [HOST/]NAME[:TAG][@DIGEST]"), "{line}: {err}");
    }
    for command in ABOUT_IMAGES.into_iter().chain(ABOUT_ALL) {
        assert_eq!(site.run(&format!("{command} --jsno")).0, 2, "{command}");
    }
    let empty = site.write("empty", "# nothing\n");
    let unset = site.write("unset.yaml", "image: app:${NOT_SET}\n");
    for (line, why) in [
        ("freeze app:1 --to latest".to_owned(), "--to"),
        ("pull app:1 --platform vax".to_owned(), "vax"),
        ("verify --rate fast".to_owned(), "--rate"),
        ("ready -f /nonexistent/list".to_owned(), "/nonexistent/list: cannot be read"),
        (format!("ready -f {empty}"), "names no image"),
        (format!("ready -f {unset}"), "NOT_SET"),
        ("history app@sha256:0000000000000000000000000000000000000000000000000000000000000000".to_owned(), "a tag"),
    ] {
        let (code, out, err) = site.run(&line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(why), "{line}: {err}");
    }
    let (code, _, err) = run("status --admin ftp://mirror.example", "");
    assert!(code == 2 && err.contains("neither http://ADDRESS:PORT, https://NAME nor unix:PATH"), "{err}");
}

#[test]
fn what_is_not_known_is_not_found() {
    let site = Site::start();
    for command in ["inspect app:1", "history app:1", "freeze app:1"] {
        let (code, out, err) = site.run(command);
        assert_eq!((code, out.as_str()), (5, ""), "{command}");
        assert!(err.contains(&format!("get it with: registry-mirror pull {APP}")), "{err}");
    }
}

#[test]
fn without_a_daemon_every_command_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = folder.path().join("nobody.sock");
    for command in ABOUT_IMAGES.into_iter().chain(ABOUT_ALL) {
        let (code, out, err) = run(&format!("{command} --admin unix:{}", nobody.display()), "");
        assert_eq!((code, out.as_str()), (4, ""), "{command}");
        assert!(err.contains(&format!("unix:{}: ", nobody.display())), "{command}: {err}");
        assert!(err.contains("start one with: registry-mirror serve; or say where it is with --admin"), "{err}");
    }
}

#[test]
fn a_bundle_is_made_and_taken_in_by_the_daemon_that_is_named() {
    let site = Site::start();
    site.ok("pull other:2");
    let bundle = site.folder.path().join("other.tar").display().to_string();
    let (code, said) = site.json(&format!("export --all -o {bundle}"));
    assert_eq!((code, &said["images"][0]), (0, &"docker.io/library/other:2".into()));
    let (code, said) = site.json(&format!("import {bundle}"));
    assert_eq!(
        (code, &said["bundles"][0]["images"][0]["fate"], &said["bundles"][0]["known"]),
        (0, &"ready".into(), &3.into())
    );
    let nobody = site.folder.path().join("nobody.sock");
    for command in [format!("export --all -o {bundle}"), format!("import {bundle}")] {
        let (code, _, err) = run(&format!("{command} --admin unix:{}", nobody.display()), "");
        assert!(code == 4 && err.contains("no daemon answers"), "{code} {err}");
    }
}

#[test]
fn a_daemon_that_gives_no_sign_of_life_is_given_up_with_4() {
    // The system takes connections for it; it does nothing with them.
    let hung = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hung.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("x.tar");
    std::fs::write(&bundle, "x").expect("writes");
    let bundles = [format!("export --all -o {0}.new", bundle.display()), format!("import {}", bundle.display())];
    for command in ABOUT_IMAGES.into_iter().chain(ABOUT_ALL).chain(bundles.iter().map(String::as_str)) {
        let (code, out, err) = run(&format!("{command} --timeout 50ms --admin http://{address}"), "");
        assert_eq!((code, out.as_str()), (4, ""), "{command}: {err}");
        assert!(err.contains(&format!("http://{address} has given no sign of life for 50ms")), "{command}: {err}");
        assert!(err.contains("--timeout waits for longer"), "{command}: {err}");
    }
}

#[test]
fn an_answer_that_stops_half_way_is_given_up_when_the_daemon_is_dead() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        BufReader::new(&stream).read_line(&mut String::new()).expect("a request");
        let line = "{\"document\":\"verify\",\"version\":1,\"event\":\"progress\",\"checked\":1,\"of\":2,\"checked_bytes\":3}\n";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nContent-Length: 1000\r\n\r\n";
        stream.write_all(format!("{head}{line}").as_bytes()).expect("writes");
        (listener, stream)
    });
    let (code, _, err) = run(&format!("verify --timeout 50ms --admin http://{address}"), "");
    drop(daemon.join().expect("answers"));
    assert!(code == 4 && err.contains("no sign of life"), "{code} {err}");
}

#[test]
fn an_answer_that_takes_long_is_waited_for_while_the_daemon_lives() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let daemon = std::thread::spawn(move || {
        let (mut slow, _) = listener.accept().expect("a connection");
        // Not before it was asked three times whether it lives.
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a request");
            assert_eq!(line, "GET /livez HTTP/1.1\r\n");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n").expect("writes");
        }
        let body = r#"{"document":"gc","version":1,"dry_run":false,"blobs":7,"size_bytes":0,"failed":0,"unreadable":0,"damaged":[],"digests":[]}"#;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        slow.write_all(format!("{head}{body}").as_bytes()).expect("writes");
        (listener, slow)
    });
    // Long enough for a thread to answer on a busy machine.
    let (code, out, err) = run(&format!("gc --timeout 1s --admin http://{address}"), "");
    drop(daemon.join().expect("answers"));
    assert_eq!((code, out.as_str()), (0, "7 blobs with 0 B deleted\n"), "{err}");
}

#[test]
fn the_daemon_of_a_configuration_is_found_with_c_and_by_the_environment() {
    let site = Site::start();
    let admin = site.admin.strip_prefix("http://").expect("an address");
    let config = format!("[server]\nadmin = [\"{admin}\"]\nadmin_socket = \"off\"\n");
    let config = site.write("elsewhere.toml", &config);
    let (code, out, err) = run(&format!("healthcheck -c {config}"), "");
    assert_eq!((code, out.as_str()), (0, "ready\n"), "{err}");
    let (code, _, err) = run("healthcheck -c /nonexistent/mirror.toml", "");
    assert!(code == 2 && err.contains("/nonexistent/mirror.toml"), "{code} {err}");
    let found = Command::new(BINARY)
        .args(["status", "--json"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("REGISTRY_MIRROR_SERVER_ADMIN", admin)
        .output()
        .expect("runs");
    assert_eq!(found.status.code(), Some(0), "{}", String::from_utf8_lossy(&found.stderr));
}

#[test]
fn the_daemon_is_found_by_its_socket_and_by_its_configuration() {
    let site = Site::start();
    let (code, out, err) = run(&format!("healthcheck --admin unix:{}", site.socket().display()), "");
    assert_eq!((code, out.as_str()), (0, "ready\n"), "{err}");
    let config = site.write("found.toml", &format!("[server]\nadmin_socket = \"{}\"\n", site.socket().display()));
    let found = Command::new(BINARY)
        .arg("healthcheck")
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("REGISTRY_MIRROR_CONFIG", config)
        .output()
        .expect("runs");
    assert_eq!((found.status.code(), found.stdout.as_slice()), (Some(0), b"ready\n".as_slice()));
}

#[test]
fn shells_and_manuals_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&format!("completions {shell}"), "");
        assert_eq!((code, out.contains("healthcheck")), (0, true), "{shell}");
    }
    assert_eq!(run("completions tcsh", "").0, 2);
    let (code, out, _) = run("man", "");
    assert_eq!((code, out.contains(".TH registry-mirror 1")), (0, true), "{out}");
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(&format!("man {}", folder.path().display()), "").0, 0);
    for command in ABOUT_IMAGES.into_iter().chain(ABOUT_ALL) {
        let name = command.split(' ').next().expect("a word");
        assert!(page(folder.path(), name).contains(name), "{name}");
    }
}

fn page(folder: &Path, command: &str) -> String {
    std::fs::read_to_string(folder.join(format!("registry-mirror-{command}.1"))).expect("a page")
}
