//! What the packages are made of: files that stand in the repository, and have to be what the program says today.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn at(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// The files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(entry).collect()
}

#[test]
fn the_manual_pages_of_the_packages_are_those_that_the_program_writes() {
    let written = tempfile::tempdir().unwrap();
    assert!(Command::new(BINARY).arg("man").arg(written.path()).status().unwrap().success());
    let (written, kept) = (files(written.path()), files(&at("systemd/man")));
    let names: BTreeSet<_> = written.keys().chain(kept.keys()).collect();
    let differ: Vec<_> = names.into_iter().filter(|name| written.get(*name) != kept.get(*name)).collect();
    assert!(differ.is_empty(), "{differ:?}; rm systemd/man/* && cargo run -- man systemd/man");
}

/// What a package takes from the repository, and where it puts it.
fn assets(package: &str) -> BTreeMap<String, String> {
    let cargo: toml::Table = fs::read_to_string(at("Cargo.toml")).unwrap().parse().unwrap();
    let assets = cargo["package"]["metadata"][package]["assets"].as_array().unwrap().clone();
    let word = |value: &toml::Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
    let asset = |asset: &toml::Value| match asset {
        toml::Value::Array(parts) => (word(&parts[0]), word(&parts[1])),
        asset => (word(&asset["source"]), word(&asset["dest"])),
    };
    assets.iter().map(asset).collect()
}

#[test]
fn both_packages_have_all_that_there_is_to_install() {
    let (mut debian, mut rpm) = (assets("deb"), assets("generate-rpm"));
    for source in debian.keys().chain(rpm.keys()) {
        // What is to be compiled first is not there.
        let Some((folder, pattern)) = source.rsplit_once('*') else {
            assert!(source.starts_with("target/release/") || at(source).is_file(), "{source}");
            continue;
        };
        assert!(files(&at(folder)).keys().any(|name| name.ends_with(pattern)), "{source}");
    }
    for name in files(&at("systemd/man")).keys() {
        assert!([".1", ".5"].iter().any(|section| name.ends_with(section)), "{name} is in no package");
    }
    // Each has its own place for zsh, and Debian makes its file of the licence itself.
    let zsh = "systemd/completions/_registry-mirror";
    assert_eq!(debian.remove(zsh).unwrap(), "usr/share/zsh/vendor-completions/");
    assert_eq!(rpm.remove(zsh).unwrap(), "usr/share/zsh/site-functions/");
    assert_eq!(rpm.remove("LICENSE").unwrap(), "usr/share/licenses/registry-mirror/");
    // Policy has a name for what changed, and what is known to be odd is said to its checker.
    let changes = ".github/CHANGELOG.md";
    assert_eq!(debian.remove(changes).unwrap(), "usr/share/doc/registry-mirror/changelog");
    assert_eq!(rpm.remove(changes).unwrap(), "usr/share/doc/registry-mirror/");
    assert_eq!(
        debian.remove("systemd/debian/lintian-overrides").unwrap(),
        "usr/share/lintian/overrides/registry-mirror"
    );
    assert_eq!(debian, rpm);
}

#[test]
fn what_is_shipped_beside_the_program_is_of_its_version() {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    for (file, said) in [
        ("systemd/debian/changelog", format!("registry-mirror ({VERSION}-1) ")),
        ("examples/compose/compose.yaml", format!("image: registry-mirror:{VERSION}\n")),
        ("examples/helm/registry-mirror/Chart.yaml", format!("\nversion: {VERSION}\nappVersion: \"{VERSION}\"\n")),
        ("examples/container/README.md", format!("docker load -i registry-mirror-{VERSION}-image.tar\n")),
        ("README.md", format!("apt-get install ./registry-mirror_{VERSION}-1_amd64.deb\n")),
        ("README.md", format!("docker load -i registry-mirror-{VERSION}-image.tar\n")),
        ("README.md", format!(" registry-mirror:{VERSION}\n")),
    ] {
        assert!(fs::read_to_string(at(file)).unwrap().contains(&said), "{file}: {said}");
    }
}

/// The files below a folder of the repository, in which people read.
fn texts(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(at(folder)).unwrap() {
        let path = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
        if at(&path).is_dir() {
            found.extend(texts(&path));
        } else if let Ok(text) = fs::read_to_string(at(&path)) {
            found.push((path, text));
        }
    }
    found
}

