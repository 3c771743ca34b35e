//! kaniko, which has flags and no file: the mirror stands in its arguments.

use super::{DOCKER_HUB, Settings};

pub(super) fn steps(settings: &Settings) -> Vec<String> {
    let mirror = settings.mirror.authority();
    let mut steps: Vec<_> = settings
        .registries
        .iter()
        .map(|registry| match registry.as_str() {
            // Its own name for Docker Hub.
            DOCKER_HUB => format!("--registry-map=index.docker.io={mirror}/{DOCKER_HUB}"),
            other => format!("--registry-map={other}={mirror}/{other}"),
        })
        .collect();
    if !settings.mirror.is_encrypted() {
        steps.push(format!("--insecure-registry={mirror}"));
    }
    steps
}
