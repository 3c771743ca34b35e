//! The Docker engine: `daemon.json` with the classic store, which asks mirrors for Docker Hub's images only, or
//! the hosts folder with containerd's store (engine 28 and later).

use super::containerd::{asked_of_hosts, hosts_files};
use super::leads::{Asked, Speaks};
use super::want::{Want, is_same};
use super::{DOCKER_HUB, File, Kind, Machine, MirrorAddress, Refused, Settings, in_json};
use crate::oci::RegistryName;

/// Docker's own file, below the root.
pub const DAEMON_JSON: &str = "etc/docker/daemon.json";
/// Where its hosts folder is.
const HOSTS: &str = "etc/docker/certs.d";
/// The first engine that reads the hosts folder.
const READS_HOSTS: u32 = 28;

/// Which store an engine keeps images in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// Its own.
    #[default]
    Classic,
    /// containerd's, and the engine reads the hosts folder.
    Containerd,
}

/// Which store it is: what the engine says of itself (`docker info`, version and driver status), else its file.
pub fn store_of(engine: Option<(&str, &str)>, daemon_json: Option<&str>) -> Store {
    let is_containerds = match engine {
        Some((version, driver)) => {
            let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
            driver.contains("io.containerd.snapshotter") && major.is_some_and(|major| major >= READS_HOSTS)
        }
        None => daemon_json.is_some_and(|text| in_json::is_true(text, ["features", "containerd-snapshotter"])),
    };
    if is_containerds { Store::Containerd } else { Store::Classic }
}

pub(super) fn files(settings: &Settings, machine: &Machine<'_>) -> Result<Vec<File>, Refused> {
    if machine.docker_store == Store::Containerd {
        let files = hosts_files(HOSTS, settings, machine)?;
        spare_other_mirrors(&files, settings, machine)?;
        return Ok(files);
    }
    match settings.registries.iter().find(|registry| registry.as_str() != DOCKER_HUB) {
        Some(other) => {
            let named = settings.name_of(other).map(|name| format!("name them as {name}/NAME"));
            Err(Refused::Unable(format!(
                "docker with its classic store asks mirrors for Docker Hub's images only, not for those of {other}: {}",
                named.unwrap_or_else(|| settings.unnamed(other))
            )))
        }
        None => is_for_docker_hub(settings).map(|()| vec![File::new(DAEMON_JSON, Kind::DaemonJson)]),
    }
}

/// Hosts of Docker Hub stand in the place of the mirrors that the engine's own file names (moby's daemon/hosts.go):
/// where there are none yet, nobody is to lose another mirror by ours.
fn spare_other_mirrors(files: &[File], settings: &Settings, machine: &Machine<'_>) -> Result<(), Refused> {
    let is_of_hub = |file: &&File| matches!(&file.kind, Kind::HostsToml(registry) if registry.as_str() == DOCKER_HUB);
    let Some(file) = files.iter().find(is_of_hub) else { return Ok(()) };
    let named = if machine.text(&file.path)?.is_some() { Vec::new() } else { mirrors(machine)? };
    let ours = hub_mirror(settings).to_string();
    match named.iter().find(|other| !is_same(other, &ours)) {
        Some(other) => Err(Refused::Conflict(format!(
            "it would be read in place of registry-mirrors in /{DAEMON_JSON}, and {other} would not be asked any more: \
             name in this file first who is to count, below server = \"https://registry-1.docker.io\""
        ))
        .of(&file.path)),
        None => Ok(()),
    }
}

/// The mirrors that the engine's own file names.
fn mirrors(machine: &Machine<'_>) -> Result<Vec<String>, Refused> {
    let text = machine.text(DAEMON_JSON)?.unwrap_or_default();
    let text = if text.trim().is_empty() { "{}" } else { text.trim_start_matches('\u{feff}') };
    in_json::texts(text, "registry-mirrors").map_err(|refused| refused.of(DAEMON_JSON))
}

/// The engine names no registry when it asks: what it gets are images of the listener's own upstream.
fn is_for_docker_hub(settings: &Settings) -> Result<(), Refused> {
    // One that is named for it is for it.
    let is_usual = hub_mirror(settings) == &settings.mirror;
    match settings.default.as_ref().filter(|default| is_usual && default.as_str() != DOCKER_HUB) {
        Some(default) => Err(Refused::Unable(format!(
            "docker with its classic store does not say that it means Docker Hub, and would get images of {default} \
             from {}: name a listener that is for docker.io with --mirror, such as listen = [\"ADDRESS=docker.io\"]",
            settings.mirror
        ))),
        None => Ok(()),
    }
}

/// Whom it asks for images of a registry. With its own store it asks for Docker Hub's only, and does not say so.
pub(super) fn asked(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let mirrors = mirrors(machine)?;
    let mut hosts = asked_of_hosts(HOSTS, registry, machine)?.unwrap_or_default();
    let is_classic = machine.docker_store == Store::Classic;
    if !is_classic && !hosts.is_empty() {
        return Ok(hosts);
    }
    let mirrors = mirrors.iter().filter(|_| registry.as_str() == DOCKER_HUB);
    let mut asked: Vec<_> = mirrors.map(|mirror| Asked::new(DAEMON_JSON, mirror, Speaks::Tls)).collect();
    asked.iter_mut().for_each(|asked| asked.names_registry = !is_classic);
    hosts.iter_mut().for_each(|host| {
        host.hindrance = Some("docker reads that with containerd's store only".to_owned());
    });
    Ok(asked.into_iter().chain(hosts).collect())
}

/// Where it asks for Docker Hub's images.
pub(super) fn hub_mirror(settings: &Settings) -> &MirrorAddress {
    let hub = settings.registries.iter().find(|registry| registry.as_str() == DOCKER_HUB);
    hub.map_or(&settings.mirror, |hub| settings.mirror_of(hub))
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let mirror = hub_mirror(settings);
    let mut wants = vec![Want::element(["registry-mirrors"], &mirror.to_string())];
    // The engine speaks plain HTTP to loopback as it is.
    if !mirror.is_encrypted() && !mirror.is_loopback() {
        wants.push(Want::element(["insecure-registries"], mirror.authority()));
    }
    wants
}
