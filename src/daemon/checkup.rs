//! Finding out how everything stands, for `doctor`: the facts that [`doctor`](crate::doctor) judges. Every wait has a
//! deadline; upstreams are asked side by side. Nothing is written but a small file in the store, which goes again.

mod clients;
mod store;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Instant;

use futures_util::future::join_all;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Runtime;

use super::preflight::{Findings, settings, taken};
use crate::access::Access;
use crate::blob_store::lock;
use crate::carrier::Carrier;
use crate::config::{Config, Problem, Upstream};
use crate::doctor::machine::Files;
use crate::doctor::{Credential, Facts, Machine, bucket, judge};
use crate::documents::{Checked, Checkup, Code, Error};
use crate::metadata::a_tag;
use crate::mirror::Mode;
use crate::oci::{Reference, RegistryName, Repository};
use crate::server::congestion;
use crate::setup::{Store, store_of};
use crate::tier::{Bucket, OpenError};
use crate::upstream::UpstreamErrorClass;
use crate::upstream::credentials::Auth;
use crate::upstream::examined::{Examined, Sample, Step};
use crate::upstream::http::{HttpSettings, examine};

/// What is asked for where nothing is stored of an upstream.
const ANY: (&str, &str) = ("library/alpine", "latest");
/// Open files besides connections that have a place and fills.
const BESIDES: usize = 768;

/// What is to be looked at: everything, unless something is named.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// This upstream alone.
    pub upstream: Option<RegistryName>,
    /// This client alone.
    pub client: Option<String>,
    /// Whether a daemon answers, where that was tried.
    pub answers: Option<bool>,
    /// What a daemon that answers says is wrong.
    pub problems: Vec<Checked>,
    /// What that daemon says that it listens on, where it says so.
    pub listens: Option<Vec<SocketAddr>>,
    /// Whether that daemon is not the one of the configuration.
    pub elsewhere: bool,
    /// Finds out which store Docker has, from what its file says.
    pub docker_store: Option<fn(Option<&str>) -> Store>,
}

impl Wanted {
    /// Whether it is the daemon that answers who listens there: who may not look into its store cannot see that it has it.
    /// One that says nothing is believed to be the one of the configuration, by which it was found.
    fn has(&self, address: SocketAddr) -> bool {
        let is_its = |listens: &Vec<SocketAddr>| listens.iter().any(|its| its.port() == address.port());
        self.answers == Some(true) && self.listens.as_ref().is_none_or(is_its)
    }

    fn is_about(&self, problem: &Checked) -> bool {
        match &self.upstream {
            Some(upstream) => problem.about == format!("upstream {upstream}"),
            None => self.client.is_none(),
        }
    }
}

/// Looks, and judges. Blocks.
///
/// # Errors
/// [`Code::Usage`] for an upstream that there is none of, [`Code::Failed`] when nothing can be asked.
pub fn checkup(config: &Config, wanted: &Wanted) -> Result<Checkup, Error> {
    if wanted.elsewhere && wanted.client.is_none() {
        return Ok(of_another(wanted));
    }
    let everything = wanted.upstream.is_none() && wanted.client.is_none();
    let is_meant = |upstream: &&Upstream| wanted.upstream.as_ref().is_none_or(|meant| *meant == upstream.host);
    let mut upstreams: Vec<_> = config.upstreams.iter().filter(is_meant).collect();
    if let (Some(unknown), true) = (&wanted.upstream, upstreams.is_empty()) {
        return Err(Error::new(Code::Usage, format!("{unknown} is not an upstream; add it under [[upstream]]")));
    }
    if wanted.client.is_some() && wanted.upstream.is_none() || config.cache.policy.mode == Mode::Offline {
        upstreams.clear();
    }
    let (mut examined, credentials) = ask(config, &upstreams)?;
    for Examined { upstream, steps, .. } in &mut examined {
        if upstreams.iter().any(|of| of.host == *upstream && is_for_callers(of)) {
            steps.retain(|step| !is_denied(step));
        }
    }
    let docker_store = wanted.docker_store.unwrap_or(|daemon_json| store_of(None, daemon_json));
    let around = clients::Around::of(config, &docker_store);
    let facts = Facts {
        problems: wanted.problems.iter().filter(|problem| wanted.is_about(problem)).cloned().collect(),
        upstreams: examined,
        unused: upstreams.iter().filter(|of| everything && is_unused(config, of)).map(|of| of.host.clone()).collect(),
        credentials,
        disk: everything.then(|| store::disk(&config.store)),
        bucket: if everything { bucket(config)? } else { None },
        machine: everything.then(|| machine(config, wanted)),
        clients: match (&wanted.client, everything) {
            (Some(name), _) => clients::found(Some(name), &around),
            (None, true) => clients::found(None, &around),
            (None, false) => Vec::new(),
        },
    };
    let floor = |examined: &Examined| {
        let of = config.upstreams.iter().find(|upstream| upstream.host == examined.upstream);
        of.map_or(0, |upstream| upstream.settings.budget_floor)
    };
    Ok(judge(&facts, floor).into())
}

