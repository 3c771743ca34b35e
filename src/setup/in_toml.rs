//! Settings in TOML that somebody else wrote: comments, order and what we do not know stay.

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value as Written};

use super::want::{Refused, Value, Want, is_same};

fn parsed(text: &str) -> Result<DocumentMut, Refused> {
    text.parse().map_err(|error: toml_edit::TomlError| Refused::Unreadable(error.to_string().trim_end().to_owned()))
}

fn at<'a>(document: &'a DocumentMut, path: &[String]) -> Option<&'a Item> {
    let (last, tables) = path.split_last()?;
    let mut table: &dyn TableLike = document.as_table();
    for name in tables {
        table = table.get(name)?.as_table_like()?;
    }
    table.get(last)
}

/// The text at a path.
///
/// # Errors
/// [`Refused`] when it cannot be read, or something else stands there.
pub(super) fn text_at(text: &str, path: &[String]) -> Result<Option<String>, Refused> {
    let document = parsed(text)?;
    let Some(item) = at(&document, path) else { return Ok(None) };
    item.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| Refused::shape(path, "a text"))
}

/// The texts in the list at a path; `None` where there is none.
pub(super) fn texts_at(text: &str, path: &[String]) -> Result<Option<Vec<String>>, Refused> {
    let document = parsed(text)?;
    let Some(item) = at(&document, path) else { return Ok(None) };
    let list = item.as_array().ok_or_else(|| Refused::shape(path, "a list"))?;
    Ok(Some(list.iter().filter_map(Written::as_str).map(str::to_owned).collect()))
}

/// The truth at a path, if one stands there.
pub(super) fn truth_at(text: &str, path: &[String]) -> Result<Option<bool>, Refused> {
    Ok(at(&parsed(text)?, path).and_then(Item::as_bool))
}

/// The names in the table at a path, in the order of the text.
pub(super) fn names_at(text: &str, path: &[String]) -> Result<Vec<String>, Refused> {
    let document = parsed(text)?;
    let table = at(&document, path).and_then(Item::as_table_like);
    Ok(table.into_iter().flat_map(TableLike::iter).map(|(name, _)| name.to_owned()).collect())
}

/// The whole number at a path.
pub(super) fn number_at(text: &str, path: &[String]) -> Result<Option<i64>, Refused> {
    Ok(at(&parsed(text)?, path).and_then(Item::as_integer))
}

/// Whether there is a table at a path with something in it.
pub(super) fn has_entries(text: &str, path: &[String]) -> Result<bool, Refused> {
    Ok(at(&parsed(text)?, path).and_then(Item::as_table_like).is_some_and(|table| !table.is_empty()))
}

impl Value {
    fn written(&self) -> Written {
        match self {
            Value::Bool(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(texts) => texts.iter().map(String::as_str).collect::<Array>().into(),
        }
    }

    fn is(&self, item: &Item) -> bool {
        match self {
            Value::Bool(value) => item.as_bool() == Some(*value),
            Value::Text(text) => item.as_str() == Some(text),
            Value::List(texts) => item.as_array().is_some_and(|array| {
                array.iter().map(Written::as_str).eq(texts.iter().map(|text| Some(text.as_str())))
            }),
        }
    }
}

fn holds(document: &DocumentMut, want: &Want) -> bool {
    at(document, want.path()).is_some_and(|item| match want {
        Want::Element(_, text) => place_of(item, text).is_some(),
        Want::Value(_, value) => value.is(item),
    })
}

fn place_of(item: &Item, text: &str) -> Option<usize> {
    item.as_array()?.iter().position(|element| element.as_str().is_some_and(|element| is_same(element, text)))
}

/// The text with our settings.
pub(super) fn merged(text: &str, wants: &[Want]) -> Result<String, Refused> {
    let mut document = parsed(text)?;
    for want in wants {
        if !holds(&document, want) {
            put(&mut document, want)?;
        }
    }
    proven(document.to_string(), |document| wants.iter().all(|want| holds(document, want)))
}

/// What we would write, if it is understood as it is meant.
fn proven(text: String, is_right: impl FnOnce(&DocumentMut) -> bool) -> Result<String, Refused> {
    match parsed(&text) {
        Ok(document) if is_right(&document) => Ok(text),
        _ => Err(Refused::Conflict("it is written in a way that settings cannot be added to".to_owned())),
    }
}

fn put(document: &mut DocumentMut, want: &Want) -> Result<(), Refused> {
    let path = want.path();
    let Some((last, tables)) = path.split_last() else { return Ok(()) };
    make_tables(document, tables)?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, name) in tables.iter().enumerate() {
        let below = table.get_mut(name).and_then(Item::as_table_like_mut);
        table = below.ok_or_else(|| Refused::shape(&path[..=depth], "a table"))?;
    }
    match want {
        Want::Value(_, value) => match table.get_mut(last) {
            Some(Item::Value(old)) if old.type_name() == value.written().type_name() => {
                let decor = old.decor().clone();
                *old = value.written();
                *old.decor_mut() = decor;
            }
            Some(_) => return Err(Refused::shape(path, &format!("a value of type {}", value.written().type_name()))),
            None => drop(table.insert(last, Item::Value(value.written()))),
        },
        Want::Element(_, text) => {
            let item = table.entry(last).or_insert_with(|| Item::Value(Array::new().into()));
            let array = item.as_array_mut().ok_or_else(|| Refused::shape(path, "a list"))?;
            put_first(array, text);
        }
    }
    Ok(())
}

