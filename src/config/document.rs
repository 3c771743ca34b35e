//! The layers of a configuration as one table, with the origin of every value.
//!
//! Reads the file into a spanned document and walks it against the keys of a serialised
//! [`File::template`]: that finds unknown keys and wrong types, all of them, with their places, and
//! needs no second list of keys. Values of the environment and of flags are laid over it. The one
//! place, with the rest of `config`, that knows TOML.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::file::File;
use super::problem::{ConfigError, Problem, Show};
use super::{Handed, Overrides};
use crate::mirror::Mode;

/// The keys that name a file, by their sections.
const FILES: [(&str, &[&str]); 6] = [
    ("server", &["admin_socket"]),
    ("server.tls", &["cert", "key", "client_ca"]),
    ("store", &["path"]),
    ("store.bucket", &["ca"]),
    ("access", &["htpasswd", "audit"]),
    ("upstream", &["ca", "client_cert", "client_key"]),
];
/// Words that stand there in place of one.
const NO_FILES: [&str; 3] = ["", "off", "stderr"];
/// The keys that name one behind `file:`, which holds a secret.
const SECRETS: [(&str, &[&str]); 3] = [
    ("server", &["admin_token"]),
    ("store.bucket", &["credentials", "peers_secret"]),
    ("upstream", &["auth", "proxy_auth"]),
];

/// Where a value was set.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// In the file: the bytes of key and value.
    File { key: Range<usize>, value: Range<usize> },
    /// In a variable or by a flag of this name.
    Named(String),
}

/// The layers so far.
#[derive(Clone)]
pub(super) struct Document {
    template: Table,
    table: Table,
    origins: BTreeMap<String, Origin>,
    file: String,
    text: String,
    problems: Vec<Problem>,
    handed: Handed,
}

impl Document {
    /// Reads a file, or none.
    ///
    /// # Errors
    /// The syntax errors of the file. Unknown keys and wrong types are collected instead.
    pub(super) fn read(file: Option<(&Path, &str)>) -> Result<Document, ConfigError> {
        let template = Table::try_from(File::template())
            .map_err(|error| Problem::at("", format!("the defaults cannot be written as TOML: {error}")))?;
        let (name, text) = file.map_or_else(Default::default, |(path, text)| (path.display().to_string(), text));
        let (parsed, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| {
                let spot = error.span().unwrap_or(0..0);
                let show = if may_be_shown(text, spot.start, &template) { Show::Line } else { Show::Key };
                Problem::in_text(&name, text, spot, show, error.message().to_owned())
            };
            return Err(ConfigError { problems: errors.iter().map(problem).collect() });
        }
        let mut document = Document {
            template: template.clone(),
            table: Table::new(),
            origins: BTreeMap::new(),
            file: name,
            text: text.to_owned(),
            problems: Vec::new(),
            handed: Handed::default(),
        };
        document.table = document.walk(parsed.get_ref(), &template, "");
        Ok(document)
    }

    /// Lays the flags over what is there.
    pub(super) fn apply(&mut self, overrides: &Overrides) {
        self.handed = overrides.handed.clone();
        let list = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
        if !overrides.listen.is_empty() {
            self.set("server", "listen", list(&overrides.listen), "--listen");
        }
        if !overrides.admin.is_empty() {
            self.set("server", "admin", list(&overrides.admin), "--admin");
        }
        if let Some(path) = &overrides.store {
            self.set("store", "path", Value::String(path.clone()), "--store");
        }
        if let Some(size) = &overrides.max_size {
            self.set("store", "max_size", Value::String(size.clone()), "--max-size");
        }
        if let Some(level) = &overrides.log_level {
            self.set("log", "level", Value::String(level.clone()), "-q or -v");
        }
        if overrides.offline {
            self.set("cache", "mode", Value::String(Mode::Offline.as_str().into()), "--offline");
        }
    }

    /// Makes the names of files absolute: they are of `folder`, those of secrets without a slash of `credentials`, if
    /// systemd keeps some there.
    pub(super) fn locate(&mut self, folder: &Path, credentials: Option<&Path>) {
        let absolute = |folder: &Path, name: &str| {
            let path = std::path::absolute(folder.join(name)).ok()?;
            path.to_str().map(str::to_owned)
        };
        for (section, keys) in FILES {
            texts(&mut self.table, section, keys, |text| {
                (!NO_FILES.contains(&text)).then(|| absolute(folder, text)).flatten()
            });
        }
        for (section, keys) in SECRETS {
            texts(&mut self.table, section, keys, |text| {
                let name = text.strip_prefix("file:").filter(|name| !name.is_empty())?;
                let folder = credentials.filter(|_| !name.contains('/')).unwrap_or(folder);
                Some(format!("file:{}", absolute(folder, name)?))
            });
        }
    }

