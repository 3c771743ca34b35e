//! How clients are told of the mirror: what their files have to say, and what they said before.
//!
//! Decisions only: contents of files go in and come out, nothing is read or written here. A client's settings are
//! wants, which a format (TOML, JSON, YAML) puts into a file that somebody else wrote, so that comments and what we
//! do not know stay as they are, and takes out of it again. Truth: what cannot be understood, or would not be
//! understood afterwards, is refused.

mod address;
mod buildkit;
mod cloud_foundry;
mod containerd;
mod docker;
mod in_json;
mod in_toml;
mod in_yaml;
mod k3s;
mod kaniko;
mod podman;
mod want;

use serde::{Deserialize, Serialize};

use crate::oci::RegistryName;

pub use address::{AddressError, MirrorAddress};
pub use containerd::{CONFIG as CONTAINERD_CONFIG, hosts_folder};
pub use docker::{DAEMON_JSON, Store, store_of};
pub use podman::beside;
pub use want::Refused;

/// What the files that are wholly ours begin with.
const HEADER: &str = "# Written by registry-mirror; `registry-mirror setup CLIENT --undo` takes it away.\n";
/// Docker Hub, the registry that clients mean where they name none.
pub const DOCKER_HUB: &str = "docker.io";
/// The mirror's own image, below each registry.
pub const CANARY: &str = "library/registry-mirror-canary:latest";

/// A program that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The Docker engine.
    Docker,
    /// containerd, by its hosts folder.
    Containerd,
    /// podman, buildah, skopeo.
    Podman,
    /// CRI-O, which reads the same files.
    CriO,
    /// BuildKit's daemon.
    Buildkit,
    /// k3s and RKE2.
    K3s,
    /// kaniko, which has flags only.
    Kaniko,
    /// Cloud Foundry, where the mirror stands in the image's name.
    CloudFoundry,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 8] = [
        Client::Docker,
        Client::Containerd,
        Client::Podman,
        Client::CriO,
        Client::Buildkit,
        Client::K3s,
        Client::Kaniko,
        Client::CloudFoundry,
    ];

    /// The name that is typed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Client::Docker => "docker",
            Client::Containerd => "containerd",
            Client::Podman => "podman",
            Client::CriO => "cri-o",
            Client::Buildkit => "buildkit",
            Client::K3s => "k3s",
            Client::Kaniko => "kaniko",
            Client::CloudFoundry => "cf",
        }
    }

    /// Whether it has files that can be written.
    pub const fn has_files(self) -> bool {
        !matches!(self, Client::Kaniko | Client::CloudFoundry)
    }
}

/// What a client is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where the mirror is.
    pub mirror: MirrorAddress,
    /// For which registries.
    pub registries: Vec<RegistryName>,
}

/// What is known of a machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Which store Docker keeps images in.
    pub docker_store: Store,
    /// What containerd's own file says, if there is one.
    pub containerd_config: Option<String>,
    /// Where a user's podman looks, below the root; `None` for the whole machine's.
    pub home: Option<String>,
}

/// A file of a client, by what stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Docker's own file.
    DaemonJson,
    /// What containerd's code reads for one registry.
    HostsToml(RegistryName),
    /// containerd's own file.
    ContainerdConfig,
    /// A file among those of podman.
    RegistriesConf,
    /// BuildKit's own file.
    BuildkitdToml,
    /// What k3s knows of registries.
    RegistriesYaml,
}

/// A file that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is, below the root, without a slash in front.
    pub path: String,
    /// What stands in it.
    pub kind: Kind,
}

impl File {
    fn new(path: impl Into<String>, kind: Kind) -> File {
        File { path: path.into(), kind }
    }
}

/// The files in which a client is told.
///
/// # Errors
/// [`Refused`] where it cannot be told, as things are.
pub fn files(client: Client, settings: &Settings, machine: &Machine) -> Result<Vec<File>, Refused> {
    match client {
        Client::Docker => docker::files(settings, machine.docker_store),
        Client::Containerd => containerd::files(settings, machine.containerd_config.as_deref()),
        Client::Podman | Client::CriO => Ok(vec![podman::file(client, machine.home.as_deref())]),
        Client::Buildkit => Ok(vec![buildkit::file()]),
        Client::K3s => Ok(vec![k3s::file()]),
        Client::Kaniko | Client::CloudFoundry => Ok(Vec::new()),
    }
}

/// What somebody has to do who sets up a client that has no files.
pub fn steps(client: Client, settings: &Settings) -> Vec<String> {
    match client {
        Client::Kaniko => kaniko::steps(settings),
        Client::CloudFoundry => cloud_foundry::steps(settings),
        _ => Vec::new(),
    }
}

impl Kind {
    /// Whether the client reads it only when it starts.
    pub const fn needs_restart(&self) -> bool {
        matches!(self, Kind::DaemonJson | Kind::ContainerdConfig | Kind::BuildkitdToml | Kind::RegistriesYaml)
    }

    /// The file with our settings in it. `beside` are the files that the client reads before it.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be understood, or says something that does not go with ours.
    pub fn merged(&self, settings: &Settings, before: Option<&str>, beside: &[String]) -> Result<String, Refused> {
        let text = before.unwrap_or_default();
        let merged = match self {
            Kind::DaemonJson => in_json::merged(text, &docker::wants(settings))?,
            Kind::HostsToml(_) => containerd::hosts(text, settings)?,
            Kind::ContainerdConfig => containerd::config(text)?,
            Kind::RegistriesConf => podman::merged(text, settings, beside)?,
            Kind::BuildkitdToml => in_toml::merged(text, &buildkit::wants(settings))?,
            Kind::RegistriesYaml => k3s::merged(text, settings)?,
        };
        let is_new = before.is_none() && !matches!(self, Kind::DaemonJson);
        Ok(if is_new { format!("{HEADER}{merged}") } else { merged })
    }

    /// The file `now`, which others changed since, without our settings: what it said `before` in their place.
    /// `None` where nothing is left of it.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be told what is ours.
    pub fn without(&self, settings: &Settings, before: Option<&str>, now: &str) -> Result<Option<String>, Refused> {
        let text = before.unwrap_or_default();
        let without = match self {
            Kind::DaemonJson => in_json::without(text, now, &docker::wants(settings))?,
            Kind::HostsToml(_) => in_toml::without(text, now, &containerd::hosts_wants(settings))?,
            Kind::ContainerdConfig => in_toml::without(text, now, &containerd::config_wants(text)?)?,
            Kind::RegistriesConf => podman::without(text, now, settings)?,
            Kind::BuildkitdToml => in_toml::without(text, now, &buildkit::wants(settings))?,
            Kind::RegistriesYaml => in_yaml::without(text, now, &k3s::wants(settings))?,
        };
        let without = if before.is_none() { without.replacen(HEADER, "", 1) } else { without };
        let is_empty = matches!(without.trim(), "" | "{}");
        Ok(Some(without).filter(|_| before.is_some() || !is_empty))
    }
}

#[cfg(test)]
mod tests;
