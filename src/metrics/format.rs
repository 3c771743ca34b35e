//! How metrics are written: in the Prometheus text format, or in OpenMetrics for whom that pleases more.
//!
//! `prometheus-client` writes OpenMetrics. In the older format (Prometheus documentation, "Exposition formats",
//! version 0.0.4) the heads of a family name its series, there are neither units nor an end, and an `info` is a
//! gauge.

use http::HeaderMap;
use http::header::ACCEPT;

/// A format of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format.
    #[default]
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// The one that `Accept` asks for. OpenMetrics has to be named, and text not to be liked better.
    pub fn asked_for(headers: &HeaderMap) -> Format {
        let lists: Vec<_> = headers
            .get_all(ACCEPT)
            .iter()
            .map(|list| String::from_utf8_lossy(list.as_bytes()).to_lowercase())
            .collect();
        let liking = |name: &str, versions: &[&str]| {
            let entries =
                lists.iter().flat_map(|list| list.split(',')).filter_map(|entry| liked(entry, name, versions));
            entries.reduce(f32::max)
        };
        let open_metrics = liking("application/openmetrics-text", &["1.0.0", "0.0.1"]).unwrap_or_default();
        let text = ["text/plain", "text/*", "*/*"].iter().find_map(|name| liking(name, &["0.0.4"]));
        let asked_for = open_metrics > 0.0 && open_metrics >= text.unwrap_or_default();
        if asked_for { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// OpenMetrics as this format.
    pub(super) fn written(self, text: String) -> String {
        match self {
            Format::OpenMetrics => text,
            Format::Prometheus => older(&text),
        }
    }
}

/// How much, from 0 to 1, an entry of `Accept` likes this media type, if it is about it and one of these versions.
fn liked(entry: &str, name: &str, versions: &[&str]) -> Option<f32> {
    let mut parts = entry.split(';').map(str::trim);
    if parts.next() != Some(name) {
        return None;
    }
    let mut liking = 1.0;
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match (key.trim(), value.trim().trim_matches('"')) {
            ("q", value) => liking = value.parse().unwrap_or_default(),
            ("version", value) if !versions.contains(&value) => return None,
            _ => {}
        }
    }
    Some(liking)
}

fn older(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + text.len() / 8);
    let mut line = |words: &[&str]| {
        written.push_str(&words.concat());
        written.push('\n');
    };
    let mut help = "";
    for found in text.lines() {
        if let Some(of_family) = found.strip_prefix("# HELP ") {
            // Written when the type is known.
            help = of_family;
        } else if let Some((family, kind)) = found.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            let help = help.strip_prefix(family).unwrap_or_default();
            line(&["# HELP ", family, suffix, help]);
            line(&["# TYPE ", family, suffix, " ", kind]);
        } else if !found.starts_with('#') {
            line(&[found]);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        let asked = |accept: &[&str]| {
            let headers = accept.iter().map(|list| (ACCEPT, list.parse().expect("a value"))).collect();
            Format::asked_for(&headers)
        };
        for accept in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text; version=1.0.0; charset=utf-8"],
            // Prometheus.
            &["application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
               text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            &["text/html", "Application/OpenMetrics-Text;q=0.1, text/*;q=0.1"],
        ] {
            assert_eq!(asked(accept), Format::OpenMetrics, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/plain;version=0.0.4;q=0.5, application/openmetrics-text;version=1.0.0;q=0.4"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;version=2.0.0, */*"],
            &["application/openmetrics-textual"],
            &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited, */*;q=0.1"],
        ] {
            assert_eq!(asked(accept), Format::Prometheus, "{accept:?}");
        }
    }

    #[test]
    fn heads_of_the_older_format_name_series() {
        let newer = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# TYPE\"} 1\n\
                     # HELP b Level.\n# TYPE b gauge\nb 2\n# HELP c Build.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
                     # HELP d Time.\n# TYPE d histogram\nd_sum 0.0\n# EOF\n";
        let older = "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# TYPE\"} 1\n\
                     # HELP b Level.\n# TYPE b gauge\nb 2\n# HELP c_info Build.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
                     # HELP d Time.\n# TYPE d histogram\nd_sum 0.0\n";
        assert_eq!(Format::Prometheus.written(newer.to_owned()), older);
    }
}
