//! Claims: what a collector takes out of the bucket just now, `collector/going/<key>`.
//!
//! A collector writes the claim first; then it looks anew at all that would save what it is about, and deletes only if
//! nothing does. Who comes to rely on something first writes what saves it, or takes its mark away, and then looks
//! whether there is a claim: if there is one, it counts as not there, and is owed until that has gone. So one of both
//! sees the other, whoever dies meanwhile. Only collectors remove claims: their own when the deletion was answered for
//! certain, those of others, and of deletions of which that is not so, when none of these can come to pass any more.
//! Truth: a name that is in the bucket keeps its bytes. It takes a store that gives what was written last.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Bucket, Trouble};
use crate::clock::Timestamp;

/// Where they are.
pub const FOLDER: &str = "collector/going";
/// Nothing is deleted later than this after its claim was written.
pub const SENT_WITHIN: Duration = Duration::from_secs(60);
/// A deletion that was sent by then has come to pass, or never does, so long after its claim.
pub const OUTLASTS: Duration = Duration::from_secs(10 * 60);
/// Who waits until one has gone looks so often.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// No claim is longer, in bytes.
pub const LONGEST: u64 = 1024;

/// A claim, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// When, by the collector's clock.
    pub claimed_at: Timestamp,
    /// In which round.
    pub by: u64,
}

/// The key of the claim of what has this key.
pub fn claim_of(key: &str) -> String {
    format!("{FOLDER}/{key}")
}

impl Bucket {
    /// Whether a collector takes what has this key just now. Who asks has written before what saves it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn is_going(&self, key: &str) -> Result<bool, Trouble> {
        Ok(self.read(&claim_of(key), LONGEST).await?.is_some())
    }
}
