//! The one configuration that podman, buildah and CRI-O share: where the images of a registry are mirrored.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::image::Images;
use super::workspace::Workspace;

/// Writes a `registries.conf` with the mirror for Docker Hub, which needs no more than the address, and for the
/// second registry, which is told apart by a path behind the address.
pub(crate) fn write(mirror: SocketAddr, workspace: &Workspace) -> PathBuf {
    let other = Images::OTHER_REGISTRY;
    let section = |registry: &str, location: &str| {
        format!(
            "[[registry]]\nlocation = \"{registry}\"\n\n[[registry.mirror]]\nlocation = \"{location}\"\ninsecure = true\n\n"
        )
    };
    let sections = section("docker.io", &mirror.to_string()) + &section(other, &format!("{mirror}/{other}"));
    workspace.write("registries.conf", &sections)
}
