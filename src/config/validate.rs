//! From what was typed to what it means.
//!
//! One function per kind of value, most of them in the files below. Each notes its problem and goes on with a stand-in, so that one
//! run finds everything; a [`Config`] comes out only when nothing was noted.

mod access;
mod bucket;
mod grants;
mod upstreams;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::environment::Environment;
use super::handed::{Handed, purpose};
use super::search::store_of_service;
use super::{
    Cache, Config, ConfigError, Effective, Limit, Limits, Log, LogFormat, Routes, Server, Store, Upstream, file,
};
use crate::clients::{self, Network};
use crate::mirror::{Mode, Policy};
use crate::oci::RegistryName;
use crate::server;
use crate::server::tls::Files;

/// Validates the layers.
pub(super) fn config(
    mut document: Document,
    env: &Environment,
    source: Option<PathBuf>,
) -> Result<Config, ConfigError> {
    let (file, set) = (document.file()?, document.origins());
    let mut check = Check(document);
    let (mut server, addresses) = check.server(&file.server);
    let bucket = check.bucket(&file.store.bucket, &file.cache.patience);
    let store = check.store(&file.store, env, source.as_deref()).map(|store| Store { bucket, ..store });
    let cache = check.cache(&file.cache);
    let limits = Limits {
        fills: check.count("limits.fills", file.limits.fills),
        fill_memory: check.size("limits.fill_memory", &file.limits.fill_memory),
        fill_wait: check.duration("limits.fill_wait", &file.limits.fill_wait),
        client: check.client_limits(&file.limits, server.limits.max_connections),
    };
    let log = check.log(&file.log);
    let mut upstreams = check.upstreams(&file);
    let callers = check.callers(&file.access, &server, &upstreams);
    check.modes(&file, &server, &callers, &mut upstreams);
    if let Some(files) = &mut server.tls {
        files.certificate_optional = callers.htpasswd.is_some() || !callers.issuers.is_empty();
    }
    let routes = check.routes(&file.routes, &upstreams);
    server.defaults = check.listener_defaults(&file.server.listen, &upstreams);
    let mut in_vain = Vec::new();
    if let Some(routes) = routes.as_ref().filter(|_| server.is_handed) {
        let entries: Vec<_> = addresses.into_iter().zip(server.defaults).collect();
        let purpose = purpose(&server.listen, &entries, &routes.default);
        (server.defaults, in_vain) = (purpose.defaults, purpose.warnings);
    }
    let admin_socket = check.admin_socket(&file.server.admin_socket, store.as_ref(), env);
    let problems = check.0.into_problems();
    match (store, routes) {
        (Some(store), Some(routes)) if problems.is_empty() => {
            let server = Server { admin_socket, ..server };
            let warnings = warnings(&server, &upstreams).into_iter().chain(in_vain).collect();
            let effective = Effective::default();
            let mut config =
                Config { source, server, store, cache, routes, upstreams, limits, callers, log, warnings, effective };
            config.warnings.extend(access::warnings(&config, &file));
            config.warnings.extend(bucket::warnings(&file.store.bucket, &config.upstreams));
            config.effective = Effective::of(file, set, &config);
            Ok(config)
        }
        _ => Err(ConfigError { problems }),
    }
}

/// What is allowed and yet worth a second look.
fn warnings(server: &Server, upstreams: &[Upstream]) -> Vec<String> {
    let mut warnings = Vec::new();
    let open = |addresses: &[SocketAddr]| addresses.iter().find(|address| !address.ip().is_loopback()).copied();
    let unverified = upstreams
        .iter()
        .filter(|upstream| upstream.settings.insecure && upstream.urls.iter().any(|url| url.scheme() == "https"));
    warnings.extend(unverified.map(|upstream| {
        format!(
            "certificates of {} are not verified: anybody on the way may read our credentials for it",
            upstream.host
        )
    }));
    if let Some(address) = open(&server.admin) {
        warnings.push(format!(
            "health and metrics are open to everyone who reaches {address}; they are meant for loopback"
        ));
        if server.admin_token.is_some() && server.tls.is_none() {
            warnings.push(format!(
                "the admin token does not count at {address}, where others can read it: set [server.tls] cert and key"
            ));
        }
    }
    warnings
}

struct Check(Document);

impl Check {
    fn problem(&mut self, path: &str, message: impl Into<String>, hint: &str) {
        self.0.report_value(path, message.into(), (!hint.is_empty()).then(|| hint.to_owned()));
    }

