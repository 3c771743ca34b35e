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
mod crane;
mod docker;
mod in_json;
mod in_toml;
mod in_yaml;
mod k3s;
mod kaniko;
mod leads;
mod podman;
mod settings;
mod want;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::oci::RegistryName;

pub use address::{AddressError, MirrorAddress, SOME_HOST};
pub use containerd::{CONFIG as CONTAINERD_CONFIG, hosts_folder};
pub use docker::{DAEMON_JSON, Store, store_of};
use leads::Asked;
pub use leads::{Leads, Listener, Login};
pub use podman::Apart;
pub use settings::{Own, Settings};
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
    /// podman, buildah, skopeo, which read the same files.
    Podman,
    /// CRI-O, which reads the same files.
    CriO,
    /// BuildKit's daemon.
    Buildkit,
    /// k3s.
    K3s,
    /// RKE2, which reads the same from a folder of its own.
    Rke2,
    /// kaniko, which has flags only.
    Kaniko,
    /// Cloud Foundry, where the mirror stands in the image's name.
    CloudFoundry,
    /// crane, oras and regctl, where it does so, too.
    Crane,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 10] = [
        Client::Docker,
        Client::Containerd,
        Client::Podman,
        Client::CriO,
        Client::Buildkit,
        Client::K3s,
        Client::Rke2,
        Client::Kaniko,
        Client::CloudFoundry,
        Client::Crane,
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
            Client::Rke2 => "rke2",
            Client::Kaniko => "kaniko",
            Client::CloudFoundry => "cf",
            Client::Crane => "crane",
        }
    }

    /// The other programs that are told like this one, by their names.
    pub const fn others(self) -> &'static [&'static str] {
        match self {
            Client::Podman => &["skopeo", "buildah"],
            Client::Crane => &["oras", "regctl"],
            _ => &[],
        }
    }

    /// Whether it names images by the mirror, and logs in there as at a registry: once for an address, where that asks
    /// for it in its greeting.
    pub const fn logs_in_at_an_address(self) -> bool {
        let by_name = matches!(self, Client::Kaniko | Client::CloudFoundry | Client::Crane);
        by_name || matches!(self, Client::Docker | Client::Podman | Client::CriO)
    }

    /// Whether it has one login for an address, whichever registry it asks for there.
    pub const fn has_one_login_for_an_address(self) -> bool {
        self.logs_in_at_an_address() || matches!(self, Client::Buildkit)
    }

    /// Whether an address of IPv6 can stand where it is told of the mirror. In names of images only the programs that
    /// are built on Go's own parser of addresses take one, and no table of an older TOML has such a name: what cannot
    /// be read there ends all pulls, or the mirror is passed by.
    pub fn reads_ip6(self, docker_store: Store) -> bool {
        match self {
            Client::Docker => docker_store == Store::Classic,
            Client::Kaniko | Client::Crane => true,
            _ => false,
        }
    }

    /// Whether it has files that can be written.
    pub const fn has_files(self) -> bool {
        !matches!(self, Client::Kaniko | Client::CloudFoundry | Client::Crane)
    }
}

/// A machine: its files, by paths below the root without a slash in front, and what is known of it.
pub struct Machine<'a> {
    /// What a file says; `None` where there is none.
    pub text: &'a dyn Fn(&str) -> Result<Option<String>, Refused>,
    /// The names in a folder, in order; none where there is none.
    pub names: &'a dyn Fn(&str) -> Result<Vec<String>, Refused>,
    /// Which store Docker keeps images in.
    pub docker_store: Store,
    /// Where a user's podman looks; `None` for the whole machine's.
    pub home: Option<String>,
}

impl Default for Machine<'_> {
    /// A machine without files.
    fn default() -> Self {
        Machine { text: &|_| Ok(None), names: &|_| Ok(Vec::new()), docker_store: Store::default(), home: None }
    }
}

impl Machine<'_> {
    /// What a file says; `None` where there is none.
    fn text(&self, path: &str) -> Result<Option<String>, Refused> {
        (self.text)(path)
    }
}

impl fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { docker_store, home, .. } = self;
        write!(f, "Machine({docker_store:?}, {home:?})")
    }
}

/// A file that a client reads beside ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Where it is, below the root.
    pub path: String,
    /// What it says.
    pub text: String,
    /// Whether what it says stands in the place of what ours does.
    pub is_later: bool,
}

