//! Keys of JSON objects, read as the parsers of Go read them. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A key as Go compares it: its case does not matter, nor do the two letters beyond ASCII that have one.
pub(crate) struct Key(pub(crate) String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Key;

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Key, E> {
                // None of ours is as long.
                let key = String::from_utf8_lossy(key.get(..64).unwrap_or(key)).to_ascii_lowercase();
                Ok(Key(key.replace('\u{17f}', "s").replace('\u{212a}', "k")))
            }

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
        }
        // As bytes: what we do not know need not be text.
        deserializer.deserialize_bytes(Reader)
    }
}
