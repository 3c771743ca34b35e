//! What went wrong, in classes: a script reads the code, a person the message and what to do.
//!
//! Nobody decides by the message. The interface has one table from the code to the status, the
//! commands one from the code to the exit code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Problem};

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request or the command line cannot be understood.
    Usage,
    /// The configuration is wrong.
    Configuration,
    /// Nothing of that name is known.
    NotFound,
    /// The request is served for another method only.
    MethodNotAllowed,
    /// The request may have been sent by a page in a browser.
    Forbidden,
    /// Nobody may ask this who does not say who they are, or who says so wrongly.
    Unauthorized,
    /// Too much of it is under way.
    Busy,
    /// The request is too long.
    TooLong,
    /// No daemon answers.
    Unreachable,
    /// The upstream refused.
    Refused,
    /// There is nothing to export.
    Nothing,
    /// Content is not what its digest says.
    Damaged,
    /// A bundle tries something that no tool does by mistake.
    Hostile,
    /// A bundle is cut short, or none.
    Malformed,
    /// The store has no room for it.
    NoRoom,
    /// Something cannot be read.
    Read,
    /// Something cannot be written.
    Write,
    /// A blob was removed meanwhile.
    Gone,
    /// Content cannot be stored or listed.
    Store,
    /// Tags and memberships cannot be read or written.
    Metadata,
    /// Anything else, and what a later version says.
    #[serde(other)]
    Failed,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Error {
    /// What kind of thing.
    pub code: Code,
    /// What failed, while doing what.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Everything that is wrong, where it is with a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Document for Error {
    const NAME: &'static str = "error";
}

impl Error {
    /// An error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), hint: None, problems: Vec::new() }
    }

    /// The same with what to do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Error {
        Error { hint: Some(hint.into()), ..self }
    }

    /// The same, told of something.
    #[must_use]
    pub fn of(self, what: impl std::fmt::Display) -> Error {
        Error { message: format!("{what}: {}", self.message), ..self }
    }
}
