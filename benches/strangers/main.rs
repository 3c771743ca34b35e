//! Many strangers at one mirror: what the trouble, the malice or the size of one costs the others.
//!
//! Run it with `benches/strangers/run`, which gives the server one CPU and everybody else the other; `--short`
//! looks whether it runs. Every number is a ratio within one run, or memory against a bound that is stated;
//! one that misses its bound fails the run. What is measured on a machine that others use is worth little.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod abandoned;
mod abuser;
mod latency;
mod server;
mod unread;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

/// What one client can do to the others.
#[derive(Parser)]
pub struct Arguments {
    /// The program to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_registry-mirror"))]
    mirror: PathBuf,
    /// Little of everything: that it runs, not what it says
    #[arg(long)]
    short: bool,
    /// Only works whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// CPU of the server
    #[arg(long, default_value = "0")]
    server_cpu: String,
    /// Without limits for the abuser: to see the check fail
    #[arg(long)]
    without_limits: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A number and what it may be.
pub struct Check {
    what: String,
    value: f64,
    most: f64,
    unit: &'static str,
}

impl Check {
    pub fn new(what: impl Into<String>, value: f64, most: f64, unit: &'static str) -> Check {
        Check { what: what.into(), value, most, unit }
    }

    fn holds(&self) -> bool {
        self.value <= self.most
    }
}

type Work = fn(&Arguments) -> anyhow::Result<Vec<Check>>;

const WORKS: [(&str, Work); 3] =
    [("abandoned", abandoned::measure), ("unread", unread::measure), ("abuser", abuser::measure)];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, command, address, large] = words.as_slice()
        && command == "abuse"
    {
        return abuser::abuse(address.parse()?, large.clone());
    }
    let arguments = Arguments::parse();
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
    println!("| work | measured | at most | |\n|---|---|---|---|");
    let (start, mut missed) = (Instant::now(), 0);
    for (name, work) in WORKS {
        if arguments.only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        for check in work(&arguments)? {
            let Check { what, value, most, unit } = &check;
            println!("| {what} | {value:.2}{unit} | {most:.2}{unit} | {} |", if check.holds() { "" } else { "missed" });
            missed += usize::from(!check.holds());
        }
    }
    println!("\n{} s", start.elapsed().as_secs());
    // Of little of everything no number says anything.
    anyhow::ensure!(missed == 0 || arguments.short, "{missed} numbers are beyond their bounds");
    Ok(())
}
