//! `registry-mirror version`: what this program is and is made from.

use super::talk::print_document;
use super::{Exit, print};
use crate::documents::{Error, Program};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let program = program();
    if args.json {
        print_document(&program)?;
    } else {
        let commit = program.commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
        print(&format!("registry-mirror {}{commit}", program.program))?;
    }
    Ok(Exit::Done)
}

/// What this program is.
pub(super) fn program() -> Program {
    // The package has no features yet.
    let (commit, features) = (option_env!("MADE_FROM_COMMIT").map(str::to_owned), Vec::new());
    Program { program: env!("CARGO_PKG_VERSION").to_owned(), commit, features }
}
