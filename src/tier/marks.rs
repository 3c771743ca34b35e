//! Marks: what the collector means to take out of the bucket, `collector/marks/<algorithm>/<hex>`.
//!
//! It takes nothing away that has none any more, and looks no longer before it does than [`OUTLASTS`]. So whoever
//! needs something writes its name first, takes the mark away if there is one, waits for as long, and looks what is
//! there. Truth: a name that is in the bucket keeps its bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Bucket, Trouble};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Where they are.
pub const FOLDER: &str = "collector/marks";
/// Where it is written down that content was used.
pub const USED: &str = "usage";
/// Between the last look whether there is a mark and what is done because of it there is less than this.
pub const OUTLASTS: Duration = Duration::from_secs(90);
/// No mark is longer, in bytes.
const LONGEST: u64 = 1024;

/// A mark, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When, by the collector's clock.
    pub marked_at: Timestamp,
}

/// The key of the mark of content.
pub fn mark_of(digest: &Digest) -> String {
    format!("{FOLDER}/{}/{}", digest.algorithm(), digest.hex())
}

/// The key of what says that content was used.
pub fn use_of(digest: &Digest) -> String {
    format!("{USED}/{}/{}", digest.algorithm(), digest.hex())
}

impl Bucket {
    /// What is marked, if it is.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn mark(&self, digest: &Digest) -> Result<Option<Mark>, Trouble> {
        let found = self.read(&mark_of(digest), LONGEST).await?;
        // One that cannot be read is as old as none.
        Ok(found.map(|found| serde_json::from_slice(&found.bytes).unwrap_or(Mark { marked_at: Timestamp(u64::MAX) })))
    }

    /// Takes the mark away: it is needed. Whether there was one; then the collector may be about to take it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn spare(&self, digest: &Digest) -> Result<bool, Trouble> {
        let is_marked = self.mark(digest).await?.is_some();
        if is_marked {
            self.remove(&mark_of(digest)).await?;
        }
        Ok(is_marked)
    }
}
