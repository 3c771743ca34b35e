//! Configuration: what the daemon runs with, validated.
//!
//! Two stages. [`file::File`] is what was typed; [`Config`] is what it means: addresses, durations,
//! sizes in bytes, names, paths resolved. Flags override the environment, which overrides the file,
//! which overrides the defaults. The environment is an argument, so loading is a function of what it
//! is given. All problems are reported at once, each with file, line and column where it has them,
//! and no problem quotes a value that may hold a credential. What a part of the program obeys is a type
//! of that part; here it is only read.

mod addresses;
mod document;
mod effective;
mod environment;
mod explain;
pub mod file;
mod handed;
mod problem;
mod search;
mod secret;
mod source;
mod validate;
mod well_known;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::{Access, Grant, Identities, Rules};
use crate::audit;
use crate::clients::{self, Network};
use crate::mirror::Policy;
use crate::mirror::flight::unread::FinishUnread;
use crate::oci::RegistryName;
use crate::server;
use crate::server::authenticate::Issuer;
use crate::server::tls::Files;
use crate::setting_file;
pub use crate::telemetry::{Log, LogFormat};
use crate::tier;
use crate::upstream::credentials::Auth;
use crate::upstream::settings::{OnMissing, Settings};

pub use addresses::{reachable, registry};
pub use effective::Effective;
pub use handed::{BY_SYSTEMD, Handed};
pub use problem::{ConfigError, Problem};
pub use search::Place;
pub use secret::{Secret, SecretError};
pub use source::{Beside, Loaded, Source};

/// What the daemon runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it comes from, if there is one.
    pub source: Option<PathBuf>,
    /// Where we listen.
    pub server: Server,
    /// Where content is kept and how much of it.
    pub store: Store,
    /// How long content counts as fresh.
    pub cache: Cache,
    /// Which upstream a request is for.
    pub routes: Routes,
    /// The registries we may fetch from: the configured ones, then the well-known ones.
    pub upstreams: Vec<Upstream>,
    /// What is used at once.
    pub limits: Limits,
    /// Who clients are, and what they may read.
    pub callers: Callers,
    /// What is logged.
    pub log: Log,
    warnings: Vec<String>,
    /// The same as a file would say it, and where each value was set.
    pub effective: Effective,
}

/// Where we listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Addresses for clients; at least one. Those of sockets that were handed over, where some were.
    pub listen: Vec<SocketAddr>,
    /// Whether they are.
    pub is_handed: bool,
    /// For each of `listen`, the upstream of a request that names none; `None` for the one of
    /// [`Routes`].
    pub defaults: Vec<Option<RegistryName>>,
    /// Addresses for health and metrics; may be empty.
    pub admin: Vec<SocketAddr>,
    /// The Unix socket of the admin interface; `None` switches it off.
    pub admin_socket: Option<PathBuf>,
    /// The file with the token that lets addresses act.
    pub admin_token: Option<PathBuf>,
    /// Proxies in front, whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<Network>,
    /// The bounds of each listener for clients; `send_timeout` is at most 49 days, the kernel's limit.
    pub limits: server::Limits,
    /// The status for a blob that is not stored and that upstream cannot give now: 503 or 404.
    pub unavailable_blob: u16,
    /// The algorithm that paces what is sent to clients; `None` for the system's.
    pub congestion_control: Option<String>,
    /// Where certificates are; `None` for plain HTTP.
    pub tls: Option<Files>,
}

impl Server {
    /// The upstream of requests that name none, at a listener bound to `address`. `place` is its
    /// place among the listeners, which counts where the system chose the port.
    pub fn default_at(&self, address: SocketAddr, place: usize) -> Option<&RegistryName> {
        let chosen = || self.listen.get(place).filter(|configured| configured.port() == 0).map(|_| place);
        let place = self.listen.iter().position(|configured| *configured == address).or_else(chosen)?;
        self.defaults.get(place)?.as_ref()
    }
}

