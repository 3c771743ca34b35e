//! Why a request is refused before anything is looked up, and the code that says so.

use super::digest::DigestError;
use super::error::ErrorCode;

/// What to tell a client whose path says `/v2/` twice, where nothing is there.
pub const DOUBLED: &str =
    "the path says /v2/ twice; if the client's configuration has /v2/ in the address of the mirror, leave it out there";

/// Why a request is refused as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not GET or HEAD.
    #[error("this is a read-only mirror: only GET and HEAD are served")]
    Method,
    /// Not below `/v2/`.
    #[error("not found: registry requests start with /v2/")]
    NotFound,
    /// `/v2/_catalog`.
    #[error("this mirror lists nothing: it has no catalog of repositories; pull an image by its name")]
    Catalog,
    /// `/v2/v2/`: a client whose address of the mirror has `/v2/` in it.
    #[error("not found: {DOUBLED}")]
    Doubled,
    /// `%2F`: what is behind it would be one component to us and two to another reader.
    #[error("a slash is written as a slash here: %2F is part of no name, tag or digest")]
    Slash,
    /// The repository name breaks the grammar.
    #[error("not a repository name")]
    Name,
    /// The registry named by prefix or `ns` is not a host.
    #[error("not a registry name")]
    Registry,
    /// `ns` stands twice.
    #[error("the ns parameter stands more than once")]
    Contradiction,
    /// The tag breaks the grammar: no such manifest can exist.
    #[error("no such manifest: not a tag")]
    Tag,
    /// The digest of a manifest cannot be parsed: no such manifest can exist.
    #[error("no such manifest: not a digest: {0}")]
    ManifestDigest(DigestError),
    /// The digest cannot be parsed.
    #[error("not a digest: {0}")]
    Digest(#[from] DigestError),
    /// `n` is not a number, or `cursor` is not one of ours.
    #[error("n is not a number, or cursor is not one that this mirror gave out")]
    Page,
}

impl RequestError {
    /// The code to answer with. An illegal tag is 404, not 400: the conformance suite asks for one. So
    /// is an illegal digest of a manifest, where either will do: on a 400, docker 1.13 gives up in
    /// place of asking its next endpoint, and its users may type digests that are not ours to parse.
    pub const fn code(&self) -> ErrorCode {
        match self {
            RequestError::Method => ErrorCode::Unsupported,
            RequestError::NotFound | RequestError::Catalog | RequestError::Doubled => ErrorCode::NameUnknown,
            RequestError::Slash
            | RequestError::Name
            | RequestError::Registry
            | RequestError::Contradiction
            | RequestError::Page => ErrorCode::NameInvalid,
            RequestError::Tag | RequestError::ManifestDigest(_) => ErrorCode::ManifestUnknown,
            RequestError::Digest(_) => ErrorCode::DigestInvalid,
        }
    }
}
