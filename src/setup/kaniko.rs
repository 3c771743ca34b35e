//! kaniko, which has flags and no file: the mirror stands in its arguments.

use super::{DOCKER_HUB, Settings};

pub(super) fn steps(settings: &Settings) -> Vec<String> {
    let mut steps: Vec<_> = settings
        .registries
        .iter()
        .map(|registry| match (registry.as_str(), settings.name_of(registry)) {
            // Its own name for Docker Hub.
            (DOCKER_HUB, Some(name)) => format!("--registry-map=index.docker.io={name}"),
            (other, Some(name)) => format!("--registry-map={other}={name}"),
            (_, None) => format!("# {}", settings.unnamed(registry)),
        })
        .collect();
    steps.extend(settings.plain().into_iter().map(|mirror| format!("--insecure-registry={mirror}")));
    steps
}
