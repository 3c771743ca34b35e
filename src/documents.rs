//! What the interface for operators says and is told, once: the admin side writes these documents, the
//! commands read them and print them with `--json`, and the schema describes them.
//!
//! A document is one JSON object: `document` is its name, `version` is [`VERSION`], and its own keys
//! stand beside them. Where something takes long, each line is such an object. What goes wrong is the
//! document [`Error`], in the place of any other. Times are ISO 8601 in UTC and end in `_at`, sizes are
//! bytes and end in `_bytes`. Keys are added, never renamed. Vocabulary: no I/O, no clock. The files of
//! the store and of bundles are no documents and have their own types where they are written.

mod access;
mod bench;
mod bundles;
mod carried;
mod checkup;
mod configuration;
mod error;
mod images;
mod moment;
pub mod orders;
mod page;
mod pull;
mod receipt;
mod schema;
mod set_up;
mod status;
mod upkeep;
mod usage;
mod why;

use std::fmt::Display;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use access::Explanation;
pub use bench::{Bench, Ratios, Report, Series, Summary, Way};
pub use bundles::{
    Export, Exported, Fate, Frame, Import, Imported, ImportedFile, ImportedImage, Plan, StoredReceipt, Unavailable,
};
pub use carried::{Carried, Direction, NotCarried, no_bucket, nothing_in_bucket};
pub use checkup::{Checked, Checkup, StoreTest, Verdict};
pub use configuration::{Alteration, Change, ConfigPaths, ConfigSchema, Configuration, FilePlace, Program, Reloaded};
pub use error::{Code, Error};
pub use images::{
    Changed, Completeness, Content, Forgotten, Frozen, History, HistoryEntry, ImageDetail, ImageSummary, Images, Part,
    Pinned, PlatformDetail, Readiness, Ready, State, Unfrozen, Unpinned,
};
pub use moment::{Moment, MomentError};
pub use page::{PageLogin, Session};
pub use pull::{Failure, PullEvent};
pub use receipt::{Receipt, ReceiptError};
pub use schema::{Schema, schema};
pub use set_up::{Canary, CanaryPulls, FileChange, SetUp, SetUpAction, SetUpFile};
pub use status::{
    BucketStatus, Endpoint, EndpointState, FillStatus, Fills, LastError, Mode, Pulls, RunningFill, Share, Status,
    StoreStatus, UpstreamStatus,
};
pub use upkeep::{Check, Finding, Garbage, Health, Problem};
pub use usage::{HourOfUse, Usage, Used};
pub use why::{Source, Why};

/// The version of all documents.
pub const VERSION: u32 = 1;

/// A number of things, in words: `1 blob`, `2 blobs`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// What is said as a JSON object under a name.
pub trait Document: Serialize + DeserializeOwned + JsonSchema {
    /// The name.
    const NAME: &'static str;
}

/// A document as it is written.
#[derive(Serialize)]
struct Written<'a, T> {
    document: &'static str,
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// What a document says of itself.
#[derive(Deserialize)]
struct Head {
    document: String,
    version: u32,
}

/// Why something cannot be read as a document.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not JSON, or not of the shape that the document has.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is another document.
    #[error("it is the document {found:?} of version {version}, not {expected:?} of version {VERSION}")]
    Other {
        /// Its name.
        found: String,
        /// Its version.
        version: u32,
        /// The name of the one that was expected.
        expected: &'static str,
    },
}

/// A document as one line of JSON, without the end of the line.
pub fn line<T: Document>(content: &T) -> String {
    // Plain data with text for keys: there is nothing in it that JSON cannot say.
    serde_json::to_string(&Written { document: T::NAME, version: VERSION, content }).unwrap_or_default()
}

/// Reads a document of this kind, or the error that stands in its place.
///
/// # Errors
/// [`ReadError`] when it is neither.
pub fn read<T: Document>(json: &[u8]) -> Result<Result<T, Error>, ReadError> {
    let Head { document, version } = serde_json::from_slice(json)?;
    if version == VERSION && document == T::NAME {
        return Ok(Ok(serde_json::from_slice(json)?));
    }
    if version == VERSION && document == Error::NAME {
        return Ok(Err(serde_json::from_slice(json)?));
    }
    Err(ReadError::Other { found: document, version, expected: T::NAME })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_its_name_and_its_version_beside_its_own_keys() {
        let event = Frame::Data { size_bytes: 7 };
        let written = line(&event);
        assert_eq!(written, r#"{"document":"frame","version":1,"event":"data","size_bytes":7}"#);
        assert_eq!(read::<Frame>(written.as_bytes()).expect("readable"), Ok(event));
        assert_eq!(line(&Frame::Done), r#"{"document":"frame","version":1,"event":"done"}"#);
    }

    #[test]
    fn an_error_is_read_in_the_place_of_any_document() {
        let error = Error::new(Code::NoRoom, "the store is full").with_hint("raise store.max_size");
        let written = line(&error);
        assert_eq!(
            written,
            r#"{"document":"error","version":1,"code":"no-room","message":"the store is full","hint":"raise store.max_size"}"#
        );
        assert_eq!(read::<Status>(written.as_bytes()).expect("readable"), Err(error));
        let newer = written.replace("no-room", "of-tomorrow");
        assert_eq!(read::<Status>(newer.as_bytes()).expect("readable").expect_err("an error").code, Code::Failed);
    }

    #[test]
    fn another_document_is_not_taken_for_the_one_that_was_asked_for() {
        for other in [
            r#"{"ready":true}"#,
            r#"{"document":"images","version":1,"images":[]}"#,
            r#"{"document":"healthcheck","version":2,"ready":true}"#,
            "ok",
        ] {
            assert!(read::<Health>(other.as_bytes()).is_err(), "{other}");
        }
        let more = r#"{"document":"healthcheck","version":1,"ready":true,"of_tomorrow":1}"#;
        assert_eq!(read::<Health>(more.as_bytes()).expect("readable"), Ok(Health { ready: true }));
    }
}
