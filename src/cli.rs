//! The command line: what is typed becomes a command, and how it went becomes an exit code.
//!
//! The only place, with `cli/`, that knows clap. One file per command. Data goes to stdout, talk to
//! stderr; the exit codes are [`Exit`] and scripts depend on them. Nothing here does the work of the
//! daemon: `serve` runs it, and nearly all others ask it.

mod banner;
pub mod bench;
mod check;
mod client;
mod export;
mod freeze;
mod gc;
mod healthcheck;
mod history;
mod images;
mod import;
mod inspect;
mod manual;
mod names;
mod pin;
mod pull;
mod ready;
mod serve;
mod show;
mod status;
mod store;
mod talk;
mod verify;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use talk::{complain, either, print, say};

pub use talk::Exit;

/// A pull-through caching mirror for container registries.
#[derive(Debug, Parser)]
#[command(
    name = "registry-mirror",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or \
    configuration, 3 partly done, 4 daemon not reachable, 5 not found or not ready, 6 content failed verification, \
    7 upstream refused."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the images that are stored
    Images(images::Args),
    /// Look at one image closely
    Inspect(inspect::Args),
    /// Fetch images ahead of time
    Pull(pull::Args),
    /// Say whether images can be pulled with no network
    Ready(ready::Args),
    /// Keep images whatever happens
    Pin(pin::Args),
    /// Undo pin
    Unpin(pin::Args),
    /// Hold a tag still
    Freeze(freeze::Freeze),
    /// Undo freeze
    Unfreeze(freeze::Unfreeze),
    /// Forget images; their bytes go with the next gc
    Forget(pin::Args),
    /// Delete what no name leads to
    Gc(gc::Args),
    /// Read everything that is stored and compare it with its name
    Verify(verify::Args),
    /// Show every digest that a tag was seen with
    History(history::Args),
    /// Show how the daemon is doing
    Status(status::Args),
    /// Say whether the daemon can serve
    Healthcheck(healthcheck::Args),
    /// Write completions for a shell
    Completions(manual::Completions),
    /// Write the manual
    Man(manual::Man),
    /// Run the mirror; no file is needed
    Serve(serve::Args),
    /// Check a configuration without running it: no network, nothing is written
    Check(check::Args),
    /// Measure pulls through a mirror, cold and warm, against pulls past it
    Bench(Box<bench::Args>),
    /// Write images into a file, for another mirror or for an engine
    Export(export::Args),
    /// Take in images from a file, every byte verified
    Import(import::Args),
}

/// Parses `args` (with the name of the program first) and runs the command.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let command = match CommandLine::try_parse_from(args) {
        Ok(line) => line.command,
        Err(talk) => {
            let _ = talk.print();
            return if talk.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match command {
        Command::Images(args) => either(images::run(&args)),
        Command::Inspect(args) => either(inspect::run(&args)),
        Command::Pull(args) => either(pull::run(&args)),
        Command::Ready(args) => either(ready::run(&args)),
        Command::Pin(args) => either(pin::run(&args, "pin", "pinned", "not pinned")),
        Command::Unpin(args) => either(pin::run(&args, "unpin", "no longer pinned", "was not pinned")),
        Command::Freeze(args) => either(freeze::freeze(&args)),
        Command::Unfreeze(args) => either(freeze::unfreeze(&args)),
        Command::Forget(args) => either(pin::run(&args, "forget", "forgotten", "was not known")),
        Command::Gc(args) => either(gc::run(&args)),
        Command::Verify(args) => either(verify::run(&args)),
        Command::History(args) => either(history::run(&args)),
        Command::Status(args) => either(status::run(&args)),
        Command::Healthcheck(args) => either(healthcheck::run(&args)),
        Command::Completions(args) => either(manual::completions(&args)),
        Command::Man(args) => either(manual::man(&args)),
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Export(args) => either(export::run(&args)),
        Command::Import(args) => either(import::run(&args)),
    }
}

/// The environment as text. A variable that is not UTF-8 is left out, except that one of ours is a
/// mistake to be told.
fn environment() -> Result<Vec<(String, String)>, Exit> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("REGISTRY_MIRROR_") => {
                say(&format!("error: {name} is not UTF-8"));
                return Err(Exit::Usage);
            }
            _ => {}
        }
    }
    Ok(variables)
}

/// The query that names an image.
fn query(image: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair("image", image).finish()
}
