//! The command line: what is typed becomes a command, and how it went becomes an exit code.
//!
//! The only place, with `cli/`, that knows clap. One file per command. Data goes to stdout, talk to
//! stderr; the exit codes are [`Exit`] and scripts depend on them. Nothing here does the work of the
//! daemon: `serve` runs it, and nearly all others ask it.

mod access;
mod banner;
pub mod bench;
mod bucket;
mod check;
mod client;
mod colour;
mod columns;
mod config;
mod doctor;
mod export;
mod freeze;
mod gc;
mod healthcheck;
mod help;
mod history;
mod images;
mod import;
mod inspect;
mod manual;
mod names;
mod page;
mod pin;
mod pull;
mod ready;
mod reload;
mod serve;
mod setup;
mod show;
mod status;
mod store;
mod talk;
mod verify;
mod version;
mod why;

use std::ffi::OsString;

use clap::{FromArgMatches as _, Parser, Subcommand};

use crate::documents::{Code, Error, Forgotten, Pinned, Unpinned};
use colour::Color;
use talk::{Manner, explain, insist, print, say};

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
    #[command(flatten)]
    tone: Tone,
}

/// How a command talks.
#[derive(Debug, clap::Args)]
struct Tone {
    /// Say nothing but data, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more of what is done
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Colour what people read; JSON never is
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t)]
    color: Color,
}

impl Tone {
    fn manner(&self) -> Manner {
        Manner {
            quiet: self.quiet,
            verbose: self.verbose,
            colours_data: self.color.paints(&std::io::stdout()),
            colours_talk: self.color.paints(&std::io::stderr()),
        }
    }

    /// The level of a daemon's log, where it is given. What others do in it is of use to nobody who runs it.
    const fn level(&self) -> Option<&'static str> {
        match (self.quiet, self.verbose) {
            (true, _) => Some("warn"),
            (false, true) => Some("info,registry_mirror=debug"),
            (false, false) => None,
        }
    }
}

/// What can be done; `help` has the order.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror; no file is needed
    Serve(serve::Args),
    /// Check a configuration without running it: no network, nothing is written
    Check(check::Args),
    /// Look at the configuration
    Config(config::Args),
    /// Show how the daemon is doing
    Status(status::Args),
    /// Give the address of the page, with a login in it that is good once
    Page(page::Args),
    /// Say what is wrong, and what to do about it
    Doctor(doctor::Args),
    /// Say what a pull of an image would get now, and why
    Why(why::Args),
    /// Tell a client of the mirror, see that it listens, take it back
    Setup(Box<setup::Args>),
    /// Look at who may pull what
    Access(access::Args),
    /// Fetch images ahead of time
    Pull(pull::Args),
    /// Say whether images can be pulled with no network
    Ready(ready::Args),
    /// List the images that are stored on this disk
    Images(images::Args),
    /// Look at one image closely
    Inspect(inspect::Args),
    /// Show every digest that a tag was seen with
    History(history::Args),
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
    /// Write images into a file, for another mirror or for an engine
    Export(export::Args),
    /// Take in images from a file, every byte verified
    Import(import::Args),
    /// Look at the bucket behind the store
    Store(bucket::Args),
    /// Measure pulls through a mirror, cold and warm, against pulls past it
    Bench(Box<bench::Args>),
    /// Have the daemon read its configuration again, all of it or nothing
    Reload(reload::Args),
    /// Say whether the daemon can serve
    Healthcheck(healthcheck::Args),
    /// Say what this program is
    Version(version::Args),
    /// Write completions for a shell
    Completions(manual::Completions),
    /// Write the manual
    Man(manual::Man),
}

/// Parses `args` (with the name of the program first) and runs the command.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    // Also for what cannot be parsed: a script that asked for JSON gets it.
    let json = args.iter().any(|arg| arg == "--json");
    let parser = help::program().color(Color::typed(&args).of_help());
    let parsed = parser.try_get_matches_from(args).and_then(|matches| CommandLine::from_arg_matches(&matches));
    let CommandLine { command, tone } = match parsed {
        Ok(line) => line,
        Err(talk) => return refuse(&talk, json),
    };
    talk::behave(tone.manner());
    let went = match command {
        Command::Images(args) => images::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Ready(args) => ready::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Pin(args) => pin::run::<Pinned>(&args),
        Command::Unpin(args) => pin::run::<Unpinned>(&args),
        Command::Freeze(args) => freeze::freeze(&args),
        Command::Unfreeze(args) => freeze::unfreeze(&args),
        Command::Forget(args) => pin::run::<Forgotten>(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::History(args) => history::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Page(args) => page::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Serve(args) => serve::run(&args, tone.level(), tone.color),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Access(args) => access::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Store(args) => bucket::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Import(args) => import::run(&args),
    };
    went.unwrap_or_else(|error| talk::fail(&error, json))
}

/// Says what clap has to say: help, or what cannot be parsed.
fn refuse(talk: &clap::Error, json: bool) -> Exit {
    let _ = talk.print();
    if !talk.use_stderr() {
        return Exit::Done;
    }
    if json {
        let text = talk.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let (message, rest) = text.split_once("\n\n").unwrap_or((text, "see --help"));
        let _ = talk::print_document(&Error::new(Code::Usage, message).with_hint(rest.trim_end()));
    }
    Exit::Usage
}

/// The environment as text. A variable that is not UTF-8 is left out, except that one of ours is a
/// mistake to be told.
fn environment() -> Result<Vec<(String, String)>, Error> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("REGISTRY_MIRROR_") => {
                return Err(Error::new(Code::Configuration, format!("{name} is not UTF-8")));
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
