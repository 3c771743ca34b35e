//! A blob that is brought from the bucket because somebody wants all that is there, and not because a client waits for it.
//!
//! Nobody else is asked for it. Truth: an order that looks at the whole bucket takes nothing out of it: what is not what
//! its name says stays, and is found to be so as often as somebody looks.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt as _;

use crate::blob_store::StoreError;
use crate::blob_store::ingest::Ingest;
use crate::mirror::fill::Fills;
use crate::mirror::room::shared::Shared;
use crate::oci::{Digest, Span, Verifier};
use crate::tier::{Pace, Reading, Trouble};

/// How many bytes are written at a time.
const PIECE: usize = 1 << 20;
/// So often it is asked for the rest, and nothing comes.
const TRIES: u32 = 3;

/// Why a blob was not brought.
#[derive(Debug)]
pub(crate) enum Unbrought {
    /// The bucket does not give it.
    Trouble(Trouble),
    /// What is there is something else.
    Wrong(String),
    /// It could not be kept.
    Unkept(StoreError),
}

impl From<StoreError> for Unbrought {
    fn from(error: StoreError) -> Unbrought {
        Unbrought::Unkept(error)
    }
}

impl From<std::io::Error> for Unbrought {
    fn from(error: std::io::Error) -> Unbrought {
        Unbrought::Unkept(error.into())
    }
}

/// What was written so far.
struct Written {
    ingest: Ingest,
    seen: Verifier,
}

impl Fills {
    /// Brings a blob of so many bytes into the store.
    pub(crate) async fn bring_blob(&self, shared: &Shared, digest: &Digest, size: u64) -> Result<(), Unbrought> {
        let reservation = self.room.reserve(size, 0).await?;
        let (ingests, of) = (Arc::clone(&self.ingests), *digest);
        let ingest = self.disk.run(move || ingests.begin(&of)).await??;
        let mut written = Written { ingest, seen: Verifier::new(digest.algorithm()) };
        let mut tries = 0;
        while written.ingest.written() < size {
            let before = written.ingest.written();
            let broken;
            (written, broken) = self.read_on(shared, digest, size, written).await?;
            tries = if written.ingest.written() > before { 0 } else { tries + 1 };
            match broken {
                Some(Unbrought::Trouble(trouble)) if tries < TRIES && !matches!(trouble, Trouble::Trickles(_)) => {
                    tracing::debug!(%digest, %trouble, before, "it is asked for the rest");
                }
                Some(why) => {
                    self.discard(written.ingest).await;
                    return Err(why);
                }
                None => {}
            }
        }
        let Written { mut ingest, seen } = written;
        let found = seen.finish();
        if found != *digest || !ingest.is_uncut() {
            self.discard(ingest).await;
            return Err(Unbrought::Wrong(format!("its bytes have the digest {found}")));
        }
        ingest.keep_room(reservation);
        let (_quiet, _turn) = (shared.quiet(digest), self.disk.turn().await);
        self.stored.blobs.commit(ingest, digest).await?;
        self.stored.records.add_blob(digest, size).await;
        Ok(())
    }

    /// Reads until the end, or until it breaks.
    async fn read_on(
        &self,
        shared: &Shared,
        digest: &Digest,
        size: u64,
        mut written: Written,
    ) -> Result<(Written, Option<Unbrought>), Unbrought> {
        let start = written.ingest.written();
        let wrong = |what: &str| Some(Unbrought::Wrong(what.to_owned()));
        let Reading { offset, mut body, .. } = match shared.bucket.blob(digest, Span::from(start), Pace::Any).await {
            Ok(Some(reading)) if reading.size == size => reading,
            Ok(_) => return Ok((written, wrong("it changed while it was read"))),
            Err(trouble) => return Ok((written, Some(Unbrought::Trouble(trouble)))),
        };
        if offset != start {
            return Ok((written, wrong("another part of it came than was asked for")));
        }
        let (mut piece, mut came) = (BytesMut::new(), start);
        loop {
            let next = body.next().await;
            let is_more = matches!(next, Some(Ok(_)));
            if let Some(Ok(bytes)) = &next {
                came += bytes.len() as u64;
                piece.extend_from_slice(bytes);
            }
            if came > size {
                return Ok((written, wrong("more came than it has")));
            }
            if piece.len() >= PIECE || !is_more && !piece.is_empty() {
                let bytes = piece.split().freeze();
                let append = move || {
                    written.ingest.append(&bytes)?;
                    written.seen.update(&bytes);
                    Ok::<_, StoreError>(written)
                };
                written = self.disk.run(append).await??;
            }
            match next {
                Some(Ok(_)) => {}
                Some(Err(trouble)) => return Ok((written, Some(Unbrought::Trouble(trouble)))),
                None if came < size => {
                    let trouble = Trouble::Away("the body ended early".to_owned());
                    return Ok((written, Some(Unbrought::Trouble(trouble))));
                }
                None => return Ok((written, None)),
            }
        }
    }
}
