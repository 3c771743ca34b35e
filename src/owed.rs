//! What of the store has still to go up into the bucket: names of files below the store, which are the keys there.
//!
//! There is one where a bucket is configured. Both stores tell it before a file gets its name, the tier empties it.
//! It is kept in `<store>/owed`, a line for each change. Truth: a kill forgets nothing; what was not to go up after
//! all is looked for once and found absent; content that was found wrong in the bucket is written over when it goes up,
//! however it came to that and whenever it comes. A list that cannot be read is set aside, and made anew of what is stored.

mod lines;
mod turns;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::lines::Unread;
pub use self::turns::Kind;
use self::turns::Queue;
use crate::small_file::InTheWay;
use crate::staged;

/// The name of the list in the store.
pub const NAME: &str = "owed";

/// The list is written anew when it has so many lines more than it needs.
const SPARE_LINES: usize = 10_000;
/// How many keys are owed at most. Of more, the oldest do not go up until all that is stored is put on the list again.
const MOST: usize = 250_000;
/// Of so much it is remembered that it was found wrong in the bucket.
const MOST_WRONG: usize = 1_000;

/// What is to be done in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The object becomes what the file is.
    Up,
    /// The same, whatever is there: it was found wrong.
    Anew,
    /// The object goes.
    Away,
}

/// One thing to do, taken by whoever does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The key of the object, and the name of the file below the store.
    pub key: String,
    /// What to do.
    pub order: Order,
    /// Whether it has rested since it was ordered.
    pub rested: bool,
    serial: u64,
}

/// The list.
#[derive(Debug)]
pub struct Owed {
    path: PathBuf,
    most: usize,
    state: Mutex<State>,
    changed: Changed,
    /// That the list was too long.
    dropped: Notify,
    /// What became of the list that was there and cannot be read.
    aside: Option<String>,
}

/// That something may have changed, of each kind.
#[derive(Debug, Default)]
struct Changed {
    contents: Notify,
    names: Notify,
}

impl Changed {
    const fn of(&self, kind: Kind) -> &Notify {
        match kind {
            Kind::Content => &self.contents,
            Kind::Name => &self.names,
        }
    }

    fn tell(&self, key: &str) {
        self.of(Kind::of(key)).notify_one();
    }
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    lines: usize,
    serial: u64,
    orders: HashMap<String, Entry>,
    queue: Queue,
    /// Content whose object was found not to be it and has not been written anew, and when each was found.
    wrong: HashMap<String, u64>,
    /// How many orders were left out because there were too many.
    dropped: u64,
    /// Keys that come from the bucket just now, and how many bring each.
    quiet: HashMap<String, usize>,
    /// Uploads in parts that are under way, by their key.
    uploads: HashMap<String, String>,
    /// The bucket for which all that was stored before there was a list has been put on it.
    complete: Option<String>,
}

#[derive(Debug)]
struct Entry {
    /// Up or away.
    order: Order,
    serial: u64,
    /// How many files of that name are on their way to it.
    coming: usize,
    /// Somebody is at it, or it rests.
    taken: bool,
    /// Until when it rests, or whether it has.
    rest: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    No,
    Until(Instant),
    Over,
}

/// A file that is about to get its name; dropped when it has it, or has not got it.
#[derive(Debug)]
pub struct Coming {
    owed: Arc<Owed>,
    key: String,
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut state = self.owed.state.lock();
        if let Some(entry) = state.orders.get_mut(&self.key) {
            entry.coming -= 1;
            if entry.coming == 0 && !entry.taken {
                let serial = entry.serial;
                state.queue.insert(serial, self.key.clone());
            }
        }
        drop(state);
        self.owed.changed.tell(&self.key);
    }
}

/// As long as it is there, what gets this name comes from the bucket, and is not owed to it.
#[derive(Debug)]
pub struct Quiet {
    owed: Arc<Owed>,
    key: String,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let mut state = self.owed.state.lock();
        if let Some(count) = state.quiet.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.quiet.remove(&self.key);
            }
        }
    }
}