    /// The section `[server]`, and the addresses that `listen` says, which count unless others were handed over.
    fn server(&mut self, typed: &file::Server) -> (Server, Vec<SocketAddr>) {
        let addresses: Vec<String> = typed.listen.iter().map(|entry| split_listener(entry).0.to_owned()).collect();
        let addresses = self.addresses("server.listen", &addresses);
        let typed_admin = self.addresses("server.admin", &typed.admin);
        let Handed { pull, admin } = self.0.handed().clone();
        let (is_handed, admin_is_handed) = (!pull.is_empty(), !admin.is_empty());
        let listen = if is_handed { pull } else { addresses.clone() };
        let admin = if admin_is_handed { admin } else { typed_admin };
        if typed.listen.is_empty() {
            self.problem("server.listen", "no address to listen on", "for example listen = [\"127.0.0.1:5000\"]");
        }
        if let Some(both) = admin.iter().find(|address| listen.iter().any(|other| overlap(address, other))) {
            let message = format!("{both} is also an address for clients");
            self.problem("server.admin", message, "health and metrics need an address of their own");
        }
        let typed_lists = [("server.listen", &listen, is_handed), ("server.admin", &admin, admin_is_handed)];
        for (key, addresses, _) in typed_lists.into_iter().filter(|(_, _, is_handed)| !is_handed) {
            let twin = |n: usize| addresses.iter().take(n).any(|other| overlap(&addresses[n], other));
            if let Some(n) = (0..addresses.len()).find(|n| twin(*n)) {
                let message = format!("{} is listened on already by an address before it", addresses[n]);
                self.problem(&self.0.element(key, n), message, "an address of all the machine's is each of them");
            }
        }
        if !matches!(typed.unavailable_blob, 404 | 503) {
            self.problem(
                "server.unavailable_blob",
                "neither 503 nor 404",
                "503 is honest, 404 makes dockerd go on at once",
            );
        }
        let server = Server {
            listen,
            is_handed,
            defaults: Vec::new(),
            unavailable_blob: if typed.unavailable_blob == 404 { 404 } else { 503 },
            admin,
            // Where it is by default depends on the store, which is read after this.
            admin_socket: None,
            admin_token: self.secret("server.admin_token", &typed.admin_token),
            limits: server::Limits {
                max_connections: self.count("server.max_connections", typed.max_connections),
                header_timeout: self.positive("server.header_timeout", &typed.header_timeout),
                send_timeout: self.positive("server.send_timeout", &typed.send_timeout),
                drain: self.duration("server.drain", &typed.drain),
            },
            trusted_proxies: self.networks("server.trusted_proxies", &typed.trusted_proxies),
            congestion_control: self.congestion_control(&typed.congestion_control),
            tls: self.tls(&typed.tls),
        };
        (server, addresses)
    }

    fn networks(&mut self, path: &str, typed: &[String]) -> Vec<Network> {
        let networks = typed.iter().filter_map(|text| match text.parse() {
            Ok(network) => Some(network),
            Err(error) => {
                self.problem(path, format!("{text:?}: {error}"), "names are not looked up");
                None
            }
        });
        networks.collect()
    }

    /// Nobody may have more than half of all connections.
    fn client_limits(&mut self, typed: &file::Limits, max_connections: usize) -> clients::Limits {
        let most = (max_connections / 2).max(1);
        clients::Limits {
            connections: usize::try_from(typed.connections_per_client).unwrap_or(most).min(most),
            requests: self.rate("limits.requests_per_client", typed.requests_per_client),
            cold: self.rate("limits.cold_per_client", typed.cold_per_client),
            egress: self.size("limits.egress_per_client", &typed.egress_per_client),
        }
    }

