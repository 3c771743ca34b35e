//! The clients of upstreams: those that the configuration names, each address guarded, and those that
//! somebody names on the command line.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::StartError;
use super::settings::Shares;
use crate::access::Access;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::mirror::{Mode, Routes};
use crate::oci::RegistryName;
use crate::server::authenticate::{FetchKeys, Issuer};
use crate::upstream::asking::Asking;
use crate::upstream::credentials::AuthError;
use crate::upstream::gate::Gate;
use crate::upstream::http::whole::Whole;
use crate::upstream::http::{HttpSettings, HttpUpstream};
use crate::upstream::offline::Offline;
use crate::upstream::ours::Ours;
use crate::upstream::quota::Quota;
use crate::upstream::settings::Settings;
use crate::upstream::{Upstream, UpstreamObserver};

pub(super) fn routes(
    config: &Config,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
    ours: &Arc<Ours>,
) -> Result<Routes, StartError> {
    let whole = Whole::default();
    let upstreams = config.upstreams.iter().map(|upstream| {
        let client: Arc<dyn Upstream> = match config.cache.policy.mode {
            Mode::Offline => Arc::new(Offline::new(upstream.host.clone())),
            _ => Arc::new(gated(upstream, &config.limits, online(upstream, metrics, clock, ours, whole.of_another())?)),
        };
        Ok((upstream.host.clone(), client))
    });
    let upstreams: Result<Vec<_>, StartError> = upstreams.collect();
    Ok(Routes::new(config.routes.default.clone(), upstreams?))
}

/// The upstreams that are asked without a credential.
pub(super) fn public(config: &Config) -> HashSet<RegistryName> {
    // In pass-through callers bring their own.
    let public = config
        .upstreams
        .iter()
        .filter(|upstream| upstream.access != Access::PassThrough && !upstream.has_credentials());
    public.map(|upstream| upstream.host.clone()).collect()
}

/// The upstreams that callers show something of their own.
pub(super) fn of_callers(config: &Config) -> HashSet<RegistryName> {
    let of_callers = config.upstreams.iter().filter(|upstream| upstream.access == Access::PassThrough);
    of_callers.map(|upstream| upstream.host.clone()).collect()
}

/// An upstream, with its bound on what is under way at a time.
fn gated(upstream: &config::Upstream, limits: &config::Limits, asking: Arc<dyn Upstream>) -> Gate {
    let Shares { all, fills, relays } = Shares::of(upstream, limits);
    Gate::new(upstream.host.clone(), asking, all, fills + relays, limits.fill_wait)
}

/// Whether this upstream can be asked as it is configured. Reads its files.
///
/// # Errors
/// [`StartError::Upstream`].
pub(super) fn check(upstream: &config::Upstream) -> Result<(), StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    online(upstream, &Arc::new(Metrics::new([])), &clock, &Arc::default(), Whole::default()).map(drop)
}

/// An upstream at all its addresses.
fn online(
    upstream: &config::Upstream,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
    ours: &Arc<Ours>,
    whole: Whole,
) -> Result<Arc<dyn Upstream>, StartError> {
    let observer: Arc<dyn UpstreamObserver> = Arc::new(Counted(metrics.clone()));
    let notices = Arc::default();
    let clients = upstream.urls.iter().map(|url| {
        let settings = HttpSettings {
            clock: Arc::clone(clock),
            observer: Arc::clone(&observer),
            ours: Arc::clone(ours),
            notices: Arc::clone(&notices),
            whole: whole.clone(),
            ..HttpSettings::new(upstream.host.clone(), url.clone(), upstream.settings.clone())
        };
        let client: Arc<dyn Upstream> = Arc::new(HttpUpstream::new(settings)?);
        Ok((url.authority().to_owned(), client))
    });
    let clients: Vec<_> = clients.collect::<Result<_, StartError>>()?;
    let asking = Asking::new(&upstream.host, clients, Arc::clone(clock), &observer);
    let asking = asking.with_on_missing(upstream.on_missing).with_timeouts(upstream.settings.timeouts);
    Ok(Arc::new(asking.with_streams(upstream.parallel)))
}

