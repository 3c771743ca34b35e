//! `registry-mirror export`: images into one file, for another mirror, or for an engine.
//!
//! The daemon does it while pulls go on; on a store that no daemon uses it is done here. The file appears under its name when it is
//! whole; an export that fails leaves nothing.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Handle;

use super::client::Remote;
use super::store::{Place, StoreArgs};
use super::{Exit, print, say, show};
use crate::bundle::{ExportError, Exported, Plan, Receipt, Selection};
use crate::daemon::store::OpenedStore;
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

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    if args.store.at.json && args.output == Path::new(STDOUT) {
        say("error: standard output takes the bundle or the JSON, not both");
        return Err(Exit::Usage);
    }
    let selection = args.selection()?;
    let exported = match args.store.place()? {
        Place::Remote(daemon) => export_from(&daemon, args, &selection)?,
        Place::Store(opened, runtime) => {
            let _entered = runtime.enter();
            export(args, &selection, &opened, runtime.handle())?
        }
    };
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
    announce(&exported)?;
    write(args, &exported, |out| plan.write(&opened.stores, out, runtime).map_err(|error| failed(&error)))?;
    write_receipt(args, plan.receipt())?;
    Ok(exported)
}

fn export_from(daemon: &Remote, args: &Args, selection: &Selection) -> Result<Exported, Exit> {
    let text = |list: &mut dyn Iterator<Item = String>| list.collect::<Vec<_>>();
    let download = daemon.export(&json!({
        "images": text(&mut selection.images.iter().map(ToString::to_string)),
        "all": args.all,
        "used_since": selection.used_since.map(|age| age.as_secs()),
        "platforms": text(&mut selection.platforms.iter().map(ToString::to_string)),
        "since": text(&mut selection.since.iter().map(ToString::to_string)),
        "framed": true,
    }))?;
    let (exported, receipt) = (download.exported.clone(), download.receipt.clone());
    announce(&exported)?;
    write(args, &exported, |out| download.write(out))?;
    write_receipt(args, &receipt)?;
    Ok(exported)
}

/// Says what will be missing, before anything is written.
fn announce(exported: &Exported) -> Result<(), Exit> {
    for image in &exported.unavailable {
        match image.missing.len() {
            0 => say(&format!("warning: {} is not stored; get it with: registry-mirror pull {0}", image.name)),
            parts => say(&format!("warning: {} is not complete, {parts} parts of it are missing", image.name)),
        }
    }
    if exported.images.is_empty() {
        say("error: there is nothing to export");
        return Err(Exit::NotFound);
    }
    Ok(())
}

/// Has the bundle written to where it belongs, with a bar on a terminal.
fn write(
    args: &Args,
    exported: &Exported,
    content: impl FnOnce(&mut dyn Write) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let bar = show::bar(exported.bytes, !args.store.at.json);
    let written = if args.output == Path::new(STDOUT) {
        content(&mut bar.wrap_write(BufWriter::new(io::stdout().lock())))
    } else {
        whole(&args.output, |file| content(&mut bar.wrap_write(file)))
    };
    bar.finish_and_clear();
    written
}

fn write_receipt(args: &Args, receipt: &Receipt) -> Result<(), Exit> {
    let Some(path) = &args.receipt else { return Ok(()) };
    whole(path, |file| write!(file, "{receipt}").and_then(|()| file.flush()).map_err(|error| unwritable(path, &error)))
}

/// Writes a file that is there whole or not at all. Only its owner may read it: images may be private.
pub(super) fn whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&fs::File>) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let failed_here = |error: io::Error| unwritable(path, &error);
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(failed_here)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file());
    write(&mut buffered)?;
    buffered.flush().map_err(failed_here)?;
    drop(buffered);
    file.as_file().sync_all().map_err(failed_here)?;
    file.persist(path).map_err(|error| failed_here(error.error))?;
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> Exit {
    say(&format!("error: {} cannot be written: {error}", path.display()));
    Exit::Failed
}

fn failed(error: &ExportError) -> Exit {
    say(&format!("error: {error}"));
    if matches!(error, ExportError::Damaged(_)) { Exit::Corrupt } else { Exit::Failed }
}

fn tell(args: &Args, exported: &Exported) -> Result<Exit, Exit> {
    if args.store.at.json {
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
        let output = args.output.display().to_string();
        say(&format!(
            "{}: {} images, {} blobs, {}{left_out}",
            if output == STDOUT { "standard output" } else { &output },
            exported.images.len(),
            exported.blobs,
            size(exported.bytes)
        ));
    }
    Ok(if exported.unavailable.is_empty() { Exit::Done } else { Exit::Partly })
}
