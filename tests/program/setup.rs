//! `setup`: files of clients below a root, as somebody types it: shown, written, looked at, and put back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");
const MIRROR: &str = "http://127.0.0.1:5000";

/// Runs `setup` with these words and variables; its exit code, stdout and stderr.
pub(crate) fn run(line: &str, variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command
        .arg("setup")
        .args(line.split_whitespace())
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Everything below a folder: what it is, whose, and what is in it.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, (u32, u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in std::fs::read_dir(&here).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = match metadata.file_type() {
                kind if kind.is_dir() => {
                    folders.push(path.clone());
                    Vec::new()
                }
                kind if kind.is_symlink() => path.read_link().unwrap().into_os_string().into_encoded_bytes(),
                _ => std::fs::read(&path).unwrap(),
            };
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            found.insert(name, (metadata.mode(), metadata.uid(), metadata.gid(), content));
        }
    }
    found
}

/// A root with these files in it.
pub(crate) fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

/// The clients with files, and a file of each as others wrote it.
const CLIENTS: [(&str, &str, &str); 7] = [
    ("docker", "etc/docker/daemon.json", "{\n\t\"log-driver\": \"journald\", \"x\": 1.50\n}\n"),
    ("containerd", "etc/containerd/config.toml", "version = 2\n# ours\n[plugins.x] # here\n  a = 1\n"),
    ("podman", "etc/containers/registries.conf.d/zz-registry-mirror.conf", "# nothing yet\n"),
    ("cri-o", "etc/containers/registries.conf", "unqualified-search-registries = ['docker.io'] # short\n"),
    ("k3s", "etc/rancher/k3s/registries.yaml", "configs: # who we are\n  reg.example:\n    auth: {username: me}\n"),
    ("rke2", "etc/rancher/rke2/registries.yaml", "# ours\nconfigs:\n  reg.example:\n    tls: {}\n"),
    ("buildkit", "etc/buildkit/buildkitd.toml", "debug = true # now\n[worker.oci]\n  enabled = false\n"),
];

#[test]
fn settings_are_shown_written_once_and_put_back_to_the_byte() {
    for (client, path, content) in CLIENTS {
        for files in [&[][..], &[(path, content)]] {
            let root = root(files);
            if let [(path, _)] = files {
                std::fs::set_permissions(root.path().join(path), PermissionsExt::from_mode(0o640)).unwrap();
                // Only root can give a file away.
                let _ = chown(root.path().join(path), Some(1234), Some(4321));
            }
            let before = tree(root.path());
            let line = |action: &str| format!("{client} {action} --mirror {MIRROR} --root {}", root.path().display());
            let (code, out, err) = run(&line("--print"), &[]);
            assert_eq!(code, 0, "{client}: {err}");
            assert!(out.contains("+++ ") && out.contains("127.0.0.1:5000"), "{client}: {out}");
            assert_eq!(tree(root.path()), before, "{client}: --print writes nothing");
            assert_eq!(run(&line("--check"), &[]).0, 1, "{client}: it is not set up");

            let (code, out, err) = run(&line("--apply"), &[]);
            assert_eq!(code, 0, "{client}: {out}{err}");
            let after = tree(root.path());
            assert_ne!(after, before, "{client}");
            let record = &after[&format!("var/lib/registry-mirror/setup/{client}")];
            assert_eq!(record.0 & 0o7777, 0o700, "{client}");
            if let [(path, _)] = files {
                let whose =
                    |tree: &BTreeMap<String, (u32, u32, u32, Vec<u8>)>| (tree[*path].0, tree[*path].1, tree[*path].2);
                assert_eq!(whose(&after), whose(&before), "{client}: the mode and the owner stay");
            }
            assert_eq!(run(&line("--check"), &[]).0, 0, "{client}: it is set up");
            assert_eq!(run(&line("--apply"), &[]).0, 0, "{client}");
            assert_eq!(tree(root.path()), after, "{client}: a second time changes nothing");

            let (_, _, err) = run(&line("--print"), &[]);
            assert!(!err.contains("nothing was written"), "{client}: there is nothing to write: {err}");
            let (code, out, err) = run(&format!("{client} --undo --root {}", root.path().display()), &[]);
            assert_eq!(code, 0, "{client}: {out}{err}");
            assert_eq!(tree(root.path()), before, "{client}");
            let (code, _, err) = run(&format!("{client} --undo --root {}", root.path().display()), &[]);
            assert!(code == 0 && err.contains("nothing was set up"), "{client}: {code} {err}");
        }
    }
}

