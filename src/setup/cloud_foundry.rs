//! Cloud Foundry, which has no setting for mirrors: the mirror stands in the image's name.

use super::Settings;

pub(super) fn steps(settings: &Settings) -> Vec<String> {
    let mut steps: Vec<_> = settings
        .registries
        .iter()
        .map(|registry| match settings.name_of(registry) {
            Some(name) => format!("cf push APP -o {name}/REPOSITORY:TAG"),
            None => format!("# {}", settings.unnamed(registry)),
        })
        .collect();
    if settings.mirrors().iter().any(|mirror| mirror.is_encrypted()) {
        let trust =
            "# the mirror's authority belongs to the trusted certificates of the platform, for cells and for staging";
        steps.push(trust.to_owned());
    }
    let plain: Vec<_> = settings.plain().into_iter().map(|mirror| format!("{mirror:?}")).collect();
    if !plain.is_empty() {
        let plain = plain.join(", ");
        steps.push(format!("# insecure_docker_registry_list of garden and of cloud_controller_ng: [{plain}]"));
    }
    steps
}
