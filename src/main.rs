//! Wires the adapters to the ports.

use std::process::ExitCode;

use registry_mirror::cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os(), |_config| Err::<(), _>("serve is not wired yet")).into()
}