#[test]
fn undo_says_what_still_leads_podman_to_the_mirror_and_print_what_the_mirror_does_not_serve() {
    let root = root(&[]);
    let line = |what: &str| format!("{what} --root {}", root.path().display());
    for client in ["podman", "cri-o"] {
        assert_eq!(run(&line(&format!("{client} --apply --mirror {MIRROR}")), &[]).0, 0);
    }
    let (code, _, err) = run(&line("podman --undo"), &[]);
    assert!(code == 0 && err.contains("podman still reads what was set up for cri-o"), "{err}");
    let (code, _, err) = run(&line("cri-o --undo"), &[]);
    assert!(code == 0 && !err.contains("still reads"), "{err}");
    let file = root.path().join("mirror.toml");
    std::fs::write(
        &file,
        "routes.well_known = false\nroutes.default = \"a.example\"\n[[upstream]]\nhost = \"a.example\"\n",
    )
    .unwrap();
    let (code, _, err) = run(&line(&format!("podman --for docker.io -c {}", file.display())), &[]);
    assert!(code == 0 && err.contains("docker.io is no upstream of the mirror"), "{code} {err}");
    // Where nobody says for which, it is for those that it serves.
    let (code, out, err) = run(&line(&format!("podman -c {}", file.display())), &[]);
    assert!(
        code == 0 && out.contains("location = \"a.example\"") && !(out + &err).contains("docker.io"),
        "{code} {err}"
    );
    let (code, _, err) = run(&line(&format!("docker -c {}", file.display())), &[]);
    assert!(code == 2 && err.contains("not for those of a.example"), "{code} {err}");
    // Of another mirror that is not known.
    let (code, out, _) = run(&line(&format!("podman --mirror http://b.example:5000 -c {}", file.display())), &[]);
    assert!(code == 0 && out.contains("location = \"docker.io\""), "{code} {out}");
}

#[test]
fn who_has_podman_go_another_way_for_some_images_is_told_so_and_left_alone() {
    let entry = "[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"near.example/library\"\n";
    let mirror = "[[registry.mirror]]\nlocation = \"127.0.0.1:5000/docker.io/library\"\ninsecure = true\n";
    let folder = "etc/containers/registries.conf";
    for file in [folder.to_owned(), format!("{folder}.d/a.conf"), format!("{folder}.d/zzz.conf")] {
        for (text, is_told) in [(entry.to_owned(), true), (format!("{entry}{mirror}"), false)] {
            let root = root(&[(&file, &text)]);
            for action in ["podman --print", "podman --apply", "podman --check", "cri-o --apply"] {
                let (code, _, err) = run(&format!("{action} --mirror {MIRROR} --root {}", root.path().display()), &[]);
                let told =
                    ["for images of docker.io/library".to_owned(), format!("{file}, and not through the mirror")];
                assert_eq!((code, told.map(|told| err.contains(&told))), (0, [is_told; 2]), "{action} {file}: {err}");
            }
            assert_eq!(std::fs::read_to_string(root.path().join(&file)).unwrap(), text);
        }
    }
}

#[test]
fn what_others_write_behind_ours_stays_where_it_is() {
    for (client, path, content) in CLIENTS.into_iter().filter(|(client, ..)| *client != "docker") {
        let root = root(&[(path, content)]);
        let line = |action: &str| format!("{client} {action} --mirror {MIRROR} --root {}", root.path().display());
        assert_eq!(run(&line("--apply"), &[]).0, 0, "{client}");
        let files = tree(&root.path().join("etc"));
        for path in files.keys().map(|path| root.path().join("etc").join(path)).filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, format!("{text}# mine\n")).unwrap();
        }
        let after = tree(&root.path().join("etc"));
        let (code, out, err) = run(&line("--print"), &[]);
        assert!(code == 0 && !out.contains("+++ ") && out.contains("says it already"), "{client}: {out}{err}");
        assert_eq!(run(&line("--apply"), &[]).0, 0, "{client}");
        assert_eq!(tree(&root.path().join("etc")), after, "{client}");
        let (code, out, err) = run(&format!("{client} --undo --root {}", root.path().display()), &[]);
        let all: Vec<u8> = tree(&root.path().join("etc")).into_values().flat_map(|(.., content)| content).collect();
        let all = String::from_utf8(all).unwrap();
        assert!(code == 0 && !all.contains("127.0.0.1:5000") && all.contains("# mine"), "{client}: {out}{err}{all}");
    }
}

