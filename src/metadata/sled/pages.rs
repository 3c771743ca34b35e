//! Blobs in the index: many small records to a page, so that a million of them is some ten thousand
//! entries of the engine, not a million.
//!
//! A page holds the blobs whose digests begin with the same two bytes, in the order of their digests:
//! the rest of the digest, then the record. Truth: a page that cannot be made sense of is an empty
//! one; the index is disposable.

use sled::{IVec, Tree};

use crate::clock::Timestamp;
use crate::metadata::BlobRecord;
use crate::metadata::encoding::{RECORD, decode_blob, decode_digest, encode_blob, encode_digest};
use crate::oci::Digest;

/// How many bytes of an encoded digest name its page: the algorithm and two of the hash.
const KEY: usize = 3;

/// The tree of pages.
#[derive(Debug)]
pub(super) struct Pages(pub(super) Tree);

impl Pages {
    pub(super) fn put(&self, digest: &Digest, record: &BlobRecord) -> sled::Result<()> {
        let name = encode_digest(digest);
        self.change(page_of(&name), |page| {
            let mut page = page.to_owned();
            let entry = entry(&name, record);
            match find(&page, &name) {
                Ok(at) => page[at..at + entry.len()].copy_from_slice(&entry),
                Err(at) => drop(page.splice(at..at, entry)),
            }
            page
        })
    }

    pub(super) fn remove(&self, digest: &Digest) -> sled::Result<()> {
        let name = encode_digest(digest);
        self.change(page_of(&name), |page| {
            let mut page = page.to_owned();
            if let Ok(at) = find(&page, &name) {
                page.drain(at..at + length(&name));
            }
            page
        })
    }

    /// Notes uses; blobs that are not there are left out.
    pub(super) fn touch(&self, uses: &[(Digest, Timestamp)]) -> sled::Result<()> {
        let mut uses: Vec<_> = uses.iter().map(|(digest, at)| (encode_digest(digest), *at)).collect();
        uses.sort_unstable();
        for together in uses.chunk_by(|(one, _), (other, _)| page_of(one) == page_of(other)) {
            let Some((first, _)) = together.first() else { continue };
            self.change(page_of(first), |page| {
                let mut page = page.to_owned();
                for (name, used_at) in together {
                    let Ok(at) = find(&page, name) else { continue };
                    let record = at + length(name) - RECORD..at + length(name);
                    if let Some(known) = decode_blob(&page[record.clone()]) {
                        page[record].copy_from_slice(&encode_blob(&known.used(*used_at)));
                    }
                }
                page
            })?;
        }
        Ok(())
    }

    /// Visits every blob.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Digest, BlobRecord)) -> sled::Result<()> {
        for page in &self.0 {
            let (key, page) = page?;
            for entry in entries(&key, &page) {
                if let Some((digest, record)) = decode(&key, entry) {
                    visit(digest, record);
                }
            }
        }
        Ok(())
    }

    /// Makes the blobs those that are stored, in order of digest and with sizes in bytes; what was
    /// put since `now` stays. Those not known yet count as used `now`.
    pub(super) fn reconcile(&self, stored: &[(Digest, u64)], now: Timestamp) -> sled::Result<()> {
        let mut keys = self.0.iter().keys().collect::<sled::Result<Vec<IVec>>>()?;
        let groups = stored.chunk_by(|(one, _), (other, _)| key_of(one) == key_of(other));
        keys.extend(groups.filter_map(|group| Some(IVec::from(&key_of(&group.first()?.0)))));
        keys.sort_unstable();
        keys.dedup();
        let mut rest = stored;
        for key in keys {
            let here = rest.partition_point(|(digest, _)| key_of(digest)[..] <= *key);
            let (group, later) = rest.split_at(here);
            rest = later;
            self.change(&key, |page| reconciled(&key, page, group, now))?;
        }
        Ok(())
    }

    /// Replaces a page, unless it stays the same. `change` may be called again when somebody else
    /// was faster.
    fn change(&self, key: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> sled::Result<()> {
        loop {
            let before = self.0.get(key)?;
            let old = before.as_deref().unwrap_or_default();
            let new = change(if is_sound(key, old) { old } else { &[] });
            if new == old {
                return Ok(());
            }
            let new = (!new.is_empty()).then_some(new);
            if self.0.compare_and_swap(key, before, new)?.is_ok() {
                return Ok(());
            }
        }
    }
}

/// The page with exactly the blobs of `group`, and what was put since `now`.
fn reconciled(key: &[u8], page: &[u8], group: &[(Digest, u64)], now: Timestamp) -> Vec<u8> {
    let mut new = Vec::with_capacity(page.len().max(group.len() * (32 + RECORD)));
    let mut group = group.iter().peekable();
    let fresh = |digest: &Digest, size: u64| entry(&encode_digest(digest), &BlobRecord::new(size, now));
    for known in entries(key, page) {
        let Some((digest, record)) = decode(key, known) else { continue };
        while let Some((earlier, size)) = group.next_if(|(stored, _)| *stored < digest) {
            new.extend(fresh(earlier, *size));
        }
        match group.next_if(|(stored, _)| *stored == digest) {
            Some((_, size)) if *size != record.size && record.stored_at < now => new.extend(fresh(&digest, *size)),
            None if record.stored_at < now => {}
            _ => new.extend_from_slice(known),
        }
    }
    group.for_each(|(digest, size)| new.extend(fresh(digest, *size)));
    new
}

