//! Where the configuration of a daemon comes from, so that it can be read again, and what is other in it then.
//!
//! Some keys hold until a restart. A file that says something else of them is taken without that, and what comes of
//! it is validated as a whole: what may be said beside new addresses may not be said beside the old ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use toml::Table;

use super::document::Document;
use super::environment::Environment;
use super::file::File;
use super::{Config, ConfigError, Overrides, validate};
use crate::documents::{Alteration, Change};

/// The keys that hold until a restart, by section.
const UNTIL_RESTART: [(&str, &[&str]); 4] = [
    (
        "server",
        &[
            "listen",
            "admin",
            "admin_socket",
            "max_connections",
            "header_timeout",
            "send_timeout",
            "drain",
            "congestion_control",
        ],
    ),
    ("store", &["path", "scrub_rate", "bucket"]),
    ("access", &["audit"]),
    ("log", &["format"]),
];
/// Those that do where there is TLS before or after, and not both times.
const TLS: (&str, &[&str]) = ("server.tls", &["cert", "key", "client_ca"]);

/// The file, the environment and the flags.
#[derive(Debug)]
pub struct Source {
    path: Option<PathBuf>,
    env: Vec<(String, String)>,
    overrides: Overrides,
}

/// A configuration that was read, and what was typed for it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    typed: File,
}

/// A configuration that was read beside one that is in force.
#[derive(Debug)]
pub struct Beside {
    /// All of it.
    pub whole: Config,
    /// It as far as it can be taken.
    pub taken: Loaded,
    /// The keys that stay as they were until a restart.
    pub restart: Vec<String>,
}

impl Source {
    /// Reads a configuration as [`Config::load`] does. It is read again from the same file, if there is one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn open(
        path: Option<PathBuf>,
        env: Vec<(String, String)>,
        overrides: Overrides,
    ) -> Result<(Source, Loaded), ConfigError> {
        let source = Source { path, env, overrides };
        let loaded = source.read()?;
        Ok((Source { path: loaded.config.source.clone().or(source.path), ..source }, loaded))
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(&self) -> Result<Loaded, ConfigError> {
        let (mut document, env, source) = self.layers()?;
        let typed = document.file()?;
        Ok(Loaded { config: validate::config(document, &env, source)?, typed })
    }

    fn layers(&self) -> Result<(Document, Environment, Option<PathBuf>), ConfigError> {
        Config::layers(self.path.as_deref(), self.env.iter().cloned(), &self.overrides)
    }

    /// Reads it, and takes what holds until a restart from what is in force.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read_beside(&self, in_force: &Loaded) -> Result<Beside, ConfigError> {
        let (mut document, env, source) = self.layers()?;
        let mut beside = document.clone();
        let typed = document.file()?;
        let new = Loaded { config: validate::config(document, &env, source.clone())?, typed };
        let (before, after) = (&in_force.typed, &new.typed);
        let tls = (before.server.tls.cert.is_empty() != after.server.tls.cert.is_empty()).then_some(TLS);
        let keys = UNTIL_RESTART.into_iter().chain(tls);
        let keys = keys.flat_map(|(section, keys)| keys.iter().map(move |key| (section, *key)));
        let (before, after) = (table(before), table(after));
        let kept: Vec<_> = keys
            .filter(|(section, key)| value(&before, section, key) != value(&after, section, key))
            .filter_map(|(section, key)| Some((section, key, value(&before, section, key)?.clone())))
            .collect();
        let restart: Vec<_> = kept.iter().map(|(section, key, _)| format!("{section}.{key}")).collect();
        if restart.is_empty() {
            return Ok(Beside { whole: new.config.clone(), taken: new, restart });
        }
        for ((section, key, value), name) in kept.into_iter().zip(&restart) {
            beside.set(section, key, value, &format!("{name}, which holds until a restart"));
        }
        let typed = beside.file()?;
        let taken = Loaded { config: validate::config(beside, &env, source)?, typed };
        Ok(Beside { whole: new.config, taken, restart })
    }
}

impl Loaded {
    /// What is other in `new`. Names of keys and of what they are about, never what they say.
    pub fn changes(&self, new: &Loaded) -> Vec<Change> {
        let (before, after) = (parts(&self.typed), parts(&new.typed));
        let mut changes: Vec<_> = after
            .iter()
            .filter_map(|(part, now)| {
                let change = match before.get(part) {
                    None => Alteration::Added,
                    Some(then) if then != now => Alteration::Changed,
                    Some(_) => return None,
                };
                Some(part.change(change))
            })
            .collect();
        let gone = before.keys().filter(|part| !after.contains_key(part));
        changes.extend(gone.map(|part| part.change(Alteration::Removed)));
        changes
    }
}