    fn congestion_control(&mut self, typed: &str) -> Option<String> {
        // The kernel takes names of at most 15 characters; which it has, it says when it is asked.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if typed.len() > 15 || !typed.chars().all(plain) {
            self.problem("server.congestion_control", "not the name of an algorithm", "for example cubic, reno or bbr");
        }
        (!typed.is_empty()).then(|| typed.to_owned())
    }

    fn tls(&mut self, typed: &file::Tls) -> Option<Files> {
        let path = |typed: &str| (!typed.is_empty()).then(|| PathBuf::from(typed));
        let client_ca = path(&typed.client_ca);
        match (path(&typed.cert), path(&typed.key)) {
            (Some(cert), Some(key)) => return Some(Files { cert, key, client_ca, certificate_optional: false }),
            (Some(_), None) => self.problem("server.tls.cert", "a certificate without its key", "set key, too"),
            (None, Some(_)) => self.problem("server.tls.key", "a key without its certificate", "set cert, too"),
            (None, None) if client_ca.is_some() => {
                self.problem(
                    "server.tls.client_ca",
                    "clients can show a certificate only over TLS",
                    "set cert and key",
                );
            }
            (None, None) => {}
        }
        None
    }

    /// The file of a secret.
    fn secret(&mut self, path: &str, typed: &str) -> Option<PathBuf> {
        if typed.is_empty() {
            return None;
        }
        let file = typed.strip_prefix("file:").filter(|file| !file.is_empty());
        if file.is_none() {
            self.problem(path, "a secret stands in a file of its own", "write file: and the path of that file");
        }
        file.map(PathBuf::from)
    }

    fn admin_socket(&mut self, typed: &str, store: Option<&Store>, env: &Environment) -> Option<PathBuf> {
        // The kernel's bound, less the zero at the end.
        const LONGEST: usize = 107;
        let path = match typed {
            "off" => return None,
            "" => match env.runtime_folder() {
                Some(folder) => folder.join("registry-mirror.sock"),
                None => store?.path.join("admin.sock"),
            },
            path => PathBuf::from(path),
        };
        let fits = path.as_os_str().len() <= LONGEST;
        if !fits && !typed.is_empty() {
            let message = format!("{} is longer than the {LONGEST} bytes a socket may have", path.display());
            self.problem("server.admin_socket", message, "choose a shorter path, or \"off\"");
        }
        // One that nobody asked for is no reason not to start.
        fits.then_some(path)
    }

    fn store(&mut self, typed: &file::Store, env: &Environment, source: Option<&Path>) -> Option<Store> {
        let max_size = self.limit("store.max_size", &typed.max_size);
        let min_free = self.limit("store.min_free", &typed.min_free);
        let scrub_rate = self.size("store.scrub_rate", &typed.scrub_rate);
        if matches!(max_size, Some(Limit::Bytes(0) | Limit::Percent(0))) {
            self.problem("store.max_size", "a store needs room", "for example max_size = \"80%\" or \"500GB\"");
        }
        if min_free == Some(Limit::Percent(100)) {
            self.problem("store.min_free", "nothing is left for the store", "for example min_free = \"5%\"");
        }
        let path = match typed.path.as_str() {
            "" => env.folder_of_service().or_else(|| store_of_service(source)).or_else(|| env.folder_of_user()),
            path => Some(PathBuf::from(path)),
        };
        let Some(path) = path.and_then(|path| std::path::absolute(path).ok()) else {
            self.problem(
                "store.path",
                "no folder for the store: CACHE_DIRECTORY, XDG_CACHE_HOME and HOME are not set",
                "set path under [store], or give --store DIR",
            );
            return None;
        };
        let verify_on_read = typed.verify_on_read;
        Some(Store { path, max_size: max_size?, min_free: min_free?, scrub_rate, verify_on_read, bucket: None })
    }

    fn cache(&mut self, typed: &file::Cache) -> Cache {
        let modes = [Mode::Online, Mode::PreferCache, Mode::Offline].map(|mode| (mode.as_str(), mode));
        Cache {
            policy: Policy {
                mode: self.word("cache.mode", &typed.mode, &modes).unwrap_or_default(),
                tag_ttl: self.duration("cache.tag_ttl", &typed.tag_ttl),
                stale_if_error: self.duration("cache.stale_if_error", &typed.stale_if_error),
                patience: self.duration("cache.patience", &typed.patience),
            },
            complete_only: typed.complete_only,
            prefetch: self.size("cache.prefetch", &typed.prefetch),
            finish_unread: self.limit("cache.finish_unread", &typed.finish_unread).map(Into::into).unwrap_or_default(),
            negative_ttl: self.duration("cache.negative_ttl", &typed.negative_ttl),
            memory: self.size("cache.memory", &typed.memory),
        }
    }

    fn log(&mut self, typed: &file::Log) -> Log {
        let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        if let Err(reason) = crate::telemetry::check_level(&typed.level) {
            self.problem(
                "log.level",
                reason,
                "off, error, warn, info, debug, trace, or directives such as info,hyper=debug",
            );
        }
        let format = self.word("log.format", &typed.format, &formats).unwrap_or(LogFormat::Auto);
        Log { level: typed.level.clone(), format }
    }

    fn routes(&mut self, typed: &file::Routes, upstreams: &[Upstream]) -> Option<Routes> {
        Some(Routes { default: self.known_upstream("routes.default", &typed.default, upstreams)? })
    }

    /// The upstreams that listeners are for.
    fn listener_defaults(&mut self, typed: &[String], upstreams: &[Upstream]) -> Vec<Option<RegistryName>> {
        let mut defaults = Vec::new();
        for (n, entry) in typed.iter().enumerate() {
            let place = self.0.element("server.listen", n);
            defaults.push(split_listener(entry).1.and_then(|name| self.known_upstream(&place, name, upstreams)));
        }
        defaults
    }

    fn parallel(&mut self, path: &str, typed: u64) -> usize {
        let parallel = usize::try_from(typed).ok().filter(|parallel| (1..=4).contains(parallel));
        if parallel.is_none() {
            self.problem(path, "expected a number from 1 to 4", "1 unless each connection is slow");
        }
        parallel.unwrap_or(1)
    }
}

/// Whether the kernel gives only one of these to listen on.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same_port = one.port() != 0 && one.port() == other.port();
    same_port && one.is_ipv4() == other.is_ipv4() && (all || one.ip() == other.ip())
}

/// Address and upstream of an entry of `listen`.
fn split_listener(entry: &str) -> (&str, Option<&str>) {
    entry.split_once('=').map_or((entry, None), |(address, upstream)| (address.trim(), Some(upstream.trim())))
}
