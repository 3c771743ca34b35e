//! Which file names which: the modules of a crate as its files declare them, and every path in their
//! code followed to the file that defines what it leads to, through `use`, `pub use` and globs.
//!
//! It reads tokens, not types: what a method call leads to, or a macro writes, it does not see. What is
//! under `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};

/// The path of a file of a crate, to its text. Paths begin at the root's folder: `lib.rs`, `oci/digest.rs`.
pub(crate) type Files = BTreeMap<String, String>;

/// What our library is called by our binary, which is another crate.
const LIBRARY: &str = "registry_mirror";

/// Every pair of files of a crate of which the first names something that the second defines. Of the binary
/// that may be in the library beside it.
pub(crate) fn between(files: &Files, root: &str) -> BTreeSet<(String, String)> {
    let mut tree = Tree { modules: Vec::new(), library: None };
    tree.read(files, root, None);
    let own = tree.modules.len();
    if root == "main.rs" && files.contains_key("lib.rs") {
        tree.library = Some(tree.read(files, "lib.rs", None));
    }
    let mut pairs = BTreeSet::new();
    for (number, module) in tree.modules.iter().enumerate().take(own) {
        let used = module.uses.iter().map(|import| &import.path);
        for path in used.chain(&module.paths) {
            if let Some(found) = tree.follow(number, path, &mut Vec::new()) {
                let to = &tree.modules[found.module()].file;
                if *to != module.file {
                    pairs.insert((module.file.clone(), to.clone()));
                }
            }
        }
    }
    pairs
}

/// All modules of a crate; a number is an index.
struct Tree {
    modules: Vec<Module>,
    /// The root of the library, for a binary.
    library: Option<usize>,
}

struct Module {
    parent: Option<usize>,
    file: String,
    children: BTreeMap<String, usize>,
    /// The names of the items that are written here.
    items: BTreeSet<String>,
    uses: Vec<Import>,
    /// Paths in code, as they are written.
    paths: Vec<Vec<String>>,
}

/// One leaf of a `use`. The name is `*` for all names.
struct Import {
    path: Vec<String>,
    name: String,
}

/// Where a path leads.
enum Found {
    Module(usize),
    /// Something that is written in this module.
    Item(usize),
}

impl Found {
    fn module(&self) -> usize {
        match self {
            Found::Module(module) | Found::Item(module) => *module,
        }
    }
}

impl Tree {
    /// Reads a file and, below it, every file that it declares.
    fn read(&mut self, files: &Files, path: &str, parent: Option<usize>) -> usize {
        let text = files.get(path).unwrap_or_else(|| panic!("{path} is declared and not there"));
        let tokens = without_tests(&tokens(text));
        self.module(files, &tokens, path, &folder_of(path, parent.is_none()), parent)
    }

    /// Reads what is between the braces of a module, or all of a file.
    fn module(&mut self, files: &Files, tokens: &[String], file: &str, folder: &str, parent: Option<usize>) -> usize {
        let number = self.modules.len();
        self.modules.push(Module {
            parent,
            file: file.to_owned(),
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            uses: Vec::new(),
            paths: Vec::new(),
        });
        let mut at = 0;
        while at < tokens.len() {
            let next = |ahead: usize| tokens.get(at + ahead).map_or("", String::as_str);
            match next(0) {
                "mod" if next(2) == ";" => {
                    let child = self.read(files, &format!("{folder}{}.rs", next(1)), Some(number));
                    self.modules[number].children.insert(next(1).to_owned(), child);
                    at += 3;
                }
                "mod" if next(2) == "{" => {
                    let end = end_of_group(tokens, at + 2);
                    let below = format!("{folder}{}/", next(1));
                    let child = self.module(files, &tokens[at + 3..end], file, &below, Some(number));
                    self.modules[number].children.insert(next(1).to_owned(), child);
                    at = end + 1;
                }
                // `impl Trait + use<'a>` is no import.
                "use" if next(1) != "<" => {
                    let end = tokens[at..].iter().position(|token| token == ";").map_or(tokens.len(), |ends| at + ends);
                    leaves(&tokens[at + 1..end], &[], &mut self.modules[number].uses);
                    at = end + 1;
                }
                "extern" if next(1) == "crate" => {
                    let name = if next(3) == "as" { next(4) } else { next(2) }.to_owned();
                    let path = vec![if next(2) == "self" { "crate" } else { next(2) }.to_owned()];
                    self.modules[number].uses.push(Import { path, name });
                    at += 3;
                }
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" | "macro_rules" => {
                    let name = if next(1) == "!" { next(2) } else { next(1) };
                    self.modules[number].items.insert(name.to_owned());
                    at += 1;
                }
                word if is_name(word) && next(1) == "::" && !matches!(before(tokens, at), "::" | ".") => {
                    let path = path_at(tokens, at);
                    at += 2 * path.len() - 1;
                    self.modules[number].paths.push(path);
                }
                // What is not written here, nor imported by its name, may come with all names of somewhere.
                word if is_name(word)
                    && (word.starts_with(char::is_uppercase) || matches!(next(1), "(" | "!"))
                    && !matches!(before(tokens, at), "::" | "." | "fn") =>
                {
                    self.modules[number].paths.push(vec![word.to_owned()]);
                    at += 1;
                }
                _ => at += 1,
            }
        }
        number
    }

    /// Where `path` leads from `module`; `None` where that is not in this crate. `passed` are the imports
    /// on the way, which may run in a circle.
    fn follow(&self, module: usize, path: &[String], passed: &mut Vec<(usize, String)>) -> Option<Found> {
        let mut at = module;
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                while let Some(parent) = self.modules[at].parent {
                    at = parent;
                }
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at = self.modules[at].parent?;
                    rest = &rest[1..];
                }
            }
            // A name from outside, or from this module itself.
            first => match self.look_up(at, first, passed)? {
                Found::Module(found) => (at, rest) = (found, &rest[1..]),
                item @ Found::Item(_) => return Some(item),
            },
        }
        for name in rest.iter().filter(|name| *name != "self" && *name != "*") {
            match self.look_up(at, name, passed) {
                Some(Found::Module(found)) => at = found,
                Some(item) => return Some(item),
                // Written by a macro, or not there at all; for who looks through all names of a module, the latter.
                None => return passed.is_empty().then_some(Found::Item(at)),
            }
        }
        Some(Found::Module(at))
    }

    /// What a name stands for within `module`.
    fn look_up(&self, module: usize, name: &str, passed: &mut Vec<(usize, String)>) -> Option<Found> {
        let here = &self.modules[module];
        if let Some(child) = here.children.get(name) {
            return Some(Found::Module(*child));
        }
        if here.items.contains(name) {
            return Some(Found::Item(module));
        }
        if passed.iter().any(|(there, known)| *there == module && known == name) {
            return None;
        }
        passed.push((module, name.to_owned()));
        let mut found = None;
        if let Some(import) = here.uses.iter().find(|import| import.name == name) {
            // `use name;` leads out of this module, not back to itself.
            found = self.follow(module, &import.path, passed);
        }
        for import in here.uses.iter().filter(|import| import.name == "*") {
            if found.is_none()
                && let Some(Found::Module(all)) = self.follow(module, &import.path, passed)
            {
                found = self.look_up(all, name, passed);
            }
        }
        passed.pop();
        found.or_else(|| self.library.filter(|_| name == LIBRARY).map(Found::Module))
    }
}

