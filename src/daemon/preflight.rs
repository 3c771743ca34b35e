//! What a start would stumble over, found without one: no network is used and nothing is written.
//!
//! What `serve` refuses to start with is a problem. A warning is what it goes on without, and what depends on
//! who asks and when: a store that this user may not write, a port that somebody has just now.

mod store;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use self::store::{cannot_write, look_at_folder, look_at_room};
use super::process::{PACES, unusable_pace};
use super::{StartError, upstreams};
use crate::access::{Grant, Who};
use crate::audit;
use crate::blob_store::{format, lock};
use crate::carrier::Carrier;
use crate::config::{Config, Problem, Upstream, missing_helper};
use crate::mirror::Mode as Asking;
use crate::server::authenticate::Passwords;
use crate::server::tls::Tls;
use crate::tier::{Bucket, OpenError};
use crate::upstream::credentials::{Auth, CredentialError};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// `serve` would not start.
    pub problems: Vec<Problem>,
    /// It would start with less than is configured, or not for this user or not now. A sentence each.
    pub warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, place: &str, message: impl std::fmt::Display) {
        self.problems.push(Problem::at(place, message.to_string()));
    }

    fn warn(&mut self, message: String) {
        self.warnings.push(message);
    }
}

/// Looks at everything that a configuration names: files, programs, the store, sockets.
pub fn preflight(config: &Config) -> Findings {
    let mut found = settings(config);
    if let Some(bucket) = &config.store.bucket
        && let Err(error @ OpenError::NoCredentials) =
            Bucket::open(&bucket.tier, &Carrier::default(), |name| std::env::var(name).ok())
    {
        found.problems.push(Problem::at("", error.to_string()));
    }
    found.warnings.extend(credential_warnings(config));
    look_at_folder(&config.store, &mut found);
    look_at_room(&config.store, &mut found);
    for (address, error) in taken(config) {
        found.warn(match error {
            Errno::ADDRINUSE => format!(
                "another process listens on {address}; unless that is systemd or this mirror, serve cannot start"
            ),
            error => format!("serve could not listen on {address} now: {error}"),
        });
    }
    found
}

/// The same without what `doctor` looks at more closely: credentials, those for the bucket too, the disk, addresses.
pub(super) fn settings(config: &Config) -> Findings {
    let mut found = Findings { warnings: config.warnings().to_vec(), ..Findings::default() };
    if let Err(error) = config.admin_token() {
        found.problems.extend(error.problems);
    }
    match config.callers.htpasswd.as_deref().map(|path| (path, Passwords::read(path))) {
        Some((_, Err(error))) => found.problem("access.htpasswd", error),
        Some((path, Ok(passwords))) => {
            found.warnings.extend(without_password(&config.callers.grants, path, &passwords))
        }
        None => {}
    }
    if let Some(Err(error)) = config.server.tls.clone().map(Tls::open) {
        found.problem("server.tls", error);
    }
    if let Some(bucket) = &config.store.bucket {
        match Bucket::open(&bucket.tier, &Carrier::default(), |name| std::env::var(name).ok()) {
            Err(error) if !matches!(error, OpenError::NoCredentials) => {
                found.problems.push(Problem::at("", error.to_string()));
            }
            _ => {}
        }
        if let Err(error) = config.peers_secret() {
            found.problems.extend(error.problems);
        }
    }
    look_at_upstreams(config, &mut found);
    if let Err(refusal) = format::examine(&config.store.path) {
        let problem = Problem::at("store.path", refusal.to_string()).hint(Some(refusal.hint()));
        found.problems.push(problem);
    }
    if let Some(socket) = &config.server.admin_socket {
        look_at_socket(socket, &config.store.path, &mut found);
    }
    if let Some(audit::Place::File(path)) = &config.callers.audit {
        look_at_audit(path, &mut found);
    }
    look_at_pace(config, &mut found);
    found
}

/// What is said of users whom grants name and who are not in the file.
fn without_password(grants: &[Grant], path: &Path, passwords: &Passwords) -> Vec<String> {
    let path = path.display();
    if passwords.users().next().is_none() {
        return vec![format!("access.htpasswd: there is no user in {path}, so nobody has a password")];
    }
    let mut warnings = Vec::new();
    for Grant { name, who, .. } in grants {
        let is_there = |who: &&Who| passwords.users().any(|user| who.is_user(user));
        let lacking = who.iter().filter(|who| who.is_a_user() && !is_there(who));
        warnings.extend(lacking.map(|who| format!("grant {name}: \"{who}\" is for nobody: no such user is in {path}")));
    }
    warnings
}

