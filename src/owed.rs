//! What of the store has still to go up into the bucket: names of files below the store, which are the keys there.
//!
//! There is one where a bucket is configured. Both stores tell it before a file gets its name, the tier empties it.
//! It is kept in `<store>/owed`, a line for each change. Truth: a kill forgets nothing; what was not to go up after
//! all is looked for once and found absent.
//! The file is long because what is owed, whose turn it is, and what is written of both change together.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{small_file, staged};

/// The name of the list in the store.
pub const NAME: &str = "owed";

/// The list is written anew when it has so many lines more than it needs.
const SPARE_LINES: usize = 10_000;
/// How many keys are owed at most. Of more, the oldest do not go up: who wants them asks upstream.
const MOST: usize = 250_000;
/// No list of so many keys is longer, in bytes.
const LONGEST: u64 = 1 << 30;
const UNREADABLE: &str = "the list of what is owed to the bucket is no text";

/// What is to be done in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The object becomes what the file is.
    Up,
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
    serial: u64,
}

/// The list.
#[derive(Debug)]
pub struct Owed {
    path: PathBuf,
    most: usize,
    state: Mutex<State>,
    changed: Changed,
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
    /// Keys that come from the bucket just now, and how many bring each.
    quiet: HashMap<String, usize>,
    /// Uploads in parts that are under way, by their key.
    uploads: HashMap<String, String>,
    /// The bucket for which all that was stored before there was a list has been put on it.
    complete: Option<String>,
}

/// The keys nobody is at, the oldest first: those of content, and all others, so that neither waits for the other.
#[derive(Debug, Default)]
struct Queue {
    contents: BTreeMap<u64, String>,
    names: BTreeMap<u64, String>,
}

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Content,
    /// A name, or another small object.
    Name,
}

impl Kind {
    /// That of a key.
    pub fn of(key: &str) -> Kind {
        if key.starts_with("blobs/") { Kind::Content } else { Kind::Name }
    }
}

impl Queue {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<u64, String> {
        match kind {
            Kind::Content => &mut self.contents,
            Kind::Name => &mut self.names,
        }
    }

    fn insert(&mut self, serial: u64, key: String) {
        self.of(Kind::of(&key)).insert(serial, key);
    }

    fn remove(&mut self, serial: u64) {
        self.contents.remove(&serial);
        self.names.remove(&serial);
    }

    /// Takes the oldest out.
    fn pop(&mut self) -> Option<(u64, String)> {
        let first = |queue: &BTreeMap<u64, String>| queue.first_key_value().map_or(u64::MAX, |(serial, _)| *serial);
        let kind = if first(&self.contents) < first(&self.names) { Kind::Content } else { Kind::Name };
        self.of(kind).pop_first()
    }
}

#[derive(Debug)]
struct Entry {
    order: Order,
    serial: u64,
    /// How many files of that name are on their way to it.
    coming: usize,
    taken: bool,
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
    /// Reads the list of the store at `store`. What a kill cut is left out.
    ///
    /// # Errors
    /// What the file system says; then nothing would be remembered.
    pub fn open(store: &Path) -> io::Result<Arc<Owed>> {
        Owed::of(store, MOST)
    }

