//! `registry-mirror completions` and `man`: what shells and manuals want to know about the commands.

use std::io;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::{CommandLine, Exit};
use crate::documents::{Code, Error};

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// A folder for one page per command. Without it: the main page on stdout
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "registry-mirror", &mut text);
    io::Write::write_all(&mut io::stdout().lock(), &text)
        .map_err(|error| Error::new(Code::Write, format!("standard output cannot be written: {error}")))?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &Man) -> Result<Exit, Error> {
    let written = match &args.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(CommandLine::command(), folder))
        }
        None => clap_mangen::Man::new(CommandLine::command()).render(&mut io::stdout().lock()),
    };
    written.map_err(|error| Error::new(Code::Write, format!("the manual cannot be written: {error}")))?;
    Ok(Exit::Done)
}
