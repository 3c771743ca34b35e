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
    steps.push(if settings.mirror.is_encrypted() {
        "# the mirror's authority belongs to the trusted certificates of the platform, for cells and for staging"
            .to_owned()
    } else {
        let mirrors: Vec<_> = settings.asked().into_iter().map(|mirror| format!("{mirror:?}")).collect();
        format!("# insecure_docker_registry_list of garden and of cloud_controller_ng: [{}]", mirrors.join(", "))
    });
    steps
}
