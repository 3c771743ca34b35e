//! Numbers from samples: percentiles, spread, ratios. Pure.
//!
//! Percentiles are by nearest rank, so every one of them was measured; with few samples the high
//! ones are the maximum. There is no mean: one hiccup of the machine moves it.

use std::time::Duration;

use crate::documents::Summary;

/// What samples come to, in seconds; `None` of none.
pub fn summary(samples: impl IntoIterator<Item = Duration>) -> Option<Summary> {
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
        summary(values.into_iter().map(Duration::from_secs))
    }

    #[test]
    fn percentiles_are_samples_of_that_rank() {
        let found = seconds((1..=100).rev()).expect("samples");
        assert_eq!((found.count, found.min, found.max), (100, 1.0, 100.0));
        assert_eq!((found.median, found.p90, found.p99), (50.0, 90.0, 99.0));
        assert_eq!(found.spread, 50.0);
    }

    #[test]
    fn few_samples_have_their_maximum_as_high_percentiles() {
        let found = seconds([3, 1, 2]).expect("samples");
        assert_eq!((found.median, found.p90, found.p99), (2.0, 3.0, 3.0));
        assert_eq!(seconds([7]).map(|summary| (summary.median, summary.p99, summary.spread)), Some((7.0, 7.0, 0.0)));
    }

    #[test]
    fn of_nothing_there_is_no_number() {
        assert_eq!(seconds([]), None);
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
    }
}