/// Puts a text in front, on a line of its own where the list has lines.
fn put_first(array: &mut Array, text: &str) {
    let prefix = |value: &Written| value.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or("").to_owned();
    let mut new = Written::from(text);
    if let Some(first) = array.get_mut(0) {
        let before = prefix(first);
        match before.rsplit_once('\n') {
            Some((_, indent)) => new.decor_mut().set_prefix(format!("\n{indent}")),
            None => {
                new.decor_mut().set_prefix(before);
                first.decor_mut().set_prefix(" ");
            }
        }
    }
    array.insert_formatted(0, new);
}

/// Makes the tables that are not there, at the end of the file.
fn make_tables(document: &mut DocumentMut, names: &[String]) -> Result<(), Refused> {
    let last = 1 + last_position(document.as_table());
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let is_first = document.as_table().is_empty();
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut made = false;
    for (depth, name) in names.iter().enumerate() {
        if !table.contains_key(name) {
            let mut new = Table::new();
            new.set_implicit(depth + 1 < names.len());
            new.set_position(Some(last));
            if depth + 1 == names.len() {
                // What stands at the end of the file stays in front of what is added to it.
                let gap = if is_first && trailing.is_empty() { "" } else { "\n" };
                new.decor_mut().set_prefix(format!("{trailing}{gap}"));
                made = true;
            }
            table.insert(name, Item::Table(new));
        }
        let below = table.get_mut(name).and_then(Item::as_table_like_mut);
        table = below.ok_or_else(|| Refused::shape(&names[..=depth], "a table"))?;
    }
    if made {
        document.set_trailing("");
    }
    Ok(())
}

fn last_position(table: &Table) -> isize {
    let below = table.iter().flat_map(|(_, item)| match item {
        Item::Table(table) => vec![last_position(table)],
        Item::ArrayOfTables(tables) => tables.iter().map(last_position).collect(),
        _ => Vec::new(),
    });
    below.chain(table.position()).max().unwrap_or_default()
}

/// The text with the table `name` before its sisters in the table `parent`.
pub(super) fn first_of(text: &str, parent: &str, name: &str) -> Result<String, Refused> {
    let mut document = parsed(text)?;
    let sisters = |document: &DocumentMut| -> Vec<(String, isize)> {
        let tables = document.get(parent).and_then(Item::as_table);
        let tables = tables.into_iter().flat_map(|table| table.iter());
        let placed = tables.filter_map(|(name, item)| Some((name.to_owned(), item.as_table()?.position()?)));
        placed.collect()
    };
    let others = sisters(&document).into_iter().filter(|(other, _)| other != name);
    let Some((second, first_place)) = others.min_by_key(|(_, place)| *place) else { return Ok(text.to_owned()) };
    let Some(tables) = document.get_mut(parent).and_then(Item::as_table_mut) else { return Ok(text.to_owned()) };
    let Some(ours) = tables.get_mut(name).and_then(Item::as_table_mut) else { return Ok(text.to_owned()) };
    if ours.position().is_some_and(|place| place < first_place) {
        return Ok(text.to_owned());
    }
    ours.set_position(Some(first_place - 1));
    // What stands in front of the old first one may speak of the whole file; what stood before ours was the end of it.
    let end = ours.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().trim_end().to_owned();
    ours.decor_mut().set_prefix("");
    if let Some(second) = tables.get_mut(&second).and_then(Item::as_table_mut) {
        let prefix = second.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
        let gap = if prefix.starts_with('\n') { "" } else { "\n" };
        second.decor_mut().set_prefix(format!("{gap}{prefix}"));
    }
    let starts = document.as_table().get_values().is_empty();
    let ours = document.get_mut(parent).and_then(Item::as_table_mut).and_then(|tables| tables.get_mut(name));
    if let Some(ours) = ours.and_then(Item::as_table_mut).filter(|_| !starts) {
        ours.decor_mut().set_prefix("\n");
    }
    if !end.is_empty() {
        document.set_trailing(format!("{end}\n"));
    }
    proven(document.to_string(), |document| {
        let mut places = sisters(document);
        places.sort_by_key(|(_, place)| *place);
        places.first().is_some_and(|(first, _)| first == name)
    })
}

