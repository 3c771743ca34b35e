//! The clients that an upstream is asked with: for its own origin and elsewhere, for the interface and for
//! blobs, on kept connections and on new ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::egress::egress;
use super::endpoint::Endpoint;
use super::resolver::GuardedResolver;
use super::settings::{HttpSettings, HttpSettingsError};
use super::trust::tls;

/// The clients of an upstream. What is ours alone, a certificate of our own or the permission not
/// to look at theirs, is for our own origin and never for where it sends us.
#[derive(Clone)]
pub(super) struct Clients {
    own: Arc<Set>,
    elsewhere: Arc<Set>,
}

/// What a request is about, as far as connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Manifests, lists and tokens.
    Api,
    /// Blobs: one HTTP/1.1 connection each, so that one does not slow the others.
    Blobs,
}

impl Traffic {
    /// What a path below a repository is about.
    pub(super) fn of_path(path: &str) -> Traffic {
        if path.starts_with("blobs/") { Traffic::Blobs } else { Traffic::Api }
    }
}

/// Lines in the head of an answer, at most. Their length is bounded besides.
const MOST_HEADERS: usize = 1024;

/// How long an upstream is asked over HTTP/1.1 that answered so and not over HTTP/2.
const WAY_BACK: Duration = Duration::from_secs(10 * 60);

/// Clients that trust alike.
pub(super) struct Set {
    api: Client,
    /// HTTP/1.1 alone.
    plain: Client,
    /// HTTP/1.1 alone, each request on a connection of its own.
    fresh: Client,
    /// Whether there may be connections that were used before.
    answered: AtomicBool,
    /// Until when HTTP/2 is not tried.
    http1_until: Mutex<Option<Instant>>,
}

impl Set {
    fn new(settings: &HttpSettings, endpoint: &Endpoint, own: bool) -> Result<Set, HttpSettingsError> {
        let tls = tls(settings, own)?;
        let with = |protocols: &[&str], idle| client(settings, endpoint, &tls, protocols, idle);
        Ok(Set {
            api: with(&["h2", "http/1.1"], usize::MAX)?,
            plain: with(&["http/1.1"], usize::MAX)?,
            fresh: with(&["http/1.1"], 0)?,
            answered: AtomicBool::new(false),
            http1_until: Mutex::default(),
        })
    }

    /// The client for this.
    pub(super) fn usual(&self, traffic: Traffic) -> &Client {
        let http1 = || self.http1_until.lock().is_some_and(|until| Instant::now() < until);
        if traffic == Traffic::Blobs || http1() { &self.plain } else { &self.api }
    }

    /// The client whose connections are new.
    pub(super) fn fresh(&self) -> &Client {
        &self.fresh
    }

    /// Takes note of an answer.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether a request may have gone over a connection that was used before.
    pub(super) fn may_reuse(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// HTTP/2 failed where HTTP/1.1 may not: it is asked over that for a while.
    pub(super) fn goes_back(&self) {
        *self.http1_until.lock() = Some(Instant::now() + WAY_BACK);
    }
}

impl Clients {
    pub(super) fn new(settings: &HttpSettings, endpoint: &Endpoint) -> Result<Clients, HttpSettingsError> {
        let own = Arc::new(Set::new(settings, endpoint, true)?);
        // Each set reads and keeps all certificates of the system.
        let nothing_of_our_own = !settings.configured.insecure && settings.configured.certificate.is_none();
        let elsewhere =
            if nothing_of_our_own { Arc::clone(&own) } else { Arc::new(Set::new(settings, endpoint, false)?) };
        Ok(Clients { own, elsewhere })
    }

    /// Those for who is not us: nothing of our own is shown to anybody.
    pub(super) fn without_our_own(&self) -> Clients {
        Clients { own: Arc::clone(&self.elsewhere), elsewhere: Arc::clone(&self.elsewhere) }
    }

    /// For our own origin or elsewhere.
    pub(super) fn set(&self, own: bool) -> &Arc<Set> {
        if own { &self.own } else { &self.elsewhere }
    }
}

fn client(
    settings: &HttpSettings,
    endpoint: &Endpoint,
    tls: &ClientConfig,
    protocols: &[&str],
    idle: usize,
) -> Result<Client, HttpSettingsError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.configured.timeouts.connect)
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true)
        // As Go and curl read them. What is made of an answer does not hang on it.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(MOST_HEADERS)
        .tls_backend_preconfigured(tls);
    if !protocols.contains(&"h2") {
        builder = builder.http1_only();
    }
    let hosts = [Some(&settings.url), settings.configured.proxy.as_ref()];
    let hosts = hosts.into_iter().flatten().filter_map(|url| url.host_str()).map(str::to_owned);
    let realms = settings.configured.auth_realms.iter().map(|realm| realm.host().to_owned());
    builder = builder.dns_resolver(GuardedResolver::new(hosts.chain(realms), endpoint.rules.private));
    builder = egress(builder, settings)?;
    let name = || settings.name.clone();
    builder.build().map_err(|error| HttpSettingsError::Client { name: name(), reason: error.to_string() })
}
