//! The in-flight table: what is being fetched right now, so that it is fetched once.
//!
//! Whoever finds no flight for a key leads: it opens one, and the work runs as a task of its own.
//! Everybody else joins. The entry leaves the table when the task's [`Departure`] is dropped, which
//! happens also when the task panics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// A flight that ends with one value for everybody.
#[derive(Clone, Debug)]
pub struct Shareable<V> {
    begun: Instant,
    value: watch::Receiver<Option<V>>,
}

/// What came of following a flight that ends with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landing<V> {
    /// The value, and whether the flight was joined.
    Arrived(V, bool),
    /// The flight takes longer than one is willing to wait, and goes on.
    Overdue,
    /// Its task panicked.
    Lost,
}

/// What is to be done when the value is there.
pub type Rest = BoxFuture<'static, ()>;

/// The flights under way, by key. `T` is the handle through which a flight is followed.
#[derive(Debug)]
pub struct Flights<K, T> {
    table: Arc<Mutex<HashMap<K, T>>>,
}

/// What one gets on asking for a flight.
#[derive(Debug)]
pub enum Seat<K: Eq + Hash, T> {
    /// There was none: the caller must start it, and hand the departure to its task.
    Lead(T, Departure<K, T>),
    /// One is under way.
    Join(T),
}

/// The duty to leave the table. Dropped when the flight is over.
#[derive(Debug)]
pub struct Departure<K: Eq + Hash, T> {
    table: Arc<Mutex<HashMap<K, T>>>,
    key: K,
    left: AtomicBool,
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// An empty table.
    pub fn new() -> Flights<K, T> {
        Flights { table: Arc::default() }
    }

    /// Joins the flight for `key`, or opens one with the handle that `open` makes.
    pub fn seat(&self, key: K, open: impl FnOnce() -> T) -> Seat<K, T> {
        match self.table.lock().entry(key) {
            Entry::Occupied(entry) => Seat::Join(entry.get().clone()),
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                let handle = entry.insert(open()).clone();
                Seat::Lead(handle, Departure { table: Arc::clone(&self.table), key, left: AtomicBool::new(false) })
            }
        }
    }

    /// Joins the flight for `key`, if one is under way.
    pub fn join(&self, key: &K) -> Option<T> {
        self.table.lock().get(key).cloned()
    }

    /// All flights under way, in no particular order.
    pub fn all(&self) -> Vec<(K, T)> {
        self.table.lock().iter().map(|(key, handle)| (key.clone(), handle.clone())).collect()
    }

    /// How many flights are under way.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, V> Flights<K, Shareable<V>>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the value of the flight for `key`, which `work` computes as a task of its own if
    /// nobody else is at it. Nobody waits longer than his `patience`, counted from where the flight began:
    /// who comes late does not wait for it again.
    pub async fn share<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        patience: Option<Duration>,
        work: impl FnOnce() -> F,
    ) -> Landing<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let work = || {
            let work = work();
            async { (work.await, None) }
        };
        self.share_early(tasks, key, patience, work).await
    }

    /// The same, with a value that is there before the flight is over: it leaves the table when the rest is done.
    pub async fn share_early<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        patience: Option<Duration>,
        work: impl FnOnce() -> F,
    ) -> Landing<V>
    where
        F: Future<Output = (V, Option<Rest>)> + Send + 'static,
    {
        let (arrival, value) = watch::channel(None);
        let (mut flight, joined) = match self.seat(key, || Shareable { begun: Instant::now(), value }) {
            Seat::Join(flight) => (flight, true),
            Seat::Lead(flight, departure) => {
                let work = work();
                tasks.spawn(async move {
                    let (value, rest) = work.await;
                    arrival.send_replace(Some(value));
                    if let Some(rest) = rest {
                        rest.await;
                    }
                    drop(departure);
                });
                (flight, false)
            }
        };
        let landed = flight.value.wait_for(Option::is_some);
        let landed = match patience {
            Some(patience) => match tokio::time::timeout_at(flight.begun + patience, landed).await {
                Ok(landed) => landed,
                Err(_) => return Landing::Overdue,
            },
            None => landed.await,
        };
        let value = landed.ok().and_then(|value| value.clone());
        value.map_or(Landing::Lost, |value| Landing::Arrived(value, joined))
    }
}