#[test]
fn another_address_takes_the_place_of_the_first_and_undo_goes_back_to_the_beginning() {
    for (client, path, content) in CLIENTS {
        let root = root(&[(path, content)]);
        let before = tree(root.path());
        let at = |address: &str| format!("{client} --apply --mirror {address} --root {}", root.path().display());
        assert_eq!(run(&at(MIRROR), &[]).0, 0);
        assert_eq!(run(&at("http://127.0.0.9:5009"), &[]).0, 0);
        let all: Vec<u8> = tree(&root.path().join("etc")).into_values().flat_map(|(.., content)| content).collect();
        let all = String::from_utf8(all).unwrap();
        assert!(all.contains("127.0.0.9:5009") && !all.contains("127.0.0.1:5000"), "{client}: {all}");
        assert_eq!(run(&format!("{client} --undo --root {}", root.path().display()), &[]).0, 0);
        assert_eq!(tree(root.path()), before, "{client}");
    }
}

#[test]
fn undo_leaves_what_others_wrote_since_and_does_nothing_where_it_cannot_tell() {
    let root = root(&[("etc/docker/daemon.json", "{\n  \"debug\": true\n}\n")]);
    let file = root.path().join("etc/docker/daemon.json");
    let line = |action: &str| format!("docker {action} --mirror {MIRROR} --root {}", root.path().display());
    assert_eq!(run(&line("--apply"), &[]).0, 0);
    let written = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, written.replace("true", "false")).unwrap();
    assert_eq!(run(&line("--undo"), &[]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\n  \"debug\": false\n}\n");

    assert_eq!(run(&line("--apply"), &[]).0, 0);
    std::fs::write(&file, "{ \"debug\": false, ").unwrap();
    let spoiled = tree(root.path());
    let (code, _, err) = run(&line("--undo"), &[]);
    assert!(code == 1 && err.contains("nothing was changed"), "{code} {err}");
    assert_eq!(tree(root.path()), spoiled);
}

#[test]
fn what_others_made_of_a_files_mode_stays_and_what_is_taken_away_is_told() {
    let root = root(&[("etc/docker/daemon.json", "{\n  \"debug\": true\n}\n")]);
    let file = root.path().join("etc/docker/daemon.json");
    let line = |action: &str| format!("docker {action} --mirror {MIRROR} --root {}", root.path().display());
    assert_eq!(run(&line("--apply"), &[]).0, 0);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(run(&line("--undo"), &[]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\n  \"debug\": true\n}\n");
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);

    let line = |more: &str| format!("containerd --apply --mirror {MIRROR} --root {} {more}", root.path().display());
    assert_eq!(run(&line("--for ghcr.io"), &[]).0, 0);
    let (code, _, err) = run(&line("--for docker.io"), &[]);
    assert!(code == 0 && err.contains("for ghcr.io before") && err.contains("--for ghcr.io --for docker.io"), "{err}");
    let (code, _, err) = run(&line("--for docker.io"), &[]);
    assert!(code == 0 && !err.contains("before"), "{err}");
}

