//! Lines of the log for people: a request is one line of at most [`WIDTH`] columns, everything else its message with
//! what belongs to it. What comes from outside is written as what it is.

use std::fmt;

use bytesize::ByteSize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::plain;

/// The columns of a line about a request.
const WIDTH: usize = 120;
/// The columns of its image.
const IMAGE: usize = 58;
/// What the line about a request says in the log.
const REQUEST: &str = "request";
/// The time of day and the level in front of other lines.
const FRONT: usize = 9 + 6;
/// No value is told in fewer columns for the sake of a line's length.
const SHORTEST: usize = 24;

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForPeople {
    /// Whether the time of day stands in front.
    pub(super) time: bool,
    /// Whether all is told of a request.
    pub(super) detailed: bool,
}

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let colours = writer.has_ansi_escapes();
        let painted = |colour: &str, text: &str| {
            if colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
        };
        if self.time {
            write!(writer, "{} ", painted(DIM, &time_of_day()))?;
        }
        let level = *event.metadata().level();
        if fields.message == REQUEST && !self.detailed {
            let Request { outcome, rest, failed } = Request::of(&fields);
            let colour = match outcome.trim_end() {
                _ if failed => RED,
                "stale" => YELLOW,
                _ => GREEN,
            };
            return writeln!(writer, "{} {rest}", painted(colour, &outcome));
        }
        let word = match level {
            Level::ERROR => painted(RED, "error"),
            Level::WARN => painted(YELLOW, "warn "),
            Level::INFO => "info ".to_owned(),
            _ => painted(DIM, "debug"),
        };
        // There may be many of those.
        let is_of_a_blob = fields.others.iter().any(|(name, _)| *name == "blob");
        let told = if is_of_a_blob && !self.detailed { fields.fitted(WIDTH - FRONT) } else { fields.told() };
        writeln!(writer, "{word} {told}")
    }
}

/// To the second, in UTC.
fn time_of_day() -> String {
    let mut moment = String::new();
    // It is written into memory.
    let _ = SystemTime.format_time(&mut Writer::new(&mut moment));
    moment.get(11..19).unwrap_or_default().to_owned()
}

/// The fields of a line, as nobody obeys them.
#[derive(Default)]
struct Fields {
    message: String,
    /// In the order in which they are told.
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, text: &str) {
        let text = plain::word(text).into_owned();
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text));
        }
    }

    fn get(&self, name: &str) -> &str {
        self.others.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or_default()
    }

    /// The same in so many columns, with the middle left out of what is longest of what belongs to it.
    fn fitted(&self, most: usize) -> String {
        let within = |columns: usize| {
            let others = self.others.iter().map(|(name, value)| (*name, shortened(value, columns)));
            Fields { message: self.message.clone(), others: others.collect() }.told()
        };
        let fits = |told: &String| told.chars().count() <= most;
        (SHORTEST..=WIDTH).rev().map(within).find(fits).unwrap_or_else(|| within(SHORTEST))
    }

    /// The message and all that belongs to it.
    fn told(&self) -> String {
        let mut told = self.message.clone();
        for (name, value) in &self.others {
            let quoted = value.is_empty() || value.contains(' ');
            told += &if quoted { format!(" {name}=\"{value}\"") } else { format!(" {name}={value}") };
        }
        told
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
}

/// A request in short.
struct Request {
    outcome: String,
    rest: String,
    failed: bool,
}

impl Request {
    fn of(fields: &Fields) -> Request {
        let status = fields.number("status");
        let (problem, cut) = (fields.get("error"), fields.get("complete") == "false");
        let failed = status >= 400 || !problem.is_empty();
        let image = shortened(&image(fields), IMAGE);
        let outcome = format!("{:<11}", fields.get("outcome"));
        let size = |name| ByteSize::b(fields.number(name)).display().iec().to_string();
        let seconds = fields.get("duration_ms").parse::<f64>().unwrap_or_default() / 1000.0;
        let end = match status {
            status if failed => format!("{status} {}: {problem}", fields.get("code")).replace(" : ", " "),
            _ => {
                let cut = if cut && fields.get("method") == "GET" { ", not to its end" } else { "" };
                format!("{:>10} {seconds:>7.2} s {:>10} upstream{cut}", size("bytes"), size("upstream_bytes"))
            }
        };
        let line = format!("{image:<IMAGE$} {end}");
        // The time of day and the outcome stand in front.
        Request { outcome, rest: cut_at(line.trim_end(), WIDTH - 9 - 12), failed }
    }
}

