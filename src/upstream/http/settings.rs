//! What an upstream is asked with, and whether that fits together.

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::endpoint::Wanted;
use super::redirect;
use super::whole::Whole;
use crate::carrier::Carrier;
use crate::clock::{Clock, SystemClock};
use crate::oci::RegistryName;
use crate::upstream::credentials::CredentialSource;
use crate::upstream::ours::Ours;
use crate::upstream::settings::{Settings, split_api};
use crate::upstream::{Notices, Unobserved, UpstreamObserver};

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
    /// Whether only callers have credentials for it, each his own.
    pub for_callers: bool,
    /// The time of day, for lifetimes and windows.
    pub clock: Arc<dyn Clock>,
    /// Counts requests and bytes.
    pub observer: Arc<dyn UpstreamObserver>,
    /// Where we listen ourselves.
    pub ours: Arc<Ours>,
    /// What all addresses of the upstream say beside their answers.
    pub notices: Arc<Notices>,
    /// The memory for manifests and lists on their way in.
    pub whole: Whole,
    /// What was wanted there before.
    pub wanted: Wanted,
    /// What carries the connections.
    pub carrier: Carrier,
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
            for_callers: false,
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unobserved),
            ours: Arc::default(),
            notices: Arc::default(),
            whole: Whole::default(),
            wanted: Wanted::default(),
            carrier: Carrier::default(),
        }
    }

    /// Whether the url is one that we may ask.
    pub(super) fn check_url(&self) -> Result<(), HttpSettingsError> {
        let (name, url) = (|| self.name.clone(), &self.url);
        let bare = url.username().is_empty() && url.password().is_none();
        let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
        let names = split_api(url).is_some();
        if !web || !bare || !names || url.query().is_some() || url.fragment().is_some() {
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
    /// Not http or https, without a host, with a user name, a query or a fragment, or with something
    /// behind `/v2/` that no repository name can begin with.
    #[error("upstream {0}: a url is https://HOST[:PORT][/PATH][/v2/PREFIX], without user name and query")]
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