#[test]
fn who_names_no_registry_means_those_of_the_last_time() {
    let root = root(&[]);
    let line = |more: &str| run(&format!("podman --mirror {MIRROR} --root {} {more}", root.path().display()), &[]);
    let registries = |more: &str| {
        let document: Value = serde_json::from_str(&line(&format!("{more} --json")).1).unwrap();
        document["registries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(registries("--print"), ["docker.io"]);
    assert_eq!(line("--apply --for ghcr.io --for quay.io").0, 0);
    let written = tree(root.path());
    for action in ["--print", "--apply", "--check", "--undo"] {
        assert_eq!(registries(action), ["ghcr.io", "quay.io"], "{action}");
        assert_eq!(tree(root.path()) == written, action != "--undo", "{action}");
    }
}

#[test]
fn what_is_told_by_the_images_name_and_what_reads_the_files_of_another_is_answered() {
    let (code, out, err) = run(&format!("crane --for ghcr.io --mirror {MIRROR}"), &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("127.0.0.1:5000/ghcr.io/REPOSITORY:TAG in the place of ghcr.io/") && out.contains("--insecure")
    );
    assert_eq!(run(&format!("regctl --mirror {MIRROR}"), &[]).1, run(&format!("oras --mirror {MIRROR}"), &[]).1);
    let root = root(&[]);
    let at = format!("--mirror {MIRROR} --root {}", root.path().display());
    let (skopeo, podman) = (run(&format!("skopeo {at}"), &[]), run(&format!("podman {at}"), &[]));
    assert!(skopeo == podman && skopeo.1.contains("zz-registry-mirror.conf"), "{skopeo:?}");
    let (code, out, err) = run(&format!("skopeo --apply -q {at}"), &[]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    assert_eq!(run(&format!("crane --apply {at}"), &[]).0, 2);
}

#[test]
fn docker_is_not_led_to_a_listener_that_is_for_another_registry() {
    let folder = root(&[(
        "mirror.toml",
        "routes.default = \"ghcr.io\"\nserver.listen = [\"127.0.0.1:4998\", \"127.0.0.1:4999=docker.io\"]\n",
    )]);
    let line = |client: &str, more: &str| {
        let at = folder.path().display();
        run(&format!("{client} --apply -c {at}/mirror.toml --root {at} {more}"), &[])
    };
    let (code, _, err) = line("docker", "--mirror http://127.0.0.1:4998");
    assert!(code == 2 && err.contains("would get images of ghcr.io"), "{code} {err}");
    assert_eq!(line("podman", "--mirror http://127.0.0.1:4998").0, 0);
    let written = folder.path().join("etc/containers/registries.conf.d/zz-registry-mirror.conf");
    assert!(std::fs::read_to_string(written).unwrap().contains("127.0.0.1:4998/docker.io"));
    // The one that is for Docker Hub is the one that is found.
    assert_eq!(line("docker", "").0, 0);
    assert!(std::fs::read_to_string(folder.path().join("etc/docker/daemon.json")).unwrap().contains(":4999"));
}

#[test]
fn a_file_that_cannot_be_understood_is_left_alone() {
    for (client, path, content) in [
        ("docker", "etc/docker/daemon.json", "{ \"debug\": true, }"),
        ("docker", "etc/docker/daemon.json", "{ \"registry-mirrors\": \"x\" }"),
        ("containerd", "etc/containerd/config.toml", "version = \n"),
        ("containerd", "etc/containerd/certs.d/docker.io/hosts.toml", "[host\n"),
        ("podman", "etc/containers/registries.conf", "[[registry]\n"),
        ("podman", "etc/containers/registries.conf.d/a.conf", "[[registry]\n"),
        ("podman", "etc/containers/registries.conf.d/zzz.conf", "[[registry]]\nlocation = \"docker.io\"\n"),
        ("k3s", "etc/rancher/k3s/registries.yaml", "mirrors: [\n"),
        ("k3s", "etc/rancher/k3s/registries.yaml", "mirrors: {}\n"),
        ("buildkit", "etc/buildkit/buildkitd.toml", "\u{0}"),
    ] {
        let root = root(&[(path, content)]);
        let before = tree(root.path());
        for action in ["--print", "--apply"] {
            let (code, _, err) =
                run(&format!("{client} {action} --mirror {MIRROR} --root {}", root.path().display()), &[]);
            assert_eq!(code, 1, "{client} {path}: {err}");
            assert!(err.contains("nothing was changed") && err.contains(path), "{client}: {err}");
            assert_eq!(tree(root.path()), before, "{client}");
        }
    }
}

#[test]
fn links_are_followed_below_the_root_and_never_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("daemon.json"), "{}").unwrap();
    let untouched = tree(outside.path());
    let up = format!("../../../../../../../..{}", outside.path().display());
    for (link, target) in [
        ("etc/docker", outside.path().display().to_string()),
        ("etc/docker", up.clone()),
        ("etc/docker/daemon.json", outside.path().join("daemon.json").display().to_string()),
        ("etc/docker/daemon.json", format!("{up}/daemon.json")),
        ("var/lib/registry-mirror", outside.path().display().to_string()),
        ("var/lib/registry-mirror/setup/docker", outside.path().display().to_string()),
    ] {
        let root = root(&[]);
        let link = root.path().join(link);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&target, &link).unwrap();
        // The same link may lead to a folder below the root, which then counts.
        run(&format!("docker --apply --mirror {MIRROR} --root {}", root.path().display()), &[]);
        assert_eq!(tree(outside.path()), untouched, "{} -> {target}", link.display());
        assert!(link.symlink_metadata().unwrap().is_symlink(), "the link stays");
    }

    let root = root(&[("data/real.json", "{}\n")]);
    std::fs::create_dir_all(root.path().join("etc/docker")).unwrap();
    symlink("/data/real.json", root.path().join("etc/docker/daemon.json")).unwrap();
    let before = tree(root.path());
    let line = |action: &str| format!("docker {action} --mirror {MIRROR} --root {}", root.path().display());
    assert_eq!(run(&line("--apply"), &[]).0, 0);
    assert!(std::fs::read_to_string(root.path().join("data/real.json")).unwrap().contains("127.0.0.1:5000"));
    assert!(root.path().join("etc/docker/daemon.json").is_symlink());
    assert_eq!(run(&line("--undo"), &[]).0, 0);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_record_that_somebody_else_made_or_could_change_is_not_believed() {
    let root = root(&[("etc/docker/daemon.json", "{}\n")]);
    let line = |action: &str| format!("docker {action} --mirror {MIRROR} --root {}", root.path().display());
    assert_eq!(run(&line("--apply"), &[]).0, 0);
    let record = root.path().join("var/lib/registry-mirror/setup/docker");
    let refused = || {
        let before = tree(root.path());
        for action in ["--apply", "--undo"] {
            let (code, _, err) = run(&line(action), &[]);
            assert!(code == 1 && err.contains("believed"), "{action}: {code} {err}");
            assert_eq!(tree(root.path()), before, "{action}");
        }
    };
    std::fs::set_permissions(&record, PermissionsExt::from_mode(0o777)).unwrap();
    refused();
    std::fs::set_permissions(&record, PermissionsExt::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&record, Some(12345), None).unwrap();
        refused();
        chown(&record, Some(0), None).unwrap();
    }
    assert_eq!(run(&line("--undo"), &[]).0, 0);
}