impl Owed {
    /// Reads the list of the store at `store`. What a kill cut is left out; one that cannot be read is set aside.
    ///
    /// # Errors
    /// What the file system says; then nothing would be remembered.
    pub fn open(store: &Path) -> io::Result<Arc<Owed>> {
        Owed::of(store, MOST)
    }

    /// The same with so many keys at most.
    pub(crate) fn of(store: &Path, most: usize) -> io::Result<Arc<Owed>> {
        let path = store.join(NAME);
        let (mut state, mut aside) = (State::default(), None);
        match lines::read(&path) {
            Ok(text) => state.replay(&text),
            Err(Unread::Closed(error)) => return Err(error),
            Err(Unread::Damaged { why, rest }) => {
                let moved = staged::set_aside(&path).map_err(|error| not_moved(&path, &why, error))?;
                let told = format!(
                    "{}: {why}: the list of what is owed to the bucket was set aside as {}, and all that is stored is looked for there",
                    path.display(),
                    moved.display()
                );
                tracing::warn!("{told}");
                aside = Some(told);
                state.replay(&rest);
            }
        }
        state.rewrite(&path)?;
        let (changed, dropped) = (Changed::default(), Notify::new());
        Ok(Arc::new(Owed { path, most, state: Mutex::new(state), changed, dropped, aside }))
    }

    /// That the list which was there could not be read and was set aside, where that is so.
    pub fn set_aside(&self) -> Option<&str> {
        self.aside.as_deref()
    }

    /// Why the list of the store at `store` would be set aside, where it would be. Changes nothing.
    pub fn flaw(store: &Path) -> Option<String> {
        match lines::read(&store.join(NAME)) {
            Err(Unread::Damaged { why, .. }) => Some(why),
            Ok(_) | Err(Unread::Closed(_)) => None,
        }
    }

    /// A file is about to get its name; `None` where it comes from the bucket. Of what was found wrong there that is not
    /// believed: another replica may have given it.
    pub fn coming(self: &Arc<Owed>, key: &str) -> Option<Coming> {
        let mut state = self.state.lock();
        if state.quiet.contains_key(key) && !state.wrong.contains_key(key) {
            return None;
        }
        state.order(key, Order::Up).coming += 1;
        self.note(&mut state, 'u', key);
        Some(Coming { owed: Arc::clone(self), key: key.to_owned() })
    }

    /// The file is there already, and has to go up.
    pub fn up(self: &Arc<Owed>, key: &str) {
        drop(self.coming(key));
    }

    /// The object is not what its name says: whatever goes up under it is written anew, until that is done.
    pub fn found_wrong(&self, key: &str) {
        let mut state = self.state.lock();
        let is_known = state.wrong.contains_key(key);
        state.mark_wrong(key);
        if !is_known {
            self.note(&mut state, 'w', key);
        }
    }

    /// The object is what its name says, or there is none.
    pub fn put_right(&self, key: &str) {
        let mut state = self.state.lock();
        if state.wrong.remove(key).is_some() {
            self.note(&mut state, 'r', key);
        }
    }

    /// What was found wrong and is so still, as far as is known, in the order in which it was found.
    pub fn wrong(&self) -> Vec<String> {
        self.state.lock().wrong_keys()
    }

    /// How much that is.
    pub fn wrong_count(&self) -> usize {
        self.state.lock().wrong.len()
    }

    /// The object is to go.
    pub fn away(&self, key: &str) {
        let mut state = self.state.lock();
        if state.quiet.contains_key(key) {
            return;
        }
        let serial = state.order(key, Order::Away).serial;
        if state.orders.get(key).is_some_and(|entry| entry.coming == 0 && !entry.taken) {
            state.queue.insert(serial, key.to_owned());
        }
        self.note(&mut state, 'a', key);
        drop(state);
        self.changed.tell(key);
    }

    /// Until it is dropped, what gets this name is not owed.
    pub fn quiet(self: &Arc<Owed>, key: &str) -> Quiet {
        *self.state.lock().quiet.entry(key.to_owned()).or_default() += 1;
        Quiet { owed: Arc::clone(self), key: key.to_owned() }
    }