/// A key, or one of the sections of a list by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    key: String,
    name: Option<String>,
}

impl Part {
    fn change(&self, change: Alteration) -> Change {
        Change { key: self.key.clone(), name: self.name.clone(), change }
    }
}

fn table(file: &File) -> Table {
    // Plain data: there is nothing in it that TOML cannot say.
    Table::try_from(file).unwrap_or_default()
}

fn value<'t>(table: &'t Table, section: &str, key: &str) -> Option<&'t toml::Value> {
    section.split('.').try_fold(table, |table, name| table.get(name)?.as_table())?.get(key)
}

fn parts(file: &File) -> BTreeMap<Part, Value> {
    let mut found = BTreeMap::new();
    let settings = serde_json::to_value(file).unwrap_or_default();
    for (section, value) in settings.as_object().into_iter().flatten() {
        take(section.clone(), value, &mut found);
    }
    found
}

fn take(key: String, value: &Value, found: &mut BTreeMap<Part, Value>) {
    match value {
        Value::Object(keys) => {
            for (below, value) in keys {
                take(format!("{key}.{below}"), value, found);
            }
        }
        Value::Array(sections) if key == "upstream" || sections.first().is_some_and(Value::is_object) => {
            for (n, section) in sections.iter().enumerate() {
                let text = |key: &str| section[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
                let name = text("host").or_else(|| text("name")).or_else(|| text("issuer"));
                let name = Some(name.unwrap_or_else(|| (n + 1).to_string()));
                found.insert(Part { key: key.clone(), name }, section.clone());
            }
        }
        // Grants and issuers, where there are none.
        Value::Array(none) if none.is_empty() && matches!(key.as_str(), "access.grant" | "access.oidc") => {}
        value => drop(found.insert(Part { key, name: None }, value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(folder: &std::path::Path, text: &str) -> (Source, Loaded) {
        let path = folder.join("mirror.toml");
        std::fs::write(&path, text).expect("written");
        Source::open(Some(path), vec![("HOME".to_owned(), "/home/someone".to_owned())], Overrides::default())
            .expect("valid")
    }

    fn told(changes: &[Change]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_changed_is_told_by_key_and_name_and_what_holds_until_a_restart_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = "[[upstream]]\nhost = \"a.example\"\n[[upstream]]\nhost = \"b.example\"\n\
                      [[access.grant]]\nname = \"ci\"\nwho = [\"anonymous\"]\nmay = [\"a.example/**\"]\n";
        let (source, loaded) = opened(folder.path(), before);
        let after = "[server]\nlisten = [\"127.0.0.1:5001\"]\n[cache]\ntag_ttl = \"7m\"\n[log]\nlevel = \"debug\"\n\
                     [[upstream]]\nhost = \"b.example\"\nparallel = 2\n[[upstream]]\nhost = \"c.example\"\n\
                     [[access.grant]]\nwho = [\"anonymous\"]\nmay = [\"b.example/**\"]\n";
        std::fs::write(folder.path().join("mirror.toml"), after).expect("written");
        let Beside { taken: new, restart, .. } = source.read_beside(&loaded).expect("valid");
        assert_eq!(restart, ["server.listen"]);
        assert_eq!(new.config.server.listen, loaded.config.server.listen);
        assert_eq!(
            told(&loaded.changes(&new)),
            [
                "access.grant 1 added",
                "cache.tag_ttl changed",
                "log.level changed",
                "upstream b.example changed",
                "upstream c.example added",
                "access.grant ci removed",
                "upstream a.example removed"
            ]
        );
        assert!(loaded.changes(&loaded).is_empty());
        assert_eq!(source.read_beside(&new).expect("valid").restart, ["server.listen"], "until the restart");
    }

    #[test]
    fn what_may_be_said_beside_new_addresses_is_not_taken_beside_the_old_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let upstream = "[[upstream]]\nhost = \"a.example\"\nauth = \"file:/secret\"\n";
        let open = format!("server.listen = [\"0.0.0.0:5000\"]\n{upstream}access = \"mapped\"\n");
        let (source, loaded) = opened(folder.path(), &open);
        // On loopback nothing has to be said, and it is shared; the daemon listens for everybody still.
        std::fs::write(folder.path().join("mirror.toml"), upstream).expect("written");
        source.read().expect("valid by itself");
        source.read_beside(&loaded).expect_err("shared with everybody");
    }
}
