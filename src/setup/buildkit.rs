//! BuildKit: mirrors of a registry and how they are spoken to, in `buildkitd.toml`.

use super::want::{Value, Want};
use super::{File, Kind, Settings};

pub(super) fn file() -> File {
    File::new("etc/buildkit/buildkitd.toml", Kind::BuildkitdToml)
}

pub(super) fn wants(settings: &Settings) -> Vec<Want> {
    let mirror = settings.mirror.authority();
    let registries = settings.registries.iter();
    let mut wants: Vec<_> =
        registries.map(|registry| Want::element(["registry", registry.as_str(), "mirrors"], mirror)).collect();
    if !settings.mirror.is_encrypted() {
        wants.push(Want::value(["registry", mirror, "http"], Value::Bool(true)));
    }
    wants
}
