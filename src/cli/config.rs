//! `registry-mirror config`: what is in force and from where, what can be said, where the file is looked for.

use std::path::PathBuf;

use clap::Subcommand;

use super::talk::{print_document, print_raw};
use super::{Exit, environment, print};
use crate::config::{Config, Overrides, file};
use crate::documents::{Code, ConfigPaths, ConfigSchema, Configuration, Error, FilePlace};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all settings with the values that are in force, as a file
    Show(Show),
    /// Write the JSON Schema of the file, for editors
    Schema(Json),
    /// Show where the file is looked for, and which one is read
    Paths(Paths),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Say where each was set
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    paths: Paths,
}

#[derive(Debug, clap::Args)]
struct Paths {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    as_json: Json,
}

#[derive(Debug, clap::Args)]
struct Json {
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    match &args.command {
        Command::Show(args) => show(args),
        Command::Schema(args) => schema(args),
        Command::Paths(args) => paths(args),
    }
}

fn show(Show { origin, paths }: &Show) -> Result<Exit, Error> {
    let effective = Config::load(paths.config.as_deref(), environment()?, Overrides::default())?.effective;
    if paths.as_json.json {
        print_document(&Configuration::from(&effective))?;
    } else {
        print(effective.to_toml(*origin).trim_end())?;
    }
    Ok(Exit::Done)
}

fn schema(Json { json }: &Json) -> Result<Exit, Error> {
    let schema = file::schema();
    if *json {
        print_document(&ConfigSchema(schema))?;
    } else {
        let text =
            serde_json::to_string_pretty(&schema).map_err(|error| Error::new(Code::Failed, error.to_string()))?;
        print_raw(&text)?;
    }
    Ok(Exit::Done)
}

fn paths(Paths { config, as_json }: &Paths) -> Result<Exit, Error> {
    let places = Config::places(config.as_deref(), environment()?);
    let files = places.into_iter().map(|place| FilePlace {
        path: place.path.display().to_string(),
        exists: place.exists,
        used: place.used,
        trouble: place.trouble,
    });
    let valid = Config::load(config.as_deref(), environment()?, Overrides::default()).ok();
    let store = valid.as_ref().map(|config| config.store.path.display().to_string());
    let admin_socket = valid.and_then(|config| Some(config.server.admin_socket?.display().to_string()));
    let paths = ConfigPaths { files: files.collect(), store, admin_socket };
    if as_json.json {
        print_document(&paths)?;
    } else {
        print(&described(&paths))?;
    }
    Ok(Exit::Done)
}

fn described(ConfigPaths { files, store, admin_socket }: &ConfigPaths) -> String {
    let state = |place: &FilePlace| match (&place.trouble, place.used, place.exists) {
        (Some(why), true, _) => format!("to be read, and cannot be: {why}"),
        (Some(why), false, _) => format!("not read, and could not be: {why}"),
        (None, true, true) => "read".to_owned(),
        (None, true, false) => "named, and not there".to_owned(),
        (None, false, true) => "not read".to_owned(),
        (None, false, false) => "not there".to_owned(),
    };
    let unknown = || "unknown, the configuration is not valid".to_owned();
    let mut lines: Vec<_> = files.iter().map(|place| format!("file    {}: {}", place.path, state(place))).collect();
    lines.push(format!("store   {}", store.clone().unwrap_or_else(unknown)));
    lines.push(format!(
        "socket  {}",
        admin_socket.clone().unwrap_or_else(|| store.as_ref().map_or_else(unknown, |_| "off".to_owned()))
    ));
    lines.join("\n")
}
