//! How many requests to an upstream are under way at a time, and whose turn it is when there are more.
//!
//! A request holds its place until its answer, and of a blob its body, has ended or gives way (see `bodies`).
//! Bodies never take all of the places: what is asked about manifests does not wait behind large blobs.

mod bodies;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use bodies::Bodies;

use super::credentials::Presented;
use super::health::Health;
use super::resource::Resource;
use super::{
    Notices, Outlook, ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass,
};
use crate::clients::{ClientId, Turn, Turns};
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Reference, RegistryName, Repository, Span};

/// When somebody for whom there was no place may come again.
const COME_AGAIN: Duration = Duration::from_secs(5);
/// How often who waits looks for a body that should give way.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An upstream with a number of places, as one client asks it.
#[derive(Clone)]
pub struct Gate {
    upstream: Arc<dyn Upstream>,
    name: RegistryName,
    places: Turns,
    /// Those of them that bodies may take, and who has them.
    for_bodies: Turns,
    bodies: Bodies,
    patience: Duration,
    client: ClientId,
}

impl Gate {
    /// `upstream` with so many places, of which bodies take at most `bodies`. Nobody waits longer than
    /// `patience` for one.
    pub fn new(
        name: RegistryName,
        upstream: Arc<dyn Upstream>,
        places: usize,
        bodies: usize,
        patience: Duration,
    ) -> Gate {
        let bodies = bodies.min(places.saturating_sub(1)).max(1);
        let (places, for_bodies) = (Turns::new(places.max(1)), Turns::new(bodies));
        Gate { upstream, name, places, for_bodies, bodies: Bodies::default(), patience, client: ClientId::Operator }
    }

    async fn place(&self, among: &Turns) -> Result<Turn, UpstreamError> {
        let make_way = async {
            loop {
                self.bodies.make_way(self.client);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let turn = async {
            tokio::select! {
                biased;
                turn = among.take(self.client) => turn,
                turn = make_way => turn,
            }
        };
        let taken = tokio::time::timeout(self.patience, turn).await;
        taken.ok().flatten().ok_or_else(|| {
            let Gate { name, patience, .. } = self;
            let message = format!(
                "{name}: as many requests are under way as this mirror makes at a time, and none ended within {patience:?}"
            );
            UpstreamError::new(UpstreamErrorClass::RateLimited(Some(COME_AGAIN)), message)
        })
    }

    /// Puts a question whose answer is all there is.
    async fn put<T>(&self, question: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        let _place = self.place(&self.places).await?;
        question.await
    }
}

#[async_trait]
impl Upstream for Gate {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        self.put(self.upstream.resolve(repository, reference, accept)).await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        self.put(self.upstream.manifest(repository, reference, accept)).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.put(self.upstream.stat(repository, digest)).await
    }

    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.put(self.upstream.stat_by_get(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let held = [self.place(&self.for_bodies).await?, self.place(&self.places).await?];
        let blob = self.upstream.blob(repository, digest, span).await?;
        Ok(UpstreamBlob { body: self.bodies.begin(self.client, blob.body, held), ..blob })
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.put(self.upstream.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.put(self.upstream.referrers(repository, digest, artifact_type, cursor)).await
    }

    fn health(&self) -> Health {
        self.upstream.health()
    }

    fn tables(&self) -> Vec<(&'static str, u64)> {
        self.upstream.tables()
    }

    fn outlook(&self, resource: &Resource) -> Outlook {
        self.upstream.outlook(resource)
    }

    fn notices(&self) -> Option<&Notices> {
        self.upstream.notices()
    }

    async fn enter(&self) -> Result<(), UpstreamError> {
        self.put(self.upstream.enter()).await
    }

    async fn challenge(&self, repository: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
        self.put(self.upstream.challenge(repository)).await
    }

    fn last_challenge(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.upstream.last_challenge(repository)
    }

    fn presenting(&self, presented: &Presented) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(Gate { upstream: self.upstream.presenting(presented)?, ..self.clone() }))
    }

    fn for_client(&self, client: ClientId) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(Gate { client, ..self.clone() }))
    }
}
