//! Writing a bundle: the tar that was planned, as a stream.
//!
//! Truth: bytes are hashed on their way out, and a blob that is not what its digest says ends the
//! bundle before its last byte.

use std::io::{self, Read, Write};

use serde::Serialize;
use tokio::runtime::Handle;

use super::format::{self, Listed};
use super::plan::Plan;
use super::{ExportError, Stores};
use crate::blob_store::Content;
use crate::oci::{Digest, Verifier};

/// How much is read from a blob at a time, in bytes.
const CHUNK: usize = 1 << 20;

impl Plan {
    /// Writes the tar. Blocks; what was written before an error is not a bundle.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn write(&self, stores: &Stores, out: impl Write, runtime: &Handle) -> Result<(), ExportError> {
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Deterministic);
        let description = json(&self.description)?;
        append(&mut tar, format::OCI_LAYOUT, format::OCI_LAYOUT_CONTENT.len(), format::OCI_LAYOUT_CONTENT.as_bytes())?;
        append(&mut tar, format::DESCRIPTION, description.len(), &*description)?;
        let index = json(&self.index)?;
        append(&mut tar, format::INDEX, index.len(), &*index)?;
        let docker = json(&self.docker)?;
        append(&mut tar, format::DOCKER_MANIFEST, docker.len(), &*docker)?;
        for Listed { digest, size } in &self.description.contents {
            let content = runtime.block_on(stores.blobs.open(digest)).filter(|content| content.size == *size);
            let mut verified = Verified::new(content.ok_or(ExportError::Gone(*digest))?, *digest);
            let name = format::blob_name(digest);
            let length = usize::try_from(*size).map_err(|error| ExportError::Write(io::Error::other(error)))?;
            match append(&mut tar, &name, length, &mut verified) {
                Err(_) if verified.damaged => {
                    let aside = runtime.block_on(stores.blobs.set_aside(digest, &verified.content));
                    tracing::warn!(%digest, ?aside, "a damaged blob was found on its way into a bundle");
                    return Err(ExportError::Damaged(*digest));
                }
                result => result?,
            }
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(ExportError::Write)
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ExportError> {
    serde_json::to_vec(value).map_err(|error| ExportError::Write(error.into()))
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, size: usize, content: impl Read) -> Result<(), ExportError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, content).map_err(ExportError::Write)
}

/// A blob on its way out. The last bytes are not given away unless all of them have the digest.
struct Verified {
    content: Content,
    offset: u64,
    verifier: Option<Verifier>,
    digest: Digest,
    chunk: io::Cursor<bytes::Bytes>,
    damaged: bool,
}

impl Verified {
    fn new(content: Content, digest: Digest) -> Verified {
        let verifier = Some(Verifier::new(digest.algorithm()));
        Verified { content, offset: 0, verifier, digest, chunk: io::Cursor::default(), damaged: false }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.position() == self.chunk.get_ref().len() as u64 {
            let read = self.content.read_at(self.offset, CHUNK).inspect_err(|_| self.damaged = true)?;
            self.offset += read.len() as u64;
            if let Some(verifier) = &mut self.verifier {
                verifier.update(&read);
            }
            self.chunk = io::Cursor::new(read);
            if self.offset == self.content.size
                && let Some(verifier) = self.verifier.take()
                && verifier.finish() != self.digest
            {
                self.damaged = true;
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        self.chunk.read(buffer)
    }
}
