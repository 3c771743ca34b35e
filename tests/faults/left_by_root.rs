//! What root left in the store of a service before he worked there in its name: it is told of, and given back.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::owners::{bundle, may_mount, with_links};

/// A folder with a bundle, which everybody may enter.
fn ground() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    bundle(folder.path());
    folder
}

#[test]
fn check_tells_what_of_a_store_is_closed_to_its_owner_whoever_asks() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    let path = folder.path().display();
    for part in [
        "lock",
        "format",
        "places",
        "blobs",
        "blobs/sha256",
        "ingest",
        "metadata",
        "metadata/db",
        "repositories",
        "repositories/docker.io/library",
        "repositories/docker.io/library/try/_tags/1/history",
    ] {
        let text = format!(
            "$MIRROR import bundle.tar >said 2>&1; : >store/places; chown 65534:65534 store/places
            as $MIRROR check | grep -v upstreams; echo; chown -R root:root store/{part}; chmod go= store/{part}
            as $MIRROR check; echo code $?; echo; $MIRROR check; echo code $?"
        );
        let (said, _) = with_links(folder.path(), &text);
        let parts: Vec<_> = said.split("\n\n").collect();
        let [before, asked_by_owner, asked_by_root] = parts[..] else { panic!("{part}: {said}") };
        assert!(!before.contains("warning"), "{part}: {said}");
        for (said, who, us) in
            [(asked_by_owner, "this user", "this is"), (asked_by_root, "its owner", "root works here as")]
        {
            let whose = format!("{path}/store/{part} belongs to uid 0, and {us} uid 65534");
            let giving = format!("as root: chown -R 65534:65534 {path}/store");
            assert!(said.contains("warning: ") && said.contains(who), "{part}: {said}");
            assert!(said.contains(&whose) && said.contains(&giving) && said.contains("code 0"), "{part}: {said}");
        }
    }
}

#[test]
fn what_root_left_below_a_store_is_told_with_the_command_that_gives_it_back() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    let text = "$MIRROR import bundle.tar >said 2>&1; chown -R root:root store/repositories/docker.io
        export REGISTRY_MIRROR_CACHE_MODE=offline; $MIRROR doctor --json; echo
        as $MIRROR why try:1 || echo code $?
        as timeout 3 $MIRROR serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 || true";
    let (said, _) = with_links(folder.path(), text);
    let giving = format!("chown -R 65534:65534 {}/store", folder.path().display());
    let lines: Vec<_> = said.lines().filter(|line| line.contains(&giving)).collect();
    let [doctor, why, serve] = lines[..] else { panic!("{said}") };
    assert!(doctor.contains("\"verdict\":\"warn\"") && doctor.contains("a daemon cannot use"), "{doctor}");
    assert!(why.contains("repositories/docker.io belongs to uid 0") && said.contains("code 1"), "{said}");
    assert!(serve.contains("\"WARN\"") && serve.contains("not all of the store can be used"), "{serve}");
}

#[test]
fn a_list_of_what_is_owed_that_is_closed_is_told_alike_by_all_and_so_is_what_opens_it() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    let path = folder.path().display();
    let bucket = "echo key:secret >key; chmod 644 key; export REGISTRY_MIRROR_STORE_BUCKET_NAME=none
        export REGISTRY_MIRROR_STORE_BUCKET_ENDPOINT=http://127.0.0.1:1 REGISTRY_MIRROR_STORE_BUCKET_CREDENTIALS=file:$PWD/key";
    for (closing, opening) in [
        ("chown root:root store/owed; chmod 600 store/owed", format!("chown -R 65534:65534 {path}/store")),
        ("chmod 000 store/owed", format!("chmod -R u+rwX {path}/store")),
    ] {
        let text = format!(
            "$MIRROR import bundle.tar >said 2>&1; {bucket}; : >store/owed; chown 65534:65534 store/owed; {closing}
            for line in check 'serve --listen 127.0.0.1:0 --admin 127.0.0.1:0' 'store push' 'why try:1' doctor; do
            as timeout 20 $MIRROR $line && echo code 0 || echo code $?; echo; done"
        );
        let (said, _) = with_links(folder.path(), &text);
        let parts: Vec<_> = said.split("\n\n").filter(|part| part.contains("code ")).collect();
        assert_eq!(parts.len(), 5, "{said}");
        for (part, code) in parts.iter().zip([0, 1, 1, 1, 1]) {
            assert!(part.contains(&format!("{path}/store/owed: Permission denied")), "{closing}: {part}");
            assert!(part.contains(&opening) && part.ends_with(&format!("code {code}")), "{closing}: {part}");
        }
        assert!(!parts[0].contains("asked for anew") && parts[4].contains("does not start"), "{closing}: {said}");
    }
}

