//! Digests: an algorithm and a hash, always valid, and the verifier that computes one from a stream.
//!
//! The only file that knows `sha2`. Rules: image-spec, descriptor.md, "Digests". Upper-case hex is
//! not the same digest string and is refused, so that one blob never has two names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The algorithms we can verify. Anything else is refused at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, 64 hex digits.
    Sha256,
    /// `sha512`, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, for folders that exist per algorithm.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name as it stands in front of the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The digest of this algorithm whose hash is `hex`, lower-case; `None` if none is.
    pub fn digest(self, hex: &str) -> Option<Digest> {
        match self {
            Algorithm::Sha256 => decode(hex).map(Digest::Sha256).ok(),
            Algorithm::Sha512 => decode(hex).map(Digest::Sha512).ok(),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of content: algorithm and hash. Cannot hold an invalid value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// SHA-256, the algorithm of nearly all content.
    Sha256([u8; 32]),
    /// SHA-512, the other one that the image specification registers.
    Sha512([u8; 64]),
}

impl Digest {
    /// The digest of bytes that are already in memory.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut verifier = Verifier::new(algorithm);
        verifier.update(bytes);
        verifier.finish()
    }

    /// Which algorithm made it.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hash alone, in lower-case hex. Safe as a file name.
    pub fn hex(&self) -> String {
        let bytes = self.as_bytes();
        let mut hex = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            hex.push(char::from(HEX[usize::from(byte >> 4)]));
            hex.push(char::from(HEX[usize::from(byte & 15)]));
        }
        hex
    }

    /// The hash alone, as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether `text` is written as a digest, also of an algorithm that nobody here can verify.
pub(super) fn is_digest(text: &str) -> bool {
    match text.parse::<Digest>() {
        Err(DigestError::UnknownAlgorithm) => text.split_once(':').is_some_and(|(algorithm, hex)| {
            let is_of_algorithm =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
            algorithm.bytes().all(is_of_algorithm)
                && !hex.is_empty()
                && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        }),
        parsed => parsed.is_ok(),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is not a digest that we can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon, or nothing in front of it.
    #[error("a digest is written algorithm:hex")]
    Malformed,
    /// Neither sha256 nor sha512.
    #[error("only sha256 and sha512 digests can be verified")]
    UnknownAlgorithm,
    /// The wrong number of hex digits, upper case, or something that is not hex.
    #[error("the hash is not the right number of lower-case hex digits")]
    InvalidHash,
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Malformed)?;
        match algorithm {
            "" => Err(DigestError::Malformed),
            "sha256" => decode(hex).map(Digest::Sha256),
            "sha512" => decode(hex).map(Digest::Sha512),
            _ => Err(DigestError::UnknownAlgorithm),
        }
    }
}

fn decode<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
    let hex = hex.as_bytes();
    if hex.len() != N * 2 {
        return Err(DigestError::InvalidHash);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::InvalidHash),
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Computes a digest over a stream. Cloning it forks the computation, which is how a reader goes on
/// verifying by itself from the place where a fill gave up.
#[derive(Clone, Debug)]
pub struct Verifier(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Verifier {
    /// A verifier that has seen no bytes yet.
    pub fn new(algorithm: Algorithm) -> Verifier {
        Verifier(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything seen.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            State::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_prints_as_it_was_parsed() {
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        for text in [EMPTY, &sha512] {
            assert_eq!(text.parse::<Digest>().map(|d| d.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        for (text, error) in [
            ("", DigestError::Malformed),
            (":abc", DigestError::Malformed),
            ("sha256", DigestError::Malformed),
            ("sha256:", DigestError::InvalidHash),
            ("sha256:totallywrong", DigestError::InvalidHash),
            (&EMPTY.to_uppercase(), DigestError::UnknownAlgorithm),
            (&EMPTY.replace("e3b0", "E3B0"), DigestError::InvalidHash),
            (&EMPTY.replace("e3b0", "../."), DigestError::InvalidHash),
            (&format!("{EMPTY}0"), DigestError::InvalidHash),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::UnknownAlgorithm),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_stream_has_the_digest_of_its_bytes_however_it_is_cut() {
        for algorithm in Algorithm::ALL {
            let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
            let whole = Digest::of(algorithm, &bytes);
            for cut in [1, 7, 4096] {
                let mut verifier = Verifier::new(algorithm);
                bytes.chunks(cut).for_each(|chunk| verifier.update(chunk));
                assert_eq!(verifier.finish(), whole);
            }
        }
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
    }
}