/// `now` without our settings, where it says what it said `before`.
pub(super) fn without(before: &str, now: &str, wants: &[Want]) -> Result<String, Refused> {
    let (before, mut document) = (parsed(before)?, parsed(now)?);
    for want in wants {
        take(&before, &mut document, want)?;
    }
    let text = document.to_string();
    let gone = |document: &DocumentMut| wants.iter().all(|want| !holds(document, want) || holds(&before, want));
    proven(text, gone)
}

fn take(before: &DocumentMut, now: &mut DocumentMut, want: &Want) -> Result<(), Refused> {
    let path = want.path();
    if holds(before, want) {
        return Ok(());
    }
    let (old, Some(found)) = (at(before, path).cloned(), at(now, path)) else { return Ok(()) };
    let ours = holds(now, want);
    let same = |old: &Item| old.to_string().trim() == found.to_string().trim();
    if !ours && (matches!(want, Want::Element(..)) || old.as_ref().is_some_and(same)) {
        return Ok(());
    }
    if !ours {
        return Err(Refused::mixed(path));
    }
    let Some((last, tables)) = path.split_last() else { return Ok(()) };
    let mut table: &mut dyn TableLike = now.as_table_mut();
    for name in tables {
        let below = table.get_mut(name).and_then(Item::as_table_like_mut);
        table = below.ok_or_else(|| Refused::mixed(path))?;
    }
    match (want, old) {
        (Want::Value(..), Some(old)) => drop(table.insert(last, old)),
        (Want::Value(..), None) => drop(table.remove(last)),
        (Want::Element(_, text), old) => {
            let array = table.get_mut(last).and_then(Item::as_array_mut).ok_or_else(|| Refused::mixed(path))?;
            remove(array, text);
            if array.is_empty() && old.is_none() {
                table.remove(last);
            }
        }
    }
    remove_empty(before, now, tables);
    Ok(())
}

fn remove(array: &mut Array, text: &str) {
    let place = array.iter().position(|element| element.as_str().is_some_and(|element| is_same(element, text)));
    let Some(place) = place else { return };
    array.remove(place);
    // A list on one line begins at its bracket.
    let first = array.get_mut(0).filter(|_| place == 0).map(Written::decor_mut);
    if let Some(first) = first.filter(|decor| decor.prefix().and_then(|prefix| prefix.as_str()) == Some(" ")) {
        first.set_prefix("");
    }
}

/// Removes the tables on this path that are empty and were not there before, the innermost first.
fn remove_empty(before: &DocumentMut, now: &mut DocumentMut, path: &[String]) {
    for depth in (1..=path.len()).rev() {
        let path = &path[..depth];
        let is_empty = at(now, path).and_then(Item::as_table_like).is_some_and(|table| table.is_empty());
        let (Some((last, tables)), true, None) = (path.split_last(), is_empty, at(before, path)) else { continue };
        let mut table: &mut dyn TableLike = now.as_table_mut();
        for name in tables {
            let Some(below) = table.get_mut(name).and_then(Item::as_table_like_mut) else { return };
            table = below;
        }
        let removed = table.remove(last);
        let decor = removed.as_ref().and_then(Item::as_table).map(Table::decor);
        let comment = decor.and_then(|decor| decor.prefix()?.as_str()).unwrap_or_default();
        if comment.contains('#') {
            // It is not ours: it stood at the end of the file.
            let trailing = now.trailing().as_str().unwrap_or_default();
            let text = format!("{}\n{trailing}", comment.trim_end());
            now.set_trailing(text);
        }
    }
}
