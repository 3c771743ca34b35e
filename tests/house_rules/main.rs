//! House rules, checked by a machine: layers, no circle of files, one crate one place, module headers,
//! no unsafe code, and an example file that is complete and true. A rule that is in the way may be
//! changed here, with its reason.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod circles;
mod growth;
mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use registry_mirror::config::file::{File, Upstream};
use registry_mirror::config::{Config, Overrides};

/// Which of our modules a module may name, by the start of its path below `src`; the first that
/// fits counts. `daemon` wires and may name all.
const LAYERS: &[(&str, &[&str])] = &[
    ("oci", &["oci"]),
    ("documents", &["oci", "documents"]),
    ("clock", &["oci", "documents", "clock"]),
    ("outcome", &["oci", "outcome"]),
    ("carrier", &["carrier"]),
    ("clients", &["clients"]),
    ("confine", &["confine"]),
    ("small_file", &["small_file"]),
    ("staged", &["staged"]),
    ("owed", &["small_file", "staged", "owed"]),
    ("metadata", &["oci", "clock", "owed", "small_file", "staged", "metadata"]),
    // Decisions only: it names what they are about.
    ("access", &["oci", "metadata", "access"]),
    ("blob_store", &["oci", "clock", "owed", "plain", "small_file", "staged", "blob_store"]),
    // No port of ours: what tests exchange is the object store in it.
    (
        "tier",
        &["oci", "carrier", "clock", "metadata", "blob_store", "metrics", "owed", "setting_file", "small_file", "tier"],
    ),
    ("upstream", &["oci", "carrier", "clock", "clients", "confine", "setting_file", "upstream"]),
    // Below both use cases, as both need it and one uses the other.
    ("graph", &["oci", "documents", "metadata", "blob_store", "graph"]),
    (
        "mirror",
        &[
            "oci",
            "carrier",
            "documents",
            "clock",
            "outcome",
            "clients",
            "access",
            "metadata",
            "blob_store",
            "upstream",
            "owed",
            "tier",
            "metrics",
            "graph",
            "bundle",
            "mirror",
        ],
    ),
    // Decisions only: facts in, a line out.
    ("doctor", &["oci", "documents", "clock", "plain", "upstream", "doctor"]),
    ("metrics", &["oci", "outcome", "metrics"]),
    ("audit", &["oci", "clock", "confine", "documents", "metrics", "audit"]),
    ("usage", &["oci", "clock", "documents", "outcome", "metrics", "small_file", "staged", "usage"]),
    ("bundle", &["oci", "documents", "clock", "metadata", "blob_store", "graph", "bundle"]),
    ("plain", &["plain"]),
    ("setting_file", &["setting_file"]),
    ("telemetry", &["plain", "telemetry"]),
    // Settings belong to who obeys them; the adapters stay out of reach.
    (
        "config",
        &[
            "oci",
            "documents",
            "telemetry",
            "audit",
            "clients",
            "access",
            "upstream",
            "tier",
            "mirror",
            "server",
            "config",
            "setting_file",
        ],
    ),
    // Decisions only: contents of files in, contents of files out.
    ("setup", &["oci", "documents", "setup"]),
    ("systemd", &["systemd"]),
    (
        "server",
        &[
            "oci",
            "clock",
            "outcome",
            "clients",
            "access",
            "audit",
            "blob_store",
            "metrics",
            "mirror",
            "setting_file",
            // What the page for browsers shows is what it writes.
            "setup",
            "server",
        ],
    ),
    // Both listeners share the accept loop of the server.
    (
        "admin",
        &["oci", "documents", "clock", "outcome", "audit", "metrics", "usage", "graph", "mirror", "server", "admin"],
    ),
    ("daemon", &["*"]),
    // `upstream` for the port that `bench` pulls through, `doctor` for what it knows of by name, and its report.
    (
        "cli",
        &[
            "oci",
            "documents",
            "clock",
            "config",
            "plain",
            "setup",
            "setting_file",
            "telemetry",
            "upstream",
            "doctor",
            "daemon",
            "cli",
        ],
    ),
    // A map of the crate.
    ("lib", &[]),
    // What runs before it is compiled.
    ("build", &[]),
    ("main", &["cli"]),
    ("", &[]),
];

/// The wings of the mirror, nouns first: each may name those before it.
const WINGS: [&str; 8] = ["flight", "recall", "room", "keep", "fill", "answer", "images", "scrub"];

