//! How numbers, moments and tables look to people.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::documents::Moment;

/// A size, such as `41.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// How long ago something was, in its largest unit: `3m ago`.
pub(super) fn ago(at: Moment) -> String {
    match Timestamp::from(at).age(SystemClock.now()) {
        Some(age) if age >= Duration::from_secs(1) => {
            let text = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
            format!("{} ago", text.split(' ').next().unwrap_or_default())
        }
        _ => "just now".to_owned(),
    }
}

/// So many seconds, in their largest units.
pub(super) fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// How far ahead something is, to the second: `in 4s`.
pub(super) fn ahead(at: Moment) -> String {
    let left = Duration::from_millis(at.millis().saturating_sub(SystemClock.now().0)).as_millis().div_ceil(1000);
    match u64::try_from(left) {
        Ok(0) | Err(_) => "with the next request".to_owned(),
        Ok(left) => format!("in {}", seconds(left)),
    }
}

/// A moment as RFC 3339, to the second.
pub(super) fn moment(at: Moment) -> String {
    let whole_second = Moment::from_millis(at.millis() / 1000 * 1000);
    whole_second.to_string().replace(".000Z", "Z")
}

/// A part of a whole, such as `94.1 %`.
pub(super) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0))
}

/// A short digest, enough to tell apart what is on a screen.
pub(super) fn short(digest: &crate::oci::Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// A bar for so many bytes, or for a number that is not known if 0; none where nobody looks at it.
pub(super) fn bar(bytes: u64, wanted: bool) -> ProgressBar {
    if !wanted || super::talk::is_quiet() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = if bytes == 0 { ProgressBar::no_length() } else { ProgressBar::new(bytes) };
    match ProgressStyle::with_template("  {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) if bytes > 0 => bar.with_style(style),
        _ => bar,
    }
}

/// Rows with their cells below each other. The first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "A     B\nlong  x");
    }
}
