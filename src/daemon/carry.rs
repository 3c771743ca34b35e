//! A whole store into the bucket, and a whole bucket into the store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Daemon;
use crate::documents::{Carried, Direction};
use crate::mirror::Mirror;
use crate::mirror::images::not_carried::Left;
use crate::tier::{Bucket, Lost, Raising, Trouble};

/// How often it is told how it goes.
const EVERY: Duration = Duration::from_millis(200);
/// An object that nobody needs.
const ASKED: &str = "probe/asked";
/// Lines that wait for a slow reader.
const QUEUE: usize = 16;

/// Carries all of it, and says so with a line now and again; the last one says how it ended.
pub(super) fn carry(raising: Arc<Raising>, mirror: Mirror, way: Direction) -> mpsc::Receiver<Carried> {
    let (events, lines) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let end = match way {
            Direction::Push => push(&raising, &mirror.present(), &events).await,
            Direction::Pull => mirror.present().bring_down(&events).await,
        };
        let _ = events.send(end).await;
    });
    lines
}

/// What carries up does it; here it is looked on.
async fn push(raising: &Raising, mirror: &Mirror, events: &mpsc::Sender<Carried>) -> Carried {
    raising.begin_anew();
    raising.owe_all().await;
    if let Err(trouble) = ask(raising.bucket()).await {
        let backlog = raising.standing().backlog;
        let trouble = Some(trouble.to_string());
        return Carried { ended: true, total: backlog, failed: backlog, trouble, ..Carried::default() };
    }
    let mut told = Carried::default();
    loop {
        let standing = raising.standing();
        told.total = told.total.max(told.done + standing.backlog);
        told.done = told.total - standing.backlog;
        if standing.backlog == 0 || standing.trouble.is_some() {
            if standing.trouble.is_none() {
                let mut looked = pin!(raising.look_at_wrong());
                while tokio::time::timeout(EVERY, &mut looked).await.is_err() {
                    let _ = events.try_send(told.clone());
                }
            }
            let ended = Carried { ended: true, failed: standing.backlog, trouble: standing.trouble, ..told };
            return without_lost(raising, mirror, ended).await;
        }
        let _ = events.try_send(told.clone());
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether the bucket takes anything now: where nothing is owed to it, nobody else asks.
async fn ask(bucket: &Bucket) -> Result<(), Trouble> {
    bucket.write(ASKED, Bytes::from_static(b"does it take anything?")).await?;
    // Where it may not be removed it stays, and is written over the next time.
    let _ = bucket.remove(ASKED).await;
    Ok(())
}

/// The same, with what cannot be carried however long it takes.
async fn without_lost(raising: &Raising, mirror: &Mirror, mut told: Carried) -> Carried {
    let lost = raising.lost();
    let (count, unlisted) = (lost.len() as u64, Raising::unlisted(&lost));
    (told.total, told.done) = (told.total + unlisted, told.done + unlisted);
    told.done = told.done.saturating_sub(count);
    told.failed += count;
    told.damaged = lost.values().filter(|why| matches!(why, Lost::Damaged(_) | Lost::Wrong)).count() as u64;
    for (key, why) in lost.into_iter().take(Carried::MOST_PROBLEMS) {
        let left = match why {
            Lost::Damaged(what) => Left::Damaged(what),
            Lost::Wrong => Left::Wrong,
            Lost::Closed(why) => Left::Closed(why),
            Lost::Missing => Left::Missing,
        };
        told.problems.push(mirror.not_carried(Direction::Push, key, left).await);
    }
    told
}

impl Daemon {
    /// Carries a store whole, where no daemon serves it: hands every line to `take`. `false` where there is no bucket.
    pub async fn carry(self, way: Direction, take: &mut dyn FnMut(Carried)) -> bool {
        let Some(raising) = self.raising.clone() else { return false };
        let beside = tokio::spawn(Arc::clone(&raising).run());
        let mut lines = carry(raising, self.mirror.clone(), way);
        while let Some(line) = lines.recv().await {
            take(line);
        }
        beside.abort();
        self.mirror.close(Duration::from_secs(1)).await;
        true
    }
}
