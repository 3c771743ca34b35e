//! How much commands say, and in which colours.

use std::process::{Command, Stdio};

use super::operate::Site;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// What a terminal takes for a colour begins like this.
const COLOUR: &str = "\u{1b}[";

fn without_colours(text: &str) -> String {
    let mut parts = text.split(COLOUR);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}

#[test]
fn always_colours_every_answer_for_people_and_no_json() {
    let site = Site::start();
    for (command, expected) in [
        ("pull app:1 --platform linux/amd64", 0),
        ("images", 0),
        ("inspect app:1", 0),
        ("ready app:1 other:2", 5),
        ("history app:1", 0),
        ("pin app:1", 0),
        ("unpin app:1", 0),
        ("freeze app:1", 0),
        ("unfreeze app:1", 0),
        ("why app:1", 0),
        ("doctor --client docker", 0),
        ("status", 0),
        ("verify", 0),
        ("healthcheck", 0),
        ("gc --dry-run", 0),
        ("forget app:1", 0),
    ] {
        let (code, out, err) = site.run(&format!("{command} --color always"));
        assert!(code == expected && out.contains(COLOUR), "{command}: {code} {out:?} {err:?}");
        let plain = without_colours(&out);
        assert!(!plain.contains('\u{1b}') && !plain.trim().is_empty(), "{plain:?}");
        let (_, out, err) = site.run(&format!("{command} --json --color always"));
        assert!(out.starts_with('{') && !out.contains('\u{1b}'), "{command}: {out:?} {err:?}");
        let (_, out, err) = site.run(&format!("{command} --color never"));
        assert!(![out, err].concat().contains('\u{1b}'), "{command}");
        let (_, out, err) = site.run(command);
        assert!(![out, err].concat().contains('\u{1b}'), "{command}: nobody looks at a pipe");
    }
    for command in ["--help", "pull --help", "version", "config paths", "check"] {
        let line = format!("--color always {command}");
        let (out, plain) = (super::operate::run(&line, "").1, super::operate::run(command, "").1);
        assert!(out.contains(COLOUR) && !plain.contains(COLOUR), "{command}: {out:?}");
        assert_eq!(without_colours(&out), plain, "{command}");
    }
    let (_, _, err) = site.run("inspect never:1 --color=always");
    assert!(err.starts_with("\u{1b}[31merror"), "{err:?}");
}

#[test]
fn quiet_leaves_data_and_errors() {
    let site = Site::start();
    let (code, out, err) = site.run("pull app:1 -q");
    assert!(code == 0 && out.contains(": complete, ") && err.is_empty(), "{out} {err}");
    let (code, out, err) = site.run("verify --quiet");
    assert!(code == 0 && out.contains(" read, 0 damaged") && err.is_empty(), "{out} {err}");
    let (code, out, err) = site.run("pull never:1 -q");
    assert!(code == 5 && out.contains("not complete") && err.starts_with("error: "), "{out} {err}");
    assert!(site.run("inspect never:1 -q").2.starts_with("error: "));
    assert_eq!(site.run("images -q -v").0, 2);
}

#[test]
fn verbose_says_which_daemon_is_asked() {
    let site = Site::start();
    let (code, out, err) = site.run("images -v");
    assert_eq!(code, 0);
    assert!(err.contains("the daemon is at unix:/") && err.contains("admin.sock"), "{err}");
    assert_eq!(out, site.ok("images"), "data stay as they are");
}

#[test]
fn lines_of_the_status_break_between_words_where_the_terminal_ends() {
    const COLUMNS: usize = 40;
    let site = Site::start();
    let shown = |color: &str| {
        let command = format!("stty cols {COLUMNS}; exec {BINARY} status --color {color} --admin {}", site.admin);
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &command, "/dev/null"]).env("SHELL", "/bin/sh").stdin(Stdio::null());
        String::from_utf8(terminal.output().unwrap().stdout).unwrap().replace('\r', "")
    };
    for text in [shown("never"), without_colours(&shown("always"))] {
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!((COLUMNS / 2..=COLUMNS).contains(&longest), "{text}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let last = words(site.ok("status").lines().last().unwrap());
        assert!(last.len() > 5 && words(&text).ends_with(&last), "{text}");
    }
}
