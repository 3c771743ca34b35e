//! Lists in the bucket: each replica writes what upstream answered it, and nothing needs one. Of more than all together
//! may take, those leave that were written longest ago; what is asked for is written anew now and again.

use futures_util::StreamExt as _;

use super::{Collector, Round};
use crate::clock::Timestamp;
use crate::metadata::BLOCK;
use crate::metadata::names::{self, Name};
use crate::tier::{Listed, Trouble};

/// What all may take, in bytes, each a block at least.
pub(super) const MOST: u64 = 256 << 20;
/// None is kept for longer.
const HOURS: usize = 90 * 24;

impl Collector {
    pub(super) async fn drop_lists(&self, round: &mut Round) -> Result<(), Trouble> {
        let now = self.bucket.time().unwrap_or_else(|| self.clock.now());
        let mut by_age = vec![0; HOURS];
        let mut all = self.bucket.list(names::REPOSITORIES);
        while let Some(listed) = all.next().await.transpose()? {
            if let Some(hour) = age_of_list(&listed, now).and_then(|hour| by_age.get_mut(hour)) {
                *hour += listed.size.max(BLOCK);
            }
        }
        let kept = hours_kept(&by_age, self.most_lists);
        let mut all = self.bucket.list(names::REPOSITORIES);
        while let Some(listed) = all.next().await.transpose()? {
            if age_of_list(&listed, now).is_some_and(|hour| hour >= kept) {
                self.bucket.remove(&listed.key).await?;
                round.names += 1;
            }
        }
        Ok(())
    }
}

/// How many hours ago a list was written, if it is one.
fn age_of_list(Listed { key, modified, .. }: &Listed, now: Timestamp) -> Option<usize> {
    let is_list = matches!(names::parse(key), Some(Name::List(..)));
    let hours = modified.age(now).unwrap_or_default().as_secs() / 3600;
    is_list.then(|| usize::try_from(hours).unwrap_or(usize::MAX))
}

/// Of how many hours all fits, by how much was written in each.
fn hours_kept(by_age: &[u64], most: u64) -> usize {
    let mut left = Some(most);
    by_age
        .iter()
        .take_while(|bytes| {
            left = left.and_then(|left| left.checked_sub(**bytes));
            left.is_some()
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_stays_as_far_as_all_of_its_hour_fits() {
        for (by_age, most, kept) in
            [(&[1, 2, 3][..], 6, 3), (&[1, 2, 3], 5, 2), (&[1, 2, 3], 0, 0), (&[0, 0, 7, 0], 6, 2), (&[], 6, 0)]
        {
            assert_eq!(hours_kept(by_age, most), kept, "{by_age:?} {most}");
        }
    }
}
