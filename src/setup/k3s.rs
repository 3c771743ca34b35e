//! k3s and RKE2: endpoints of a registry in `registries.yaml`, of which they make containerd's hosts.

use super::leads::{Asked, Speaks};
use super::want::{Want, is_same};
use super::{Client, File, Kind, Machine, Refused, Settings, in_yaml};
use crate::oci::RegistryName;

/// Where the client looks, below the root.
const fn registries(client: Client) -> &'static str {
    match client {
        Client::Rke2 => "etc/rancher/rke2/registries.yaml",
        _ => "etc/rancher/k3s/registries.yaml",
    }
}

pub(super) fn file(client: Client) -> File {
    File::new(registries(client), Kind::RegistriesYaml)
}

/// Whom it asks for images of a registry: what stands there for it, else for all. It says which one it means.
pub(super) fn asked(client: Client, registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let path = registries(client);
    let Some(text) = machine.text(path)? else { return Ok(Vec::new()) };
    asked_by(path, &text, registry).map_err(|refused| refused.of(path))
}

fn asked_by(path: &str, text: &str, registry: &RegistryName) -> Result<Vec<Asked>, Refused> {
    for name in [registry.as_str(), "*"] {
        if !in_yaml::is_there(text, ["mirrors", name])? {
            continue;
        }
        let endpoints = in_yaml::texts_at(text, ["mirrors", name, "endpoint"])?.unwrap_or_default();
        let rewritten = in_yaml::is_there(text, ["mirrors", name, "rewrite"])?;
        let asked = |endpoint: &String| {
            let mut asked = Asked::new(path, endpoint, Speaks::Tls).naming_registries();
            asked.hindrance =
                rewritten.then(|| format!("mirrors.{name}.rewrite changes the names that it is asked for"));
            asked
        };
        return Ok(endpoints.iter().map(asked).collect());
    }
    Ok(Vec::new())
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let wants = settings.registries.iter().map(|registry| {
        Want::element(["mirrors", registry.as_str(), "endpoint"], &settings.mirror_of(registry).to_string())
    });
    wants.collect()
}

pub(super) fn merged(text: &str, settings: &Settings) -> Result<String, Refused> {
    for registry in &settings.registries {
        if in_yaml::is_there(text, ["mirrors", registry.as_str(), "rewrite"])? {
            return Err(Refused::Conflict(format!(
                "mirrors.{registry}.rewrite is set, and would change the names that this mirror is asked for"
            )));
        }
        let others = in_yaml::texts_at(text, ["mirrors", "*", "endpoint"])?.unwrap_or_default();
        let has_own = in_yaml::is_there(text, ["mirrors", registry.as_str()])?;
        if !has_own && others.iter().any(|other| !is_same(other, &settings.mirror_of(registry).to_string())) {
            return Err(Refused::Conflict(format!(
                "the endpoints of mirrors.\"*\" would not be asked for {registry} any more: name those that are to \
                 count in mirrors.{registry} first"
            )));
        }
    }
    in_yaml::merged(text, &wants(settings))
}
