//! Colours of what people read: what a line is about, and words for how it stands.
//!
//! One painter for all commands, over their lines as they are without colours. JSON never gets here.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::ValueEnum;

/// When there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// In every answer for people.
    Always,
    /// In none.
    Never,
}

impl Color {
    /// What is typed, for what is said before all of it is understood.
    pub(super) fn typed(args: &[OsString]) -> Color {
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        let behind =
            words.iter().position(|word| word == "--color").and_then(|at| words.get(at + 1)).map(AsRef::as_ref);
        let within = words.iter().find_map(|word| word.strip_prefix("--color="));
        within.or(behind).and_then(|word| Color::from_str(word, false).ok()).unwrap_or_default()
    }

    /// Whether what goes there is coloured.
    pub(super) fn paints(self, stream: &impl IsTerminal) -> bool {
        let refused = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Color::Auto => stream.is_terminal() && !refused(),
            Color::Always => true,
            Color::Never => false,
        }
    }

    /// Whether it is coloured whatever it goes to; `None` for who finds out.
    pub(super) const fn fixed(self) -> Option<bool> {
        match self {
            Color::Auto => None,
            Color::Always => Some(true),
            Color::Never => Some(false),
        }
    }

    /// The same for help and for what cannot be parsed.
    pub(super) const fn of_help(self) -> clap::ColorChoice {
        match self {
            Color::Auto => clap::ColorChoice::Auto,
            Color::Always => clap::ColorChoice::Always,
            Color::Never => clap::ColorChoice::Never,
        }
    }
}

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const PLAIN: &str = "\u{1b}[0m";

/// Words for how something stands; of two that begin alike the longer comes first.
const STATES: [(&str, &str); 25] = [
    ("not ready", RED),
    ("not complete", RED),
    ("not stored", RED),
    ("not there", RED),
    ("error", RED),
    ("damaged, fetched again", GREEN),
    ("0 damaged", GREEN),
    ("damaged", RED),
    ("missing", RED),
    ("failed", RED),
    ("fail", RED),
    ("down", RED),
    ("warning", YELLOW),
    ("warn", YELLOW),
    ("partly", YELLOW),
    ("stale", YELLOW),
    ("no longer pinned", YELLOW),
    ("complete", GREEN),
    ("ready", GREEN),
    ("valid", GREEN),
    ("pinned", GREEN),
    ("frozen", GREEN),
    ("fetched", GREEN),
    ("read", GREEN),
    ("ok", GREEN),
];

/// These lines with colours. What is seen of them stays the same.
pub(super) fn paint(lines: &str) -> String {
    lines.split('\n').map(painted).collect::<Vec<_>>().join("\n")
}

fn painted(line: &str) -> String {
    let text = line.trim_start();
    if text.is_empty() {
        return line.to_owned();
    }
    let indent = &line[..line.len() - text.len()];
    // What the line is about: in front of a colon, a cell or an equals sign; else its first word.
    let end = [": ", "  ", " = "].iter().filter_map(|gap| text.find(gap)).min();
    let end = end.or_else(|| text.find(' ')).unwrap_or(text.len());
    let (about, rest) = text.split_at(end);
    let state = STATES.iter().find(|(state, _)| *state == about);
    // Behind a word for how it stands are sentences, and in these it may stand for something else.
    let rest = if state.is_some() { rest.to_owned() } else { with_states(rest) };
    format!("{indent}{}{about}{PLAIN}{rest}", state.map_or(BOLD, |(_, colour)| colour))
}

fn with_states(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() + 32);
    let (mut rest, mut within_word) = (text, false);
    while let Some(first) = rest.chars().next() {
        let found = STATES.iter().find(|(state, _)| {
            let behind = rest.strip_prefix(state);
            !within_word && behind.is_some_and(ends_there)
        });
        let length = match found {
            Some((state, colour)) => {
                painted.push_str(&[colour, state, PLAIN].concat());
                state.len()
            }
            None => {
                painted.push(first);
                first.len_utf8()
            }
        };
        within_word = rest[..length].ends_with(is_of_word);
        rest = &rest[length..];
    }
    painted
}

/// Whether a word has ended in front of this: a colon or a full stop may end a sentence, or stand in a name.
fn ends_there(behind: &str) -> bool {
    !behind.strip_prefix([':', '.']).unwrap_or(behind).starts_with(is_of_word)
}

/// A word may be part of a name, too, such as `app-ready:1`.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':' | '.' | '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpainted(text: &str) -> String {
        [BOLD, RED, GREEN, YELLOW, PLAIN].iter().fold(text.to_owned(), |text, code| text.replace(code, ""))
    }

    #[test]
    fn a_line_says_the_same_in_colours() {
        for (line, expected) in [
            ("a:1: pinned", format!("{BOLD}a:1{PLAIN}: {GREEN}pinned{PLAIN}")),
            ("a:1: not ready: it", format!("{BOLD}a:1{PLAIN}: {RED}not ready{PLAIN}: it")),
            ("ready", format!("{GREEN}ready{PLAIN}")),
            ("error: x", format!("{RED}error{PLAIN}: x")),
            (
                "error: /x cannot be read: gone (os error 2)",
                format!("{RED}error{PLAIN}: /x cannot be read: gone (os error 2)"),
            ),
            ("  store  ready/app:1 not-ready", format!("  {BOLD}store{PLAIN}  ready/app:1 not-ready")),
            ("1 blobs, 0 damaged", format!("{BOLD}1{PLAIN} blobs, {GREEN}0 damaged{PLAIN}")),
            ("max_size = \"1GB\"", format!("{BOLD}max_size{PLAIN} = \"1GB\"")),
            ("", String::new()),
            ("ü", format!("{BOLD}ü{PLAIN}")),
        ] {
            assert_eq!(paint(line), expected, "{line}");
            assert_eq!(unpainted(&paint(line)), line);
        }
        let lines = "A\n\n  b: missing\n";
        assert_eq!(unpainted(&paint(lines)), lines);
    }

    #[test]
    fn what_is_typed_is_known_before_the_rest_is_understood() {
        let typed = |line: &str| Color::typed(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(typed("x --color always --nonsense"), Color::Always);
        assert_eq!(typed("x --color=never"), Color::Never);
        assert_eq!(typed("x --color sometimes"), Color::Auto);
        assert_eq!(typed("x --color"), Color::Auto);
    }
}
