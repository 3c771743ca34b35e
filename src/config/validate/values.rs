//! Single values: words, numbers, durations, sizes, parts and addresses.

use std::net::SocketAddr;
use std::time::Duration;

use super::Check;
use crate::config::Limit;
use crate::config::document::nearest;

impl Check {
    pub(super) fn percent(&mut self, path: &str, typed: &str) -> u8 {
        let percent = typed.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let percent = percent.filter(|percent| *percent <= 100);
        if percent.is_none() {
            self.problem(path, format!("{typed:?} is not a part"), "a part from 0% to 100%");
        }
        percent.unwrap_or_default()
    }

    pub(super) fn addresses(&mut self, path: &str, typed: &[String]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (n, text) in typed.iter().enumerate() {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let place = self.0.element(path, n);
                    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(5000);
                    let hint = format!("127.0.0.1:{port} for this machine, [::]:{port} for all addresses");
                    self.problem(&place, format!("{text:?} is not an address and a port"), &hint);
                }
            }
        }
        addresses
    }

    pub(super) fn word<T: Copy>(&mut self, path: &str, typed: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == typed);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let hint = match nearest(typed, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}? Known: {}", known.join(", ")),
                None => format!("one of {}", known.join(", ")),
            };
            self.problem(path, format!("{typed:?} means nothing here"), &hint);
        }
        found.map(|(_, meaning)| *meaning)
    }

    pub(super) fn count(&mut self, path: &str, typed: u64) -> usize {
        let count = usize::try_from(typed).ok().filter(|count| *count > 0 && u32::try_from(*count).is_ok());
        if count.is_none() {
            self.problem(path, "expected a number from 1 to 4294967295", "");
        }
        count.unwrap_or(1)
    }

    /// How often in a time; 0 is no limit.
    pub(super) fn rate(&mut self, path: &str, typed: u64) -> u32 {
        let rate = u32::try_from(typed);
        if rate.is_err() {
            self.problem(path, "expected a number from 0 to 4294967295", "0 is no limit");
        }
        rate.unwrap_or_default()
    }

    pub(super) fn positive(&mut self, path: &str, typed: &str) -> Duration {
        let duration = self.read_duration(path, typed);
        if duration == Some(Duration::ZERO) {
            self.problem(path, "a time-out of zero lets nothing through", "");
        }
        duration.unwrap_or_default()
    }

    pub(super) fn duration(&mut self, path: &str, typed: &str) -> Duration {
        self.read_duration(path, typed).unwrap_or_default()
    }

    /// At most a hundred years: sums with a time of day must not overflow.
    fn read_duration(&mut self, path: &str, typed: &str) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
        let duration = humantime::parse_duration(typed).ok().filter(|duration| *duration <= LONGEST);
        if duration.is_none() {
            self.problem(path, format!("{typed:?} is not a duration"), "a number and a unit: 500ms, 30s, 5m, 12h, 30d");
        }
        duration
    }

    pub(super) fn limit(&mut self, path: &str, typed: &str) -> Option<Limit> {
        let limit = match typed.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().filter(|percent| *percent <= 100).map(Limit::Percent),
            None => read_size(typed).map(Limit::Bytes),
        };
        if limit.is_none() {
            let message = format!("{typed:?} is neither a size nor a part");
            self.problem(path, message, "a number and a unit, 500GB or 200GiB, or a part of the file system, 80%");
        }
        limit
    }

    pub(super) fn size(&mut self, path: &str, typed: &str) -> u64 {
        let size = read_size(typed);
        if size.is_none() {
            self.problem(path, format!("{typed:?} is not a size"), "a number and a unit: 32MiB, 1GB");
        }
        size.unwrap_or_default()
    }
}

/// Bytes. A number needs its unit, zero apart: a bare `500` is more often meant as GB than as bytes.
fn read_size(typed: &str) -> Option<u64> {
    let typed = typed.trim();
    let has_unit = typed == "0" || typed.ends_with(|c: char| c.is_ascii_alphabetic());
    let size = typed.parse::<bytesize::ByteSize>().ok().filter(|_| has_unit)?;
    // More is a mistake, and the parser stops there instead of saying so.
    (size.as_u64() <= i64::MAX as u64).then(|| size.as_u64())
}
