//! How it goes when a whole store is carried into the bucket, or back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Code, Document, Error};
use crate::oci::Digest;

/// A line while it goes on, and one at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Carried {
    /// Names and content that are where they are to be.
    pub done: u64,
    /// All of them, as far as is known.
    pub total: u64,
    /// Those that could not be carried.
    pub failed: u64,
    /// Those of them that are not what their name says: they failed verification.
    #[serde(default)]
    pub damaged: u64,
    /// Those that the store has no room for, or of an upstream that is not configured.
    pub left_out: u64,
    /// Why, of the first ten of both.
    pub problems: Vec<NotCarried>,
    /// Whether this is the end.
    pub ended: bool,
    /// Why it ended before all was done.
    pub trouble: Option<String>,
}

/// Something that was not carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotCarried {
    /// Its name in the bucket, behind the prefix.
    pub key: String,
    /// The image that it belongs to, by a tag if one leads to it; where none is known the repository.
    #[serde(default)]
    pub image: Option<String>,
    /// What content it is, or is the name of.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Why it is where it was.
    pub reason: String,
    /// What helps.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Carried {
    /// Of so many it is said why.
    pub const MOST_PROBLEMS: usize = 10;

    /// Whether all of it is where it is to be.
    pub const fn is_all(&self) -> bool {
        self.ended && self.trouble.is_none() && self.failed + self.left_out == 0
    }

    /// Whether all that is missing is missing because it failed verification.
    pub const fn is_all_but_damaged(&self) -> bool {
        self.ended && self.trouble.is_none() && self.damaged > 0 && self.failed == self.damaged && self.left_out == 0
    }
}

impl Document for Carried {
    const NAME: &'static str = "store-carried";
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the store into the bucket.
    Push,
    /// From the bucket into the store.
    Pull,
}

impl Direction {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Push => "push",
            Direction::Pull => "pull",
        }
    }
}

/// That there is nothing to bring down, in this bucket and below this prefix where that is known.
pub fn nothing_in_bucket(place: Option<&str>) -> Error {
    let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
    Error::new(Code::NotFound, format!("there is nothing of a store in the bucket{place}"))
        .with_hint("look at [store.bucket] name and prefix; `registry-mirror store push` carries a store there")
}

/// That nothing can be carried anywhere.
pub fn no_bucket() -> Error {
    Error::new(Code::Configuration, "there is no bucket: [store.bucket] name is not set")
}
