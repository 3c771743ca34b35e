//! How records are named and packed in an index, whatever engine keeps it.
//!
//! Names are joined by a zero byte, which no name contains, so that all records of a tag lie
//! together. Blobs, of which there are most, are packed as bytes; everything else is JSON.

use super::{BlobRecord, Location, TagKey};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Tag};

/// What the keys of a tag begin with.
pub(super) fn tag_prefix(location: &Location, tag: &Tag) -> String {
    format!("{}\0{}\0{tag}\0", location.upstream, location.repository)
}

pub(super) fn tag_key(key: &TagKey) -> Vec<u8> {
    format!("{}{}", tag_prefix(&key.location, &key.tag), key.accept).into_bytes()
}

/// What the keys of the memberships of a repository begin with.
pub(super) fn member_prefix(location: &Location) -> String {
    format!("{}\0{}\0", location.upstream, location.repository)
}

pub(super) fn member_key(location: &Location, digest: &Digest) -> Vec<u8> {
    format!("{}{digest}", member_prefix(location)).into_bytes()
}

/// That a repository has content, found by the content.
pub(super) fn holder_key(digest: &Digest, location: &Location) -> Vec<u8> {
    [encode_digest(digest), format!("{}\0{}", location.upstream, location.repository).into_bytes()].concat()
}

/// The byte that stands for the algorithm of a digest.
pub(super) const fn algorithm(digest: &Digest) -> u8 {
    match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

pub(super) fn encode_digest(digest: &Digest) -> Vec<u8> {
    [&[algorithm(digest)], digest.as_bytes()].concat()
}

pub(super) fn decode_digest(bytes: &[u8]) -> Option<Digest> {
    match bytes.split_first()? {
        (1, hash) => hash.try_into().ok().map(Digest::Sha256),
        (2, hash) => hash.try_into().ok().map(Digest::Sha512),
        _ => None,
    }
}

/// The repository and the last component of a key of a tag or a membership.
fn decode_location<'k>(mut parts: impl Iterator<Item = &'k str>) -> Option<Location> {
    Some(Location { upstream: parts.next()?.parse().ok()?, repository: parts.next()?.parse().ok()? })
}

pub(super) fn decode_tag_key(bytes: &[u8]) -> Option<TagKey> {
    let mut parts = std::str::from_utf8(bytes).ok()?.split('\0');
    let location = decode_location(&mut parts)?;
    Some(TagKey { location, tag: parts.next()?.parse().ok()?, accept: parts.next()?.parse().ok()? })
}

pub(super) fn decode_member_location(bytes: &[u8]) -> Option<Location> {
    decode_location(std::str::from_utf8(bytes).ok()?.split('\0'))
}

/// Bytes of a packed record.
pub(super) const RECORD: usize = 28;

/// Three numbers of eight bytes and one of four: there are as many of these as blobs, so they are
/// kept small.
pub(super) fn encode_blob(record: &BlobRecord) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    for (place, number) in bytes.chunks_exact_mut(8).zip([record.size, record.stored_at.0, record.used_at.0]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes[24..].copy_from_slice(&record.uses.to_le_bytes());
    bytes
}

pub(super) fn decode_blob(bytes: &[u8]) -> Option<BlobRecord> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (stored_at, used_at) = (Timestamp(number(8)?), Timestamp(number(16)?));
    let uses = u32::from_le_bytes(bytes.get(24..RECORD)?.try_into().ok()?);
    Some(BlobRecord { size: number(0)?, stored_at, used_at, uses })
}
