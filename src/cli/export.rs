//! `registry-mirror export`: images into one file, for another mirror, or for an engine.
//!
//! Works on the store itself when no daemon uses it. The file appears under its name when it is
//! whole; an export that fails leaves nothing.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use tokio::runtime::Handle;

use super::store::{self, OpenError, OpenStore, OpenedStore, StoreArgs};
use super::{Exit, print, say};
use crate::bundle::{ExportError, Exported, Plan, Receipt, Selection};
use crate::oci::{ImageName, Platform};

/// Where standard output is meant in place of a file.
const STDOUT: &str = "-";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is an OCI layout in a tar, with manifest.json for docker. Read it with registry-mirror \
    import, docker load -i FILE, podman load -i FILE, ctr images import FILE, or skopeo copy oci-archive:FILE:IMAGE, \
    where IMAGE is the whole name; docker-archive:FILE:IMAGE for images in Docker's own types, which skopeo does not \
    find in a layout."
)]
pub(super) struct Args {
    /// Image to export, such as redis:7 or ghcr.io/owner/app@sha256:…
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "used_since"])]
    images: Vec<ImageName>,
    /// Every image that is stored
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// Only images that were asked for so recently, such as 7d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    used_since: Option<Duration>,
    /// Only this platform, such as linux/amd64; may be given again [default: those that are stored]
    #[arg(long = "platform", value_name = "OS/ARCH")]
    platforms: Vec<Platform>,
    /// Leave out what the other side has, as its receipt says
    #[arg(long, value_name = "RECEIPT")]
    since: Option<PathBuf>,
    /// The file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write down what the other side will have, for the next --since
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
struct Report<'a> {
    output: &'a Path,
    #[serde(flatten)]
    exported: &'a Exported,
}

pub(super) fn run(args: &Args, open: OpenStore) -> Exit {
    execute(args, open).unwrap_or_else(|exit| exit)
}

fn execute(args: &Args, open: OpenStore) -> Result<Exit, Exit> {
    if args.json && args.output == Path::new(STDOUT) {
        say("error: standard output takes the bundle or the JSON, not both");
        return Err(Exit::Usage);
    }
    let config = args.store.config()?;
    let selection = args.selection()?;
    let runtime = store::runtime()?;
    let entered = runtime.enter();
    let opened = open(&config).map_err(|error| refused(&error))?;
    let exported = export(args, &selection, &opened, runtime.handle())?;
    drop((opened, entered));
    tell(args, &exported)
}

impl Args {
    fn selection(&self) -> Result<Selection, Exit> {
        let since = self.since.as_deref().map_or(Ok(Receipt::default()), read_receipt)?;
        Ok(Selection {
            images: self.images.clone(),
            used_since: self.used_since,
            platforms: self.platforms.clone(),
            since,
        })
    }
}

fn read_receipt(path: &Path) -> Result<Receipt, Exit> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| text.parse().map_err(|error: crate::bundle::receipt::ReceiptError| error.to_string())).map_err(
        |error| {
            say(&format!("error: the receipt {}: {error}", path.display()));
            Exit::Usage
        },
    )
}

fn export(args: &Args, selection: &Selection, opened: &OpenedStore, runtime: &Handle) -> Result<Exported, Exit> {
    let plan = Plan::make(&opened.stores, selection, runtime).map_err(|error| failed(&error))?;
    let exported = plan.summary();
    for image in &exported.unavailable {
        match image.missing.len() {
            0 => say(&format!("warning: {} is not stored; get it with: registry-mirror pull {0}", image.name)),
            parts => say(&format!("warning: {} is not complete, {parts} parts of it are missing", image.name)),
        }
    }
    if plan.is_empty() {
        say("error: there is nothing to export");
        return Err(Exit::NotFound);
    }
    if args.output == Path::new(STDOUT) {
        plan.write(&opened.stores, BufWriter::new(io::stdout().lock()), runtime).map_err(|error| failed(&error))?;
    } else {
        whole(&args.output, |file| plan.write(&opened.stores, file, runtime))?;
    }
    if let Some(path) = &args.receipt {
        whole(path, |mut file| write!(file, "{}", plan.receipt()).map_err(ExportError::Write))?;
    }
    Ok(exported)
}

/// Writes a file that is there whole or not at all. Only its owner may read it: images may be private.
pub(super) fn whole(
    path: &Path,
    write: impl FnOnce(BufWriter<&fs::File>) -> Result<(), ExportError>,
) -> Result<(), Exit> {
    let failed_here = |error: io::Error| {
        say(&format!("error: {} cannot be written: {error}", path.display()));
        Exit::Failed
    };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(failed_here)?;
    write(BufWriter::with_capacity(1 << 20, file.as_file())).map_err(|error| failed(&error))?;
    file.as_file().sync_all().map_err(failed_here)?;
    file.persist(path).map_err(|error| failed_here(error.error))?;
    Ok(())
}

/// Tells why the store cannot be worked on.
pub(super) fn refused(error: &OpenError) -> Exit {
    let (OpenError::InUse(told) | OpenError::Failed(told)) = error;
    say(&format!("error: {told}"));
    Exit::Failed
}

fn failed(error: &ExportError) -> Exit {
    say(&format!("error: {error}"));
    if matches!(error, ExportError::Damaged(_)) { Exit::Corrupt } else { Exit::Failed }
}

fn tell(args: &Args, exported: &Exported) -> Result<Exit, Exit> {
    if args.json {
        let report = Report { output: &args.output, exported };
        let printed = serde_json::to_string(&report).map_or(Exit::Failed, |json| print(&json));
        if printed != Exit::Done {
            return Err(printed);
        }
    } else {
        let size = |bytes| ByteSize::b(bytes).display();
        let left_out = match exported.left_out {
            0 => String::new(),
            blobs => {
                format!("; {blobs} blobs, {}, are left out, the other side has them", size(exported.left_out_bytes))
            }
        };
        say(&format!(
            "{}: {} images, {} blobs, {}{left_out}",
            args.output.display(),
            exported.images.len(),
            exported.blobs,
            size(exported.bytes)
        ));
    }
    Ok(if exported.unavailable.is_empty() { Exit::Done } else { Exit::Partly })
}
