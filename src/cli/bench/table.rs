//! The report as text for people.

use std::fmt::Write as _;

use super::plot::duration;
use crate::cli::show;
use crate::documents::{Report, Series, counted};

/// All reports below each other.
pub(super) fn table(reports: &[Report]) -> String {
    reports.iter().map(text).collect::<Vec<_>>().join("\n\n")
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{}, {}, {}, {}; {}, {} at a time\n\n",
        report.image,
        report.digest,
        report.platform,
        counted(report.blobs, "blob"),
        show::size(report.size_bytes),
        counted(report.clients, "client"),
        counted(report.parallel, "blob")
    );
    let _ = writeln!(
        text,
        "{:<7} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>13} {:>10} {:>17} {:>11}",
        "", "pulls", "median", "min", "p90", "p99", "max", "rate", "1st byte", "blob 1st p50/p99", "fetched/got"
    );
    for series in &report.series {
        text.push_str(&row(series));
    }
    text.push('\n');
    let ratios = [
        ("cold / direct", report.ratios.cold_to_direct),
        ("warm / direct", report.ratios.warm_to_direct),
        ("warm / cold", report.ratios.warm_to_cold),
    ];
    let ratios: Vec<String> =
        ratios.iter().filter_map(|(name, ratio)| Some(format!("{name} {:.2}", (*ratio)?))).collect();
    if !ratios.is_empty() {
        let _ = writeln!(text, "medians of times: {}", ratios.join(", "));
    }
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    text.trim_end().to_owned()
}

fn row(series: &Series) -> String {
    let blob = series
        .blob_first_byte
        .map_or_else(|| "-".to_owned(), |blob| format!("{}/{}", duration(blob.median), duration(blob.p99)));
    let fetched = series.upstream_bytes_per_client_byte.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}"));
    let time = &series.time;
    format!(
        "{:<7} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>13} {:>10} {blob:>17} {fetched:>11}\n",
        series.way.as_str(),
        time.count,
        duration(time.median),
        duration(time.min),
        duration(time.p90),
        duration(time.p99),
        duration(time.max),
        format!("{}/s", show::size(series.rate as u64)),
        duration(series.first_byte.median),
    )
}