/// What there is to say of a daemon whose configuration and machine are not seen from here: what it says itself.
fn of_another(wanted: &Wanted) -> Checkup {
    let message = "it is ready; its store, its upstreams and its ports are looked at where it runs";
    let hint = "there, as its user or as root: registry-mirror doctor";
    let daemon = Checked { hint: Some(hint.to_owned()), ..Checked::ok("daemon", message) };
    let problems = wanted.problems.iter().filter(|problem| wanted.is_about(problem)).cloned();
    std::iter::once(daemon).chain(problems).collect::<Vec<_>>().into()
}

/// Whether a process of this machine has the store.
pub fn has_daemon(config: &Config) -> bool {
    lock::is_held(&config.store.path)
}

/// Whether nobody named it, and nothing came from it so far.
fn is_unused(config: &Config, upstream: &Upstream) -> bool {
    let is_default = config.routes.default == upstream.host
        || config.server.defaults.iter().flatten().any(|of| *of == upstream.host);
    !config.effective.names_upstream(&upstream.host)
        && !is_default
        && a_tag(&config.store.path, &upstream.host).is_none()
}

/// Whether nothing of ours is shown there, but each client what he has.
fn is_for_callers(upstream: &Upstream) -> bool {
    upstream.access == Access::PassThrough && upstream.settings.auth == Auth::Anonymous
}

/// Whether it gives nothing to who shows nothing; not where nobody can show anything, which has a reason.
fn is_denied(step: &Step) -> bool {
    match step {
        Step::Proof(Err(error)) | Step::Manifest(_, Err(error), _) => {
            error.class == UpstreamErrorClass::Denied && error.reason.is_none()
        }
        _ => false,
    }
}

/// What there is to say of a configuration that cannot be used.
pub fn unusable(problems: &[Problem]) -> Checkup {
    let machine = Machine { problems: problems.iter().map(Into::into).collect(), ..Machine::default() };
    let lines = judge(&Facts { machine: Some(machine), ..Facts::default() }, |_| 0);
    lines.into_iter().filter(|line| line.about == "configuration").collect::<Vec<_>>().into()
}

/// Asks all of these upstreams at once, and looks for their credentials.
fn ask(config: &Config, upstreams: &[&Upstream]) -> Result<(Vec<Examined>, Vec<Credential>), Error> {
    let runtime = runtime()?;
    let looks = upstreams.iter().flat_map(|upstream| {
        let sample = sample(config, &upstream.host);
        upstream.urls.iter().map(move |url| {
            let settings = HttpSettings::new(upstream.host.clone(), url.clone(), upstream.settings.clone());
            (settings, sample.clone(), is_for_callers(upstream))
        })
    });
    let looks: Vec<_> =
        looks.map(|(settings, sample, as_caller)| runtime.spawn(examine(settings, sample, as_caller))).collect();
    let found = runtime.block_on(async {
        let credentials = join_all(upstreams.iter().map(|upstream| credential(upstream))).await;
        let examined = join_all(looks).await.into_iter().filter_map(Result::ok).collect();
        (examined, credentials)
    });
    // A name that is looked up still, or a program that runs, holds nobody up.
    runtime.shutdown_background();
    Ok(found)
}

/// Asks the bucket for something that is not there; `None` where there is none, or it cannot be asked as it is
/// configured, which is told of the configuration.
fn bucket(config: &Config) -> Result<Option<bucket::Found>, Error> {
    let Some(settings) = config.store.bucket.as_ref().map(|bucket| &bucket.tier) else { return Ok(None) };
    let found = match Bucket::open(settings, &Carrier::default(), |name| std::env::var(name).ok()) {
        Err(OpenError::NoCredentials) => bucket::Found::NoCredentials,
        Err(_) => return Ok(None),
        Ok(bucket) => {
            let (runtime, began) = (runtime()?, Instant::now());
            let answer = runtime.block_on(bucket.read("probe/doctor", 64));
            runtime.shutdown_background();
            match answer {
                Ok(_) => bucket::Found::Answers(bucket.name().to_owned(), began.elapsed()),
                Err(trouble) => bucket::Found::Trouble(bucket.name().to_owned(), trouble.to_string()),
            }
        }
    };
    Ok(Some(found))
}

fn runtime() -> Result<Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))
}

