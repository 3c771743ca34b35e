//! The binary: what is typed goes to the command line, what comes of it becomes the exit code.

use std::process::ExitCode;

use registry_mirror::cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os()).into()
}
