//! Files that the settings name, read whole: secrets, certificates, users.
//!
//! They are read again while the daemon serves. Truth: nobody waits for a file that has no end, or no writer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// A longer file is none that settings name, in bytes.
const LONGEST: u64 = 16 << 20;

/// What is in a file.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::InvalidInput`] for what is no file (a pipe, a socket, a device), and
/// [`io::ErrorKind::FileTooLarge`] above 16 MiB.
pub fn bytes(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    opened(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// The same of a file of text.
///
/// # Errors
/// Those of [`bytes`](fn@bytes); [`io::ErrorKind::InvalidData`] for what is not UTF-8.
pub fn text(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = bytes(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Opens it, to see whether it can be read.
///
/// # Errors
/// Those of [`bytes`](fn@bytes) but for its length.
pub fn opened(path: &Path) -> io::Result<File> {
    // A pipe is not waited for, and a terminal does not become ours.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_device_a_folder_and_what_is_too_long_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, place("pipe"), rustix::fs::Mode::RUSR).expect("a pipe");
        File::create(place("long")).and_then(|file| file.set_len(LONGEST + 1)).expect("a sparse file");
        std::fs::write(place("text"), b"\xff").expect("written");
        for (path, kind) in [
            (place("pipe"), io::ErrorKind::InvalidInput),
            (Path::new("/dev/zero").to_owned(), io::ErrorKind::InvalidInput),
            (folder.path().to_owned(), io::ErrorKind::IsADirectory),
            (place("long"), io::ErrorKind::FileTooLarge),
            (place("text"), io::ErrorKind::InvalidData),
            (place("none"), io::ErrorKind::NotFound),
        ] {
            assert_eq!(text(&path).expect_err("refused").kind(), kind, "{}", path.display());
        }
        std::fs::write(place("text"), "a").expect("written");
        assert_eq!(*text(&place("text")).expect("a text"), "a");
    }
}
