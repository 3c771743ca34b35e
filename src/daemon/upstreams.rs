//! The clients of upstreams: those that the configuration names, each address guarded, and those that
//! somebody names on the command line.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use super::settings::Shares;
use crate::access::Access;
use crate::carrier::Carriers;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::metadata::{FirstLook, since_first};
use crate::metrics::Metrics;
use crate::mirror::{AskReplica, Mode, Replicas, Routes};
use crate::oci::{Digest, RegistryName, Whereabouts};
use crate::server::authenticate::{FetchKeys, Issuer};
use crate::tier::{Bucket, Leases, PeersKey};
use crate::upstream::asking::Asking;
use crate::upstream::credentials::AuthError;
use crate::upstream::gate::Gate;
use crate::upstream::http::whole::Whole;
use crate::upstream::http::{HttpSettings, HttpUpstream, ReplicaClient, Wanted};
use crate::upstream::offline::Offline;
use crate::upstream::ours::Ours;
use crate::upstream::quota::Quota;
use crate::upstream::settings::{Settings, place_of};
use crate::upstream::{Upstream, UpstreamObserver};

/// What clients of upstreams are made with.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ours: Arc<Ours>,
    pub(super) carriers: Carriers,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}

/// The clients of all upstreams, with what each was made from.
#[derive(Default)]
pub(super) struct Upstreams {
    known: Vec<Known>,
    whole: Whole,
}

#[derive(Clone)]
struct Known {
    configured: config::Upstream,
    /// What was in its files.
    content: Digest,
    offline: bool,
    can_be_asked: bool,
    shares: (Shares, Duration),
    /// At each of its addresses.
    wanted: Vec<Wanted>,
    /// Stays while offline mode is on, with what it knows.
    asking: Arc<dyn Upstream>,
    /// With its bound on what is under way at a time.
    gated: Arc<dyn Upstream>,
}

impl Known {
    /// Whether what it said to callers holds for this one: that is at the same place, and is asked with the same
    /// credentials and authorities. How long it may take, and the like, does not matter.
    fn is_alike(&self, configured: &config::Upstream, content: Digest) -> bool {
        let who = |config::Upstream { host, urls, access, settings, .. }: &config::Upstream| {
            let Settings { auth, auth_realms, insecure, ca, certificate, .. } = settings.clone();
            (host.clone(), urls.clone(), *access, auth, auth_realms, insecure, ca, certificate)
        };
        self.content == content && who(&self.configured) == who(configured)
    }
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.known.iter().map(|known| &known.configured.host)).finish()
    }
}

impl Upstreams {
    /// Those of a configuration; one that is the same stays, with all that it knows. Reads their files.
    ///
    /// # Errors
    /// [`StartError::Upstream`].
    pub(super) fn under(&self, config: &Config, around: &Around) -> Result<Upstreams, StartError> {
        let known = config.upstreams.iter().map(|upstream| self.one(upstream, config, around));
        Ok(Upstreams { known: known.collect::<Result<_, _>>()?, whole: self.whole.clone() })
    }

