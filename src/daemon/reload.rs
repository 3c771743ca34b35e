//! Settings that are read again while the daemon serves: all of a file, or nothing of it.
//!
//! What is new is built before anything that is there is touched. Then each request begins with all of the new
//! settings or with all of the old ones, and whoever has begun goes on with those. What an upstream that is the same
//! has told stays known. Truth: what comes of it answers as a daemon would that was started with it.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::signal::unix::Signal;

use super::preflight::{Findings, preflight};
use super::settings::{have_the_same_bounds, lanes, unavailable_blob};
use super::upstreams::{Around, Upstreams};
use super::{StartError, admission, certificates, settings, terms};
use crate::access::Grants;
use crate::admin::{Guard, Token};
use crate::audit::{Audit, Line};
use crate::clients::Clients;
use crate::config::{self, Beside, Config, ConfigError, Loaded, Source};
use crate::documents::{Alteration, Change, Code, Configuration, Error, Reloaded};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::mirror::flight::bounds::Bounds;
use crate::server::tls::{Prepared, Tls};
use crate::server::{Admission, Edge, Present};
use crate::telemetry;

/// Who asks for it where a signal does.
const SIGNAL: &str = "SIGHUP";

/// Who is told of other settings.
pub(super) struct Reloading {
    pub(super) source: Option<Source>,
    /// Held by who reads them again: one at a time.
    pub(super) in_force: Arc<tokio::sync::Mutex<InForce>>,
    pub(super) around: Around,
    pub(super) edges: Vec<Arc<Present>>,
    pub(super) guard: Arc<Guard>,
    /// For clients and for operators.
    pub(super) tls: [Option<Arc<Tls>>; 2],
    pub(super) store: Arc<RwLock<config::Store>>,
    /// As operators see it.
    pub(super) shown: Arc<RwLock<Configuration>>,
    pub(super) audit: Option<Arc<Audit>>,
}

/// What holds now.
pub(super) struct InForce {
    pub(super) loaded: Option<Loaded>,
    pub(super) upstreams: Upstreams,
    pub(super) bounds: Arc<Bounds>,
    pub(super) mirror: Mirror,
    pub(super) clients: Arc<Clients>,
    pub(super) admission: Arc<Admission>,
}

/// All that is new.
struct New {
    loaded: Loaded,
    restart: Vec<String>,
    warnings: Vec<String>,
    upstreams: Upstreams,
    admission: Admission,
    token: Option<Token>,
    tls: [Option<Prepared>; 2],
}

impl InForce {
    /// Brings the gauges up to date that are of what holds now.
    pub(super) fn measure(&self, metrics: &Metrics) {
        let InForce { mirror, clients, admission, upstreams, .. } = self;
        let ((bodies, budget), [all, of_one]) = (mirror.bodies(), upstreams.on_the_way_in());
        metrics.bodies(bodies + all.0, budget + all.1);
        let coming = [("on_the_way_in", all), ("on_the_way_in_from_one_upstream", of_one)];
        metrics.parts_of_bodies(mirror.parts_of_bodies().into_iter().chain(coming));
        let own = [admission.authenticator.table(), admission.grants.table(), admission.led.table()];
        metrics.entries(mirror.tables().into_iter().chain(clients.tables()).chain(own));
        metrics.memory(mirror.memory_used());
    }
}

