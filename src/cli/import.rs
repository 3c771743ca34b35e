//! `registry-mirror import`: take in what another mirror, or another tool, has written into a file.
//!
//! The daemon does it while pulls go on; on a store that no daemon uses it is done here. Running it again goes on where it stopped.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::client::Remote;
use super::store::{Place, StoreArgs};
use super::{Exit, export, print, say, show};
use crate::bundle::import::{self, Fate, Intake};
use crate::bundle::{ImportError, Imported, Receipt, Rest};
use crate::daemon::store::OpenedStore;
use crate::oci::{Digest, ImageName};

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

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let place = args.store.place()?;
    let entered = if let Place::Store(_, runtime) = &place { Some(runtime.enter()) } else { None };
    let mut report = Report { bundles: Vec::new() };
    let mut exit = Exit::Done;
    for file in &args.files {
        match take_in(file, args, &place) {
            Ok(imported) => {
                exit = worse(exit, tell(file, &imported, args.store.at.json));
                report.bundles.push(Bundle { file: file.clone(), imported });
            }
            Err(failed) => {
                exit = failed;
                break;
            }
        }
    }
    if let Some(path) = &args.receipt {
        let receipt = receipt(&place, path)?;
        let unwritable = |error: io::Error| failed(path, &ImportError::Read(error));
        export::whole(path, |file| write!(file, "{receipt}").map_err(unwritable))?;
    }
    drop(entered);
    drop(place);
    if args.store.at.json {
        let printed = serde_json::to_string(&report).map_or(Exit::Failed, |json| print(&json));
        exit = worse(exit, printed);
    }
    Ok(exit)
}

fn take_in(path: &Path, args: &Args, place: &Place) -> Result<Imported, Exit> {
    let (source, length): (Box<dyn Read + Send>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(path).map_err(|error| failed(path, &ImportError::Read(error)))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(file), length)
    };
    let bar = show::bar(length, !args.store.at.json);
    let source = bar.wrap_read(source);
    let imported = match place {
        Place::Store(OpenedStore { stores, budget, .. }, runtime) => {
            let rest = Rest { blobs: Arc::clone(&stores.blobs), budget: *budget };
            let intake = Intake { space: Some(&rest), name: args.name.as_ref() };
            import::import(stores, source, &intake, runtime.handle()).map_err(|error| failed(path, &error))
        }
        Place::Remote(daemon) => send(path, args, source, daemon),
    };
    bar.finish_and_clear();
    imported
}

/// Has the daemon take in a bundle.
fn send(path: &Path, args: &Args, source: impl Read + Send + 'static, daemon: &Remote) -> Result<Imported, Exit> {
    let query = args.name.as_ref().map_or_else(String::new, |name| {
        let mut query = url::form_urlencoded::Serializer::new("?".to_owned());
        query.append_pair("name", &name.to_string()).finish()
    });
    let (status, said) = daemon.import(source, &query)?;
    if !status.is_success() {
        say(&format!("error: {}: {}", path.display(), said["error"].as_str().unwrap_or_else(|| status.as_str())));
        return Err(if status == StatusCode::UNPROCESSABLE_ENTITY { Exit::Corrupt } else { Exit::Failed });
    }
    serde_json::from_value(said).map_err(|error| {
        say(&format!("error: {}: the daemon's answer cannot be read: {error}", path.display()));
        Exit::Failed
    })
}

/// What is stored now.
fn receipt(place: &Place, path: &Path) -> Result<Receipt, Exit> {
    #[derive(Deserialize)]
    struct Stored {
        receipt: Vec<Digest>,
    }
    match place {
        Place::Store(OpenedStore { stores, .. }, runtime) => {
            import::receipt(stores, runtime.handle()).map_err(|error| failed(path, &error))
        }
        Place::Remote(daemon) => Ok(daemon.get::<Stored>("receipt")?.receipt.into_iter().collect()),
    }
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