#[test]
fn no_image_and_no_package_of_another_version_is_named() {
    let readme = ("README.md".to_owned(), fs::read_to_string(at("README.md")).unwrap());
    let mut named = 0;
    for (file, text) in texts("examples").into_iter().chain([readme]) {
        let behind = text.match_indices("registry-mirror").map(|(at, name)| &text[at + name.len()..]);
        for version in behind.filter_map(|rest| rest.strip_prefix([':', '-', '_'])) {
            let is_of_version = |c: char| c.is_ascii_digit() || c == '.';
            let end = version.find(|c| !is_of_version(c)).unwrap_or(version.len());
            let version = version[..end].trim_end_matches('.');
            // Ports and names of files begin with neither a digit nor have they two full stops.
            if version.matches('.').count() == 2 {
                assert_eq!(version, env!("CARGO_PKG_VERSION"), "{file}");
                named += 1;
            }
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn the_lines_for_containers_are_ones_that_the_program_knows() {
    let text = fs::read_to_string(at("examples/container/README.md")).unwrap();
    let image = format!(" registry-mirror:{} ", env!("CARGO_PKG_VERSION"));
    let mut known = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("$ docker ") || line.starts_with("# docker ")) {
        let typed = line.split_once(&image).or_else(|| line.split_once(" exec mirror registry-mirror "));
        let Some((_, typed)) = typed else { continue };
        let (command, rest) = typed.split_once(' ').unwrap_or((typed, ""));
        let help = Command::new(BINARY).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for flag in rest.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{line}: {flag}");
        }
        assert!(help.contains(&format!("registry-mirror {command}")), "{line}: {help}");
        known.insert(command.to_owned());
    }
    assert_eq!(known.into_iter().collect::<Vec<_>>().join(" "), "check doctor page reload serve setup status why");
}

#[test]
fn the_file_that_packages_install_changes_nothing() {
    let shown = |file: &Path| {
        let output = Command::new(BINARY).args(["config", "show", "-c"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(shown(&at("systemd/mirror.toml")), shown(empty.path()));
    let settings = fs::read_to_string(at("systemd/mirror.toml")).unwrap();
    let settings: String =
        settings.lines().filter_map(|line| line.strip_prefix('#')).fold(String::new(), |all, line| {
            // What is said ends its lines with a full stop, or goes on; what may be uncommented is a table or a key.
            if line.starts_with([' ']) || line.is_empty() { all } else { all + line + "\n" }
        });
    let uncommented = tempfile::NamedTempFile::new().unwrap();
    fs::write(uncommented.path(), &settings).unwrap();
    assert!(shown(uncommented.path()).contains("500"), "{settings}");
}

#[test]
fn the_file_of_the_image_is_valid_and_keeps_the_store_in_the_volume() {
    let file = at("examples/container/mirror.toml");
    let output = Command::new(BINARY).args(["config", "show", "-c"]).arg(file).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let recipe = fs::read_to_string(at("examples/container/Containerfile")).unwrap();
    let volume = recipe.lines().find_map(|line| line.strip_prefix("VOLUME ")).unwrap();
    assert!(shown.contains(volume) && shown.contains("0.0.0.0:5000"), "{shown}");
}

/// A script of a package, run where each program that it may call is there and does nothing, below `root`.
fn run_script(root: &Path, script: &str, argument: &str, users_are_there: bool) -> (bool, String) {
    let programs = root.join("programs");
    let text = fs::read_to_string(at(script)).unwrap();
    let text = ["/var/", "/etc/", "/run/", "/usr/share/"]
        .iter()
        .fold(text, |text, part| text.replace(part, &format!("{}{part}", root.display())));
    let output = Command::new("/bin/sh")
        .args(["-c", &text, script, argument, "0.0.9"])
        .env_clear()
        .env("PATH", &programs)
        .env("USERS", if users_are_there { "0" } else { "2" })
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn each_line_of_the_scripts_of_packages_is_one_that_a_shell_can_run() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["programs", "run/systemd/system", "var/cache/registry-mirror", "etc/registry-mirror"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    fs::write(root.path().join("var/cache/registry-mirror/format"), "1\n").unwrap();
    let debian = "addgroup adduser getent install find registry-mirror deb-systemd-helper deb-systemd-invoke systemctl";
    for program in debian.split(' ').chain("rm rmdir basename groupadd useradd".split(' ')) {
        let path = root.path().join("programs").join(program);
        let status = if program == "getent" { "$USERS" } else { "0" };
        fs::write(&path, format!("#!/bin/sh\nexit {status}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let debian = ["configure", "abort-upgrade", "abort-remove", "upgrade", "remove", "purge"];
    for (folder, scripts, arguments) in [
        ("systemd/debian", &["postinst", "prerm", "postrm"][..], &debian[..]),
        ("systemd/rpm", &["pre", "post", "preun", "postun"], &["0", "1", "2"]),
    ] {
        for (script, argument) in scripts.iter().flat_map(|script| arguments.iter().map(move |with| (script, with))) {
            for users_are_there in [false, true] {
                let script = format!("{folder}/{script}");
                let (well, said) = run_script(root.path(), &script, argument, users_are_there);
                // What it tells the operator.
                let said: Vec<_> = said.lines().filter(|line| !line.starts_with("registry-mirror: ")).collect();
                assert!(well && said.is_empty(), "{script} {argument}: {said:?}");
            }
        }
    }
}

/// What a script calls at an upgrade, in turn, where `find` prints `found` of what is in the store.
fn called_by_an_upgrade(script: &str, argument: &str, found: &str) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    for folder in ["programs", "run/systemd/system", "var/cache/registry-mirror"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    fs::write(root.path().join("var/cache/registry-mirror/format"), "1\n").unwrap();
    let calls = root.path().join("calls");
    for program in
        "addgroup adduser getent deb-systemd-helper deb-systemd-invoke systemctl registry-mirror find".split(' ')
    {
        let path = root.path().join("programs").join(program);
        let prints = if program == "find" { found } else { "" };
        let script = format!("#!/bin/sh\necho \"{program} $*\" >>{}\nprintf '%s' '{prints}'\n", calls.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (well, said) = run_script(root.path(), script, argument, true);
    assert!(well, "{script}: {said}");
    let calls = fs::read_to_string(calls).unwrap();
    let of_the_daemon = ["deb-systemd-invoke", "systemctl stop", "systemctl --no-block", "registry-mirror"];
    calls.lines().filter(|line| of_the_daemon.iter().any(|begin| line.starts_with(begin))).map(str::to_owned).collect()
}

#[test]
fn an_upgrade_gives_back_what_root_left_while_no_daemon_has_the_store() {
    let words = |call: &String| call.split(' ').take(2).collect::<Vec<_>>().join(" ");
    for (script, argument, stop, gone_on) in [
        ("systemd/debian/postinst", "configure", "deb-systemd-invoke stop", "deb-systemd-invoke restart"),
        ("systemd/rpm/post", "2", "systemctl stop", "systemctl --no-block"),
    ] {
        let calls: Vec<_> = called_by_an_upgrade(script, argument, "repositories/left").iter().map(words).collect();
        assert_eq!(calls, [stop, "registry-mirror why", gone_on], "{script}");
        let calls = called_by_an_upgrade(script, argument, "");
        assert!(
            !calls.iter().any(|call| call.contains("stop")),
            "{script} stops a daemon that is not in the way: {calls:?}"
        );
    }
}

#[test]
fn a_purge_takes_all_but_what_takes_the_set_up_of_a_client_back() {
    let root = tempfile::tempdir().unwrap();
    let purged = |folders: &[&str]| {
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("file"), "x").unwrap();
        }
        let script = fs::read_to_string(at("systemd/debian/postrm")).unwrap();
        let script = script.replace(" /", &format!(" {}/", root.path().display()));
        let output = Command::new("sh").args(["-c", &script, "postrm", "purge"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (folders.iter().filter(|folder| root.path().join(folder).exists()).count(), said)
    };
    let folders = ["var/cache/registry-mirror", "var/log/registry-mirror", "var/lib/registry-mirror/setup"];
    assert_eq!(purged(&folders).0, 0);
    assert!(!root.path().join("var/lib/registry-mirror").exists(), "nobody needs an empty folder");
    // A store of somebody's, who wrote its place into his configuration.
    assert_eq!(purged(&["var/lib/registry-mirror", "var/lib/registry-mirror/setup"]).0, 1);
    assert!(root.path().join("var/lib/registry-mirror/file").exists());
    fs::remove_dir_all(root.path().join("var/lib/registry-mirror")).unwrap();
    let (left, said) = purged(&[&folders[..], &["var/lib/registry-mirror/setup/docker"]].concat());
    assert!(left == 2 && said.contains("docker still asks it first"), "{left} {said}");
    assert!(root.path().join("var/lib/registry-mirror/setup/docker/file").exists());
    // dpkg takes mirror.toml away; what else is there is a password or a certificate of somebody's.
    assert_eq!(purged(&["etc/registry-mirror"]).0, 1);
    assert!(root.path().join("etc/registry-mirror/file").exists());
    fs::remove_file(root.path().join("etc/registry-mirror/file")).unwrap();
    purged(&[]);
    assert!(!root.path().join("etc/registry-mirror").exists(), "nobody needs an empty folder");
}

#[test]
fn what_is_taken_away_says_which_clients_still_ask_it_alike_in_both_packages() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib/registry-mirror/setup/podman")).unwrap();
    let said = |script: &str, argument: &str| {
        let script = fs::read_to_string(at(script)).unwrap();
        let script = script.replace(" /", &format!(" {}/", root.path().display()));
        let output = Command::new("sh").args(["-c", &script, "script", argument]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let (debian, rpm) = (said("systemd/debian/prerm", "remove"), said("systemd/rpm/preun", "0"));
    assert_eq!(debian, rpm);
    assert!(debian.contains("podman still asks it first") && debian.contains("setup podman --undo"), "{debian}");
    assert_eq!(said("systemd/debian/prerm", "upgrade") + &said("systemd/rpm/preun", "1"), "");
}

#[test]
fn an_erased_rpm_leaves_no_empty_folder_and_what_others_put_there() {
    let root = tempfile::tempdir().unwrap();
    let script = fs::read_to_string(at("systemd/rpm/postun")).unwrap();
    let script = script.replace(" /", &format!(" {}/", root.path().display()));
    let erased = |argument: &str| {
        let output = Command::new("sh").args(["-c", &script, "postun", argument]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let folders = [
        "etc/registry-mirror",
        "usr/share/doc/registry-mirror",
        "usr/share/licenses/registry-mirror",
        "var/cache/registry-mirror",
        "var/lib/registry-mirror/setup",
    ];
    for folder in folders {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let left = || folders.iter().filter(|folder| root.path().join(folder).exists()).count();
    assert_eq!((erased("1").as_str(), left()), ("", folders.len()), "an upgrade takes nothing away");
    assert_eq!((erased("0").as_str(), left()), ("", 0));
    assert!(!root.path().join("var/lib/registry-mirror").exists());
    for folder in folders {
        fs::create_dir_all(root.path().join(folder)).unwrap();
        fs::write(root.path().join(folder).join("file"), "x").unwrap();
    }
    let said = erased("0");
    assert!(left() == folders.len() && said.contains("/var/cache/registry-mirror stays"), "{said}");
}

#[test]
fn a_tag_whose_store_is_not_kept_yet_is_no_release_and_makes_that_store() {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    put("Cargo.toml", "version = \"9.8.7\"\n");
    put(".github/CHANGELOG.md", "## [9.8.7]\n\nMuch.\n");
    put(".ci/release", &fs::read_to_string(at(".ci/release")).unwrap());
    put(".ci/store-of", "#!/bin/sh\necho \"$@\" >store-of\n");
    put(".gitignore", "bin\n");
    // Neither is compiled, nor installed.
    put("bin/cargo", "#!/bin/sh\n[ \"$1\" = build ]\n");
    put("bin/apt-get", "#!/bin/sh\nexit 9\n");
    let path = format!("{}/bin:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let run = |program: &str, line: &str| {
        let mut command = Command::new(program);
        command.args(line.split(' ')).current_dir(folder.path()).env("PATH", &path);
        let output = command.env("HOME", folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for line in [
        "init --quiet",
        "add .",
        "-c user.name=x -c user.email=x@x.example commit --quiet -m x",
        "-c user.name=x -c user.email=x@x.example tag v9.8.7",
    ] {
        assert_eq!(run("git", line).0, Some(0), "{line}");
    }
    let (code, said) = run("bash", ".ci/release dist");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("tests/faults/stores/9.8.7.tar.gz: commit it, and have v9.8.7 be that commit"), "{said}");
    let made = fs::read_to_string(folder.path().join("store-of")).unwrap();
    assert_eq!(made, "target/release/registry-mirror 9.8.7\n");
    assert!(!folder.path().join("dist").exists());
}

#[test]
fn the_unit_checks_before_it_starts_and_reloads_by_the_command() {
    let unit = fs::read_to_string(at("systemd/registry-mirror.service")).unwrap();
    for line in [
        "ExecStartPre=/usr/bin/registry-mirror check",
        "ExecStart=/usr/bin/registry-mirror serve",
        "ExecReload=/usr/bin/registry-mirror reload",
        // Sockets that are handed over, and keeping itself to its folders.
        "SystemCallFilter=@system-service pidfd_getfd landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        "SystemCallFilter=~@privileged @resources",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    let filters = unit.lines().filter(|line| line.starts_with("SystemCallFilter")).count();
    assert_eq!(filters, 2, "a later line may take away what an earlier one allows");
    // The README names a place for the audit that the service may write to, and purge takes it away.
    let readme = fs::read_to_string(at("README.md")).unwrap();
    let audit = readme.split("audit =").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap();
    let folder = audit.strip_prefix("/var/log/").and_then(|path| path.split_once('/')).unwrap().0;
    assert!(unit.lines().any(|line| line == format!("LogsDirectory={folder}")), "{folder}");
    assert!(fs::read_to_string(at("systemd/debian/postrm")).unwrap().contains(&format!(" /var/log/{folder} ")));
    // The log says who acts at the socket.
    assert!(!unit.lines().any(|line| line.starts_with("PrivateUsers")), "{unit}");
    // Without a file named there, /etc/registry-mirror/mirror.toml is what is read.
    assert!(!unit.lines().any(|line| line.starts_with("Environment")), "{unit}");
}
