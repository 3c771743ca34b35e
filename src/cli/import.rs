//! `registry-mirror import`: take in what another mirror, or another tool, has written into a file.
//!
//! The daemon does it while pulls go on; on a store that no daemon uses it is done here. Running it again goes on where it stopped.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::store::{IfNone, Place, StoreArgs};
use super::talk::{complain, print_document};
use super::{Exit, export, insist, say, show};
use crate::documents::{Code, Error, Fate, Import, Imported, ImportedFile, StoredReceipt, counted};
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
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    args.receipt.as_deref().map_or(Ok(()), export::can_be_written)?;
    let json = args.store.at.json;
    let if_none = if args.files.is_empty() { IfNone::Tell } else { IfNone::Make };
    let place = args.store.place(if_none)?;
    let mut report = Import::default();
    let mut exit = Exit::Done;
    let mut failed = None;
    for file in &args.files {
        match take_in(file, args, &place) {
            Ok(imported) => {
                exit = worse(exit, tell(file, &imported, json));
                report.bundles.push(ImportedFile { file: file.clone(), imported });
            }
            Err(error) => {
                failed = Some(error.of(file.display()));
                break;
            }
        }
    }
    if let Some(path) = &args.receipt {
        let receipt = match &place {
            Place::Store(opened) => opened.receipt(),
            Place::Remote(remote) => remote.get::<StoredReceipt>("receipt").map(|said| said.document.receipt),
        };
        export::write_receipt(path, &receipt.map_err(|error| error.of(path.display()))?)?;
    }
    match failed {
        Some(error) if report.bundles.is_empty() => return Err(error),
        // What came of the files before it is the document; this one is told to people.
        Some(error) => {
            complain(&error);
            exit = error.code.into();
        }
        None => {}
    }
    if json {
        print_document(&report)?;
    }
    Ok(exit)
}

fn take_in(path: &Path, args: &Args, place: &Place) -> Result<Imported, Error> {
    let (source, length): (Box<dyn Read + Send>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let (file, length) = opened(path)?;
        (Box::new(file), length)
    };
    let bar = show::bar(length, !args.store.at.json);
    let source = bar.wrap_read(source);
    let imported = match place {
        Place::Store(opened) => opened.import(source, args.name.as_ref()),
        Place::Remote(remote) => remote.import(source, &query(args.name.as_ref())),
    };
    bar.finish_and_clear();
    imported
}

/// A bundle, and its length in bytes.
fn opened(path: &Path) -> Result<(File, u64), Error> {
    let unreadable = |error: io::Error| Error::new(Code::Read, format!("the bundle cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let told =
                "it is a folder, and a bundle is a file; of an image layout make one with tar -C FOLDER -cf FILE .";
            Err(Error::new(Code::Read, told.to_owned()))
        }
        metadata => Ok((file, metadata.map_or(0, |metadata| metadata.len()))),
    }
}

/// What comes behind the path, for an image of this name.
fn query(name: Option<&ImageName>) -> String {
    name.map_or_else(String::new, |name| {
        let mut query = url::form_urlencoded::Serializer::new("?".to_owned());
        query.append_pair("name", &name.to_string()).finish()
    })
}

/// Tells how it went, and what that means for a script.
fn tell(path: &Path, imported: &Imported, quiet: bool) -> Exit {
    if !quiet {
        say(&format!(
            "{}: {} stored, {}; {} {} there already",
            path.display(),
            counted(imported.stored, "blob"),
            show::size(imported.stored_bytes),
            imported.known,
            if imported.known == 1 { "was" } else { "were" }
        ));
    }
    for digest in &imported.damaged {
        insist(&format!("error: {}: {digest} is damaged; make the bundle again", path.display()));
    }
    let mut exit = if imported.damaged.is_empty() { Exit::Done } else { Exit::Corrupt };
    for image in &imported.images {
        let (name, parts) = (&image.image, image.missing.len());
        match image.fate {
            Fate::Ready if quiet => {}
            Fate::Ready => say(&format!("  {name}: ready")),
            Fate::KeptNewer => say(&format!("  {name}: stored; its tag stays, upstream was asked more recently here")),
            Fate::Incomplete if parts == 1 => {
                insist(&format!("warning: {name}: 1 part is neither in the bundle nor here"));
            }
            Fate::Incomplete => insist(&format!("warning: {name}: {parts} parts are neither in the bundle nor here")),
            Fate::Nameless => insist(&format!("warning: {name} has no whole name; give it one with --name IMAGE")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_told_how_it_becomes_a_bundle() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(opened(folder.path()).is_err_and(|error| error.message.contains("tar -C")));
    }
}