fn key_of(digest: &Digest) -> [u8; KEY] {
    let hash = digest.as_bytes();
    [crate::metadata::encoding::algorithm(digest), hash[0], hash[1]]
}

fn page_of(name: &[u8]) -> &[u8] {
    &name[..KEY]
}

/// How many bytes a blob takes in its page.
fn length(name: &[u8]) -> usize {
    name.len() - KEY + RECORD
}

fn entry(name: &[u8], record: &BlobRecord) -> Vec<u8> {
    [&name[KEY..], &encode_blob(record)].concat()
}

/// How many bytes each blob takes in the page of this name; `None` for an unknown algorithm.
fn stride(key: &[u8]) -> Option<usize> {
    match key {
        [1, _, _] => Some(32 + 1 - KEY + RECORD),
        [2, _, _] => Some(64 + 1 - KEY + RECORD),
        _ => None,
    }
}

fn is_sound(key: &[u8], page: &[u8]) -> bool {
    stride(key).is_some_and(|stride| page.len().is_multiple_of(stride))
}

fn entries<'p>(key: &[u8], page: &'p [u8]) -> std::slice::ChunksExact<'p, u8> {
    page.chunks_exact(stride(key).unwrap_or(usize::MAX))
}

fn decode(key: &[u8], entry: &[u8]) -> Option<(Digest, BlobRecord)> {
    let (rest, record) = entry.split_at_checked(entry.len().checked_sub(RECORD)?)?;
    Some((decode_digest(&[key, rest].concat())?, decode_blob(record)?))
}

/// Where the blob is in its page, or where it belongs.
fn find(page: &[u8], name: &[u8]) -> Result<usize, usize> {
    let (stride, rest) = (length(name), &name[KEY..]);
    let (mut low, mut high) = (0, page.len() / stride);
    while low < high {
        let middle = low.midpoint(high);
        match page[middle * stride..][..rest.len()].cmp(rest) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Ok(middle * stride),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Err(low * stride)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pages() -> Pages {
        let db = sled::Config::new().temporary(true).open().expect("opens");
        Pages(db.open_tree("pages").expect("opens"))
    }

    /// Few first bytes, so that pages hold several.
    fn digest(number: u8) -> Digest {
        let mut hash = [number; 64];
        hash[0] = number % 2;
        hash[1] = 0;
        if number.is_multiple_of(5) { Digest::Sha512(hash) } else { Digest::Sha256(std::array::from_fn(|at| hash[at])) }
    }

    fn all(pages: &Pages) -> BTreeMap<Digest, BlobRecord> {
        let mut all = BTreeMap::new();
        pages
            .for_each(|digest, record| {
                all.insert(digest, record);
            })
            .expect("reads");
        all
    }

    #[test]
    fn pages_say_what_a_map_says() {
        let (pages, mut map) = (pages(), BTreeMap::new());
        for step in 0..2000_u32 {
            let digest = digest((step.wrapping_mul(2_654_435_761) >> 13) as u8 % 40);
            let at = Timestamp(u64::from(step) * 100_000);
            match step % 7 {
                0..=2 => {
                    let record = BlobRecord::new(u64::from(step), at);
                    pages.put(&digest, &record).expect("writes");
                    map.insert(digest, record);
                }
                3 => {
                    pages.remove(&digest).expect("removes");
                    map.remove(&digest);
                }
                _ => {
                    pages.touch(&[(digest, at)]).expect("touches");
                    map.entry(digest).and_modify(|record| *record = record.used(at));
                }
            }
            assert_eq!(all(&pages), map, "after step {step}");
        }
    }

    #[test]
    fn after_reconciling_the_blobs_are_those_that_are_stored_and_what_came_since() {
        let (pages, now) = (pages(), Timestamp(100));
        let old = BlobRecord { size: 7, stored_at: Timestamp(1), used_at: Timestamp(5), uses: 3 };
        for number in 0..10 {
            pages.put(&digest(number), &old).expect("writes");
        }
        let since = BlobRecord::new(9, Timestamp(101));
        pages.put(&digest(30), &since).expect("writes");
        // One has another size, one is new, the odd ones are gone.
        let mut stored: Vec<_> = [0, 2, 4, 6, 8, 20].map(|number| (digest(number), 7)).to_vec();
        stored[1].1 = 70;
        stored.sort_unstable();
        pages.reconcile(&stored, now).expect("reconciles");
        let kept = [0, 4, 6, 8].map(|number| (digest(number), old));
        let fresh = [(digest(2), BlobRecord::new(70, now)), (digest(20), BlobRecord::new(7, now))];
        assert_eq!(all(&pages), kept.into_iter().chain(fresh).chain([(digest(30), since)]).collect());
    }

    #[test]
    fn a_page_of_nonsense_is_an_empty_one() {
        let pages = pages();
        pages.0.insert(key_of(&digest(1)), b"nonsense").expect("writes");
        pages.0.insert(b"no such algorithm", b"nonsense").expect("writes");
        assert!(all(&pages).is_empty());
        let record = BlobRecord::new(1, Timestamp(1));
        pages.put(&digest(1), &record).expect("writes");
        assert_eq!(all(&pages), BTreeMap::from([(digest(1), record)]));
        pages.reconcile(&[], Timestamp(5)).expect("reconciles");
        assert!(pages.0.is_empty());
    }
}