/// Where content is kept and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder, absolute.
    pub path: PathBuf,
    /// What the store may hold.
    pub max_size: Limit,
    /// What stays free on the file system.
    pub min_free: Limit,
    /// Bytes of the store that are read again each second to find damage; zero for none.
    pub scrub_rate: u64,
    /// Whether every blob is hashed before it is served.
    pub verify_on_read: bool,
    /// The bucket behind the folder.
    pub bucket: Option<Bucket>,
}

/// The bucket that several replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// How it is reached.
    pub tier: tier::settings::Settings,
    /// What may be in it, in bytes; 0 is no bound.
    pub max_size: u64,
    /// The file with the secret that all replicas know.
    pub peers_secret: Option<PathBuf>,
    /// Where other replicas reach this one, without a slash at the end.
    pub advertise: Option<String>,
    /// Whether replicas tell each other what they fetch, where they can.
    pub leases: bool,
    /// Clients that are sent to the bucket itself for blobs of public upstreams.
    pub redirect: Vec<Network>,
    /// How long such an address is good for.
    pub redirect_ttl: Duration,
}

/// An amount of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system, 0 to 100.
    Percent(u8),
}

impl Limit {
    /// The amount in bytes on a file system of `capacity` bytes.
    pub const fn of(self, capacity: u64) -> u64 {
        match self {
            Limit::Bytes(bytes) => bytes,
            // Divided first: a product could overflow. At most 99 bytes are lost.
            Limit::Percent(percent) => (capacity / 100).saturating_mul(percent as u64),
        }
    }
}

impl From<Limit> for FinishUnread {
    fn from(limit: Limit) -> FinishUnread {
        match limit {
            Limit::Percent(100) => FinishUnread::Always,
            Limit::Percent(percent) => FinishUnread::Percent(percent),
            Limit::Bytes(bytes) => FinishUnread::Bytes(bytes),
        }
    }
}

/// How long content counts as fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// When upstream is asked, and what is done without it.
    pub policy: Policy,
    /// Whether a manifest is refused while upstream is away, when not all that it leads to is stored.
    pub complete_only: bool,
    /// Bytes of an image that are fetched ahead when a client gets its manifest; zero for none.
    pub prefetch: u64,
    /// How much may be missing of a blob for its fill to go on without readers.
    pub finish_unread: FinishUnread,
    /// How long we remember that upstream has not got something.
    pub negative_ttl: Duration,
    /// Memory for manifests and small blobs that were asked for lately, in bytes; none when zero.
    pub memory: u64,
}

/// Which upstream a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// The upstream of a request that names none; always one of [`Config::upstreams`].
    pub default: RegistryName,
}

/// A registry we may fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The name images use, the `ns` value and the path prefix.
    pub host: RegistryName,
    /// Where its API is, in the order to try; at least one. Plain `http` only to this machine or
    /// with `insecure`; never with a user, a query or a fragment.
    pub urls: Vec<url::Url>,
    /// How it is asked. `insecure` holds for exactly `urls`.
    pub settings: Settings,
    /// Through how many connections a large blob is read at once, 1 to 4.
    pub parallel: usize,
    /// How many requests may be under way; `None` for as many as fills and [`BESIDE_FILLS`].
    pub connections: Option<usize>,
    /// What a 404 of one of `urls` means.
    pub on_missing: OnMissing,
    /// Who may read what it has.
    pub access: Access,
}

impl Upstream {
    /// Whether we show it something of our own.
    pub fn has_credentials(&self) -> bool {
        self.settings.auth != Auth::Anonymous || self.settings.certificate.is_some()
    }
}

/// Who clients are, and what they may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// The file with users and passwords.
    pub htpasswd: Option<PathBuf>,
    /// Whose tokens count.
    pub issuers: Vec<Issuer>,
    /// Who may read what.
    pub grants: Vec<Grant>,
    /// How long an upstream's yes holds for a caller and a repository; at most 5 minutes.
    pub grant_ttl: Duration,
    /// Where it is written down who got what.
    pub audit: Option<audit::Place>,
}

