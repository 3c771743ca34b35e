//! What is wrong with a configuration, for people.
//!
//! A [`Problem`] says where it is, what it is and what to do. The line of the file is shown with a
//! caret under the spot; what follows a key is cut off where it may hold a credential.

use std::fmt;
use std::ops::Range;

use crate::documents::{self, Code, Error};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `mirror.toml:3:1`, the name of a variable or a flag; empty when it has no place.
    pub place: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    snippet: Option<Snippet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    line: String,
    caret: String,
}

/// How much of the line is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// All of it.
    Line,
    /// Nothing behind the spot.
    UpToSpot,
    /// The key without its value.
    Key,
}

impl Problem {
    /// A problem with a place that has no line.
    pub(crate) fn at(place: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { place: place.into(), line: None, column: None, message: message.into(), hint: None, snippet: None }
    }

    /// A problem at `spot` (bytes) of the `text` of `file`.
    pub(super) fn in_text(file: &str, text: &str, spot: Range<usize>, show: Show, message: String) -> Problem {
        let start = char_boundary(text, spot.start);
        let end = char_boundary(text, spot.end).max(start);
        let (before, after) = (text.get(..start).unwrap_or_default(), text.get(start..).unwrap_or_default());
        let number = before.matches('\n').count() + 1;
        let lead = before.rsplit('\n').next().unwrap_or_default();
        let tail = after.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let marked = text.get(start..end).unwrap_or_default().split('\n').next().unwrap_or_default();
        let column = lead.chars().count() + 1;
        let line = shown(lead, marked, tail, show);
        let width = line.as_ref().map_or(0, |line| line.chars().count());
        let indent = lead.chars().take(width.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' });
        let indent: String = indent.collect();
        let room = width.saturating_sub(indent.chars().count());
        let caret = format!("{indent}{}", "^".repeat(marked.trim_end().chars().count().min(room).max(1)));
        Problem {
            place: format!("{file}:{number}:{column}"),
            line: Some(number),
            column: Some(column),
            message,
            hint: None,
            snippet: line.map(|line| Snippet { line, caret }),
        }
    }

    /// The same with what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: Option<String>) -> Problem {
        self.hint = hint;
        self
    }
}

/// The last place up to `at` where a character of `text` starts.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// What may be seen of the line `lead` and `tail`, with `marked` at the start of `tail`.
fn shown(lead: &str, marked: &str, tail: &str, show: Show) -> Option<String> {
    let whole = format!("{lead}{tail}");
    let line = match show {
        Show::UpToSpot => format!("{lead}{marked} …"),
        Show::Line if !may_hold_secrets(&whole) => whole,
        _ if whole.starts_with('[') => whole,
        _ => format!("{}= …", whole.split_once('=')?.0),
    };
    (!may_hold_secrets(&line)).then_some(line)
}

/// Whether a line may hold an address with a password, or with a signature in its query.
fn may_hold_secrets(line: &str) -> bool {
    line.split_once("://").is_some_and(|(_, rest)| rest.contains(['@', '?']))
}

impl Problem {
    /// Where it is and what it is, with the line of the file.
    fn described(&self) -> String {
        let mut text = self.placed(&self.message);
        if let (Some(snippet), Some(number)) = (&self.snippet, self.line) {
            let number = number.to_string();
            let margin = " ".repeat(number.len());
            text += &format!("\n {margin} |\n {number} | {}\n {margin} | {}", snippet.line, snippet.caret);
        }
        text
    }

    fn placed(&self, said: &str) -> String {
        if self.place.is_empty() { said.to_owned() } else { format!("{}: {said}", self.place) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.described())?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// A configuration that cannot be used: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// What to do stands apart, with the place where there is more than one.
impl From<ConfigError> for Error {
    fn from(ConfigError { problems }: ConfigError) -> Error {
        let message = problems.iter().map(Problem::described).collect::<Vec<_>>().join("\n\n");
        let hints = problems.iter().filter_map(|problem| {
            let hint = problem.hint.as_deref()?;
            Some(if problems.len() == 1 { hint.to_owned() } else { problem.placed(hint) })
        });
        let hints = hints.collect::<Vec<_>>().join("\n");
        let hint = Some(hints).filter(|hints| !hints.is_empty());
        let problems = problems.iter().map(Into::into).collect();
        Error { hint, problems, ..Error::new(Code::Configuration, message) }
    }
}

impl From<&Problem> for documents::Problem {
    fn from(problem: &Problem) -> documents::Problem {
        let text = problem.to_string().lines().map(str::to_owned).collect();
        let Problem { place, line, column, message, hint, .. } = problem.clone();
        documents::Problem { place, line, column, message, hint, text }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> ConfigError {
        ConfigError { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let gap = if n > 0 { "\n\n" } else { "" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}
