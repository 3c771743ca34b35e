//! Where the bytes of a bundle come from: a tar, as it is or compressed with gzip.
//!
//! Two bounds stand between a bundle and the tar reader, which reads names of any length into memory:
//! nothing is let through that was not allowed for, and what is decompressed counts like everything
//! else. So a bundle that expands without end is refused by the size that its entries may have.

use std::cell::Cell;
use std::io::{self, BufRead as _, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use super::ImportError;

/// How much is read of a source at a time, in bytes.
const BUFFER: usize = 256 << 10;

/// Compressions that we do not read, by how a file begins.
const OTHERS: [(&[u8], &str, &str); 3] =
    [(b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"), (b"\xfd7zXZ\0", "xz", "xz -d"), (b"BZh", "bzip2", "bzip2 -d")];

/// What is allowed and what went wrong, shared with whoever reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// How many bytes may still be read.
    pub(super) allowance: Rc<Cell<u64>>,
    /// Whether the source failed, rather than what was made of it.
    pub(super) broken: Rc<Cell<bool>>,
}

/// The tar within `bundle`, metered.
///
/// # Errors
/// [`ImportError::Read`], and [`ImportError::Malformed`] for compressions that we do not read.
pub(super) fn tar<'a>(bundle: impl Read + 'a, meter: &Meter) -> Result<impl Read + 'a, ImportError> {
    let mut source = BufReader::with_capacity(BUFFER, Watched { inner: bundle, broken: Rc::clone(&meter.broken) });
    let start = loop {
        match source.fill_buf() {
            Ok(start) => break start,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ImportError::Read(error)),
        }
    };
    if let Some((_, name, tool)) = OTHERS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        let told =
            format!("it is compressed with {name}; decompress it first: {tool} < FILE | registry-mirror import -");
        return Err(ImportError::Malformed(told));
    }
    let inner: Box<dyn Read + 'a> =
        if start.starts_with(b"\x1f\x8b") { Box::new(MultiGzDecoder::new(source)) } else { Box::new(source) };
    Ok(Metered { inner, allowance: Rc::clone(&meter.allowance) })
}

/// Remembers whether the source failed.
struct Watched<R> {
    inner: R,
    broken: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        if read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            self.broken.set(true);
        }
        read
    }
}

/// Lets through so many bytes at most.
struct Metered<R> {
    inner: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.allowance.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry has headers without end"));
        }
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowance.set(self.allowance.get().saturating_sub(read as u64));
        Ok(read)
    }
}
