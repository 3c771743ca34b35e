//! What the store lists, one page after the other.
//!
//! Some stores give the same page again and again, or go on with new ones without end, or give one that is longer than
//! any can be. Each listing has bounds. Where one is met, whoever lists is told, the rest of the store is asked on, and
//! the bucket says why it is no help there until a listing comes to its end.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::{Error, ObjectMeta};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::Trouble;
use super::health::Asked;
use super::listening::is_too_long;
use super::{Bucket, DEADLINE, Listed, moment};

/// No bucket has more below one folder.
const MOST: u64 = 5_000_000;
/// How long the store is waited for, all of its pages together.
const AT_MOST: Duration = Duration::from_secs(15 * 60);

/// Why the lists of a store are of no use, where they are not.
#[derive(Debug, Default)]
pub(super) struct Oddity(Mutex<Option<String>>);

/// A listing, and how far it is.
struct Listing {
    bucket: Bucket,
    pages: BoxStream<'static, Result<ObjectMeta, Error>>,
    came: u64,
    waited: Duration,
    /// A key that came before, and how many will have come when a later one takes its place: who lists in a circle
    /// comes to it again.
    before: String,
    until: u64,
    /// What has to come: without it not all came.
    last: Option<String>,
    /// The key that came last, where what comes has to be in order.
    in_order: Option<String>,
}

impl Bucket {
    /// Every object below `folder`; ends at the first trouble, also where there is more than any bucket has. For
    /// housekeeping, never for a request.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed, Trouble>> {
        self.listing(folder, None, None)
    }

    /// The same for who deletes what is not listed: each key has to come behind all before it, as stores list by the order
    /// of their bytes. One that comes twice, or too late, says that another page is not what was asked for. That a page
    /// lacks keys in its middle cannot be found out.
    pub fn list_in_order(&self, folder: &str) -> BoxStream<'static, Result<Listed, Trouble>> {
        self.listing(folder, None, Some(String::new()))
    }

    /// The same of a folder that has this object behind all others: where that does not come, the list is not believed.
    pub fn list_to(&self, folder: &str, last: &str) -> BoxStream<'static, Result<Listed, Trouble>> {
        self.listing(folder, Some(last.to_owned()), Some(String::new()))
    }

    fn listing(
        &self,
        folder: &str,
        last: Option<String>,
        in_order: Option<String>,
    ) -> BoxStream<'static, Result<Listed, Trouble>> {
        let Ok(path) = self.path(folder) else { return stream::empty().boxed() };
        let (bucket, pages) = (self.clone(), self.store.list(Some(&path)));
        let (before, until) = (String::new(), 1);
        let listing = Listing { bucket, pages, came: 0, waited: Duration::ZERO, before, until, last, in_order };
        stream::unfold(Some(listing), async |listing| listing?.next().await).boxed()
    }

    /// Why its lists are of no use, where they were not when the last one ended.
    pub fn lists_wrongly(&self) -> Option<String> {
        self.lists.0.lock().clone()
    }

    fn lists_well(&self) {
        if self.lists.0.lock().take().is_some() {
            tracing::info!(bucket = self.name, "the bucket lists again what it has");
        }
    }

    fn lists_oddly(&self, why: String) -> Trouble {
        if self.lists.0.lock().replace(why.clone()).is_none() {
            tracing::warn!(bucket = self.name, why, "the lists of the bucket are of no use; pulls go on without them");
        }
        Trouble::Refused(why)
    }
}

impl Listing {
    /// The next object, and what comes after it.
    async fn next(mut self) -> Option<(Result<Listed, Trouble>, Option<Listing>)> {
        let began = Instant::now();
        let next = tokio::time::timeout(DEADLINE, self.pages.next()).await;
        self.waited += began.elapsed();
        match next {
            Ok(None) if self.last.is_some() => {
                let why = format!("it does not list all that it has: {} objects, and not the last of them", self.came);
                Some((Err(self.bucket.lists_oddly(why)), None))
            }
            Ok(None) => {
                self.bucket.lists_well();
                None
            }
            Ok(Some(Ok(meta))) => {
                let skipped = self.bucket.prefix.len();
                let key = meta.location.as_ref().get(skipped..).unwrap_or_default().to_owned();
                match self.goes_on(&key) {
                    Ok(()) => Some((Ok(Listed { key, size: meta.size, modified: moment(&meta) }), Some(self))),
                    Err(why) => Some((Err(self.bucket.lists_oddly(why)), None)),
                }
            }
            Ok(Some(Err(error))) => {
                let trouble = match self.bucket.trouble_of(Asked::Names, &error, true) {
                    Trouble::Refused(why) if is_too_long(&error) => {
                        self.bucket.lists_oddly(format!("it lists with {why}"))
                    }
                    trouble => trouble,
                };
                Some((Err(trouble), None))
            }
            Err(_) => Some((Err(self.bucket.stalls(Asked::Names)), None)),
        }
    }

