//! Rounds: every peer does the same work in turns, and ratios are taken within a round, so that a
//! machine that gets slower slows both sides of a ratio.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use super::load::Work;
use super::machine::{MAX_FOREIGN, Watch, wait_for_quiet};

/// How a sample is repeated when somebody else used the machine.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Tries for a sample; the quietest counts if none was quiet.
    pub tries: usize,
    /// How long a quiet moment is waited for.
    pub patience: Duration,
    /// How long a sample of endless work takes.
    pub time: Duration,
    /// How long one contest may take: it has a round less rather than last longer, but never fewer
    /// than [`FEWEST`].
    pub share: Duration,
}

/// Rounds without which a median says nothing.
const FEWEST: usize = 3;

impl Effort {
    /// Calls `round` for each round there is time for.
    pub fn rounds(&self, mut round: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let start = Instant::now();
        for done in 0..self.rounds {
            let longest = start.elapsed() + start.elapsed() / u32::try_from(done.max(1)).unwrap_or(1);
            if done >= FEWEST && longest > self.share {
                break;
            }
            round()?;
        }
        Ok(())
    }
}

/// What one peer did in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Work per second of the server's CPU time.
    pub per_cpu: f64,
    /// Work per second of time.
    pub rate: f64,
    /// CPUs that others used.
    pub foreign: f64,
    /// Bytes fetched from upstream for each byte delivered, where that was looked at.
    pub fetched: Option<f64>,
}

/// What is counted as work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Gigabytes,
    Requests,
}

impl Unit {
    fn of(self, work: Work) -> f64 {
        match self {
            Unit::Gigabytes => work.bytes as f64 / 1e9,
            Unit::Requests => work.responses as f64,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::Gigabytes => format!("{value:.2} GB"),
            Unit::Requests if value > 10_000.0 => format!("{:.0}k", value / 1e3),
            Unit::Requests => format!("{value:.0}"),
        }
    }
}

/// Measures one piece of work by a server.
pub fn sample(
    unit: Unit,
    server: u32,
    helpers: &[u32],
    settle: Duration,
    work: impl FnOnce() -> io::Result<Work>,
) -> io::Result<Sample> {
    let watch = Watch::start(&[server], helpers);
    let start = Instant::now();
    let done = work()?;
    let wall = start.elapsed().as_secs_f64();
    // What the server still does after the last byte is its work too.
    std::thread::sleep(settle);
    let cost = watch.stop();
    let amount = unit.of(done);
    Ok(Sample { per_cpu: amount / cost.server.max(1e-9), rate: amount / wall, foreign: cost.foreign, fetched: None })
}

/// Takes a sample again while others disturb it. Gives the quietest.
pub fn quietest(effort: &Effort, mut take: impl FnMut() -> io::Result<Sample>) -> io::Result<Sample> {
    let mut best: Option<Sample> = None;
    for _ in 0..effort.tries.max(1) {
        wait_for_quiet(effort.patience, &[]);
        let sample = take()?;
        if best.is_none_or(|best| sample.foreign < best.foreign) {
            best = Some(sample);
        }
        if sample.foreign <= MAX_FOREIGN {
            break;
        }
    }
    best.ok_or_else(|| io::Error::other("no sample"))
}

/// A piece of work and what each peer made of it, ours first.
pub struct Contest {
    pub work: String,
    pub unit: Unit,
    /// Whether ratios are of work per CPU second, or per second.
    pub by_cpu: bool,
    pub peers: Vec<(&'static str, Vec<Sample>)>,
}

impl Contest {
    /// Lets every peer take its turn in every round.
    pub fn run(
        work: impl Into<String>,
        unit: Unit,
        effort: &Effort,
        peers: &[&'static str],
        mut take: impl FnMut(usize) -> io::Result<Sample>,
    ) -> io::Result<Contest> {
        let work = work.into();
        eprintln!("- {work}");
        let mut samples: Vec<(&'static str, Vec<Sample>)> = peers.iter().map(|name| (*name, Vec::new())).collect();
        let mut backwards = false;
        effort.rounds(|| {
            let mut turns: Vec<usize> = (0..peers.len()).collect();
            // Who comes first finds another machine than who comes last.
            if backwards {
                turns.reverse();
            }
            backwards = !backwards;
            for peer in turns {
                let sample = quietest(effort, || take(peer))?;

                samples[peer].1.push(sample);
            }
            Ok(())
        })?;
        Ok(Contest { work, unit, by_cpu: true, peers: samples })
    }

    /// The median of what ours did for what the peer of this number did, if it is there.
    pub fn ratio(&self, peer: usize) -> Option<f64> {
        let value = |sample: &Sample| if self.by_cpu { sample.per_cpu } else { sample.rate };
        let ((_, ours), (_, theirs)) = (self.peers.first()?, self.peers.get(peer)?);
        Some(median(ours.iter().zip(theirs).map(|(a, b)| value(a) / value(b))))
    }

    /// One row for each peer that ours is compared to.
    pub fn rows(&self) -> String {
        let Some(((ours, first), others)) = self.peers.split_first() else { return String::new() };
        let mut rows = String::new();
        for (name, samples) in others {
            let value = |sample: &Sample| if self.by_cpu { sample.per_cpu } else { sample.rate };
            let ratios: Vec<f64> = first.iter().zip(samples).map(|(a, b)| value(a) / value(b)).collect();
            let noisy = first.iter().zip(samples).filter(|(a, b)| a.foreign.max(b.foreign) > MAX_FOREIGN).count();
            let per = if self.by_cpu { "/CPU s" } else { "/s" };
            let _ = writeln!(
                rows,
                "| {} | {ours} : {name} | {} | {}{per} | {}{per} | {}{} |",
                self.work,
                spread(&ratios),
                self.unit.show(median(first.iter().map(value))),
                self.unit.show(median(samples.iter().map(value))),
                fetched(first, samples),
                if noisy == 0 { String::new() } else { format!("{noisy} of {} rounds noisy", ratios.len()) },
            );
        }
        rows
    }
}

fn fetched(ours: &[Sample], theirs: &[Sample]) -> String {
    let of = |samples: &[Sample]| {
        let known: Vec<f64> = samples.iter().filter_map(|sample| sample.fetched).collect();
        (!known.is_empty()).then(|| format!("{:.2}", median(known)))
    };
    match (of(ours), of(theirs)) {
        (Some(ours), Some(theirs)) => format!("fetched {ours} x : {theirs} x; "),
        _ => String::new(),
    }
}

/// The median with the least and the most.
pub fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("**{:.2}** ({least:.2}-{most:.2})", median(values.iter().copied()))
}

/// The middle value; of an even number the lower one of the two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