    fn of(store: &Path, most: usize) -> io::Result<Arc<Owed>> {
        let path = store.join(NAME);
        let text = match small_file::read(&path, LONGEST) {
            Ok(text) => String::from_utf8(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, UNREADABLE))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut state = State::default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).for_each(|line| state.replay(line));
        state.rewrite(&path)?;
        Ok(Arc::new(Owed { path, most, state: Mutex::new(state), changed: Changed::default() }))
    }

    /// A file is about to get its name; `None` where it comes from the bucket.
    pub fn coming(self: &Arc<Owed>, key: &str) -> Option<Coming> {
        let mut state = self.state.lock();
        if state.quiet.contains_key(key) {
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

    /// Takes what has been owed longest. It is nobody else's until it is done or given back.
    pub fn take(&self) -> Option<Task> {
        let mut state = self.state.lock();
        let (serial, key) = state.queue.pop()?;
        state.taken(serial, key)
    }

    /// The same of one kind.
    pub fn take_of(&self, kind: Kind) -> Option<Task> {
        let mut state = self.state.lock();
        let (serial, key) = state.queue.of(kind).pop_first()?;
        state.taken(serial, key)
    }

    /// It is done, unless it was ordered anew meanwhile.
    pub fn done(&self, task: &Task) {
        let mut state = self.state.lock();
        if state.orders.get(&task.key).is_some_and(|entry| entry.serial == task.serial) {
            state.orders.remove(&task.key);
            self.note(&mut state, 'd', &task.key);
        } else {
            state.give_back(&task.key);
        }
        drop(state);
        self.changed.tell(&task.key);
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
        while state.orders.len() > self.most
            && let Some((_, oldest)) = state.queue.pop()
        {
            state.orders.remove(&oldest);
            line.push_str(&format!("d {oldest}\n"));
            state.lines += 1;
        }
        let needed = state.orders.len() + state.uploads.len();
        let written = if state.lines > 2 * needed + SPARE_LINES {
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
        let entry = self.orders.entry(key.to_owned()).or_insert(Entry { order, serial, coming: 0, taken: false });
        let before = std::mem::replace(&mut entry.serial, serial);
        entry.order = order;
        self.queue.remove(before);
        entry
    }

    fn taken(&mut self, serial: u64, key: String) -> Option<Task> {
        let entry = self.orders.get_mut(&key)?;
        entry.taken = true;
        Some(Task { key, order: entry.order, serial })
    }

    fn give_back(&mut self, key: &str) {
        if let Some(entry) = self.orders.get_mut(key) {
            entry.taken = false;
            if entry.coming == 0 {
                self.queue.insert(entry.serial, key.to_owned());
            }
        }
    }

    fn replay(&mut self, line: &str) {
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
            "m" => self.uploads.extend(key.split_once('\t').map(|(key, id)| (key.to_owned(), id.to_owned()))),
            "e" => drop(self.uploads.remove(key)),
            "c" => self.complete = Some(key.to_owned()),
            _ => {}
        }
    }

    /// Writes the list without what is done.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let mut orders: Vec<_> = self.orders.iter().map(|(key, entry)| (entry.serial, entry.order, key)).collect();
        orders.sort_unstable_by_key(|(serial, ..)| *serial);
        let word = |order| if order == Order::Up { 'u' } else { 'a' };
        let mut text: String = orders.iter().map(|(_, order, key)| format!("{} {key}\n", word(*order))).collect();
        text.extend(self.uploads.iter().map(|(key, id)| format!("m {key}\t{id}\n")));
        text.extend(self.complete.iter().map(|bucket| format!("c {bucket}\n")));
        staged::replace(path, 0o600, text.as_bytes())?;
        self.file = Some(small_file::open(OpenOptions::new().append(true), path)?);
        self.lines = self.orders.len() + self.uploads.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(owed: &Owed) -> Vec<String> {
        std::iter::from_fn(|| owed.take()).map(|task| task.key).collect()
    }

    #[test]
    fn what_was_not_done_is_owed_after_a_kill_in_the_order_in_which_it_came() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        for key in ["c", "a", "b"] {
            owed.up(key);
        }
        let task = owed.take().expect("a task");
        assert_eq!((task.key.as_str(), task.order), ("c", Order::Up));
        owed.done(&task);
        owed.away("gone");
        owed.upload_begun("a", "id 1");
        assert!(!owed.is_complete("one/"));
        owed.completed("one/");
        owed.up("told");
        owed.settle("told");
        let unfinished = owed.take().expect("a task");
        assert_eq!(unfinished.key, "a");
        // No word of an end: as after a kill.
        let again = Owed::open(store.path()).expect("a list");
        assert_eq!(again.uploads(), [("a".to_owned(), "id 1".to_owned())]);
        assert!(again.is_complete("one/") && !again.is_complete("another/"));
        assert_eq!(keys(&again), ["a", "b", "gone"]);
        let mut file = OpenOptions::new().append(true).open(store.path().join(NAME)).expect("there");
        file.write_all(b"u half").expect("written");
        assert_eq!(keys(&Owed::open(store.path()).expect("a list")), ["a", "b", "gone"], "a line that was cut is none");
    }

    #[test]
    fn what_is_ordered_anew_while_it_is_done_is_done_again() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        owed.up("key");
        let task = owed.take().expect("a task");
        owed.up("key");
        assert_eq!(owed.take(), None, "somebody is at it");
        owed.done(&task);
        let task = owed.take().expect("once more");
        owed.done(&task);
        assert!(owed.is_empty() && owed.take().is_none());
    }

    #[test]
    fn what_could_not_be_done_comes_after_all_else_and_names_do_not_wait_for_content() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        ["blobs/a", "name", "blobs/b", "blobs/c"].into_iter().for_each(|key| owed.up(key));
        let refused = owed.take_of(Kind::Content).expect("a task");
        assert_eq!(refused.key, "blobs/a");
        owed.give_back(&refused);
        assert_eq!(owed.take_of(Kind::Name).expect("a task").key, "name");
        assert_eq!(keys(&owed), ["blobs/b", "blobs/c", "blobs/a"]);
    }

    #[test]
    fn nobody_looks_for_a_file_that_is_on_its_way() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        let coming = owed.coming("key");
        assert_eq!((owed.take(), owed.len()), (None, 1));
        drop(coming);
        assert!(owed.take().is_some());
    }

    #[test]
    fn what_comes_from_the_bucket_is_not_owed_to_it() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        let quiet = owed.quiet("key");
        owed.up("key");
        assert!(owed.is_empty());
        drop(quiet);
        owed.up("key");
        assert_eq!(owed.len(), 1);
    }

    #[test]
    fn no_more_is_owed_than_can_be_remembered_and_what_came_last_stays() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::of(store.path(), 3).expect("a list");
        (0..10).for_each(|n| owed.up(&n.to_string()));
        assert_eq!(owed.len(), 3);
        assert_eq!(keys(&Owed::of(store.path(), 3).expect("a list")), ["7", "8", "9"]);
    }

    #[test]
    fn the_list_stays_short_however_much_was_done() {
        let store = tempfile::tempdir().expect("a folder");
        let owed = Owed::open(store.path()).expect("a list");
        for n in 0..SPARE_LINES {
            owed.up(&n.to_string());
            let task = owed.take().expect("a task");
            owed.done(&task);
        }
        let lines = std::fs::read_to_string(store.path().join(NAME)).expect("read").lines().count();
        assert!(lines <= SPARE_LINES + 1, "{lines}");
    }
}
