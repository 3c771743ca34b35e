//! Tags as registries list them: any strings, and very many. They lie in one buffer, since a string of its own
//! costs up to fourteen times what a short tag does as JSON.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Tags in the order of their registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagNames {
    text: Box<str>,
    /// Where each of them ends in the text.
    ends: Box<[u32]>,
}

impl TagNames {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them, counted from zero.
    pub fn get(&self, place: usize) -> Option<&str> {
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before))?;
        self.text.get(usize::try_from(*start).ok()?..usize::try_from(end).ok()?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map_while(|place| self.get(place))
    }

    /// What they take in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.text.len() + size_of_val::<[u32]>(&self.ends)
    }
}

/// Tags that are being put one behind another.
#[derive(Default)]
struct Growing {
    text: String,
    ends: Vec<u32>,
}

impl Growing {
    /// `None` where there are more than four gigabytes of them.
    fn push(&mut self, tag: &str) -> Option<()> {
        let end = u32::try_from(self.text.len().checked_add(tag.len())?).ok()?;
        self.text.push_str(tag);
        self.ends.push(end);
        Some(())
    }

    fn whole(self) -> TagNames {
        TagNames { text: self.text.into_boxed_str(), ends: self.ends.into_boxed_slice() }
    }
}

impl<T: AsRef<str>> FromIterator<T> for TagNames {
    /// As many as there is room for.
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> TagNames {
        let mut growing = Growing::default();
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
        let mut growing = Growing::default();
        while list.next_element_seed(Next(&mut growing))?.is_some() {}
        Ok(growing.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_what_they_were_as_json_in_little_more_memory_than_that() {
        for tags in [&[][..], &[""], &["a", "", "\"\n\u{e9}", "v1.0"], &["a"; 10_000]] {
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
}
