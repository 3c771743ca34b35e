//! containerd: a `hosts.toml` for each registry, and in its own file the folder of these.
//!
//! The mirror stands first among the hosts; the registry itself stays the last resort. In which table the folder
//! is named depends on the version of the file. A file that names mirrors itself is refused: containerd does not
//! start with both.

use super::leads::{Asked, Speaks};
use super::want::{Value, Want};
use super::{Beside, File, Kind, Machine, Refused, Settings, in_toml};
use crate::oci::RegistryName;

/// containerd's own file, below the root.
pub const CONFIG: &str = "etc/containerd/config.toml";
/// Where the hosts of registries are, unless the file says otherwise.
const HOSTS: &str = "/etc/containerd/certs.d";
/// The authority of the mirror's certificate, beside the hosts. Without such a file, what ends with .crt is read, too.
const AUTHORITY: &str = "registry-mirror-ca.pem";

pub(super) fn files(settings: &Settings, machine: &Machine<'_>) -> Result<Vec<File>, Refused> {
    let folder = hosts_folder(machine)?;
    let hosts = hosts_files(folder.trim_start_matches('/'), settings, machine)?;
    Ok([File::new(CONFIG, Kind::ContainerdConfig)].into_iter().chain(hosts).collect())
}

/// The files with the hosts of registries. Where there is none for one, nothing else may count that it would put an
/// end to: the hosts of all registries, and certificates, which are read only where there is no such file.
pub(super) fn hosts_files(folder: &str, settings: &Settings, machine: &Machine<'_>) -> Result<Vec<File>, Refused> {
    let mut files = Vec::new();
    for registry in &settings.registries {
        let file = File::new(format!("{folder}/{registry}/hosts.toml"), Kind::HostsToml(registry.clone()));
        if machine.text(&file.path)?.is_none() {
            let others = format!("{folder}/_default/hosts.toml");
            if machine.text(&others)?.is_some() {
                return Err(Refused::Conflict(format!(
                    "it would be read for {registry} in place of /{others}: copy that there first, if it is to count"
                ))
                .of(&file.path));
            }
            let is_read = |name: &String| [".crt", ".cert", ".key"].iter().any(|ending| name.ends_with(ending));
            if let Some(name) = (machine.names)(&format!("{folder}/{registry}"))?.into_iter().find(is_read) {
                return Err(Refused::Conflict(format!(
                    "{name} beside it would not be read any more: name it in this file first, below server = \
                     \"https://{registry}\" (ca, client)"
                ))
                .of(&file.path));
            }
        }
        // Before who names it.
        let authority = || File::new(format!("{folder}/{registry}/{AUTHORITY}"), Kind::Authority);
        let is_told = settings.authority.is_some() && settings.mirror_of(registry).is_encrypted();
        files.extend(is_told.then(authority));
        files.push(file);
    }
    Ok(files)
}

/// Where containerd with this configuration looks for the hosts of registries.
///
/// # Errors
/// [`Refused`] when it cannot be read.
pub fn hosts_folder(machine: &Machine<'_>) -> Result<String, Refused> {
    let (_, folders) = named(machine)?;
    Ok(folders.into_iter().next().unwrap_or_else(|| HOSTS.to_owned()))
}

/// The file that has the last word on where the hosts are, and what it says: nothing where none says anything.
fn named(machine: &Machine<'_>) -> Result<(String, Vec<String>), Refused> {
    let own = machine.text(CONFIG)?.unwrap_or_default();
    let own = Beside { path: CONFIG.to_owned(), text: own, is_later: false };
    let mut named = (CONFIG.to_owned(), Vec::new());
    for Beside { path, text, .. } in [own].into_iter().chain(imported(machine)?) {
        let folders = folders(&text).map_err(|refused| refused.of(&path))?;
        if !folders.is_empty() {
            named = (path, folders);
        }
    }
    Ok(named)
}

fn folders(text: &str) -> Result<Vec<String>, Refused> {
    let named = in_toml::text_at(text, &config_path(text)?)?.unwrap_or_default();
    let absolute = named.split(':').filter(|folder| folder.starts_with('/'));
    Ok(absolute.map(|folder| folder.trim_end_matches('/').to_owned()).collect())
}

/// The files that its own file imports, and those that these do, in the order in which they count: what a later one
/// says stands in the place of what an earlier one does.
pub(super) fn imported(machine: &Machine<'_>) -> Result<Vec<Beside>, Refused> {
    let mut paths = vec![CONFIG.to_owned()];
    let mut imported = Vec::new();
    let mut done = 0;
    while let Some(path) = paths.get(done).cloned() {
        done += 1;
        let Some(text) = machine.text(&path)? else { continue };
        let patterns = in_toml::texts_at(&text, &["imports".to_owned()]).map_err(|refused| refused.of(&path))?;
        for pattern in patterns.unwrap_or_default() {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let pattern = pattern.strip_prefix('/').map_or_else(|| format!("{folder}/{pattern}"), str::to_owned);
            let new: Vec<_> = matching(&pattern, machine)?.into_iter().filter(|new| !paths.contains(new)).collect();
            paths.extend(new);
        }
        if path != CONFIG {
            imported.push(Beside { path, text, is_later: true });
        }
    }
    Ok(imported)
}

