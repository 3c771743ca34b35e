//! podman, buildah, skopeo and CRI-O: a file of ours among those that are read after `registries.conf`.
//!
//! A `[[registry]]` in a later file stands in the place of one of the same prefix in an earlier one, so ours begins
//! with what the earlier files say of that registry.

use std::collections::BTreeMap;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::leads::{Asked, Speaks};
use super::want::Refused;
use super::{Beside, Client, File, Kind, Machine, Settings, in_toml};
use crate::oci::RegistryName;

/// Images of a registry for which something of their own is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// How their names begin.
    pub part: String,
    /// The file that says it, below the root.
    pub path: String,
    /// Who is asked first for all of them, as he is named there.
    first: Option<String>,
}

impl Apart {
    /// Whether they are asked for where the others of the registry are.
    fn is_led(&self, registry: &RegistryName, location: &str) -> bool {
        let rest = self.part.strip_prefix(registry.as_str());
        rest.zip(self.first.as_deref()).is_some_and(|(rest, first)| first.strip_prefix(location) == Some(rest))
    }
}

/// The folder, below the root or a home.
const FOLDER: &str = "containers/registries.conf.d";

/// The files that are read, in the order in which they count: a user's own in the place of the machine's, and those
/// of both folders.
fn read(machine: &Machine<'_>) -> Result<Vec<Beside>, Refused> {
    let mut paths = Vec::new();
    let (own, home) = (settings_of(machine.home.as_deref()), machine.home.is_some());
    let main = |folder: &str| format!("{folder}/containers/registries.conf");
    let has_own = home && machine.text(&main(&own))?.is_some();
    paths.push(main(if has_own { &own } else { "etc" }));
    for folder in ["etc"].into_iter().chain(home.then_some(own.as_str())) {
        let folder = format!("{folder}/{FOLDER}");
        let names = (machine.names)(&folder)?.into_iter().filter(|name| name.ends_with(".conf"));
        paths.extend(names.map(|name| format!("{folder}/{name}")));
    }
    let read = |path: String| Ok(machine.text(&path)?.map(|text| Beside { path, text, is_later: false }));
    paths.into_iter().filter_map(|path| read(path).transpose()).collect()
}

/// The files that are read before ours, and after it.
pub(super) fn beside(client: Client, machine: &Machine<'_>) -> Result<Vec<Beside>, Refused> {
    let own = file(client, machine.home.as_deref()).path;
    let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut others = read(machine)?;
    others.retain(|other| other.path != own);
    for other in &mut others {
        other.is_later = other.path.rsplit_once('/').is_some_and(|(beside, _)| beside == folder) && other.path > own;
    }
    Ok(others)
}

