//! The settings that are in force, as a file would say them, and where each was set.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::file::File;
use super::{BY_SYSTEMD, Config};
use crate::documents::Configuration;
use crate::mirror::routes::fold_alias;
use crate::oci::RegistryName;

/// What was not set by anybody.
const DEFAULT: &str = "default";

/// All settings with their values. What follows from other things, the folder of the store and the admin socket,
/// stands there as it is.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    /// The file, if there is one.
    pub source: Option<PathBuf>,
    file: File,
    /// Where a value was set, by its path such as `store.path` or `upstream[0].url`.
    set: BTreeMap<String, String>,
}

impl Effective {
    /// Of what was typed, where each value of it was set, and what it means.
    pub(super) fn of(mut file: File, mut set: BTreeMap<String, String>, config: &Config) -> Effective {
        file.store.path = config.store.path.display().to_string();
        let socket = config.server.admin_socket.as_ref().map(|path| path.display().to_string());
        file.server.admin_socket = socket.unwrap_or_else(|| "off".to_owned());
        if config.server.is_handed {
            let listeners = config.server.listen.iter().zip(&config.server.defaults);
            let told = |(address, of): (&SocketAddr, &Option<RegistryName>)| match of {
                Some(upstream) => format!("{address}={upstream}"),
                None => address.to_string(),
            };
            file.server.listen = listeners.map(told).collect();
            set.insert("server.listen".to_owned(), BY_SYSTEMD.to_owned());
        }
        let typed = file.server.admin.iter().filter_map(|address| address.parse::<SocketAddr>().ok());
        if typed.ne(config.server.admin.iter().copied()) {
            file.server.admin = config.server.admin.iter().map(ToString::to_string).collect();
            set.insert("server.admin".to_owned(), BY_SYSTEMD.to_owned());
        }
        Effective { source: config.source.clone(), file, set }
    }

    /// Whether somebody configured this upstream; others are there because they are well known.
    pub fn names_upstream(&self, host: &RegistryName) -> bool {
        self.file.upstream.iter().any(|typed| typed.host.parse().map(fold_alias).as_ref() == Ok(host))
    }

    /// As `mirror.toml`, with a comment behind each value that says where it was set, if that is wanted.
    pub fn to_toml(&self, with_origins: bool) -> String {
        // Plain data: there is nothing in it that TOML cannot say.
        let text = toml::to_string(&self.file).unwrap_or_default();
        if !with_origins {
            return text;
        }
        let (mut section, mut seen) = (String::new(), BTreeMap::new());
        let lines = text.lines().map(|line| {
            if let Some(name) = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]")) {
                let count: &mut usize = seen.entry(name.to_owned()).or_default();
                section = format!("{name}[{count}]");
                *count += 1;
            } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, _)) = line.split_once(" = ") {
                return format!("{line}  # {}\n", self.origin(&format!("{section}.{key}")));
            }
            format!("{line}\n")
        });
        lines.collect()
    }

    /// As JSON, by sections.
    pub fn settings(&self) -> Map<String, Value> {
        match serde_json::to_value(&self.file) {
            Ok(Value::Object(sections)) => sections,
            _ => Map::new(),
        }
    }

    /// Where each setting was set, by its path: `mirror.toml:3`, the name of a variable, or `default`.
    pub fn origins(&self) -> BTreeMap<String, String> {
        let mut paths = Vec::new();
        for (section, value) in self.settings() {
            leaves(section, &value, &mut paths);
        }
        paths.into_iter().map(|path| (path.clone(), self.origin(&path).to_owned())).collect()
    }

    fn origin(&self, path: &str) -> &str {
        self.set.get(path).map_or(DEFAULT, String::as_str)
    }
}

/// How a configuration was said makes no difference to what it means.
impl PartialEq for Effective {
    fn eq(&self, _: &Effective) -> bool {
        true
    }
}

impl Eq for Effective {}

impl From<&Effective> for Configuration {
    fn from(effective: &Effective) -> Configuration {
        let file = effective.source.as_ref().map(|path| path.display().to_string());
        Configuration { file, settings: effective.settings(), origins: effective.origins() }
    }
}

/// The paths of all values that are no sections.
fn leaves(path: String, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(section) => section.iter().for_each(|(key, value)| leaves(format!("{path}.{key}"), value, found)),
        Value::Array(sections) if path == "upstream" || sections.first().is_some_and(Value::is_object) => {
            sections.iter().enumerate().for_each(|(n, section)| leaves(format!("{path}[{n}]"), section, found));
        }
        _ => found.push(path),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::*;

    #[test]
    fn every_setting_is_shown_with_its_origin_and_means_the_same_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mirror.toml");
        let typed = "[store]\nmax_size = \"1GB\"\n\n[[upstream]]\nhost = \"a.example\"\nurl = \"http://127.0.0.1:1\"\n";
        std::fs::write(&path, typed).expect("written");
        let env = || {
            let variables = [("HOME", "/home/someone"), ("REGISTRY_MIRROR_CACHE_TAG_TTL", "7m")];
            variables.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let overrides = Overrides { listen: vec!["127.0.0.1:1".to_owned()], ..Overrides::default() };
        let effective = Config::load(Some(&path), env(), overrides.clone()).expect("valid").effective;
        let shown = effective.to_toml(true);
        let (file, origins) = (path.display(), effective.origins());
        for (line, key, origin) in [
            ("max_size = \"1GB\"", "store.max_size", format!("{file}:2")),
            ("tag_ttl = \"7m\"", "cache.tag_ttl", "REGISTRY_MIRROR_CACHE_TAG_TTL".to_owned()),
            ("listen = [\"127.0.0.1:1\"]", "server.listen", "--listen".to_owned()),
            ("url = [\"http://127.0.0.1:1\"]", "upstream[0].url", format!("{file}:6")),
            ("path = \"/home/someone/.cache/registry-mirror\"", "store.path", DEFAULT.to_owned()),
            ("client_ca = \"\"", "server.tls.client_ca", DEFAULT.to_owned()),
        ] {
            assert!(shown.lines().any(|shown| shown == format!("{line}  # {origin}")), "{line} # {origin}\n{shown}");
            assert_eq!(origins[key], origin, "{key}");
        }
        let again = Config::parse(&path, &shown, env(), Overrides::default()).expect("valid");
        let config = Config::load(Some(&path), env(), overrides).expect("valid");
        assert_eq!(again, config);
        assert!(!effective.to_toml(false).contains('#'));
    }
}
