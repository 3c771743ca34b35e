//! `registry-mirror store`: the bucket behind the store. To try it no daemon is asked; what is carried into it or back is
//! carried by the daemon, where one runs.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::store::{IfNone, Place, StoreArgs};
use super::talk::{is_quiet, print_document};
use super::{Exit, doctor, environment, insist, print};
use crate::config::{Config, Overrides};
use crate::daemon::store::{carry, test_bucket};
use crate::documents::{Carried, Direction, Error, NotCarried, counted, no_bucket, nothing_in_bucket, orders};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the bucket: write, read, list, remove, parts, and whether conditional writes hold
    Test(Test),
    /// Carry all that is stored into the bucket; what is there stays
    Push(StoreArgs),
    /// Bring all that the bucket has into the store, as far as there is room
    Pull(StoreArgs),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    match &args.command {
        Command::Test(test) => try_it(test),
        Command::Push(store) => carry_all(store, Direction::Push),
        Command::Pull(store) => carry_all(store, Direction::Pull),
    }
}

fn try_it(Test { config, json }: &Test) -> Result<Exit, Error> {
    let said = test_bucket(&Config::load(config.as_deref(), environment()?, Overrides::default())?)?;
    if *json {
        print_document(&said)?;
    } else {
        said.checks.iter().try_for_each(|check| print(&doctor::line(check)))?;
    }
    Ok(if said.ok { Exit::Done } else { Exit::Failed })
}

fn carry_all(args: &StoreArgs, way: Direction) -> Result<Exit, Error> {
    if args.at.admin.is_none() {
        let store = args.config()?.store;
        // No store is made for want of a bucket.
        store.bucket.map(drop).or_else(|| store.path.exists().then_some(())).ok_or_else(no_bucket)?;
    }
    let json = args.at.json;
    let bar = (std::io::stderr().is_terminal() && !json && !is_quiet()).then(|| {
        let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} {per_sec} {eta}");
        let bar = ProgressBar::new(0);
        if let Ok(style) = style { bar.with_style(style) } else { bar }
    });
    let mut last = Carried::default();
    let mut take = |carried: Carried| {
        if json {
            // That nobody reads on is no reason to stop.
            let _ = print_document(&carried);
        } else if let Some(bar) = &bar {
            bar.set_length(carried.total);
            bar.set_position(carried.done);
        }
        last = carried;
    };
    match args.place(if way == Direction::Push { IfNone::Tell } else { IfNone::MakeForBucket })? {
        Place::Remote(remote) => {
            remote.post_lines(&format!("store/{}", way.as_str()), &orders::Reload {}, &mut |line, _| take(line))?;
        }
        Place::Store(store) => {
            drop(store);
            carry(args.config()?, way, &mut take)?;
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if way == Direction::Pull && last.is_all() && last.total == 0 {
        let bucket = args.config().ok().filter(|_| args.at.admin.is_none()).and_then(|config| config.store.bucket);
        let place = bucket.map(|bucket| format!("{}/{}", bucket.tier.name, bucket.tier.prefix));
        return Err(nothing_in_bucket(place.as_deref()));
    }
    let Carried { done, total, failed, left_out, problems, trouble, .. } = &last;
    if !json {
        problems.iter().for_each(|problem| insist(&line(problem)));
        let more = (failed + left_out).saturating_sub(problems.len() as u64);
        if !problems.is_empty() && more > 0 {
            insist(&format!("and {more} more"));
        }
        let more = [(*failed, "not carried"), (*left_out, "left where they are")];
        let more = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
        print(&format!("{done} of {}{}", counted(*total, "object"), more.collect::<String>()))?;
    }
    if let Some(trouble) = trouble {
        insist(&format!("error: {trouble}; do it again once that is over: it goes on where it ended"));
    }
    Ok(match *done {
        _ if last.is_all() => Exit::Done,
        _ if last.is_all_but_damaged() => Exit::Corrupt,
        0 => Exit::Failed,
        _ => Exit::Partly,
    })
}

/// Something that was not carried: content by its image, anything else by its name, too.
fn line(NotCarried { key, image, digest, reason, hint }: &NotCarried) -> String {
    let what = match (image, digest) {
        (Some(image), Some(digest)) => format!("{image}: {digest}"),
        (None, Some(digest)) => digest.to_string(),
        (Some(image), None) => format!("{image}: {key}"),
        (None, None) => key.clone(),
    };
    let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("not carried: {what}: {reason}{hint}")
}
