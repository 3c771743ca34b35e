//! k3s and RKE2: endpoints of a registry in `registries.yaml`, of which they make containerd's hosts.

use super::want::Want;
use super::{File, Kind, Refused, Settings, in_yaml};

pub(super) fn file() -> File {
    File::new("etc/rancher/k3s/registries.yaml", Kind::RegistriesYaml)
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let mirror = settings.mirror.to_string();
    let registries = settings.registries.iter();
    registries.map(|registry| Want::element(["mirrors", registry.as_str(), "endpoint"], &mirror)).collect()
}

pub(super) fn merged(text: &str, settings: &Settings) -> Result<String, Refused> {
    for registry in &settings.registries {
        if in_yaml::is_there(text, ["mirrors", registry.as_str(), "rewrite"])? {
            return Err(Refused::Conflict(format!(
                "mirrors.{registry}.rewrite is set, and would change the names that this mirror is asked for"
            )));
        }
    }
    in_yaml::merged(text, &wants(settings))
}
