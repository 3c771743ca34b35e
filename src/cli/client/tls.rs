//! TLS to a daemon that is not on this machine, or listens beyond it: whom a command believes.
//!
//! With an authority that was named: nobody else. Found by the configuration: exactly the certificate that
//! stands there, whatever name it is for, as the daemon is asked by whichever address it has. Else those
//! that the system trusts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
        let roots = certificates(path).and_then(|certificates| {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            builder.build().map_err(|error| format!("{}: {error}", path.display()))
        });
        Trust(roots.and_then(|verifier| client(provider, verifier)))
    }

    /// The first certificate in a file, and nobody else.
    pub(super) fn exactly(path: &Path) -> Trust {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let first = certificates(path).and_then(|certificates| {
            certificates.into_iter().next().ok_or_else(|| format!("{}: holds no certificate", path.display()))
        });
        Trust(first.and_then(|certificate| {
            let only = Arc::new(Only { certificate, provider: Arc::clone(&provider) });
            client(provider, only)
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

/// Believes whoever has the key of one certificate.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
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
