//! Settings in YAML that somebody else wrote: lines are added and taken away, and all others stay as they are.
//!
//! The parser says where things stand; what comes of the cut is read again, and counts only if it says what was
//! there before and ours, and nothing else. What is written in a way that lines cannot be added to (a mapping in
//! braces, anchors, several documents) is refused.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::want::{Refused, Want, is_same};

/// What stands somewhere, and where, in bytes.
#[derive(Clone, Debug)]
struct Node {
    what: What,
    at: Range<usize>,
}

#[derive(Clone, Debug)]
enum What {
    Nothing,
    /// What was typed, and whether it stood in quotes.
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// What the text says, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Data {
    Nothing,
    Scalar(String, bool),
    List(Vec<Data>),
    Map(Vec<(Data, Data)>),
}

impl Node {
    fn data(&self) -> Data {
        match &self.what {
            What::Nothing => Data::Nothing,
            What::Scalar(text, quoted) => Data::Scalar(text.clone(), *quoted),
            What::List(nodes) => Data::List(nodes.iter().map(Node::data).collect()),
            What::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.data(), value.data())).collect();
                entries.sort();
                Data::Map(entries)
            }
        }
    }

    fn text(&self) -> Option<&str> {
        match &self.what {
            What::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    fn entry(&self, name: &str) -> Option<&(Node, Node)> {
        match &self.what {
            What::Map(entries) => entries.iter().find(|(key, _)| key.text() == Some(name)),
            _ => None,
        }
    }

    fn at_path(&self, path: &[String]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| Some(&node.entry(name)?.1))
    }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    /// Where each character begins, and the end.
    bytes: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn event(&mut self) -> Result<(Event<'a>, Span), Refused> {
        let event = self.events.next().ok_or_else(|| Refused::Unreadable("it ends early".to_owned()))?;
        event.map_err(|error| Refused::Unreadable(error.to_string()))
    }

    fn byte(&self, index: usize) -> usize {
        self.bytes.get(index).or(self.bytes.last()).copied().unwrap_or_default()
    }

    /// The node that begins now; `None` at the end of what it would stand in.
    fn node(&mut self) -> Result<Option<Node>, Refused> {
        let (event, span) = self.event()?;
        let at = self.byte(span.start.index())..self.byte(span.end.index());
        let what = match event {
            Event::Scalar(_, _, anchor, Some(_))
            | Event::Scalar(_, _, anchor, None)
            | Event::SequenceStart(anchor, None)
            | Event::MappingStart(anchor, None)
                if anchor != 0 =>
            {
                return Err(unlike("anchors"));
            }
            Event::Scalar(.., Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(unlike("tags"));
            }
            Event::Alias(_) => return Err(unlike("aliases")),
            Event::Scalar(text, ScalarStyle::Plain, ..) if text.is_empty() => What::Nothing,
            Event::Scalar(text, style, ..) => What::Scalar(text.into_owned(), style != ScalarStyle::Plain),
            Event::SequenceStart(..) => {
                let mut nodes = Vec::new();
                while let Some(node) = self.node()? {
                    nodes.push(node);
                }
                What::List(nodes)
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                while let Some(key) = self.node()? {
                    let value = self.node()?.ok_or_else(|| Refused::Unreadable("a key has no value".to_owned()))?;
                    entries.push((key, value));
                }
                What::Map(entries)
            }
            Event::SequenceEnd | Event::MappingEnd | Event::DocumentEnd | Event::StreamEnd => return Ok(None),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => return self.node(),
        };
        Ok(Some(Node { what, at }))
    }
}

fn unlike(what: &str) -> Refused {
    Refused::Conflict(format!("it is written with {what}, among which lines cannot be added safely"))
}

fn parsed(text: &str) -> Result<Node, Refused> {
    // Some parsers take it, that of the client does not.
    if text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        return Err(Refused::Unreadable("a line is indented with a tab".to_owned()));
    }
    let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut reader = Reader { events: Parser::new_from_str(text), bytes };
    let nothing = Node { what: What::Nothing, at: text.len()..text.len() };
    let root = reader.node()?.unwrap_or(nothing);
    // Behind the one document.
    for event in reader.events.by_ref() {
        match event.map_err(|error| Refused::Unreadable(error.to_string()))?.0 {
            Event::DocumentEnd | Event::StreamEnd => {}
            _ => return Err(unlike("several documents")),
        }
    }
    if !matches!(root.what, What::Nothing | What::Map(_)) {
        return Err(Refused::Unreadable("it is not a mapping".to_owned()));
    }
    Ok(root)
}

/// Whether a node is written in brackets or braces.
fn is_flow(text: &str, node: &Node) -> bool {
    text[node.at.start..].starts_with(['[', '{'])
}