    /// Sets a value from a variable or a flag, `origin`.
    pub(super) fn set(&mut self, section: &str, key: &str, value: Value, origin: &str) {
        let path = format!("{section}.{key}");
        let below = format!("{path}[");
        self.origins.retain(|known, _| !known.starts_with(&below));
        self.origins.insert(path, Origin::Named(origin.to_owned()));
        let mut table = &mut self.table;
        for section in section.split('.') {
            let below = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(below) = below else { return };
            table = below;
        }
        table.insert(key.to_owned(), value);
    }

    /// Every section and key with its default, each `[[…]]` apart. A section within another is
    /// named with a dot.
    pub(super) fn scalars(&self) -> Vec<(String, &str, &Value)> {
        fn collect<'a>(section: &str, keys: &'a Table, found: &mut Vec<(String, &'a str, &'a Value)>) {
            for (key, default) in keys {
                match default {
                    Value::Table(keys) => collect(&format!("{section}.{key}"), keys, found),
                    Value::Array(items) if holds_tables(items) => {}
                    default => found.push((section.to_owned(), key, default)),
                }
            }
        }
        let mut found = Vec::new();
        for (section, keys) in &self.template {
            if let Value::Table(keys) = keys {
                collect(section, keys, &mut found);
            }
        }
        found
    }

    /// The sockets that were opened before the start.
    pub(super) fn handed(&self) -> &Handed {
        &self.handed
    }

    /// Notes a problem.
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Notes a problem with the value at `path`, such as `server.listen[1]`; it is shown in the
    /// file when it stands there.
    pub(super) fn report_value(&mut self, path: &str, message: String, hint: Option<String>) {
        let origin = self.origins.get(path).cloned();
        let problem = match origin {
            Some(Origin::File { key, .. }) if is_delicate(path) => self.in_file(key, Show::UpToSpot, message),
            Some(Origin::File { value, .. }) => self.in_file(value, Show::Line, message),
            Some(Origin::Named(name)) => Problem::at(name, message),
            None => Problem::at(path, message),
        };
        self.report(problem.hint(hint));
    }

    /// The path of an element of a list; of the list when it was not written as one.
    pub(super) fn element(&self, path: &str, n: usize) -> String {
        let element = format!("{path}[{n}]");
        if self.origins.contains_key(&element) { element } else { path.to_owned() }
    }

    /// What was typed, and the problems so far.
    pub(super) fn file(&mut self) -> Result<File, ConfigError> {
        let table = self.table.clone();
        table.try_into().map_err(|error: toml::de::Error| ConfigError {
            problems: std::mem::take(&mut self.problems)
                .into_iter()
                .chain([Problem::at(self.file.clone(), error.message())])
                .collect(),
        })
    }

    /// Where each value was set, by its path: in a line of the file, in a variable, or by a flag.
    pub(super) fn origins(&self) -> BTreeMap<String, String> {
        let told = |origin: &Origin| match origin {
            Origin::File { key, .. } => {
                let before = self.text.get(..key.start).unwrap_or_default();
                format!("{}:{}", self.file, before.matches('\n').count() + 1)
            }
            Origin::Named(name) => name.clone(),
        };
        self.origins.iter().map(|(path, origin)| (path.clone(), told(origin))).collect()
    }

    /// All problems noted, in the order of the file; those of other layers first.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems
    }

    fn in_file(&self, spot: Range<usize>, show: Show, message: String) -> Problem {
        Problem::in_text(&self.file, &self.text, spot, show, message)
    }

    /// What of `table` is known and of the right type; the rest becomes problems.
    fn walk(&mut self, table: &DeTable<'_>, template: &Table, path: &str) -> Table {
        let mut kept = Table::new();
        for (key, value) in table {
            let (name, spot) = (key.get_ref().as_ref(), key.span());
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let Some(expected) = template.get(name) else {
                let problem = self.unknown_key(name, spot, template, path);
                self.report(problem);
                continue;
            };
            self.origins.insert(below.clone(), Origin::File { key: spot, value: value.span() });
            if let Some(value) = self.typed(value, expected, &below) {
                kept.insert(name.to_owned(), value);
            }
        }
        kept
    }

    fn unknown_key(&self, name: &str, spot: Range<usize>, template: &Table, path: &str) -> Problem {
        let section = path.split('[').next().unwrap_or_default();
        let (what, place) = match section {
            "" => ("section", String::new()),
            section if path.ends_with(']') => ("key", format!(" in [[{section}]]")),
            section => ("key", format!(" in [{section}]")),
        };
        let elsewhere = self.scalars().into_iter().filter(|(_, key, _)| *key == name).map(|(section, ..)| section);
        let elsewhere = elsewhere.min_by_key(|section| section.matches('.').count());
        let hint = match (nearest(name, template.keys().map(String::as_str)), elsewhere) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(section)) => format!("`{name}` belongs in [{section}]"),
            (None, None) => {
                format!("known here: {}", template.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        self.in_file(spot, Show::UpToSpot, format!("unknown {what} `{name}`{place}")).hint(Some(hint))
    }

    /// `value` if it is of the type of `expected`; a string stands for a list of one.
    fn typed(&mut self, value: &Spanned<DeValue<'_>>, expected: &Value, path: &str) -> Option<Value> {
        match (value.get_ref(), expected) {
            (DeValue::String(text), Value::String(_)) => return Some(Value::String(text.to_string())),
            (DeValue::String(text), Value::Array(items)) if !holds_tables(items) => {
                return Some(Value::Array(vec![Value::String(text.to_string())]));
            }
            (DeValue::Boolean(on), Value::Boolean(_)) => return Some(Value::Boolean(*on)),
            (DeValue::Integer(number), Value::Integer(_)) => {
                if let Some(number) = i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| *n >= 0) {
                    return Some(Value::Integer(number));
                }
            }
            (DeValue::Table(table), Value::Table(template)) => {
                return Some(Value::Table(self.walk(table, template, path)));
            }
            (DeValue::Array(values), Value::Array(items)) => {
                let expected = items.first().cloned().unwrap_or_else(|| Value::String(String::new()));
                let mut kept = Vec::new();
                for (n, value) in values.iter().enumerate() {
                    let below = format!("{path}[{n}]");
                    let span = value.span();
                    self.origins.insert(below.clone(), Origin::File { key: span.clone(), value: span });
                    kept.extend(self.typed(value, &expected, &below));
                }
                return Some(Value::Array(kept));
            }
            _ => {}
        }
        self.report_value(path, format!("expected {}", description(expected)), example(path, expected));
        None
    }
}

