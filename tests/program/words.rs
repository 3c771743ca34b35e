//! The words of the program: one order, one system of units, one and many, and hints apart from messages.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::operate::Site;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// Runs a command with this configuration; exit code, stdout and stderr.
fn run(line: &str, config: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirror.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(BINARY);
    command
        .args(line.split(' '))
        .env_clear()
        .env("HOME", folder.path())
        .env("REGISTRY_MIRROR_CONFIG", file)
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_begins_with_what_runs_the_mirror_and_keeps_together_what_belongs_together() {
    let (code, out, _) = run("--help", "");
    // Groups of lines, each below its heading.
    let commands = out.lines().skip_while(|line| !line.starts_with("Run it:")).take_while(|line| *line != "Options:");
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let names: Vec<_> = names.collect();
    let order = "serve check setup config reload healthcheck status page doctor why access images inspect history pull ready pin unpin \
                 freeze unfreeze forget gc verify export import store bench version completions man";
    assert_eq!((code, names.join(" ")), (0, order.to_owned()));
}

#[test]
fn an_error_document_has_its_hint_apart_from_its_message() {
    for command in ["status", "images", "serve", "export --all -o x.tar"] {
        for (config, message, hint) in [
            ("[store]\nmax_sise = \"1GB\"\n", "unknown key `max_sise`", "did you mean `max_size`?"),
            ("[server]\nsend_timeout = \"soon\"\n[store]\nmax_sise = \"1GB\"\n", "soon", "did you mean `max_size`?"),
        ] {
            let (code, out, err) = run(&format!("{command} --json"), config);
            // `serve` has no documents.
            if command == "serve" {
                assert!(code == 2 && err.contains("unexpected argument"), "{err}");
                let (code, _, err) = run(command, config);
                assert!(code == 2 && err.contains(message) && err.lines().any(|line| line.contains(hint)), "{err}");
                continue;
            }
            let said: Value = serde_json::from_str(&out).unwrap();
            let told = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
            assert_eq!((code, told("code").as_str()), (2, "configuration"), "{command}: {err}");
            assert!(told("message").contains(message) && told("hint").contains(hint), "{command}: {out}");
            assert!(!told("message").contains("hint:") && !told("message").contains(hint), "{command}: {out}");
            assert!(err.contains(message) && err.contains(hint), "{command}: {err}");
        }
    }
}

#[test]
fn one_thing_is_one_thing_and_sizes_are_in_one_system_of_units() {
    let site = Site::start();
    site.ok("pull other:2");
    let bundle = site.folder.path().join("bundle.tar").display().to_string();
    let mut said = String::new();
    for command in ["images", "inspect other:2", "status", "gc", "verify", &format!("export other:2 -o {bundle}")] {
        let (_, out, err) = site.run(command);
        said += &(out + &err);
    }
    said += &site.run(&format!("import {bundle}")).2;
    for wrong in ["1 blobs", "1 images", "1 digests", "1 parts", " kB", " MB", " GB"] {
        assert!(!said.contains(wrong), "{wrong}: {said}");
    }
    assert!(said.contains("1 image, 3 blobs") && said.contains("1 digest, see") && said.contains("KiB"), "{said}");
}

#[test]
fn bench_measures_the_configured_mirror_where_none_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!("[server]\nlisten = [\"{free}\", \"127.0.0.1:0\"]\n");
    let (code, _, err) = run("bench app:1 --direct none --admin none", &config);
    assert!(code != 0 && err.contains(&free.to_string()), "{code} {err}");
}