/// The parts of a registry of which a file says something of its own, which counts for the images in them, each with
/// the last file that does.
fn apart(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Apart>, Refused> {
    let mut parts = BTreeMap::new();
    for Beside { path, text, .. } in read(machine)? {
        let document = parsed(&text).map_err(|refused| refused.of(&path))?;
        for entry in entries(&document).filter(|entry| is_part(entry, registry)) {
            let first = asked_of(&path, entry).into_iter().next().filter(|first| first.hindrance.is_none());
            let first = first.map(|asked| asked.name);
            let part = prefix(entry).unwrap_or_default().to_owned();
            parts.insert(part.clone(), Apart { part, path: path.clone(), first });
        }
    }
    Ok(parts.into_values().collect())
}

/// Those of all registries of which the mirror would not be asked first.
pub(super) fn led_elsewhere(settings: &Settings, machine: &Machine<'_>) -> Result<Vec<Apart>, Refused> {
    let mut elsewhere = Vec::new();
    for registry in &settings.registries {
        let ours = location(settings, registry);
        elsewhere.extend(apart(registry, machine)?.into_iter().filter(|part| !part.is_led(registry, &ours)));
    }
    Ok(elsewhere)
}

/// Whether an entry is for some of the images of a registry.
fn is_part(entry: &Table, registry: &RegistryName) -> bool {
    let part = prefix(entry).and_then(|prefix| prefix.strip_prefix(registry.as_str()));
    part.is_some_and(|part| part.len() > 1 && part.starts_with('/'))
}

/// Whom it asks for images of a registry: as the last file says that says anything of it.
pub(super) fn asked(registry: &RegistryName, machine: &Machine<'_>) -> Result<Vec<Asked>, Refused> {
    let mut said = Vec::new();
    for Beside { path, text, .. } in read(machine)? {
        let document = parsed(&text).map_err(|refused| refused.of(&path))?;
        if let Some(entry) = entry_of(&document, registry) {
            said.push((path, entry.clone()));
        }
    }
    let Some((last, entry)) = said.pop() else { return Ok(Vec::new()) };
    let mut asked = asked_of(&last, &entry);
    for (path, entry) in &said {
        asked.extend(asked_of(path, entry).into_iter().map(|mut asked| {
            asked.hindrance = Some(format!("/{last} is read after it, and says something else of {registry}"));
            asked
        }));
    }
    let apart = apart(registry, machine)?;
    for asked in asked.iter_mut().filter(|asked| asked.hindrance.is_none()) {
        let elsewhere = apart.iter().find(|part| !part.is_led(registry, &asked.name));
        asked.hindrance = elsewhere.map(|Apart { part, path, .. }| format!("/{path} says something else of {part}"));
    }
    Ok(asked)
}

fn asked_of(path: &str, entry: &Table) -> Vec<Asked> {
    let truth = |table: &Table, name: &str| table.get(name).and_then(Item::as_bool) == Some(true);
    let mirrors = entry.get("mirror").and_then(Item::as_array_of_tables);
    let mirrors = mirrors.into_iter().flat_map(ArrayOfTables::iter);
    let asked = mirrors.chain([entry]).filter_map(|table| {
        let location = table.get("location").and_then(Item::as_str)?;
        let speaks = if truth(table, "insecure") { Speaks::Either } else { Speaks::Tls };
        let mut asked = Asked::new(path, location, speaks);
        let some = table.get("pull-from-mirror").and_then(Item::as_str).filter(|some| *some != "all");
        asked.hindrance = match some {
            _ if truth(entry, "blocked") => Some("blocked = true stands there".to_owned()),
            _ if truth(entry, "mirror-by-digest-only") => Some("mirror-by-digest-only = true stands there".to_owned()),
            Some(some) => Some(format!("pull-from-mirror = {some:?} stands there")),
            None if location.split_once('/').is_some_and(|(_, path)| path.contains(':')) => {
                Some("no image has such a name: a port stands behind a slash there".to_owned())
            }
            None => None,
        };
        Some(asked)
    });
    asked.collect()
}

pub(super) fn files(client: Client, settings: &Settings, machine: &Machine<'_>) -> Result<Vec<File>, Refused> {
    // It would find no name for any image of it, and give none from the registry itself either.
    match settings.registries.iter().find(|registry| settings.name_of(registry).is_none()) {
        Some(registry) => Err(Refused::Unable(settings.unnamed(registry))),
        None => Ok(vec![file(client, machine.home.as_deref())]),
    }
}

/// Each of the two programs has a file, so that one can be put back without the other.
pub(super) fn file(client: Client, home: Option<&str>) -> File {
    let name = if client == Client::CriO { "zz-registry-mirror-cri-o.conf" } else { "zz-registry-mirror.conf" };
    File::new(format!("{}/{FOLDER}/{name}", settings_of(home)), Kind::RegistriesConf)
}

fn settings_of(home: Option<&str>) -> String {
    home.map_or_else(|| "etc".to_owned(), |home| format!("{home}/.config"))
}

/// Where the mirror has the images of a registry: whatever it takes a name without one for.
fn location(settings: &Settings, registry: &RegistryName) -> String {
    settings.name_of(registry).unwrap_or_else(|| format!("{}/{registry}", settings.mirror.authority()))
}

/// A file, with its entries and their mirrors as tables of their own, also where they stand in a line.
fn parsed(text: &str) -> Result<DocumentMut, Refused> {
    let unreadable = |error: toml_edit::TomlError| Refused::Unreadable(error.to_string().trim_end().to_owned());
    let mut document: DocumentMut = text.parse().map_err(unreadable)?;
    as_tables(document.as_table_mut(), "registry");
    let entries = document.get_mut("registry").and_then(Item::as_array_of_tables_mut);
    entries.into_iter().flat_map(ArrayOfTables::iter_mut).for_each(|entry| as_tables(entry, "mirror"));
    Ok(document)
}

fn as_tables(table: &mut Table, name: &str) {
    if let Some(item) = table.get_mut(name).filter(|item| item.is_value()) {
        *item = std::mem::take(item).into_array_of_tables().map_or_else(|other| other, Item::ArrayOfTables);
        if let Some(mut key) = table.key_mut(name) {
            key.fmt();
        }
    }
}

/// What an entry is for.
fn prefix(entry: &Table) -> Option<&str> {
    let text = |name: &str| entry.get(name).and_then(Item::as_str).filter(|text| !text.is_empty());
    text("prefix").or_else(|| text("location"))
}

fn entries(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    document.get("registry").and_then(Item::as_array_of_tables).into_iter().flat_map(ArrayOfTables::iter)
}

fn entry_of<'a>(document: &'a DocumentMut, registry: &RegistryName) -> Option<&'a Table> {
    entries(document).find(|entry| prefix(entry) == Some(registry.as_str()))
}