#[test]
fn a_user_sets_up_his_own_podman_and_nobody_elses() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    const STRANGER: u32 = 65534;
    let folder = root(&[("home/x", ""), ("bin/podman", "#!/bin/sh\necho not there >&2\nexit 125\n")]);
    let (program, home) = (folder.path().join("program"), folder.path().join("home"));
    std::fs::copy(BINARY, &program).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(&home, Some(STRANGER), Some(STRANGER)).unwrap();
    std::fs::set_permissions(folder.path().join("bin/podman"), PermissionsExt::from_mode(0o755)).unwrap();
    let before = tree(&home);
    let run = |line: &str| {
        let mut command = Command::new(&program);
        command.arg("setup").args(line.split(' ')).env_clear().uid(STRANGER).gid(STRANGER);
        command.env("HOME", &home).env("XDG_STATE_HOME", home.join("state")).env("PATH", folder.path().join("bin"));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&format!("podman --apply --mirror {MIRROR}")).0, 0);
    assert!(home.join(".config/containers/registries.conf.d/zz-registry-mirror.conf").is_file());
    assert!(home.join("state/registry-mirror/setup/podman/record.json").is_file());
    // What may be the reason that it does not work is told of his own files, too.
    let part = home.join(".config/containers/registries.conf.d/part.conf");
    std::fs::write(&part, "[[registry]]\nlocation = \"docker.io/library\"\n").unwrap();
    let (code, err) = run(&format!("podman --check --mirror {MIRROR}"));
    assert!(code == 1 && err.contains("part.conf, and not through the mirror"), "{code} {err}");
    std::fs::remove_file(part).unwrap();
    assert_eq!(run("podman --undo").0, 0);
    assert_eq!(tree(&home), before);
    assert_eq!(run(&format!("buildkit --apply --mirror {MIRROR}")).0, 1, "that is the machine's");
}

