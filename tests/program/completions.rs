//! Completions, each tried in its shell: commands, their options, and values.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::operate::Site;
use super::requirements::{DEMAND, demanded, find, say};

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// What is typed up to the key for completion, and what has to be offered then.
const TYPED: [(&str, &str); 9] = [
    ("registry-mirror ver", "verify"),
    ("registry-mirror --he", "--help"),
    ("registry-mirror verify --re", "--repair"),
    ("registry-mirror pull redis:7 --pl", "--platform"),
    ("registry-mirror serve --off", "--offline"),
    ("registry-mirror images --js", "--json"),
    ("registry-mirror verify --repair --ra", "--rate"),
    ("registry-mirror config sh", "show"),
    ("registry-mirror config show --or", "--origin"),
];
/// The same for values.
const VALUES: [(&str, &str); 2] =
    [("registry-mirror completions fi", "fish"), ("registry-mirror --color al", "always")];

/// Runs `offered` for all that is typed, with the completions of this shell in a file, if it is here; then with the
/// file that the packages have for it, by name.
fn try_in(shell: &str, packaged: &str, offered: impl Fn(&Path, &str) -> Vec<String>) {
    if find(shell).is_none() {
        assert!(!demanded(), "{DEMAND}=1, but {shell} is missing");
        return say(&format!("skipped the completions of {shell}, which is not here"));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("completions.{shell}"));
    let written = Command::new(BINARY).args(["completions", shell]).output().unwrap();
    fs::write(&file, written.stdout).unwrap();
    for (typed, expected) in TYPED.into_iter().chain(VALUES) {
        let offered = offered(&file, typed);
        assert!(offered.iter().any(|word| word == expected), "{shell}: {typed}: {offered:?}");
    }
    // What stands there already is not offered once more, nor for another command.
    for typed in ["registry-mirror completions fish z", "registry-mirror pull z", "registry-mirror z"] {
        let offered = if shell == "bash" { Vec::new() } else { offered(&file, typed) };
        assert!(offered.iter().all(|word| word != "zsh"), "{shell}: {typed}: {offered:?}");
    }
    let (typed, expected) = TYPED[2];
    let offered = offered(&Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/completions").join(packaged), typed);
    assert!(offered.iter().any(|word| word == expected), "{packaged}: {typed}: {offered:?}");
}

/// Where programs are looked for, the one that is tested first.
fn path() -> String {
    let folder = Path::new(BINARY).parent().unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// What a script for a shell prints, by lines.
fn printed(command: &mut Command) -> Vec<String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    // What the shell itself does when the key is pressed.
    const SCRIPT: &str = r#"
        source "$1"; shift
        registered=$(complete -p registry-mirror)
        function=${registered#*-F }; function=${function%% *}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    try_in("bash", "registry-mirror.bash", |file, typed| {
        let mut bash = Command::new("bash");
        printed(bash.env("PATH", path()).args(["--norc", "-c", SCRIPT, "bash"]).arg(file).args(typed.split(' ')))
    });
}

#[test]
fn fish_completes_commands_options_and_values() {
    const SCRIPT: &str = "source $argv[1]; complete -C $argv[2]";
    try_in("fish", "registry-mirror.fish", |file, typed| {
        let home = tempfile::tempdir().unwrap();
        let mut fish = Command::new("fish");
        let lines = printed(
            fish.env("HOME", home.path()).env("PATH", path()).args(["--no-config", "-c", SCRIPT]).arg(file).arg(typed),
        );
        lines.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    });
}

