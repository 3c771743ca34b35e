//! The authority of the mirror's certificate, which a client is told of.

use std::path::Path;

use crate::documents::{Code, Error};
use crate::setup::MirrorAddress;

/// The certificates in a file, for this mirror. Nothing else may be in it: it is written where everybody can read it.
pub(super) fn read(file: &Path, mirror: &MirrorAddress) -> Result<String, Error> {
    let wrong = |what: &str| Error::new(Code::Usage, format!("--mirror-ca: {}: {what}", file.display()));
    if !mirror.to_string().starts_with("https://") {
        return Err(wrong(&format!("{mirror} has no certificate; name the mirror by https:// with --mirror")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    if text.contains("PRIVATE KEY") {
        return Err(wrong("there is a private key in it, which is for nobody else"));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(wrong("there is no certificate in it, in the form of PEM"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken_and_for_https_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let https = "https://127.0.0.1:5000".parse().expect("an address");
        let read_of = |text: &str| {
            std::fs::write(&file, text).expect("written");
            read(&file, &https).map_err(|error| error.message)
        };
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(read_of(pem).as_deref(), Ok(pem));
        assert!(read_of("DER").is_err_and(|error| error.contains("no certificate")));
        let both = format!("{pem}-----BEGIN PRIVATE KEY-----\n");
        assert!(read_of(&both).is_err_and(|error| error.contains("a private key")));
        let plain = "http://127.0.0.1:5000".parse().expect("an address");
        assert!(read(&file, &plain).is_err_and(|error| error.message.contains("has no certificate")));
        assert!(read(Path::new("/nonexistent"), &https).is_err_and(|error| error.message.contains("No such file")));
    }
}