/// How many requests to an upstream may be under way besides fills.
pub const BESIDE_FILLS: usize = 32;

/// What is used at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fills; at least one.
    pub fills: usize,
    /// Bytes of memory for the fills that the disk cannot take, all of them together.
    pub fill_memory: u64,
    /// How long to wait for a place, among the fills and among the requests to an upstream.
    pub fill_wait: Duration,
    /// What each client may have.
    pub client: clients::Limits,
}

/// What flags of the command line set, as typed; it is checked like the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`; empty when not given.
    pub listen: Vec<String>,
    /// `--admin`; empty when not given.
    pub admin: Vec<String>,
    /// `--store`
    pub store: Option<String>,
    /// `--max-size`
    pub max_size: Option<String>,
    /// `--offline`
    pub offline: bool,
    /// The level that `-q` or `-v` stands for.
    pub log_level: Option<String>,
    /// No flag: sockets that were opened before the start.
    pub handed: Handed,
}

impl Config {
    /// Reads `path`, else the file that `REGISTRY_MIRROR_CONFIG` names, else the first that is there of
    /// [`Config::places`], or may be there, else no file; applies the environment and the flags; validates.
    ///
    /// # Errors
    /// Everything that is wrong, together: an unreadable file, its syntax, unknown keys and
    /// variables, values that mean nothing.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Config, ConfigError> {
        let (document, env, source) = Config::layers(path, env, &overrides)?;
        validate::config(document, &env, source)
    }

    /// Where the file is looked for, in this order, unless `path` names it.
    pub fn places(path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Vec<Place> {
        search::places(path, &environment::Environment::new(env))
    }

    /// [`Config::load`] with the text of the file at hand; `path` is only mentioned.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        path: &Path,
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Config, ConfigError> {
        let env = environment::Environment::new(env);
        let document = Config::laid(Some((path, text)), &env, &overrides)?;
        validate::config(document, &env, Some(path.to_owned()))
    }

    /// The layers over each other, the environment, and the file.
    fn layers(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<(document::Document, environment::Environment, Option<PathBuf>), ConfigError> {
        let env = environment::Environment::new(env);
        let chosen = search::places(path, &env).into_iter().find(|place| place.used);
        let Some(Place { path, trouble, .. }) = chosen else {
            return Ok((Config::laid(None, &env, overrides)?, env, None));
        };
        if let Some(why) = trouble {
            return Err(search::unreadable(&path, &why).into());
        }
        // What a shell hands over, `-c <(…)`, is a pipe: who typed it waits for it.
        let read = if path.starts_with("/dev") { std::fs::read_to_string(&path) } else { settings_text(&path) };
        let text = read.map_err(|error| ConfigError::from(search::unreadable(&path, &error.to_string())))?;
        Ok((Config::laid(Some((&path, &text)), &env, overrides)?, env, Some(path)))
    }

    fn laid(
        file: Option<(&Path, &str)>,
        env: &environment::Environment,
        overrides: &Overrides,
    ) -> Result<document::Document, ConfigError> {
        let (mut document, credentials) = (document::Document::read(file)?, env.credentials_folder());
        let path = file.and_then(|(path, _)| std::path::absolute(path).ok());
        if let Some(folder) = path.as_deref().and_then(Path::parent) {
            document.locate(folder, credentials.as_deref());
        }
        env.apply(&mut document);
        document.apply(overrides);
        // What is typed is of where it is typed.
        document.locate(Path::new("."), credentials.as_deref());
        Ok(document)
    }

    /// The files that upstreams cannot be asked without, and that cannot be read now.
    pub fn missing_files(&self) -> Vec<Problem> {
        let of = |upstream: &Upstream| {
            let settings = &upstream.settings;
            let proxy = settings.proxy_auth.iter().filter_map(Auth::file).map(|path| ("proxy_auth", path));
            let own = settings
                .certificate
                .iter()
                .flat_map(|own| [("client_cert", own.certificate.as_path()), ("client_key", &own.key)]);
            let files = settings.ca.iter().map(|path| ("ca", path.as_path())).chain(proxy).chain(own);
            files.filter_map(|(key, path)| unreadable(upstream, key, path)).collect::<Vec<_>>()
        };
        self.upstreams.iter().flat_map(of).collect()
    }

    /// The credentials of upstreams that cannot be had now: files, and helper programs that are in none of the
    /// folders of `path`, which is as `PATH`. They may come later, and what is public needs none.
    pub fn missing_credentials(&self, path: Option<&OsStr>) -> Vec<Problem> {
        let of = |upstream: &Upstream| match &upstream.settings.auth {
            Auth::Helper(name) => {
                let message = format!("auth: {}", missing_helper(name, path)?);
                Some(Problem::at(format!("upstream {}", upstream.host), message))
            }
            auth => unreadable(upstream, "auth", auth.file()?),
        };
        self.upstreams.iter().filter_map(of).collect()
    }

    /// Whether clients have to say who they are: then names of images are nobody else's business.
    pub fn asks_who_clients_are(&self) -> bool {
        let asks = |upstream: &Upstream| matches!(upstream.access, Access::PassThrough | Access::Mapped);
        self.identities().any() || self.upstreams.iter().any(asks)
    }

    /// How clients can say who they are.
    pub fn identities(&self) -> Identities {
        Identities {
            passwords: self.callers.htpasswd.is_some(),
            tokens: !self.callers.issuers.is_empty(),
            certificates: self.server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
        }
    }

    /// Who may read what.
    pub fn rules(&self) -> Rules {
        let modes = self.upstreams.iter().map(|upstream| (upstream.host.clone(), upstream.access)).collect();
        let unproven = |upstream: &&Upstream| upstream.access == Access::Public && upstream.has_credentials();
        let unproven = self.upstreams.iter().filter(unproven).map(|upstream| upstream.host.clone()).collect();
        Rules { modes, unproven, grants: self.callers.grants.clone(), identities: self.identities() }
    }

    /// The token that lets addresses of the admin interface act, if one is configured. Reads its file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub fn admin_token(&self) -> Result<Option<Secret>, ConfigError> {
        let read = self.server.admin_token.as_deref().map(Secret::read).transpose();
        read.map_err(|error| Problem::at("server.admin_token", error.to_string()).into())
    }

    /// The secret that all replicas know, if one is configured. Reads its file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no secret.
    pub fn peers_secret(&self) -> Result<Option<Secret>, ConfigError> {
        let path = self.store.bucket.as_ref().and_then(|bucket| bucket.peers_secret.as_deref());
        let read = path.map(Secret::read).transpose();
        read.map_err(|error| Problem::at("store.bucket.peers_secret", error.to_string()).into())
    }

    /// What is allowed and yet worth a second look, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn settings_text(path: &Path) -> std::io::Result<String> {
    Ok(setting_file::text(path)?.as_str().to_owned())
}

fn unreadable(upstream: &Upstream, key: &str, path: &Path) -> Option<Problem> {
    let error = setting_file::opened(path).err()?;
    let message = format!("{key}: the file {} cannot be read: {error}", path.display());
    Some(Problem::at(format!("upstream {}", upstream.host), message))
}

/// What there is to say of a helper that is in none of the folders of `path`, which is as `PATH`.
pub(crate) fn missing_helper(name: &str, path: Option<&OsStr>) -> Option<String> {
    let program = format!("docker-credential-{name}");
    let folders: Vec<_> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let missing = !folders.iter().any(|folder| is_program(&folder.join(&program)));
    missing.then(|| format!("the program {program} is in none of the folders of PATH"))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
