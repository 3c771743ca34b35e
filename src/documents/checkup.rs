//! What a look at everything that the mirror needs has found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;

/// Whether all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkup {
    /// Whether nothing failed.
    pub ok: bool,
    /// What was looked at, in the order in which it matters.
    pub checks: Vec<Checked>,
}

impl Document for Checkup {
    const NAME: &'static str = "doctor";
}

impl From<Vec<Checked>> for Checkup {
    fn from(checks: Vec<Checked>) -> Checkup {
        Checkup { ok: checks.iter().all(|check| check.verdict != Verdict::Fail), checks }
    }
}

/// What came of trying the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreTest {
    /// Whether nothing failed.
    pub ok: bool,
    /// Its name.
    pub bucket: String,
    /// Whether the store keeps to the conditions of writes; nothing where it could not be tried.
    pub conditions_hold: Option<bool>,
    /// What was tried, in that order.
    pub checks: Vec<Checked>,
}

impl Document for StoreTest {
    const NAME: &'static str = "store-test";
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// How it stands.
    pub verdict: Verdict,
    /// What it is about, such as `upstream docker.io`.
    pub about: String,
    /// What was found.
    pub message: String,
    /// What to do; always there where it failed.
    pub hint: Option<String>,
}

impl Checked {
    /// In a line, whatever is in it, without its verdict.
    pub fn told(&self) -> String {
        let hint = self.hint.as_deref().map(|hint| format!("; to do: {hint}")).unwrap_or_default();
        format!("{}: {}{hint}", self.about, self.message).replace('\n', " ")
    }

    /// Nothing to complain about.
    pub fn ok(about: impl Into<String>, message: impl Into<String>) -> Checked {
        Checked { verdict: Verdict::Ok, about: about.into(), message: message.into(), hint: None }
    }

    /// It works, and could be better.
    pub fn warn(about: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Checked {
        Checked { verdict: Verdict::Warn, hint: Some(hint.into()), ..Checked::ok(about, message) }
    }

    /// It does not work.
    pub fn fail(about: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Checked {
        Checked { verdict: Verdict::Fail, hint: Some(hint.into()), ..Checked::ok(about, message) }
    }
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should.
    Ok,
    /// It works, and could be better.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}
