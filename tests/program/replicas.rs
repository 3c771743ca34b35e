//! `examples/replicas/start` says what is missing, and ends. What it starts once all is there `.ci/long replicas` pulls through.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A program that does what these lines of a shell do.
fn program(path: &Path, lines: &str) {
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// In a folder with programs that stand in for the true ones.
fn start(folder: &Path, vars: &[(&str, &str)]) -> Output {
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/replicas/start");
    let mut command = Command::new("timeout");
    command.arg("60").arg(script).arg("data").current_dir(folder).env("PATH", path);
    command.env_remove("MORE").envs(vars.iter().copied()).output().unwrap()
}

fn folder(mirror: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    for name in ["versitygw", "haproxy"] {
        program(&folder.path().join("bin").join(name), "exit 9");
    }
    program(&folder.path().join("mirror"), mirror);
    folder
}

fn assert_says(output: &Output, what: &str) {
    let (said, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{talk}");
    assert!(said.is_empty() && talk.contains(what), "{said}{talk}");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let folder = folder("exit 0");
    for (vars, missing) in [
        ([("VERSITYGW", "no-versitygw"), ("REGISTRY_MIRROR", "./mirror")], "no program no-versitygw: "),
        ([("VERSITYGW", "versitygw"), ("REGISTRY_MIRROR", "./no-mirror")], "no program ./no-mirror: "),
    ] {
        assert_says(&start(folder.path(), &vars), missing);
    }
}

#[test]
fn paths_may_be_relative_and_what_a_replica_says_to_its_file_is_told() {
    let folder = folder("echo \"$0 $*\" >&2; exit 2");
    let output = start(folder.path(), &[("REGISTRY_MIRROR", "./mirror")]);
    let here = folder.path().canonicalize().unwrap();
    assert_says(&output, &format!("{} check", here.join("mirror").display()));
    let file = fs::read_to_string(here.join("data/replica1.toml")).unwrap();
    for line in file.lines().filter(|line| line.starts_with("path") || line.contains("file:")) {
        assert!(line.contains(&format!("{}/data/", here.display())), "{line}");
    }
}

#[test]
fn ports_that_are_taken_are_named() {
    let folder = folder("exit 0");
    // Somebody else may have it: then it is taken as well.
    let _taken = TcpListener::bind("127.0.0.1:5080");
    let output = start(folder.path(), &[("REGISTRY_MIRROR", "./mirror")]);
    assert_says(&output, "5080");
}