/// The image, as people write it.
fn image(fields: &Fields) -> String {
    let (upstream, repository) = (fields.get("upstream"), fields.get("repository"));
    match fields.get("reference") {
        // A ping has none, nor has what is refused as it stands.
        _ if upstream.is_empty() && fields.get("path").is_empty() => "/v2/".to_owned(),
        _ if upstream.is_empty() => fields.get("path").to_owned(),
        "" => format!("{upstream}/{repository}"),
        digest if digest.contains(':') => {
            let short: String = digest.chars().take("sha256:".len() + 12).collect();
            format!("{upstream}/{repository}@{short}")
        }
        tag => format!("{upstream}/{repository}:{tag}"),
    }
}

/// With what is too long left out of its middle.
fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let (head, tail) = (most / 2 - 1, most - most / 2);
    let head = text.chars().take(head);
    head.chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

fn cut_at(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of what `log` says.
    fn written(detailed: bool, log: impl FnOnce()) -> String {
        let lines = Written::default();
        let writer = lines.clone();
        let format = ForPeople { time: true, detailed };
        let layer = tracing_subscriber::fmt::layer().event_format(format).with_ansi(false);
        let layer = layer.with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = lines.0.lock().expect("nobody panics").clone();
        String::from_utf8(bytes).expect("text")
    }

    fn request(repository: &str, status: u16, error: Option<&str>) {
        tracing::info!(
            method = "GET",
            status,
            outcome = "revalidated",
            upstream = "docker.io",
            repository,
            reference = Some(tracing::field::display("sha256:0123456789abcdef0123456789abcdef")),
            bytes = 43_300_000_u64,
            upstream_bytes = 0_u64,
            complete = true,
            duration_ms = 1234.5,
            code = error.map(|_| "MANIFEST_UNKNOWN"),
            error,
            "request"
        );
    }

    #[test]
    fn a_request_is_one_line_that_fits_a_terminal() {
        let line = written(false, || request("library/redis", 200, None));
        assert_eq!(
            line.get(8..).expect("the time"),
            " revalidated docker.io/library/redis@sha256:0123456789ab                  \
             41.3 MiB    1.23 s        0 B upstream\n"
        );
        let long = "a/".repeat(120) + "z";
        for (repository, status, error) in [
            (long.as_str(), 200, None),
            (&long, 404, Some("a message from upstream that goes on and on and on and on and on and on and on")),
            ("a\u{1b}[2Jb", 500, Some("two\nlines \u{202e} and an \u{1b}[31mescape")),
        ] {
            let line = written(false, || request(repository, status, error));
            assert!(line.trim_end().chars().count() <= WIDTH && line.lines().count() == 1, "{line}");
            assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line:?}");
            assert_eq!(line.contains("404 MANIFEST_UNKNOWN: a message"), status == 404, "{line}");
        }
    }

    #[test]
    fn a_request_for_no_image_is_told_by_its_path() {
        for (path, expected) in [(Some("/"), "/ "), (None, "/v2/ ")] {
            let line = written(false, || {
                tracing::info!(status = 400, outcome = "local", path, code = "NAME_INVALID", error = "why", "request");
            });
            let (shown, said) = line.get(21..).and_then(|rest| rest.split_at_checked(IMAGE)).expect("an image");
            assert!(shown.starts_with(expected) && said == " 400 NAME_INVALID: why\n", "{line}");
        }
    }

    #[test]
    fn details_are_told_to_who_asks_for_them_and_other_lines_say_all() {
        let line = written(true, || request("library/redis", 200, None));
        for told in ["request", "status=200", "duration_ms=1234.5", "bytes=43300000", "method=GET"] {
            assert!(line.contains(told), "{told}: {line}");
        }
        let hex = "0123456789abcdef".repeat(4);
        let blob = format!("docker.io/acme/app@sha256:{hex}");
        let error = format!("GET /v2/acme/app/blobs/sha256:{hex} at registry-1.docker.io: it ended before its end");
        let warn = || tracing::warn!(blob, error, "fill failed");
        let line = written(false, warn);
        assert!(
            line.trim_end().chars().count() <= WIDTH && line.contains("fill failed blob=docker.io/acme/"),
            "{line}"
        );
        assert!(line.contains("error=\"GET /v2/") && line.ends_with("before its end\"\n"), "{line}");
        assert!(written(true, warn).contains(&error), "to who asks for details");
        let line = written(false, || tracing::warn!(error = "two words", by = 7, "something\nis wrong"));
        assert_eq!(line.get(8..), Some(" warn  something\\u{a}is wrong error=\"two words\" by=7\n"));
    }
}
