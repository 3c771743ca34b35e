//! `registry-mirror page`: the page's address, with a login in it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::Exit;
use super::client::{At, Remote};
use super::talk::{explain, say};
use crate::documents::{Code, Error, PageLogin};

/// What opens files on a desktop.
const OPENER: &str = "xdg-open";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Open it in the browser
    #[arg(long, conflicts_with = "json")]
    open: bool,
    #[command(flatten)]
    at: At,
}

/// Asks for a login at the socket, and says the address that has it, or opens it.
pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = Remote::find(&args.at)?.post::<PageLogin>("page", &serde_json::json!({}))?;
    if args.open {
        open(&said.document.address)?;
    } else {
        said.print(args.at.json, |page| page.address.clone())?;
        explain(&format!("it is good once, within {} s", said.document.lasts_seconds));
    }
    Ok(Exit::Done)
}

/// Hands the address to the browser in a file that only its user may read: whoever lists processes sees
/// arguments.
fn open(address: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new(Code::Write, format!("the file for the browser: {error}"));
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, Into::into);
    let file = tempfile::Builder::new().prefix("registry-mirror-page-").suffix(".html").tempfile_in(folder);
    let mut file = file.map_err(failed)?;
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0; url={address}\"><title>registry-mirror</title>\n"
    );
    file.write_all(page.as_bytes()).map_err(failed)?;
    let (_, path) = file.keep().map_err(|error| failed(error.error))?;
    let opened = Command::new(OPENER).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if opened.is_ok_and(|status| status.success()) {
        say("the page is in your browser");
        return Ok(());
    }
    let _ = std::fs::remove_file(path);
    let message = format!("{OPENER} opens no browser here");
    Err(Error::new(Code::Failed, message).with_hint("without --open the address is printed: registry-mirror page"))
}
