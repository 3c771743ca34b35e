//! How the bucket is.

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::super::super::settings::Settings;
use super::*;

const PATIENCE: Duration = Duration::from_secs(2);

fn bucket() -> Bucket {
    Bucket::in_memory(&Settings { patience: PATIENCE, ..Settings::for_tests() })
}

async fn after<T>(time: Duration, answer: Result<T, Error>) -> Result<T, Error> {
    tokio::time::sleep(time).await;
    answer
}

fn cannot() -> Error {
    Error::Generic { store: "S3", source: "503".into() }
}

#[tokio::test(start_paused = true)]
async fn what_it_does_not_take_says_nothing_of_what_it_gives() {
    let bucket = bucket();
    for _ in 0..10 {
        let failed = bucket.written::<()>(0, DEADLINE, after(PATIENCE / 8, Err(cannot()))).await;
        assert!(matches!(failed, Err(Trouble::Away(_))));
        assert_eq!(bucket.read("a", 1).await, Ok(None));
    }
    assert!(bucket.is_well());
    assert!(!bucket.takes_writes() && bucket.trouble().is_some_and(|why| why.contains("take what is written")));
    let left_alone = bucket.claim("fills/x", Bytes::new()).await;
    assert!(matches!(left_alone, Err(Trouble::Away(_))), "no reader waits for it: {left_alone:?}");
    bucket.write("b", Bytes::from_static(b"x")).await.expect("written");
    assert!(bucket.takes_leases() && bucket.trouble().is_none());
    bucket.claim("fills/x", Bytes::new()).await.expect("claimed");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_too_slowly_is_known_before_it_is_given_up_and_large_parts_have_their_time() {
    let (bucket, began) = (bucket(), Instant::now());
    let slowly = || bucket.written(0, DEADLINE, after(PATIENCE * 4, Ok(())));
    let (first, second, ()) = tokio::join!(slowly(), slowly(), async {
        tokio::time::sleep(PATIENCE + Duration::from_millis(1)).await;
        assert!(!bucket.takes_writes());
    });
    assert!(first.is_ok() && second.is_ok() && began.elapsed() == PATIENCE * 4, "they are taken all the same");
    assert!(!bucket.takes_writes(), "that says nothing good");
    bucket.written(16 << 20, DEADLINE, after(PATIENCE * 4, Ok(()))).await.expect("written");
    assert!(bucket.takes_writes());
}

#[tokio::test(start_paused = true)]
async fn who_has_nobody_else_asks_a_bucket_that_is_slow_and_none_that_says_nothing() {
    let bucket = bucket();
    let alone = bucket.at(Pace::Any);
    for _ in 0..10 {
        assert!(bucket.patiently(Asked::Names, after(PATIENCE / 3, Ok(()))).await.is_ok());
    }
    assert!(!bucket.is_well() && bucket.read("a", 1).await.is_err(), "others help more");
    assert!(alone.is_well() && alone.read("a", 1).await == Ok(None));
    for _ in 0..10 {
        assert!(alone.patiently(Asked::Names, after(PATIENCE / 3, Ok(()))).await.is_ok());
    }
    assert!(bucket.is_well(), "that is no failure for who has nobody else");
    let digest = crate::oci::Digest::of(crate::oci::Algorithm::Sha256, b"x");
    for _ in 0..3 {
        let _ = bucket.is_of_no_help(Asked::Names, "x".to_owned());
    }
    assert!(bucket.offers(&digest, Pace::Helps).await.is_err() && bucket.offers(&digest, Pace::Any).await.is_ok());
    for _ in 0..3 {
        assert!(alone.patiently::<()>(Asked::Names, std::future::pending()).await.is_err());
    }
    assert!(!alone.is_well() && alone.read("a", 1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn leases_that_come_slowly_one_after_the_other_are_no_longer_waited_for() {
    let slowly = |bucket: Bucket, part| async move {
        assert!(bucket.patiently(Asked::Leases, after(PATIENCE / part, Ok(()))).await.is_ok());
    };
    let once = bucket();
    futures_util::future::join_all((0..50).map(|_| slowly(once.clone(), 5))).await;
    assert!(once.takes_leases(), "all of them at once delay nobody for long");
    let bucket = bucket();
    for _ in 0..100 {
        slowly(bucket.clone(), 10).await;
    }
    assert!(bucket.takes_leases(), "that is how long it takes");
    for _ in 0..4 {
        slowly(bucket.clone(), 5).await;
    }
    let told = || bucket.trouble().unwrap_or_default();
    assert!(!bucket.takes_leases() && told().contains("it takes leases slowly"), "{}", told());
    slowly(bucket.clone(), 5).await;
    assert!(!bucket.takes_leases(), "that says nothing good");
    slowly(bucket.clone(), 10).await;
    assert!(bucket.takes_leases());
}

#[tokio::test(start_paused = true)]
async fn one_lease_that_never_comes_is_waited_for() {
    let bucket = bucket();
    assert!(bucket.patiently::<()>(Asked::Leases, std::future::pending()).await.is_err());
    assert!(!bucket.takes_leases() && bucket.takes_writes());
}

#[tokio::test(start_paused = true)]
async fn while_it_takes_nothing_it_is_looked_at_every_few_seconds() {
    let bucket = bucket();
    for _ in 0..10 {
        let _ = bucket.is_away(Asked::Writes, "x".to_owned());
        let _ = bucket.is_away(Asked::Leases, "x".to_owned());
    }
    assert!(bucket.look(false).await.is_ok() && !bucket.takes_writes(), "not yet");
    tokio::time::advance(WRITES_TRIED_EVERY).await;
    assert!(bucket.look(false).await.is_ok() && bucket.takes_leases());
    assert_eq!(bucket.list("").count().await, 0, "nothing of it is left");
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_late_one_after_the_other_cost_the_patience_of_one_reader() {
    for asked in [Asked::Names, Asked::Sizes] {
        let bucket = bucket();
        let answers = |part| {
            let bucket = bucket.clone();
            async move { assert!(bucket.patiently(asked, after(PATIENCE / part, Ok(()))).await.is_ok()) }
        };
        for _ in 0..200 {
            answers(20).await;
        }
        assert_eq!(bucket.trouble(), None, "that is how far away it is");
        let began = Instant::now();
        while bucket.trouble().is_none() && began.elapsed() <= PATIENCE * 10 {
            answers(5).await;
        }
        assert!(began.elapsed() <= PATIENCE, "{asked:?}: {:?}", began.elapsed());
        let digest = crate::oci::Digest::of(crate::oci::Algorithm::Sha256, b"x");
        assert!(bucket.offers(&digest, Pace::Helps).await.is_err() && bucket.offers(&digest, Pace::Any).await.is_ok());
        for _ in 0..20 {
            answers(5).await;
        }
        assert!(bucket.trouble().is_some(), "{asked:?}: that says nothing good");
        tokio::time::advance(Duration::from_secs(40)).await;
        answers(20).await;
        assert_eq!(bucket.trouble(), None, "{asked:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_and_is_no_missing_right() {
    let bucket = bucket();
    let error = || Error::PermissionDenied {
        path: "a".to_owned(),
        source: "<Error><Code>RequestTimeTooSkewed</Code></Error>".into(),
    };
    bucket.time.heard(SystemClock.now().plus(Duration::from_secs(25 * 60 * 60 + 60)));
    let told = bucket.named(&error()).to_string();
    assert!(told.contains("the clock of this machine is 25 h behind the store's: set it right"), "{told}");
    bucket.health.hides_absence.store(true, Ordering::Release);
    assert!(bucket.patiently::<()>(Asked::Names, async { Err(error()) }).await.is_err(), "nor is anything absent");
    let forbidden = Error::PermissionDenied { path: "a".to_owned(), source: "403".into() };
    assert_eq!(bucket.patiently::<()>(Asked::Names, async { Err(forbidden) }).await, Ok(None));
}
