//! The list as it is written: a line for each change, a letter and a key.
//!
//! | letter | says |
//! |---|---|
//! | `u`, `a` | it is to go up; the object is to go |
//! | `d` | what was to be done about it is done, or is not to be done any more |
//! | `w`, `r` | the object was found wrong; it is right, or gone |
//! | `m`, `e` | an upload in parts has begun; it is over |
//! | `c` | for this bucket all was put on the list that was there before; for none, where the list was too long |
//!
//! A letter that a version does not know says nothing to it. One before `w` takes a list with that for one without: it
//! looks for what was found wrong, sees its length there, and does not write it anew; whoever reads it next finds it out
//! once more.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::{Order, State};
use crate::small_file::{self, InTheWay};
use crate::staged;

/// No list of so many keys is longer, in bytes.
const LONGEST: u64 = 1 << 30;

/// Why a list cannot be read as one.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is none, or not all of it is.
    Damaged {
        /// What it is.
        why: String,
        /// Those lines of it that can be read and say what is to go up.
        rest: String,
    },
    /// The system does not give it.
    Closed(io::Error),
}

/// What the list at `path` says; nothing where there is none.
pub(super) fn read(path: &Path) -> Result<String, Unread> {
    let damaged = |why: String| Err(Unread::Damaged { why, rest: String::new() });
    match small_file::read(path, LONGEST) {
        Ok(bytes) => whole(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            damaged(format!("it is longer than {LONGEST} bytes"))
        }
        Err(error) => match InTheWay::in_error(&error) {
            Some(InTheWay { found, .. }) => damaged(format!("it is {found}, and no file")),
            None => Err(Unread::Closed(error)),
        },
    }
}

/// All of it, where all of it is of a list.
fn whole(bytes: Vec<u8>) -> Result<String, Unread> {
    let is_line = |line: &str| matches!(line.as_bytes(), [b'a'..=b'z', b' ', ..]);
    let (why, bytes) = match String::from_utf8(bytes) {
        // What has no end was cut.
        Ok(text) if text.split_inclusive('\n').all(|line| is_line(line) || !line.ends_with('\n')) => return Ok(text),
        Ok(text) => ("a line of it is of no such list", text.into_bytes()),
        Err(error) => ("it is no text", error.into_bytes()),
    };
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    // What was to go may be wanted again: of that only a whole list is believed.
    let rest = lines.filter(|line| line.starts_with("u ") || line.starts_with("w ")).collect();
    Err(Unread::Damaged { why: why.to_owned(), rest })
}

impl State {
    /// What all of these lines say. One that a kill cut is left out.
    pub(super) fn replay(&mut self, text: &str) {
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).for_each(|line| self.replay_line(line));
        // What came, or was sent up in vain, since it was found wrong may have been forgotten by a kill.
        for key in self.wrong_keys() {
            if !self.orders.contains_key(&key) {
                self.replay_line(&format!("u {key}"));
            }
        }
    }

    fn replay_line(&mut self, line: &str) {
        let Some((what, key)) = line.split_once(' ') else { return };
        match what {
            "u" | "a" => {
                let serial = self.order(key, if what == "u" { Order::Up } else { Order::Away }).serial;
                self.queue.insert(serial, key.to_owned());
            }
            "d" => {
                if let Some(entry) = self.orders.remove(key) {
                    self.queue.remove(entry.serial);
                }
            }
            "w" => self.mark_wrong(key),
            "r" => drop(self.wrong.remove(key)),
            "m" => self.uploads.extend(key.split_once('\t').map(|(key, id)| (key.to_owned(), id.to_owned()))),
            "e" => drop(self.uploads.remove(key)),
            "c" => self.complete = Some(key.to_owned()).filter(|bucket| !bucket.is_empty()),
            _ => {}
        }
    }

    /// How many lines the list needs.
    pub(super) fn needed(&self) -> usize {
        self.orders.len() + self.wrong.len() + self.uploads.len()
    }

    /// Writes the list without what is done.
    pub(super) fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let mut orders: Vec<_> = self.orders.iter().map(|(key, entry)| (entry.serial, entry.order, key)).collect();
        orders.sort_unstable_by_key(|(serial, ..)| *serial);
        let word = |order| if order == Order::Away { 'a' } else { 'u' };
        let mut text: String = orders.iter().map(|(_, order, key)| format!("{} {key}\n", word(*order))).collect();
        text.extend(self.wrong_keys().iter().map(|key| format!("w {key}\n")));
        text.extend(self.uploads.iter().map(|(key, id)| format!("m {key}\t{id}\n")));
        text.extend(self.complete.iter().map(|bucket| format!("c {bucket}\n")));
        staged::replace(path, 0o600, text.as_bytes())?;
        self.file = Some(small_file::open(OpenOptions::new().append(true), path)?);
        self.lines = self.needed();
        Ok(())
    }
}
