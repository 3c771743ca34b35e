//! `check` beside `serve`: what the one refuses the other does, and what the one goes on without the other warns of.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// A folder of its own for each case, with a configuration.
struct Case {
    folder: TempDir,
}

/// Puts files into a case, and gives its configuration.
type Prepare<'a> = &'a dyn Fn(&Case) -> String;

impl Case {
    fn new() -> Case {
        Case { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Runs a command with this configuration; exit code, stdout and stderr.
    fn run(&self, command: &str, config: &str) -> (i32, String, String) {
        let file = self.write("mirror.toml", config);
        run(&format!("{command} -c {file}"))
    }

    /// What is in the store, each with the time of its latest change; nothing where it is not there.
    fn tree(&self) -> Vec<(PathBuf, std::time::SystemTime)> {
        let mut found = Vec::new();
        let mut left = vec![self.path("store")];
        while let Some(path) = left.pop() {
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            left.extend(fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
            found.push((path, about.modified().unwrap()));
        }
        found.sort();
        found
    }

    /// The names in the store.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("store")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn run(line: &str) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    let command = command.args(line.split(' ')).env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Listeners on ports of the system's choosing, and the store below the case.
fn config(case: &Case, more: &str) -> String {
    format!(
        "[store]\npath = \"{}\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = [\"127.0.0.1:0\"]\n{more}",
        case.path("store").display()
    )
}

#[test]
fn a_folder_of_somebody_else_is_refused_by_all_and_left_alone() {
    for name in ["notes.txt", "docker/registry/v2", "blobs/photo.jpg"] {
        let case = Case::new();
        case.write(&format!("store/{name}"), "theirs");
        let before = case.names();
        let store = case.path("store").display().to_string();
        let config = config(&case, "");
        let out = case.path("out.tar").display().to_string();
        for (code, _, err) in [
            case.run("check", &config),
            case.run("serve", &config),
            run(&format!("export --all -o {out} --store {store}")),
        ] {
            let first = name.split('/').next().unwrap();
            assert!(code == 2 && err.contains(&store) && err.contains(&format!("{first:?}")), "{name}: {code} {err}");
            assert!(err.contains("choose another folder"), "{err}");
        }
        assert_eq!(case.names(), before, "nothing is left there");
    }
}

#[test]
fn what_a_file_system_has_and_hidden_names_belong_to_nobody() {
    let case = Case::new();
    case.write("store/lost+found/x", "");
    case.write("store/.snapshot", "");
    let (code, _, err) = case.run("check", &config(&case, ""));
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn check_finds_what_stands_in_the_way_within_the_store() {
    for (part, is_link) in
        [("blobs", false), ("blobs/sha256", false), ("blobs/sha256", true), ("blobs/sha512", true), ("ingest", false)]
    {
        let case = Case::new();
        case.write("store/format", "registry-mirror store format 1\n");
        let path = case.path("store").join(part);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if is_link {
            fs::create_dir(case.path("elsewhere")).unwrap();
            std::os::unix::fs::symlink(case.path("elsewhere"), &path).unwrap();
        } else {
            fs::write(&path, "a file").unwrap();
        }
        let config = config(&case, "");
        let (code, _, err) = case.run("serve", &config);
        assert_eq!(code, 1, "{part}: {err}");
        let (code, _, err) = case.run("check", &config);
        let told = format!("{} is a {}, and no folder", path.display(), if is_link { "link" } else { "file" });
        assert!(code == 0 && err.starts_with("warning: ") && err.contains(&told), "{part}: {code} {err}");
    }
    let case = Case::new();
    fs::create_dir_all(case.path("store/lock")).unwrap();
    case.write("store/format", "registry-mirror store format 1\n");
    let (code, _, err) = case.run("check", &config(&case, ""));
    assert!(code == 0 && err.contains("lock is a folder, and no file"), "{code} {err}");
}

#[test]
fn check_refuses_whatever_serve_refuses() {
    let none = "no certificate";
    let cases: [(&str, Prepare<'_>, &str); 9] = [
        (
            "an authority of an upstream that is none",
            &|case| {
                let ca = case.write("ca.pem", none);
                config(case, &format!("[[upstream]]\nhost = \"a.example\"\nca = \"{ca}\"\n"))
            },
            "ca.pem",
        ),
        (
            "an authority of an upstream that is missing",
            &|case| config(case, "[[upstream]]\nhost = \"a.example\"\nca = \"/no/such.pem\"\n"),
            "/no/such.pem",
        ),
        (
            "a certificate of our own without a key in its file",
            &|case| {
                let (cert, key) = (case.write("own.pem", none), case.write("own.key", none));
                config(
                    case,
                    &format!("[[upstream]]\nhost = \"a.example\"\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"\n"),
                )
            },
            "own.pem",
        ),
        (
            "a certificate of the listener that is none",
            &|case| {
                let cert = case.write("cert.pem", none);
                config(case, &format!("[server.tls]\ncert = \"{cert}\"\nkey = \"{cert}\"\n"))
            },
            "cert.pem",
        ),
        (
            "a token that can be guessed",
            &|case| {
                let token = case.write("token", "short\n");
                config(case, &format!("admin_token = \"file:{token}\"\n"))
            },
            "less than 16 bytes",
        ),
        (
            "a file of passwords that is missing",
            &|case| config(case, "[access]\nhtpasswd = \"/no/such\"\n"),
            "/no/such",
        ),
        ("a pace that the kernel has not got", &|case| config(case, "congestion_control = \"nonesuch\"\n"), "nonesuch"),
        (
            "a file in place of the store",
            &|case| {
                case.write("store", "a file");
                config(case, "")
            },
            "is no folder",
        ),
        (
            "a store of a later version",
            &|case| {
                case.write("store/format", "registry-mirror store format 99\n");
                config(case, "")
            },
            "format 99",
        ),
    ];
    for (name, prepare, told) in cases {
        let case = Case::new();
        let config = prepare(&case);
        let before = case.tree();
        for command in ["check", "serve"] {
            let (code, out, err) = case.run(command, &config);
            assert_eq!((code, out.as_str()), (2, ""), "{name}: {command}: {err}");
            assert!(err.contains(told), "{name}: {command}: {err}");
            assert_eq!(case.tree(), before, "{name}: {command}: nothing is made or touched");
        }
        let (code, out, _) = case.run("check --json", &config);
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &said["valid"], said["problems"].as_array().map(Vec::len)),
            (2, &false.into(), Some(1)),
            "{name}"
        );
    }
}

#[test]
fn check_warns_of_what_serve_goes_on_without_or_cannot_have_now() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let roomless =
        |case: &Case, key: &str| config(case, "").replacen("[server]", &format!("{key} = \"900TB\"\n[server]"), 1);
    let cases: [(&str, Prepare<'_>, String); 9] = [
        ("a disk with less than is to stay free", &|case| roomless(case, "min_free"), "store.min_free: ".to_owned()),
        ("a disk with less than the store may have", &|case| roomless(case, "max_size"), "store.max_size: ".to_owned()),
        (
            "a helper that is missing",
            &|case| config(case, "[[upstream]]\nhost = \"a.example\"\nauth = \"helper:of-nobody\"\n"),
            "docker-credential-of-nobody".to_owned(),
        ),
        (
            "a password that is missing",
            &|case| config(case, "[[upstream]]\nhost = \"a.example\"\nauth = \"file:/no/such\"\n"),
            "the file /no/such cannot be read".to_owned(),
        ),
        (
            "a password that is none",
            &|case| {
                let password = case.write("password", "no colon");
                config(case, &format!("[[upstream]]\nhost = \"a.example\"\nauth = \"file:{password}\"\n"))
            },
            "expected user:password".to_owned(),
        ),
        (
            "an authority that nobody is asked with",
            &|case| {
                config(case, "[cache]\nmode = \"offline\"\n[[upstream]]\nhost = \"a.example\"\nca = \"/no/such.pem\"\n")
            },
            "/no/such.pem".to_owned(),
        ),
        (
            "something else in the place of the socket",
            &|case| {
                let socket = case.write("socket", "a file");
                config(case, &format!("admin_socket = \"{socket}\"\n"))
            },
            "there is something else".to_owned(),
        ),
        (
            "a port that is taken",
            &|case| {
                let store = case.path("store");
                format!("[store]\npath = \"{}\"\n[server]\nlisten = [\"{taken}\"]\nadmin = []\n", store.display())
            },
            format!("another process listens on {taken}"),
        ),
        (
            "a store that nobody can write",
            &|_| "[store]\npath = \"/proc/store\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = []\n".to_owned(),
            "the store /proc/store cannot be made".to_owned(),
        ),
    ];
    for (name, prepare, told) in cases {
        let case = Case::new();
        let (code, out, err) = case.run("check", &prepare(&case));
        assert!(code == 0 && out.contains(": valid\n"), "{name}: {code} {err}");
        let warnings: Vec<_> = err.lines().collect();
        assert!(warnings.len() == 1 && err.starts_with("warning: ") && err.contains(&told), "{name}: {err}");
        assert!(!case.path("store").exists(), "{name}: nothing is written");
    }
}

#[test]
fn a_helper_that_is_missing_is_found_where_docker_names_it_and_none_is_run() {
    let case = Case::new();
    let file =
        case.write("mirror.toml", &config(&case, "[[upstream]]\nhost = \"docker.io\"\nauth = \"docker-config\"\n"));
    let ran = case.path("ran").display().to_string();
    let program = case.write("bin/docker-credential-here", &format!("#!/bin/sh\ntouch {ran}\n"));
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (text, told) in [
        (r#"{"credsStore":"of-nobody"}"#, "docker-credential-of-nobody is in none of the folders of PATH"),
        (r#"{"credHelpers":{"docker.io":"of-nobody"}}"#, "docker-credential-of-nobody"),
        (r#"{"credsStore":"here"}"#, ""),
        (r#"{"auths":{}}"#, ""),
        (r#"{"auths":"#, "config.json is not valid: line 1"),
    ] {
        case.write("config.json", text);
        let mut command = Command::new(BINARY);
        let command = command.args(["check", &file]).env_clear().env("HOME", "/nonexistent");
        let output = command.env("PATH", case.path("bin")).env("DOCKER_CONFIG", case.folder.path()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}: {err}");
        assert!(err.contains(told) && err.is_empty() == told.is_empty(), "{text}: {err}");
    }
    assert!(!Path::new(&ran).exists());
}

#[test]
fn a_store_that_this_user_may_not_write_is_a_warning_and_nothing_of_it_changes() {
    use std::os::unix::fs::PermissionsExt as _;
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root.
        return;
    }
    let case = Case::new();
    fs::create_dir(case.path("store")).unwrap();
    fs::set_permissions(case.path("store"), fs::Permissions::from_mode(0o555)).unwrap();
    let (code, _, err) = case.run("check", &config(&case, ""));
    assert!(code == 0 && err.contains("cannot be used by this user"), "{code} {err}");
}

#[test]
fn an_error_says_once_what_the_system_said() {
    let case = Case::new();
    let (code, _, err) =
        case.run("serve", "[store]\npath = \"/proc/store\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = []\n");
    let line = err.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{err}"));
    assert_eq!((code, line.matches("os error").count()), (1, 1), "{line}");
    assert!(line.contains("/proc/store"), "{line}");
}

/// A daemon that is ended whatever happens.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mirror_that_runs_is_no_reason_for_a_warning() {
    let case = Case::new();
    let file = case.write("mirror.toml", &config(&case, ""));
    let mut daemon = Command::new(BINARY);
    let daemon = daemon.args(["serve", "-c", &file]).env_clear().stderr(Stdio::piped()).spawn().unwrap();
    let mut daemon = Daemon(daemon);
    let mut lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
    let pull = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        Some(line["pull"].as_str()?.trim_matches(['[', ']']).to_owned())
    });
    let running = config(&case, "").replacen("127.0.0.1:0", &pull.expect("it serves"), 1);
    let (code, _, err) = case.run("check", &running);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(Path::new(&case.path("store/lock")).exists());
}

#[test]
fn before_a_start_by_systemd_it_warns_of_what_a_socket_that_it_does_not_see_would_forbid() {
    let case = Case::new();
    let secret = case.write("secret", "user:password");
    let private = format!("[[upstream]]\nhost = \"a.example\"\nauth = \"file:{secret}\"\n");
    for (more, warns) in [("", false), (private.as_str(), true)] {
        let file = case.write("mirror.toml", &config(&case, more));
        let checked = |script: &str| {
            let script = format!("{script} exec {BINARY} check -c {file}");
            let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let said = checked("SYSTEMD_EXEC_PID=$$");
        let is_told = said.contains("registry-mirror.socket") && said.contains("it is not said who may pull");
        assert_eq!(is_told, warns, "{said}");
        // A shell in a service that systemd started is not what stands before a start.
        assert!(!checked("SYSTEMD_EXEC_PID=1").contains("registry-mirror.socket"));
    }
}

#[test]
fn check_takes_the_file_as_an_argument_and_as_other_commands_do() {
    let case = Case::new();
    let file = case.write("mirror.toml", &config(&case, ""));
    for line in [format!("check {file}"), format!("check -c {file}"), format!("check --config {file}")] {
        let (code, out, err) = run(&line);
        assert!(code == 0 && out.starts_with(&format!("{file}: valid")), "{line}: {err}");
    }
    assert_eq!(run(&format!("check {file} -c {file}")).0, 2);
}

#[test]
fn a_user_of_a_grant_who_has_no_password_is_a_warning() {
    let hash = "$2y$04$abcdefghijklmnopqrstuuJZ3eJg5Ge1tFBkAQk5B8yCcWMz9XEyS";
    for (users, who, told) in [
        (format!("ann:{hash}\n"), "user:ann", None),
        (format!("ci-1:{hash}\n"), "user:ci-*", None),
        (format!("ann:{hash}\n"), "anonymous", None),
        (format!("ann:{hash}\n"), "user:bob", Some("grant 1: \"user:bob\" is for nobody: no such user is in ")),
        (format!("ann:{hash}\n"), "user:ci-*", Some("grant 1: \"user:ci-*\" is for nobody: no such user is in ")),
        ("# nobody yet\n\n".to_owned(), "user:*", Some("access.htpasswd: there is no user in ")),
    ] {
        let case = Case::new();
        case.write("users", &users);
        let access = format!(
            "[access]\nhtpasswd = \"{}\"\ngrant = [{{ who = \"{who}\", may = \"a.example/**\" }}]\n\
             [[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"\n",
            case.path("users").display()
        );
        let (code, _, err) = case.run("check", &config(&case, &access));
        assert_eq!(code, 0, "{who}: {err}");
        assert_eq!(err.contains("is for nobody") || err.contains("no user"), told.is_some(), "{who}: {err}");
        assert!(told.is_none_or(|told| err.contains(told)), "{who}: {err}");
    }
}
