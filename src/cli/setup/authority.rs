//! The authority of the mirror's certificate, which a client is told of.

use std::path::Path;

use crate::cli::client;
use crate::documents::{Code, Error};
use crate::setting_file;
use crate::setup::MirrorAddress;

/// The certificates in a file, for this mirror. Nothing else may be in it: it is written where everybody can read it.
pub(super) fn read(file: &Path, mirror: &MirrorAddress) -> Result<String, Error> {
    let wrong = |what: &str| Error::new(Code::Usage, format!("--mirror-ca: {}: {what}", file.display()));
    if !mirror.to_string().starts_with("https://") {
        return Err(wrong(&format!("{mirror} has no certificate; name the mirror by https:// with --mirror")));
    }
    let text = setting_file::text(file).map_err(|error| wrong(&error.to_string()))?;
    if text.to_ascii_uppercase().contains("PRIVATE KEY") {
        return Err(wrong("there is a private key in it, which is for nobody else"));
    }
    // A client that cannot read it would fail all pulls, also where the mirror is not needed.
    match client::no_authorities(file) {
        Some(problem) => Err(wrong(&problem)),
        None => Ok(text.as_str().to_owned()),
    }
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
        let pem = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate").cert.pem();
        assert_eq!(read_of(&pem).as_deref(), Ok(pem.as_str()));
        assert!(read_of("DER").is_err_and(|error| error.contains("no certificate")));
        let (begin, end) = ("-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n");
        for broken in
            [begin.to_owned(), format!("{begin}AAAA\n{end}"), pem.replace(end, ""), format!("{pem}{begin}AAAA\n{end}")]
        {
            assert!(read_of(&broken).is_err(), "{broken}");
        }
        let both = format!("{pem}-----BEGIN PRIVATE KEY-----\n");
        assert!(read_of(&both).is_err_and(|error| error.contains("a private key")));
        let plain = "http://127.0.0.1:5000".parse().expect("an address");
        assert!(read(&file, &plain).is_err_and(|error| error.message.contains("has no certificate")));
        assert!(read(Path::new("/nonexistent"), &https).is_err_and(|error| error.message.contains("No such file")));
    }
}
