//! Who may pull what, explained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;

/// Which line of the configuration decides of a caller and an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Who asks, as in `who` of a grant.
    pub caller: String,
    /// For what.
    pub image: String,
    /// Whether he may pull it; null where the configuration does not tell.
    pub allowed: Option<bool>,
    /// The mode of its upstream.
    pub access: String,
    /// The name of the grant that decides, else its number; null where the mode decides.
    pub rule: Option<String>,
    /// Its number, counted from one.
    pub number: Option<usize>,
    /// How, in a sentence.
    pub how: String,
}

impl Explanation {
    /// What decides, in the word of the audit.
    pub fn decides(&self) -> String {
        self.rule.as_ref().map_or_else(|| self.access.clone(), |grant| format!("grant {grant}"))
    }
}

impl Document for Explanation {
    const NAME: &'static str = "access-explain";
}
