//! No circle of files: whoever wants to understand one file reads those that it names, and comes to an
//! end. A parent and its own folder (`foo.rs`, `foo/`) are one room: within it they may name each other,
//! and from outside they count as one. What both sides of a circle need belongs into a file below both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use crate::imports::{self, Files};

/// The roots of the crates that are looked at: a folder, and the file in it.
const CRATES: [(&str, &str); 9] = [
    ("src", "lib.rs"),
    ("src", "main.rs"),
    ("benches", "eviction.rs"),
    ("benches", "memory.rs"),
    ("benches/paths", "main.rs"),
    ("benches", "startup.rs"),
    ("benches/peers", "main.rs"),
    ("benches/strangers", "main.rs"),
    ("tests/scripted-registry/src", "lib.rs"),
];

/// From a room to each one that it names, with a pair of files that shows it.
type Arrows<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a (String, String)>>;

/// A room is named by its parent's path without `.rs`; the root of the crate is the parent of all.
fn room<'a>(file: &'a str, root: &str) -> &'a str {
    if file == root { "" } else { file.trim_end_matches(".rs") }
}

/// Where the ways to two files part: the rooms, side by side, that these are in. `None` in one room.
fn sides<'a>(from: &'a str, to: &'a str) -> Option<(&'a str, &'a str)> {
    let ends = |path: &str| path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect::<Vec<_>>();
    let (ends_from, ends_to) = (ends(from), ends(to));
    ends_from.into_iter().zip(ends_to).map(|(a, b)| (&from[..a], &to[..b])).find(|(a, b)| a != b)
}

fn arrows<'a>(pairs: &'a BTreeSet<(String, String)>, root: &str) -> Arrows<'a> {
    let mut arrows = Arrows::new();
    for pair in pairs {
        let (from, to) = (room(&pair.0, root), room(&pair.1, root));
        if from.is_empty() || to.is_empty() {
            continue;
        }
        // Where one is the start of the other, it is the parent.
        let is_parent = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|below| below.starts_with('/'));
        if is_parent(from, to) || is_parent(to, from) {
            continue;
        }
        if let Some((from, to)) = sides(from, to) {
            arrows.entry(from).or_default().entry(to).or_insert(pair);
        }
    }
    arrows
}

/// The shortest way from a room back to itself.
fn way_back<'a>(arrows: &Arrows<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in way.last().and_then(|last| arrows.get(last)).into_iter().flat_map(BTreeMap::keys) {
            let longer = [way.as_slice(), &[*next]].concat();
            if *next == start {
                return Some(longer);
            }
            if seen.insert(*next) {
                ways.push_back(longer);
            }
        }
    }
    None
}

/// Every circle once, as the files that name each other on its way.
fn circles(files: &Files, root: &str) -> Vec<String> {
    let pairs = imports::between(files, root);
    let arrows = arrows(&pairs, root);
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for start in arrows.keys() {
        let Some(way) = way_back(&arrows, start) else { continue };
        if !told.insert(way.iter().copied().collect::<BTreeSet<_>>()) {
            continue;
        }
        let steps = way.windows(2).filter_map(|step| arrows.get(step[0])?.get(step[1]));
        circles.push(steps.map(|(from, to)| format!("{from} names {to}")).collect::<Vec<_>>().join(", "));
    }
    circles
}

fn files_below(folder: &Path, files: &mut Files, prefix: &str) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            files_below(&path, files, &format!("{prefix}{name}/"));
        } else if name.ends_with(".rs") {
            files.insert(format!("{prefix}{name}"), fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn files_do_not_name_each_other_in_a_circle() {
    let mut found = Vec::new();
    for (folder, root) in CRATES {
        let mut files = Files::new();
        files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files, "");
        let pairs = imports::between(&files, root).len();
        assert!(folder != "src" || root != "lib.rs" || pairs > 200, "only {pairs} files name another one");
        found.extend(circles(&files, root).into_iter().map(|circle| format!("in {folder}: {circle}")));
    }
    crate::assert_none(found);
}

#[test]
fn every_crate_is_looked_at() {
    let known = |folder: &str, name: &str| CRATES.contains(&(folder, name));
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let is_known =
            if path.is_dir() { known(&format!("benches/{name}"), "main.rs") } else { known("benches", &name) };
        assert!(is_known, "benches/{name}: add it to tests/house_rules/circles.rs");
    }
}

fn made_up(files: &[(&str, &str)]) -> Vec<String> {
    circles(&files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(), "lib.rs")
}

