//! What an upstream is configured with, and the clients made from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client};
use url::Url;

use super::endpoint::Endpoint;
use super::redirect;
use super::resolver::GuardedResolver;
use super::wire::describe_failure;
use crate::oci::RegistryName;
use crate::upstream::UpstreamObserver;
use crate::upstream::credentials::CredentialSource;

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the request to the headers of the answer.
    pub first_byte: Duration,
    /// Between two chunks of a body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts { connect: seconds(10), first_byte: seconds(30), idle: seconds(30) }
    }
}

/// What there is to know about an upstream.
#[derive(Clone)]
pub struct HttpSettings {
    /// The name that images use.
    pub name: RegistryName,
    /// Where it is. Several are tried in order, the next one when one is unavailable.
    pub urls: Vec<Url>,
    /// Where credentials for it come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// Hosts of token services that may get credentials although they are on another site.
    pub auth_realms: Vec<String>,
    /// Allows http in `urls`. On loopback addresses it is allowed anyway.
    pub insecure: bool,
    /// Certificates to trust besides those of the system, PEM.
    pub ca: Option<PathBuf>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Allows redirects and token services on private networks. They are allowed anyway where `urls`
    /// itself spells a private address.
    pub allow_private: bool,
    /// Counts requests and bytes.
    pub observer: Arc<dyn UpstreamObserver>,
}

impl HttpSettings {
    /// Whether every url is one that we may ask.
    pub(super) fn check_urls(&self) -> Result<(), HttpSettingsError> {
        let name = || self.name.clone();
        if self.urls.is_empty() {
            return Err(HttpSettingsError::NoUrl(name()));
        }
        for url in &self.urls {
            let bare = url.username().is_empty() && url.password().is_none();
            let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
            if !web || !bare || url.query().is_some() || url.fragment().is_some() {
                return Err(HttpSettingsError::Url(name()));
            }
            if url.scheme() == "http" && !self.insecure && !redirect::is_loopback(url) {
                let host = url.host_str().unwrap_or_default().to_owned();
                return Err(HttpSettingsError::PlainHttp { name: name(), host });
            }
        }
        Ok(())
    }
}

/// Why settings do not make an upstream.
#[derive(Debug, thiserror::Error)]
pub enum HttpSettingsError {
    /// `urls` is empty.
    #[error("upstream {0} has no url")]
    NoUrl(RegistryName),
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
    /// The file of certificates cannot be read or contains none.
    #[error("upstream {name}: cannot use the certificates in {path}: {reason}")]
    Ca {
        /// The upstream.
        name: RegistryName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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

pub(super) fn client(
    settings: &HttpSettings,
    endpoints: &[Endpoint],
    http1: bool,
) -> Result<Client, HttpSettingsError> {
    let failed = |error: reqwest::Error| HttpSettingsError::Client {
        name: settings.name.clone(),
        reason: describe_failure(error),
    };
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true);
    if http1 {
        builder = builder.http1_only();
    }
    if endpoints.iter().all(|endpoint| redirect::is_loopback(&endpoint.url)) {
        builder = builder.no_proxy();
    }
    if !endpoints.iter().all(|endpoint| endpoint.rules.private) {
        let own = settings.urls.iter().filter_map(|url| url.host_str()).map(str::to_owned);
        builder = builder.dns_resolver(GuardedResolver::new(own.chain(settings.auth_realms.iter().cloned())));
    }
    if let Some(path) = &settings.ca {
        builder = builder.tls_certs_merge(certificates(&settings.name, path)?);
    }
    builder.build().map_err(failed)
}

fn certificates(name: &RegistryName, path: &Path) -> Result<Vec<Certificate>, HttpSettingsError> {
    let failed = |reason: String| HttpSettingsError::Ca { name: name.clone(), path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|_| failed("not PEM".to_owned()))?;
    if found.is_empty() { Err(failed("there are none in it".to_owned())) } else { Ok(found) }
}