/// The folder in which the modules lie that a file declares.
fn folder_of(path: &str, is_root: bool) -> String {
    match (is_root, path.rsplit_once('/')) {
        (true, Some((folder, _))) => format!("{folder}/"),
        (true, None) => String::new(),
        (false, _) => format!("{}/", path.trim_end_matches(".rs")),
    }
}

/// Splits `a::{b, c as d, e::*}` into its leaves.
fn leaves(tokens: &[String], front: &[String], imports: &mut Vec<Import>) {
    let mut path = front.to_vec();
    let mut name = None;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => {
                let end = end_of_group(tokens, at);
                for member in split(&tokens[at + 1..end]) {
                    leaves(member, &path, imports);
                }
                return;
            }
            "as" => {
                name = tokens.get(at + 1).cloned();
                break;
            }
            "::" if path.is_empty() => return, // `::name` is another crate.
            "::" => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    let last = path.iter().rfind(|word| *word != "self").cloned();
    if let Some(name) = name.or(last) {
        imports.push(Import { path, name });
    }
}

/// The members of a group, at its commas.
fn split(group: &[String]) -> Vec<&[String]> {
    let mut members = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, token) in group.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&group[start..]);
    members.retain(|member| !member.is_empty());
    members
}

/// The names of the path that begins here.
fn path_at(tokens: &[String], start: usize) -> Vec<String> {
    let mut path = vec![tokens[start].clone()];
    let mut at = start + 1;
    while tokens.get(at).is_some_and(|token| token == "::") && tokens.get(at + 1).is_some_and(|word| is_name(word)) {
        path.push(tokens[at + 1].clone());
        at += 2;
    }
    path
}

fn before(tokens: &[String], at: usize) -> &str {
    at.checked_sub(1).and_then(|at| tokens.get(at)).map_or("", String::as_str)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where the bracket closes that opens here.
fn end_of_group(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// Leaves out every item under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if starts_with(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"])
            || starts_with(&tokens[at..], &["#", "[", "cfg", "(", "all", "(", "test"])
        {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn starts_with(tokens: &[String], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token == word)
}

/// Behind an item with its attributes: behind its body, or its semicolon, or its comma.
fn end_of_item(tokens: &[String], start: usize) -> usize {
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" | "," => return at + 1,
            "{" => return end_of_group(tokens, at) + 1,
            "(" | "[" => at = end_of_group(tokens, at) + 1,
            // The brace of what it is in.
            "}" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Code without comments, strings and lifetimes, and without spaces where none are needed.
pub(crate) fn bare(text: &str) -> String {
    let mut bare = String::new();
    for token in tokens(text) {
        if bare.ends_with(is_word) && token.starts_with(is_word) {
            bare.push(' ');
        }
        bare += &token;
    }
    bare
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names, `::`, and all other signs one by one; without comments, strings and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            length_of_comment(rest)
        } else if let Some(length) = length_of_literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn length_of_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of a string, a character or a lifetime that begins here.
fn length_of_literal(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))?;
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if prefix <= 2 && text[..prefix].contains('r') && after[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix + hashes + 1;
        return Some(text[body..].find(&end).map_or(text.len(), |found| body + found + end.len()));
    }
    let quote = after.chars().next().filter(|quote| prefix <= 1 && matches!(quote, '"' | '\''))?;
    let inside = &after[1..];
    let is_lifetime = quote == '\'' && !inside.starts_with('\\') && inside.chars().nth(1) != Some('\'');
    if is_lifetime {
        let name = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
        return Some(prefix + 1 + name);
    }
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(prefix + 1 + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}