/// The issuers of tokens, each with how its keys are fetched: by a client like those of upstreams.
pub(super) fn issuers(
    config: &Config,
    clock: &Arc<dyn Clock>,
    ours: &Arc<Ours>,
) -> Result<Vec<(Issuer, FetchKeys)>, StartError> {
    let of = |issuer: &Issuer| {
        let url: url::Url = issuer.issuer.parse().map_err(|_| StartError::Issuer(issuer.issuer.clone()))?;
        let name = url.authority().to_lowercase().parse().map_err(|_| StartError::Issuer(issuer.issuer.clone()))?;
        let settings = HttpSettings::new(name, url, Settings::default());
        let settings = HttpSettings { clock: Arc::clone(clock), ours: Arc::clone(ours), ..settings };
        let (client, name) = (Arc::new(HttpUpstream::new(settings)?), issuer.issuer.clone());
        let fetch: FetchKeys = Arc::new(move || {
            let (client, name) = (Arc::clone(&client), name.clone());
            Box::pin(async move { client.issuer_keys(&name).await.map_err(|error| error.to_string()) })
        });
        Ok((issuer.clone(), fetch))
    };
    config.callers.issuers.iter().map(of).collect()
}

/// A registry or mirror to be a client of.
#[derive(Clone, Debug)]
pub struct Dialled<'a> {
    /// The name that images use.
    pub name: &'a RegistryName,
    /// Where it is; plain http is fine, since somebody typed it.
    pub url: url::Url,
    /// `anonymous`, `docker-config`, `helper:NAME` or `file:PATH`.
    pub auth: &'a str,
    /// Certificates to trust besides those of the system, PEM.
    pub ca: Option<&'a Path>,
}

/// Makes a client of a registry or mirror that somebody named on the command line. It retries
/// nothing, and private networks are allowed: whoever measures or pulls says where.
///
/// # Errors
/// For people: the address, the credentials setting or the file of certificates is not usable.
pub fn dial(to: Dialled<'_>) -> Result<Arc<dyn Upstream>, String> {
    let settings = Settings {
        auth: to.auth.parse().map_err(|error: AuthError| error.to_string())?,
        // Plain http is as good as it was typed; a certificate is looked at all the same.
        insecure: to.url.scheme() == "http",
        ca: to.ca.map(Path::to_owned),
        allow_private: true,
        ..Settings::default()
    };
    let settings = HttpSettings::new(to.name.clone(), to.url, settings);
    HttpUpstream::new(settings).map(|client| Arc::new(client) as Arc<dyn Upstream>).map_err(|error| error.to_string())
}

/// Counts what goes over the wire to upstreams.
struct Counted(Arc<Metrics>);

impl UpstreamObserver for Counted {
    fn requested(&self, upstream: &RegistryName, status: Option<u16>) {
        let result = match status {
            None => "unanswered",
            Some(200..=299) => "ok",
            Some(300..=399) => "redirect",
            Some(401 | 403) => "denied",
            Some(404) => "not_found",
            Some(429) => "rate_limited",
            Some(500..) => "server_error",
            Some(_) => "other",
        };
        self.0.upstream_request(upstream.as_str(), result);
    }

    fn received(&self, upstream: &RegistryName, bytes: u64) {
        self.0.upstream_received(upstream.as_str(), bytes);
    }

    fn availability(&self, upstream: &RegistryName, endpoint: &str, up: bool) {
        self.0.upstream_up(upstream, endpoint, up);
    }

    fn quota(&self, upstream: &RegistryName, endpoint: &str, quota: &Quota) {
        let reading = &quota.reading;
        self.0.upstream_budget(upstream, endpoint, reading.limit, reading.left, quota.resets_at.0 / 1000);
    }
}
