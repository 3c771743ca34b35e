//! `registry-mirror import`: take in what another mirror, or another tool, has written into a file.
//!
//! Works on the store itself when no daemon uses it. Running it again goes on where it stopped.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Serialize;
use tokio::runtime::Handle;

use super::store::{self, OpenStore, OpenedStore, StoreArgs};
use super::{Exit, export, print, say};
use crate::bundle::import::{self, Fate, Intake};
use crate::bundle::{ExportError, ImportError, Imported};
use crate::oci::ImageName;

#[derive(Debug, clap::Args)]
#[command(after_help = "Whoever made the file decides what the tags in it mean: take it only from somebody you trust \
    with that. That all bytes are what their digests say is checked here. Without FILE, --receipt only writes down \
    what is stored.")]
pub(super) struct Args {
    /// File to take in, or - for standard input
    #[arg(value_name = "FILE", required_unless_present = "receipt")]
    files: Vec<PathBuf>,
    /// Name of the image of a file that has one image without a whole name
    #[arg(long, value_name = "IMAGE")]
    name: Option<ImageName>,
    /// Write down what is stored afterwards, for the next export --since
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// The answer for scripts.
#[derive(Serialize)]
struct Report {
    bundles: Vec<Bundle>,
}

#[derive(Serialize)]
struct Bundle {
    file: PathBuf,
    #[serde(flatten)]
    imported: Imported,
}

pub(super) fn run(args: &Args, open: OpenStore) -> Exit {
    execute(args, open).unwrap_or_else(|exit| exit)
}

fn execute(args: &Args, open: OpenStore) -> Result<Exit, Exit> {
    let config = args.store.config()?;
    let runtime = store::runtime()?;
    let entered = runtime.enter();
    let mut opened = open(&config).map_err(|error| export::refused(&error))?;
    let mut report = Report { bundles: Vec::new() };
    let mut exit = Exit::Done;
    for file in &args.files {
        match take_in(file, args, &mut opened, runtime.handle()) {
            Ok(imported) => {
                exit = worse(exit, tell(file, &imported, args.json));
                report.bundles.push(Bundle { file: file.clone(), imported });
            }
            Err(failed) => {
                exit = failed;
                break;
            }
        }
    }
    if let Some(path) = &args.receipt {
        let receipt = import::receipt(&opened.stores, runtime.handle()).map_err(|error| failed(path, &error))?;
        export::whole(path, |mut file| write!(file, "{receipt}").map_err(ExportError::Write))?;
    }
    drop((opened, entered));
    if args.json {
        let printed = serde_json::to_string(&report).map_or(Exit::Failed, |json| print(&json));
        exit = worse(exit, printed);
    }
    Ok(exit)
}

fn take_in(path: &Path, args: &Args, opened: &mut OpenedStore, runtime: &Handle) -> Result<Imported, Exit> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|error| failed(path, &ImportError::Read(error)))?)
    };
    let intake = Intake { room: Some(opened.room), name: args.name.clone() };
    let imported = import::import(&opened.stores, source, &intake, runtime).map_err(|error| failed(path, &error))?;
    opened.room = opened.room.saturating_sub(imported.stored_bytes);
    Ok(imported)
}

fn failed(path: &Path, error: &ImportError) -> Exit {
    say(&format!("error: {}: {error}", path.display()));
    match error {
        ImportError::Hostile { .. } | ImportError::Malformed(_) => Exit::Corrupt,
        _ => Exit::Failed,
    }
}

/// Tells how it went, and what that means for a script.
fn tell(path: &Path, imported: &Imported, quiet: bool) -> Exit {
    if !quiet {
        say(&format!(
            "{}: {} blobs stored, {}; {} were there already",
            path.display(),
            imported.stored,
            ByteSize::b(imported.stored_bytes).display(),
            imported.known
        ));
    }
    for digest in &imported.damaged {
        say(&format!("error: {}: {digest} is damaged; make the bundle again", path.display()));
    }
    let mut exit = if imported.damaged.is_empty() { Exit::Done } else { Exit::Corrupt };
    for image in &imported.images {
        let (name, parts) = (&image.name, image.missing.len());
        match image.fate {
            Fate::Ready if quiet => {}
            Fate::Ready => say(&format!("  {name}: ready")),
            Fate::KeptNewer => say(&format!("  {name}: stored; its tag stays, upstream was asked more recently here")),
            Fate::Incomplete => say(&format!("warning: {name}: {parts} parts are neither in the bundle nor here")),
            Fate::Nameless => say(&format!("warning: {name} has no whole name; give it one with --name IMAGE")),
        }
        if matches!(image.fate, Fate::Incomplete | Fate::Nameless) {
            exit = worse(exit, Exit::Partly);
        }
    }
    exit
}

/// The one that a script must hear of.
fn worse(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::Done, other) => other,
        (Exit::Partly, Exit::Corrupt) => Exit::Corrupt,
        (one, _) => one,
    }
}
