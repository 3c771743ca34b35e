//! containerd: a `hosts.toml` for each registry, and in its own file the folder of these.
//!
//! The mirror stands first among the hosts; the registry itself stays the last resort. In which table the folder
//! is named depends on the version of the file. A file that names mirrors itself is refused: containerd does not
//! start with both.

use super::want::{Value, Want};
use super::{File, Kind, Refused, Settings, in_toml};
use crate::oci::RegistryName;

/// containerd's own file, below the root.
pub const CONFIG: &str = "etc/containerd/config.toml";
/// Where the hosts of registries are, unless the file says otherwise.
const HOSTS: &str = "/etc/containerd/certs.d";

pub(super) fn files(settings: &Settings, config: Option<&str>) -> Result<Vec<File>, Refused> {
    let folder = hosts_folder(config)?;
    let hosts = settings.registries.iter().map(|registry| hosts_file(folder.trim_start_matches('/'), registry));
    Ok([File::new(CONFIG, Kind::ContainerdConfig)].into_iter().chain(hosts).collect())
}

/// Where containerd with this configuration looks for the hosts of registries.
///
/// # Errors
/// [`Refused`] when it cannot be read.
pub fn hosts_folder(config: Option<&str>) -> Result<String, Refused> {
    let text = config.unwrap_or_default();
    let path = config_path(text)?;
    let named = in_toml::text_at(text, &path)?;
    let first = named.as_deref().and_then(|named| named.split(':').find(|folder| folder.starts_with('/')));
    Ok(first.unwrap_or(HOSTS).trim_end_matches('/').to_owned())
}

/// The file with the hosts of one registry.
pub(super) fn hosts_file(folder: &str, registry: &RegistryName) -> File {
    File::new(format!("{folder}/{registry}/hosts.toml"), Kind::HostsToml(registry.clone()))
}

pub(super) fn hosts_wants(settings: &Settings) -> Vec<Want> {
    let url = settings.mirror.to_string();
    let capabilities = Value::List(vec!["pull".to_owned(), "resolve".to_owned()]);
    vec![Want::value(["host", &url, "capabilities"], capabilities)]
}

pub(super) fn hosts(text: &str, settings: &Settings) -> Result<String, Refused> {
    let merged = in_toml::merged(text, &hosts_wants(settings))?;
    in_toml::first_of(&merged, "host", &settings.mirror.to_string())
}

/// The tables that lead to the settings of registries.
fn registry_tables(text: &str) -> Result<Vec<String>, Refused> {
    let tables: &[&str] = match in_toml::number_at(text, &["version".to_owned()])? {
        // A file that is not there is written for either: later versions read the older one.
        Some(2) => &["plugins", "io.containerd.grpc.v1.cri", "registry"],
        None if text.trim().is_empty() => &["plugins", "io.containerd.grpc.v1.cri", "registry"],
        None | Some(1) => &["plugins", "cri", "registry"],
        Some(3 | 4) => &["plugins", "io.containerd.cri.v1.images", "registry"],
        Some(other) => return Err(Refused::Conflict(format!("version = {other} is not known here"))),
    };
    Ok(tables.iter().map(|table| (*table).to_owned()).collect())
}

fn config_path(text: &str) -> Result<Vec<String>, Refused> {
    let mut path = registry_tables(text)?;
    path.push("config_path".to_owned());
    Ok(path)
}

/// What its own file has to say, which may be nothing.
pub(super) fn config_wants(text: &str) -> Result<Vec<Want>, Refused> {
    let path = config_path(text)?;
    if in_toml::text_at(text, &path)?.is_some_and(|named| !named.is_empty()) {
        return Ok(Vec::new());
    }
    Ok(vec![Want::Value(path, Value::Text(HOSTS.to_owned()))])
}

pub(super) fn config(text: &str) -> Result<String, Refused> {
    let wants = config_wants(text)?;
    let tables = registry_tables(text)?;
    for own in ["mirrors", "configs"] {
        let path: Vec<_> = tables.iter().cloned().chain([own.to_owned()]).collect();
        if !wants.is_empty() && in_toml::has_entries(text, &path)? {
            return Err(Refused::Conflict(format!(
                "{} is set, and containerd does not start with that and config_path together: move it to {HOSTS}",
                path.join(".")
            )));
        }
    }
    if !text.trim().is_empty() {
        return in_toml::merged(text, &wants);
    }
    in_toml::merged("version = 2\n", &wants)
}
