//! Reading everything that is stored, and comparing it with its name.
//!
//! The scrub on demand: a blob that is not what its digest says is set aside and told at once and,
//! with `repair`, fetched again. One blob after another at a bounded rate, so that pulls do not feel it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::blob_store::StoreError;
use crate::documents::Finding;
use crate::mirror::Mirror;

impl Mirror {
    /// Reads every blob, at most `rate` bytes a second, and tells what it finds. Ends early when
    /// nobody listens.
    ///
    /// # Errors
    /// When the blobs cannot be listed.
    pub async fn verify(
        &self,
        repair: bool,
        rate: Option<u64>,
        findings: &mpsc::Sender<Finding>,
    ) -> Result<(), StoreError> {
        let blobs = self.0.stored.blobs.list().await?;
        let (of, start) = (blobs.len() as u64, Instant::now());
        let (mut checked, mut checked_bytes, mut damaged, mut repaired) = (0, 0_u64, 0, 0);
        for (digest, size) in blobs {
            // Evicted since the list was made.
            let Some(content) = self.0.stored.blobs.open(&digest).await else { continue };
            checked += 1;
            checked_bytes += size;
            if !self.0.stored.check(&digest, &content).await {
                damaged += 1;
                let sound = repair && self.0.scrub.heal(digest).await;
                repaired += u64::from(sound);
                if findings.send(Finding::Damaged { digest, repaired: sound }).await.is_err() {
                    return Ok(());
                }
            }
            if findings.send(Finding::Progress { checked, checked_bytes, of }).await.is_err() {
                return Ok(());
            }
            if let Some(rate) = rate.filter(|rate| *rate > 0) {
                tokio::time::sleep_until(start + Duration::from_millis(checked_bytes.saturating_mul(1000) / rate))
                    .await;
            }
        }
        let _ = findings.send(Finding::Done { checked, checked_bytes, damaged, repaired }).await;
        Ok(())
    }
}
