//! What a certificate says of its holder. Whether it may be believed was decided in the handshake.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::access::Certificate;

/// The common name and the alternative names of a certificate: of DNS, of mail, addresses of the web and of the
/// network. None of one that cannot be read.
pub fn read(der: &[u8]) -> Certificate {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Certificate { names: Vec::new() } };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned);
    let mut names: Vec<String> = common.collect();
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.map(|extension| &extension.value.general_names);
    names.extend(alternative.into_iter().flatten().filter_map(name));
    Certificate { names }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_says_its_common_name_and_the_alternative_ones() {
        let names = ["build.example", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "build-1");
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed");
        assert_eq!(read(certificate.der()).names, ["build-1", "build.example", "127.0.0.1"]);
        assert_eq!(read(b"not one").names, [""; 0]);
    }
}
