//! Text from outside as a terminal may have it: nothing in it moves the cursor, colours, turns the
//! direction of writing, or passes for a line of ours.
//!
//! What comes from registries, bundles and daemons can hold anything. Characters that a terminal obeys are
//! written as what they are, `\u{1b}` for an escape. All that commands say goes through here, and the log for people.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

/// Whether a terminal, or whoever reads there, may take this for more than a character.
fn is_obeyed(c: char) -> bool {
    let turns_direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns_direction || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escaped(text: &str, obeyed: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&obeyed) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            escape(c, &mut written);
        } else {
            written.push(c);
        }
    }
    Cow::Owned(written)
}

/// Lines for people, with their ends.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'), |c, written| written.extend(c.escape_unicode()))
}

/// A part of a line.
pub fn word(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed, |c, written| written.extend(c.escape_unicode()))
}

/// JSON that means the same.
pub fn json(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && !c.is_ascii();
    // All of them are in the basic plane.
    escaped(text, |c| obeyed(c) || c == '\u{7f}', |c, written| written.push_str(&format!("\\u{:04x}", u32::from(c))))
}

/// A document, with texts of which each is a part of a line.
pub fn document(json: &[u8]) -> Cow<'_, [u8]> {
    if json.is_ascii() && !json.contains(&b'\\') && !json.contains(&0x7f) {
        return Cow::Borrowed(json);
    }
    let Ok(mut value) = serde_json::from_slice(json) else { return Cow::Borrowed(json) };
    tame(&mut value);
    serde_json::to_vec(&value).map_or(Cow::Borrowed(json), Cow::Owned)
}

fn tame(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(tamed) = word(text) {
                *text = tamed;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(tame),
        Value::Object(members) => members.values_mut().for_each(tame),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A path as it is typed in a shell.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_as_what_it_is() {
        for (text, expected) in [
            ("redis:7\n  complete", "redis:7\n  complete"),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "\\u{1b}[2J\\u{1b}]0;x\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\rb\u{8}c\u{7f}", "a\\u{d}b\\u{8}c\\u{7f}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("Größe 7 µ…", "Größe 7 µ…"),
        ] {
            assert_eq!(lines(text), expected);
        }
    }

    #[test]
    fn a_path_is_told_as_it_is_typed() {
        for (path, typed) in [
            ("/var/cache/registry-mirror", "/var/cache/registry-mirror"),
            ("/srv/my store", "'/srv/my store'"),
            ("/srv/$(id)", "'/srv/$(id)'"),
            ("/srv/it's", "'/srv/it'\\''s'"),
        ] {
            assert_eq!(quoted(Path::new(path)), typed);
        }
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({ "text": "\u{9b}31m \u{202e} \u{1b} \n \u{7f} ü" });
        let written = value.to_string();
        let tamed = json(&written);
        assert!(!tamed.contains(is_obeyed), "{tamed}");
        assert_eq!(serde_json::from_str::<Value>(&tamed).expect("JSON"), value);
    }

    #[test]
    fn a_text_of_a_document_cannot_pass_for_a_line() {
        let told = br#"{"media_type":"x\n  layer  stored","list":["\u001b[0m",{"a":"ok"}],"size":7}"#;
        let tamed: Value = serde_json::from_slice(&document(told)).expect("JSON");
        let expected = serde_json::json!({
            "media_type": "x\\u{a}  layer  stored", "list": ["\\u{1b}[0m", { "a": "ok" }], "size": 7
        });
        assert_eq!(tamed, expected);
    }
}
