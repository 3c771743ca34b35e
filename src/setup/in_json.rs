//! Settings in JSON that somebody else wrote: what is not ours stays as it was typed, to the byte.
//!
//! The lists that we add to stand on the first level. The text is cut at the places that the parser tells of, and
//! what comes of it is read again before it counts.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::want::{Refused, Want, is_same};

/// A member of the object: its name, and where its value stands in the text.
type Member = (String, Range<usize>);

/// What stands in a list: its text, where it is one, and where it stands.
type Element = (Option<String>, Range<usize>);

/// The members of an object, in the order of the text.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Where a part of a text stands in it.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn members(text: &str) -> Result<Vec<Member>, Refused> {
    let Members(members) = serde_json::from_str(text).map_err(unreadable)?;
    Ok(members.into_iter().map(|(name, value)| (name, place(text, value.get()))).collect())
}

fn unreadable(error: serde_json::Error) -> Refused {
    Refused::Unreadable(format!("it is not a JSON object: {error}"))
}

/// The texts in a list, and where they stand.
fn elements(text: &str, (name, at): &Member) -> Result<Vec<Element>, Refused> {
    let list = &text[at.clone()];
    let shape = |_| Refused::Conflict(format!("{name} is not a list"));
    let elements: Vec<&RawValue> = serde_json::from_str(list).map_err(shape)?;
    Ok(elements
        .into_iter()
        .map(|element| (serde_json::from_str(element.get()).ok(), place(text, element.get())))
        .collect())
}

/// Whether the truth stands at a path.
pub(super) fn is_true<const N: usize>(text: &str, path: [&str; N]) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    path.iter().try_fold(&value, |value, name| value.get(name)).and_then(Value::as_bool) == Some(true)
}

fn member(text: &str, name: &str) -> Result<Option<Member>, Refused> {
    let mut found = members(text)?.into_iter().filter(|(own, _)| own == name);
    let first = found.next();
    if found.next().is_some() {
        return Err(Refused::Conflict(format!("{name} stands there twice")));
    }
    Ok(first)
}

/// The texts in a list of the object; none where there is no such list.
pub(super) fn texts(text: &str, name: &str) -> Result<Vec<String>, Refused> {
    let Some(member) = member(text, name)? else { return Ok(Vec::new()) };
    Ok(elements(text, &member)?.into_iter().filter_map(|(element, _)| element).collect())
}

fn list_and_text(want: &Want) -> Option<(&str, &str)> {
    match want {
        Want::Element(path, text) => Some((path.first()?, text)),
        Want::Value(..) => None,
    }
}

fn holds(text: &str, want: &Want) -> Result<bool, Refused> {
    let Some((name, wanted)) = list_and_text(want) else { return Ok(true) };
    let Some(member) = member(text, name)? else { return Ok(false) };
    let elements = elements(text, &member)?;
    Ok(elements.iter().any(|(element, _)| element.as_deref().is_some_and(|element| is_same(element, wanted))))
}

/// The text with our settings.
pub(super) fn merged(text: &str, wants: &[Want]) -> Result<String, Refused> {
    let mut text = if text.trim().is_empty() { "{}\n".to_owned() } else { text.to_owned() };
    for want in wants {
        if !holds(&text, want)? {
            text = put(&text, want)?;
        }
        if !holds(&text, want)? {
            return Err(Refused::shape(want.path(), "a list that can be added to"));
        }
    }
    Ok(text)
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn put(text: &str, want: &Want) -> Result<String, Refused> {
    let Some((name, wanted)) = list_and_text(want) else { return Ok(text.to_owned()) };
    let wanted = quoted(wanted);
    let Some(member) = member(text, name)? else { return Ok(put_list(text, &members(text)?, name, &wanted)) };
    let (at, new) = match elements(text, &member)?.first() {
        Some((_, first)) => {
            // As the first one stands: on a line of its own, or beside the others.
            let gap = &text[member.1.start + 1..first.start];
            (first.start, format!("{wanted},{}", if gap.contains('\n') { gap } else { " " }))
        }
        None => (member.1.start + 1, wanted),
    };
    Ok(format!("{}{new}{}", &text[..at], &text[at..]))
}

/// The text with a list at the end of its object.
fn put_list(text: &str, members: &[Member], name: &str, element: &str) -> String {
    let open = text.find('{').unwrap_or_default() + 1;
    let Some((_, last)) = members.last() else {
        let close = text.rfind('}').unwrap_or(text.len());
        return format!("{}\n  {}: [\n    {element}\n  ]\n{}", &text[..open], quoted(name), &text[close..]);
    };
    let first = text[open..].find('"').map_or(open, |at| open + at);
    let gap = &text[open..first];
    let (before, after) = text.split_at(last.end);
    match gap.rsplit_once('\n') {
        Some((_, indent)) => {
            format!("{before},\n{indent}{}: [\n{indent}{indent}{element}\n{indent}]{after}", quoted(name))
        }
        None => format!("{before}, {}: [{element}]{after}", quoted(name)),
    }
}

/// `now` without our settings, where it says what it said `before`.
pub(super) fn without(before: &str, now: &str, wants: &[Want]) -> Result<String, Refused> {
    let before = if before.trim().is_empty() { "{}" } else { before };
    let mut text = now.to_owned();
    if text.trim().is_empty() {
        return Ok(text);
    }
    for want in wants {
        if holds(&text, want)? && !holds(before, want)? {
            text = take(before, &text, want)?;
        }
        if holds(&text, want)? && !holds(before, want)? {
            return Err(Refused::mixed(want.path()));
        }
    }
    Ok(text)
}

fn take(before: &str, text: &str, want: &Want) -> Result<String, Refused> {
    let (Some((name, wanted)), members) = (list_and_text(want), members(text)?) else { return Ok(text.to_owned()) };
    let Some(own) = members.iter().position(|(own, _)| own == name) else { return Ok(text.to_owned()) };
    let elements = elements(text, &members[own])?;
    let is_ours = |element: &Option<String>| element.as_deref().is_some_and(|element| is_same(element, wanted));
    let Some(place) = elements.iter().position(|(element, _)| is_ours(element)) else { return Ok(text.to_owned()) };
    if elements.len() > 1 || member(before, name)?.is_some() {
        let places: Vec<_> = elements.into_iter().map(|(_, at)| at).collect();
        return Ok(cut(text, &places, place, members[own].1.start + 1..members[own].1.end - 1));
    }
    // Each with its name.
    let open = text.find('{').unwrap_or_default() + 1;
    let mut from = open;
    let mut places = Vec::new();
    for (_, at) in &members {
        let name = text[from..at.start].find('"').map_or(from, |found| from + found);
        places.push(name..at.end);
        from = at.end;
    }
    let close = text.rfind('}').unwrap_or(text.len());
    Ok(cut(text, &places, own, open..close))
}

/// The text without one of the `places` within `whole`, and without its comma.
fn cut(text: &str, places: &[Range<usize>], own: usize, whole: Range<usize>) -> String {
    let gone = if own > 0 {
        places[own - 1].end..places[own].end
    } else {
        match places.get(1) {
            Some(next) => places[0].start..next.start,
            None => whole,
        }
    };
    format!("{}{}", &text[..gone.start], &text[gone.end..])
}