    /// Whether there is something to do about this key.
    pub fn is_owed(&self, key: &str) -> bool {
        self.state.lock().orders.contains_key(key)
    }

    /// How many keys there is something to do about.
    pub fn len(&self) -> usize {
        self.state.lock().orders.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is room for more, beside what comes meanwhile.
    pub fn has_room(&self) -> bool {
        self.len() <= self.most / 2
    }

    /// Whether there is content that may be taken now.
    pub fn has_content_in_turn(&self) -> bool {
        !self.state.lock().queue.of(Kind::Content).is_empty()
    }

    /// How many keys did not stay on the list because there were too many.
    pub fn dropped(&self) -> u64 {
        self.state.lock().dropped
    }

    /// Returns when some did not.
    pub async fn was_too_long(&self) {
        self.dropped.notified().await;
    }

    /// Takes what has been owed longest. It is nobody else's until it is done or given back.
    pub fn take(&self) -> Option<Task> {
        let mut state = self.state.lock();
        state.wake(Instant::now());
        let (serial, key) = state.queue.pop()?;
        state.taken(serial, key)
    }

    /// The same of one kind.
    pub fn take_of(&self, kind: Kind) -> Option<Task> {
        let mut state = self.state.lock();
        state.wake(Instant::now());
        let (serial, key) = state.queue.of(kind).pop_first()?;
        state.taken(serial, key)
    }

    /// It is done, unless it was ordered anew meanwhile; whether it is.
    pub fn done(&self, task: &Task) -> bool {
        let mut state = self.state.lock();
        let is_done = state.orders.get(&task.key).is_some_and(|entry| entry.serial == task.serial);
        if is_done {
            state.orders.remove(&task.key);
            self.note(&mut state, 'd', &task.key);
        } else {
            if let Some(entry) = state.orders.get_mut(&task.key) {
                entry.rest = Rest::No;
            }
            state.give_back(&task.key);
        }
        drop(state);
        self.changed.tell(&task.key);
        is_done
    }

    /// Nobody is at it before then, however often it is ordered meanwhile; all else goes on.
    pub fn rest(&self, task: &Task, until: Instant) {
        let mut state = self.state.lock();
        if let Some(entry) = state.orders.get_mut(&task.key) {
            entry.rest = Rest::Until(until);
            state.queue.rests(until, task);
        }
    }

    /// Whether it rests.
    pub fn is_resting(&self, key: &str) -> bool {
        self.state.lock().orders.get(key).is_some_and(|entry| matches!(entry.rest, Rest::Until(_)))
    }

    /// When the next of what rests is to be done.
    pub fn rests_until(&self) -> Option<Instant> {
        self.state.lock().queue.rests_until()
    }

    /// It could not be done: all else of its kind comes first.
    pub fn give_back(&self, task: &Task) {
        let mut state = self.state.lock();
        state.serial += 1;
        let serial = state.serial;
        if let Some(entry) = state.orders.get_mut(&task.key) {
            entry.serial = serial;
        }
        state.give_back(&task.key);
    }

    /// Somebody has done himself what was owed of this key.
    pub fn settle(&self, key: &str) {
        let mut state = self.state.lock();
        if let Some(entry) = state.orders.remove(key) {
            state.queue.remove(entry.serial);
            self.note(&mut state, 'd', key);
        }
    }

    /// Whether all that was stored before there was a list for this bucket has been put on it.
    pub fn is_complete(&self, bucket: &str) -> bool {
        self.state.lock().complete.as_deref() == Some(bucket)
    }

    /// It has been.
    pub fn completed(&self, bucket: &str) {
        let mut state = self.state.lock();
        state.complete = Some(bucket.to_owned());
        self.note(&mut state, 'c', bucket);
    }

    /// Whoever waits for a change of any kind looks again.
    pub fn urge(&self) {
        Kind::ALL.into_iter().for_each(|kind| self.changed.of(kind).notify_one());
    }

    /// Returns when something of this kind may have changed.
    pub async fn changed(&self, kind: Kind) {
        self.changed.of(kind).notified().await;
    }

    /// An upload in parts has begun, which has to be ended or aborted, also after a kill.
    pub fn upload_begun(&self, key: &str, id: &str) {
        let mut state = self.state.lock();
        state.uploads.insert(key.to_owned(), id.to_owned());
        self.note(&mut state, 'm', &format!("{key}\t{id}"));
    }

    /// It was ended or aborted.
    pub fn upload_over(&self, key: &str) {
        let mut state = self.state.lock();
        state.uploads.remove(key);
        self.note(&mut state, 'e', key);
    }

    /// The uploads that nobody has ended, with their keys. At a start: those that a kill left.
    pub fn uploads(&self) -> Vec<(String, String)> {
        self.state.lock().uploads.iter().map(|(key, id)| (key.clone(), id.clone())).collect()
    }

    fn note(&self, state: &mut State, what: char, key: &str) {
        let mut line = format!("{what} {key}\n");
        state.lines += 1;
        let before = state.dropped;
        while state.orders.len() > self.most
            && let Some((_, oldest)) = state.queue.pop()
        {
            state.orders.remove(&oldest);
            state.dropped += 1;
            line.push_str(&format!("d {oldest}\n"));
            state.lines += 1;
        }
        if state.dropped > before {
            // Not all that is stored has gone up, or is on the list.
            if state.complete.take().is_some() {
                line.push_str("c \n");
            }
            self.dropped.notify_one();
        }
        let written = if state.lines > 2 * state.needed() + SPARE_LINES {
            state.rewrite(&self.path)
        } else {
            state.file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))
        };
        if let Err(error) = written {
            tracing::warn!(list = %self.path.display(), %error, "what has to go up into the bucket may be forgotten by a stop");
        }
    }
}

