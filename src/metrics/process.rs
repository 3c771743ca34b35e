//! The process as its operators see it, by the names that all exporters use. Read from `/proc` when it is asked
//! for; what that does not tell is left out.

use std::fs;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// This process.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut write = |name: &str, help: &str, metric: &dyn Erased| metric.write(&mut encoder, name, help);
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read) {
            write("process_cpu_seconds", "User and system time", &ConstCounter::new(stat.cpu.as_secs_f64()))?;
            write("process_threads", "Threads", &ConstGauge::new(stat.threads))?;
            write("process_virtual_memory_bytes", "Virtual memory", &ConstGauge::new(stat.virtual_bytes))?;
            write("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(stat.resident_bytes))?;
            if let Some(booted) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(booted_at) {
                let started = (booted + stat.started).as_secs_f64();
                write("process_start_time_seconds", "When it started, since 1970", &ConstGauge::new(started))?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Less the one that is being read.
            let open = (open.count() as u64).saturating_sub(1);
            write("process_open_fds", "File descriptors in use", &ConstGauge::new(open))?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            write("process_max_fds", "File descriptors that it may use", &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

/// A metric of whatever kind.
trait Erased {
    fn write(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> Result<(), std::fmt::Error>;
}

impl<T: EncodeMetric> Erased for T {
    fn write(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

/// What `/proc/<pid>/stat` says (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu: Duration,
    threads: u64,
    /// After the machine was booted.
    started: Duration,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Stat> {
        // The name of the program, in parentheses, may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // As the manual counts, from 1.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |ticks: u64| Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64);
        Some(Stat {
            cpu: ticks(field(14)? + field(15)?),
            threads: field(20)?,
            started: ticks(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(page_size() as u64),
        })
    }
}

/// When the machine was booted, since 1970, by `/proc/stat`.
fn booted_at(text: &str) -> Option<Duration> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_field() {
        let text = "7 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 9 18 1000 4096 3 20 21";
        let stat = Stat::read(text).expect("a line of the kernel");
        let second = clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu, Duration::from_secs_f64(300.0 / second));
        assert_eq!((stat.threads, stat.virtual_bytes), (9, 4096));
        assert_eq!(stat.started, Duration::from_secs_f64(1000.0 / second));
        assert_eq!(stat.resident_bytes, 3 * page_size() as u64);
        assert_eq!(Stat::read("7 (a) S 1"), None);
        assert_eq!(booted_at("cpu 1 2\nbtime 1700000000\n"), Some(Duration::from_secs(1_700_000_000)));
    }
}
