//! The end: what is owed still goes up while there is time, each of it once, and no name before what it needs.
//!
//! The disk may go with the process. What does not go up then is owed as after a kill.

use super::{ROOM_EVERY, Raising};
use crate::blob_store::key_of;
use crate::metadata::TagRecord;
use crate::metadata::names::{self, Name};
use crate::owed::{Kind, Order, Task};

/// Names that wait, and the content of each that has still to go up.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<(Task, Vec<String>)>);

impl Raising {
    /// From now on what is owed still goes up, and then nothing more.
    pub fn end(&self) {
        self.going.lock().is_tried_anew();
        self.ending.cancel();
        self.owed.urge();
    }

    /// The next that may go up at the end.
    pub(super) async fn last_of(&self, kind: Kind, Held(held): &mut Held) -> Option<Task> {
        let is_ready = |needs: &[String]| !needs.iter().any(|key| self.owed.is_owed(key));
        if let Some(ready) = held.iter().position(|(_, needs)| is_ready(needs)) {
            return Some(held.swap_remove(ready).0);
        }
        while let Some(task) = self.owed.take_of(kind) {
            let mut needs = self.needed_by(&task).await;
            needs.retain(|key| self.owed.is_owed(key));
            if needs.is_empty() {
                return Some(task);
            }
            held.push((task, needs));
        }
        None
    }

    /// The keys of the content that this leads to and that is here.
    async fn needed_by(&self, task: &Task) -> Vec<String> {
        let name = names::parse(&task.key).filter(|_| task.order != Order::Away);
        match name {
            Some(Name::Member(_, digest)) => vec![key_of(&digest)],
            Some(name @ Name::Tag(_)) => {
                let recorded = self.recorded(&task.key, &name).await.ok().flatten();
                let Some(record) = recorded.and_then(|bytes| serde_json::from_slice::<TagRecord>(&bytes).ok()) else {
                    return Vec::new();
                };
                self.all_of(record.descriptor).await.iter().map(key_of).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns when it is to end, and it is known that the bucket takes nothing, or nothing that it was tried with.
    pub(super) async fn is_in_vain_at_the_end(&self) {
        self.ending.cancelled().await;
        while self.bucket.takes_writes() && self.bucket.is_well() && !self.going.lock().takes_nothing() {
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }
}
