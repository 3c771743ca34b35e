//! The environment as a layer of the configuration.
//!
//! `REGISTRY_MIRROR_<SECTION>_<KEY>` sets a key; a list is separated by commas. A variable of our
//! prefix that sets nothing is an error, because a typing error would otherwise go unnoticed.
//! Values are never quoted. Also knows the variables that say where caches and configurations are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use super::document::{Document, nearest};
use super::problem::Problem;

const PREFIX: &str = "REGISTRY_MIRROR_";
const CONFIG: &str = "REGISTRY_MIRROR_CONFIG";
/// Ours, though they set no key. The second is read by the tests with real clients.
const RESERVED: [&str; 2] = [CONFIG, "REGISTRY_MIRROR_REQUIRE_CLIENTS"];

/// The variables that concern us.
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        let concerns_us = |name: &str| {
            name.starts_with(PREFIX)
                || matches!(
                    name,
                    "CACHE_DIRECTORY"
                        | "RUNTIME_DIRECTORY"
                        | "CREDENTIALS_DIRECTORY"
                        | "XDG_CACHE_HOME"
                        | "XDG_CONFIG_HOME"
                        | "HOME"
                )
        };
        Environment(variables.into_iter().filter(|(name, _)| concerns_us(name)).collect())
    }

    /// The file that `REGISTRY_MIRROR_CONFIG` names.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.get(CONFIG).map(PathBuf::from)
    }

    /// The user's folder for configurations.
    pub(super) fn config_folder(&self) -> Option<PathBuf> {
        self.user_folder("XDG_CONFIG_HOME", ".config")
    }

    /// systemd's folder for the store, for who is started by it.
    pub(super) fn folder_of_service(&self) -> Option<PathBuf> {
        // systemd separates several folders with colons.
        self.get("CACHE_DIRECTORY").and_then(|list| list.split(':').next()).map(PathBuf::from)
    }

    /// The user's own folder for a store.
    pub(super) fn folder_of_user(&self) -> Option<PathBuf> {
        Some(self.user_folder("XDG_CACHE_HOME", ".cache")?.join("registry-mirror"))
    }

    /// A folder of the XDG rules, which say that a relative path is to be ignored.
    fn user_folder(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
    }

    /// systemd's folder for what ends with the process.
    pub(super) fn runtime_folder(&self) -> Option<PathBuf> {
        self.get("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next()).map(PathBuf::from)
    }

    /// systemd's folder for secrets.
    pub(super) fn credentials_folder(&self) -> Option<PathBuf> {
        self.get("CREDENTIALS_DIRECTORY").map(PathBuf::from)
    }

    /// Lays our variables over `document`.
    pub(super) fn apply(&self, document: &mut Document) {
        let mut known: BTreeMap<String, (String, String, Value)> = document
            .scalars()
            .into_iter()
            .map(|(section, key, default)| (variable(&section, key), (section, key.to_owned(), default.clone())))
            .collect();
        for (name, text) in self.0.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            if RESERVED.contains(&name.as_str()) || is_of_kubernetes(name) {
                continue;
            }
            let Some((section, key, default)) = known.remove(name) else {
                // The common prefix would make all names look alike.
                let names =
                    known.keys().map(String::as_str).chain(RESERVED).filter_map(|name| name.strip_prefix(PREFIX));
                let hint = match nearest(name.strip_prefix(PREFIX).unwrap_or(name), names) {
                    Some(near) => format!("did you mean {PREFIX}{near}?"),
                    None if name.starts_with("REGISTRY_MIRROR_UPSTREAM") => {
                        "upstreams are configured in the file, under [[upstream]]".to_owned()
                    }
                    None => format!("variables are named {PREFIX}<SECTION>_<KEY>, such as REGISTRY_MIRROR_STORE_PATH"),
                };
                document.report(Problem::at(name, "unknown environment variable").hint(Some(hint)));
                continue;
            };
            match read(text, &default) {
                Ok(value) => document.set(&section, &key, value, name),
                Err(expected) => document.report(Problem::at(name, format!("expected {expected}"))),
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Whether Kubernetes sets a variable like that for a Service whose name begins with ours.
fn is_of_kubernetes(name: &str) -> bool {
    let ends = ["SERVICE_HOST", "PORT"].iter().any(|end| name.ends_with(end));
    ends || ["SERVICE_PORT", "PORT_"].iter().any(|part| name.contains(part))
}

fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{section}_{key}").replace('.', "_").to_uppercase()
}

/// `text` as a value of the type of `default`, else what was expected.
fn read(text: &str, default: &Value) -> Result<Value, &'static str> {
    match default {
        Value::Integer(_) => {
            text.parse().ok().filter(|number| *number >= 0).map(Value::Integer).ok_or("a whole number, not negative")
        }
        Value::Boolean(_) => text.parse().map(Value::Boolean).map_err(|_| "true or false"),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_for_services_of_our_name_is_none_of_ours() {
        let problems = |name: &str| {
            let mut document = Document::read(None).expect("no file");
            Environment::new([(format!("{PREFIX}{name}"), "tcp://10.0.0.1:5000".to_owned())]).apply(&mut document);
            document.into_problems().len()
        };
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_PULL",
            "PORT",
            "PORT_5000_TCP",
            "PORT_5000_TCP_ADDR",
            "ADMIN_SERVICE_HOST",
            "ADMIN_SERVICE_PORT_HTTP",
            "ADMIN_PORT",
            "ADMIN_PORT_5080_TCP_PROTO",
            "XSERVICE_HOST",
            "SERVICE_PORTX",
        ] {
            assert_eq!(problems(name), 0, "{name}");
        }
        for name in ["SERVICE", "SERVICE_HOSTS", "PORTS", "STORE_PAHT"] {
            assert_eq!(problems(name), 1, "{name}");
        }
        // Its keys are none of those.
        let document = Document::read(None).expect("no file");
        assert!(document.scalars().into_iter().all(|(section, key, _)| !is_of_kubernetes(&variable(&section, key))));
    }
}