impl State {
    fn order(&mut self, key: &str, order: Order) -> &mut Entry {
        self.serial += 1;
        let serial = self.serial;
        let entry = self.orders.entry(key.to_owned()).or_insert(Entry {
            order,
            serial,
            coming: 0,
            taken: false,
            rest: Rest::No,
        });
        let before = std::mem::replace(&mut entry.serial, serial);
        entry.order = order;
        self.queue.remove(before);
        entry
    }

    fn taken(&mut self, serial: u64, key: String) -> Option<Task> {
        let entry = self.orders.get_mut(&key)?;
        entry.taken = true;
        let is_wrong = entry.order == Order::Up && self.wrong.contains_key(&key);
        let rested = entry.rest == Rest::Over;
        Some(Task { order: if is_wrong { Order::Anew } else { entry.order }, key, rested, serial })
    }

    /// What has rested comes back in its turn.
    fn wake(&mut self, now: Instant) {
        while let Some((until, key)) = self.queue.woken(now) {
            if let Some(entry) = self.orders.get_mut(&key).filter(|entry| entry.rest == Rest::Until(until)) {
                entry.rest = Rest::Over;
                self.give_back(&key);
            }
        }
    }

    fn give_back(&mut self, key: &str) {
        if let Some(entry) = self.orders.get_mut(key) {
            entry.taken = false;
            if entry.coming == 0 {
                self.queue.insert(entry.serial, key.to_owned());
            }
        }
    }

    fn mark_wrong(&mut self, key: &str) {
        if self.wrong.len() >= MOST_WRONG && !self.wrong.contains_key(key) {
            let oldest = self.wrong.iter().min_by_key(|(_, found)| **found).map(|(oldest, _)| oldest.clone());
            oldest.map(|oldest| self.wrong.remove(&oldest));
        }
        self.serial += 1;
        self.wrong.insert(key.to_owned(), self.serial);
    }

    fn wrong_keys(&self) -> Vec<String> {
        let mut wrong: Vec<_> = self.wrong.iter().collect();
        wrong.sort_unstable_by_key(|(_, found)| **found);
        wrong.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

/// Why a list that cannot be read stays where it is.
fn not_moved(path: &Path, why: &str, error: io::Error) -> io::Error {
    if let Some(it) = InTheWay::of_file(path) {
        return it.into();
    }
    io::Error::new(error.kind(), format!("{}: {why}, and it cannot be set aside: {error}", path.display()))
}

#[cfg(test)]
mod tests;
