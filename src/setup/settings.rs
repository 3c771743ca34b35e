//! What a client is to be told: where the mirror is, and for which registries.

use serde::{Deserialize, Serialize};

use super::MirrorAddress;
use crate::oci::RegistryName;

/// What a client is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where the mirror is.
    pub mirror: MirrorAddress,
    /// For which registries.
    pub registries: Vec<RegistryName>,
    /// The upstream of what the mirror is asked for there without a registry, where that is known.
    #[serde(default)]
    pub default: Option<RegistryName>,
    /// Listeners of the mirror that are for one of these registries, and are asked for it. What earlier versions kept
    /// names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<Own>,
    /// The authority of the mirror's certificate, PEM, for a client that does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// A listener that is for one registry: its images have their own names there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// The registry.
    pub registry: RegistryName,
    /// Where it listens.
    pub mirror: MirrorAddress,
}

impl Settings {
    /// Where a client asks for the images of a registry.
    pub fn mirror_of(&self, registry: &RegistryName) -> &MirrorAddress {
        self.own_of(registry).unwrap_or(&self.mirror)
    }

    fn own_of(&self, registry: &RegistryName) -> Option<&MirrorAddress> {
        self.own.iter().find(|own| own.registry == *registry).map(|own| &own.mirror)
    }

    /// Where it asks for those of all these registries.
    pub fn mirrors(&self) -> Vec<&MirrorAddress> {
        let mut mirrors: Vec<_> = self.registries.iter().map(|registry| self.mirror_of(registry)).collect();
        mirrors.sort_unstable_by_key(|mirror| mirror.authority());
        mirrors.dedup();
        mirrors
    }

    /// The hosts and ports among these at which no TLS is spoken.
    pub(super) fn plain(&self) -> Vec<&str> {
        let plain = self.mirrors().into_iter().filter(|mirror| !mirror.is_encrypted());
        plain.map(MirrorAddress::authority).collect()
    }

    /// How the names of a registry's images begin where the mirror stands in them; `None` where there is no such name:
    /// a port can stand in front of the first slash only, and a registry with one has to be what the mirror means
    /// where none is named. At a listener of its own no registry is named: clients ask a token service for the
    /// repository that they name, and that of a registry knows none that begins with its host.
    pub fn name_of(&self, registry: &RegistryName) -> Option<String> {
        if let Some(own) = self.own_of(registry) {
            return Some(own.authority().to_owned());
        }
        let mirror = self.mirror.authority();
        if !registry.as_str().contains(':') {
            return Some(format!("{mirror}/{registry}"));
        }
        (self.default.as_ref() == Some(registry)).then(|| mirror.to_owned())
    }

    /// What is said of a registry of which no image can be named through the mirror.
    pub(super) fn unnamed(&self, registry: &RegistryName) -> String {
        format!(
            "no image is named {}/{registry}/NAME, since a port stands behind a slash there: name a listener that is for \
             {registry} with --mirror, such as listen = [\"ADDRESS={registry}\"]",
            self.mirror.authority()
        )
    }
}
