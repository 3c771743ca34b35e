//! Whose a store is: root works in the name of its owner, commands find the store of the service that is installed, and
//! a store that cannot be used says whose it is and what to do. Most of it can be shown as the superuser only.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{BINARY, Process};
use crate::upgrades::{is_served, stores, unpacked};

/// A user who owns nothing here.
pub const STRANGER: u32 = 65534;
/// Nobody listens there.
const AWAY: &str = "http://127.0.0.1:1";

/// Whether a script may have mounts of its own here.
pub fn may_mount() -> bool {
    let may = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("SKIPPED: only a superuser can be somebody else, and mount");
    }
    may
}

/// Runs a script with mounts of its own, in which `$MIRROR` is the program; what it said, and its exit code.
pub fn script(folder: &Path, text: &str) -> (String, i32) {
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

/// Everything in a store, itself first.
fn parts(store: &Path) -> Vec<PathBuf> {
    let mut found = vec![store.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    found
}

pub fn give_to_stranger(store: &Path) {
    for part in parts(store) {
        std::os::unix::fs::lchown(part, Some(STRANGER), Some(STRANGER)).unwrap();
    }
}

/// What in it is not the stranger's, user and group.
pub fn foreign(store: &Path) -> Vec<PathBuf> {
    let is_foreign = |path: &PathBuf| {
        let found = path.symlink_metadata().unwrap();
        (found.uid(), found.gid()) != (STRANGER, STRANGER)
    };
    parts(store).into_iter().filter(is_foreign).collect()
}

/// A bundle of the store that the first version wrote.
pub fn bundle(folder: &Path) -> PathBuf {
    let (kept, bundle) = (unpacked(&stores()[0]), folder.join("bundle.tar"));
    let line = ["export", "--all", "--store", kept.path().to_str().unwrap(), "-o", bundle.to_str().unwrap()];
    let output = Command::new(BINARY).args(line).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_writes_into_the_store_of_a_service_the_service_can_read() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let bundle = bundle(folder.path());
    let (old, new) = (unpacked(&stores()[0]), folder.path().join("new"));
    fs::create_dir(&new).unwrap();
    [old.path(), &new].into_iter().for_each(give_to_stranger);
    let run = |line: &[&str], store: &Path| {
        let output = Command::new(BINARY).args(line).arg("--store").arg(store).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(foreign(store), Vec::<PathBuf>::new(), "{line:?}");
    };
    let receipt = folder.path().join("receipt");
    run(&["import", bundle.to_str().unwrap(), "--receipt", receipt.to_str().unwrap()], &new);
    run(&["import", bundle.to_str().unwrap()], old.path());
    run(&["why", "try:1"], &new);
    assert_eq!(fs::metadata(&receipt).unwrap().uid(), 0, "what it is told to write elsewhere is root's");
    // The daemon, typed by root, does the same.
    let process = Process::start(&new, AWAY, "");
    is_served(&process).await;
    assert!(process.terminate().success());
    assert_eq!(foreign(&new), Vec::<PathBuf>::new());
    // And as itself the service serves what is there.
    let program = folder.path().join("registry-mirror");
    fs::copy(BINARY, &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let other = format!("setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups");
    let how = format!("f() {{ shift; exec {other} {} \"$@\"; }}; f", program.display());
    let process = Process::start_by(&how, &new, AWAY, "");
    is_served(&process).await;
    assert!(process.terminate().success());
}

#[test]
fn a_configuration_that_is_closed_to_the_service_is_not_passed_over() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let made = "mount -t tmpfs -o mode=755 none /etc; mkdir -p /etc/registry-mirror $HOME/.config/registry-mirror
        install -d -o 65534 store; export REGISTRY_MIRROR_STORE_PATH=$PWD/store
        as() { setpriv --reuid=65534 --regid=65534 --clear-groups timeout 9 $MIRROR \"$@\" && echo code 0 || echo code $?; };";
    let each =
        "as check; as serve --listen 127.0.0.1:0 --admin 127.0.0.1:0; as config show; as why try:1; as ready try:1";
    for (closed, file, hides) in [
        ("/etc/registry-mirror", "/etc/registry-mirror/mirror.toml", "echo >/etc/registry-mirror/mirror.toml"),
        ("/etc/registry-mirror", "/etc/registry-mirror/mirror.toml", "true"),
        ("$HOME/.config", "home/.config/registry-mirror/mirror.toml", "echo >/etc/registry-mirror/mirror.toml"),
    ] {
        let text = format!("{made} {hides}; chmod 750 {closed}; {each}; as config paths");
        let (said, _) = script(folder.path(), &text);
        let told = format!("{file}: cannot be read: Permission denied (os error 13): ");
        assert_eq!((said.matches("code 2").count(), said.matches(&told).count()), (5, 5), "{said}");
        assert!(said.contains("is closed to this user") && said.contains("to be read, and cannot be"), "{said}");
        let text = format!("{made} {hides}; chmod 755 {closed}; as check");
        assert!(script(folder.path(), &text).0.contains("code 0"));
    }
}

#[test]
fn commands_that_read_the_file_of_the_service_use_its_store() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path());
    let installed = "mount -t tmpfs none /etc; mkdir /etc/registry-mirror; : >/etc/registry-mirror/mirror.toml
        mount -t tmpfs none /var/cache; install -d -m 700 /var/cache/private; store=/var/cache/private/registry-mirror
        install -d -m 700 -o 65534 -g 65534 $store; ln -s private/registry-mirror /var/cache/registry-mirror;";
    let (said, code) = script(
        folder.path(),
        &format!(
            "{installed} $MIRROR config show | grep '^path ='; $MIRROR check | grep store; $MIRROR import bundle.tar
            $MIRROR why try:1; find $store ! -user 65534; test ! -e $HOME && echo none of its own; : >own; $MIRROR config show -c own | grep '^path ='
            REGISTRY_MIRROR_STORE_PATH=/elsewhere $MIRROR config show | grep '^path ='"
        ),
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "path = \"/var/cache/registry-mirror\"", "{said}");
    assert!(lines[1].ends_with("/var/cache/registry-mirror"), "{said}");
    assert!(
        said.contains("docker.io/library/try:1: ready") && said.contains("docker.io/library/try:1: revalidated"),
        "{said}"
    );
    assert!(!said.contains("\n/var/cache/private"), "the service could not read it: {said}");
    assert!(said.contains("none of its own"), "nothing is kept as root's own: {said}");
    let own = format!("path = \"{}/home/.cache/registry-mirror\"", folder.path().display());
    assert_eq!(lines[lines.len() - 2..], [own.as_str(), "path = \"/elsewhere\""], "{said}");
    assert_eq!(code, 0);
    // Where the service has never been, a file is a file as any other.
    let (said, _) = script(
        folder.path(),
        "mount -t tmpfs none /etc; mkdir /etc/registry-mirror; : >/etc/registry-mirror/mirror.toml; $MIRROR config show",
    );
    assert!(said.contains(&own), "{said}");
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

/// Runs a script in which `as` is the stranger, who owns `store`; below `roots` everything is root's.
pub fn with_links(folder: &Path, text: &str) -> (String, i32) {
    let made = "as() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }
        rm -rf store roots; install -d -m 700 -o 65534 -g 65534 store; mkdir -p roots/folder/db
        echo precious | tee roots/victim >roots/folder/kept; chmod -R go= roots/*; export REGISTRY_MIRROR_STORE_PATH=$PWD/store
        look() { find roots -printf '%p %u %m %s\\n' | sort; cat roots/victim roots/folder/kept; }; look >before;";
    script(folder, &format!("{made} {text}"))
}

#[test]
fn where_the_owner_of_a_store_has_laid_links_root_touches_nothing() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    bundle(folder.path());
    for (removed, link, target) in [
        ("format", "format.new", "victim"),
        ("format", "format.new", "new"),
        ("oci-layout", "oci-layout.new", "new"),
        ("places", "places.new", "victim"),
        ("ingest", "ingest", "folder"),
        ("metadata", "metadata", "folder"),
        ("repositories", "repositories", "folder"),
        ("blobs", "blobs", "folder"),
    ] {
        for line in ["why redis:7", "import bundle.tar", "export --all -o /dev/null", "doctor --json"] {
            let text = format!(
                "$MIRROR why redis:7 >ours; rm -rf store/{removed}; as ln -s $PWD/roots/{target} store/{link}
                REGISTRY_MIRROR_CACHE_MODE=offline $MIRROR {line} >said 2>&1 || true; look >after; diff before after && echo untouched"
            );
            let (said, _) = with_links(folder.path(), &text);
            assert!(said.ends_with("untouched\n"), "{link} to {target}: {line}: {said}");
        }
    }
    let text = "export REGISTRY_MIRROR_CACHE_MODE=offline; sh -c 'setpriv --reuid=65534 --clear-groups ln -s $PWD/roots/victim \
        store/.doctor-$$-staged; exec $MIRROR doctor' >said 2>&1 || true; look >after; diff before after && echo untouched";
    let (said, _) = with_links(folder.path(), text);
    assert!(said.ends_with("untouched\n"), "doctor: {said}");
}

#[test]
fn a_command_works_in_a_store_of_another_in_his_name_or_not_at_all() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    bundle(folder.path());
    let text = "setpriv --bounding-set=-setuid,-setgid $MIRROR why redis:7 || echo code $?; ls -A store";
    let (said, _) = with_links(folder.path(), text);
    assert!(said.contains("belongs to uid 65534, in whose name root cannot work here"), "{said}");
    assert!(said.ends_with("code 1\n"), "nothing is made there: {said}");
    // One that is not there yet is made in the name of who has the folder above it.
    let text = "$MIRROR import bundle.tar --store $PWD/store/of/his >said 2>&1; find store ! -user 65534; ls -d store/of/his/lock";
    let (said, _) = with_links(folder.path(), text);
    assert_eq!(said, "store/of/his/lock\n");
}
