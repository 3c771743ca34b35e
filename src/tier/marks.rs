//! Marks: what the collector means to take out of the bucket, `collector/marks/<algorithm>/<hex>`.
//!
//! It takes nothing away that has none any more when it has [claimed](super::claims) it. So whoever needs something takes
//! the mark away if there is one, looks whether it is claimed, and then what is there.

use serde::{Deserialize, Serialize};

use super::{Bucket, Trouble};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Where they are.
pub const FOLDER: &str = "collector/marks";
/// Where it is written down that content was used.
pub const USED: &str = "usage";
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

    /// Takes the mark away, if there is one: it is needed.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn spare(&self, digest: &Digest) -> Result<(), Trouble> {
        if self.mark(digest).await?.is_some() {
            self.remove(&mark_of(digest)).await?;
        }
        Ok(())
    }
}
