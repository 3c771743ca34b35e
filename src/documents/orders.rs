//! Orders: what is asked of the interface with POST, as the body of the request. An order has no
//! name and no version: the path says what it is. A key that is not known is an error.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::oci::Digest;

/// Images and platforms: for `pull` and `ready`, and without platforms for `pin`, `unpin`, `forget`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ImagesOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Such as `redis:7`.
    pub images: Vec<String>,
    /// Such as `linux/arm64`; none: the one of the daemon's machine.
    pub platforms: Vec<String>,
    /// Every platform, with what is no image: signatures and attestations.
    pub all_platforms: bool,
}

/// A tag: for `freeze`, and without a digest for `unfreeze`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FreezeOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Freeze {
    /// The tag, such as `redis:7`.
    pub image: String,
    /// What it is to be frozen to; none: what it has now.
    pub digest: Option<Digest>,
}

/// For `reload`, of which nothing can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ReloadOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Reload {}

/// For `gc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CollectOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Collect {
    /// Only say what would go.
    pub dry_run: bool,
}

/// For `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VerifyOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// Only what belongs to these images; none: everything that is stored.
    pub images: Vec<String>,
    /// Fetch again what is damaged, also what was found earlier.
    pub repair: bool,
    /// Bytes a second; none or 0: as fast as the disk reads.
    pub rate: Option<u64>,
}

/// For `export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ExportOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// These images.
    pub images: Vec<String>,
    /// Everything that is stored.
    pub all: bool,
    /// Only what was used in the last so many seconds.
    pub used_since: Option<u64>,
    /// Only these platforms; none: those that are stored.
    pub platforms: Vec<String>,
    /// What the other side has.
    pub since: Receipt,
    /// Only say what would be in it.
    pub dry_run: bool,
    /// Tell the plan and the end around the bytes.
    pub framed: bool,
}

/// For `login`: what the address of the page had in its fragment.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LoginOrder")]
#[serde(default, deny_unknown_fields)]
pub struct Login {
    /// It.
    pub login: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}
