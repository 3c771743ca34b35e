//! `registry-mirror access`: who may pull what, by the configuration. No daemon is asked, and no upstream.

use std::path::PathBuf;

use clap::Subcommand;

use super::talk::print_document;
use super::{Exit, environment, print};
use crate::config::{Config, Overrides};
use crate::documents::{Code, Error, Explanation};
use crate::oci::ImageName;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which line decides whether a caller may pull an image
    Explain(Explain),
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// Who: user:NAME, cert:NAME, oidc:SUB (oidc:ISSUER:SUB where issuers have names), or anonymous
    #[arg(value_name = "CALLER")]
    caller: String,
    /// The image, such as registry.example/acme/app:1
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let Command::Explain(Explain { caller, image, config, json }) = &args.command;
    let usage = |error: String| Error::new(Code::Usage, error);
    let image: ImageName = image.parse().map_err(|error| usage(format!("{image}: {error}")))?;
    let config = Config::load(config.as_deref(), environment()?, Overrides::default())?;
    let explained = config.explain(caller, &image).map_err(usage)?;
    if *json {
        print_document(&explained)?;
    } else {
        print(&told(&explained))?;
    }
    Ok(Exit::Done)
}

fn told(Explanation { caller, image, allowed, rule, number, how, .. }: &Explanation) -> String {
    let verb = match allowed {
        Some(true) => "may",
        Some(false) => "may not",
        None => "may perhaps",
    };
    let line = match (rule, number) {
        (Some(rule), Some(number)) if *rule != number.to_string() => format!(" [[access.grant]] {number}, {rule:?}:"),
        (_, Some(number)) => format!(" [[access.grant]] {number}:"),
        _ => String::new(),
    };
    format!("{caller} {verb} pull {image}:{line} {how}")
}