/// Puts what `change` makes of it in the place of each text that stands under one of these keys of a section, or of
/// each of a list of them.
fn texts(table: &mut Table, section: &str, keys: &[&str], change: impl Fn(&str) -> Option<String>) {
    let mut names = section.split('.');
    let (Some(first), second) = (names.next(), names.next()) else { return };
    let found = match (table.get_mut(first), second) {
        (Some(Value::Table(outer)), Some(inner)) => outer.get_mut(inner),
        (found, _) => found,
    };
    let tables = match found {
        Some(Value::Array(items)) => items.iter_mut().filter_map(Value::as_table_mut).collect(),
        Some(Value::Table(table)) => vec![table],
        _ => Vec::new(),
    };
    for table in tables {
        for key in keys {
            let changed = table.get(*key).and_then(Value::as_str).and_then(&change);
            changed.map(|changed| table.insert((*key).to_owned(), Value::String(changed)));
        }
    }
}

/// Values that may hold a credential although they should not: never shown.
fn is_delicate(path: &str) -> bool {
    [".auth", ".proxy_auth", ".admin_token"].iter().any(|key| path.ends_with(key))
}

/// Whether the line at `spot` is a heading or sets a key that holds no credential. A file that
/// cannot be parsed has no structure yet, so this goes by the word in front of the equals sign.
fn may_be_shown(text: &str, spot: usize, template: &Table) -> bool {
    let start = text.get(..spot).map_or(0, |before| before.rfind('\n').map_or(0, |at| at + 1));
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim();
    let Some((key, _)) = line.split_once('=') else { return line.starts_with('[') };
    let key = key.trim();
    let has_key = |section: &Value| match section {
        Value::Array(items) => items.iter().any(|item| item.get(key).is_some()),
        section => section.get(key).is_some(),
    };
    template.values().any(has_key) && !is_delicate(&format!(".{key}"))
}

fn holds_tables(items: &[Value]) -> bool {
    items.first().is_some_and(Value::is_table)
}

fn description(expected: &Value) -> &'static str {
    match expected {
        Value::Integer(_) => "a whole number, not negative",
        Value::Boolean(_) => "true or false",
        Value::Array(items) if holds_tables(items) => "sections, each under its own [[…]]",
        Value::Array(_) => "a string or a list of strings",
        Value::Table(_) => "a section",
        _ => "a string",
    }
}

fn example(path: &str, expected: &Value) -> Option<String> {
    let key = path.rsplit('.').next().unwrap_or(path);
    match expected {
        Value::Array(items) if holds_tables(items) => Some(format!("write [[{path}]]")),
        Value::String(default) if !default.is_empty() => Some(format!("for example {key} = \"{default}\"")),
        Value::Integer(default) => Some(format!("for example {key} = {default}")),
        _ => None,
    }
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let allowed = (name.chars().count() / 3).max(2);
    known
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
}