fn sample(config: &Config, upstream: &RegistryName) -> Sample {
    let stored = a_tag(&config.store.path, upstream);
    let is_stored = stored.is_some();
    let any = || Some((ANY.0.parse::<Repository>().ok()?, ANY.1.parse().ok()?));
    #[expect(clippy::expect_used, reason = "the names are ours, and a test reads them")]
    let (repository, tag) = stored.or_else(any).expect("a name");
    Sample { repository, reference: Reference::Tag(tag), stored: is_stored }
}

async fn credential(upstream: &Upstream) -> Credential {
    let origin = upstream.urls.first().map(|url| url.authority().to_owned()).unwrap_or_default();
    let auth = &upstream.settings.auth;
    let variable = |name: &str| std::env::var_os(name);
    // What is not used is not asked of programs either.
    let without_programs = |name: &str| -> Option<OsString> {
        if name == "PATH" { Some("/nonexistent".into()) } else { std::env::var_os(name) }
    };
    let place = match ANY.0.parse::<Repository>() {
        Ok(any) if *auth == Auth::Anonymous => {
            Ok(Auth::DockerConfig.whereabouts(&origin, &any, without_programs).await.ok().flatten())
        }
        Ok(any) => auth.whereabouts(&origin, &any, variable).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Credential { upstream: upstream.host.to_string(), auth: auth.to_string(), place }
}

fn machine(config: &Config, wanted: &Wanted) -> Machine {
    let Findings { problems, warnings } = settings(config);
    let daemon = lock::holder(&config.store.path);
    let (taken, unusable): (Vec<_>, Vec<_>) =
        taken(config).into_iter().partition(|(_, error)| *error == Errno::ADDRINUSE);
    let taken = taken.into_iter().filter(|(address, _)| !wanted.has(*address));
    let address = |(address, _): (SocketAddr, Errno)| address;
    let limits = config.server.limits.max_connections.saturating_add(config.limits.fills.saturating_mul(2));
    Machine {
        problems: problems.iter().map(Into::into).collect(),
        warnings,
        daemon,
        answers: wanted.answers,
        taken: taken.map(address).collect(),
        unusable: unusable.into_iter().map(|(address, error)| (address, error.to_string())).collect(),
        files: Some(Files { may: open_files(daemon), wanted: limits.saturating_add(BESIDES) as u64 }),
        pace: config.server.congestion_control.is_none().then(congestion::doubtful).flatten(),
    }
}

/// How many files the daemon may have open, else this process.
fn open_files(daemon: Option<u32>) -> Option<u64> {
    let of_daemon = daemon.and_then(|process| {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        Some(line.split_whitespace().next()?.parse().ok())
    });
    of_daemon.unwrap_or_else(|| getrlimit(Resource::Nofile).current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn problems_are_told_of_what_is_wanted() {
        let problems = ["upstream quay.io", "upstream docker.io", "store"].map(|about| Checked::warn(about, "", ""));
        let told = |upstream: Option<&str>, client: Option<&str>| {
            let upstream = upstream.map(|name| name.parse().expect("a name"));
            let wanted = Wanted { upstream, client: client.map(str::to_owned), ..Wanted::default() };
            problems
                .iter()
                .filter(|problem| wanted.is_about(problem))
                .map(|problem| &*problem.about)
                .collect::<Vec<_>>()
        };
        assert_eq!(told(None, None), ["upstream quay.io", "upstream docker.io", "store"]);
        assert_eq!(told(Some("docker.io"), None), ["upstream docker.io"]);
        assert_eq!(told(None, Some("docker")), [""; 0]);
    }

    #[test]
    fn a_port_is_the_daemons_where_one_answers_and_says_so_or_says_nothing() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let listens = vec![address("0.0.0.0:5000"), address("127.0.0.1:5080")];
        for (answers, listens, has) in [
            (Some(true), Some(listens.clone()), [true, false]),
            (Some(true), None, [true, true]),
            (Some(false), Some(listens), [false, false]),
            (None, None, [false, false]),
        ] {
            let wanted = Wanted { answers, listens, ..Wanted::default() };
            assert_eq!(["127.0.0.1:5000", "127.0.0.1:5001"].map(|at| wanted.has(address(at))), has, "{wanted:?}");
        }
    }

    #[test]
    fn what_is_asked_for_where_nothing_is_stored_has_a_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = format!("store.path = \"{}\"", folder.path().display());
        let config = Config::parse("mirror.toml".as_ref(), &store, [], Overrides::default()).expect("valid");
        let asked = sample(&config, &config.routes.default);
        assert_eq!((asked.repository.as_str(), asked.stored), (ANY.0, false));
    }
}
