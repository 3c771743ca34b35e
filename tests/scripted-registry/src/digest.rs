//! What names content: digests and descriptors, computed without the code under test, so that a fault
//! in that code cannot hide behind itself. Shaped like those of `registry_mirror::oci`; a test that
//! needs one of theirs parses it from the text of one of these.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// The algorithms that registries use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, 64 hex digits.
    Sha256,
    /// `sha512`, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name as it stands in front of the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The length of a hash, in bytes.
    const fn length(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

/// The name of content: algorithm and hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero behind the length of the algorithm.
    hash: [u8; 64],
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        match algorithm {
            Algorithm::Sha256 => Digest::from_hash(algorithm, &sha2::Sha256::digest(bytes)),
            Algorithm::Sha512 => Digest::from_hash(algorithm, &sha2::Sha512::digest(bytes)),
        }
    }

    fn from_hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hash = [0; 64];
        hash[..bytes.len()].copy_from_slice(bytes);
        Digest { algorithm, hash }
    }

    /// Which algorithm made it.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash alone, in lower-case hex.
    pub fn hex(&self) -> String {
        self.hash[..self.algorithm.length()].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest: another algorithm, another length, or something else than lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Digest, NotADigest> {
        let algorithms = [Algorithm::Sha256, Algorithm::Sha512];
        let (name, hex) = text.split_once(':').ok_or(NotADigest)?;
        let algorithm = algorithms.into_iter().find(|algorithm| algorithm.as_str() == name).ok_or(NotADigest)?;
        let lower_case = hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !lower_case || hex.len() != 2 * algorithm.length() {
            return Err(NotADigest);
        }
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| NotADigest);
        let hash = (0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>()?;
        Ok(Digest::from_hash(algorithm, &hash))
    }
}

/// What content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The name of the content.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// How it is to be read.
    pub media_type: String,
}

impl Descriptor {
    pub(crate) fn of(algorithm: Algorithm, bytes: &[u8], media_type: &str) -> Descriptor {
        let digest = Digest::of(algorithm, bytes);
        Descriptor { digest, size: bytes.len() as u64, media_type: media_type.to_owned() }
    }
}
