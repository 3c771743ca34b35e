//! From what was typed to what it means.
//!
//! One function per kind of value. Each notes its problem and goes on with a stand-in, so that one
//! run finds everything; a [`Config`] comes out only when nothing was noted.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

use super::document::{Document, nearest};
use super::environment::Environment;
use super::{
    Auth, Cache, Config, ConfigError, Limit, Limits, Log, LogFormat, Mode, Routes, Server, Store, Timeouts, Tls,
    Upstream, file, well_known,
};
use crate::oci::RegistryName;
use crate::upstream::credentials::AuthError;

/// Validates the layers.
pub(super) fn config(
    mut document: Document,
    env: &Environment,
    source: Option<PathBuf>,
) -> Result<Config, ConfigError> {
    let file = document.file()?;
    let mut check = Check(document);
    let mut server = check.server(&file.server);
    let store = check.store(&file.store, env);
    let cache = check.cache(&file.cache);
    let limits = Limits {
        fills: check.count("limits.fills", file.limits.fills),
        fill_memory: check.size("limits.fill_memory", &file.limits.fill_memory),
    };
    let log = check.log(&file.log);
    let upstreams = check.upstreams(&file);
    let routes = check.routes(&file.routes, &upstreams);
    server.defaults = check.listener_defaults(&file.server.listen, &upstreams);
    let admin_socket = check.admin_socket(&file.server.admin_socket, store.as_ref(), env);
    let problems = check.0.into_problems();
    match (store, routes) {
        (Some(store), Some(routes)) if problems.is_empty() => {
            let server = Server { admin_socket, ..server };
            let warnings = warnings(&server, &upstreams);
            Ok(Config { source, server, store, cache, routes, upstreams, limits, log, warnings })
        }
        _ => Err(ConfigError { problems }),
    }
}

/// What is allowed and yet worth a second look.
fn warnings(server: &Server, upstreams: &[Upstream]) -> Vec<String> {
    let mut warnings = Vec::new();
    let open = |addresses: &[SocketAddr]| addresses.iter().find(|address| !address.ip().is_loopback()).copied();
    if let Some(address) = open(&server.listen) {
        let private = upstreams.iter().filter(|upstream| upstream.auth != Auth::Anonymous);
        warnings.extend(private.map(|upstream| {
            format!(
                "everyone who reaches {address} can pull what our credentials for {} can pull; \
                 listen on loopback, or use auth = \"anonymous\" there",
                upstream.host
            )
        }));
    }
    let unverified = upstreams
        .iter()
        .filter(|upstream| upstream.insecure && upstream.urls.iter().any(|url| url.scheme() == "https"));
    warnings.extend(unverified.map(|upstream| {
        format!(
            "certificates of {} are not verified: anybody on the way may read our credentials for it",
            upstream.host
        )
    }));
    warnings.extend(open(&server.admin).map(|address| {
        format!("health and metrics are open to everyone who reaches {address}; they are meant for loopback")
    }));
    warnings
}

struct Check(Document);

impl Check {
    fn problem(&mut self, path: &str, message: impl Into<String>, hint: &str) {
        self.0.report_value(path, message.into(), (!hint.is_empty()).then(|| hint.to_owned()));
    }