impl<K, V> Flights<K, Shareable<V>>
where
    K: Eq + Hash + Clone,
    V: Clone,
{
    /// Waits until the flights that `are_meant` have left of which the value is there already; not for longer than
    /// `patience`.
    pub async fn landed(&self, are_meant: impl Fn(&K) -> bool, patience: Duration) {
        let has_landed = |flight: &&Shareable<V>| flight.value.borrow().is_some();
        let meant = self
            .table
            .lock()
            .iter()
            .filter(|(key, _)| are_meant(key))
            .map(|(_, flight)| flight)
            .filter(has_landed)
            .cloned()
            .collect::<Vec<_>>();
        let left = async {
            for mut flight in meant {
                while flight.value.changed().await.is_ok() {}
            }
        };
        let _ = tokio::time::timeout(patience, left).await;
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Default for Flights<K, T> {
    fn default() -> Flights<K, T> {
        Flights::new()
    }
}

impl<K: Eq + Hash, T> Departure<K, T> {
    /// Leaves the table at once, if `may` says so while nobody can join; whether it did.
    pub fn leave_if(&self, may: impl FnOnce() -> bool) -> bool {
        let mut table = self.table.lock();
        let leaves = may();
        if leaves && !self.left.swap(true, Ordering::Relaxed) {
            table.remove(&self.key);
        }
        leaves
    }
}

impl<K: Eq + Hash, T> Drop for Departure<K, T> {
    fn drop(&mut self) {
        // What has its key after it left is another flight.
        if !*self.left.get_mut() {
            self.table.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_leads_the_others_join_until_the_departure() {
        let flights: Flights<&str, u32> = Flights::new();
        let Seat::Lead(1, departure) = flights.seat("a", || 1) else { panic!("nobody was there") };
        assert!(matches!(flights.seat("a", || 2), Seat::Join(1)));
        assert!(matches!(flights.seat("b", || 3), Seat::Lead(3, _)));
        assert_eq!(flights.join(&"a"), Some(1));
        drop(departure);
        assert!(flights.join(&"a").is_none());
        let Seat::Lead(4, departure) = flights.seat("a", || 4) else { panic!("it has left") };
        assert!(!departure.leave_if(|| false) && flights.join(&"a").is_some());
        assert!(departure.leave_if(|| true) && flights.join(&"a").is_none());
        let Seat::Lead(5, _later) = flights.seat("a", || 5) else { panic!("it has left") };
        drop(departure);
        assert_eq!(flights.join(&"a"), Some(5), "who left takes no other along");
    }

    #[tokio::test]
    async fn everybody_gets_the_one_value() {
        let (flights, tasks) = (Flights::new(), TaskTracker::new());
        let calls = std::sync::atomic::AtomicU32::new(0);
        let ask = || {
            flights.share(&tasks, "key", None, || {
                calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                async { 7 }
            })
        };
        let answers = futures_util::future::join_all((0..50).map(|_| ask())).await;
        assert_eq!(calls.into_inner(), 1);
        assert_eq!(answers.iter().filter(|landing| **landing == Landing::Arrived(7, false)).count(), 1);
        assert_eq!(answers.iter().filter(|landing| **landing == Landing::Arrived(7, true)).count(), 49);
        tasks.close();
        tasks.wait().await;
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_panic_leaves_the_table_and_answers_everybody() {
        let (flights, tasks): (Flights<_, Shareable<u32>>, _) = (Flights::new(), TaskTracker::new());
        let landing = flights.share(&tasks, "key", None, || async { panic!("on purpose") }).await;
        assert_eq!(landing, Landing::Lost);
        tasks.close();
        tasks.wait().await;
        assert!(flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_waits_no_longer_than_who_came_first() {
        let (flights, tasks): (Flights<_, Shareable<u32>>, _) = (Flights::new(), TaskTracker::new());
        let seconds = Duration::from_secs;
        let work = || async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            7
        };
        let share = |patience| flights.share(&tasks, "key", patience, work);
        let began = Instant::now();
        assert_eq!(share(Some(seconds(2))).await, Landing::Overdue);
        assert_eq!(share(Some(seconds(2))).await, Landing::Overdue);
        assert_eq!(began.elapsed(), seconds(2));
        assert_eq!(share(Some(seconds(3))).await, Landing::Overdue);
        assert_eq!(began.elapsed(), seconds(3));
        assert_eq!(share(None).await, Landing::Arrived(7, true));
        assert_eq!(began.elapsed(), seconds(30));
    }
}
