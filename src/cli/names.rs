//! Names of images in files: one a line, or the `image:` keys of a compose or Kubernetes file, however they are
//! written. What is no YAML, such as a template of some, is read line by line. `${NAME:-default}` is filled in as
//! compose does.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser};

/// The names in a file. A file with `image:` keys is taken for YAML, any other for a list with
/// `#` comments. `variable` looks up the environment.
///
/// # Errors
/// The name of a variable that is not set and has no default.
pub(super) fn names(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let plain = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut found = in_yaml(text).unwrap_or_default();
    if found.is_empty() {
        found = text.lines().filter_map(value_of_image).map(Cow::Borrowed).collect();
    }
    if found.is_empty() {
        found = plain().map(Cow::Borrowed).collect();
    }
    let mut names = Vec::new();
    for value in found {
        let name = filled_in(&value, variable)?;
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The texts behind the key `image`, wherever they stand; `None` where it is no YAML.
fn in_yaml(text: &str) -> Option<Vec<Cow<'_, str>>> {
    let (mut found, mut anchors) = (Vec::new(), HashMap::new());
    // What is being read: of a mapping, whether a key is next, and whether the last one was ours.
    let mut inside: Vec<Option<(bool, bool)>> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (is_node, said) = match event.ok()?.0 {
            Event::Scalar(said, _, anchor, _) => {
                anchors.insert(anchor, said.clone());
                (true, Some(said))
            }
            Event::Alias(anchor) => (true, anchors.get(&anchor).cloned()),
            Event::MappingEnd | Event::SequenceEnd => {
                inside.pop();
                (true, None)
            }
            Event::MappingStart(..) => {
                inside.push(Some((true, false)));
                (false, None)
            }
            Event::SequenceStart(..) => {
                inside.push(None);
                (false, None)
            }
            _ => (false, None),
        };
        match inside.last_mut() {
            Some(Some((is_key @ true, is_ours))) if is_node => {
                (*is_key, *is_ours) = (false, said.as_deref() == Some("image"));
            }
            Some(Some((is_key, is_ours))) if is_node => {
                found.extend(said.filter(|said| *is_ours && !said.is_empty()));
                *is_key = true;
            }
            _ => {}
        }
    }
    Some(found)
}

/// The value of an `image:` key, without quotes and comment.
fn value_of_image(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("- ").trim_start();
    let value = ["image:", "\"image\":", "'image':"].iter().find_map(|key| line.strip_prefix(key))?.trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.split(quote).next());
    let bare = value.split(" #").next().unwrap_or_default().trim().trim_end_matches(',');
    Some(quoted.unwrap_or(bare)).filter(|value| !value.is_empty() && !value.starts_with('#'))
}

fn filled_in(value: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let Some((before, rest)) = value.split_once("${") else { return Ok(value.to_owned()) };
    let Some((inner, after)) = rest.split_once('}') else { return Ok(value.to_owned()) };
    let (name, default) = match inner.split_once('-') {
        Some((name, default)) => (name.trim_end_matches(':'), Some(default)),
        None => (inner.split([':', '?']).next().unwrap_or_default(), None),
    };
    let set = variable(name).filter(|value| !value.is_empty());
    let middle = set.or_else(|| default.map(str::to_owned)).ok_or_else(|| name.to_owned())?;
    Ok(format!("{before}{middle}{}", filled_in(after, variable)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        names(text, &|name| (name == "TAG").then(|| "9".to_owned()))
    }

    #[test]
    fn a_list_has_one_name_a_line() {
        let text = "# ours\nredis:7\n\n  ghcr.io/a/b@sha256:12  \nredis:7\n";
        assert_eq!(read(text), Ok(vec!["redis:7".to_owned(), "ghcr.io/a/b@sha256:12".to_owned()]));
    }

    #[test]
    fn a_compose_or_kubernetes_file_names_its_images() {
        let text = "services:\n  db:\n    image: \"postgres:17\" # the database\n  web:\n    image: nginx # x\n    \
                    build: .\nspec:\n  containers:\n  - image: ghcr.io/a/b:1\n    name: image\n  - name: x\n    \
                    'image': 'c'\n  cut:\n    image:\n";
        let expected = ["postgres:17", "nginx", "ghcr.io/a/b:1", "c"].map(str::to_owned);
        assert_eq!(read(text), Ok(expected.to_vec()));
    }

    #[test]
    fn an_image_is_found_however_its_key_is_written() {
        for text in [
            "a: {image: big:1}",
            "- {name: a, image: big:1}",
            "a:\n  image : big:1",
            "image:\n  big:1",
            "'image' : big:1",
            "x: &it big:1\na: {image: *it}",
            "a: 1\n---\nb:\n- {c: {d: [e], f: {}}, image: \"big:1\"}",
            "{{ if .a }}\n  image: big:1\n{{ end }}",
        ] {
            assert_eq!(read(text), Ok(vec!["big:1".to_owned()]), "{text}");
        }
    }

    #[test]
    fn variables_are_filled_in_as_compose_does() {
        for (value, expected) in [
            ("redis:${TAG}", Ok("redis:9")),
            ("redis:${OTHER:-7}", Ok("redis:7")),
            ("${OTHER-docker.io}/redis:${TAG:-1}", Ok("docker.io/redis:9")),
            ("redis:${OTHER}", Err("OTHER")),
            ("redis:${OTHER:?must be set}", Err("OTHER")),
        ] {
            let found = read(&format!("image: {value}\n"));
            let expected = expected.map(|name: &str| vec![name.to_owned()]).map_err(str::to_owned);
            assert_eq!(found, expected, "{value}");
        }
    }
}
