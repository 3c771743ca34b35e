//! What the program says of itself and of its configuration.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Document;

/// The program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// Its version.
    pub program: String,
    /// The commit that it is made from; none outside of a checkout.
    pub commit: Option<String>,
    /// What it was made with that it might be made without.
    pub features: Vec<String>,
}

impl Document for Program {
    const NAME: &'static str = "version";
}

/// The settings that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Configuration {
    /// The file, if there is one.
    pub file: Option<String>,
    /// All settings, by sections, as in the file.
    pub settings: Map<String, Value>,
    /// Where each was set, by its path, such as `store.path`: a line of the file, a variable, or `default`.
    pub origins: BTreeMap<String, String>,
}

impl Document for Configuration {
    const NAME: &'static str = "config";
}

/// The JSON Schema of the file; it is a document itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ConfigSchema(pub Map<String, Value>);

impl Document for ConfigSchema {
    const NAME: &'static str = "config-schema";
}

/// Where the configuration is, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigPaths {
    /// Where the file is looked for, in this order; the first that is named or there is used.
    pub files: Vec<FilePlace>,
    /// The folder of the store; none where the configuration is not valid.
    pub store: Option<String>,
    /// The Unix socket of the admin interface, if there is to be one.
    pub admin_socket: Option<String>,
}

impl Document for ConfigPaths {
    const NAME: &'static str = "config-paths";
}

/// A place where the file may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilePlace {
    /// The file.
    pub path: String,
    /// Whether it is there, as far as this user may look.
    pub exists: bool,
    /// Whether it is the one that is read.
    pub used: bool,
    /// Why it cannot be looked at, or not be read.
    pub trouble: Option<String>,
}

/// What came of reading the settings again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// What is taken.
    pub changed: Vec<Change>,
    /// The keys that stay as they were until a restart, such as `server.listen`.
    pub restart: Vec<String>,
    /// What may not be what was meant.
    pub warnings: Vec<String>,
}

impl Document for Reloaded {
    const NAME: &'static str = "reload";
}

/// A setting that is other than before. What it says is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Such as `log.level`, `upstream` or `access.grant`.
    pub key: String,
    /// Which, where there are several: the host, the name, else the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How.
    pub change: Alteration,
}

/// How a setting changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Alteration {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another, or what is in its file.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.name.iter().try_for_each(|name| write!(f, " {name}"))?;
        f.write_str(match self.change {
            Alteration::Added => " added",
            Alteration::Removed => " removed",
            Alteration::Changed => " changed",
        })
    }
}
