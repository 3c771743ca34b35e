//! `registry-mirror completions` and `man`: what shells and manuals want to know about the commands.

use std::io;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::{CommandLine, Exit};
use crate::documents::{Code, Error};

/// What the shells know the program by.
const NAME: &str = "registry-mirror";

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
    clap_complete::generate(args.shell, &mut CommandLine::command(), NAME, &mut text);
    let text = String::from_utf8_lossy(&text);
    let text = match args.shell {
        // clap_complete 4.6 takes the hyphen in our name for the step to a command there, and finds no options.
        clap_complete::Shell::Bash => text.replace("registry__subcmd__mirror", "registry__mirror"),
        // It ends options where the names of images begin.
        clap_complete::Shell::Zsh => text.replace("'*::", "'*:"),
        clap_complete::Shell::Fish => for_fish(&text),
        _ => text.into_owned(),
    };
    io::Write::write_all(&mut io::stdout().lock(), text.as_bytes())
        .map_err(|error| Error::new(Code::Write, format!("standard output cannot be written: {error}")))?;
    Ok(Exit::Done)
}

/// It is made to see an option that still wants its value, and what commands take beside options.
fn for_fish(text: &str) -> String {
    const PARSED: &str = "argparse -s (__fish_registry_mirror_global_optspecs) -- $cmd";
    let text = text.replace(
        &format!("{PARSED} 2>/dev/null\n"),
        &format!("{PARSED} 2>/dev/null\n    or {PARSED} value 2>/dev/null\n"),
    );
    text + &values_for_fish(&CommandLine::command())
}

/// Lines that offer the values of what commands take beside options, until one of them stands there.
fn values_for_fish(program: &clap::Command) -> String {
    let mut lines = String::new();
    for command in program.get_subcommands() {
        for argument in command.get_positionals() {
            let values: Vec<_> = argument.get_possible_values();
            let values = values.iter().map(|value| value.get_name()).collect::<Vec<_>>().join(" ");
            if !values.is_empty() {
                let here = format!("__fish_registry_mirror_using_subcommand {}", command.get_name());
                let place = format!("{here}; and not __fish_seen_subcommand_from {values}");
                lines += &format!("complete -c {NAME} -n \"{place}\" -f -a \"{values}\"\n");
            }
        }
    }
    lines
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
