//! Many strangers at one mirror: what the trouble, the malice or the size of one costs the others.
//!
//! Run it with `benches/strangers/run`, which gives the server one CPU and everybody else the other; `--short`
//! looks whether it runs. Every number is a ratio within one run, or memory against a bound that is stated;
//! one that misses its bound fails the run. What is measured on a machine that others use is worth little.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod abandoned;
mod abuser;
mod arguments;
mod latency;
mod server;
mod unread;

use std::time::Instant;

use clap::Parser;

use arguments::{Arguments, Check};

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
            println!("{check}");
            missed += usize::from(!check.holds());
        }
    }
    println!("\n{} s", start.elapsed().as_secs());
    // Of little of everything no number says anything.
    anyhow::ensure!(missed == 0 || arguments.short, "{missed} numbers are beyond their bounds");
    Ok(())
}