    /// Whether it may go on after this key.
    fn goes_on(&mut self, key: &str) -> Result<(), String> {
        self.came += 1;
        self.last.take_if(|last| last == key);
        if let Some(before) = &mut self.in_order {
            if *key <= **before {
                return Err(format!("it does not list in order, after {} objects", self.came));
            }
            key.clone_into(before);
        }
        if key == self.before {
            return Err(format!("it lists the same again and again, after {} objects", self.came));
        }
        if self.came > MOST {
            return Err(format!("it lists more than {MOST} objects"));
        }
        if self.waited > AT_MOST {
            return Err(format!("it lists for more than {} s, {} objects by then", AT_MOST.as_secs(), self.came));
        }
        if self.came == self.until {
            key.clone_into(&mut self.before);
            self.until *= 2;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::super::super::settings::Settings;
    use super::*;

    /// How many objects of what is listed come, and why no more do.
    async fn read(pages: impl futures_util::Stream<Item = String> + Send + 'static) -> (u64, Option<Trouble>, Bucket) {
        let bucket = Bucket::in_memory(&Settings::for_tests());
        let meta = |key: String| ObjectMeta {
            location: Path::from(format!("mirror/{key}")),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        let pages = pages.map(move |key| Ok(meta(key))).boxed();
        let listing = Listing {
            bucket: bucket.clone(),
            pages,
            came: 0,
            waited: Duration::ZERO,
            before: String::new(),
            until: 1,
            last: None,
            in_order: None,
        };
        let mut listed = stream::unfold(Some(listing), async |listing| listing?.next().await).boxed();
        let mut came = 0;
        while let Some(next) = listed.next().await {
            match next {
                Ok(_) => came += 1,
                Err(trouble) => return (came, Some(trouble), bucket),
            }
        }
        (came, None, bucket)
    }

    #[tokio::test(start_paused = true)]
    async fn who_lists_in_a_circle_or_without_end_is_found_out_and_who_comes_to_an_end_is_not() {
        let circle = |first: u64, then: u64| stream::iter((0..first).chain((first..first + then).cycle()));
        for (first, then) in [(0, 1), (0, 1000), (1000, 1000), (999, 1), (2500, 777)] {
            let (came, trouble, bucket) = read(circle(first, then).map(|n: u64| format!("a/{n}"))).await;
            assert!(trouble.is_some() && bucket.lists_wrongly().is_some(), "{first} {then}");
            assert!(came <= 4 * (first + then) + 1, "{first} {then}: {came}");
        }
        let slow = stream::iter(0..u64::MAX).then(|n| async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            format!("a/{n}")
        });
        let (came, trouble, bucket) = read(slow).await;
        assert!(came <= 45 && trouble.is_some() && bucket.lists_wrongly().is_some(), "{came}");
        let (came, trouble, bucket) = read(stream::iter(0..20_000).map(|n| format!("a/{n}"))).await;
        assert_eq!((came, trouble, bucket.lists_wrongly()), (20_000, None, None));
    }

    #[tokio::test]
    async fn a_list_without_the_last_of_what_is_there_is_not_believed() {
        let bucket = Bucket::in_memory(&Settings::for_tests());
        for key in ["a/1", "a/2", "a/~"] {
            bucket.write(key, "x".into()).await.expect("written");
        }
        let listed = async |last| bucket.list_to("a", last).collect::<Vec<_>>().await;
        assert!(listed("a/~").await.iter().all(Result::is_ok) && bucket.lists_wrongly().is_none());
        let short = listed("a/~~").await;
        assert_eq!((short.len(), short[3].is_err(), bucket.lists_wrongly().is_some()), (4, true, true));
        assert!(listed("a/~").await.len() == 3 && bucket.lists_wrongly().is_none(), "it lists well again");
    }

    #[test]
    fn no_bucket_has_more_than_so_much() {
        let bucket = Bucket::in_memory(&Settings::for_tests());
        let pages = stream::empty().boxed();
        let mut listing = Listing {
            bucket,
            pages,
            came: MOST - 1,
            waited: Duration::ZERO,
            before: String::new(),
            until: 0,
            last: None,
            in_order: None,
        };
        assert!(listing.goes_on("a").is_ok() && listing.goes_on("b").is_err());
    }

    #[test]
    fn what_does_not_come_in_order_is_not_believed_by_who_deletes_what_is_not_listed() {
        for (in_order, keys, is_believed) in [
            (Some(""), ["a/1-b/x", "a/1/x", "a/10"], true),
            (Some(""), ["a/1", "a/3", "a/2"], false),
            (Some(""), ["a/1", "a/2", "a/2"], false),
            (None, ["a/1", "a/3", "a/2"], true),
        ] {
            let mut listing = Listing {
                bucket: Bucket::in_memory(&Settings::for_tests()),
                pages: stream::empty().boxed(),
                came: 0,
                waited: Duration::ZERO,
                before: String::new(),
                until: 1,
                last: None,
                in_order: in_order.map(str::to_owned),
            };
            let came: Vec<_> = keys.iter().map(|key| listing.goes_on(key).is_ok()).collect();
            assert_eq!(came, [true, true, is_believed], "{keys:?}");
        }
    }
}