pub(super) fn merged(text: &str, settings: &Settings, beside: &[Beside]) -> Result<String, Refused> {
    let mut document = parsed(text)?;
    let before = document.to_string();
    for registry in &settings.registries {
        leaves_ours(beside, settings, registry)?;
        let earlier = if entry_of(&document, registry).is_some() { None } else { earlier(beside, registry)? };
        let entries = document.entry("registry").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let entries = entries.as_array_of_tables_mut();
        let entries = entries.ok_or_else(|| Refused::Conflict("registry is not a list of tables".to_owned()))?;
        let known = entries.iter().position(|entry| prefix(entry) == Some(registry.as_str()));
        let place = known.unwrap_or_else(|| {
            let mut new = earlier.unwrap_or_else(|| named(registry.as_str()));
            new.decor_mut().set_prefix(if entries.is_empty() { "" } else { "\n" });
            entries.push(new);
            entries.len() - 1
        });
        if let Some(entry) = entries.get_mut(place) {
            put_first(entry, settings, registry)?;
        }
    }
    rewritten(text, &before, document.to_string())
}

/// The file as it is then. What says it already stays as it is written; where entries stood in a line, its comments
/// could not stay.
fn rewritten(text: &str, before: &str, after: String) -> Result<String, Refused> {
    if after == before {
        return Ok(text.to_owned());
    }
    if before != text && text.contains('#') {
        let why = "registry stands in a line there, and comments would be lost: write [[registry]]".to_owned();
        return Err(Refused::Conflict(why));
    }
    Ok(after)
}

/// What the other files say of a registry: the last one counts.
fn earlier(beside: &[Beside], registry: &RegistryName) -> Result<Option<Table>, Refused> {
    let mut found = None;
    for Beside { path, text, .. } in beside.iter().filter(|other| !other.is_later) {
        let document = parsed(text).map_err(|refused| refused.of(path))?;
        if let Some(entry) = entry_of(&document, registry) {
            refuse_blocked(entry, registry).map_err(|refused| refused.of(path))?;
            found = Some(moved(entry));
        }
    }
    Ok(found)
}

/// What a later file says of a registry stands in the place of ours: it has to say the same.
fn leaves_ours(beside: &[Beside], settings: &Settings, registry: &RegistryName) -> Result<(), Refused> {
    let ours = location(settings, registry);
    for Beside { path, text, .. } in beside.iter().filter(|other| other.is_later) {
        let document = parsed(text).map_err(|refused| refused.of(path))?;
        let Some(entry) = entry_of(&document, registry) else { continue };
        let mirrors = entry.get("mirror").and_then(Item::as_array_of_tables);
        let first = mirrors.and_then(|mirrors| mirrors.get(0)?.get("location")?.as_str());
        if first != Some(ours.as_str()) {
            let why = format!("it is read after the file that would be written, and says something else of {registry}");
            return Err(Refused::Conflict(why).of(path));
        }
    }
    Ok(())
}

