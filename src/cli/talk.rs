//! What a command says and how it ends: data to stdout, talk to stderr, and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use super::{colour, columns};
use crate::documents::{self, Code, Document, Error};
use crate::plain;

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

/// The one table from what went wrong to the exit code.
impl From<Code> for Exit {
    fn from(code: Code) -> Exit {
        match code {
            Code::Usage | Code::Configuration => Exit::Usage,
            Code::Unreachable => Exit::Unreachable,
            Code::NotFound | Code::Nothing => Exit::NotFound,
            Code::Damaged | Code::Hostile | Code::Malformed => Exit::Corrupt,
            Code::Refused => Exit::Refused,
            Code::MethodNotAllowed
            | Code::Forbidden
            | Code::Unauthorized
            | Code::Busy
            | Code::TooLong
            | Code::NoRoom
            | Code::Read
            | Code::Write
            | Code::Gone
            | Code::Store
            | Code::Metadata
            | Code::Failed => Exit::Failed,
        }
    }
}

/// How much is said, and how it looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    /// Nothing but data, warnings and errors.
    pub(super) quiet: bool,
    /// What is of no use unless something is wrong, too.
    pub(super) verbose: bool,
    /// Whether data for people are coloured.
    pub(super) colours_data: bool,
    /// Whether talk is.
    pub(super) colours_talk: bool,
}

/// Decided once, by flags that all commands have.
static MANNER: OnceLock<Manner> = OnceLock::new();

/// Talks like this from now on.
pub(super) fn behave(manner: Manner) {
    // A second command in one process talks like the first.
    let _ = MANNER.set(manner);
}

fn manner() -> Manner {
    MANNER.get().copied().unwrap_or_default()
}

/// Whether nothing is to be said of how it goes.
pub(super) fn is_quiet() -> bool {
    manner().quiet
}

/// Tells what went wrong: people on stderr, and with `json` scripts on stdout.
pub(super) fn fail(error: &Error, json: bool) -> Exit {
    complain(error);
    if json {
        // Nobody is left to hear that this cannot be written either.
        let _ = print_document(error);
    }
    error.code.into()
}

/// Tells people what went wrong; of a configuration as `check` does.
pub(super) fn complain(error: &Error) {
    if error.message.is_empty() {
        return;
    }
    if !error.problems.is_empty() {
        return error.problems.iter().for_each(|problem| insist(&format!("error: {}", problem.text.join("\n"))));
    }
    insist(&format!("error: {}", error.message));
    if let Some(hint) = &error.hint {
        insist(hint);
    }
}

/// Writes a line of talk, unless only errors are wanted.
pub(super) fn say(line: &str) {
    if !manner().quiet {
        insist(line);
    }
}

/// Writes a line of talk that is of use to whoever finds out what is wrong.
pub(super) fn explain(line: &str) {
    if manner().verbose {
        insist(line);
    }
}

/// Writes a line that has to be read: a warning, an error. That nobody listens is no reason to stop.
pub(super) fn insist(line: &str) {
    let line = plain::lines(line);
    let painted = manner().colours_talk.then(|| colour::paint(&line));
    let _ = writeln!(io::stderr().lock(), "{}", painted.as_deref().unwrap_or(&line));
}

/// Writes a line of data for people.
pub(super) fn print(line: &str) -> Result<(), Error> {
    let line = plain::lines(line);
    if manner().colours_data { write(&colour::paint(&line)) } else { write(&line) }
}

/// Writes lines of data for people as they fit into their terminal.
pub(super) fn print_fitted(lines: &str) -> Result<(), Error> {
    let lines = plain::lines(lines);
    let painted = if manner().colours_data { colour::paint(&lines) } else { lines.into_owned() };
    match columns::of_terminal() {
        Some(columns) => write(&columns::fitted(&painted, columns)),
        None => write(&painted),
    }
}

/// Writes lines of ours, in which nothing comes from outside.
pub(super) fn print_raw(lines: &str) -> Result<(), Error> {
    write(lines)
}

/// Writes a line of JSON.
pub(super) fn print_json(line: &str) -> Result<(), Error> {
    write(&plain::json(line))
}

/// Writes a document.
pub(super) fn print_document(document: &impl Document) -> Result<(), Error> {
    print_json(&documents::line(document))
}

/// Clears a terminal and goes to its top.
pub(super) fn clear() -> Result<(), Error> {
    const CLEAR: &[u8] = b"\x1b[2J\x1b[H";
    io::stdout().lock().write_all(CLEAR).map_err(unwritable)
}

fn write(line: &str) -> Result<(), Error> {
    writeln!(io::stdout().lock(), "{line}").map_err(unwritable)
}

/// Whoever reads no more needs no word of it.
fn unwritable(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(Code::Write, "");
    }
    Error::new(Code::Write, format!("standard output cannot be written: {error}"))
}
