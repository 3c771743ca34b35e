//! Secrets that stand in files of their own: what of such a file is the secret.
//!
//! The newline at its end, which most editors write, is none of it. Nothing here quotes a secret.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::setting_file;

/// A shorter secret can be guessed, in bytes.
const SHORTEST: usize = 16;
/// A longer file is none of a secret, in bytes.
const LONGEST: u64 = 4096;

/// A secret, wiped from memory when it is dropped and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("the file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too short to be one.
    #[error("the file {} holds less than {SHORTEST} bytes: openssl rand -hex 32 makes a good secret", .0.display())]
    Short(PathBuf),
    /// It holds what cannot be sent in a header.
    #[error("the file {} must hold one line of at most {LONGEST} visible ASCII characters", .0.display())]
    NotALine(PathBuf),
}

impl Secret {
    /// The secret in a file.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(path: &Path) -> Result<Secret, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
        let file = setting_file::opened(path).map_err(unreadable)?;
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        io::Read::read_to_end(&mut io::Read::take(file, LONGEST + 1), &mut text).map_err(unreadable)?;
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() < SHORTEST {
            return Err(SecretError::Short(path.to_owned()));
        }
        let visible = line.iter().all(|byte| matches!(byte, b' '..=b'~')) && line.trim_ascii().len() == line.len();
        match std::str::from_utf8(line) {
            Ok(line) if visible && text.len() as u64 <= LONGEST => Ok(Secret(Zeroizing::new(line.to_owned()))),
            _ => Err(SecretError::NotALine(path.to_owned())),
        }
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, content).expect("written");
        Secret::read(&path).map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_newline_at_the_end_is_no_part_of_a_secret() {
        for content in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert_eq!(read(content.as_bytes()).as_deref(), Ok("0123456789abcdef"));
        }
        assert_eq!(read(b"with spaces within it").as_deref(), Ok("with spaces within it"));
    }

    #[test]
    fn what_can_be_guessed_or_cannot_be_sent_is_no_secret_and_is_not_quoted() {
        for (content, why) in [
            (&b"0123456789abcde\n"[..], "less than 16 bytes"),
            (b"", "less than 16 bytes"),
            (b"0123456789abcdef\n\n", "one line"),
            (b"0123456789\nabcdef", "one line"),
            (b"0123456789abcdef\xff", "one line"),
            ("0123456789abcdef\u{e9}".as_bytes(), "one line"),
            (&[b'x'; 5000], "one line"),
        ] {
            let error = read(content).expect_err("no secret");
            assert!(error.contains(why) && !error.contains("0123"), "{error}");
        }
    }
}
