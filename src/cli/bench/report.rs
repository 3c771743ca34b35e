//! The report of a run: one series for each way, ratios between them, and how it was measured.
//!
//! The report itself is a document.

use super::pull::{Order, Pulled};
use super::run::Round;
use super::statistics::{ratio, summary};
use crate::documents::{Ratios, Report, Series, Way};

impl Report {
    /// Of at least one round; `None` of none.
    pub fn of(image: String, order: &Order, clients: usize, rounds: &[Round], notes: Vec<String>) -> Option<Report> {
        let pulled = rounds.first()?.pulls.first()?;
        let series: Vec<Series> = Way::ALL.into_iter().filter_map(|way| Series::of(way, rounds)).collect();
        let median = |way: Way| series.iter().find(|series| series.way == way).map(|s| s.time.median);
        let compare = |of, to| ratio(median(of)?, median(to)?);
        let ratios = Ratios {
            cold_to_direct: compare(Way::Cold, Way::Direct),
            warm_to_direct: compare(Way::Warm, Way::Direct),
            warm_to_cold: compare(Way::Warm, Way::Cold),
        };
        let mut report = Report {
            image,
            digest: pulled.manifest.to_string(),
            platform: order.platform.to_string(),
            size_bytes: pulled.bytes,
            blobs: pulled.blobs.len(),
            clients,
            parallel: order.parallel,
            series,
            ratios,
            notes,
        };
        report.warn(rounds);
        Some(report)
    }

    fn warn(&mut self, rounds: &[Round]) {
        let cold = self.series.iter().find(|series| series.way == Way::Cold).map(|cold| cold.fetched);
        match cold {
            Some(Some(false)) => self.notes.push(
                "NOT COLD: in a cold round the mirror fetched less than half of the image, so it had it already; \
                 with --forget it is made to forget it"
                    .into(),
            ),
            Some(None) => self.notes.push(
                "the mirror does not tell what it fetches (--admin), so that the cold pulls were cold is not proved"
                    .into(),
            ),
            Some(Some(true)) | None => {}
        }
        let manifests = rounds.iter().flat_map(|round| &round.pulls).any(|p| p.manifest.to_string() != self.digest);
        if manifests {
            self.notes.push("the tag moved during the run: not all pulls are of the same image".into());
        }
    }
}

impl Series {
    fn of(way: Way, rounds: &[Round]) -> Option<Series> {
        let rounds: Vec<&Round> = rounds.iter().filter(|round| round.way == way).collect();
        let pulls = || rounds.iter().flat_map(|round| &round.pulls);
        let upstream: Option<u64> = rounds.iter().map(|round| round.upstream_bytes).sum();
        let delivered: u64 = rounds.iter().map(|round| round.bytes()).sum();
        let fetched: Option<Vec<bool>> = rounds.iter().map(|round| round.fetched()).collect();
        Some(Series {
            way,
            rounds: rounds.len(),
            time: summary(pulls().map(|pulled| pulled.elapsed))?,
            first_byte: summary(pulls().map(|pulled| pulled.first_byte))?,
            blob_first_byte: summary(pulls().flat_map(|pulled| &pulled.blobs).map(|blob| blob.first_byte)),
            rate: median_rate(&rounds),
            upstream_bytes_per_client_byte: upstream.and_then(|bytes| ratio(bytes as f64, delivered as f64)),
            fetched: fetched.map(|fetched| fetched.into_iter().all(|fetched| fetched)),
            samples: pulls().map(|pulled: &Pulled| pulled.elapsed.as_secs_f64()).collect(),
        })
    }
}

fn median_rate(rounds: &[&Round]) -> f64 {
    let mut rates: Vec<f64> =
        rounds.iter().filter_map(|round| ratio(round.bytes() as f64, round.elapsed.as_secs_f64())).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::pull::{BlobTimes, Platform};
    use crate::oci::{Algorithm, Digest, Reference};

    fn round(way: Way, seconds: u64, upstream_bytes: Option<u64>) -> Round {
        let elapsed = Duration::from_secs(seconds);
        let first_byte = Duration::from_millis(seconds * 10);
        let pulled = Pulled {
            manifest: Digest::of(Algorithm::Sha256, b"manifest"),
            elapsed,
            first_byte,
            bytes: 1000,
            blobs: vec![BlobTimes { size: 900, first_byte, elapsed }],
        };
        Round { way, elapsed, pulls: vec![pulled; 2], upstream_bytes }
    }

    fn report(rounds: &[Round]) -> Option<Report> {
        let order = Order {
            repository: "library/app".parse().expect("a repository"),
            reference: Reference::Tag("1".parse().expect("a tag")),
            platform: Platform::default(),
            parallel: 3,
        };
        Report::of("docker.io/library/app:1".to_owned(), &order, 2, rounds, Vec::new())
    }

    #[test]
    fn series_are_of_the_ways_that_were_pulled_and_nothing_else() {
        let rounds = [round(Way::Direct, 4, None), round(Way::Warm, 1, Some(0)), round(Way::Warm, 3, Some(0))];
        let report = report(&rounds).expect("a report");
        let ways: Vec<_> = report.series.iter().map(|series| (series.way, series.rounds, series.time.count)).collect();
        assert_eq!(ways, [(Way::Direct, 1, 2), (Way::Warm, 2, 4)]);
        assert_eq!(report.ratios.warm_to_direct, Some(0.25));
        assert_eq!((report.ratios.cold_to_direct, report.ratios.warm_to_cold), (None, None));
        assert_eq!(report.series[0].upstream_bytes_per_client_byte, None, "a direct pull tells nothing of the mirror");
        assert_eq!(report.series[1].upstream_bytes_per_client_byte, Some(0.0));
        assert_eq!(report.series[0].rate, 500.0);
    }

    #[test]
    fn a_cold_series_says_whether_it_was_cold() {
        for (upstream, fetched, share, said) in [
            (Some(1000), Some(true), Some(0.5), ""),
            (Some(3), Some(false), Some(0.0015), "NOT COLD"),
            (None, None, None, "not proved"),
        ] {
            let report = report(&[round(Way::Cold, 1, upstream)]).expect("a report");
            assert_eq!(report.series[0].fetched, fetched);
            assert_eq!(report.series[0].upstream_bytes_per_client_byte, share);
            assert!(report.notes.concat().contains(said), "{:?}", report.notes);
            assert_eq!(report.notes.is_empty(), said.is_empty());
        }
    }

    #[test]
    fn of_no_rounds_there_is_no_report() {
        assert!(report(&[]).is_none());
    }
}
