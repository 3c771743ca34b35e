//! `registry-mirror reload`: the daemon reads its configuration again.

use super::client::{At, Remote};
use super::talk::{complain, print_document};
use super::{Exit, insist};
use crate::documents::{Error, Reloaded, orders};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = match Remote::find(&args.at)?.post::<Reloaded>("reload", &orders::Reload {}) {
        Err(error) if !error.problems.is_empty() => return refused(&error, args.at.json),
        said => said?,
    };
    said.print(args.at.json, |Reloaded { changed, .. }| {
        let lines: Vec<_> = changed.iter().map(ToString::to_string).collect();
        if lines.is_empty() { "nothing changed".to_owned() } else { lines.join("\n") }
    })?;
    let Reloaded { restart, warnings, .. } = &said.document;
    warnings.iter().for_each(|warning| insist(&format!("warning: {warning}")));
    restart.iter().for_each(|key| insist(&format!("{key} stays as it was until the daemon is restarted")));
    Ok(if restart.is_empty() { Exit::Done } else { Exit::Partly })
}

fn refused(error: &Error, json: bool) -> Result<Exit, Error> {
    complain(error);
    insist("the daemon goes on with the settings that it had");
    if json {
        print_document(error)?;
    }
    Ok(error.code.into())
}
