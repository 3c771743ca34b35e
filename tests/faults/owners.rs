//! Whose a store is: one that cannot be used says that and what to do. Most of it can be shown as the superuser only.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::BINARY;
use crate::upgrades::{stores, unpacked};

/// Whether a script may have mounts of its own here.
fn may_mount() -> bool {
    let may = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("SKIPPED: only a superuser can be somebody else, and mount");
    }
    may
}

/// Runs a script with mounts of its own, in which `$MIRROR` is the program; what it said, and its exit code.
fn script(folder: &Path, text: &str) -> (String, i32) {
    let program = folder.join("registry-mirror");
    if !program.exists() {
        fs::copy(BINARY, &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("set -e; exec 2>&1; {text}")]).current_dir(folder);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", folder.join("home"))
        .env("MIRROR", program);
    let output = command.output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

/// A bundle of the store that the first version wrote.
fn bundle(folder: &Path) -> PathBuf {
    let (kept, bundle) = (unpacked(&stores()[0]), folder.join("bundle.tar"));
    let line = ["export", "--all", "--store", kept.path().to_str().unwrap(), "-o", bundle.to_str().unwrap()];
    let output = Command::new(BINARY).args(line).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle
}

#[test]
fn a_store_that_cannot_be_used_says_whose_it_is_and_what_to_do() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let bundle = bundle(folder.path());
    fs::set_permissions(&bundle, Permissions::from_mode(0o644)).unwrap();
    let stranger = "setpriv --reuid=65534 --regid=65534 --clear-groups $MIRROR";
    let serve = format!("{stranger} serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --store $PWD/store");
    let roots = "install -d -m 755 store";
    let whose = "belongs to uid 0, and this is uid 65534";
    for (made, line, expected) in [
        (roots, serve.clone(), &[whose, "chown -R 65534:65534 ", "fsGroup: 65534", "--userns=keep-id:uid=65534"][..]),
        (roots, format!("{stranger} import bundle.tar --store $PWD/store"), &[whose, "chown -R 65534:65534 "]),
        (roots, format!("REGISTRY_MIRROR_STORE_PATH=$PWD/store {stranger} check"), &["the store", whose]),
        // One file that root made, in a folder that is his.
        (
            "install -d -o 65534 store; : >store/lock; chmod 600 store/lock",
            serve.clone(),
            &["/store/lock belongs to uid 0"],
        ),
        (
            "mkdir -p store; mkdir -m 700 store/blobs; install -d -o 65534 store; : >store/oci-layout; : >store/lock;
             chown 65534 store/lock; mkdir store/repositories",
            serve.clone(),
            &["/store/blobs belongs to uid 0", "chown -R 65534:65534 "],
        ),
        (
            "mkdir store; mount -t tmpfs -o ro none store",
            serve.clone(),
            &["Read-only file system", "mount it for writing"],
        ),
        ("mkdir store; mount -t tmpfs -o nr_inodes=1,mode=777 none store", serve, &["No space left", "df -i"]),
    ] {
        let (said, code) = script(folder.path(), &format!("rm -rf store; {made}; {line} || exit $?"));
        let expected_code = i32::from(!line.ends_with("check"));
        assert!(expected.iter().all(|part| said.contains(part)), "{made}: {line}: {said}");
        assert_eq!(code, expected_code, "{made}: {line}: {said}");
    }
}