/// What zsh would add to the list, written down: only its line editor completes, and that wants a terminal.
const ZSH: &str = r#"
    zmodload zsh/zpty
    : >"$3"
    zpty shell zsh -f -i
    zpty -w shell "
        PROMPT=
        autoload -Uz compinit; compinit -u -D
        source ${(q)1}
        compadd() {
            if [[ \"\$*\" == *-(O|D|A)\ * ]]; then builtin compadd \"\$@\"; return; fi
            local -a noted; builtin compadd -A noted \"\$@\"; print -l -- \$noted >>${(q)3}
        }
        note() { zle complete-word; exit }
        zle -N note; bindkey '^X' note
    "
    zpty -w -n shell "$2"$'\C-x'
    while zpty -r shell line; do :; done
    cat "$3"
"#;

fn offered_by_zsh(file: &Path, typed: &str, path: &str) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let mut zsh = Command::new("zsh");
    let zsh = zsh.env("HOME", home.path()).env("PATH", path).env("TERM", "dumb").args(["-f", "-c", ZSH, "zsh"]);
    printed(zsh.arg(file).arg(typed).arg(home.path().join("offered")))
}

#[test]
fn zsh_completes_commands_options_and_values() {
    try_in("zsh", "_registry-mirror", |file, typed| offered_by_zsh(file, typed, &path()));
}

/// A daemon that holds an image, and a program of our name that asks it.
struct Asked {
    _site: Site,
    folder: tempfile::TempDir,
}

impl Asked {
    fn start() -> Asked {
        let site = Site::start();
        site.ok("pull app:1 --platform linux/amd64");
        let folder = tempfile::tempdir().unwrap();
        let script = format!("#!/bin/sh\nexec {BINARY} \"$@\" --admin {}\n", site.admin);
        let program = folder.path().join("registry-mirror");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Asked { _site: site, folder }
    }

    fn path(&self) -> String {
        format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap())
    }
}

#[test]
fn images_and_upstreams_of_the_running_daemon_are_offered() {
    let asked = Asked::start();
    let path = asked.path();
    let file = |shell: &str| {
        let file = asked.folder.path().join(format!("completions.{shell}"));
        fs::write(&file, Command::new(BINARY).args(["completions", shell]).output().unwrap().stdout).unwrap();
        file
    };
    if find("bash").is_some() {
        let offered = |words: &[&str]| {
            let script = r#"
                source "$1"; shift
                COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
                _registry_mirror_asking "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
                printf '%s\n' "${COMPREPLY[@]}"
            "#;
            let mut bash = Command::new("bash");
            printed(bash.env("PATH", &path).args(["--norc", "-c", script, "bash"]).arg(file("bash")).args(words))
        };
        let has = |words: &[&str], expected: &str| {
            let offered = offered(words);
            assert!(offered.iter().any(|word| word == expected), "{words:?}: {offered:?}");
        };
        has(&["registry-mirror", "inspect", "docker.io/lib"], "docker.io/library/app:1");
        has(&["registry-mirror", "why", "docker.io/library/app", ":", ""], "1");
        has(&["registry-mirror", "doctor", "--upstream", "qu"], "quay.io");
        assert!(!offered(&["registry-mirror", "gc", "docker"]).iter().any(|word| word.contains("app:1")));
    }
    if find("zsh").is_some() {
        for (typed, expected) in [
            ("registry-mirror inspect docker.io/lib", "docker.io/library/app:1"),
            ("registry-mirror doctor --upstream qu", "quay.io"),
        ] {
            let offered = offered_by_zsh(&file("zsh"), typed, &path);
            assert!(offered.iter().any(|word| word == expected), "{typed}: {offered:?}");
        }
    }
    if find("fish").is_some() {
        let offered = |typed: &str| {
            let script = "source $argv[1]; complete -C $argv[2]";
            let mut fish = Command::new("fish");
            fish.env("HOME", asked.folder.path()).env("PATH", &path).args(["--no-config", "-c", script]);
            printed(fish.arg(file("fish")).arg(typed))
        };
        for (typed, expected) in [
            ("registry-mirror inspect docker.io/lib", "docker.io/library/app:1"),
            ("registry-mirror doctor --upstream qu", "quay.io"),
        ] {
            let offered = offered(typed);
            assert!(offered.iter().any(|word| word.starts_with(expected)), "{typed}: {offered:?}");
        }
    }
}
