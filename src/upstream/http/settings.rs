//! What an upstream is asked with, and the clients made from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy};
use url::Url;

use super::endpoint::Endpoint;
use super::redirect;
use super::resolver::GuardedResolver;
use super::wire::describe_failure;
use crate::clock::{Clock, SystemClock};
use crate::oci::RegistryName;
use crate::upstream::credentials::{Auth, CredentialSource, pair_of_file};
use crate::upstream::settings::{ClientCertificate, Settings};
use crate::upstream::{Unobserved, UpstreamObserver};

/// What an upstream is asked with: what is configured, and what stands around it here.
#[derive(Clone)]
pub struct HttpSettings {
    /// The name that images use.
    pub name: RegistryName,
    /// Where it is.
    pub url: Url,
    /// How it is asked.
    pub configured: Settings,
    /// Where credentials for it come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// The time of day, for lifetimes and windows.
    pub clock: Arc<dyn Clock>,
    /// Counts requests and bytes.
    pub observer: Arc<dyn UpstreamObserver>,
}

impl HttpSettings {
    /// The upstream `name` at `url`, with the credentials that are configured, if any, by the clock of
    /// the system and unobserved.
    pub fn new(name: RegistryName, url: Url, configured: Settings) -> HttpSettings {
        let credentials = configured.auth.source();
        HttpSettings {
            name,
            url,
            configured,
            credentials,
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unobserved),
        }
    }

    /// Whether the url is one that we may ask.
    pub(super) fn check_url(&self) -> Result<(), HttpSettingsError> {
        let (name, url) = (|| self.name.clone(), &self.url);
        let bare = url.username().is_empty() && url.password().is_none();
        let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
        if !web || !bare || url.query().is_some() || url.fragment().is_some() {
            return Err(HttpSettingsError::Url(name()));
        }
        if url.scheme() == "http" && !self.configured.insecure && !redirect::is_loopback(url) {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(HttpSettingsError::PlainHttp { name: name(), host });
        }
        Ok(())
    }
}

