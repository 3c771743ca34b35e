//! Why the bucket did not do what it was asked, and how its errors are told.

use object_store::Error;

/// Why the bucket did not do what it was asked. The message is for people and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It did not answer in time, said that it cannot, or is left alone because of that.
    #[error("the bucket does not answer: {0}")]
    Away(String),
    /// It is not asked for content, because it did not give any lately, or gave this wrongly: somebody else may.
    #[error("the bucket is left alone: {0}")]
    LeftAlone(String),
    /// It said no, or something that cannot be.
    #[error("the bucket refused: {0}")]
    Refused(String),
    /// Somebody else wrote the object meanwhile, or had written it before.
    #[error("somebody else wrote it")]
    Changed,
    /// It gives so few bytes a second that others are of more help.
    #[error("the bucket gives {0} bytes a second")]
    Slow(u64),
    /// It gives so few bytes a second that this is as good as nothing, even where nobody else gives any.
    #[error("the bucket gives {0} bytes a second, and is not waited for")]
    Trickles(u64),
    /// What should go up is not what its digest says, or cannot be read.
    #[error("not sent up: {0}")]
    Unfit(String),
}

/// A sentence without the document that the store sent.
pub(super) fn plainly(error: &Error) -> String {
    let mut why = error.to_string();
    if let Some(document) = why.find(['<', '\n']) {
        why.truncate(document);
    }
    why.trim_end_matches([' ', ':']).to_owned()
}

/// Whether it is the bucket itself that is not there. (S3, "Error responses"; other stores say the same.)
pub(super) fn is_no_bucket(error: &Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Whether it is our clock that it does not like. (S3, "Error responses".)
pub(super) fn is_of_the_clock(error: &Error) -> bool {
    error.to_string().contains("RequestTimeTooSkewed")
}

/// Whether who asks may not have this, or may not be told that it is absent: a store that lists nothing to us says the
/// same of both.
pub(super) fn may_be_absent(error: &Error) -> bool {
    matches!(error, Error::PermissionDenied { .. }) && !is_of_the_clock(error)
}

/// Whether who lists is refused: of that there is no kind of error.
pub(super) fn is_forbidden(error: &Error) -> bool {
    let is_named = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
    let text = error.to_string();
    !is_named && ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status))
}
