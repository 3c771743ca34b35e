//! What comes to pass while a collector goes round: images are pinned and frozen, names are not listed, objects are lost.

use super::*;
use crate::metadata::Pin;

/// A bucket that takes a while, with the images of these numbers, and who carried them up.
async fn with_images(images: &[usize]) -> (Bucket, Arc<ManualClock>, Arc<Replica>) {
    let bucket = Bucket::in_slow_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let replica = Replica::of(&bucket);
    for n in images {
        replica.pull(*n, clock.now()).await;
    }
    replica.raising.drain().await.expect("carried up");
    (bucket, clock, replica)
}

fn collector(bucket: &Bucket, clock: &Arc<ManualClock>, max_size: u64) -> Collector {
    Collector::new(bucket.clone(), Arc::clone(clock) as Arc<dyn Clock>, Arc::new(Metrics::new([])), max_size)
}

/// Returns when something lies below a folder.
async fn something_in(bucket: &Bucket, folder: &str) {
    while bucket.list(folder).count().await == 0 {
        tokio::task::yield_now().await;
    }
}

fn names_of(n: usize) -> Vec<String> {
    let members = image(n).into_iter().map(|(of, _)| names::member(&location(), &of.digest));
    members.chain([pointer(n)]).collect()
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_pins_or_freezes_while_names_are_taken_away_keeps_them() {
    let (tag, top): (Tag, _) = ("t0".parse().expect("a tag"), image(0)[3].0.digest);
    let pin = |reference| names::pin(&Pin { location: location(), reference });
    for kept in [pin(Reference::Tag(tag.clone())), pin(Reference::Digest(top)), names::frozen(&location(), &tag)] {
        let (bucket, clock, _replica) = with_images(&[0, 1, 2]).await;
        let collector = collector(&bucket, &clock, 1);
        let act = async {
            something_in(&bucket, FOLDER).await;
            bucket.write(&kept, serde_json::to_vec(&top).expect("JSON").into()).await.expect("told");
        };
        let (round, ()) = tokio::join!(collector.turn(), act);
        let round = round.expect("a round");
        assert_eq!(
            (round.marked, round.names),
            (11, 9),
            "{kept}: those of two images went, but a layer that they share with what is kept"
        );
        for _ in 0..2 {
            clock.advance(DAY);
            collector.turn().await.expect("a round");
        }
        for name in names_of(0) {
            assert!(bucket.read(&name, LONGEST).await.expect("told").is_some(), "{kept}: {name}");
        }
        assert_no_name_without_bytes(&bucket, &kept).await;
        assert_eq!(bucket.list(BLOBS).count().await, 4, "{kept}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_serves_from_its_disk_while_names_are_taken_away_keeps_them() {
    let (bucket, clock, replica) = with_images(&[0, 1, 2]).await;
    let used = use_of(&image(0)[3].0.digest);
    bucket.write(&used, Bytes::new()).await.expect("used");
    let before = modified(&bucket, &used).await;
    let collector = collector(&bucket, &clock, 1);
    let act = async {
        something_in(&bucket, FOLDER).await;
        // Later, by a clock that counts milliseconds.
        while modified(&bucket, &used).await <= before {
            replica.owed.up(&used);
            replica.raising.drain().await.expect("carried up");
        }
    };
    let (round, ()) = tokio::join!(collector.turn(), act);
    assert_eq!(round.expect("a round").names, 9, "those of two images, but a layer that they share with this one");
    for name in names_of(0) {
        assert!(bucket.read(&name, LONGEST).await.expect("told").is_some(), "{name}");
    }
    assert_no_name_without_bytes(&bucket, "used").await;
    // What was told before all was looked at is no news.
    clock.advance(DAY);
    assert!(collector.turn().await.expect("a round").names > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_by_its_digest_keeps_all_that_it_leads_to_when_its_names_have_gone() {
    let (bucket, clock, _replica) = with_images(&[0]).await;
    for name in names_of(0) {
        bucket.remove(&name).await.expect("removed");
    }
    let collector = collector(&bucket, &clock, 0);
    assert_eq!(collector.turn().await.expect("a round").marked, 4);
    let pin = Pin { location: location(), reference: Reference::Digest(image(0)[3].0.digest) };
    bucket.write(&names::pin(&pin), Bytes::from_static(b"\"app\"")).await.expect("pinned");
    clock.advance(DAY);
    assert_eq!(collector.turn().await.expect("a round").deleted, 0);
    bucket.remove(&names::pin(&pin)).await.expect("unpinned");
    for deleted in [3, 1] {
        clock.advance(DAY);
        let round = collector.turn().await.expect("a round");
        assert_eq!(round.deleted, deleted, "the manifest had lost its mark, and has one again: {round:?}");
        clock.advance(DAY);
    }
}

#[tokio::test(start_paused = true)]
async fn where_not_all_names_are_listed_nothing_is_deleted() {
    let (bucket, clock, _replica) = with_images(&[0]).await;
    for name in names_of(0) {
        bucket.remove(&name).await.expect("removed");
    }
    let collector = collector(&bucket, &clock, 0);
    assert_eq!(collector.turn().await.expect("a round").marked, 4);
    clock.advance(DAY);
    // What was written last is not listed, as where a list ends early.
    let loses_it = async {
        something_in(&bucket, LAST).await;
        bucket.remove(&format!("{LAST}/{:020}", 2)).await.expect("removed");
    };
    let (round, ()) = tokio::join!(collector.turn(), loses_it);
    assert_eq!(round.expect("a round").deleted, 0);
    assert!(bucket.lists_wrongly().is_some(), "it is said");
    clock.advance(DAY);
    assert_eq!(collector.turn().await.expect("a round").deleted, 4);
    assert_eq!(bucket.lists_wrongly(), None);
    assert_eq!(bucket.list(LAST).count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_store_lost_goes_up_again_when_its_tag_is_checked() {
    let (bucket, clock, replica) = with_images(&[0]).await;
    let [config, layer, ..] =
        image(0).try_into().map(|parts: [_; 4]| parts.map(|(of, _): (Descriptor, _)| of.digest)).expect("parts");
    let check = async || {
        clock.advance(Duration::from_secs(60));
        replica.pull(0, clock.now()).await;
        replica.raising.drain().await.expect("carried up");
    };
    for (lost, name) in [(key_of(&config), None), (key_of(&layer), Some(names::member(&location(), &layer)))] {
        for key in [&lost].into_iter().chain(&name) {
            bucket.remove(key).await.expect("removed");
        }
        check().await;
        assert!(bucket.stat(&config).await.expect("told").is_none() || name.is_some(), "not each time");
        tokio::time::advance(DAY).await;
        check().await;
        assert_no_name_without_bytes(&bucket, &lost).await;
        assert_eq!(keys(&bucket).await.iter().filter(|key| key.contains("_links")).count(), 4);
    }
}
