//! Numbers from samples: percentiles, spread, ratios. Pure.
//!
//! Percentiles are by nearest rank, so every one of them was measured; with few samples the high
//! ones are the maximum. There is no mean: one hiccup of the machine moves it.

use std::time::Duration;

use serde::Serialize;

/// What samples of a time come to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// Half are no more.
    pub median: f64,
    /// Nine of ten are no more.
    pub p90: f64,
    /// Ninety-nine of a hundred are no more.
    pub p99: f64,
    /// The most.
    pub max: f64,
    /// The width of the middle half.
    pub spread: f64,
}

impl Summary {
    /// Of at least one sample; `None` of none.
    pub fn of(samples: impl IntoIterator<Item = Duration>) -> Option<Summary> {
        let mut seconds: Vec<f64> = samples.into_iter().map(|sample| sample.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |percent| nearest_rank(&seconds, percent);
        Some(Summary {
            count: seconds.len(),
            min: *seconds.first()?,
            median: at(50)?,
            p90: at(90)?,
            p99: at(99)?,
            max: *seconds.last()?,
            spread: at(75)? - at(25)?,
        })
    }
}

/// The smallest value that at least `percent` of all values do not exceed.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// How `of` compares to `to`; `None` where there is nothing to compare to.
pub fn ratio(of: f64, to: f64) -> Option<f64> {
    (to > 0.0).then(|| of / to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: impl IntoIterator<Item = u64>) -> Option<Summary> {
        Summary::of(values.into_iter().map(Duration::from_secs))
    }

    #[test]
    fn percentiles_are_samples_of_that_rank() {
        let summary = seconds((1..=100).rev()).expect("samples");
        assert_eq!((summary.count, summary.min, summary.max), (100, 1.0, 100.0));
        assert_eq!((summary.median, summary.p90, summary.p99), (50.0, 90.0, 99.0));
        assert_eq!(summary.spread, 50.0);
    }

    #[test]
    fn few_samples_have_their_maximum_as_high_percentiles() {
        let summary = seconds([3, 1, 2]).expect("samples");
        assert_eq!((summary.median, summary.p90, summary.p99), (2.0, 3.0, 3.0));
        assert_eq!(seconds([7]).map(|summary| (summary.median, summary.p99, summary.spread)), Some((7.0, 7.0, 0.0)));
    }

    #[test]
    fn of_nothing_there_is_no_number() {
        assert_eq!(seconds([]), None);
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
    }
}