/// The adapters that touch disk and network: named by nobody but the wiring and themselves.
const ADAPTERS: [&str; 3] = ["metadata::sled", "blob_store::local", "upstream::http"];

/// One external crate, one place: the starts of the paths that may name it.
const PLACES: &[(&str, &[&str])] = &[
    ("aws_lc_rs", &["server/authenticate", "server/tls", "tier/proof.rs", "upstream/http/trust.rs", "cli/client/tls"]),
    ("base64", &["upstream", "server/authenticate"]),
    ("bcrypt", &["server/authenticate/passwords.rs"]),
    ("bytesize", &["config", "cli", "daemon/preflight/store.rs", "doctor", "mirror/images/problems.rs", "telemetry"]),
    ("clap", &["cli"]),
    // Files that may be compressed, and answers.
    ("flate2", &["bundle", "upstream/http/coding.rs"]),
    ("governor", &["clients/rate.rs"]),
    ("h2", &["upstream/http"]),
    ("humantime", &["config", "cli", "documents"]),
    // reqwest's errors are those of what it stands on: h2 and hyper are read there, and not asked for anything.
    ("hyper", &["server", "admin", "cli/client", "upstream/http/wire.rs"]),
    ("hyper_util", &["server", "admin", "cli/client"]),
    ("indicatif", &["cli"]),
    ("ipnet", &["clients/forwarded.rs"]),
    ("jsonwebtoken", &["server/authenticate/tokens.rs"]),
    ("landlock", &["confine.rs"]),
    ("moka", &["mirror", "upstream", "server/authenticate"]),
    ("object_store", &["tier/bucket"]),
    ("oci_spec", &["oci"]),
    ("prometheus_client", &["metrics"]),
    ("psl", &["upstream"]),
    // object_store's own client follows redirects, and it takes no other than reqwest's.
    ("reqwest", &["upstream/http", "tier/bucket/listening.rs"]),
    ("rustls", &["server/tls", "upstream/http", "cli/client/tls"]),
    ("rustls_platform_verifier", &["upstream/http/trust.rs", "cli/client/tls"]),
    ("saphyr_parser", &["setup/in_yaml.rs", "cli/names.rs"]),
    ("schemars", &["documents", "config/file.rs"]),
    ("sd_notify", &["systemd.rs"]),
    ("sha2", &["oci/digest.rs"]),
    ("similar", &["cli/setup"]),
    ("sled", &["metadata/sled"]),
    ("strsim", &["config"]),
    ("subtle", &["admin/guard.rs"]),
    // A report is no bundle of images: nothing of the one is of use for the other.
    ("tar", &["bundle", "doctor/report.rs"]),
    ("tokio_rustls", &["server/tls", "cli/client/tls", "upstream/http/examine.rs"]),
    ("toml", &["config"]),
    ("toml_edit", &["setup"]),
    ("tracing_subscriber", &["telemetry"]),
    ("x509_parser", &["server/authenticate/certificate.rs", "upstream/http/examine.rs", "cli/client/tls"]),
    (
        "zeroize",
        &[
            "access/presented.rs",
            "upstream",
            "config/secret.rs",
            "server/authenticate",
            "server/tls.rs",
            "setting_file.rs",
        ],
    ),
];

/// What a layer gets from one further down through the one below it: a file, and the one it gets to.
const HANDED_ON: [(&str, &str); 4] = [
    // `Location`, of which the mirror's routes are made.
    ("server/record.rs", "metadata.rs"),
    ("server/admission.rs", "metadata.rs"),
    ("server/handler.rs", "metadata.rs"),
    ("config/explain.rs", "metadata.rs"),
];

/// Files in which unsafe code is allowed, each with its reason.
const UNSAFE: [(&str, &str); 1] =
    [("server/io.rs", "body frames that stand for a part of a file need mmap; one ioctl, one mallopt")];

/// A source file: its path below `src` and its code without comments.
struct Source {
    path: String,
    text: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let below = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
                sources.push(Source { path: below, code: imports::bare(&text), text });
            }
        }
    }
    assert!(sources.len() > 10, "the sources are not where they were");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Whether `path` is `place`, or starts with it at the end of a component.
fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| place.is_empty() || rest.is_empty() || rest.starts_with(['/', '.']))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `code` names the external crate: `name::…`, `use name;`, `use name as …`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], code[at + name.len()..].trim_start());
        let absolute = before.strip_suffix("::").map(|before| before.ends_with(|c: char| !is_word(c) && c != '>'));
        let starts = absolute.unwrap_or(!before.ends_with(|c: char| is_word(c) || c == ':' || c == '.'));
        let before = before.trim_end();
        let imported = before.ends_with("use") || before.ends_with("extern crate");
        let imported = imported && (after.starts_with(';') || after.starts_with("as "));
        starts && (after.starts_with("::") || imported)
    })
}

/// What of ours the code names with `crate::…`, to the depth of two modules.
fn own_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let before = &code[..at];
        if before.ends_with(is_word) || before.ends_with('$') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a, b::c};`
            Some(group) => paths.extend(group_members(group)),
            None => paths.push(rest.chars().take_while(|c| is_word(*c) || *c == ':').collect()),
        }
    }
    paths
}

/// The members of a group up to its closing brace, those of groups within left out.
fn group_members(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            c if depth == 0 && !c.is_whitespace() => {
                if let Some(last) = members.last_mut() {
                    last.push(c);
                }
            }
            _ => {}
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

fn layer_violations(path: &str, code: &str) -> Vec<String> {
    let Some((layer, allowed)) = LAYERS.iter().find(|(layer, _)| is_within(path, layer)) else { return Vec::new() };
    if allowed.contains(&"*") {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for own in own_paths(code) {
        let module = own.split("::").next().unwrap_or_default();
        // An upper case name is something the root of the crate exports, a macro for instance.
        if module.starts_with(char::is_lowercase) && !allowed.contains(&module) {
            violations.push(format!("src/{path}: names crate::{own}, but `{layer}` may only name {allowed:?}"));
        }
        let adapter = ADAPTERS.iter().find(|adapter| own == **adapter || own.starts_with(&format!("{adapter}::")));
        if let Some(adapter) = adapter.filter(|adapter| !is_within(path, &adapter.replace("::", "/"))) {
            violations.push(format!("src/{path}: names the adapter {adapter}; hold the port as Arc<dyn …> instead"));
        }
    }
    violations
}

fn wing_violations(path: &str, code: &str) -> Vec<String> {
    let place = |name: &str| WINGS.iter().position(|wing| *wing == name);
    let wing_of = |path: &str| path.strip_prefix("mirror/").and_then(|rest| place(rest.split(['/', '.']).next()?));
    let Some(own) = wing_of(path) else { return Vec::new() };
    let groups =
        code.match_indices("crate::mirror::{").flat_map(|(at, start)| group_members(&code[at + start.len()..]));
    let named = own_paths(code).into_iter().chain(groups.map(|member| format!("mirror::{member}")));
    let named = named.map(|named| named.replace("::", "/"));
    let above = named.filter(|named| wing_of(named).is_some_and(|named| named > own));
    above.map(|named| format!("src/{path}: names {named}, which stands above it")).collect()
}

fn place_violations(path: &str, code: &str) -> Vec<String> {
    let misplaced = PLACES
        .iter()
        .filter(|(name, places)| names_crate(code, name) && !places.iter().any(|place| is_within(path, place)));
    misplaced.map(|(name, places)| format!("src/{path}: names the crate {name}, whose place is {places:?}")).collect()
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_module_names_only_what_its_layer_may() {
    assert_none(sources().iter().flat_map(|source| layer_violations(&source.path, &source.code)).collect());
}

/// However a path is spelled: through `super`, another name or what another module exports.
#[test]
fn nothing_leads_to_a_file_that_its_layer_or_wing_may_not_name() {
    let files = sources().into_iter().map(|source| (source.path, source.text)).collect();
    let violations = |(from, to): (String, String)| {
        let path = format!("crate::{}", to.trim_end_matches(".rs").replace('/', "::"));
        let mut violations = layer_violations(&from, &path);
        violations.extend(wing_violations(&from, &path));
        violations
    };
    let pairs = imports::between(&files, "lib.rs").into_iter().chain(of_the_binary(&files));
    let pairs = pairs.filter(|(from, to)| !HANDED_ON.contains(&(from.as_str(), to.as_str())));
    assert_none(pairs.flat_map(violations).collect());
}

/// What the binary names in the library; that it names that as a whole says nothing.
fn of_the_binary(files: &imports::Files) -> impl Iterator<Item = (String, String)> {
    imports::between(files, "main.rs").into_iter().filter(|(_, to)| to != "lib.rs")
}

#[test]
fn what_the_binary_names_in_the_library_is_seen() {
    for own in [
        "use registry_mirror::mirror::Mirror;",
        "use registry_mirror::daemon::Exported;",
        "use registry_mirror as whole; fn main() { whole::mirror::Mirror; }",
        "extern crate registry_mirror; use registry_mirror::mirror::Mirror;",
        "extern crate registry_mirror as whole; fn main() { whole::mirror::Mirror; }",
        "fn main() { registry_mirror::mirror::Mirror; }",
    ] {
        let texts = [
            ("lib.rs", "pub mod cli; pub mod daemon; pub mod mirror;"),
            ("main.rs", own),
            ("cli.rs", "pub fn run() {}"),
            ("daemon.rs", "pub use crate::mirror::Mirror as Exported;"),
            ("mirror.rs", "pub struct Mirror;"),
        ];
        let files = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let pairs: Vec<_> = of_the_binary(&files).collect();
        assert_eq!(pairs, [("main.rs".to_owned(), "mirror.rs".to_owned())], "{own}");
        assert_eq!(layer_violations("main.rs", "crate::mirror").len(), 1);
    }
}

#[test]
fn a_path_by_super_by_another_name_or_through_an_export_is_seen() {
    let files = |own: &str| {
        let texts = [
            ("lib.rs", "pub mod cli; pub mod daemon; pub mod mirror;"),
            ("cli.rs", own),
            ("daemon.rs", "pub use crate::mirror::Mirror as Exported;"),
            ("mirror.rs", "pub struct Mirror;"),
        ];
        texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into()
    };
    for own in [
        "use super::mirror::Mirror;",
        "use crate as c; fn f(_: c::mirror::Mirror) {}",
        "use crate::daemon::Exported;",
        "fn f() { let _ = \"http://x\"; let _: crate::mirror::Mirror; }",
        "fn g<T>(t: T) -> impl Sized + use<T> { super::mirror::Mirror }",
    ] {
        let pairs = imports::between(&files(own), "lib.rs");
        assert!(pairs.contains(&("cli.rs".to_owned(), "mirror.rs".to_owned())), "{own}: {pairs:?}");
    }
}

#[test]
fn every_module_belongs_to_a_layer() {
    let homeless = sources().into_iter().filter(|source| {
        LAYERS.iter().find(|(layer, _)| is_within(&source.path, layer)).is_none_or(|(layer, _)| layer.is_empty())
    });
    assert_none(
        homeless.map(|source| format!("src/{}: add its layer to tests/house_rules/main.rs", source.path)).collect(),
    );
}

#[test]
fn nothing_in_the_mirror_runs_back_up() {
    assert_none(sources().iter().flat_map(|source| wing_violations(&source.path, &source.code)).collect());
}

#[test]
fn every_external_crate_is_named_in_one_place() {
    assert_none(sources().iter().flat_map(|source| place_violations(&source.path, &source.code)).collect());
}

#[test]
fn every_module_opens_with_a_header() {
    let missing = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        let limit = if source.path == "lib.rs" { 60 } else { 15 };
        match lines {
            0 => Some(format!("src/{}: begin with a `//!` header: what it owns, what it may use", source.path)),
            lines if lines > limit => Some(format!("src/{}: {lines} lines of header, at most {limit}", source.path)),
            _ => None,
        }
    });
    assert_none(missing.collect());
}

