//! `registry-mirror verify`: read everything that is stored and compare it with its name.
//!
//! A bar on a terminal, else a line now and then; `--json` hands the daemon's findings on as they come.

use std::io::IsTerminal as _;

use indicatif::ProgressBar;

use super::client::{At, Remote};
use super::talk::print_json;
use super::{Exit, insist, print, say, show};
use crate::documents::{Code, Error, Finding, counted, orders};
use crate::oci::Digest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Fetch again what is damaged, also what was found earlier
    #[arg(long)]
    repair: bool,
    /// Read at most so much a second, such as 50MB. Without it: as fast as the disk reads
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<bytesize::ByteSize>,
    #[command(flatten)]
    at: At,
}

fn rate(text: &str) -> Result<bytesize::ByteSize, String> {
    text.parse().map_err(|_| "a size is a number with a unit, such as 50MB".to_owned())
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let rate = args.rate.map(|rate| rate.as_u64());
    let order = orders::Verify { repair: args.repair, rate, ..orders::Verify::default() };
    let mut screen = Screen::default();
    let mut end = None;
    let mut printed = Ok(());
    Remote::find(&args.at)?.post_lines("verify", &order, &mut |finding: Finding, line| {
        if args.at.json {
            printed = print_json(line);
        } else {
            match &finding {
                Finding::Progress { .. } => screen.progress(&finding),
                Finding::Damaged { digest, repaired } => printed = screen.damaged(digest, *repaired),
                Finding::Done { .. } => screen.end(),
            }
        }
        if let Finding::Done { checked, checked_bytes, damaged, repaired, lacking } = finding {
            end = Some((checked, checked_bytes, damaged, repaired, lacking));
        }
    })?;
    printed?;
    let Some((checked, bytes, damaged, repaired, lacking)) = end else {
        return Err(Error::new(Code::Failed, "the daemon ended before everything was read"));
    };
    if !args.at.json {
        let blobs = counted(checked, "blob");
        print(&format!("{blobs} with {} read, {damaged} damaged, {repaired} repaired", show::size(bytes)))?;
        if lacking > 0 {
            let hint =
                if args.repair { "see the daemon's log" } else { "fetch them with: registry-mirror verify --repair" };
            let are = if lacking == 1 { "is" } else { "are" };
            insist(&format!("{} {are} missing from images here; {hint}", counted(lacking, "damaged blob")));
        }
    }
    Ok(if damaged == repaired { Exit::Done } else { Exit::Corrupt })
}

/// How far it is: a bar, or for whom there is none, a line for each tenth.
#[derive(Default)]
struct Screen {
    bar: Option<ProgressBar>,
    /// The last tenth that was told.
    tenths: Option<u64>,
}

impl Screen {
    fn progress(&mut self, finding: &Finding) {
        let Finding::Progress { checked, checked_bytes, of, of_bytes } = finding else { return };
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| show::bar(*of_bytes, true));
            bar.set_length(*of_bytes);
            bar.set_position(*checked_bytes);
            return;
        }
        // Empty blobs are read, too.
        let tenths = checked_bytes.saturating_mul(10).checked_div(*of_bytes).unwrap_or(10);
        if Some(tenths) > self.tenths {
            self.tenths = Some(tenths);
            let (bytes, of_bytes) = (show::size(*checked_bytes), show::size(*of_bytes));
            let percent = tenths * 10;
            say(&format!("{percent} %: {checked} of {}, {bytes} of {of_bytes}", counted(*of, "blob")));
        }
    }

    fn damaged(&self, digest: &Digest, repaired: bool) -> Result<(), Error> {
        let line = format!("{digest}: {}", if repaired { "damaged, fetched again" } else { "damaged" });
        match &self.bar {
            Some(bar) => bar.suspend(|| print(&line)),
            None => print(&line),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_size_is_told_what_one_is() {
        assert_eq!(rate("50MB").map(|rate| rate.as_u64()), Ok(50_000_000));
        assert!(rate("zz").is_err_and(|why| why.contains("such as 50MB")));
    }
}