impl Reloading {
    /// Reads the settings again, for whoever asks for it.
    ///
    /// # Errors
    /// [`Code::Configuration`] where they are not valid; then they are as before.
    pub(super) async fn reload(self: Arc<Self>, by: String) -> Result<Reloaded, Error> {
        let mut in_force = Arc::clone(&self.in_force).lock_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            let read = self.read(&in_force).map(|new| self.take(&mut in_force, new));
            self.tell(&by, &read);
            read
        });
        read.await.unwrap_or_else(|error| Err(Error::new(Code::Failed, format!("reading the settings again: {error}"))))
    }

    /// Does so at each signal, until the future is dropped, and opens the audit anew, whatever comes of it.
    pub(super) async fn on_hang_up(self: Arc<Self>, mut hang_up: Signal) {
        while hang_up.recv().await.is_some() {
            self.audit.iter().for_each(|audit| audit.open_anew());
            // It is in the log and in the audit, which is all that a signal has.
            let _ = Arc::clone(&self).reload(SIGNAL.to_owned()).await;
        }
    }

    /// All that is new, of which nothing counts yet. Blocks on the disk.
    fn read(&self, in_force: &InForce) -> Result<New, Error> {
        let (Some(source), Some(before)) = (&self.source, &in_force.loaded) else {
            return Err(Error::new(Code::Failed, "this daemon was started without a configuration to read again"));
        };
        let Beside { whole, taken: loaded, restart } = source.read_beside(before)?;
        let Findings { problems, warnings } = preflight(&whole);
        if !problems.is_empty() {
            return Err(ConfigError { problems }.into());
        }
        let config = &loaded.config;
        let upstreams = in_force.upstreams.under(config, &self.around)?;
        let mut admission = admission(config, &self.around, Some(&in_force.admission.authenticator))?;
        admission.grants = grants(config, in_force, &upstreams);
        admission.led = Arc::clone(&in_force.admission.led);
        let token = config.admin_token()?.map(|secret| Token::new(secret.expose().as_bytes()));
        let [clients, operators] = certificates(config).map(|files| files.map(Tls::prepare).transpose());
        let tls = [clients.map_err(StartError::from)?, operators.map_err(StartError::from)?];
        Ok(New { loaded, restart, warnings, upstreams, admission, token, tls })
    }

    /// From here on it counts.
    fn take(&self, in_force: &mut InForce, new: New) -> Reloaded {
        let New { loaded, restart, warnings, upstreams, admission, token, tls } = new;
        let (config, before) = (&loaded.config, in_force.loaded.as_ref());
        let mut changed = before.map(|before| before.changes(&loaded)).unwrap_or_default();
        let mut note = |key: &str, name: Option<String>| {
            if !changed.iter().any(|change| change.key.starts_with(key) && change.name == name) {
                changed.push(Change { key: key.to_owned(), name, change: Alteration::Changed });
            }
        };
        upstreams.with_other_content(&in_force.upstreams).for_each(|host| note("upstream", Some(host.to_string())));
        if !admission.authenticator.has_the_passwords_of(&in_force.admission.authenticator) {
            note("access.htpasswd", None);
        }
        let served = self.tls.iter().zip(tls).filter_map(|(tls, prepared)| tls.as_ref().zip(prepared));
        for (tls, prepared) in served {
            if tls.differ(&prepared) {
                note("server.tls", None);
                tls.take(prepared);
            }
        }
        if self.guard.change(token, config.asks_who_clients_are()) {
            note("server.admin_token", None);
        }
        in_force.clients =
            Arc::new(in_force.clients.under(config.limits.client, config.server.trusted_proxies.clone()));
        in_force.admission = Arc::new(admission);
        self.change_mirror(in_force, config, &upstreams);
        for edge in &self.edges {
            let InForce { mirror, clients, admission, .. } = &*in_force;
            let (mirror, clients, admission) = (mirror.clone(), Arc::clone(clients), Arc::clone(admission));
            edge.change(|edge| Edge { mirror, clients, admission, unavailable_blob: unavailable_blob(config), ..edge });
        }
        telemetry::change(&config.log.level);
        *self.shown.write() = (&config.effective).into();
        (in_force.upstreams, in_force.loaded) = (upstreams, Some(loaded));
        Reloaded { changed, restart, warnings }
    }

    /// Another mirror, where it would be another one.
    fn change_mirror(&self, in_force: &mut InForce, config: &Config, upstreams: &Upstreams) {
        config.upstreams.iter().for_each(|upstream| self.around.metrics.add_upstream(&upstream.host));
        *self.store.write() = config.store.clone();
        let Some(Loaded { config: before, .. }) = &in_force.loaded else { return };
        let same_bounds = have_the_same_bounds(before, config);
        let said = |config: &Config| (config.cache, config.routes.clone(), config.store.verify_on_read);
        if same_bounds && said(before) == said(config) && upstreams.are_those_of(&in_force.upstreams) {
            return;
        }
        if same_bounds {
            in_force.bounds.change_lanes(lanes(config));
        } else {
            in_force.bounds = Arc::new(settings::bounds(config));
        }
        in_force.mirror = in_force.mirror.under(terms(config, upstreams, Arc::clone(&in_force.bounds)));
    }

    /// Says in the log and in the metrics what came of it; in the audit, too, where nobody else does.
    fn tell(&self, by: &str, read: &Result<Reloaded, Error>) {
        if let Some(audit) = self.audit.as_ref().filter(|_| by == SIGNAL) {
            let (act, verdict) = (Some("reload"), if read.is_ok() { "allowed" } else { "failed" });
            let caller = Some(by.to_owned());
            audit.write(&Line { peer: by.to_owned(), caller, act, verdict, ..Line::default() });
        }
        let metrics = &self.around.metrics;
        match read {
            Ok(Reloaded { changed, restart, warnings }) => {
                metrics.reloaded(if restart.is_empty() { "done" } else { "partly" });
                tracing::info!(by, changed = changed.len(), restart = restart.len(), "the settings were read again");
                changed.iter().for_each(|change| tracing::info!(by, %change, "a setting is taken"));
                restart.iter().for_each(|key| tracing::warn!(by, key, "a setting stays as it was until a restart"));
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(error) => {
                metrics.reloaded("refused");
                tracing::error!(by, error = error.message, "the settings stay as they were");
            }
        }
    }
}

/// The grants that stay: those of upstreams that are the same, as long as they may live now.
fn grants(config: &Config, in_force: &InForce, upstreams: &Upstreams) -> Arc<Grants> {
    let (before, life) = (&in_force.admission.grants, config.callers.grant_ttl);
    let gone = in_force.upstreams.unlike(upstreams);
    if gone.is_empty() && before.life() == life { Arc::clone(before) } else { Arc::new(before.without(&gone, life)) }
}