#[test]
fn the_unit_that_reads_the_file_is_restarted_where_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (bin, asked) = (folder.path().join("bin"), folder.path().join("asked"));
    std::fs::create_dir(&bin).unwrap();
    let systemctl = |then: &str| {
        std::fs::write(bin.join("systemctl"), format!("#!/bin/sh\necho \"$@\" >>{}\n{then}\n", asked.display()))
            .unwrap();
        std::fs::set_permissions(bin.join("systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
    };
    // A root of its own, which only a namespace of mounts can give to who may not say --root.
    let own = "mount -t tmpfs none /etc && mount -t tmpfs none /var/lib";
    let inside = |script: &str| {
        let mut unshare = Command::new("unshare");
        let script = format!("{own} && {}", script.replace("SETUP", &format!("PATH={} {BINARY} setup", bin.display())));
        let output = unshare.args(["--mount", "sh", "-c", &script]).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code().unwrap(), said, std::fs::read_to_string(&asked).unwrap_or_default())
    };
    if inside("true").0 != 0 {
        return eprintln!("skipped: a namespace of mounts needs a superuser");
    }
    systemctl("");
    let agent = "mkdir -p /etc/systemd/system && : >/etc/systemd/system/k3s-agent.service";
    let wants = "/etc/systemd/system/multi-user.target.wants";
    let other_agent = &format!("mkdir -p {wants} && : >{wants}/rke2-agent.service");
    for (client, before, unit) in [
        ("docker", "true", "docker"),
        ("containerd", "true", "containerd"),
        ("cri-o", "true", "crio"),
        ("buildkit", "true", "buildkit"),
        ("k3s", "true", "k3s"),
        ("k3s", agent, "k3s-agent"),
        ("rke2", "true", "rke2-server"),
        ("rke2", other_agent, "rke2-agent"),
    ] {
        let apply = format!("{before}; SETUP {client} --apply --mirror {MIRROR}");
        let (code, said, calls) = inside(&apply);
        assert_eq!((code, calls.as_str()), (0, ""), "{said}");
        assert!(said.contains(&format!("systemctl restart {unit}\n")), "{said}");
        // Nothing is restarted that has nothing to read.
        let again = format!("{apply} --restart && SETUP {client} --apply --restart --mirror {MIRROR}");
        let (code, said, calls) = inside(&again);
        assert_eq!((code, calls), (0, format!("restart {unit}\n")), "{said}");
        std::fs::remove_file(&asked).unwrap();
        let (code, said, calls) = inside(&format!("{apply} --restart && SETUP {client} --undo --restart"));
        assert_eq!((code, calls), (0, format!("restart {unit}\nrestart {unit}\n")), "{said}");
        std::fs::remove_file(&asked).unwrap();
    }
    // RKE2 has a program of its own, where it has always been.
    std::fs::write(folder.path().join("mirror.toml"), "server.admin = [\"127.0.0.1:1\"]\nstore.path = \"/nowhere\"\n")
        .unwrap();
    let crictl = "/var/lib/rancher/rke2/bin/crictl";
    let (code, said, calls) = inside(&format!(
        "mkdir -p /var/lib/rancher/rke2/bin; cp {0}/systemctl {crictl}; SETUP rke2 --check --mirror {MIRROR} -c {1}/mirror.toml",
        bin.display(),
        folder.path().display()
    ));
    let order = |what: &str| {
        format!(
            "--config /var/lib/rancher/rke2/agent/etc/crictl.yaml {what} docker.io/library/registry-mirror-canary:latest\n"
        )
    };
    assert_eq!((code, calls), (3, order("pull") + &order("rmi")), "{said}");
    std::fs::remove_file(&asked).unwrap();
    // Nor does anything stand in its file that keeps it from starting: a flag of its command line.
    symlink("/bin/sh", bin.join("dockerd")).unwrap();
    let running = |flag: &str| {
        let engine = format!("{}/dockerd -c 'echo up >/etc/up; read end' {flag} <&9 &", bin.display());
        inside(&format!(
            "mkfifo /etc/end /etc/up; exec 9<>/etc/end; {engine} read up </etc/up; \
             SETUP docker --apply --mirror http://mirror.example; code=$?; echo end >&9; wait; ls /etc/docker; exit $code"
        ))
    };
    for flag in ["--registry-mirror=https://a.example", "--insecure-registry=a.example"] {
        let (code, said, _) = running(flag);
        assert!(code == 1 && said.contains(&format!("dockerd runs with {flag}, and does not start")), "{code} {said}");
        assert!(!said.contains("daemon.json\n"), "{said}");
    }
    let (code, said, _) = running("--debug");
    assert!(code == 0 && said.contains("daemon.json\n"), "{code} {said}");
    let (code, said, calls) = inside(&format!("SETUP podman --apply --restart --mirror {MIRROR}"));
    assert_eq!((code, calls.as_str()), (0, ""), "podman is started for each pull: {said}");
    systemctl("echo it is masked >&2; exit 1");
    let (code, said, _) =
        inside(&format!("SETUP k3s --apply --restart --mirror {MIRROR}; echo $?; ls /etc/rancher/k3s"));
    assert!(code == 0 && said.contains("1\nregistries.yaml"), "{said}");
    assert!(said.contains("k3s could not be restarted: it is masked"), "{said}");
}

