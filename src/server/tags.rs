//! A list of tags as JSON, made piece by piece as it is sent: however long it is and however many clients
//! read it slowly, each has one piece in memory, and the list itself is there once.

use bytes::Bytes;

use crate::mirror::Tags;

/// How much is made at a time, in bytes; one tag more may be on top.
const PIECE: usize = 64 << 10;

/// What is still to come of a list.
#[derive(Clone, Debug)]
pub struct TagsJson {
    tags: Tags,
    next: usize,
    /// What comes before the next tag; empty when everything was made.
    piece: Vec<u8>,
}

impl TagsJson {
    /// The tags of the repository that the client calls `name`.
    pub fn new(name: &str, tags: Tags) -> TagsJson {
        let mut piece = br#"{"name":"#.to_vec();
        put(&mut piece, name);
        piece.extend_from_slice(br#","tags":["#);
        TagsJson { tags, next: 0, piece }
    }

    /// Where the list lies in memory.
    pub fn place(&self) -> usize {
        self.tags.place()
    }

    /// What that takes, in bytes.
    pub fn weight(&self) -> u64 {
        self.tags.weight()
    }

    /// How many bytes are still to come.
    pub fn bytes(&self) -> u64 {
        self.clone().map(|piece| piece.len() as u64).sum()
    }
}

impl Iterator for TagsJson {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = std::mem::take(&mut self.piece);
        if piece.is_empty() && self.next > self.tags.len() {
            return None;
        }
        while piece.len() < PIECE {
            let tag = self.tags.get(self.next);
            self.next += 1;
            let Some(tag) = tag else {
                piece.extend_from_slice(b"]}");
                break;
            };
            if self.next > 1 {
                piece.push(b',');
            }
            put(&mut piece, tag);
        }
        Some(piece.into())
    }
}

/// Adds a string as JSON. Strings can always be written, and memory takes them.
fn put(piece: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(piece, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_list_are_one_json_document_as_long_as_it_says() {
        for count in [0, 1, 3, 20_000] {
            let tags: Vec<String> = (0..count).map(|n| format!("tag-{n:05}\"\\\n")).collect();
            let json = TagsJson::new("library/app", Tags::of(tags.iter().collect()));
            let (length, pieces) = (json.bytes(), json.collect::<Vec<_>>());
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE + 100));
            let whole = pieces.concat();
            assert_eq!(whole.len() as u64, length);
            let read: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
            assert_eq!(read, serde_json::json!({"name": "library/app", "tags": tags}));
        }
    }
}
