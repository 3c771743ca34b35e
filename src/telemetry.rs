//! The log: what is written, how, and where to.
//!
//! The only place that knows `tracing-subscriber`; everything else writes with `tracing`. Lines go
//! to stderr, because stdout belongs to data. Text on a terminal, one JSON object per line
//! elsewhere. The time is left out when the journal adds its own. How text looks is `people`'s.

mod people;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::{Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use people::ForPeople;

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives that [`check_level`] accepts.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

/// How lines look; decided once, at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    json: bool,
    time: bool,
    colour: bool,
}

/// What the process was started with, as far as the log is concerned.
#[derive(Clone, Copy, Debug, Default)]
struct Surroundings {
    terminal: bool,
    journal: bool,
    no_color: bool,
}

/// Starts the log, its text with or without colours where that is said. Called once, before the first line; a
/// second call changes nothing.
pub fn start(log: &Log, coloured: Option<bool>) {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let style = style(
        log.format,
        Surroundings {
            terminal: std::io::stderr().is_terminal(),
            journal: set("JOURNAL_STREAM"),
            no_color: set("NO_COLOR"),
        },
    );
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(coloured.map_or(style.colour, |coloured| coloured && !style.json));
    // The combinations are different types.
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match (style.json, style.time) {
        (true, true) => Box::new(lines.json().flatten_event(true).with_timer(SystemTime)),
        (true, false) => Box::new(lines.json().flatten_event(true).without_time()),
        (false, time) => Box::new(lines.event_format(ForPeople { time, detailed: is_detailed(&log.level) })),
    };
    // A log that is already there stays.
    let (filter, handle) = reload::Layer::new(boxed(&log.level));
    if tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().is_ok() {
        let _ = RULES.set(handle);
    }
}

/// What is written of the log of this process.
type Rules = Box<dyn Filter<Registry> + Send + Sync>;

/// Who asks the bucket, and tells of each time that it asks again.
const OF_THE_BUCKET: &str = "object_store";

static RULES: OnceLock<reload::Handle<Rules, Registry>> = OnceLock::new();

fn boxed(level: &str) -> Rules {
    Box::new(rules(level))
}

/// Writes what `level` says from here on; a process that has not started its log has none to change.
pub fn change(level: &str) {
    // It fails where the log is gone.
    let _ = RULES.get().map(|rules| rules.reload(boxed(level)));
}

/// What is written: what `level` says, and of other crates nothing finer than `debug`. On `trace`
/// those which talk to the network write headers out, and with them what nobody may read. How often the bucket was asked
/// again is for who looks closely: a bucket that is away would fill the log with it.
pub fn rules<S>(level: &str) -> impl Filter<S> + use<S> {
    let is_close = is_detailed(level) || level.contains(OF_THE_BUCKET);
    let level = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    level.and(filter_fn(move |line| match line.target() {
        target if target.starts_with("registry_mirror") => true,
        target if target.starts_with(OF_THE_BUCKET) && !is_close => false,
        _ => *line.level() <= Level::DEBUG,
    }))
}

/// Whether somebody wants to see more than what happens.
fn is_detailed(level: &str) -> bool {
    EnvFilter::try_new(level).is_ok_and(|level| level.max_level_hint() >= Some(LevelFilter::DEBUG))
}

fn style(format: LogFormat, surroundings: Surroundings) -> Style {
    let json = match format {
        LogFormat::Auto => !surroundings.terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    Style { json, time: !surroundings.journal, colour: !json && surroundings.terminal && !surroundings.no_color }
}

/// Whether `level` is a level or a list of directives.
///
/// # Errors
/// What is wrong with it. A lone word that is not a level is refused, although the filter would
/// take it for the name of a module and then log next to nothing.
pub fn check_level(level: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = level.split(',').map(str::trim);
    for directive in directives {
        let lone = !directive.contains(['=', '[']);
        if lone && !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(format!("{directive:?} is not a level"));
        }
    }
    EnvFilter::try_new(level).map(drop).map_err(|error| format!("not a list of directives: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_on_a_terminal_and_json_elsewhere() {
        let terminal = Surroundings { terminal: true, ..Surroundings::default() };
        assert_eq!(style(LogFormat::Auto, terminal), Style { json: false, time: true, colour: true });
        let pipe = Surroundings::default();
        assert_eq!(style(LogFormat::Auto, pipe), Style { json: true, time: true, colour: false });
        assert!(style(LogFormat::Json, terminal).json);
        assert!(!style(LogFormat::Text, pipe).json);
    }

    #[test]
    fn the_journal_adds_the_time_and_no_color_is_obeyed() {
        let journal = Surroundings { journal: true, ..Surroundings::default() };
        assert!(!style(LogFormat::Text, journal).time);
        let plain = Surroundings { terminal: true, no_color: true, ..Surroundings::default() };
        assert!(!style(LogFormat::Auto, plain).colour);
        assert!(!style(LogFormat::Text, Surroundings::default()).colour);
    }

    #[test]
    fn a_level_is_a_level_or_a_list_of_directives() {
        for valid in ["off", "info", "DEBUG", "warn,registry_mirror=debug", "info,hyper=off"] {
            assert_eq!(check_level(valid), Ok(()), "{valid}");
        }
        for invalid in ["", "inof", "info,", "registry_mirror=loud", "debug hyper"] {
            assert!(check_level(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn how_often_the_bucket_is_asked_again_is_for_who_looks_closely() {
        #[derive(Clone, Default)]
        struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);
        impl<S: tracing::Subscriber> Layer<S> for Count {
            fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        for (level, written) in [("info", 1), ("debug", 2), ("info,object_store=info", 2)] {
            let count = Count::default();
            let lines = tracing_subscriber::registry().with(count.clone().with_filter(rules(level)));
            tracing::subscriber::with_default(lines, || {
                tracing::info!(target: "object_store::client::retry", "again");
                tracing::info!(target: "registry_mirror::tier", "once");
            });
            assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), written, "{level}");
        }
    }
}
