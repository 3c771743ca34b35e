//! Uploads in parts are written down in the bucket, `collector/uploads/…`, until they are over: who began one may
//! be gone for good, with the list on his disk, and its parts are paid for until somebody aborts it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::super::Trouble;
use super::Bucket;
use crate::oci::{Algorithm, Digest};

const FOLDER: &str = "collector/uploads";
/// None is longer, in bytes.
const LONGEST: u64 = 8192;
/// No upload goes on for so long: each part has its deadline.
const GIVEN_UP: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    key: String,
    id: String,
}

/// Where an upload is written down.
pub(super) fn note_of(id: &str) -> String {
    format!("{FOLDER}/{}", Digest::of(Algorithm::Sha256, id.as_bytes()).hex())
}

impl Bucket {
    pub(super) async fn write_down(&self, path: &Path, id: &str) -> Result<(), Trouble> {
        let key = path.as_ref().get(self.prefix.len()..).unwrap_or_default().to_owned();
        let note = serde_json::to_vec(&Note { key, id: id.to_owned() }).unwrap_or_default();
        self.write(&note_of(id), Bytes::from(note)).await
    }

    /// Aborts the uploads that were begun a day ago or earlier; how many.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn abort_old(&self) -> Result<u64, Trouble> {
        let (mut aborted, mut notes) = (0, self.list(FOLDER));
        while let Some(listed) = notes.next().await.transpose()? {
            let is_old = self.time().and_then(|now| listed.modified.age(now)).is_some_and(|age| age >= GIVEN_UP);
            let Some(note) = (if is_old { self.read(&listed.key, LONGEST).await? } else { None }) else { continue };
            match serde_json::from_slice::<Note>(&note.bytes) {
                Ok(Note { key, id }) => self.abort(&key, &id).await?,
                Err(_) => self.remove(&listed.key).await?,
            }
            aborted += 1;
        }
        Ok(aborted)
    }
}
