//! TLS for the pull listener: rustls with aws-lc-rs, TLS 1.2 and 1.3.
//!
//! The only file of the server that knows rustls. Certificates are read again when their files
//! change, looked at every [`LOOK_EVERY`], and with the settings; files that do not fit
//! together leave the present ones in use. Old clients (docker 1.13 speaks TLS 1.2 with ECDHE and
//! AES-GCM on P-256) are served, and resumed by ticket, because they connect for every request.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::authenticate::certificate;
use crate::access::Caller;
use crate::oci::{Algorithm, Digest};
use crate::setting_file;

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How much plaintext waits in a connection for its socket, in bytes: two slices of a file.
const BUFFER: usize = 256 << 10;

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities, PEM: clients are asked for a certificate of one of them.
    pub client_ca: Option<PathBuf>,
    /// Whether a client that shows none is served all the same: there are other ways to say who one is.
    pub certificate_optional: bool,
}

/// Why there can be no TLS with these files. Never quotes from them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of use.
    #[error("{file}: {problem}")]
    File {
        /// Which.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The files do not fit together.
    #[error("{cert} and {key}: {problem}")]
    Pair {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
        /// What is wrong with them.
        problem: String,
    },
}

/// The certificates of a listener, as they are now.
#[derive(Debug)]
pub struct Tls {
    current: Arc<RwLock<Current>>,
}

/// Certificates that were read, and are not in use yet.
#[derive(Debug)]
pub struct Prepared(Current);

/// Whose certificate was shown on a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vouched(Arc<Certified>);

#[derive(Debug)]
struct Certified {
    caller: Caller,
    /// What he showed, his own certificate first.
    chain: Vec<CertificateDer<'static>>,
    current: Arc<RwLock<Current>>,
    looked: Mutex<Looked>,
}

/// What came of the last look at a certificate.
#[derive(Clone, Copy, Debug)]
struct Looked {
    /// Which authorities there were then.
    generation: u64,
    at: Instant,
    counts: bool,
}

impl Vouched {
    /// Who he is, as long as the authorities vouch for him: it is looked at again where they are others than when that
    /// was last done, and now and again because certificates expire, his or one above it.
    pub fn caller(&self) -> Option<Caller> {
        let Certified { caller, chain, current, looked } = &*self.0;
        let (current, mut looked) = (current.read(), looked.lock());
        if looked.generation != current.generation || looked.at.elapsed() >= LOOK_EVERY {
            let counts = chain.split_first().is_some_and(|(own, above)| current.vouch(own, above).is_ok());
            *looked = Looked { generation: current.generation, at: Instant::now(), counts };
        }
        looked.counts.then(|| caller.clone())
    }
}

#[derive(Clone, Debug)]
struct Current {
    files: Files,
    /// What is in them, and in that of the authorities alone.
    content: [Digest; 2],
    /// Which authorities these are, of all that there were.
    generation: u64,
    config: Arc<ServerConfig>,
    /// Who says which clients are served, where only some are.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When the files were written that it was made from.
    written: Vec<Option<SystemTime>>,
}

impl Tls {
    /// Reads the files. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(files: Files) -> Result<Tls, TlsError> {
        Ok(Tls { current: Arc::new(RwLock::new(Current::read(files)?)) })
    }

    /// Reads the files again if they changed. Blocks on the disk. Returns whether other certificates are in use now.
    ///
    /// # Errors
    /// [`TlsError`]; the certificates in use stay.
    pub fn look(&self) -> Result<bool, TlsError> {
        let (files, written) = {
            let current = self.current.read();
            (current.files.clone(), current.written.clone())
        };
        if written == files.written() {
            return Ok(false);
        }
        let read = Current::read(files)?;
        let mut current = self.current.write();
        // Who was told of other files meanwhile knows better.
        let is_asked_for = current.files == read.files;
        if is_asked_for {
            current.become_those(read);
        }
        Ok(is_asked_for)
    }

    /// Reads these files, to be used in place of the present ones. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn prepare(files: Files) -> Result<Prepared, TlsError> {
        Current::read(files).map(Prepared)
    }

    /// Whether these are others than those in use.
    pub fn differ(&self, Prepared(read): &Prepared) -> bool {
        let current = self.current.read();
        (current.content, &current.files) != (read.content, &read.files)
    }

    /// Uses these from the next connection on.
    pub fn take(&self, Prepared(read): Prepared) {
        self.current.write().become_those(read);
    }

    /// Becomes the server's side of TLS, with what the client's certificate says of him, if he showed one.
    ///
    /// # Errors
    /// When the other side does not speak TLS, has not got the certificate asked for, or takes longer than
    /// `patience`.
    pub async fn accept<S>(&self, stream: S, patience: Duration) -> io::Result<(TlsStream<S>, Option<Vouched>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().clone();
        let acceptor = TlsAcceptor::from(Arc::clone(&current.config));
        let accepted = acceptor.accept_with(stream, |connection| connection.set_buffer_limit(Some(BUFFER)));
        let accepted = tokio::time::timeout(patience, accepted).await.unwrap_or_else(|late| Err(late.into()));
        let accepted = accepted.map_err(|error| io::Error::new(error.kind(), format!("no TLS: {error}")))?;
        let connection = accepted.get_ref().1;
        current.vouch_again(connection).map_err(|error| io::Error::other(format!("not resumed: {error}")))?;
        let chain = connection.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        let vouched = chain.first().map(|own| Caller::Certificate(Arc::new(certificate::read(own)))).map(|caller| {
            let looked = Looked { generation: current.generation, at: Instant::now(), counts: true };
            Vouched(Arc::new(Certified {
                caller,
                chain,
                current: Arc::clone(&self.current),
                looked: Mutex::new(looked),
            }))
        });
        Ok((accepted, vouched))
    }
}