/// Why settings do not make an upstream.
#[derive(Debug, thiserror::Error)]
pub enum HttpSettingsError {
    /// Not http or https, without a host, or with a user name, a query or a fragment.
    #[error("upstream {0}: a url is https://HOST[:PORT][/PATH], without user name and query")]
    Url(RegistryName),
    /// Plain http without `insecure`.
    #[error("upstream {name}: {host} would be asked over plain http; use https, or set insecure = true")]
    PlainHttp {
        /// The upstream.
        name: RegistryName,
        /// The host of the url.
        host: String,
    },
    /// A file of certificates, or of our own, cannot be read or contains none.
    #[error("upstream {name}: cannot use the certificates in {path}: {reason}")]
    Certificates {
        /// The upstream.
        name: RegistryName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The proxy is not one that can be used.
    #[error("upstream {name}: cannot use the proxy: {reason}")]
    Proxy {
        /// The upstream.
        name: RegistryName,
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client cannot be set up, for instance because of the system's certificates.
    #[error("upstream {name}: cannot set up the HTTP client: {reason}")]
    Client {
        /// The upstream.
        name: RegistryName,
        /// What is wrong.
        reason: String,
    },
}

/// The clients of an upstream. What is ours alone, a certificate of our own or the permission not
/// to look at theirs, is for our own origin and never for where it sends us.
pub(super) struct Clients {
    own: Pair,
    elsewhere: Pair,
}

#[derive(Clone)]
struct Pair {
    /// For manifests and tokens.
    api: Client,
    /// For blobs: one HTTP/1.1 connection each, so that one does not slow the others.
    blobs: Client,
}

impl Clients {
    pub(super) fn new(settings: &HttpSettings, endpoint: &Endpoint) -> Result<Clients, HttpSettingsError> {
        let pair = |own| {
            let build = |http1| client(settings, endpoint, http1, own);
            Ok::<_, HttpSettingsError>(Pair { api: build(false)?, blobs: build(true)? })
        };
        let own = pair(true)?;
        // Each client reads and keeps all certificates of the system.
        let nothing_of_our_own = !settings.configured.insecure && settings.configured.certificate.is_none();
        let elsewhere = if nothing_of_our_own { own.clone() } else { pair(false)? };
        Ok(Clients { own, elsewhere })
    }

    /// For a path below a repository, at our own origin or elsewhere.
    pub(super) fn for_path(&self, path: &str, own: bool) -> &Client {
        let pair = if own { &self.own } else { &self.elsewhere };
        if path.starts_with("blobs/") { &pair.blobs } else { &pair.api }
    }

    /// For a token service, at our own origin or elsewhere.
    pub(super) fn for_api(&self, own: bool) -> &Client {
        if own { &self.own.api } else { &self.elsewhere.api }
    }
}

fn client(settings: &HttpSettings, endpoint: &Endpoint, http1: bool, own: bool) -> Result<Client, HttpSettingsError> {
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.configured.timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true);
    if http1 {
        builder = builder.http1_only();
    }
    let hosts = [Some(&settings.url), settings.configured.proxy.as_ref()];
    let hosts = hosts.into_iter().flatten().filter_map(|url| url.host_str()).map(str::to_owned);
    let trusted = hosts.chain(settings.configured.auth_realms.iter().map(ToString::to_string));
    builder = builder.dns_resolver(GuardedResolver::new(trusted, endpoint.rules.private));
    builder = egress(builder, settings, endpoint)?;
    if let Some(path) = &settings.configured.ca {
        builder = builder.tls_certs_merge(certificates(&settings.name, path)?);
    }
    if own && settings.configured.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(certificate) = settings.configured.certificate.as_ref().filter(|_| own) {
        builder = builder.identity(identity(&settings.name, certificate)?);
    }
    let name = || settings.name.clone();
    builder.build().map_err(|error| HttpSettingsError::Client { name: name(), reason: describe_failure(error) })
}

fn egress(
    builder: ClientBuilder,
    settings: &HttpSettings,
    endpoint: &Endpoint,
) -> Result<ClientBuilder, HttpSettingsError> {
    match &settings.configured.proxy {
        Some(url) => {
            let failed = |reason| HttpSettingsError::Proxy { name: settings.name.clone(), reason };
            let mut url = url.clone();
            if let Some(path) = settings.configured.proxy_auth.as_ref().and_then(Auth::file_here) {
                log_in(&mut url, &path).map_err(failed)?;
            }
            Ok(builder.proxy(Proxy::all(url).map_err(|error| failed(describe_failure(error)))?))
        }
        None if redirect::is_loopback(&endpoint.url) => Ok(builder.no_proxy()),
        None => Ok(builder),
    }
}

/// Puts user and password into the address of a proxy, which is where the client looks for them.
fn log_in(proxy: &mut Url, path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map(zeroize::Zeroizing::new);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let (user, password) = pair_of_file(path, &text).map_err(|error| error.to_string())?;
    let put = proxy.set_username(user).and_then(|()| proxy.set_password(Some(password)));
    put.map_err(|()| "its address takes no user".to_owned())
}

fn certificates(name: &RegistryName, path: &Path) -> Result<Vec<Certificate>, HttpSettingsError> {
    let failed = |reason: String| HttpSettingsError::Certificates { name: name.clone(), path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|_| failed("not PEM".to_owned()))?;
    if found.is_empty() { Err(failed("there are none in it".to_owned())) } else { Ok(found) }
}

fn identity(name: &RegistryName, files: &ClientCertificate) -> Result<Identity, HttpSettingsError> {
    let failed = |path: &Path, reason: String| HttpSettingsError::Certificates {
        name: name.clone(),
        path: path.to_owned(),
        reason,
    };
    let read = |path: &Path| std::fs::read(path).map_err(|error| failed(path, error.to_string()));
    // A newline in between, should the first file not end with one.
    let pem = zeroize::Zeroizing::new([read(&files.certificate)?, read(&files.key)?].join(&b'\n'));
    // What the parser says is left out: it has seen the key.
    Identity::from_pem(&pem).map_err(|_| {
        failed(&files.certificate, format!("not a certificate in PEM with its key in {}", files.key.display()))
    })
}
