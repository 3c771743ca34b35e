//! A collector that stands before a deletion, and those who come to need what goes: one of both sees the other, whoever dies.

use super::*;
use crate::tier::claims::{FOLDER as GOING, OUTLASTS, SENT_WITHIN};

fn collector(bucket: &Bucket, clock: &Arc<ManualClock>, max_size: u64) -> Collector {
    Collector::new(bucket.clone(), Arc::clone(clock) as Arc<dyn Clock>, Arc::new(Metrics::new([])), max_size)
}

/// A bucket with an image of which all is marked and nothing has a name.
async fn with_marked() -> (Bucket, Arc<ManualClock>) {
    let bucket = Bucket::in_slow_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    for (of, bytes) in image(0) {
        bucket.write(&key_of(&of.digest), bytes).await.expect("written");
    }
    assert_eq!(collector(&bucket, &clock, 0).turn().await.expect("a round").marked, 4);
    clock.advance(DAY);
    (bucket, clock)
}

async fn until(is_so: impl AsyncFn() -> bool) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_needs_what_goes_just_now_waits_for_it_also_after_a_kill_and_where_somebody_else_took_the_mark_away() {
    let (bucket, clock) = with_marked().await;
    let top = image(0)[3].0.digest;
    let collector = collector(&bucket, &clock, 0);
    let mut claimed = collector.claim(vec![key_of(&top)]).await.expect("claimed");
    assert!(collector.is_spared_by_nobody(&top, None).await.expect("told"), "it stands before the deletion");
    let (one, other) = (Replica::of(&bucket), Replica::of(&bucket));
    for replica in [&one, &other] {
        replica.pull(0, clock.now()).await;
        let carrying = tokio::spawn(Arc::clone(&replica.raising).run());
        until(async || replica.owed.is_resting(&key_of(&top)) && replica.owed.is_resting(&pointer(0))).await;
        assert!(bucket.mark(&top).await.expect("told").is_none());
        carrying.abort();
        let _ = carrying.await;
    }
    // One is killed and starts again, the disk of the other is lost.
    let one = Arc::into_inner(one).expect("its only one");
    let Replica { store, blobs, .. } = one;
    let one = Replica::on(&bucket, store, blobs);
    let carrying = tokio::spawn(Arc::clone(&one.raising).run());
    until(async || one.owed.is_resting(&key_of(&top)) && one.owed.is_resting(&pointer(0))).await;
    assert!(claimed.take(&key_of(&top)).await.expect("deleted"));
    claimed.let_go().await.expect("let go");
    until(async || one.owed.is_empty()).await;
    assert_no_name_without_bytes(&bucket, "after a kill").await;
    assert!(bucket.read(&pointer(0), LONGEST).await.expect("told").is_some());
    carrying.abort();
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn who_comes_before_a_claim_keeps_what_it_needs() {
    let (bucket, clock) = with_marked().await;
    let replica = Replica::of(&bucket);
    replica.pull(0, clock.now()).await;
    replica.raising.drain().await.expect("carried up");
    let collector = collector(&bucket, &clock, 0);
    let top = image(0)[3].0.digest;
    let claimed = collector.claim(vec![key_of(&top)]).await.expect("claimed");
    assert!(!collector.is_spared_by_nobody(&top, None).await.expect("told"), "its mark has gone");
    claimed.let_go().await.expect("let go");
    assert_eq!(bucket.list(GOING).count().await, 0);
}

/// A tag is moved after a collector has looked what it stands for.
#[tokio::test(start_paused = true)]
async fn a_tag_that_is_moved_while_its_pointer_goes_stands_for_the_new_image_in_the_end() {
    let (bucket, clock) = with_marked().await;
    let replica = Replica::of(&bucket);
    replica.pull(0, clock.now()).await;
    replica.raising.drain().await.expect("carried up");
    let collector = collector(&bucket, &clock, 0);
    let history = names::history(&location(), &"t0".parse().expect("a tag"));
    let mut claimed = collector.claim(vec![pointer(0), history.clone()]).await.expect("claimed");
    let moved = image(5)[3].0.clone();
    replica.pull(5, clock.now()).await;
    let record = TagRecord {
        descriptor: moved.clone(),
        checked_at: clock.now().plus(DAY),
        since: clock.now(),
        observed_at: None,
        places: Places::default(),
    };
    replica.write(&pointer(0), &record);
    let path = replica.store.path().join(&history);
    let entry = serde_json::json!({"digest": moved.digest, "media_type": moved.media_type.to_string(), "size": moved.size, "at": clock.now(), "from": "docker.io"});
    std::fs::write(path, format!("{entry}\n")).expect("written");
    replica.owed.up(&history);
    let carrying = tokio::spawn(Arc::clone(&replica.raising).run());
    until(async || replica.owed.is_resting(&pointer(0)) && replica.owed.is_resting(&history)).await;
    for key in [pointer(0), history.clone()] {
        assert!(claimed.take(&key).await.expect("deleted"));
    }
    claimed.let_go().await.expect("let go");
    until(async || replica.owed.is_empty()).await;
    assert_eq!(collector.stands_for(&pointer(0)).await, Ok(Some(moved.digest)));
    assert!(bucket.read(&history, LONGEST).await.expect("told").is_some(), "its history is there again");
    carrying.abort();
}

/// A tag was moved after all was looked at, and before its pointer is claimed; its history is not that of a tag any more
/// that goes, or that of one which is frozen.
#[tokio::test(start_paused = true)]
async fn a_pointer_goes_only_for_what_it_stood_for_and_a_history_never_while_its_tag_is_frozen() {
    for is_frozen in [false, true] {
        let bucket = Bucket::in_slow_memory(&Settings::for_tests());
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let replica = Replica::of(&bucket);
        for n in [0, 1, 2] {
            replica.pull(n, clock.now()).await;
        }
        replica.raising.drain().await.expect("carried up");
        let tag: Tag = "t0".parse().expect("a tag");
        let history = names::history(&location(), &tag);
        bucket.write(&history, "{}\n".into()).await.expect("written");
        let collector = collector(&bucket, &clock, 1);
        let descriptor = image(5)[3].0.clone();
        let record = TagRecord {
            descriptor: descriptor.clone(),
            checked_at: clock.now(),
            since: clock.now(),
            observed_at: None,
            places: Places::default(),
        };
        let act = async {
            until(async || bucket.list(FOLDER).count().await > 0).await;
            if is_frozen {
                let other = serde_json::to_vec(&descriptor.digest).expect("JSON");
                bucket.write(&names::frozen(&location(), &tag), other.into()).await.expect("frozen");
            } else {
                let moved = serde_json::to_vec(&record).expect("JSON");
                bucket.write(&pointer(0), moved.into()).await.expect("moved");
            }
        };
        let (round, ()) = tokio::join!(collector.turn(), act);
        assert!(round.expect("a round").names > 0);
        assert_eq!(bucket.read(&pointer(0), LONGEST).await.expect("told").is_some(), !is_frozen);
        assert!(bucket.read(&pointer(1), LONGEST).await.expect("told").is_none(), "others go");
        assert!(bucket.read(&history, LONGEST).await.expect("told").is_some(), "frozen: {is_frozen}");
        assert_eq!(bucket.list(GOING).count().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_collector_is_gone_stands_until_its_deletion_cannot_come_any_more() {
    let bucket = Bucket::in_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let gone = collector(&bucket, &clock, 0);
    assert!(gone.turn().await.is_some());
    drop(gone.claim(vec!["blobs/sha256/a".to_owned()]).await.expect("claimed"));
    let next = collector(&bucket, &clock, 0);
    clock.advance(OUTLASTS / 2);
    next.let_go_of_old().await.expect("listed");
    assert_eq!(bucket.list(GOING).count().await, 1);
    gone.let_go_of_left().await.expect("told");
    assert_eq!(bucket.list(GOING).count().await, 1, "who left it knows no more");
    clock.advance(OUTLASTS / 2);
    next.let_go_of_old().await.expect("listed");
    assert_eq!(bucket.list(GOING).count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn who_slept_after_a_claim_deletes_nothing() {
    let (bucket, clock) = with_marked().await;
    let top = key_of(&image(0)[3].0.digest);
    let collector = collector(&bucket, &clock, 0);
    let mut claimed = collector.claim(vec![top.clone()]).await.expect("claimed");
    clock.advance(SENT_WITHIN);
    assert_eq!(claimed.take(&top).await, Ok(false));
    claimed.let_go().await.expect("let go");
    assert!(bucket.stat(&image(0)[3].0.digest).await.expect("told").is_some());
    let second = collector.claim(vec![top.clone()]).await.expect("claimed");
    let of_other =
        super::Collector::new(bucket.clone(), Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(Metrics::new([])), 0);
    of_other.round.store(9, std::sync::atomic::Ordering::Relaxed);
    assert!(!of_other.claim(vec![top.clone()]).await.expect("asked").has(&top), "it is claimed");
    assert!(second.has(&top));
}

#[tokio::test(start_paused = true)]
async fn what_has_to_be_listed_last_is_that_of_ones_own_round() {
    let bucket = Bucket::in_slow_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let woken = collector(&bucket, &clock, 0);
    woken.round.store(9, std::sync::atomic::Ordering::Relaxed);
    bucket.write(&woken.last(), "{}".into()).await.expect("written");
    collector(&bucket, &clock, 0).turn().await.expect("a round of another");
    assert!(woken.names().all(|listed| std::future::ready(listed.is_ok())).await, "its own is listed still");
    let left: Vec<_> = bucket.list(LAST).map(|listed| listed.expect("listed").key).collect().await;
    assert_eq!(left, [woken.last()]);
}
