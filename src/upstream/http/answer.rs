//! A question to an upstream, and what came back: plain values, looked at by all who deal with them.

use http::header::{HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;

use super::clients::Traffic;
use super::endpoint::Kind;
use crate::oci::Repository;

/// A request, without what differs between hops.
pub(super) struct Question {
    pub(super) method: Method,
    /// Below the repository: `manifests/7` or `blobs/sha256:…`.
    pub(super) path: String,
    /// Without the question mark; never in messages.
    pub(super) query: Option<String>,
    /// As it is called there.
    pub(super) repository: Repository,
    /// `Accept` and `Range`.
    pub(super) headers: HeaderMap,
}

impl Question {
    /// Of what repository what kind of thing it is about.
    pub(super) fn kind(&self) -> (Repository, Kind) {
        (self.repository.clone(), self.path.split('/').next().unwrap_or_default().to_owned())
    }

    /// What it is about, as far as connections go.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic::of_path(&self.path)
    }
}

/// What came back, of whatever status.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Where it came from.
    pub(super) url: Url,
    /// Whether a redirect led away from the configured origin.
    pub(super) abroad: bool,
    /// The proof that was shown there.
    pub(super) sent: Option<HeaderValue>,
    /// The question and where the answer came from, for messages.
    pub(super) what: String,
}

impl Answer {
    /// Whether our own upstream refuses, for whatever reason.
    pub(super) fn is_denial(&self) -> bool {
        !self.abroad && matches!(self.response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Whether our own upstream says that it is not there.
    pub(super) fn is_missing(&self) -> bool {
        !self.abroad && self.response.status() == StatusCode::NOT_FOUND
    }

    /// Whether it may be for want of a proof, or for one that has died: some registries say so with 403, 400 or
    /// 404 and no challenge.
    pub(super) fn may_be_unproven(&self) -> bool {
        let status = self.response.status();
        matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
        )
    }
}
