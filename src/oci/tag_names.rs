//! Tags as registries list them: any strings, and very many. They lie in one buffer as the JSON that clients get,
//! so that a part of them is cut from it, neither parsed nor copied, however many there are.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Of so many tags one has its place written down; others are found from there.
const STRIDE: usize = 64;

/// Tags in the order of their registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagNames {
    /// JSON strings, a comma behind each.
    json: Bytes,
    /// Where every [`STRIDE`]th of them begins, besides the first.
    begins: Box<[u32]>,
    count: usize,
    /// Whether each is larger than the one before, byte by byte as JSON.
    sorted: bool,
}

impl TagNames {
    /// How many they are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One of them, counted from zero.
    pub fn get(&self, place: usize) -> Option<Cow<'_, str>> {
        let start = (place < self.count).then(|| self.start_of(place))?;
        unquoted(self.token(start)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let token = self.token(start)?;
            start += token.len() + 1;
            unquoted(token)
        })
    }

    /// Some of them as JSON strings with commas between them: a part of the one buffer.
    pub fn json(&self, part: Range<usize>) -> Bytes {
        if part.is_empty() || part.start >= self.count {
            return Bytes::new();
        }
        let end = if part.end < self.count { self.start_of(part.end) } else { self.json.len() };
        self.json.slice(self.start_of(part.start)..end - 1)
    }

    /// Where a tag stands, if it does. In a list that is sorted it is found without a look at most of it.
    pub fn position(&self, tag: &str) -> Option<usize> {
        let wanted = serde_json::to_vec(tag).ok()?;
        let found = |place: &usize| self.token(self.start_of(*place)) == Some(&wanted);
        if self.sorted {
            let mut places = 0..self.count;
            while !places.is_empty() {
                let middle = places.start + places.len() / 2;
                match self.token(self.start_of(middle))? < wanted.as_slice() {
                    true => places.start = middle + 1,
                    false => places.end = middle,
                }
            }
            return Some(places.start).filter(|place| *place < self.count).filter(found);
        }
        let mut start = 0;
        (0..self.count).find(|_| {
            let token = self.token(start).unwrap_or_default();
            start += token.len() + 1;
            token == wanted
        })
    }

    /// What they take in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.json.len() + size_of_val::<[u32]>(&self.begins)
    }

    /// Where the one at a place begins that there is, or the end.
    fn start_of(&self, place: usize) -> usize {
        let begin = |stride: usize| self.begins.get(stride).map_or(self.json.len(), |begin| *begin as usize);
        let known = (place / STRIDE).checked_sub(1).map_or(0, begin);
        (0..place % STRIDE).fold(known, |start, _| start + self.token(start).map_or(0, |token| token.len() + 1))
    }

    /// The JSON string that begins there.
    fn token(&self, start: usize) -> Option<&[u8]> {
        let rest = self.json.get(start..)?;
        let mut escaped = false;
        let inner = rest.get(1..)?.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })?;
        rest.get(..inner + 2)
    }
}

/// What a JSON string of ours says.
fn unquoted(token: &[u8]) -> Option<Cow<'_, str>> {
    let inner = token.get(1..token.len().checked_sub(1)?)?;
    if inner.contains(&b'\\') {
        return serde_json::from_slice(token).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// Tags that are being put one behind another.
struct Growing {
    json: Vec<u8>,
    begins: Vec<u32>,
    count: usize,
    last: Range<usize>,
    sorted: bool,
}

impl Growing {
    const fn new() -> Growing {
        Growing { json: Vec::new(), begins: Vec::new(), count: 0, last: 0..0, sorted: true }
    }

    /// `None` where there are more than four gigabytes of them.
    fn push(&mut self, tag: &str) -> Option<()> {
        let start = self.json.len();
        u32::try_from(start.checked_add(tag.len().checked_mul(6)?)?).ok()?;
        if self.count > 0 && self.count.is_multiple_of(STRIDE) {
            self.begins.push(u32::try_from(start).ok()?);
        }
        serde_json::to_writer(&mut self.json, tag).ok()?;
        let here = start..self.json.len();
        self.sorted &= self.json.get(self.last.clone()) < self.json.get(here.clone());
        self.last = here;
        self.json.push(b',');
        self.count += 1;
        Some(())
    }

    fn whole(self) -> TagNames {
        let Growing { json, begins, count, sorted, .. } = self;
        TagNames { json: json.into_boxed_slice().into(), begins: begins.into_boxed_slice(), count, sorted }
    }
}

impl<T: AsRef<str>> FromIterator<T> for TagNames {
    /// As many as there is room for.
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> TagNames {
        let mut growing = Growing::new();
        tags.into_iter().map_while(|tag| growing.push(tag.as_ref())).for_each(drop);
        growing.whole()
    }
}

impl Serialize for TagNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for TagNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TagNames, D::Error> {
        deserializer.deserialize_seq(Tags)
    }
}

/// One tag of a list, put behind the others.
struct Next<'a>(&'a mut Growing);

impl<'de> serde::de::DeserializeSeed<'de> for Next<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Next<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tag")
    }

    fn visit_str<E: Error>(self, tag: &str) -> Result<(), E> {
        self.0.push(tag).ok_or_else(|| E::custom("too many tags"))
    }
}

struct Tags;

impl<'de> Visitor<'de> for Tags {
    type Value = TagNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tags")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TagNames, A::Error> {
        let mut growing = Growing::new();
        while list.next_element_seed(Next(&mut growing))?.is_some() {}
        Ok(growing.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_what_they_were_as_json_in_little_more_memory_than_that() {
        for tags in [&[][..], &[""], &["a", "", "\"\n\u{e9}", "\\", "v1.0"], &["a"; 10_000]] {
            let json = serde_json::to_vec(tags).expect("JSON");
            let names: TagNames = serde_json::from_slice(&json).expect("a list");
            assert!(names.iter().eq(tags.iter().copied()) && names.len() == tags.len());
            assert_eq!(names, tags.iter().collect());
            assert_eq!(serde_json::to_vec(&names).expect("JSON"), json);
            assert!(names.weight() <= json.len() * 5 / 4, "{} of {}", names.weight(), json.len());
            assert_eq!(names.get(tags.len()), None);
        }
        for wrong in ["{}", "null", "[1]", "[null]", "[\"a\""] {
            assert!(serde_json::from_str::<TagNames>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_part_is_cut_from_the_one_buffer_and_a_tag_is_found_sorted_or_not() {
        let odd = |n: usize| format!("{n:04}\"\\,");
        let sorted: Vec<String> = (0..1000).map(odd).collect();
        let shuffled: Vec<String> = (0..1000).map(|n| odd(n * 7 % 1000)).collect();
        for tags in [sorted, shuffled] {
            let names: TagNames = tags.iter().collect();
            let whole = names.json.as_ptr_range();
            for part in [0..1000, 0..1, 63..65, 64..128, 999..1000, 5..5, 1000..1000] {
                let json = names.json(part.clone());
                let read: Vec<String> = serde_json::from_slice(&[b"[", &json[..], b"]"].concat()).expect("JSON");
                assert_eq!(read, tags[part.clone()], "{part:?}");
                assert!(part.is_empty() || whole.contains(&json.as_ptr()), "a part of the same buffer");
            }
            for (place, tag) in tags.iter().enumerate() {
                assert_eq!(names.position(tag), Some(place));
                assert_eq!(names.get(place).as_deref(), Some(tag.as_str()));
            }
            assert_eq!((names.position(""), names.position("0001"), names.position("\u{ff}")), (None, None, None));
        }
    }
}
