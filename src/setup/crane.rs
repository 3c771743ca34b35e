//! crane, oras and regctl, which have no setting for mirrors: the mirror stands in the image's name.

use super::Settings;

pub(super) fn steps(settings: &Settings) -> Vec<String> {
    let mut steps: Vec<_> = settings
        .registries
        .iter()
        .map(|registry| match settings.name_of(registry) {
            Some(name) => format!("{name}/REPOSITORY:TAG in the place of {registry}/REPOSITORY:TAG"),
            None => format!("# {}", settings.unnamed(registry)),
        })
        .collect();
    steps.extend(settings.plain().into_iter().map(|mirror| {
        format!("# over plain HTTP: crane --insecure, oras --plain-http, regctl registry set {mirror} --tls disabled")
    }));
    steps
}