fn refuse_blocked(entry: &Table, registry: &RegistryName) -> Result<(), Refused> {
    if entry.get("blocked").and_then(Item::as_bool) == Some(true) {
        return Err(Refused::Conflict(format!("{registry} is blocked there (blocked = true)")));
    }
    Ok(())
}

/// The entry for another file: its place in the old one says nothing there.
fn moved(entry: &Table) -> Table {
    let mut new = entry.clone();
    new.set_position(None);
    if let Some(mirrors) = new.get_mut("mirror").and_then(Item::as_array_of_tables_mut) {
        for mirror in mirrors.iter_mut() {
            mirror.set_position(None);
            mirror.decor_mut().clear();
        }
    }
    new
}

fn named(location: &str) -> Table {
    let mut table = Table::new();
    table.insert("location", location.into());
    table
}

fn put_first(entry: &mut Table, settings: &Settings, registry: &RegistryName) -> Result<(), Refused> {
    refuse_blocked(entry, registry)?;
    let mirrors = entry.entry("mirror").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let mirrors = mirrors.as_array_of_tables_mut();
    let mirrors = mirrors.ok_or_else(|| Refused::Conflict("registry.mirror is not a list of tables".to_owned()))?;
    let location = location(settings, registry);
    if mirrors.iter().any(|mirror| mirror.get("location").and_then(Item::as_str) == Some(&location)) {
        return Ok(());
    }
    let mut all = ArrayOfTables::new();
    all.push(ours(settings, registry));
    let others = mirrors.iter().cloned().map(|mut mirror| {
        mirror.set_position(None);
        mirror
    });
    others.for_each(|other| all.push(other));
    *mirrors = all;
    Ok(())
}

/// What we write of the mirror.
fn ours(settings: &Settings, registry: &RegistryName) -> Table {
    let mut ours = named(&location(settings, registry));
    if !settings.mirror_of(registry).is_encrypted() {
        ours.insert("insecure", true.into());
    }
    ours
}

/// Whether two tables say the same.
fn are_alike(one: &Table, other: &Table) -> bool {
    let said =
        |table: &Table| table.iter().map(|(key, item)| (key.to_owned(), plain(item))).collect::<BTreeMap<_, _>>();
    said(one) == said(other)
}

fn plain(item: &Item) -> String {
    let mut item = item.clone();
    if let Some(value) = item.as_value_mut() {
        value.decor_mut().clear();
    }
    item.to_string()
}

/// `now` without our mirrors, and without what was written for them alone.
pub(super) fn without(before: &str, now: &str, settings: &Settings) -> Result<String, Refused> {
    let (before, mut document) = (parsed(before)?, parsed(now)?);
    let as_it_was = document.to_string();
    for registry in &settings.registries {
        let location = location(settings, registry);
        let is_ours = |mirror: &Table| mirror.get("location").and_then(Item::as_str) == Some(&location);
        let mirrors = |entry: &Table| entry.get("mirror").and_then(Item::as_array_of_tables).cloned();
        let old = entry_of(&before, registry);
        if old.and_then(mirrors).is_some_and(|old| old.iter().any(is_ours)) {
            continue;
        }
        let Some(entries) = document.get_mut("registry").and_then(Item::as_array_of_tables_mut) else { continue };
        for entry in entries.iter_mut().filter(|entry| prefix(entry) == Some(registry.as_str())) {
            let Some(mirrors) = entry.get_mut("mirror").and_then(Item::as_array_of_tables_mut) else { continue };
            if mirrors.iter().any(|mirror| is_ours(mirror) && !are_alike(mirror, &ours(settings, registry))) {
                return Err(Refused::Mixed(format!("the mirror {location} of {registry}")));
            }
            mirrors.retain(|mirror| !is_ours(mirror));
            if mirrors.is_empty() {
                entry.remove("mirror");
            }
        }
        let only_named = |entry: &Table| prefix(entry) == Some(registry.as_str()) && entry.len() == 1;
        if old.is_none() {
            entries.retain(|entry| !only_named(entry));
        }
        if entries.is_empty() {
            document.remove("registry");
        }
    }
    let text = rewritten(now, &as_it_was, document.to_string())?;
    in_toml::has_entries(&text, &["registry".to_owned()])?;
    Ok(text)
}
