//! Who may act on a running daemon: every act, as somebody else of this machine, as the superuser, and as one
//! of the socket's group.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use scripted_registry::{Registry, client, noise};

use crate::daemon::{BINARY, Process};

/// A user who owns nothing here.
const STRANGER: u32 = 65534;

/// Every act of `/api/v1`, by its command, in an order in which each of them has something to do, and what comes of it.
const ACTS: [(&str, &str, i32); 14] = [
    ("pull", "pull app:1", 0),
    ("pin", "pin app:1", 0),
    ("freeze", "freeze app:1", 0),
    ("unfreeze", "unfreeze app:1", 0),
    ("unpin", "unpin app:1", 0),
    ("verify", "verify", 0),
    ("export", "export app:1 --output BUNDLE", 0),
    ("forget", "forget app:1", 0),
    ("import", "import BUNDLE", 0),
    ("gc", "gc", 0),
    ("reload", "reload", 0),
    ("page", "page", 0),
    // There is no bucket.
    ("store/push", "store push", 2),
    ("store/pull", "store pull", 2),
];

#[test]
fn every_act_that_there_is_is_tried() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/api.rs");
    let source = std::fs::read_to_string(source).expect("the sources");
    let (_, list) = source.split_once("const POSTS: [&str; ").expect("the list");
    let (_, list) = list.split_once("= [").expect("its beginning");
    let (list, _) = list.split_once("];").expect("its end");
    let mut posts: Vec<_> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    for post in &mut posts {
        let value = format!("const {post}: &str = ");
        if let Some((_, value)) = source.split_once(&value) {
            *post = value.lines().next().expect("a value").trim_end_matches(';');
        }
        *post = post.trim_matches('"');
    }
    // It looks.
    posts.retain(|post| *post != "ready");
    let mut tried = ACTS.map(|(act, ..)| act);
    tried.sort_unstable();
    posts.sort_unstable();
    assert_eq!(posts, tried);
}

/// A user and a group.
#[derive(Clone, Copy)]
struct Who {
    uid: u32,
    gid: u32,
}

impl Who {
    fn me() -> Who {
        Who { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Runs a command; its exit code and what it said on stderr.
    fn runs(self, program: &Path, line: &str, admin: &str) -> (i32, String) {
        let mut command = Command::new(program);
        command.args(line.split(' ')).args(["--admin", admin]).env_clear().env("HOME", "/nonexistent");
        if self.uid != Who::me().uid {
            command.uid(self.uid).gid(self.gid);
        }
        let output = command.output().expect("starts");
        (output.status.code().expect("ends by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The acts in the log, and by whom, when there are so many.
fn acts(process: &Process, count: usize) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    loop {
        let log = process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let acts: Vec<_> =
            lines.filter(|line| line["message"] == "act").map(|line| (text(&line["act"]), text(&line["by"]))).collect();
        if acts.len() >= count {
            return acts;
        }
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_another_user_no_act_succeeds_and_as_root_through_the_socket_every_act_does_and_the_log_says_who() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 10_000)]);
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing but the mode of the socket keeps others out.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
    let program = folder.path().join("registry-mirror");
    std::fs::copy(BINARY, &program).expect("copied");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("chmod");
    let (socket, bundle) = (folder.path().join("socket"), folder.path().join("bundle.tar"));
    std::fs::write(&bundle, "no bundle yet").expect("written");
    let config = format!("server.admin_socket = \"{}\"", socket.display());
    let process = Process::start(&folder.path().join("store"), &registry.url(), &config);
    let admin = process.admin();
    let (socket, address) = (format!("unix:{}", socket.display()), format!("http://{admin}"));
    let line = move |line: &str| line.replace("BUNDLE", &bundle.display().to_string());
    let work = move || {
        let me = Who::me();
        if me.uid == 0 {
            let stranger = Who { uid: STRANGER, gid: STRANGER };
            for (act, command, _) in ACTS {
                let (code, said) = stranger.runs(&program, &line(command), &socket);
                assert!(code == 4 && said.contains("ermission denied"), "{act} through the socket: {code} {said}");
                let (code, said) = stranger.runs(&program, &line(command), &address);
                assert!(code == 1 && said.contains("has to show the token"), "{act} at the address: {code} {said}");
            }
            let (code, said) = stranger.runs(&program, "images", &address);
            assert_eq!(code, 0, "an address looks: {said}");
        } else {
            eprintln!("SKIPPED: only a superuser can be somebody else");
        }
        for (act, command, expected) in ACTS {
            let (code, said) = me.runs(&program, &line(command), &address);
            assert!(code == 1 && said.contains("has to show the token"), "{act} at the address: {code} {said}");
            let (code, said) = me.runs(&program, &line(command), &socket);
            assert_eq!(code, expected, "{act} through the socket: {said}");
        }
        let mine: Vec<_> = ACTS.map(|(act, ..)| (act.to_owned(), format!("uid={}", me.uid))).into();
        assert_eq!(acts(&process, mine.len()), mine, "and nobody else did anything");
        if me.uid == 0 {
            let (code, said) = Who { uid: STRANGER, gid: me.gid }.runs(&program, "gc --dry-run", &socket);
            assert_eq!(code, 0, "the socket's group may: {said}");
            assert_eq!(acts(&process, mine.len() + 1).pop(), Some(("gc".to_owned(), format!("uid={STRANGER}"))));
        }
        process
    };
    let _process = tokio::task::spawn_blocking(work).await.expect("no panic");
    // Nobody has made one: who makes one up at the address gets no session.
    let consent = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
    let login = client::post(admin, "/api/v1/login", &consent, "{\"login\":\"made-up\"}").await;
    assert_eq!(login.status, 401);
}