    fn one(&self, upstream: &config::Upstream, config: &Config, around: &Around) -> Result<Known, StartError> {
        let (offline, content) = (config.cache.policy.mode == Mode::Offline, upstream.settings.content());
        let shares = (Shares::of(upstream, &config.limits), config.limits.fill_wait);
        // What was never asked by anybody cannot be asked.
        let is_same = |known: &&Known| {
            (&known.configured, known.content) == (upstream, content) && (offline || known.can_be_asked)
        };
        let alike = self.known.iter().find(|known| known.is_alike(upstream, content));
        let known = self.known.iter().find(is_same);
        if let Some(known) = known.filter(|known| (known.shares, known.offline) == (shares, offline)) {
            return Ok(known.clone());
        }
        let wanted = alike.map_or_else(|| vec![Wanted::default(); upstream.urls.len()], |alike| alike.wanted.clone());
        let asking = match (known, alike) {
            (Some(known), _) => Arc::clone(&known.asking),
            (None, Some(alike)) if offline => Arc::clone(&alike.asking),
            (None, None) if offline => Arc::new(Offline::new(upstream.host.clone())),
            (None, _) => online(upstream, &wanted, around, self.whole.of_another())?,
        };
        let (Shares { all, fills, relays }, patience) = shares;
        let longest = upstream.settings.timeouts.longest() * u32::try_from(upstream.urls.len()).unwrap_or(u32::MAX);
        let gate = || {
            let gate = Gate::new(upstream.host.clone(), Arc::clone(&asking), all, fills + relays, patience);
            gate.with_longest(longest)
        };
        let can_be_asked = !offline || known.is_some_and(|known| known.can_be_asked);
        let gated: Arc<dyn Upstream> = match offline {
            true => Arc::new(Offline::new(upstream.host.clone()).in_place_of(Arc::clone(&asking))),
            false => Arc::new(gate()),
        };
        Ok(Known { configured: upstream.clone(), content, offline, can_be_asked, shares, wanted, asking, gated })
    }

    /// How many bytes of manifests and lists are on their way in, and how many may be: from all upstreams, and from the
    /// one that has most.
    pub(super) fn on_the_way_in(&self) -> [(u64, u64); 2] {
        self.whole.used()
    }

    pub(super) fn routes(&self, default: &RegistryName) -> Routes {
        let upstreams = self.known.iter().map(|known| (known.configured.host.clone(), Arc::clone(&known.gated)));
        Routes::new(default.clone(), upstreams)
    }

    /// Whether all of them are the ones of `other`, places included.
    pub(super) fn are_those_of(&self, other: &Upstreams) -> bool {
        let mut pairs = self.known.iter().zip(&other.known);
        self.known.len() == other.known.len() && pairs.all(|(one, other)| Arc::ptr_eq(&one.gated, &other.gated))
    }

    /// Those that are configured as in `other`, and in whose files is something else.
    pub(super) fn with_other_content<'u>(&'u self, other: &'u Upstreams) -> impl Iterator<Item = &'u RegistryName> {
        let differ = |known: &&Known| {
            let mut same = other.known.iter().filter(|other| other.configured == known.configured);
            same.any(|other| other.content != known.content)
        };
        self.known.iter().filter(differ).map(|known| &known.configured.host)
    }