#[test]
fn there_is_no_unsafe_code() {
    let unsafe_files = sources().into_iter().filter(|source| {
        let allowed = UNSAFE.iter().any(|(path, _)| *path == source.path);
        !allowed && source.code.split(|c| !is_word(c)).any(|word| word == "unsafe")
    });
    assert_none(unsafe_files.map(|source| format!("src/{}: unsafe code", source.path)).collect());
}

#[test]
fn the_scanner_sees_what_it_looks_for() {
    for code in [
        "use sled::Db;",
        "let x = sled::open();",
        "use sled;",
        "use ::sled::Db;",
        "use sled as s;",
        "(sled::X)",
        "extern crate sled;",
        "extern crate sled as s;",
    ] {
        assert!(names_crate(code, "sled"), "{code}");
        assert_eq!(place_violations("mirror/fill.rs", code).len(), 1, "{code}");
        assert_eq!(place_violations("metadata/sled.rs", code).len(), 0, "{code}");
    }
    for code in
        ["pub mod sled;", "crate::metadata::sled::Sled", "self::sled::Sled", "unsled::x", "sledge::x", "sled_x::y"]
    {
        assert!(!names_crate(code, "sled"), "{code}");
    }
    assert_eq!(layer_violations("oci/name.rs", "use crate::mirror::Mirror;").len(), 1);
    assert_eq!(layer_violations("oci/name.rs", "use crate::oci::Digest;").len(), 0);
    assert_eq!(layer_violations("mirror.rs", "use crate::{oci::Digest, server::{a, b}, config};").len(), 2);
    assert_eq!(layer_violations("mirror/fill.rs", "crate::metadata::sled::Sled::open()").len(), 1);
    assert_eq!(layer_violations("mirror/fill.rs", "crate::metadata::memory::Memory::default()").len(), 0);
    assert_eq!(layer_violations("metadata/sled.rs", "use crate::metadata::sled::Tree;").len(), 0);
    assert_eq!(layer_violations("daemon.rs", "use crate::metadata::sled::Sled;").len(), 0);
    assert_eq!(wing_violations("mirror/fill/end.rs", "use crate::mirror::answer::blobs::Blobs;").len(), 1);
    assert_eq!(
        wing_violations("mirror/fill.rs", "use crate::mirror::{Mirror, keep::RoomKeeper, scrub::Scrub};").len(),
        1
    );
    assert_eq!(wing_violations("mirror.rs", "use crate::mirror::answer::blobs::Blobs;").len(), 0);
    assert_eq!(
        imports::bare("use a::{b, c}; // sled::open()\nlet b = \"http://x\"; sled::Db"),
        "use a::{b,c};let b=;sled::Db"
    );
}