#[test]
fn what_makes_no_sense_is_a_mistake_of_who_types_it() {
    let root = root(&[]);
    let at = format!("--root {}", root.path().display());
    for (line, expected) in [
        (format!("kaniko --apply --mirror {MIRROR} {at}"), 2),
        (format!("cf --check --mirror {MIRROR}"), 2),
        (format!("cf --undo {at}"), 2),
        (format!("kaniko --mirror {MIRROR} {at}"), 0),
        (format!("cf --mirror {MIRROR}"), 0),
        (format!("docker --print --apply --mirror {MIRROR} {at}"), 2),
        (format!("docker --apply --restart --mirror {MIRROR} {at}"), 2),
        (format!("docker --restart --mirror {MIRROR}"), 2),
        (format!("docker --mirror http://127.0.0.1:5000/hub {at}"), 2),
        (format!("docker --for a..b --mirror {MIRROR} {at}"), 2),
        (format!("docker --apply --for ghcr.io --mirror {MIRROR} {at}"), 2),
        (format!("docker --print --mirror {MIRROR} --root {}/none", root.path().display()), 2),
        (format!("nothing --mirror {MIRROR}"), 2),
        ("podman --check --admin http://127.0.0.1:1".to_owned(), 5),
    ] {
        let (code, out, err) = run(&line, &[("PATH", "/nonexistent")]);
        assert_eq!(code, expected, "{line}: {out}{err}");
    }
    assert!(tree(root.path()).is_empty());
    let (_, out, _) = run(&format!("kaniko --for ghcr.io --mirror {MIRROR}"), &[]);
    assert!(out.contains("--registry-map=ghcr.io=127.0.0.1:5000/ghcr.io"), "{out}");
}

#[test]
fn a_script_gets_a_document_of_each_act() {
    let root = root(&[("etc/docker/daemon.json", "{}\n")]);
    for (action, change) in
        [("--print", "changed"), ("--apply", "changed"), ("--check", "unchanged"), ("--undo", "changed")]
    {
        let (code, out, _) =
            run(&format!("docker {action} --json --mirror {MIRROR} --root {}", root.path().display()), &[]);
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(code, 0);
        assert_eq!(document["document"], "setup", "{action}");
        assert_eq!(format!("--{}", document["action"].as_str().unwrap()), action);
        assert_eq!(document["files"][0]["change"], change, "{action}: {out}");
        assert_eq!(document["registries"][0], "docker.io");
    }
}

