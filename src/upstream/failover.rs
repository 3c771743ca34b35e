//! Several addresses of one upstream, tried in order.
//!
//! The next one is asked when one cannot answer or wants rest, and only then: whoever says no is
//! taken at its word. Each address has its own [`super::guard::Guarded`] around it, so that a dead
//! first one costs one time-out and not one for every request.

use std::sync::Arc;

use super::around::Around;
use super::health::EndpointHealth;
use super::limit::Lane;
use super::{Allowance, Upstream, UpstreamError, UpstreamErrorClass};
use crate::clock::Timestamp;

/// Addresses in the order to try.
#[derive(Clone)]
pub struct Failover {
    endpoints: Vec<Arc<dyn Upstream>>,
    streams: usize,
}

impl Failover {
    /// Tries `endpoints` in this order.
    pub fn new(endpoints: Vec<Arc<dyn Upstream>>) -> Failover {
        Failover { endpoints, streams: 1 }
    }

    /// Large blobs may be read through so many connections at once.
    #[must_use]
    pub fn with_streams(self, streams: usize) -> Failover {
        Failover { streams, ..self }
    }
}

impl Around for Failover {
    async fn put<'a, T, F>(
        &'a self,
        _: Lane,
        question: impl Fn(&'a dyn Upstream) -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        let mut outage = None;
        for endpoint in &self.endpoints {
            match question(endpoint.as_ref()).await {
                Err(error) if error.class.is_outage() => {
                    tracing::debug!(%error, "trying the next address");
                    outage = Some(error);
                }
                answer => return answer,
            }
        }
        Err(outage.unwrap_or_else(|| UpstreamError::new(UpstreamErrorClass::Unavailable, "no address to ask")))
    }

    fn streams(&self) -> usize {
        self.streams
    }

    /// Of the address that would be asked: the first, unless that is left alone.
    fn allowance(&self, now: Timestamp) -> Allowance {
        let asked = self.endpoints.iter().find(|endpoint| endpoint.is_asked(now));
        asked.or(self.endpoints.first()).map_or(Allowance::Free, |endpoint| endpoint.allowance(now))
    }

    fn is_asked(&self, now: Timestamp) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.is_asked(now))
    }

    fn health(&self, now: Timestamp) -> Vec<EndpointHealth> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.health(now)).collect()
    }

    fn is_down(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.is_down())
    }
}
