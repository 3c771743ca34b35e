//! `registry-mirror pull`: fetch images into the mirror ahead of time.
//!
//! The daemon does it, as it would for a client. Bars on a terminal, else one line for each thing
//! that is done; `--json` hands the daemon's events on as they come.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::client::{At, Remote};
use super::talk::{is_quiet, print_json};
use super::{Exit, insist, names, print, say, show};
use crate::documents::{Code, Error, Failure, PullEvent, counted, orders};
use crate::oci::Digest;

/// Which images, and for which platforms.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Images, such as redis:7 or ghcr.io/owner/app@sha256:…
    #[arg(value_name = "IMAGE", required_unless_present = "file")]
    images: Vec<String>,
    /// A file with names, one a line, or with `image:` keys as in a compose file; - for stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A platform, such as linux/arm64; may be given again. Without it: the daemon's own
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Every platform, with signatures and attestations in the index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

impl Which {
    /// All names, those of the file included.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        let Some(path) = &self.file else { return Ok(self.images.clone()) };
        let text = if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.map_err(|error| usage(&format!("{}: cannot be read: {error}", path.display())))?;
        let found = names::names(&text, &|name| std::env::var(name).ok())
            .map_err(|name| usage(&format!("{}: ${{{name}}} is not set and has no default", path.display())))?;
        if found.is_empty() && self.images.is_empty() {
            return Err(usage(&format!("{}: names no image", path.display())));
        }
        Ok(self.images.iter().cloned().chain(found).collect())
    }

    /// The order for these names.
    pub(super) fn order(&self, images: Vec<String>) -> orders::Images {
        orders::Images { images, platforms: self.platform.clone(), all_platforms: self.all_platforms }
    }
}

fn usage(message: &str) -> Error {
    Error::new(Code::Usage, message)
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let remote = Remote::find(&args.at)?;
    let order = args.which.order(args.which.names()?);
    fetch(&remote, &order, if args.at.json { Told::Events } else { Told::Results })
}

/// What goes to stdout while images are fetched; the rest is talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The daemon's events, as they come.
    Events,
    /// A line for each image.
    Results,
    /// Nothing: stdout is for what the command says afterwards.
    Nothing,
}

/// Fetches what is ordered, and shows how that goes.
pub(super) fn fetch(remote: &Remote, order: &orders::Images, told: Told) -> Result<Exit, Error> {
    let mut tally = Tally::default();
    let mut screen = Screen::new(told);
    remote.post_lines("pull", order, &mut |event: PullEvent, line| {
        tally.count(&event);
        if told == Told::Events {
            // That nobody reads on is no reason to stop fetching.
            let _ = print_json(line);
        } else {
            screen.show(&event);
        }
    })?;
    Ok(tally.exit(order.images.len()))
}

/// How it went, for the exit code.
#[derive(Default)]
struct Tally {
    complete: usize,
    parts: bool,
    failures: Vec<Failure>,
}

impl Tally {
    fn count(&mut self, event: &PullEvent) {
        match event {
            PullEvent::Done { complete, .. } => self.complete += usize::from(*complete),
            PullEvent::Failed { failure, .. } => self.failures.push(*failure),
            PullEvent::Finished { .. } => self.parts = true,
            _ => {}
        }
    }

    fn exit(&self, images: usize) -> Exit {
        if self.complete == images {
            return Exit::Done;
        }
        if self.complete > 0 || self.parts {
            return Exit::Partly;
        }
        match self.failures.first() {
            Some(Failure::NotFound) => Exit::NotFound,
            Some(Failure::Refused) => Exit::Refused,
            Some(Failure::BadAnswer) => Exit::Corrupt,
            _ => Exit::Failed,
        }
    }
}

/// Bars on a terminal, lines elsewhere.
struct Screen {
    told: Told,
    bars: Option<(MultiProgress, HashMap<Digest, ProgressBar>)>,
}

impl Screen {
    fn new(told: Told) -> Screen {
        let bars = std::io::stderr().is_terminal() && told != Told::Events && !is_quiet();
        Screen { told, bars: bars.then(|| (MultiProgress::new(), HashMap::new())) }
    }

    fn show(&mut self, event: &PullEvent) {
        match event {
            PullEvent::Resolved { image, digest } => self.talk(&format!("{image} is {digest}")),
            PullEvent::Queued { digest, size_bytes } => self.begin(digest, *size_bytes),
            PullEvent::Progress { digest, written_bytes } => self.advance(digest, *written_bytes),
            PullEvent::Finished { digest, size_bytes, fetched } => {
                let end = if *fetched { "fetched" } else { "is there" };
                self.end(digest);
                self.talk(&format!("  {} {end}, {}", show::short(digest), show::size(*size_bytes)));
            }
            PullEvent::Failed { digest, message, image, .. } => {
                let line = format!("error: {image}: {message}");
                if let Some(digest) = digest {
                    self.end(digest);
                }
                match &self.bars {
                    Some((screen, _)) => screen.suspend(|| insist(&line)),
                    None => insist(&line),
                }
            }
            PullEvent::Done { image, complete, blobs, fetched_bytes } => {
                let state = if *complete { "complete" } else { "not complete" };
                let line =
                    format!("{image}: {state}, {}, {} fetched", counted(*blobs, "blob"), show::size(*fetched_bytes));
                if self.told == Told::Nothing { self.talk(&line) } else { self.result(&line) }
            }
        }
    }

    fn result(&self, line: &str) {
        // That nobody reads on is no reason to stop fetching.
        let _ = match &self.bars {
            Some((screen, _)) => screen.suspend(|| print(line)),
            None => print(line),
        };
    }

    fn talk(&self, line: &str) {
        match &self.bars {
            Some((screen, _)) => screen.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn begin(&mut self, digest: &Digest, size: u64) {
        if let Some((screen, bars)) = &mut self.bars {
            let style = ProgressStyle::with_template("  {prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            let bar = ProgressBar::new(size).with_prefix(show::short(digest));
            let bar = screen.add(if let Ok(style) = style { bar.with_style(style) } else { bar });
            bars.insert(*digest, bar);
        }
    }

    fn advance(&self, digest: &Digest, written: u64) {
        if let Some(bar) = self.bars.as_ref().and_then(|(_, bars)| bars.get(digest)) {
            bar.set_position(written);
        }
    }

    fn end(&mut self, digest: &Digest) {
        if let Some(bar) = self.bars.as_mut().and_then(|(_, bars)| bars.remove(digest)) {
            bar.finish_and_clear();
        }
    }
}
