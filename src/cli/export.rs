//! `registry-mirror export`: images into one file, for another mirror, or for an engine.
//!
//! The daemon does it while pulls go on; on a store that no daemon uses it is done here. The file appears under its name when it is
//! whole; an export that fails leaves nothing.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::store::{IfNone, Place, StoreArgs};
use super::talk::print_document;
use super::{Exit, insist, say, show};
use crate::documents::{Code, Error, Export, Exported, Plan, Receipt, ReceiptError, Unavailable, counted, orders};
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

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    if args.store.at.json && args.output == Path::new(STDOUT) {
        return Err(Error::new(Code::Usage, "standard output takes the bundle or the JSON, not both"));
    }
    if args.output != Path::new(STDOUT) {
        can_be_written(&args.output)?;
    }
    args.receipt.as_deref().map_or(Ok(()), can_be_written)?;
    let order = args.order()?;
    let exported = match args.store.place(IfNone::Tell)? {
        Place::Remote(remote) => {
            let download = remote.export(&order)?;
            export(args, download.plan.clone(), |out| download.write(out))?
        }
        Place::Store(opened) => {
            let outgoing = opened.export(&order)?;
            export(args, outgoing.document(), |out| outgoing.write(out))?
        }
    };
    tell(args, exported)
}

impl Args {
    fn order(&self) -> Result<orders::Export, Error> {
        Ok(orders::Export {
            images: self.images.iter().map(ToString::to_string).collect(),
            all: self.all,
            used_since: self.used_since.map(|age| age.as_secs()),
            platforms: self.platforms.iter().map(ToString::to_string).collect(),
            since: self.since.as_deref().map_or(Ok(Receipt::default()), read_receipt)?,
            ..orders::Export::default()
        })
    }
}

fn read_receipt(path: &Path) -> Result<Receipt, Error> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| text.parse().map_err(|error: ReceiptError| error.to_string()))
        .map_err(|error| Error::new(Code::Usage, format!("the receipt {}: {error}", path.display())))
}

/// Has the planned bundle written to where it belongs, and the receipt beside it.
fn export(
    args: &Args,
    Plan { exported, receipt }: Plan,
    content: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<Exported, Error> {
    announce(&exported)?;
    write(args, &exported, content)?;
    if let Some(path) = &args.receipt {
        write_receipt(path, &receipt)?;
    }
    Ok(exported)
}

/// Says what will be missing, before anything is written; where that is all, it is the error.
fn announce(exported: &Exported) -> Result<(), Error> {
    let Exported { images, unavailable, .. } = exported;
    if images.is_empty() {
        let why: Vec<_> = unavailable.iter().map(|image| format!("; {} {}", image.image, state(image))).collect();
        let names: Vec<_> = unavailable.iter().map(|image| image.image.as_str()).collect();
        let error = Error::new(Code::Nothing, format!("there is nothing to export{}", why.concat()));
        let hint = format!("get what is missing with: registry-mirror pull {}", names.join(" "));
        return Err(if names.is_empty() { error } else { error.with_hint(hint) });
    }
    for image in unavailable {
        insist(&format!(
            "warning: {name} {}; get what is missing with: registry-mirror pull {name}",
            state(image),
            name = image.image
        ));
    }
    Ok(())
}

/// Why an image cannot be in the bundle.
fn state(image: &Unavailable) -> String {
    match image.missing.len() {
        _ if !image.damaged.is_empty() => "is damaged".to_owned(),
        0 => "is not stored, or not all of it is known".to_owned(),
        1 => "is not complete, a part of it is missing".to_owned(),
        parts => format!("is not complete, {parts} parts of it are missing"),
    }
}

/// Has the bundle written to where it belongs, with a bar on a terminal.
fn write(
    args: &Args,
    exported: &Exported,
    content: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let bar = show::bar(exported.size_bytes, !args.store.at.json);
    let written = if args.output == Path::new(STDOUT) {
        content(&mut bar.wrap_write(BufWriter::new(io::stdout().lock())))
    } else {
        whole(&args.output, |file| content(&mut bar.wrap_write(file)))
    };
    bar.finish_and_clear();
    written
}

/// Whether a whole file can take the place of what has this name: of a file, and of nothing else. Who lays a link there
/// does not say where it is written, and a device stays what it is.
pub(super) fn can_be_written(path: &Path) -> Result<(), Error> {
    let unlike = |what: &str| {
        let message = format!("{} is {what}, and no file that could be written", path.display());
        Err(Error::new(Code::Usage, message))
    };
    match fs::symlink_metadata(path).map(|known| known.file_type()) {
        _ if path == Path::new(STDOUT) => unlike("standard output"),
        Ok(kind) if kind.is_dir() => unlike("a folder"),
        Ok(kind) if kind.is_symlink() => unlike("a link: name what it leads to"),
        Ok(kind) if !kind.is_file() => unlike("a pipe or a device"),
        _ => Ok(()),
    }
}

/// Writes a receipt into a file.
pub(super) fn write_receipt(path: &Path, receipt: &Receipt) -> Result<(), Error> {
    whole(path, |file| write!(file, "{receipt}").and_then(|()| file.flush()).map_err(|error| unwritable(path, &error)))
}

/// Writes a file that is there whole or not at all. Only its owner may read it, images may be private; one that was
/// there stays as open as it was.
fn whole(path: &Path, write: impl FnOnce(&mut BufWriter<&fs::File>) -> Result<(), Error>) -> Result<(), Error> {
    let failed_here = |error: io::Error| unwritable(path, &error);
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(failed_here)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file());
    write(&mut buffered)?;
    buffered.flush().map_err(failed_here)?;
    drop(buffered);
    if let Ok(before) = fs::metadata(path) {
        file.as_file().set_permissions(before.permissions()).map_err(failed_here)?;
    }
    file.as_file().sync_all().map_err(failed_here)?;
    file.persist(path).map_err(|error| failed_here(error.error))?;
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::new(Code::Write, format!("{} cannot be written: {error}", path.display()))
}

fn tell(args: &Args, exported: Exported) -> Result<Exit, Error> {
    let exit = if exported.unavailable.is_empty() { Exit::Done } else { Exit::Partly };
    if args.store.at.json {
        print_document(&Export { output: args.output.clone(), exported })?;
        return Ok(exit);
    }
    let left_out = match (exported.left_out, show::size(exported.left_out_bytes)) {
        (0, _) => String::new(),
        (1, size) => format!("; 1 blob, {size}, is left out, the other side has it"),
        (blobs, size) => format!("; {blobs} blobs, {size}, are left out, the other side has them"),
    };
    let output = args.output.display().to_string();
    say(&format!(
        "{}: {}, {}, {}{left_out}",
        if output == STDOUT { "standard output" } else { &output },
        counted(exported.images.len(), "image"),
        counted(exported.blobs, "blob"),
        show::size(exported.size_bytes)
    ));
    Ok(exit)
}
