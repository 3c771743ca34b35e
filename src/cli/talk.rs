//! What a command says and how it ends: data to stdout, talk to stderr, and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::ConfigError;

/// How a command went. Codes may be added; one that is not known here means "failed".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Done for a part of what was asked.
    Partly = 3,
    /// The daemon cannot be reached.
    Unreachable = 4,
    /// Not found, or not ready.
    NotFound = 5,
    /// Content is not what its digest says.
    Corrupt = 6,
    /// Upstream refused.
    Refused = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Tells what is wrong with a configuration.
pub(super) fn complain(error: &ConfigError) -> Exit {
    for problem in &error.problems {
        say(&format!("error: {problem}"));
    }
    Exit::Usage
}

/// Writes a line of talk. That nobody listens is no reason to stop.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes a line of data.
pub(super) fn print(line: &str) -> Exit {
    match writeln!(io::stdout().lock(), "{line}") {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

pub(super) fn either(went: Result<Exit, Exit>) -> Exit {
    went.unwrap_or_else(|exit| exit)
}