fn example() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mirror.toml.example");
    let text = fs::read_to_string(&path).expect("the example");
    (path, text)
}

#[test]
fn the_example_file_means_the_defaults() {
    let (path, text) = example();
    let home = || [("HOME".to_owned(), "/home/someone".to_owned())];
    let example = Config::parse(&path, &text, home(), Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    let defaults = Config::parse(&path, "", home(), Overrides::default()).expect("the defaults are valid");
    assert_eq!(example, defaults);
}

/// The example with what stands commented in it: tables without a default, whose lines begin with a `#` and no space.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first == '[' || first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    example().1.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_file_has_every_key_with_its_default() {
    let example: toml::Table = toml::from_str(&uncommented()).expect("TOML");
    let docker_hub = Upstream {
        host: "docker.io".to_owned(),
        url: vec!["https://registry-1.docker.io".to_owned()],
        ..Upstream::default()
    };
    let defaults = toml::Table::try_from(File { upstream: vec![docker_hub], ..File::template() }).expect("TOML");
    assert_alike("", &example, &defaults);
}

fn assert_alike(section: &str, example: &toml::Table, defaults: &toml::Table) {
    assert_eq!(example.keys().collect::<Vec<_>>(), defaults.keys().collect::<Vec<_>>(), "[{section}]");
    for (key, default) in defaults {
        let (typed, below) = (&example[key], format!("{section}.{key}"));
        if let (Some(typed), Some(default)) = (first_table(typed), first_table(default)) {
            assert_alike(&below, typed, default);
            continue;
        }
        // A list of one may be written as a string; what has no default has an example.
        let listed = toml::Value::Array(vec![typed.clone()]);
        let has_none = ["issuer", "who", "may"].contains(&key.as_str());
        assert!(has_none || typed == default || listed == *default, "{below} = {typed}, not {default}");
    }
}

/// A section, or the first of several.
fn first_table(section: &toml::Value) -> Option<&toml::Table> {
    section.as_array().and_then(|sections| sections.first()).unwrap_or(section).as_table()
}

#[test]
fn what_stands_commented_in_the_example_file_is_valid() {
    let text = format!("{}\n[[upstream]]\nhost = \"registry.example\"\n", uncommented());
    let home = [("HOME".to_owned(), "/home/someone".to_owned())];
    Config::parse(Path::new("mirror.toml"), &text, home, Overrides::default())
        .unwrap_or_else(|error| panic!("{error}"));
}