/// Looks at the files now and again, until the future is dropped.
pub async fn keep_current(tls: Arc<Tls>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let tls = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || tls.look()).await {
            Ok(Ok(true)) => tracing::info!("certificates were read again"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the certificates in use stay: the new ones are of no use"),
            Err(error) => tracing::error!(%error, "certificates were not looked at"),
        }
    }
}

impl Files {
    /// When each file was written; `None` for one that cannot be asked.
    fn written(&self) -> Vec<Option<SystemTime>> {
        let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        self.all().map(modified).collect()
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
    }

    /// What is in all of them, where they can be read, and in that of the authorities.
    fn content(&self) -> [Digest; 2] {
        [Files::content_of(self.all()), Files::content_of(self.client_ca.iter())]
    }

    fn content_of<'f>(files: impl Iterator<Item = &'f PathBuf>) -> Digest {
        let read = files.map(|path| setting_file::bytes(path).unwrap_or_default());
        let each: Vec<_> = read.flat_map(|bytes| Digest::of(Algorithm::Sha256, &bytes).as_bytes().to_vec()).collect();
        Digest::of(Algorithm::Sha256, &each)
    }
}

impl Current {
    /// Other certificates; whom the authorities do not vouch for any more counts no more, on connections that are
    /// there, too.
    fn become_those(&mut self, read: Current) {
        let Current { generation, content, .. } = std::mem::replace(self, read);
        self.generation = if content[1] == self.content[1] { generation } else { generation + 1 };
    }

    /// Whether the authorities vouch for the holder of a certificate now.
    fn vouch(&self, own: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let verifier = self.verifier.as_ref().ok_or(rustls::Error::NoCertificatesPresented)?;
        let now = self.config.time_provider.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)?;
        verifier.verify_client_cert(own, above, now).map(drop)
    }

    /// A session that is resumed brings along the certificate that was looked at when it began: it is looked
    /// at again, because it may have expired since, or one above it.
    fn vouch_again(&self, connection: &ServerConnection) -> Result<(), rustls::Error> {
        let Some(verifier) =
            self.verifier.as_ref().filter(|_| connection.handshake_kind() == Some(HandshakeKind::Resumed))
        else {
            return Ok(());
        };
        match connection.peer_certificates().and_then(<[_]>::split_first) {
            Some((own, above)) => self.vouch(own, above),
            None if !verifier.client_auth_mandatory() => Ok(()),
            None => Err(rustls::Error::NoCertificatesPresented),
        }
    }

    fn read(files: Files) -> Result<Current, TlsError> {
        // Before the files are read: one that is written meanwhile is read again the next time.
        let (written, content) = (files.written(), files.content());
        let (config, verifier) = Current::made_of(&files)?;
        Ok(Current { files, content, generation: 0, config: Arc::new(config), verifier, written })
    }

    fn made_of(files: &Files) -> Result<(ServerConfig, Option<Arc<dyn ClientCertVerifier>>), TlsError> {
        let chain = certificates(&files.cert)?;
        let key = pem(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| file_error(&files.key, describe(&error)))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = |error: rustls::Error| TlsError::Pair {
            cert: files.cert.display().to_string(),
            key: files.key.display().to_string(),
            problem: match error {
                rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
                error => error.to_string(),
            },
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(pair)?;
        let verifier = match &files.client_ca {
            None => None,
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
                let verifier = if files.certificate_optional { verifier.allow_unauthenticated() } else { verifier };
                Some(verifier.build().map_err(|error| file_error(path, error.to_string()))?)
            }
        };
        let builder = match &verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A new key for tickets with new files: who was trusted under the old ones proves it again.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(pair)?;
        Ok((config, verifier))
    }
}

fn pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    setting_file::bytes(path).map_err(|error| file_error(path, format!("cannot be read: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = pem(path)?;
    let read = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = read.map_err(|error| file_error(path, describe(&error)))?;
    if chain.is_empty() { Err(file_error(path, "no certificate in PEM form".to_owned())) } else { Ok(chain) }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| file_error(path, error.to_string()))?;
    }
    Ok(store)
}

fn describe(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::NoItemsFound => "nothing in PEM form that is of use here".to_owned(),
        _ => "not PEM".to_owned(),
    }
}

fn file_error(path: &Path, problem: String) -> TlsError {
    TlsError::File { file: path.display().to_string(), problem }
}

#[cfg(test)]
mod tests;
