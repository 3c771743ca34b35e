//! Ours against nginx and Docker's registry: the same work in turns, ratios with their spread.
//!
//! Run it with `benches/peers/run`, which pins the congestion control and the CPUs; `--short` is for
//! a smoke test. What is compared is work per second of the server's CPU time, because that holds on
//! a machine that others use too; a sample during which others used more than a fifth of a CPU is
//! taken again, and where none was quiet the row says so. Absolute numbers count for nothing.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod before;
mod bench;
mod cut;
mod docker;
mod floor;
mod images;
mod load;
mod low_water;
mod machine;
mod rounds;
mod servers;
mod trouble;
mod works;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use bench::Bench;
use rounds::Effort;

/// Ours against nginx and Docker's registry.
#[derive(Parser)]
struct Arguments {
    /// The program to measure
    #[arg(long)]
    mirror: Option<PathBuf>,
    /// Small content, one round: that it runs, not what it says
    #[arg(long)]
    short: bool,
    /// Rounds of each work
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// About how long all of it may take: works have fewer rounds where there is no time for more
    #[arg(long, default_value_t = 7)]
    minutes: u32,
    /// Only works whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// CPU of the servers
    #[arg(long, default_value = "0")]
    server_cpu: String,
    /// CPU of the clients and of the upstream
    #[arg(long, default_value = "1")]
    client_cpu: String,
    /// Where content and stores are kept while it runs
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Also pull with a real docker daemon, which needs root
    #[arg(long)]
    docker: bool,
    /// Instead of all that, warm pulls against this earlier build of ours
    #[arg(long)]
    before: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, command, listen, upstream, file] = words.as_slice()
        && command == "floor"
    {
        return Ok(floor::serve(listen, upstream, Path::new(file))?);
    }
    let arguments = Arguments::parse();
    let Some(mirror) = arguments.mirror.clone() else {
        println!("peers: run it with benches/peers/run, which builds and pins what is measured");
        return Ok(());
    };
    run(&arguments, mirror)
}

fn run(arguments: &Arguments, mirror: PathBuf) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("peers-").tempdir_in(match &arguments.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir(),
    })?;
    let effort = if arguments.short {
        let time = Duration::from_millis(150);
        Effort { rounds: 1, tries: 1, patience: Duration::ZERO, time, share: Duration::MAX }
    } else {
        let second = Duration::from_secs(1);
        let share = 60 * second * arguments.minutes / works::CONTESTS;
        Effort { rounds: arguments.rounds, tries: 3, patience: 2 * second, time: 3 * second / 4, share }
    };
    print_setting(arguments, &mirror);
    let workshop = servers::Workshop::new(
        folder.path().to_owned(),
        arguments.server_cpu.clone(),
        arguments.client_cpu.clone(),
        mirror,
    );
    let bench = Bench::prepare(workshop, effort, arguments.short)?;
    println!(
        "| work | who | ratio (least-most of at most {} rounds) | ours | theirs | notes |\n|---|---|---|---|---|---|",
        effort.rounds
    );
    if let Some(before) = &arguments.before {
        return before::compare(&bench, before);
    }
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| name.contains(only));
    let start = std::time::Instant::now();
    let mut failures = 0;
    for (name, work) in works::ALL {
        if wanted(name) {
            // A peer may fail under a crowd, and has a second try. So have we, and it is told.
            let again = |error| {
                println!("- {name}: {error}; once more");
                work(&bench)
            };
            failures += report(name, work(&bench).or_else(again));
        }
    }
    if arguments.docker && wanted("docker") {
        failures += report("docker", docker::pulls(&bench));
    }
    println!(
        "\nRatios are of work per CPU second of the server, medians over rounds in which all took turns. None of the \
         servers writes a line for each request. {} s.",
        start.elapsed().as_secs()
    );
    anyhow::ensure!(failures == 0, "{failures} works could not be measured");
    Ok(())
}

fn report(name: &str, rows: io::Result<String>) -> usize {
    match rows {
        Ok(rows) => {
            print!("{rows}");
            0
        }
        Err(error) => {
            println!("| {name} | | not measured: {error} | | | |");
            1
        }
    }
}

fn print_setting(arguments: &Arguments, mirror: &Path) {
    println!(
        "{}; {}; {}; Linux {}; loopback congestion control {}; servers on CPU {}, clients and upstream on CPU {}\n",
        machine::version(&mirror.display().to_string(), "--version"),
        machine::version("nginx", "-v"),
        machine::version("docker-registry", "--version"),
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        machine::congestion_control().unwrap_or_else(|error| format!("unknown: {error}")),
        arguments.server_cpu,
        arguments.client_cpu,
    );
}
