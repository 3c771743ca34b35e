//! Whose turn it is: content and names go up beside each other, each the oldest first, so that neither waits for the
//! other. What rests holds up nobody.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Task;

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Content,
    /// A name, or another small object.
    Name,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Content, Kind::Name];

    /// That of a key.
    pub fn of(key: &str) -> Kind {
        if key.starts_with("blobs/") { Kind::Content } else { Kind::Name }
    }
}

/// The keys nobody is at.
#[derive(Debug, Default)]
pub(super) struct Queue {
    contents: BTreeMap<u64, String>,
    names: BTreeMap<u64, String>,
    /// What is not to be done before a moment, by that and by its order.
    resting: BTreeMap<(Instant, u64), String>,
}

impl Queue {
    pub(super) fn of(&mut self, kind: Kind) -> &mut BTreeMap<u64, String> {
        match kind {
            Kind::Content => &mut self.contents,
            Kind::Name => &mut self.names,
        }
    }

    pub(super) fn insert(&mut self, serial: u64, key: String) {
        self.of(Kind::of(&key)).insert(serial, key);
    }

    pub(super) fn remove(&mut self, serial: u64) {
        self.contents.remove(&serial);
        self.names.remove(&serial);
    }

    pub(super) fn rests(&mut self, until: Instant, task: &Task) {
        self.resting.insert((until, task.serial), task.key.clone());
    }

    /// When the next of what rests is to be done.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.resting.first_key_value().map(|((until, _), _)| *until)
    }

    /// One that has rested, and until when, taken out.
    pub(super) fn woken(&mut self, now: Instant) -> Option<(Instant, String)> {
        let first = self.resting.first_entry().filter(|first| first.key().0 <= now)?;
        let ((until, _), key) = first.remove_entry();
        Some((until, key))
    }

    /// Takes the oldest out.
    pub(super) fn pop(&mut self) -> Option<(u64, String)> {
        let first = |queue: &BTreeMap<u64, String>| queue.first_key_value().map_or(u64::MAX, |(serial, _)| *serial);
        let kind = if first(&self.contents) < first(&self.names) { Kind::Content } else { Kind::Name };
        self.of(kind).pop_first()
    }
}
