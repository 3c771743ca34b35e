//! TLS to a daemon that is not on this machine, or listens beyond it: whom a command believes.
//!
//! With an authority that was named: nobody else. Found by the configuration: exactly the certificate that
//! stands there, whatever name it is for, as the daemon is asked by whichever address it has. Else those
//! that the system trusts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Whom a command believes; what stands in the way of that is told when it is tried.
#[derive(Clone)]
pub(in crate::cli) struct Trust(Result<Arc<ClientConfig>, String>);

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    /// Whom the system trusts.
    pub(super) fn system() -> Trust {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::new(Arc::clone(&provider)).map_err(|error| error.to_string());
        Trust(verifier.and_then(|verifier| client(provider, Arc::new(verifier))))
    }

    /// The authorities in a file, and nobody else.
    pub(super) fn authorities(path: &Path) -> Trust {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let named = certificates(path).and_then(|named| {
            Believed::named(named, Arc::clone(&provider)).map_err(|error| format!("{}: {error}", path.display()))
        });
        Trust(named.and_then(|verifier| client(provider, Arc::new(verifier))))
    }

    /// The first certificate in a file, and nobody else.
    pub(super) fn exactly(path: &Path) -> Trust {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let first = certificates(path).and_then(|certificates| {
            certificates.into_iter().next().ok_or_else(|| format!("{}: holds no certificate", path.display()))
        });
        Trust(first.and_then(|certificate| {
            client(Arc::clone(&provider), Arc::new(Believed { whom: Whom::Only(certificate), provider }))
        }))
    }

    /// What stands in the way of it, if anything does.
    pub(super) fn problem(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// The client's side of TLS with the daemon at `at`, which is `host:port`.
    pub(super) async fn connect(&self, stream: TcpStream, at: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = self.0.clone().map_err(io::Error::other)?;
        let host = at.rsplit_once(':').map_or(at, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn client(provider: Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(format!("{}: holds no certificate", path.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The names of hosts in the first certificate in a file; none where that cannot be read.
pub(in crate::cli) fn names_in_certificate(path: &Path) -> Vec<String> {
    let Some(first) = certificates(path).ok().and_then(|named| named.into_iter().next()) else { return Vec::new() };
    let Ok((_, certificate)) = X509Certificate::from_der(&first) else { return Vec::new() };
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|extension| &extension.value.general_names).into_iter().flatten();
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    hosts.collect()
}

/// Whom a command believes that does not believe whom the system trusts.
#[derive(Debug)]
enum Whom {
    /// Authorities, and who shows a certificate that stands among them: one that signed itself is both.
    Named(Vec<CertificateDer<'static>>, Arc<WebPkiServerVerifier>),
    /// Whoever has the key of one certificate.
    Only(CertificateDer<'static>),
}

#[derive(Debug)]
struct Believed {
    whom: Whom,
    provider: Arc<CryptoProvider>,
}

impl Believed {
    fn named(named: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Believed, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let whom = Whom::Named(named, authorities.map_err(|error| error.to_string())?);
        Ok(Believed { whom, provider })
    }
}

/// Whether a certificate is good at this time.
fn is_in_time(shown: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, certificate) = X509Certificate::from_der(shown).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    match (validity.not_before.timestamp() > now, validity.not_after.timestamp() < now) {
        (true, _) => Err(CertificateError::NotValidYet),
        (_, true) => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.whom {
            Whom::Named(named, _) if named.contains(shown) => {
                is_in_time(shown, now)?;
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            Whom::Named(_, authorities) => authorities.verify_server_cert(shown, above, name, stapled, now),
            // It is the daemon's own, and the daemon shows it whatever day it is.
            Whom::Only(own) if own == shown => Ok(ServerCertVerified::assertion()),
            Whom::Only(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_signed_itself_is_believed_where_it_is_named_and_for_its_name() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let of = |is_ca| {
            let mut params = rcgen::CertificateParams::new(["mirror.example".to_owned()]).expect("a name");
            params.is_ca = is_ca;
            params.self_signed(&key).expect("a certificate").der().clone()
        };
        let named = of(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        let verifier =
            Believed::named(vec![named.clone()], Arc::new(aws_lc_rs::default_provider())).expect("a verifier");
        let believes = |shown: &CertificateDer<'_>, name: &str| {
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).is_ok()
        };
        let past = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let at_name = ServerName::try_from("mirror.example").expect("a name");
        let believed = verifier.verify_server_cert(&named, &[], &at_name, &[], past);
        assert!(matches!(believed, Err(Error::InvalidCertificate(CertificateError::NotValidYet))), "{believed:?}");
        let future = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::from(u32::MAX) << 8));
        let believed = verifier.verify_server_cert(&named, &[], &at_name, &[], future);
        assert!(matches!(believed, Err(Error::InvalidCertificate(CertificateError::Expired))), "{believed:?}");
        assert!(believes(&named, "mirror.example") && !believes(&named, "other.example"));
        let stranger = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["mirror.example".to_owned()]).expect("a name");
        assert!(!believes(params.self_signed(&stranger).expect("a certificate").der(), "mirror.example"));
    }
}
