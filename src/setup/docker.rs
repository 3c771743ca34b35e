//! The Docker engine: `daemon.json` with the classic store, which asks mirrors for Docker Hub's images only, or
//! the hosts folder with containerd's store (engine 28 and later).

use super::containerd::hosts_file;
use super::want::Want;
use super::{DOCKER_HUB, File, Kind, Refused, Settings, in_json};

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

pub(super) fn files(settings: &Settings, store: Store) -> Result<Vec<File>, Refused> {
    if store == Store::Containerd {
        return Ok(settings.registries.iter().map(|registry| hosts_file(HOSTS, registry)).collect());
    }
    match settings.registries.iter().find(|registry| registry.as_str() != DOCKER_HUB) {
        Some(other) => Err(Refused::Unable(format!(
            "docker with its classic store asks mirrors for Docker Hub's images only, not for those of {other}: name \
             them as {}/{other}/NAME",
            settings.mirror.authority()
        ))),
        None => Ok(vec![File::new(DAEMON_JSON, Kind::DaemonJson)]),
    }
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let mirror = &settings.mirror;
    let mut wants = vec![Want::element(["registry-mirrors"], &mirror.to_string())];
    // The engine speaks plain HTTP to loopback as it is.
    if !mirror.is_encrypted() && !mirror.is_loopback() {
        wants.push(Want::element(["insecure-registries"], mirror.authority()));
    }
    wants
}
