//! One address of an upstream, and what it wanted when it was last asked.

use parking_lot::RwLock;
use url::Url;

use super::redirect::{RedirectRules, names_private};
use crate::oci::Repository;

/// What an origin wants before it answers. Its realm has passed the realm rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Bearer { realm: Url, service: Option<String> },
    Basic,
}

/// One of the addresses of an upstream.
pub(super) struct Endpoint {
    pub(super) url: Url,
    /// Host, and port where it is not the usual one.
    pub(super) origin: String,
    pub(super) rules: RedirectRules,
    /// What it wanted last time.
    demand: RwLock<Option<Demand>>,
}

impl Endpoint {
    pub(super) fn new(url: Url, allow_private: bool) -> Endpoint {
        let host = url.host_str().unwrap_or_default();
        let origin = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let rules = RedirectRules { plain_http: url.scheme() == "http", private: allow_private || names_private(&url) };
        Endpoint { url, origin, rules, demand: RwLock::default() }
    }

    /// The address of `path` below `repository`.
    pub(super) fn address(&self, repository: &Repository, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/{repository}/{path}", self.url.path().trim_end_matches('/')));
        url
    }

    pub(super) fn demand(&self) -> Option<Demand> {
        self.demand.read().clone()
    }

    pub(super) fn learn(&self, demand: &Demand) {
        *self.demand.write() = Some(demand.clone());
    }

    pub(super) fn unlearn(&self) {
        *self.demand.write() = None;
    }
}
