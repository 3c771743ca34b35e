//! What lets a page act: an address with a login in it, and the session that it becomes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;

/// An invitation to the page.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageLogin {
    /// Its address, with a login in the fragment that is good once.
    pub address: String,
    /// For how long.
    pub lasts_seconds: u64,
}

impl Document for PageLogin {
    const NAME: &'static str = "page";
}

impl std::fmt::Debug for PageLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageLogin").field("lasts_seconds", &self.lasts_seconds).finish_non_exhaustive()
    }
}

/// Who acts with what he shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// As the log names him: `uid=1000` or `token`.
    pub by: String,
    /// What is to be shown as `Authorization: Bearer`, where a login became a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts_seconds: Option<u64>,
}

impl Document for Session {
    const NAME: &'static str = "session";
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("by", &self.by).finish_non_exhaustive()
    }
}
