//! The program as a shell runs it, with an environment of its own.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a command with these bytes on its standard input. Exit code, stdout and stderr.
pub(crate) fn run(arguments: &[&str], stdin: &[u8]) -> (i32, Vec<u8>, String) {
    run_at_home("/nonexistent".as_ref(), arguments, stdin)
}

/// The same for who is at home in this folder.
pub(crate) fn run_at_home(home: &Path, arguments: &[&str], stdin: &[u8]) -> (i32, Vec<u8>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
        .env_clear()
        .env("HOME", home)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        // Most commands read nothing, and may end before this is written.
        scope.spawn(move || input.write_all(stdin));
        child.wait_with_output().expect("runs")
    });
    let err = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code().expect("ends by itself"), output.stdout, err)
}
