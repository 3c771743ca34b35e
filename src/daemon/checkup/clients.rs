//! The facts of clients on this machine: their programs and their files, which are only read.

use std::io;
use std::path::{Path, PathBuf};

use crate::access::Access;
use crate::config::{Config, Upstream};
use crate::doctor::clients::{CLIENTS, Client, Found};
use crate::documents::{Code, Error};
use crate::oci::RegistryName;
use crate::setup::{self, DAEMON_JSON, DOCKER_HUB, Leads, Listener, Login, Machine, Refused, Store};

/// A longer file is no configuration, in bytes.
const LONGEST: u64 = 1 << 20;

/// What is told of the mirror and the machine.
pub(super) struct Around<'a> {
    root: &'a Path,
    listeners: Vec<Listener>,
    /// The registries that the mirror serves, Docker Hub first, and where clients log in for them.
    registries: Vec<(RegistryName, Login)>,
    /// Finds out which store Docker has, from what its file says.
    docker_store: &'a dyn Fn(Option<&str>) -> Store,
}

impl<'a> Around<'a> {
    pub(super) fn of(config: &Config, docker_store: &'a dyn Fn(Option<&str>) -> Store) -> Around<'a> {
        let rules = config.rules();
        let known = config.upstreams.iter().map(|Upstream { host, access, .. }| {
            let login = match access {
                Access::PassThrough => Login::PassedThrough,
                _ if rules.asks_to_log_in(host) => Login::AtItsListener,
                _ => Login::Nowhere,
            };
            (host.clone(), login)
        });
        let mut registries: Vec<_> = known.collect();
        registries.sort_by_key(|(registry, _)| registry.as_str() != DOCKER_HUB);
        let listeners = config.server.listen.iter().enumerate().map(|(place, at)| Listener {
            at: *at,
            encrypted: config.server.tls.is_some(),
            upstream: config.default_at(*at, place).clone(),
        });
        Around { root: Path::new("/"), listeners: listeners.collect(), registries, docker_store }
    }
}

/// How the clients that are meant are set up.
pub(super) fn found(only: Option<&str>, around: &Around<'_>) -> Vec<Found> {
    let meant = CLIENTS.iter().filter(|client| only.is_none_or(|only| only == client.name));
    // Of clients that are not here nothing is said, unless somebody asks for them.
    let found = meant.map(|client| look(client, around));
    found.filter(|found| only.is_some() || found.there || !found.led.is_empty() || found.in_vain.is_some()).collect()
}

fn look(client: &Client, around: &Around<'_>) -> Found {
    let there = client.programs.iter().any(|program| is_installed(program));
    let mut found = Found { name: client.name, there, led: Vec::new(), in_vain: None };
    let Some(kind) = setup::Client::ALL.into_iter().find(|kind| kind.as_str() == client.name) else { return found };
    let text = |path: &str| text(&around.root.join(path));
    let names = |folder: &str| names(&around.root.join(folder));
    let home = std::env::var("HOME").ok().filter(|home| home.starts_with('/'));
    let docker_store = match kind {
        setup::Client::Docker => (around.docker_store)(text(DAEMON_JSON).ok().flatten().as_deref()),
        _ => Store::default(),
    };
    let home = home.map(|home| home.trim_matches('/').to_owned());
    let machine = Machine { text: &text, names: &names, docker_store, home };
    for (registry, login) in &around.registries {
        match setup::leads(kind, registry, &machine, &around.listeners, *login) {
            Leads::Here(file) => found.led.push((file, registry.to_string())),
            Leads::InVain(why) if found.in_vain.is_none() => found.in_vain = Some(why),
            Leads::InVain(_) | Leads::Elsewhere => {}
        }
    }
    found
}

fn unread(path: &Path, error: &io::Error) -> Refused {
    Refused::Failed(Error::new(Code::Read, format!("{} cannot be read: {error}", path.display())))
}

fn text(path: &Path) -> Result<Option<String>, Refused> {
    let read = || {
        let known = path.metadata()?;
        if !known.is_file() || known.len() > LONGEST {
            return Err(io::Error::other("it is no file of settings"));
        }
        std::fs::read_to_string(path)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(unread(path, &error)),
    }
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Result<Vec<String>, Refused> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unread(folder, &error)),
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_lead_here_are_found_for_the_registries_that_are_served() {
        let root = tempfile::tempdir().expect("a folder");
        let registry = |name: &str| name.parse::<RegistryName>().expect("a registry");
        let around = Around {
            root: root.path(),
            listeners: vec![Listener {
                at: "127.0.0.1:5000".parse().expect("an address"),
                encrypted: false,
                upstream: registry("docker.io"),
            }],
            registries: ["docker.io", "ghcr.io"].map(|name| (registry(name), Login::Nowhere)).into(),
            docker_store: &|text| setup::store_of(None, text),
        };
        let look = |name: &str| {
            let client = CLIENTS.iter().find(|client| client.name == name).expect("a client");
            look(client, &around)
        };
        for (name, file, text, registries) in [
            ("docker", DAEMON_JSON, r#"{"registry-mirrors": ["http://127.0.0.1:5000"]}"#, 1),
            ("k3s", "etc/rancher/k3s/registries.yaml", "mirrors: {\"*\": {endpoint: [\"http://127.0.0.1:5000\"]}}", 2),
        ] {
            assert_eq!((look(name).led, look(name).in_vain), (Vec::new(), None), "{name}");
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, text).expect("written");
            let found = look(name);
            assert_eq!(found.led.len(), registries, "{found:?}");
            assert_eq!(found.led[0], (format!("/{file}"), "docker.io".to_owned()));
            std::fs::write(&path, "{").expect("written");
            assert!(look(name).in_vain.is_some_and(|why| why.contains("cannot be read")), "{name}");
        }
    }
}