/// How far the line of a place is indented up to it.
fn column(text: &str, at: usize) -> usize {
    at - text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// Where the next line begins.
fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

/// Where the line of a place begins.
fn line(text: &str, at: usize) -> usize {
    at - column(text, at)
}

/// Where the last thing in a node ends.
fn end(node: &Node) -> usize {
    match &node.what {
        What::Nothing | What::Scalar(..) => node.at.end,
        What::List(nodes) => nodes.last().map_or(node.at.end, end),
        What::Map(entries) => entries.last().map_or(node.at.end, |(_, value)| end(value)),
    }
}

fn inserted(text: &str, at: usize, new: &str) -> String {
    let gap = if at > 0 && at == text.len() && !text.ends_with('\n') { "\n" } else { "" };
    format!("{}{gap}{new}{}", &text[..at], &text[at..])
}

/// A name as a key.
fn key(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_alphabetic()) && !name.contains(':');
    if plain { name.to_owned() } else { format!("\"{name}\"") }
}

/// The lines of what is missing, each further in than the one before it.
fn lines(path: &[String], element: &str, indent: usize) -> String {
    let mut lines = String::new();
    for (depth, name) in path.iter().enumerate() {
        lines.push_str(&format!("{}{}:\n", " ".repeat(indent + 2 * depth), key(name)));
    }
    lines.push_str(&format!("{}- \"{element}\"\n", " ".repeat(indent + 2 * path.len())));
    lines
}

fn place_of(list: &Node, element: &str) -> Option<usize> {
    match &list.what {
        What::List(nodes) => nodes.iter().position(|node| node.text().is_some_and(|text| is_same(text, element))),
        _ => None,
    }
}

fn holds(root: &Node, path: &[String], element: &str) -> bool {
    root.at_path(path).is_some_and(|list| place_of(list, element).is_some())
}

/// Whether something stands at a path.
pub(super) fn is_there<const N: usize>(text: &str, path: [&str; N]) -> Result<bool, Refused> {
    let node = parsed(text)?;
    let found = path.iter().try_fold(&node, |node, name| Some(&node.entry(name)?.1));
    Ok(found.is_some_and(|node| !matches!(node.what, What::Nothing)))
}

/// The texts in the list at a path; `None` where nothing stands there.
pub(super) fn texts_at<const N: usize>(text: &str, path: [&str; N]) -> Result<Option<Vec<String>>, Refused> {
    let node = parsed(text)?;
    let found = path.iter().try_fold(&node, |node, name| Some(&node.entry(name)?.1));
    match found.map(|node| &node.what) {
        None => Ok(None),
        Some(What::List(nodes)) => Ok(Some(nodes.iter().filter_map(Node::text).map(str::to_owned).collect())),
        Some(_) => Err(Refused::shape(&path.map(str::to_owned), "a list")),
    }
}

/// The text with our settings.
pub(super) fn merged(text: &str, wants: &[Want]) -> Result<String, Refused> {
    let mut text = text.to_owned();
    for want in wants {
        let Want::Element(path, element) = want else { continue };
        let root = parsed(&text)?;
        if holds(&root, path, element) {
            continue;
        }
        let mut expected = root.data();
        add(&mut expected, path, element);
        let new = put(&text, &root, path, element)?;
        text = proven(new, &expected)?;
    }
    Ok(text)
}

fn proven(text: String, expected: &Data) -> Result<String, Refused> {
    match parsed(&text) {
        Ok(root) if root.data() == *expected => Ok(text),
        _ => Err(unlike("lines")),
    }
}

/// What is to be said.
fn add(data: &mut Data, path: &[String], element: &str) {
    let Some((first, rest)) = path.split_first() else {
        let own = Data::Scalar(element.to_owned(), true);
        match data {
            Data::List(list) => list.insert(0, own),
            other => *other = Data::List(vec![own]),
        }
        return;
    };
    if *data == Data::Nothing {
        *data = Data::Map(Vec::new());
    }
    let Data::Map(entries) = data else { return };
    let is_named = |known: &Data| matches!(known, Data::Scalar(text, _) if text == first);
    let place = entries.iter().position(|(known, _)| is_named(known)).unwrap_or_else(|| {
        entries.push((Data::Scalar(first.clone(), key(first) != *first), Data::Nothing));
        entries.len() - 1
    });
    add(&mut entries[place].1, rest, element);
    entries.sort();
}