#[test]
fn a_circle_is_found_by_whatever_path_it_runs() {
    let to_a = [
        "use crate::a::A;",
        "use super::a::A;",
        "use crate::{a::{self, A}, c};",
        "use crate::a as other; fn f() { other::f(); }",
        "use super::*; fn f() { a::f() }",
        "fn f() -> crate::a::A { todo!() }",
        "fn f() { let s = \"//\"; super::a::f(s) }",
        "fn f() { let quote = '\"'; super::a::f(quote) }",
        "fn f<'a>(_: &'a str) { super::a::f() }",
        "mod inner { use super::super::a::A; }",
        // By what another module passes on.
        "use crate::c::A;",
        "use crate::c::Renamed;",
        "use crate::d::A;",
        "use crate::A;",
    ];
    for text in to_a {
        let found = made_up(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; pub use a::A;"),
            ("a.rs", "use crate::b::B; pub struct A; pub fn f() {}"),
            ("b.rs", &format!("pub struct B; {text}")),
            ("c.rs", "pub use crate::a::A; pub use super::a::A as Renamed;"),
            ("d.rs", "pub use super::c::*;"),
        ]);
        assert!(found.contains(&"a.rs names b.rs, b.rs names a.rs".to_owned()), "{text}: {found:?}");
    }
}

#[test]
fn a_circle_is_found_round_corners_and_through_rooms() {
    let three = [("a.rs", "use crate::b::B; pub struct A;"), ("b.rs", "use crate::c::C; pub struct B;")];
    let back = ("c.rs", "use crate::a::A; pub struct C;");
    let root = ("lib.rs", "mod a; mod b; mod c;");
    assert_eq!(made_up(&[root, three[0], three[1], back]), ["a.rs names b.rs, b.rs names c.rs, c.rs names a.rs"]);
    // In by the parent, out by a child.
    let found = made_up(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "mod below; pub struct B;"),
        ("b/below.rs", "use super::B; fn f() { crate::a::f(); }"),
    ]);
    assert_eq!(found, ["a.rs names b.rs, b/below.rs names a.rs"]);
    // Two files of one folder.
    let found = made_up(&[
        ("lib.rs", "mod a;"),
        ("a.rs", "mod one; mod two;"),
        ("a/one.rs", "use super::two::Two; pub struct One;"),
        ("a/two.rs", "use super::one::One; pub struct Two;"),
    ]);
    assert_eq!(found, ["a/one.rs names a/two.rs, a/two.rs names a/one.rs"]);
}

#[test]
fn a_circle_is_found_that_runs_through_what_the_parent_exports() {
    for (exports, one, two) in [
        ("pub use one::One; pub use two::Two;", "use super::Two;", "use super::One;"),
        ("pub use {one::One, self::two::Two as Other};", "use super::Other;", "use crate::a::One;"),
        ("pub(crate) use one::*; pub use two::*;", "use super::{Two};", "fn f(_: super::One) {}"),
        (
            "pub use one::*; pub use two::*;",
            "use super::*; struct Has(Two);",
            "use super::*; fn f() -> One { todo!() }",
        ),
        ("pub use one::*; pub use two::*;", "use super::*; fn f() { two() }", "use super::*; fn g() { one() }"),
        ("pub use one::One; pub use two::Two;", "extern crate self as me; use me::a::Two;", "use super::One;"),
    ] {
        let found = made_up(&[
            ("lib.rs", "mod a;"),
            ("a.rs", &format!("mod one; mod two; {exports}")),
            ("a/one.rs", &format!("{one} pub struct One; pub fn one() {{}}")),
            ("a/two.rs", &format!("{two} pub struct Two; pub fn two() {{}}")),
        ]);
        assert_eq!(found, ["a/one.rs names a/two.rs, a/two.rs names a/one.rs"], "{exports} {one} {two}");
    }
}

#[test]
fn what_is_no_circle_is_not_found() {
    let fine = [
        // A parent and its own folder.
        [
            ("a.rs", "mod one; pub use one::One; pub struct A; use crate::b::B;"),
            ("a/one.rs", "use super::A; pub struct One;"),
            ("b.rs", "pub struct B;"),
        ],
        // What is behind a re-export is elsewhere.
        [
            ("a.rs", "mod one; pub use crate::b::B; pub use one::One;"),
            ("a/one.rs", "use crate::b::B; pub struct One;"),
            ("b.rs", "pub struct B; // crate::a::One"),
        ],
        // Tests may look at whatever they like.
        [
            ("a.rs", "mod one; use crate::b::B;"),
            ("a/one.rs", ""),
            ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::*; } #[cfg(test)] mod far;"),
        ],
        // The same name in another crate, a method, text.
        [
            ("a.rs", "mod one; use crate::b::B;"),
            ("a/one.rs", ""),
            (
                "b.rs",
                "pub struct B; use ::a::x; fn f() { x.a::<u8>(); \"crate::a::A\"; r#\"a::\"x\"#; /* a:: /* b */ a:: */ }",
            ),
        ],
    ];
    for files in fine {
        let with_root = [&[("lib.rs", "mod a; mod b;")], &files[..]].concat();
        assert_eq!(made_up(&with_root), Vec::<String>::new(), "{files:?}");
    }
}