/// The files that a pattern means, in which one `*` may stand in the last name.
fn matching(pattern: &str, machine: &Machine<'_>) -> Result<Vec<String>, Refused> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let fits = |name: &String| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end);
    Ok((machine.names)(folder)?.into_iter().filter(fits).map(|name| format!("{folder}/{name}")).collect())
}

/// Whom it asks for images of a registry. It says which one it means.
pub(super) fn asked(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let (file, folders) = named(machine)?;
    let mut asked = Vec::new();
    for folder in &folders {
        if let Some(hosts) = asked_of_hosts(folder.trim_start_matches('/'), registry, machine)? {
            asked = hosts;
            break;
        }
    }
    if folders.is_empty() {
        asked = asked_of_config(registry, machine)?;
    }
    if !folders.iter().any(|folder| folder == HOSTS) {
        let says = folders.first().map_or("names no folder of hosts".to_owned(), |folder| format!("names {folder}"));
        let usual = asked_of_hosts(HOSTS.trim_start_matches('/'), registry, machine).unwrap_or_default();
        asked.extend(usual.into_iter().flatten().map(|mut host| {
            host.hindrance = Some(format!("containerd does not look there: /{file} {says} (config_path)"));
            host
        }));
    }
    Ok(asked)
}

/// What its own file names, which it reads where that names no folder.
fn asked_of_config(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let text = machine.text(CONFIG)?.unwrap_or_default();
    for name in [registry.as_str(), "*"] {
        let mut path = registry_tables(&text).map_err(|refused| refused.of(CONFIG))?;
        path.extend(["mirrors", name, "endpoint"].map(str::to_owned));
        if let Some(endpoints) = in_toml::texts_at(&text, &path).map_err(|refused| refused.of(CONFIG))? {
            let asked = endpoints.iter().map(|endpoint| Asked::new(CONFIG, endpoint, Speaks::Tls).naming_registries());
            return Ok(asked.collect());
        }
    }
    Ok(Vec::new())
}

/// The hosts of a registry, in the order in which they are asked; `None` where a folder has none for it.
pub(super) fn asked_of_hosts(
    folder: &str,
    registry: &RegistryName,
    machine: &Machine<'_>,
) -> Result<Option<Vec<Asked>>, Refused> {
    for name in [registry.as_str(), "_default"] {
        let path = format!("{folder}/{name}/hosts.toml");
        if let Some(text) = machine.text(&path)? {
            return hosts_in(&path, &text).map(Some).map_err(|refused| refused.of(&path));
        }
    }
    Ok(None)
}

fn hosts_in(path: &str, text: &str) -> Result<Vec<Asked>, Refused> {
    let mut asked = Vec::new();
    for url in in_toml::names_at(text, &["host".to_owned()])? {
        let mut host = Asked::new(path, &url, Speaks::Tls).naming_registries();
        let capabilities = in_toml::texts_at(text, &["host", &url, "capabilities"].map(str::to_owned))?;
        let lacks = |able: &&str| capabilities.as_ref().is_some_and(|named| !named.iter().any(|named| named == able));
        host.hindrance = ["pull", "resolve"]
            .iter()
            .find(|able| lacks(able))
            .map(|able| format!("its capabilities there are without {able:?}"));
        asked.push(host);
    }
    let server = in_toml::text_at(text, &["server".to_owned()])?;
    asked.extend(server.map(|server| Asked::new(path, &server, Speaks::Tls).naming_registries()));
    Ok(asked)
}

fn hosts_wants(settings: &Settings, registry: &RegistryName) -> Vec<Want> {
    let mirror = settings.mirror_of(registry);
    let url = mirror.to_string();
    let capabilities = Value::List(vec!["pull".to_owned(), "resolve".to_owned()]);
    let authority = Value::Text(AUTHORITY.to_owned());
    let mut wants = vec![Want::value(["host", &url, "capabilities"], capabilities)];
    // A name without a folder is one beside this file.
    if settings.authority.is_some() && mirror.is_encrypted() {
        wants.push(Want::value(["host", &url, "ca"], authority));
    }
    wants
}

pub(super) fn hosts(text: &str, settings: &Settings, registry: &RegistryName) -> Result<String, Refused> {
    let merged = in_toml::merged(text, &hosts_wants(settings, registry))?;
    in_toml::first_of(&merged, "host", &settings.mirror_of(registry).to_string())
}

/// A host without our capabilities has all of them: what others wrote into our table cannot stay there alone.
pub(super) fn without_hosts(
    before: &str,
    now: &str,
    settings: &Settings,
    registry: &RegistryName,
) -> Result<String, Refused> {
    let text = in_toml::without(before, now, &hosts_wants(settings, registry))?;
    let url = settings.mirror_of(registry).to_string();
    let has = |text: &str| Ok(in_toml::names_at(text, &["host".to_owned()])?.contains(&url));
    if has(&text)? && !has(before)? {
        return Err(Refused::mixed(&["host".to_owned(), url]));
    }
    Ok(text)
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

pub(super) fn config(text: &str, imported: &[Beside]) -> Result<String, Refused> {
    for Beside { path, text: other, .. } in imported {
        // It has the last word.
        if !folders(other).map_err(|refused| refused.of(path))?.is_empty() {
            return Ok(text.to_owned());
        }
    }
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