/// The files that a client reads beside those that are written.
///
/// # Errors
/// [`Refused`] where it cannot be told.
pub fn beside(client: Client, machine: &Machine<'_>) -> Result<Vec<Beside>, Refused> {
    match client {
        Client::Podman | Client::CriO => podman::beside(client, machine),
        Client::Containerd => containerd::imported(machine),
        _ => Ok(Vec::new()),
    }
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
    /// What k3s and RKE2 know of registries.
    RegistriesYaml,
    /// The authority of the mirror's certificate, beside the hosts.
    Authority,
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
pub fn files(client: Client, settings: &Settings, machine: &Machine<'_>) -> Result<Vec<File>, Refused> {
    let reads_hosts =
        client == Client::Containerd || client == Client::Docker && machine.docker_store == Store::Containerd;
    if settings.authority.is_some() && !reads_hosts {
        return Err(Refused::Unable(format!(
            "{} is told of no authority here, only what reads hosts.toml is: containerd, and docker with containerd's store; \
             have it trust the mirror's certificate another way",
            client.as_str()
        )));
    }
    if let Some(unread) = settings.mirrors().into_iter().find(|mirror| mirror.is_ip6())
        && !client.reads_ip6(machine.docker_store)
    {
        return Err(Refused::Unable(format!(
            "{} does not read an address of IPv6, or not in all its versions, and would not be led to {unread}: name it by \
             a name that leads there, such as --mirror {}, or have the mirror listen on 127.0.0.1, too",
            client.as_str(),
            unread.by_name()
        )));
    }
    match client {
        Client::Docker => docker::files(settings, machine),
        Client::Containerd => containerd::files(settings, machine),
        Client::Podman | Client::CriO => podman::files(client, settings, machine),
        Client::Buildkit => Ok(vec![buildkit::file()]),
        Client::K3s | Client::Rke2 => Ok(vec![k3s::file(client)]),
        Client::Kaniko | Client::CloudFoundry | Client::Crane => Ok(Vec::new()),
    }
}

/// What its files say of a client that had none before.
///
/// # Errors
/// [`Refused`] where it cannot be told that.
pub fn written(client: Client, settings: &Settings) -> Result<Vec<(File, String)>, Refused> {
    let files = files(client, settings, &Machine::default())?.into_iter();
    files.map(|file| file.kind.merged(settings, Some(""), &[]).map(|text| (file, text))).collect()
}

/// Whom a client asks for the images of a registry: its files are read as it reads them.
fn asked(client: Client, registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let asked = match client {
        Client::Docker => docker::asked(registry, machine),
        Client::Containerd => containerd::asked(registry, machine),
        Client::Podman | Client::CriO => podman::asked(registry, machine),
        Client::Buildkit => buildkit::asked(registry, machine),
        Client::K3s | Client::Rke2 => k3s::asked(client, registry, machine),
        Client::Kaniko | Client::CloudFoundry | Client::Crane => Ok(Vec::new()),
    };
    let mut asked = asked?;
    for unread in asked.iter_mut().filter(|asked| asked.hindrance.is_none() && is_not_understood(asked)) {
        let why = "an address of IPv6 is not understood there, or not in all versions: name the mirror by a name";
        unread.hindrance = Some(why.to_owned());
    }
    Ok(asked)
}

/// Whether it is an address of IPv6 in a file in which that is not understood, by all versions or by some.
fn is_not_understood(asked: &Asked) -> bool {
    asked.is_ip6() && ![DAEMON_JSON, CONTAINERD_CONFIG].contains(&asked.file.as_str())
}

/// What stands in a client's files for a registry and is no address to it, each in a sentence.
///
/// # Errors
/// [`Refused`] where it cannot be told.
pub fn not_understood(client: Client, registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<String>, Refused> {
    let unread = asked(client, registry, machine)?.into_iter().filter(is_not_understood);
    Ok(unread.map(|asked| asked.in_vain(asked.hindrance.as_deref().unwrap_or_default())).collect())
}

/// Whether a client asks this mirror for the images of a registry: its files are read as it reads them.
pub fn leads(
    client: Client,
    registry: &RegistryName,
    machine: &Machine<'_>,
    mirror: &[Listener],
    login: Login,
) -> Leads {
    let asked = asked(client, registry, machine);
    let login = if client.logs_in_at_an_address() { login } else { Login::Nowhere };
    leads::judged(asked, registry, mirror, login)
}

/// The images of which podman's files say something of their own, whatever they say of the registry, where that leads
/// past the mirror. No other client knows such entries.
///
/// # Errors
/// [`Refused`] where it cannot be told.
pub fn apart(settings: &Settings, machine: &Machine<'_>) -> Result<Vec<Apart>, Refused> {
    podman::led_elsewhere(settings, machine)
}

/// What somebody has to do who sets up a client that has no files.
pub fn steps(client: Client, settings: &Settings) -> Vec<String> {
    match client {
        Client::Kaniko => kaniko::steps(settings),
        Client::CloudFoundry => cloud_foundry::steps(settings),
        Client::Crane => crane::steps(settings),
        _ => Vec::new(),
    }
}

impl Kind {
    /// Whether the client reads it only when it starts.
    pub const fn needs_restart(&self) -> bool {
        matches!(self, Kind::DaemonJson | Kind::ContainerdConfig | Kind::BuildkitdToml | Kind::RegistriesYaml)
    }

    /// The file with our settings in it. `beside` are the files that the client reads beside it.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be understood, or says something that does not go with ours.
    pub fn merged(&self, settings: &Settings, before: Option<&str>, beside: &[Beside]) -> Result<String, Refused> {
        let (manner, text) = Manner::of(before.unwrap_or_default());
        let text = text.as_ref();
        let merged = match self {
            Kind::DaemonJson => in_json::merged(text, &docker::wants(settings))?,
            Kind::HostsToml(registry) => containerd::hosts(text, settings, registry)?,
            Kind::ContainerdConfig => containerd::config(text, beside)?,
            Kind::RegistriesConf => podman::merged(text, settings, beside)?,
            Kind::BuildkitdToml => in_toml::merged(text, &buildkit::wants(settings))?,
            Kind::RegistriesYaml => k3s::merged(text, settings)?,
            Kind::Authority => return Ok(settings.authority.clone().unwrap_or_default()),
        };
        let is_new = before.is_none() && !matches!(self, Kind::DaemonJson);
        Ok(if is_new { format!("{HEADER}{merged}") } else { manner.put_on(merged) })
    }

    /// The file `now`, which others changed since, without our settings: what it said `before` in their place.
    /// `None` where nothing is left of it.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be told what is ours.
    pub fn without(&self, settings: &Settings, before: Option<&str>, now: &str) -> Result<Option<String>, Refused> {
        let (_, text) = Manner::of(before.unwrap_or_default());
        let (manner, now) = Manner::of(now);
        let (text, now) = (text.as_ref(), now.as_ref());
        let without = match self {
            Kind::DaemonJson => in_json::without(text, now, &docker::wants(settings))?,
            Kind::HostsToml(registry) => containerd::without_hosts(text, now, settings, registry)?,
            Kind::ContainerdConfig => in_toml::without(text, now, &containerd::config_wants(text)?)?,
            Kind::RegistriesConf => podman::without(text, now, settings)?,
            Kind::BuildkitdToml => in_toml::without(text, now, &buildkit::wants(settings))?,
            Kind::RegistriesYaml => in_yaml::without(text, now, &k3s::wants(settings))?,
            Kind::Authority => return Err(Refused::Mixed("the certificate".to_owned())),
        };
        let without = if before.is_none() { without.replacen(HEADER, "", 1) } else { without };
        let is_empty = matches!(without.trim(), "" | "{}");
        Ok(Some(manner.put_on(without)).filter(|_| before.is_some() || !is_empty))
    }
}

/// How a text is written, whatever it says: with a mark in front, its lines ended as Windows does it.
#[derive(Clone, Copy)]
struct Manner {
    has_mark: bool,
    has_returns: bool,
}

impl Manner {
    /// The manner of a text, and the text without it.
    fn of(text: &str) -> (Manner, Cow<'_, str>) {
        let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (returns, ends) = (bare.matches("\r\n").count(), bare.matches('\n').count());
        let manner = Manner { has_mark: bare.len() < text.len(), has_returns: returns > 0 && returns == ends };
        (manner, if manner.has_returns { bare.replace("\r\n", "\n").into() } else { bare.into() })
    }

    fn put_on(self, text: String) -> String {
        let text = if self.has_returns { text.replace('\n', "\r\n") } else { text };
        if self.has_mark { format!("\u{feff}{text}") } else { text }
    }
}

#[cfg(test)]
mod tests;
