//! What is read whole and comes compressed although nobody asked for that: some proxies do so, and clients that
//! people compare us with read it. Blobs are not: of those the bytes as they are have the digest.

use std::io::{self, Write as _};
use std::mem;

use flate2::write::MultiGzDecoder;
use http::header::CONTENT_ENCODING;

use super::answer::Answer;
use super::protocol;
use crate::oci::header;
use crate::upstream::UpstreamError;

/// The codings there are (RFC 9110, 8.4.1, and its registry). Other words stand in `Content-Encoding` beside
/// plain bytes: `aws-chunked`, `utf-8`, `none`.
const CODINGS: [&str; 9] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"];
/// The coding that Go's clients read without having asked for it.
const GZIP: [&str; 2] = ["gzip", "x-gzip"];
/// So many bytes are taken at a time, so that what becomes of them is no more than a megabyte or so.
const PIECE: usize = 1 << 10;

/// The codings of an answer, in lower case.
fn codings(answer: &Answer) -> Vec<String> {
    let values = answer.response.headers().get_all(CONTENT_ENCODING).iter().map(header::text);
    let words =
        values.flat_map(|value| value.split(',').map(|word| word.trim().to_ascii_lowercase()).collect::<Vec<_>>());
    words.filter(|word| CODINGS.contains(&word.as_str())).collect()
}

/// Bytes in a coding that nobody asked for are not the bytes that the digest names.
pub(super) fn refuse_encoding(answer: &Answer) -> Result<(), UpstreamError> {
    if codings(answer).is_empty() {
        return Ok(());
    }
    Err(protocol(&answer.what, "comes with a Content-Encoding although none was asked for"))
}

/// How to read an answer that is read whole; `None` where it comes as it is.
pub(super) fn decoder(answer: &Answer) -> Result<Option<Decoder>, UpstreamError> {
    match &codings(answer)[..] {
        [one] if GZIP.contains(&one.as_str()) => Ok(Some(Decoder(MultiGzDecoder::new(Vec::new())))),
        _ => refuse_encoding(answer).map(|()| None),
    }
}

/// Reads what comes compressed.
pub(super) struct Decoder(MultiGzDecoder<Vec<u8>>);

impl Decoder {
    /// What becomes of the beginning of `coded`, which is moved behind it.
    pub(super) fn next(&mut self, coded: &mut &[u8]) -> io::Result<Vec<u8>> {
        let (piece, rest) = coded.split_at(coded.len().min(PIECE));
        *coded = rest;
        self.0.write_all(piece)?;
        Ok(mem::take(self.0.get_mut()))
    }

    /// The rest, where the end has come.
    pub(super) fn end(mut self) -> io::Result<Vec<u8>> {
        self.0.try_finish()?;
        Ok(mem::take(self.0.get_mut()))
    }
}
