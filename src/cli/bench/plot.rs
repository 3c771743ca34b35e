//! The plot of a report: every pull a dot on a line of time, one row for each way, as SVG.
//!
//! Dots instead of bars, because what one wants to see is whether the rows overlap.

use std::fmt::Write as _;

use crate::documents::{Report, Series, Way, counted};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 120.0;
const HEAD: f64 = 46.0;
const ROW: f64 = 44.0;
/// Below the last row of an image: the axis and its labels.
const FOOT: f64 = 44.0;

/// All reports below each other, each with an axis of its own.
pub fn svg(reports: &[Report]) -> String {
    let height: f64 = reports.iter().map(panel_height).sum();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 0.0;
    for report in reports {
        panel(&mut svg, report, top);
        top += panel_height(report);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel_height(report: &Report) -> f64 {
    HEAD + ROW * report.series.len() as f64 + FOOT
}

fn panel(svg: &mut String, report: &Report, top: f64) {
    let longest = report.series.iter().map(|series| series.time.max).fold(0.0, f64::max);
    let step = nice_step(longest);
    let end = (longest / step).ceil().max(1.0) * step;
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let clients = counted(report.clients, "client");
    let title =
        format!("{} · {} · {:.1} MB · {clients}", report.image, report.platform, report.size_bytes as f64 / 1e6);
    text(svg, 12.0, top + 24.0, "start", "font-weight=\"bold\"", &title);
    let bottom = top + HEAD + ROW * report.series.len() as f64;
    for tick in 0..=((end / step).round() as u32) {
        let seconds = f64::from(tick) * step;
        let at = x(seconds);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>",
            top + HEAD - 8.0
        );
        text(svg, at, bottom + 16.0, "middle", "fill=\"#555555\"", &axis_label(seconds));
    }
    for (row, series) in report.series.iter().enumerate() {
        draw_series(svg, series, top + HEAD + ROW * (row as f64 + 0.5) - 4.0, &x);
    }
}

fn draw_series(svg: &mut String, series: &Series, y: f64, x: &dyn Fn(f64) -> f64) {
    let color = match series.way {
        Way::Direct => "#7f7f7f",
        Way::Cold => "#1f77b4",
        Way::Warm => "#d6611f",
    };
    text(svg, LEFT - 12.0, y + 4.0, "end", "", series.way.as_str());
    for sample in &series.samples {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\" fill-opacity=\"0.45\"/>",
            x(*sample)
        );
    }
    let median = x(series.time.median);
    let _ = writeln!(
        svg,
        "<line x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\" stroke-width=\"3\"/>",
        y - 12.0,
        y + 12.0
    );
    let label = format!("median {}", duration(series.time.median));
    text(svg, WIDTH - 8.0, y + 4.0, "end", &format!("fill=\"{color}\""), &label);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, attributes: &str, content: &str) {
    let content = escape(content);
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{content}</text>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// 1, 2 or 5 times a power of ten, so that the axis has 3 to 8 steps.
fn nice_step(longest: f64) -> f64 {
    let raw = if longest > 0.0 { longest / 5.0 } else { 0.2 };
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| raw <= step * power).unwrap_or(10.0);
    step * power
}

fn axis_label(seconds: f64) -> String {
    if seconds == 0.0 { "0".to_owned() } else { duration(seconds) }
}

/// A time in the unit that suits it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        seconds if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::statistics::summary;
    use crate::documents::Ratios;

    fn report(image: &str, samples: &[f64]) -> Report {
        let time = summary(samples.iter().map(|seconds| Duration::from_secs_f64(*seconds))).expect("samples");
        let series = Way::ALL.map(|way| Series {
            way,
            rounds: samples.len(),
            time,
            first_byte: time,
            blob_first_byte: None,
            rate: 1.0,
            upstream_bytes_per_client_byte: None,
            fetched: None,
            samples: samples.to_vec(),
        });
        Report {
            image: image.to_owned(),
            digest: String::new(),
            platform: "linux/amd64".to_owned(),
            size_bytes: 1,
            blobs: 1,
            clients: 1,
            parallel: 3,
            series: series.into(),
            ratios: Ratios { cold_to_direct: None, warm_to_direct: None, warm_to_cold: None },
            notes: Vec::new(),
        }
    }

    /// Every tag closed in the right order, every attribute in quotes, no bare `&` or `<`.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else {
                assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
                if !tag.ends_with('/') {
                    open.push(tag.split(' ').next().expect("a name"));
                }
            }
            for entity in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{text}");
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn a_plot_is_well_formed_and_has_every_pull_and_every_image() {
        let svg = svg(&[report("a", &[0.5, 0.25, 1.0]), report("<b> & \"c\"", &[0.0])]);
        assert_well_formed(&svg);
        assert_eq!(svg.matches("<circle").count(), 3 * 3 + 3);
        assert!(svg.contains("&lt;b&gt; &amp; &quot;c&quot;"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn no_dot_lies_outside() {
        for samples in [[0.0001, 0.0003], [0.9, 1.0], [99.0, 101.0]] {
            let svg = svg(&[report("a", &samples)]);
            for piece in svg.split("cx=\"").skip(1) {
                let x: f64 = piece.split('"').next().and_then(|x| x.parse().ok()).expect("a number");
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{x}");
            }
        }
    }

    #[test]
    fn the_axis_has_few_round_steps() {
        for longest in [0.00021, 0.3, 1.0, 7.7, 100.0, 1234.5] {
            let steps = (longest / nice_step(longest)).ceil();
            assert!((1.0..=6.0).contains(&steps), "{longest}: {steps}");
        }
    }
}
