//! TLS: whose certificates are believed, and which of ours is shown.
//!
//! The system's authorities, those of `ca`, and a certificate that stands in `ca` itself: as every other
//! client does it, and unlike the letter of RFC 5280, it may be one of an authority. What is configured for
//! the upstream's own origin alone, `insecure` and a certificate of ours, is for no other.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::settings::{HttpSettings, HttpSettingsError};
use crate::oci::RegistryName;
use crate::setting_file;
use crate::upstream::settings::ClientCertificate;

/// How connections are secured: to the upstream's own origin, or elsewhere.
pub(super) fn tls(settings: &HttpSettings, own: bool) -> Result<ClientConfig, HttpSettingsError> {
    let failed =
        |error: rustls::Error| HttpSettingsError::Client { name: settings.name.clone(), reason: error.to_string() };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let pinned = match &settings.configured.ca {
        Some(path) => certificates(&settings.name, path)?,
        None => Vec::new(),
    };
    let verifier: Arc<dyn ServerCertVerifier> = if own && settings.configured.insecure {
        Arc::new(Anybody(provider))
    } else if pinned.is_empty() {
        Arc::new(Verifier::new(provider).map_err(failed)?)
    } else {
        let authorities = Verifier::new_with_extra_roots(pinned.iter().cloned(), provider).map_err(failed)?;
        Arc::new(Pinned { authorities, pinned })
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(files) = settings.configured.certificate.as_ref().filter(|_| own) else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = identity(&settings.name, files)?;
    // What the library says is left out: it has seen the key.
    builder.with_client_auth_cert(chain, key).map_err(|_| unusable(&settings.name, files))
}

/// Believes authorities, and the very certificates of a list.
#[derive(Debug)]
struct Pinned {
    authorities: Verifier,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match found {
            // It has been found to be valid now: what is wrong is who made it, or that it may make others.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::InvalidPurpose | CertificateError::Other(_),
            )) if self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            found => found,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Believes everybody: `insecure`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(name: &RegistryName, path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpSettingsError> {
    let failed = |reason: String| HttpSettingsError::Certificates { name: name.clone(), path: path.to_owned(), reason };
    let pem = setting_file::bytes(path).map_err(|error| failed(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|_| failed("not PEM".to_owned()))?;
    if found.is_empty() { Err(failed("there are none in it".to_owned())) } else { Ok(found) }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(name: &RegistryName, files: &ClientCertificate) -> Result<Identity, HttpSettingsError> {
    let chain = certificates(name, &files.certificate)?;
    let failed =
        |reason: String| HttpSettingsError::Certificates { name: name.clone(), path: files.key.clone(), reason };
    let pem = setting_file::bytes(&files.key).map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(name, files))?;
    Ok((chain, key))
}

fn unusable(name: &RegistryName, files: &ClientCertificate) -> HttpSettingsError {
    let reason = format!("not a certificate in PEM with its key in {}", files.key.display());
    HttpSettingsError::Certificates { name: name.clone(), path: files.certificate.clone(), reason }
}
