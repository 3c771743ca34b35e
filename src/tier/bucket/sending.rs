//! How a blob goes up: hashed on its way, in parts where it is large.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStoreExt as _;

use super::super::Trouble;
use super::{Bucket, DEADLINE, uploads};
use crate::blob_store::{Content, key_of};
use crate::oci::{Digest, Verifier};

/// The parts in which large blobs go up, in bytes: the same for all replicas, so that the same blob has the same
/// ETag.
const PART: usize = 16 << 20;
/// How long a part may take to go up at most, and how many bytes a second what is shorter.
const PART_DEADLINE: Duration = Duration::from_secs(90);
const UP_A_SECOND: u64 = 200_000;

impl Bucket {
    /// Sends a blob up. It is hashed on its way, and appears only when it is what its digest says. `begun` is told
    /// of an upload in parts, which has to be aborted where this fails or is dropped.
    ///
    /// # Errors
    /// [`Trouble`]; nothing appeared then, as far as is known.
    pub async fn send(&self, digest: &Digest, content: &Content, begun: impl Fn(&str)) -> Result<(), Trouble> {
        let path = self.path(&key_of(digest))?;
        if content.size <= PART as u64 {
            let (bytes, found) = piece(content.clone(), 0, Verifier::new(digest.algorithm())).await?;
            is_it(digest, found)?;
            let deadline = (DEADLINE + Duration::from_secs(content.size / UP_A_SECOND)).min(PART_DEADLINE);
            self.written(content.size, deadline, self.store.put(&path, bytes.into())).await?;
            self.health.has(digest);
            return Ok(());
        }
        let id = self.written(0, DEADLINE, self.store.create_multipart(&path)).await?;
        begun(&id);
        self.write_down(&path, &id).await?;
        let parts = async {
            let (mut parts, mut offset, mut verifier) = (Vec::new(), 0, Verifier::new(digest.algorithm()));
            while offset < content.size {
                let (bytes, seen) = piece(content.clone(), offset, verifier).await?;
                (verifier, offset) = (seen, offset + bytes.len() as u64);
                let (size, number) = (bytes.len() as u64, parts.len());
                let sent = self.store.put_part(&path, &id, number, bytes.into());
                parts.push(self.written(size, PART_DEADLINE, sent).await?);
            }
            is_it(digest, verifier).map(|()| parts)
        };
        let parts = parts.await?;
        // Some stores put the parts together before they answer.
        self.written(content.size, PART_DEADLINE, self.store.complete_multipart(&path, &id, parts)).await?;
        self.health.has(digest);
        // What stays is found to be over by the collector.
        let _ = self.remove(&uploads::note_of(&id)).await;
        Ok(())
    }

    /// Drops what came of an upload in parts.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn abort(&self, key: &str, id: &str) -> Result<(), Trouble> {
        let (path, id) = (self.path(key)?, id.to_owned());
        self.taken_away(self.store.abort_multipart(&path, &id)).await?;
        self.remove(&uploads::note_of(&id)).await
    }
}

/// The next piece of what goes up, and what was seen with it.
async fn piece(content: Content, offset: u64, mut verifier: Verifier) -> Result<(Bytes, Verifier), Trouble> {
    let read = tokio::task::spawn_blocking(move || {
        let bytes = content.read_at(offset, PART)?;
        verifier.update(&bytes);
        Ok((bytes, verifier))
    });
    let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(|error| Trouble::Unfit(format!("it cannot be read: {error}")))
}

fn is_it(digest: &Digest, seen: Verifier) -> Result<(), Trouble> {
    let found = seen.finish();
    if found == *digest { Ok(()) } else { Err(Trouble::Unfit(format!("its bytes have the digest {found}"))) }
}