    fn server(&mut self, typed: &file::Server) -> Server {
        let addresses: Vec<String> = typed.listen.iter().map(|entry| split_listener(entry).0.to_owned()).collect();
        let listen = self.addresses("server.listen", &addresses);
        let admin = self.addresses("server.admin", &typed.admin);
        if typed.listen.is_empty() {
            self.problem("server.listen", "no address to listen on", "for example listen = [\"127.0.0.1:5000\"]");
        }
        if let Some(both) = admin.iter().find(|address| address.port() != 0 && listen.contains(address)) {
            let message = format!("{both} is also an address for clients");
            self.problem("server.admin", message, "health and metrics need an address of their own");
        }
        if !matches!(typed.unavailable_blob, 404 | 503) {
            self.problem(
                "server.unavailable_blob",
                "neither 503 nor 404",
                "503 is honest, 404 makes dockerd go on at once",
            );
        }
        Server {
            listen,
            defaults: Vec::new(),
            unavailable_blob: if typed.unavailable_blob == 404 { 404 } else { 503 },
            admin,
            // Where it is by default depends on the store, which is read after this.
            admin_socket: None,
            max_connections: self.count("server.max_connections", typed.max_connections),
            header_timeout: self.positive("server.header_timeout", &typed.header_timeout),
            send_timeout: self.positive("server.send_timeout", &typed.send_timeout),
            drain: self.duration("server.drain", &typed.drain),
            congestion_control: self.congestion_control(&typed.congestion_control),
            tls: self.tls(&typed.tls),
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

    fn tls(&mut self, typed: &file::Tls) -> Option<Tls> {
        let path = |typed: &str| (!typed.is_empty()).then(|| PathBuf::from(typed));
        let client_ca = path(&typed.client_ca);
        match (path(&typed.cert), path(&typed.key)) {
            (Some(cert), Some(key)) => return Some(Tls { cert, key, client_ca }),
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

    fn admin_socket(&mut self, typed: &str, store: Option<&Store>, env: &Environment) -> Option<PathBuf> {
        // The kernel's bound, less the zero at the end.
        const LONGEST: usize = 107;
        let path = match typed {
            "off" => return None,
            "" => match env.runtime_folder() {
                Some(folder) => folder.join("registry-mirror.sock"),
                None => store?.path.join("admin.sock"),
            },
            path => std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)),
        };
        let fits = path.as_os_str().len() <= LONGEST;
        if !fits && !typed.is_empty() {
            let message = format!("{} is longer than the {LONGEST} bytes a socket may have", path.display());
            self.problem("server.admin_socket", message, "choose a shorter path, or \"off\"");
        }
        // One that nobody asked for is no reason not to start.
        fits.then_some(path)
    }

    fn store(&mut self, typed: &file::Store, env: &Environment) -> Option<Store> {
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
            "" => env.cache_folder(),
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
        Some(Store { path, max_size: max_size?, min_free: min_free?, scrub_rate, verify_on_read: typed.verify_on_read })
    }

    fn cache(&mut self, typed: &file::Cache) -> Cache {
        let modes = [Mode::Online, Mode::PreferCache, Mode::Offline].map(|mode| (mode.as_str(), mode));
        Cache {
            mode: self.word("cache.mode", &typed.mode, &modes).unwrap_or(Mode::Online),
            tag_ttl: self.duration("cache.tag_ttl", &typed.tag_ttl),
            stale_if_error: self.duration("cache.stale_if_error", &typed.stale_if_error),
            negative_ttl: self.duration("cache.negative_ttl", &typed.negative_ttl),
            complete_only: typed.complete_only,
            prefetch: self.size("cache.prefetch", &typed.prefetch),
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

    fn known_upstream(&mut self, path: &str, typed: &str, upstreams: &[Upstream]) -> Option<RegistryName> {
        let known = upstreams.iter().find(|upstream| upstream.host.as_str() == typed);
        if known.is_none() {
            let message = format!("{typed:?} is not an upstream");
            let near = nearest(typed, upstreams.iter().map(|upstream| upstream.host.as_str()));
            let hint = near.map_or("add it under [[upstream]]".to_owned(), |near| format!("did you mean {near}?"));
            self.problem(path, message, &hint);
        }
        known.map(|upstream| upstream.host.clone())
    }

    fn upstreams(&mut self, file: &file::File) -> Vec<Upstream> {
        let mut upstreams: Vec<Upstream> = Vec::new();
        for (n, typed) in file.upstream.iter().enumerate() {
            let path = format!("upstream[{n}]");
            let Some(upstream) = self.upstream(&path, typed) else { continue };
            if upstreams.iter().any(|other| other.host == upstream.host) {
                let message = format!("{} is configured twice", upstream.host);
                self.problem(
                    &format!("{path}.host"),
                    message,
                    "several addresses of one registry go into one url list",
                );
            }
            upstreams.push(upstream);
        }
        if file.routes.well_known {
            for host in well_known::HOSTS {
                let typed = file::Upstream { host: host.to_owned(), ..file::Upstream::default() };
                if !upstreams.iter().any(|upstream| upstream.host.as_str() == host) {
                    upstreams.extend(self.upstream("routes.well_known", &typed));
                }
            }
        }
        upstreams
    }

    fn upstream(&mut self, path: &str, typed: &file::Upstream) -> Option<Upstream> {
        let at = |key: &str| format!("{path}.{key}");
        let urls = match typed.url.as_slice() {
            [] => vec![well_known::url(&typed.host)],
            urls => urls.to_vec(),
        };
        let host = self.host(path, &typed.host);
        // The address of an upstream without a url follows from its host, which has been found wanting.
        let urls = if host.is_none() && typed.url.is_empty() { Vec::new() } else { urls };
        let urls = urls.iter().enumerate().filter_map(|(n, url)| {
            let place = if typed.url.is_empty() { at("host") } else { self.0.element(&at("url"), n) };
            self.url(&place, url, typed.insecure)
        });
        let urls = urls.collect();
        let auth = self.auth(&at("auth"), &typed.auth);
        let mut auth_realms = Vec::new();
        for (n, realm) in typed.auth_realms.iter().enumerate() {
            match realm.parse() {
                Ok(realm) => auth_realms.push(realm),
                Err(_) => {
                    let place = self.0.element(&at("auth_realms"), n);
                    self.problem(
                        &place,
                        "not a host with an optional port",
                        "for example auth_realms = [\"auth.example.com\"]",
                    );
                }
            }
        }
        Some(Upstream {
            urls,
            auth,
            auth_realms,
            ca: (!typed.ca.is_empty()).then(|| PathBuf::from(&typed.ca)),
            client_cert: self.client_cert(path, typed),
            proxy: self.proxy(&at("proxy"), &typed.proxy),
            proxy_auth: self.proxy_auth(&at("proxy_auth"), typed),
            insecure: typed.insecure,
            allow_private: typed.allow_private,
            budget_floor: self.percent(&at("budget_floor"), &typed.budget_floor),
            parallel: self.parallel(&at("parallel"), typed.parallel),
            timeouts: Timeouts {
                connect: self.positive(&at("connect_timeout"), &typed.connect_timeout),
                first_byte: self.positive(&at("first_byte_timeout"), &typed.first_byte_timeout),
                idle: self.positive(&at("idle_timeout"), &typed.idle_timeout),
            },
            host: host?,
        })
    }

    fn parallel(&mut self, path: &str, typed: u64) -> usize {
        let parallel = usize::try_from(typed).ok().filter(|parallel| (1..=4).contains(parallel));
        if parallel.is_none() {
            self.problem(path, "expected a number from 1 to 4", "1 unless each connection is slow");
        }
        parallel.unwrap_or(1)
    }

    fn host(&mut self, path: &str, typed: &str) -> Option<RegistryName> {
        let hint = "the name images use, in lower case, such as docker.io or registry.example:5000";
        if typed.is_empty() {
            self.problem(path, "an upstream needs a host", hint);
            return None;
        }
        let host = typed.parse();
        if host.is_err() {
            self.problem(&format!("{path}.host"), "not a registry host", hint);
        }
        host.ok()
    }

    fn url(&mut self, path: &str, typed: &str, insecure: bool) -> Option<Url> {
        let Ok(url) = Url::parse(typed) else {
            self.problem(path, "not a URL", "for example url = \"https://registry.example\"");
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.problem(
                path,
                "credentials do not belong in a URL",
                "use auth = \"file:PATH\", \"docker-config\" or \"helper:NAME\"",
            );
        } else if url.query().is_some() || url.fragment().is_some() {
            self.problem(path, "a query or fragment has no meaning here", "give scheme, host and path only");
        } else if url.scheme() == "http" && !insecure && !is_this_machine(&url) {
            self.problem(
                path,
                "plain http to another machine",
                "use https://, or set insecure = true for this upstream",
            );
        } else if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            self.problem(path, "not an http or https URL", "for example url = \"https://registry.example\"");
        } else {
            return Some(url);
        }
        None
    }

    fn auth(&mut self, path: &str, typed: &str) -> Auth {
        let auth = typed.parse();
        match &auth {
            Ok(_) => {}
            // The value is not quoted: it may be a password that was put here by mistake.
            Err(AuthError::Unknown) => {
                self.problem(path, "not a way to log in", "one of anonymous, docker-config, helper:NAME, file:PATH");
            }
            Err(error) => self.problem(path, "not a way to log in", &error.to_string()),
        }
        auth.unwrap_or_default()
    }

    fn client_cert(&mut self, path: &str, typed: &file::Upstream) -> Option<(PathBuf, PathBuf)> {
        let (cert, key) = (&typed.client_cert, &typed.client_key);
        if cert.is_empty() != key.is_empty() {
            let (there, missing) =
                if key.is_empty() { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
            let message = format!("{there} without {missing}");
            self.problem(&format!("{path}.{there}"), message, "a certificate is of use only with its key");
            return None;
        }
        (!cert.is_empty()).then(|| (PathBuf::from(cert), PathBuf::from(key)))
    }

    fn proxy(&mut self, path: &str, typed: &str) -> Option<Url> {
        if typed.is_empty() {
            return None;
        }
        let hint = "for example proxy = \"http://proxy.example:3128\" or \"socks5://127.0.0.1:1080\"";
        let Ok(url) = Url::parse(typed) else {
            self.problem(path, "not a URL", hint);
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            let hint = "put user:password into a file, and set proxy_auth = \"file:PATH\"";
            self.problem(path, "credentials do not belong in a URL", hint);
        } else if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h")
            || url.host_str().is_none_or(str::is_empty)
        {
            self.problem(path, "not a proxy: its scheme is http, https, socks5 or socks5h", hint);
        } else {
            return Some(url);
        }
        None
    }

    fn proxy_auth(&mut self, path: &str, typed: &file::Upstream) -> Option<Auth> {
        let hint = "for example proxy_auth = \"file:proxy-password\", with user:password in the file";
        if typed.proxy_auth.is_empty() {
            return None;
        }
        if typed.proxy.is_empty() {
            self.problem(path, "a password without its proxy", "set proxy, too");
        }
        let auth = typed.proxy_auth.parse().ok().filter(|auth| matches!(auth, Auth::File(_)));
        if auth.is_none() {
            // Not quoted: it may be a password that was put here by mistake.
            self.problem(path, "not a file with a password", hint);
        }
        auth
    }

    fn percent(&mut self, path: &str, typed: &str) -> u8 {
        let percent = typed.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let percent = percent.filter(|percent| *percent <= 100);
        if percent.is_none() {
            self.problem(path, format!("{typed:?} is not a part"), "a part from 0% to 100%");
        }
        percent.unwrap_or_default()
    }

    fn addresses(&mut self, path: &str, typed: &[String]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (n, text) in typed.iter().enumerate() {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let place = self.0.element(path, n);
                    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(5000);
                    let hint = format!("127.0.0.1:{port} for this machine, [::]:{port} for all addresses");
                    self.problem(&place, format!("{text:?} is not an address and a port"), &hint);
                }
            }
        }
        addresses
    }

    fn word<T: Copy>(&mut self, path: &str, typed: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == typed);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let hint = match nearest(typed, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}? Known: {}", known.join(", ")),
                None => format!("one of {}", known.join(", ")),
            };
            self.problem(path, format!("{typed:?} means nothing here"), &hint);
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn count(&mut self, path: &str, typed: u64) -> usize {
        let count = usize::try_from(typed).ok().filter(|count| *count > 0 && u32::try_from(*count).is_ok());
        if count.is_none() {
            self.problem(path, "expected a number from 1 to 4294967295", "");
        }
        count.unwrap_or(1)
    }

    fn positive(&mut self, path: &str, typed: &str) -> Duration {
        let duration = self.read_duration(path, typed);
        if duration == Some(Duration::ZERO) {
            self.problem(path, "a time-out of zero lets nothing through", "");
        }
        duration.unwrap_or_default()
    }

    fn duration(&mut self, path: &str, typed: &str) -> Duration {
        self.read_duration(path, typed).unwrap_or_default()
    }

    /// At most a hundred years: sums with a time of day must not overflow.
    fn read_duration(&mut self, path: &str, typed: &str) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
        let duration = humantime::parse_duration(typed).ok().filter(|duration| *duration <= LONGEST);
        if duration.is_none() {
            self.problem(path, format!("{typed:?} is not a duration"), "a number and a unit: 500ms, 30s, 5m, 12h, 30d");
        }
        duration
    }