fn look_at_upstreams(config: &Config, found: &mut Findings) {
    let missing = config.missing_files();
    let place = |upstream: &Upstream| format!("upstream {}", upstream.host);
    let has_files = |upstream: &&Upstream| {
        let settings = &upstream.settings;
        settings.ca.is_some() || settings.certificate.is_some() || settings.proxy.is_some()
    };
    let readable = |upstream: &&Upstream| missing.iter().all(|problem| problem.place != place(upstream));
    let unusable = config.upstreams.iter().filter(has_files).filter(readable).filter_map(|upstream| {
        let error: StartError = upstreams::check(upstream).err()?;
        // It begins with the upstream that it is about.
        Some(Problem::at("", error.to_string()))
    });
    let problems: Vec<_> = unusable.chain(missing.iter().cloned()).collect();
    if config.cache.policy.mode == Asking::Offline {
        // Nobody is asked, so nothing of it is read.
        found.warnings.extend(problems.iter().map(Problem::to_string));
    } else {
        found.problems.extend(problems);
    }
}

/// What is wrong with credentials: upstreams are asked without them, or not at all where they want some. A
/// sentence each. No helper is run.
pub fn credential_warnings(config: &Config) -> Vec<String> {
    let path = std::env::var_os("PATH");
    let missing = config.missing_credentials(path.as_deref());
    let place = |upstream: &Upstream| format!("upstream {}", upstream.host);
    let there = |upstream: &&Upstream| missing.iter().all(|problem| problem.place != place(upstream));
    let broken = config.upstreams.iter().filter(there).filter_map(|upstream| {
        let why = broken_credential(upstream, path.as_deref())?;
        Some(format!("{}: auth: {why}", place(upstream)))
    });
    missing.iter().map(Problem::to_string).chain(broken).collect()
}

/// Why nothing comes of the files in which credentials of an upstream are, if that is so.
fn broken_credential(upstream: &Upstream, path: Option<&OsStr>) -> Option<String> {
    match &upstream.settings.auth {
        Auth::DockerConfig | Auth::File(_) => {}
        Auth::Anonymous | Auth::Helper(_) => return None,
    }
    // With no folder to search, a helper that is named fails instead of being run.
    let variable = |name: &str| if name == "PATH" { Some("/nonexistent".into()) } else { std::env::var_os(name) };
    let source = upstream.settings.auth.source_in(variable);
    let (origin, repository) = (upstream.urls.first()?.authority().to_owned(), "library/any".parse().ok()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    match runtime.block_on(source.credential(&origin, &repository)).err()? {
        CredentialError::Helper { helper, .. } => missing_helper(&helper, path),
        error => Some(error.to_string()),
    }
}

/// The socket is no reason not to serve. The one in the store is as good as the store.
fn look_at_socket(socket: &Path, store: &Path, found: &mut Findings) {
    let cannot = |why: &dyn std::fmt::Display| {
        format!("server.admin_socket: {} cannot be made, and serve goes on without: {why}", socket.display())
    };
    if let Ok(there) = rustix::fs::lstat(socket) {
        if FileType::from_raw_mode(there.st_mode) != FileType::Socket {
            found.warn(cannot(&"there is something else"));
        }
    } else if let Some(folder) = socket.ancestors().skip(1).find(|path| path.exists())
        && !socket.starts_with(store)
    {
        match cannot_write(folder) {
            Some(_) if !folder.is_dir() => found.warn(cannot(&format!("{} is no folder", folder.display()))),
            Some(error) => found.warn(cannot(&format!("{}: {error}", folder.display()))),
            None => {}
        }
    }
}

/// Lines that cannot be written are lost, and pulls go on.
fn look_at_audit(path: &Path, found: &mut Findings) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let error = if path.exists() {
        rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).err().map(io::Error::from)
    } else {
        cannot_write(folder)
    };
    let error = if path.is_dir() { Some(io::Error::from(io::ErrorKind::IsADirectory)) } else { error };
    if let Some(error) = error {
        let what_to_do = if folder.is_dir() {
            "its file has to be one that the user of the daemon may write".to_owned()
        } else {
            format!("make its folder, install -d -o USER -m 0700 {}, with the user of the daemon", folder.display())
        };
        let path = path.display();
        found.warn(format!("access.audit: {path} cannot be written, and its lines are lost: {error}; {what_to_do}"));
    }
}

fn look_at_pace(config: &Config, found: &mut Findings) {
    let Some(algorithm) = &config.server.congestion_control else { return };
    let Ok(socket) = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None) else { return };
    match rustix::net::sockopt::set_tcp_congestion(&socket, algorithm) {
        Err(Errno::NOENT) => {
            let problem = Problem::at("", unusable_pace(algorithm, &Errno::NOENT.into()));
            found.problems.push(problem.hint(Some(PACES.to_owned())));
        }
        Err(error) => found.warn(format!("{}; {PACES}", unusable_pace(algorithm, &error.into()))),
        Ok(()) => {}
    }
}

/// The addresses that serve could not listen on, unless a daemon runs on this store, which has them.
pub(super) fn taken(config: &Config) -> Vec<(SocketAddr, Errno)> {
    if lock::is_held(&config.store.path) {
        return Vec::new();
    }
    let server = &config.server;
    let addresses = server.listen.iter().chain(&server.admin).filter(|address| address.port() != 0);
    addresses.filter_map(|address| Some((*address, try_bind(*address).err()?))).collect()
}

/// Binds an address and gives it up again; nobody can connect to it in between, and who wants it gets it.
fn try_bind(address: SocketAddr) -> rustix::io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)
}
