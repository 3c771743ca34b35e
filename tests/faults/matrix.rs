//! The matrices name tests; a test that is renamed must not vanish from them unnoticed.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rows of the table in the header of a file.
fn rows(source: &str) -> Vec<&str> {
    source.lines().filter(|line| line.starts_with("//! |")).skip(2).collect()
}

/// The tests that a row names.
fn names(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').skip(1).step_by(2)
}

const FAULTS: &str = include_str!("main.rs");
const ADVISORIES: &str = include_str!("advisories.rs");

#[test]
fn every_test_that_the_matrix_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).expect("a source")).collect();
    for matrix in [FAULTS, ADVISORIES] {
        let names: Vec<&str> = rows(matrix).into_iter().flat_map(names).collect();
        assert!(names.len() > 50, "the matrix is not where it was");
        let missing: Vec<_> = names.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn every_advisory_has_a_test_or_says_what_it_needs() {
    let rows = rows(ADVISORIES);
    let numbers: Vec<usize> = rows
        .iter()
        .map(|row| row.split('|').nth(1).and_then(|number| number.trim().parse().ok()).expect("a number"))
        .collect();
    assert_eq!(numbers, (1..=43).collect::<Vec<_>>());
    let bare: Vec<_> = rows
        .iter()
        .filter(|row| names(row).next().is_none() && !row.contains("needs callers: ") && !row.contains("needs rules: "))
        .collect();
    assert!(bare.is_empty(), "{bare:?}");
}