    /// Those of which `other` knows nothing, or something else: elsewhere, with other credentials, or for others.
    pub(super) fn unlike(&self, other: &Upstreams) -> HashSet<RegistryName> {
        let is_known =
            |known: &&Known| other.known.iter().any(|other| other.is_alike(&known.configured, known.content));
        self.known.iter().filter(|known| !is_known(known)).map(|known| known.configured.host.clone()).collect()
    }
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

/// Where each of them is, and was first as the store knows it. Blocks.
pub(super) fn places(config: &Config, look: FirstLook) -> Whereabouts {
    let of = |upstream: &config::Upstream| (upstream.host.clone(), upstream.urls.iter().map(place_of).collect());
    since_first(&config.store.path, config.upstreams.iter().map(of).collect(), look)
}

/// Whether this upstream can be asked as it is configured. Reads its files.
///
/// # Errors
/// [`StartError::Upstream`].
pub(super) fn check(upstream: &config::Upstream) -> Result<(), StartError> {
    let (metrics, clock, ours) = (Arc::new(Metrics::new([])), Arc::new(SystemClock), Arc::default());
    let wanted = vec![Wanted::default(); upstream.urls.len()];
    let around = Around { metrics, clock, ours, carriers: Carriers::default() };
    online(upstream, &wanted, &around, Whole::default()).map(drop)
}

/// An upstream at all its addresses, of each of which something was wanted before.
fn online(
    upstream: &config::Upstream,
    wanted: &[Wanted],
    around: &Around,
    whole: Whole,
) -> Result<Arc<dyn Upstream>, StartError> {
    let Around { metrics, clock, ours, carriers } = around;
    let observer: Arc<dyn UpstreamObserver> = Arc::new(Counted(metrics.clone()));
    let notices = Arc::default();
    let clients = upstream.urls.iter().zip(wanted).map(|(url, wanted)| {
        let settings = HttpSettings {
            for_callers: upstream.access == Access::PassThrough,
            clock: Arc::clone(clock),
            observer: Arc::clone(&observer),
            ours: Arc::clone(ours),
            notices: Arc::clone(&notices),
            whole: whole.clone(),
            wanted: wanted.clone(),
            carrier: carriers.upstreams.clone(),
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
pub(super) fn issuers(config: &Config, around: &Around) -> Result<Vec<(Issuer, FetchKeys)>, StartError> {
    let Around { clock, ours, carriers, .. } = around;
    let of = |issuer: &Issuer| {
        let url: url::Url = issuer.issuer.parse().map_err(|_| StartError::Issuer(issuer.issuer.clone()))?;
        let name = url.authority().to_lowercase().parse().map_err(|_| StartError::Issuer(issuer.issuer.clone()))?;
        let settings = HttpSettings::new(name, url, Settings::default());
        let (clock, ours, carrier) = (Arc::clone(clock), Arc::clone(ours), carriers.upstreams.clone());
        let settings = HttpSettings { clock, ours, carrier, ..settings };
        let (client, name) = (Arc::new(HttpUpstream::new(settings)?), issuer.issuer.clone());
        let fetch: FetchKeys = Arc::new(move || {
            let (client, name) = (Arc::clone(&client), name.clone());
            Box::pin(async move { client.issuer_keys(&name).await.map_err(|error| error.to_string()) })
        });
        Ok((issuer.clone(), fetch))
    };
    config.callers.issuers.iter().map(of).collect()
}

/// The other replicas, where there are leases to be had. Reads the secret and the certificates.
///
/// # Errors
/// [`StartError`].
pub(super) fn replicas(config: &Config, bucket: &Bucket, around: &Around) -> Result<Option<Replicas>, StartError> {
    let secret = config.peers_secret()?;
    let Some(configured) = config.store.bucket.as_ref().filter(|bucket| bucket.leases) else { return Ok(None) };
    let Some((secret, own)) = secret.zip(configured.advertise.clone()) else { return Ok(None) };
    let files = config.server.tls.as_ref().filter(|_| own.starts_with("https://"));
    let shown = files.filter(|files| files.client_ca.is_some()).map(|files| files.key.clone());
    let patience = configured.tier.patience;
    let Ok(url) = own.parse() else { return Ok(None) };
    let of = (config.routes.default.clone(), url);
    let (certificate, carrier) = (files.map(|files| files.cert.clone()), around.carriers.tier.clone());
    let client = ReplicaClient::new(of, certificate, shown, patience, carrier)?;
    let ask: AskReplica = Arc::new(move |url: String, proof: String, span| {
        let client = Arc::clone(&client);
        Box::pin(async move { client.blob(&url, &proof, span).await })
    });
    let (key, metrics) = (PeersKey::new(secret.expose()), Arc::clone(&around.metrics));
    let leases = Arc::new(Leases::new(bucket.clone(), key, own, Arc::clone(&metrics)));
    Ok(Some(Replicas { leases, ask, patience, metrics }))
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

    fn received(&self, upstream: &RegistryName, bytes: u64, waited: Duration) {
        self.0.upstream_received(upstream.as_str(), bytes, waited);
    }

    fn availability(&self, upstream: &RegistryName, endpoint: &str, up: bool) {
        self.0.upstream_up(upstream, endpoint, up);
    }

    fn quota(&self, upstream: &RegistryName, endpoint: &str, quota: &Quota) {
        let reading = &quota.reading;
        self.0.upstream_budget(upstream, endpoint, reading.limit, reading.left, quota.resets_at.0 / 1000);
    }
}
