//! What a daemon does with itself before it serves: it writes below its folders only, and its memory is for nobody else.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use scripted_registry::{Digest, Registry, TokenPolicy, client, noise};
use serde_json::Value;

use crate::daemon::{BINARY, Process};

/// A user who owns nothing here.
const STRANGER: u32 = 65534;

fn for_everybody(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o777)).expect("chmod");
}

/// The line of the log that says whether writing is restricted.
fn said(process: &Process) -> Value {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut about = lines.filter(|line| line["message"].as_str().is_some_and(|said| said.starts_with("writing is ")));
    about.next().unwrap_or_else(|| panic!("it does not say so: {log}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_says_where_it_writes_and_writes_nowhere_else_and_its_helpers_are_free() {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "secret").private("library/app"));
    let images = [1, 2].map(|n| registry.add_image("library/app", &n.to_string(), &[noise(n, 10_000)]));
    let folder = tempfile::tempdir().expect("a folder");
    let [store, run, log, outside] = ["store", "run", "log", "outside"].map(|name| folder.path().join(name));
    for path in [&run, &log, &outside] {
        std::fs::create_dir(path).expect("a folder");
    }
    let helper = folder.path().join("docker-credential-test");
    let told = "{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"secret\"}";
    let script = format!("#!/bin/sh\ncat >/dev/null\necho asked >{}/helper\necho '{told}'\n", outside.display());
    std::fs::write(&helper, script).expect("written");
    for_everybody(&helper);
    let config =
        format!("server.admin_socket = \"{}/socket\"\naccess.audit = \"{}/audit\"", run.display(), log.display());
    let upstream = format!("{}\"\nauth = \"helper:test", registry.url());
    let how = format!("PATH={}:$PATH exec", folder.path().display());
    let process = Process::start_by(&how, &store, &upstream, &config);
    let pulled = async |n: usize| {
        let manifest = client::get(process.address, &format!("/v2/library/app/manifests/{}", n + 1), &[]).await;
        assert_eq!(manifest.status, 200, "{}", process.log());
        let layer = &images[n].layers[0].digest;
        let blob = client::get(process.address, &format!("/v2/library/app/blobs/{layer}"), &[]).await;
        assert!(blob.status == 200 && blob.complete, "{}", process.log());
    };
    let is_stored = |digest: &Digest| store.join("blobs/sha256").join(digest.hex()).exists();
    pulled(0).await;
    assert!(outside.join("helper").exists(), "a helper is a program of its own");
    while !is_stored(&images[0].layers[0].digest) {
        tokio::task::yield_now().await;
    }
    // From here on what it writes would be elsewhere.
    std::fs::remove_dir_all(store.join("ingest")).expect("removed");
    symlink(&outside, store.join("ingest")).expect("a link");
    pulled(1).await;
    let said = said(&process);
    assert!(process.terminate().success());
    let is_kept = is_stored(&images[1].layers[0].digest);
    if said["error"].is_null() {
        assert_eq!(said["message"], "writing is restricted to the store, the admin socket and the audit (Landlock)");
        for path in [&store, &run, &log] {
            assert!(said["folders"].as_str().is_some_and(|all| all.contains(&path.display().to_string())), "{said}");
        }
        assert!(!is_kept, "it was written elsewhere");
    } else {
        eprintln!("SKIPPED in part: {}", said["error"]);
        assert_eq!(said["message"], "writing is not restricted by Landlock");
        assert!(is_kept, "then it follows the link, and this test would see it");
    }
}

/// Of a process that may be dumped what lies in `/proc` is its user's, of another one root's (proc(5)).
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_daemon_is_for_no_other_process_of_its_user() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    for_everybody(folder.path());
    let program = folder.path().join("registry-mirror");
    std::fs::copy(BINARY, &program).expect("copied");
    for_everybody(&program);
    let me = rustix::process::geteuid().as_raw();
    let (how, user) = if me == 0 {
        let other = format!("setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups");
        (format!("f() {{ shift; exec {other} {} \"$@\"; }}; f", program.display()), STRANGER)
    } else {
        ("exec".to_owned(), me)
    };
    let process = Process::start_by(&how, &folder.path().join("store"), &registry.url(), "");
    let owner = |of: &str| std::fs::metadata(format!("/proc/{}/{of}", process.id())).expect("it runs").uid();
    assert_eq!((owner("mem"), owner("environ")), (0, 0));
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("its user");
    assert_eq!(uid.split_whitespace().next(), Some(user.to_string().as_str()), "and it runs as its user");
}
