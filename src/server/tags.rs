//! A list of tags as JSON: what is in front of the tags, the tags as they lie in memory that all who read them
//! share, and what is behind them. However long it is and however many clients read it slowly, it is there once.

use bytes::Bytes;

use crate::mirror::Tags;

/// The answer with a list.
#[derive(Clone, Debug)]
pub struct TagsJson {
    tags: Tags,
    pieces: [Bytes; 3],
}

impl TagsJson {
    /// The tags of the repository that the client calls `name`.
    pub fn new(name: &str, tags: Tags) -> TagsJson {
        let name = serde_json::Value::from(name);
        let head = format!(r#"{{"name":{name},"tags":["#);
        TagsJson { pieces: [head.into(), tags.json(), Bytes::from_static(b"]}")], tags }
    }

    /// Where the list lies in memory.
    pub fn place(&self) -> usize {
        self.tags.place()
    }

    /// What that takes, in bytes.
    pub fn weight(&self) -> u64 {
        self.tags.weight()
    }

    /// How many bytes the answer has.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Those, one behind the other.
    pub fn pieces(self) -> [Bytes; 3] {
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_list_are_one_json_document_as_long_as_it_says() {
        for count in [0, 1, 3, 20_000] {
            let tags: Vec<String> = (0..count).map(|n| format!("tag-{n:05}\"\\\n")).collect();
            let json = TagsJson::new("library/\"app", Tags::of(tags.iter().collect()));
            let (length, whole) = (json.bytes(), json.pieces().concat());
            assert_eq!(whole.len() as u64, length);
            let read: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
            assert_eq!(read, serde_json::json!({"name": "library/\"app", "tags": tags}));
        }
    }
}
