//! BuildKit: mirrors of a registry and how they are spoken to, in `buildkitd.toml`.

use super::leads::{Asked, Speaks};
use super::want::{Refused, Value, Want};
use super::{File, Kind, Machine, Settings, in_toml};
use crate::oci::RegistryName;

const CONFIG: &str = "etc/buildkit/buildkitd.toml";

pub(super) fn file() -> File {
    File::new(CONFIG, Kind::BuildkitdToml)
}

/// Whom it asks for images of a registry. It says which one it means.
pub(super) fn asked(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let Some(text) = machine.text(CONFIG)? else { return Ok(Vec::new()) };
    let at = |host: &str, key: &str| ["registry", host, key].map(str::to_owned);
    let mirrors = in_toml::texts_at(&text, &at(registry.as_str(), "mirrors"))
        .map_err(|refused| refused.of(CONFIG))?
        .unwrap_or_default();
    let asked = mirrors.into_iter().map(|mirror| {
        let mut asked = Asked::new(CONFIG, &mirror, Speaks::Tls).naming_registries();
        let host = mirror.split('/').next().unwrap_or_default();
        // It takes this machine for plain, unless it is told.
        if in_toml::truth_at(&text, &at(host, "http"))?.unwrap_or_else(|| asked.is_loopback()) {
            asked.speaks = Speaks::Plain;
        }
        Ok(asked)
    });
    asked.collect::<Result<_, Refused>>().map_err(|refused| refused.of(CONFIG))
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let mirrors = settings.registries.iter().map(|registry| {
        Want::element(["registry", registry.as_str(), "mirrors"], settings.mirror_of(registry).authority())
    });
    let plain = settings.plain().into_iter();
    mirrors.chain(plain.map(|mirror| Want::value(["registry", mirror, "http"], Value::Bool(true)))).collect()
}