    fn limit(&mut self, path: &str, typed: &str) -> Option<Limit> {
        let limit = match typed.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().filter(|percent| *percent <= 100).map(Limit::Percent),
            None => read_size(typed).map(Limit::Bytes),
        };
        if limit.is_none() {
            let message = format!("{typed:?} is neither a size nor a part");
            self.problem(path, message, "a number and a unit, 500GB or 200GiB, or a part of the file system, 80%");
        }
        limit
    }

    fn size(&mut self, path: &str, typed: &str) -> u64 {
        let size = read_size(typed);
        if size.is_none() {
            self.problem(path, format!("{typed:?} is not a size"), "a number and a unit: 32MiB, 1GB");
        }
        size.unwrap_or_default()
    }
}

/// Address and upstream of an entry of `listen`.
fn split_listener(entry: &str) -> (&str, Option<&str>) {
    entry.split_once('=').map_or((entry, None), |(address, upstream)| (address.trim(), Some(upstream.trim())))
}

/// Bytes. A number needs its unit, zero apart: a bare `500` is more often meant as GB than as bytes.
fn read_size(typed: &str) -> Option<u64> {
    let typed = typed.trim();
    let has_unit = typed == "0" || typed.ends_with(|c: char| c.is_ascii_alphabetic());
    let size = typed.parse::<bytesize::ByteSize>().ok().filter(|_| has_unit)?;
    // More is a mistake, and the parser stops there instead of saying so.
    (size.as_u64() <= i64::MAX as u64).then(|| size.as_u64())
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}
