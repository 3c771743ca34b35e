//! Error codes of the distribution specification, the one table from code to status, and the body.
//!
//! Sources: distribution-spec 1.1.1 "Error Codes"; `RANGE_INVALID`, `UNAVAILABLE` and `UNKNOWN` are
//! additions of the reference implementation that clients know.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

/// What went wrong, as registry clients name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The blob is not there.
    BlobUnknown,
    /// The digest cannot be parsed or verified.
    DigestInvalid,
    /// The manifest is not there, or its tag is not a tag.
    ManifestUnknown,
    /// The repository name breaks the grammar, or says two things at once.
    NameInvalid,
    /// No such repository, or no such upstream.
    NameUnknown,
    /// The range cannot be satisfied.
    RangeInvalid,
    /// The upstream wants credentials that we do not have.
    Unauthorized,
    /// The upstream refuses.
    Denied,
    /// The operation is not one of a read-only mirror.
    Unsupported,
    /// The upstream limits our rate and nothing cached can answer.
    TooManyRequests,
    /// The upstream cannot be reached and nothing cached can answer.
    Unavailable,
    /// Our own fault, or an upstream that breaks the protocol.
    Unknown,
}

impl ErrorCode {
    /// The code as it stands in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::NameUnknown => "NAME_UNKNOWN",
            ErrorCode::RangeInvalid => "RANGE_INVALID",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Denied => "DENIED",
            ErrorCode::Unsupported => "UNSUPPORTED",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::Unknown => "UNKNOWN",
        }
    }

    /// The status that goes with the code. The only such table.
    pub const fn status(self) -> StatusCode {
        match self {
            ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown | ErrorCode::NameUnknown => StatusCode::NOT_FOUND,
            ErrorCode::DigestInvalid | ErrorCode::NameInvalid => StatusCode::BAD_REQUEST,
            ErrorCode::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Denied => StatusCode::FORBIDDEN,
            ErrorCode::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unknown => StatusCode::BAD_GATEWAY,
        }
    }

    /// The JSON body of an answer with this code. It goes with `Content-Type: application/json`,
    /// without which dockerd does not read it.
    pub fn body(self, message: &str) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            errors: [Entry<'a>; 1],
        }
        #[derive(Serialize)]
        struct Entry<'a> {
            code: &'static str,
            message: &'a str,
        }
        let body = Body { errors: [Entry { code: self.as_str(), message }] };
        serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_json_of_the_specification() {
        let body = ErrorCode::ManifestUnknown.body("no \"such\" tag");
        assert_eq!(body, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no \"such\" tag"}]}"#);
    }
}