/// A daemon, and where it listens.
struct Daemon {
    child: Child,
    pull: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("store.min_free = \"0\"\nstore.path = \"{}\"\n", folder.path().join("store").display());
        // Not where it listens.
        std::fs::write(folder.path().join("mirror.toml"), format!("server.listen = \"127.0.0.1:4999\"\n{config}"))
            .unwrap();
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "-c"])
            .arg(folder.path().join("mirror.toml"))
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (pull, admin) = loop {
            let line: Value = serde_json::from_str(&lines.next().expect("it starts").unwrap()).unwrap();
            let address = |name: &str| Some(line[name].as_str()?.trim_matches(['[', ']']).parse().unwrap());
            if let (Some(pull), Some(admin)) = (address("pull"), address("admin")) {
                break (pull, admin);
            }
        };
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Daemon { child, pull, admin, folder }
    }

    fn config(&self) -> String {
        format!("-c {}", self.folder.path().join("mirror.toml").display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_address_is_what_the_daemon_says_at_its_socket_and_not_what_an_address_answers() {
    let daemon = Daemon::start();
    let (config, admin) = (daemon.config(), daemon.admin);
    let address = |line: &str| run(&format!("kaniko --json {line}"), &[]).1;
    assert!(address(&config).contains(&format!("\"mirror\":\"http://{}\"", daemon.pull)), "{}", address(&config));
    let other = address(&format!("{config} --admin http://{admin}"));
    assert!(other.contains("\"mirror\":\"http://127.0.0.1:4999\""), "{other}");
}

#[test]
fn a_check_is_passed_by_who_pulls_through_the_mirror_and_failed_by_who_does_not() {
    let daemon = Daemon::start();
    let programs = tempfile::tempdir().unwrap();
    let podman = |script: &str| {
        let path = programs.path().join("podman");
        std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let check = |line: &str| {
        run(
            &format!("podman --check --admin http://{} {line}", daemon.admin),
            &[("PATH", programs.path().to_str().unwrap())],
        )
    };
    let asks = format!(
        "[ $1 = pull ] || exit 0\nexec 3<>/dev/tcp/{}/{}\nprintf 'HEAD /v2/library/registry-mirror-canary/manifests/latest \
         HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3\nread -r line <&3\n",
        daemon.pull.ip(),
        daemon.pull.port()
    );
    podman(&asks);
    let (code, out, err) = check("");
    assert!(code == 0 && out.contains("docker.io") && out.contains("127.0.0.1:"), "{code} {out}{err}");
    let (code, out, err) = check("--for docker.io --for ghcr.io");
    assert!(code == 3 && out.contains("docker.io") && err.contains("ghcr.io"), "{code} {out}{err}");
    podman(&format!("{asks}\necho no such layer >&2\nexit 1"));
    let (code, _, err) = check("");
    assert!(code == 1 && err.contains("no such layer") && err.contains("meanwhile by 127.0.0.1:"), "{code} {err}");
    podman(&asks.replace("/v2/", "/v2/ghcr.io/"));
    let (code, _, err) = check("");
    assert!(code == 1 && err.contains("as for one of ghcr.io"), "{code} {err}");
    podman("exit 0");
    let (code, _, err) = check("");
    assert!(code == 1 && err.contains("did not ask"), "{code} {err}");
    let file = programs.path().join("mirror.toml");
    std::fs::write(&file, "[server]\nadmin = [\"127.0.0.1:1\"]\nadmin_socket = \"/nonexistent/socket\"\n").unwrap();
    let elsewhere = format!("podman --check --mirror http://192.0.2.1:5000 -c {}", file.display());
    let (code, out, err) = run(&elsewhere, &[("PATH", programs.path().to_str().unwrap())]);
    assert!(code == 3 && out.contains("--admin URL") && out.contains("192.0.2.1"), "{code} {out}{err}");
    podman("echo not there >&2; exit 125");
    let (code, out, err) = run(&elsewhere, &[("PATH", programs.path().to_str().unwrap())]);
    assert!(code == 1 && err.contains("not there") && out.is_empty(), "{code} {out}{err}");
    assert_eq!(run("podman --check --admin http://127.0.0.1:1", &[("PATH", programs.path().to_str().unwrap())]).0, 4);
}
