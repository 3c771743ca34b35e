//! Receipts: which blobs the other side has, as a list of digests that fits through any hatch.
//!
//! In a file it is plain text, one digest a line, sorted; empty lines and lines that begin with `#` say nothing.
//! The other side is believed: a blob that a receipt names is left out of the next bundle.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// The digests of blobs that somebody has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Receipt(BTreeSet<Digest>);

impl Receipt {
    /// Whether the blob is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.0.contains(digest)
    }

    /// The blobs that are there.
    pub fn iter(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter()
    }

    /// How many blobs are there.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Digest> for Receipt {
    fn from_iter<I: IntoIterator<Item = Digest>>(digests: I) -> Receipt {
        Receipt(digests.into_iter().collect())
    }
}

impl Extend<Digest> for Receipt {
    fn extend<I: IntoIterator<Item = Digest>>(&mut self, digests: I) {
        self.0.extend(digests);
    }
}

/// A line of a receipt is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the receipt is not a digest")]
pub struct ReceiptError {
    /// Which one, the first is 1.
    pub line: usize,
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Receipt, ReceiptError> {
        let lines = text.lines().map(str::trim).enumerate();
        let digests = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        digests.map(|(at, line)| line.parse().map_err(|_| ReceiptError { line: at + 1 })).collect()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# registry-mirror receipt: {} blobs", self.0.len())?;
        self.0.iter().try_for_each(|digest| writeln!(f, "{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_receipt_is_read_from_what_it_prints() {
        let digests = Algorithm::ALL.map(|algorithm| Digest::of(algorithm, b"blob"));
        let receipt: Receipt = digests.into_iter().collect();
        let text = receipt.to_string();
        assert_eq!(text.parse::<Receipt>().as_ref(), Ok(&receipt));
        assert_eq!(format!("\n  {}\r\n\n", text.replace('\n', "\r\n")).parse::<Receipt>(), Ok(receipt));
    }

    #[test]
    fn a_line_that_is_no_digest_is_told() {
        assert_eq!("# made by hand\n\nredis:7\n".parse::<Receipt>(), Err(ReceiptError { line: 3 }));
    }
}
