//! How many requests to an upstream are under way at a time, and whose turn it is when there are more.
//!
//! A request holds its place until its answer, and of a blob its body, has ended or gives way (see `bodies`); a
//! question whose client has several gives way to who has none, and is put again when it is its turn.
//! Bodies never take all of the places: what is asked about manifests does not wait behind large blobs. Nor do lists,
//! which may be long to read.

mod bodies;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use bodies::Bodies;

use super::credentials::Presented;
use super::health::Health;
use super::heard::Heard;
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
/// How often a question is put that gives way to others each time.
const PUT_AT_MOST: usize = 5;
/// Lists take one of so many places.
const FOR_LISTS: usize = 4;

/// An upstream with a number of places, as one client asks it.
#[derive(Clone)]
pub struct Gate {
    upstream: Arc<dyn Upstream>,
    name: RegistryName,
    places: Turns,
    /// Those of them that bodies may take, and who has them.
    for_bodies: Turns,
    for_lists: Turns,
    bodies: Bodies,
    patience: Duration,
    longest: Duration,
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
        // Of two places one can be called back.
        let for_lists = (places / FOR_LISTS).max(2);
        let [places, for_bodies, for_lists] = [places, bodies, for_lists].map(|most| Turns::new(most.max(1)));
        let (bodies, longest, client) = (Bodies::default(), upstream.longest(), ClientId::Operator);
        Gate { upstream, name, places, for_bodies, for_lists, bodies, patience, longest, client }
    }

    /// The same, where a question takes so long at most.
    #[must_use]
    pub fn with_longest(self, longest: Duration) -> Gate {
        Gate { longest, ..self }
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
        tokio::time::timeout(self.patience, turn).await.map_err(|_| self.too_many())
    }

    fn too_many(&self) -> UpstreamError {
        let Gate { name, patience, .. } = self;
        let message = format!(
            "{name}: as many requests are under way as this mirror makes at a time, and none ended within {patience:?}"
        );
        UpstreamError::new(UpstreamErrorClass::RateLimited(Some(COME_AGAIN)), message)
    }

    /// Puts a question whose answer is all there is.
    async fn put<T, F>(&self, question: impl Fn() -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        for _ in 0..PUT_AT_MOST {
            let place = self.place(&self.places).await?;
            tokio::select! {
                biased;
                answer = question() => return answer,
                () = place.called_back() => {}
            }
        }
        Err(self.too_many())
    }

    /// The same for a list.
    async fn put_for_list<T, F>(&self, question: impl Fn() -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        for _ in 0..PUT_AT_MOST {
            let place = self.place(&self.for_lists).await?;
            tokio::select! {
                biased;
                answer = self.put(&question) => return answer,
                () = place.called_back() => {}
            }
        }
        Err(self.too_many())
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
        self.put(|| self.upstream.resolve(repository, reference, accept.clone())).await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        self.put(|| self.upstream.manifest(repository, reference, accept.clone())).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.put(|| self.upstream.stat(repository, digest)).await
    }

    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.put(|| self.upstream.stat_by_get(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        for _ in 0..PUT_AT_MOST {
            let held = [self.place(&self.for_bodies).await?, self.place(&self.places).await?];
            let blob = tokio::select! {
                biased;
                blob = self.upstream.blob(repository, digest, span) => blob?,
                () = held[0].called_back() => continue,
                () = held[1].called_back() => continue,
            };
            return Ok(UpstreamBlob { body: self.bodies.begin(self.client, blob.body, held), ..blob });
        }
        Err(self.too_many())
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.put_for_list(|| self.upstream.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.put_for_list(|| self.upstream.referrers(repository, digest, artifact_type, cursor)).await
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

    fn is_heard(&self) -> bool {
        self.upstream.is_heard()
    }

    fn longest(&self) -> Duration {
        self.longest
    }

    fn notices(&self) -> Option<&Notices> {
        self.upstream.notices()
    }

    async fn enter(&self) -> Result<(), UpstreamError> {
        self.put(|| self.upstream.enter()).await
    }

    async fn challenge(&self, repository: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
        self.put(|| self.upstream.challenge(repository)).await
    }

    fn last_challenge(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.upstream.last_challenge(repository)
    }

    fn presenting(&self, presented: &Presented) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(Gate { upstream: self.upstream.presenting(presented)?, ..self.clone() }))
    }

    fn noting(&self, heard: &Heard) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(Gate { upstream: self.upstream.noting(heard)?, ..self.clone() }))
    }

    fn for_client(&self, client: ClientId) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(Gate { client, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says nothing of blobs, and of anything else that it is not there.
    struct Silent;

    fn not_there<T>() -> Result<T, UpstreamError> {
        Err(UpstreamError::new(UpstreamErrorClass::NotFound, "not there"))
    }

    #[async_trait]
    impl Upstream for Silent {
        async fn resolve(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Resolved, UpstreamError> {
            not_there()
        }

        async fn manifest(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Manifest, UpstreamError> {
            not_there()
        }

        async fn stat(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            std::future::pending().await
        }

        async fn stat_by_get(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            std::future::pending().await
        }

        async fn blob(&self, _: &Repository, _: &Digest, _: Span) -> Result<UpstreamBlob, UpstreamError> {
            std::future::pending().await
        }

        async fn tags(&self, _: &Repository, _: &Page) -> Result<TagList, UpstreamError> {
            not_there()
        }

        async fn referrers(
            &self,
            _: &Repository,
            _: &Digest,
            _: Option<&str>,
            _: Option<&Cursor>,
        ) -> Result<ReferrerList, UpstreamError> {
            not_there()
        }

        async fn enter(&self) -> Result<(), UpstreamError> {
            not_there()
        }

        async fn challenge(&self, _: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
            not_there()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_for_a_blob_gives_way_too_to_who_has_no_place() {
        let name: RegistryName = "docker.io".parse().expect("a name");
        let gate = Gate::new(name, Arc::new(Silent), 2, 1, Duration::from_secs(10));
        let of = |client| Gate { client: ClientId::V6(client), ..gate.clone() };
        let (greedy, honest) = (of(1), of(2));
        let repository: Repository = "library/app".parse().expect("a name");
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"a blob");
        let mut body = greedy.blob(&repository, &digest, Span::default());
        assert!(futures_util::poll!(&mut body).is_pending());
        let mut size = greedy.stat(&repository, &digest);
        assert!(futures_util::poll!(&mut size).is_pending());
        let (page, greedy) = (Page::default(), async { tokio::join!(body, size) });
        tokio::select! {
            told = honest.tags(&repository, &page) => {
                let class = told.expect_err("it is not there").class;
                assert_eq!(class, UpstreamErrorClass::NotFound);
            }
            _ = greedy => panic!("upstream is silent"),
        }
    }
}