#[test]
fn root_gives_back_what_he_left_and_nothing_else() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    // A second name of a file of root's, a link, and a name that is not of a store.
    // Nor is what its last process wrote into the lock a daemon: in a container each is process 1.
    let made = "$MIRROR import bundle.tar >said 2>&1; chown -R root:root store/repositories store/metadata; chown root store/lock
        echo 1 >store/lock
        ln roots/victim store/blobs/sha256/second; ln -s $PWD/roots/folder store/repositories/link
        echo mine >store/notes; chmod 600 store/notes; ls -ln store/notes >before-notes; look >before;";
    let looked = "look >after; diff before after; ls -ln store/notes | diff before-notes -
        find store ! -user 65534 ! -name notes ! -name second ! -name link; as cat store/repositories/docker.io/library/try/_tags/1/history >said 2>&1
        rm store/blobs/sha256/second; as $MIRROR check | grep -c '^warning' || true";
    for line in [
        "$MIRROR why try:1 >said 2>&1",
        "timeout 3 $MIRROR serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 >said 2>&1 || true",
    ] {
        let (said, _) = with_links(folder.path(), &format!("{made} {line}; {looked}"));
        assert_eq!(said, "0\n", "{line}");
    }
    // A bind mount is of the same file system, and of somebody else.
    let (said, _) = with_links(
        folder.path(),
        "$MIRROR import bundle.tar >said 2>&1; mkdir store/quarantine bound; echo x >bound/secret; mount --bind bound store/quarantine
        chown root store/repositories; $MIRROR why try:1 >said 2>&1; stat -c %u bound bound/secret store/repositories; umount store/quarantine",
    );
    assert_eq!(said, "0\n0\n65534\n");
    // While a daemon has it, and where it is no store, nothing is given away.
    let (said, _) = with_links(
        folder.path(),
        "install -d -o 65534 theirs; echo x >theirs/blobs; ls -ln theirs >said; $MIRROR why try:1 --store $PWD/theirs || true
        ls -ln theirs | diff said - && echo as it was",
    );
    assert!(said.ends_with("as it was\n"), "{said}");
}

#[test]
fn the_command_that_is_told_names_the_store_as_it_is_typed() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    // The way to it is root's alone, as to a store of a user who is made up. What is in it is of a third.
    let path = folder.path().join("of root/st$(id)ore");
    let text = "s='of root/st$(id)ore'; export REGISTRY_MIRROR_CACHE_MODE=offline REGISTRY_MIRROR_STORE_PATH=\"$PWD/$s\"
        install -d -m 700 'of root'; install -d -m 700 -o 65534 -g 65534 \"$s\"; $MIRROR import bundle.tar >said 2>&1
        chown -R 1000:1000 \"$s/repositories/docker.io\"; chmod 700 \"$s/repositories/docker.io\"
        for line in 'why try:1' 'why try:1 --json' 'export try:1 -o x.tar' check doctor; do $MIRROR $line 2>&1 | grep chown || echo nothing of $line; done";
    let (said, _) = with_links(folder.path(), text);
    let lines: Vec<_> = said.lines().collect();
    // As JSON it is said twice.
    assert_eq!(lines.len(), 6, "{said}");
    for line in lines {
        assert!(!line.contains("/proc/self") && line.contains(&path.display().to_string()), "{line}");
        assert!(line.contains(&format!("as root: chown -R 65534:65534 '{}'", path.display())), "{line}");
    }
}

#[test]
fn what_stands_in_the_place_of_a_folder_is_named() {
    if !may_mount() {
        return;
    }
    let folder = ground();
    for part in ["metadata", "usage", "quarantine"] {
        let text = format!(
            "$MIRROR import bundle.tar >said 2>&1; rm -rf store/{part}; as mkfifo -m 600 store/{part}
            export REGISTRY_MIRROR_CACHE_MODE=offline; as $MIRROR check; as $MIRROR doctor || true; $MIRROR doctor || true; as timeout 3 $MIRROR serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 || true"
        );
        let (said, _) = with_links(folder.path(), &text);
        // A daemon moves what is no index away by itself.
        let told = format!("{}/store/{part} is a pipe, and no folder", folder.path().display());
        assert!(said.matches(&told).count() >= 3 && !said.contains("chown"), "{part}: {said}");
        assert!(said.contains(&format!("mv {}/store/{part} ELSEWHERE", folder.path().display())), "{part}: {said}");
    }
}
