//! A whole store into the bucket, and a whole bucket into the store.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Daemon;
use crate::documents::{Carried, Direction};
use crate::mirror::Mirror;
use crate::mirror::images::not_carried::Left;
use crate::tier::{Bucket, Lost, Raising, Trouble};

/// How often it is told how it goes.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is asked, while it does not take all, whether it takes anything.
const ASK_EVERY: Duration = Duration::from_secs(1);
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

/// What carries up does it; here it is looked on, until all is there or was tried. What the bucket takes no part of ends
/// it; what it does not take alone does not keep the rest here.
async fn push(raising: &Raising, mirror: &Mirror, events: &mpsc::Sender<Carried>) -> Carried {
    raising.begin_anew();
    let mut owing = pin!(raising.owe_all());
    let mut is_listed = tokio::select! {
        () = &mut owing => true,
        () = raising.fills_the_list() => false,
    };
    let (mut told, mut asked) = (Carried::default(), Instant::now());
    let mut asking = ask(raising.bucket()).await;
    loop {
        let (backlog, refused) = (raising.standing().backlog, raising.refused());
        told.done = raising.over();
        told.total = told.total.max(told.done + backlog);
        let is_away = asking.is_err() || raising.is_in_vain();
        if is_away || is_listed && refused.len() as u64 >= backlog {
            let whole = asking.err().map(|trouble| trouble.to_string());
            let trouble = whole.or_else(|| is_away.then(|| raising.standing().trouble).flatten());
            told = Carried { ended: true, total: told.done + backlog, failed: backlog, trouble, ..told };
            break;
        }
        let _ = events.try_send(told.clone());
        if (!refused.is_empty() || raising.standing().trouble.is_some()) && asked.elapsed() >= ASK_EVERY {
            asking = ask(raising.bucket()).await;
            asked = Instant::now();
            raising.go_on();
        }
        tokio::select! {
            () = &mut owing, if !is_listed => is_listed = true,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    if told.trouble.is_none() {
        let mut looked = pin!(raising.look_at_wrong());
        while tokio::time::timeout(EVERY, &mut looked).await.is_err() {
            let _ = events.try_send(Carried { ended: false, ..told.clone() });
        }
    }
    with_what_is_left(raising, mirror, told).await
}

/// Whether the bucket takes anything now: where nothing is owed to it, nobody else asks.
async fn ask(bucket: &Bucket) -> Result<(), Trouble> {
    bucket.write(ASKED, Bytes::from_static(b"does it take anything?")).await?;
    // Where it may not be removed it stays, and is written over the next time.
    let _ = bucket.remove(ASKED).await;
    Ok(())
}

/// The same, with what cannot be carried however long it takes, and what the bucket did not take.
async fn with_what_is_left(raising: &Raising, mirror: &Mirror, mut told: Carried) -> Carried {
    let lost = raising.lost();
    let (count, unlisted) = (lost.len() as u64, Raising::unlisted(&lost));
    (told.total, told.done) = (told.total + unlisted, told.done + unlisted);
    told.done = told.done.saturating_sub(count);
    told.failed += count;
    told.damaged = lost.values().filter(|why| !matches!(why, Lost::Closed(_) | Lost::Missing)).count() as u64;
    let lost = lost.into_iter().map(|(key, why)| (key, left(why)));
    // Where it took nothing, that is said once.
    let refused = if told.trouble.is_none() { raising.refused() } else { BTreeMap::new() };
    let refused = refused.into_iter().map(|(key, why)| (key, Left::Refused(why)));
    for (key, left) in lost.chain(refused).take(Carried::MOST_PROBLEMS) {
        told.problems.push(mirror.not_carried(Direction::Push, key, left).await);
    }
    told
}

fn left(lost: Lost) -> Left {
    match lost {
        Lost::Damaged(what) => Left::Damaged(what),
        Lost::InTheWay(it) if it.wanted == "folder" => {
            Left::NoFolder { at: it.path.display().to_string(), found: it.found }
        }
        Lost::InTheWay(it) => Left::Damaged(it.to_string()),
        Lost::Wrong => Left::Wrong,
        Lost::Closed(why) => Left::Closed(why),
        Lost::Missing => Left::Missing,
    }
}

impl Daemon {
    /// Carries a store whole, where no daemon serves it: hands every line to `take`. `false` where there is no bucket.
    pub async fn carry(self, way: Direction, take: &mut dyn FnMut(Carried)) -> bool {
        let Some(raising) = self.raising.clone() else { return false };
        let mut lines = carry(Arc::clone(&raising), self.mirror.clone(), way);
        let beside = tokio::spawn(raising.run());
        while let Some(line) = lines.recv().await {
            take(line);
        }
        beside.abort();
        self.mirror.close(Duration::from_secs(1)).await;
        true
    }
}