fn put(text: &str, root: &Node, path: &[String], element: &str) -> Result<String, Refused> {
    let (mut node, mut indent) = (root, 0);
    for (depth, name) in path.iter().enumerate() {
        match &node.what {
            What::Map(entries) if is_flow(text, node) || entries.is_empty() => return Err(unlike("braces")),
            What::Map(entries) => match node.entry(name) {
                Some((key, value)) => {
                    indent = column(text, key.at.start);
                    if matches!(value.what, What::Nothing) {
                        // Behind the name, which has nothing yet.
                        let new = lines(&path[depth + 1..], element, indent + 2);
                        return Ok(inserted(text, next_line(text, key.at.end), &new));
                    }
                    node = value;
                }
                None => {
                    let first = entries[0].0.at.start;
                    let new = lines(&path[depth..], element, column(text, first));
                    // The whole file grows at its end, its parts at their beginning, where there is no doubt.
                    let at = if depth == 0 { text.len() } else { line(text, first) };
                    return Ok(inserted(text, at, &new));
                }
            },
            What::Nothing => return Ok(inserted(text, text.len(), &lines(&path[depth..], element, indent))),
            What::Scalar(..) | What::List(_) => return Err(Refused::shape(&path[..depth], "a mapping")),
        }
    }
    match &node.what {
        What::List(_) if text[node.at.start..].starts_with('[') => {
            let rest = text[node.at.start + 1..].trim_start();
            let comma = if rest.starts_with(']') { "" } else { ", " };
            Ok(inserted(text, node.at.start + 1, &format!("\"{element}\"{comma}")))
        }
        What::List(nodes) => {
            // The dash of the first one, which may stand below the name or further in.
            let start = nodes.first().map(|first| line(text, first.at.start)).ok_or_else(|| unlike("lists"))?;
            let dash = start + text[start..].len() - text[start..].trim_start_matches(' ').len();
            let indent = &text[start..dash];
            Ok(inserted(text, start, &format!("{indent}- \"{element}\"\n")))
        }
        _ => Err(Refused::shape(path, "a list")),
    }
}

/// `now` without our settings, where it says what it said `before`.
pub(super) fn without(before: &str, now: &str, wants: &[Want]) -> Result<String, Refused> {
    let before = parsed(before)?;
    let mut text = now.to_owned();
    for want in wants {
        let Want::Element(path, element) = want else { continue };
        let root = parsed(&text)?;
        if holds(&before, path, element) || !holds(&root, path, element) {
            continue;
        }
        // As much as is ours alone: the outermost name that was not there before and leads to nothing else.
        let is_ours = |depth: &usize| {
            let named = &path[..=*depth];
            before.at_path(named).is_none() && root.at_path(named).is_some_and(leads_to_one)
        };
        let mut expected = root.data();
        let cut = match (0..path.len()).find(is_ours) {
            Some(depth) => {
                drop_entry(&mut expected, &path[..=depth]);
                entry_lines(&text, &root, &path[..=depth])
            }
            None => {
                drop_element(&mut expected, path, element);
                element_lines(&text, &root, path, element)
            }
        };
        let cut = cut.ok_or_else(|| Refused::mixed(path))?;
        let new = format!("{}{}", &text[..cut.start], &text[cut.end..]);
        text = proven(new, &expected).map_err(|_| Refused::mixed(path))?;
    }
    Ok(text)
}

fn leads_to_one(node: &Node) -> bool {
    match &node.what {
        What::List(nodes) => nodes.len() == 1,
        What::Map(entries) => entries.len() == 1 && leads_to_one(&entries[0].1),
        What::Nothing | What::Scalar(..) => false,
    }
}

fn entry_lines(text: &str, root: &Node, path: &[String]) -> Option<Range<usize>> {
    let (last, parents) = path.split_last()?;
    let (key, value) = root.at_path(parents)?.entry(last)?;
    Some(line(text, key.at.start)..next_line(text, end(value)))
}

fn element_lines(text: &str, root: &Node, path: &[String], element: &str) -> Option<Range<usize>> {
    let list = root.at_path(path)?;
    let What::List(nodes) = &list.what else { return None };
    let place = place_of(list, element)?;
    if text[list.at.start..].starts_with('[') {
        return Some(match nodes.get(place + 1) {
            Some(next) => nodes[place].at.start..next.at.start,
            None if place > 0 => nodes[place - 1].at.end..nodes[place].at.end,
            None => nodes[place].at.clone(),
        });
    }
    Some(line(text, nodes[place].at.start)..next_line(text, nodes[place].at.end))
}

/// What is not to be said any more.
fn drop_entry(data: &mut Data, path: &[String]) {
    let (Some((first, rest)), Data::Map(entries)) = (path.split_first(), &mut *data) else { return };
    let is_named = |known: &Data| matches!(known, Data::Scalar(text, _) if text == first);
    if rest.is_empty() {
        entries.retain(|(known, _)| !is_named(known));
    } else {
        entries.iter_mut().filter(|(known, _)| is_named(known)).for_each(|(_, value)| drop_entry(value, rest));
    }
    // A name with nothing behind it.
    if entries.is_empty() {
        *data = Data::Nothing;
    }
}

fn drop_element(data: &mut Data, path: &[String], element: &str) {
    match (path.split_first(), data) {
        (Some((first, rest)), Data::Map(entries)) => {
            let is_named = |known: &Data| matches!(known, Data::Scalar(text, _) if text == first);
            let named = entries.iter_mut().filter(|(known, _)| is_named(known));
            named.for_each(|(_, value)| drop_element(value, rest, element));
        }
        (None, Data::List(list)) => {
            let is_ours = |known: &Data| matches!(known, Data::Scalar(text, _) if is_same(text, element));
            if let Some(place) = list.iter().position(is_ours) {
                list.remove(place);
            }
        }
        _ => {}
    }
}
