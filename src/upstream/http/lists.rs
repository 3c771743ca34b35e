//! Lists over HTTP: the tags of a repository and the referrers of a manifest.
//!
//! What registries get wrong is straightened here: `null` is an empty list, a page that is too
//! large for them is asked for again in their own size, and the next page is read off `Link`
//! whatever address it names. Nobody goes to that address; only its query is used.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, HeaderName, LINK};
use http::{Method, StatusCode};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use tokio::sync::Semaphore;
use url::form_urlencoded::Serializer;

use super::HttpUpstream;
use super::answer::{Answer, Question};
use super::protocol;
use super::status::{is_not_implemented, is_whole};
use super::wire::{header_value, text};
use crate::oci::key::Key;
use crate::oci::link::{self, Next};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::plausible::{Asked, Told, check};
use crate::oci::{Cursor, Digest, MediaType, Page, Repository, TagNames, header};
use crate::upstream::{ReferrerList, Resource, TagList, UpstreamError, UpstreamErrorClass};

/// The most bytes of tags that are taken in one answer: a list of 11 MB is one that people have.
const MAX_TAGS_SIZE: u64 = 64 << 20;
/// So many lists are read at a time of one upstream, and so many manifests, however many come: it gives places to clients
/// in turns (see [`Gate`](crate::upstream::gate::Gate)).
const READERS: usize = 1;
/// A list of fewer bytes is read sooner than it is handed to another thread.
const LONG: usize = 64 << 10;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A list of tags, its keys in any case.
#[derive(Default)]
struct WireTags {
    /// `null` is an empty list; who leaves it out says at least whose list it is.
    tags: Option<TagNames>,
    name: Option<IgnoredAny>,
    errors: Option<IgnoredAny>,
}

impl<'de> Visitor<'de> for WireTags {
    type Value = WireTags;

    fn visit_map<A: MapAccess<'de>>(mut self, mut list: A) -> Result<WireTags, A::Error> {
        while let Some(Key(key)) = list.next_key()? {
            match key.as_str() {
                "tags" => self.tags = Some(list.next_value::<Option<_>>()?.unwrap_or_default()),
                "name" => self.name = list.next_value()?,
                "errors" => self.errors = list.next_value()?,
                _ => drop(list.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
}

impl<'de> Deserialize<'de> for WireTags {
    fn deserialize<D: Deserializer<'de>>(list: D) -> Result<WireTags, D::Error> {
        list.deserialize_map(WireTags::default())
    }
}

impl HttpUpstream {
    pub(super) async fn list_tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        let answer = self.ask(&self.tags_question(repository, page)?).await?;
        let answer = match answer.response.status() {
            status if is_whole(status) => answer,
            // Amazon's registries have a largest page, and others have smaller ones.
            StatusCode::BAD_REQUEST if page.n.is_some() && page.cursor.is_none() => {
                let page = Page { n: None, ..page.clone() };
                let answer = self.ask(&self.tags_question(repository, &page)?).await?;
                if !is_whole(answer.response.status()) {
                    return Err(self.refusal(answer).await);
                }
                answer
            }
            // Asking for such a list again does not help either. One that was told before stands in.
            status @ StatusCode::NOT_IMPLEMENTED => {
                let error = protocol(&answer.what, "this registry lists no tags");
                return Err(error.with_status(status.as_u16()));
            }
            _ => return Err(self.refusal(answer).await),
        };
        self.notice(Resource::tags(repository), &answer);
        let (what, next) = (answer.what.clone(), next_query(&answer)?);
        let bytes = self.whole(answer)?.collect(MAX_TAGS_SIZE, None).await?;
        let tags = self.readers.read(&what, bytes, tags_of).await?;
        let next = next.map(|query| Page::of_link(&query).ok_or_else(|| unclear(&what))).transpose()?;
        Ok(TagList { tags, next })
    }

    fn tags_question(&self, repository: &Repository, page: &Page) -> Result<Question, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header_value("application/json".to_owned())?);
        let question = self.question(Method::GET, repository, "tags/list".to_owned(), headers)?;
        Ok(Question { query: page.upstream_query(), ..question })
    }

    pub(super) async fn list_referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        let query = match cursor {
            Some(cursor) => Some(cursor.as_str().to_owned()),
            None => {
                artifact_type.map(|wanted| Serializer::new(String::new()).append_pair("artifactType", wanted).finish())
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header_value(MediaType::ImageIndex.to_string())?);
        let path = format!("referrers/{digest}");
        let question = Question { query, ..self.question(Method::GET, repository, path, headers)? };
        let answer = self.ask(&question).await?;
        match answer.response.status() {
            status if is_whole(status) => {}
            // A registry that does not know the path.
            status if status == StatusCode::BAD_REQUEST || is_not_implemented(status) => {
                return Err(no_referrers(&answer.what).with_status(status.as_u16()));
            }
            _ => return Err(self.refusal(answer).await),
        }
        let applied = text(&answer.response, FILTERS_APPLIED).unwrap_or_default();
        let filtered = applied.split(',').any(|filter| filter.trim().eq_ignore_ascii_case("artifactType"));
        self.notice(Resource::referrers(repository, digest), &answer);
        let (what, next) = (answer.what.clone(), next_query(&answer)?);
        let bytes = self.whole(answer)?.collect(MAX_MANIFEST_SIZE, None).await?;
        let index = self.readers.read(&what, bytes, referrers_of).await?;
        let next = next.map(|query| query.parse().map_err(|_| unclear(&what))).transpose()?;
        Ok(ReferrerList { index, filtered, next })
    }
}

/// Turns to read what is long.
#[derive(Clone)]
pub(super) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Readers {
        Readers(Arc::new(Semaphore::new(READERS)))
    }
}

impl Readers {
    /// What is long behind the others, on a thread of its own: such a list may take a second to read. Who asks no more
    /// leaves his turn to it until it is read.
    pub(super) async fn read<L: Send + 'static>(
        &self,
        what: &str,
        bytes: Bytes,
        list_of: impl FnOnce(&str, Bytes) -> Result<L, UpstreamError> + Send + 'static,
    ) -> Result<L, UpstreamError> {
        if bytes.len() < LONG {
            return list_of(what, bytes);
        }
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let name = what.to_owned();
        let read = move || {
            let _turn = turn;
            list_of(&name, bytes)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err(protocol(what, "could not be read")))
    }
}

/// The tags in an answer.
fn tags_of(what: &str, bytes: Bytes) -> Result<TagNames, UpstreamError> {
    check(Asked::Tags, &Told::default(), Some(&bytes)).map_err(|odd| protocol(what, odd))?;
    let list: WireTags =
        serde_json::from_slice(&bytes).map_err(|error| protocol(what, format_args!("is no list: {error}")))?;
    let is_list = list.tags.is_some() || list.name.is_some() && list.errors.is_none();
    if is_list { Ok(list.tags.unwrap_or_default()) } else { Err(protocol(what, "is no list of tags")) }
}

/// The index in an answer. A copy: it may be remembered for long, and is counted there.
fn referrers_of(what: &str, bytes: Bytes) -> Result<Bytes, UpstreamError> {
    check(Asked::Referrers, &Told::default(), Some(&bytes)).map_err(|odd| protocol(what, odd))?;
    Ok(Bytes::copy_from_slice(&bytes))
}

/// The query that asks for the next page; `None` at the end of the list.
fn next_query(answer: &Answer) -> Result<Option<String>, UpstreamError> {
    let lines = answer.response.headers().get_all(LINK).iter().map(header::addresses);
    match link::next(lines) {
        Next::End => Ok(None),
        Next::At(target) => link::query(&target).map(str::to_owned).map(Some).ok_or_else(|| unclear(&answer.what)),
        Next::Unclear => Err(unclear(&answer.what)),
    }
}

/// A part is never passed on as the whole.
fn unclear(what: &str) -> UpstreamError {
    protocol(what, "the list goes on, and its Link does not say where")
}

fn no_referrers(what: &str) -> UpstreamError {
    UpstreamError::new(UpstreamErrorClass::NotFound, format!("{what}: this registry keeps no list of referrers"))
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::oci::{AcceptSet, Reference};
    use crate::upstream::Upstream as _;

    fn reader(_: &str, _: Bytes) -> Result<ThreadId, UpstreamError> {
        Ok(thread::current().id())
    }

    #[tokio::test]
    async fn lists_and_manifests_that_are_long_wait_for_their_turn_to_be_read() {
        let registry = scripted_registry::Registry::start().await;
        let (kind, padding) = (MediaType::ImageIndex.to_string(), "x".repeat(LONG));
        let index =
            format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[],"annotations":{{"x":"{padding}"}}}}"#);
        let tags = format!(r#"{{"name":"library/app","tags":[{}"last"]}}"#, r#""a-tag","#.repeat(LONG / 8));
        let answer = |path: &str, kind: &str, body: String| {
            let on = scripted_registry::Match::path(&format!("/v2/library/app/{path}"));
            registry.rule(scripted_registry::Rule::on(on).answer(200, kind, body));
        };
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"about this");
        answer("tags/list", "application/json", tags);
        answer(&format!("referrers/{digest}"), &kind, index.clone());
        answer("manifests/1", &kind, index);
        let (name, url) = ("registry.example".parse().expect("valid"), registry.url().parse().expect("valid"));
        let settings =
            crate::upstream::http::HttpSettings::new(name, url, crate::upstream::settings::Settings::default());
        let upstream = HttpUpstream::new(settings).expect("settings");
        let (repository, page) = ("library/app".parse().expect("valid"), Page::default());
        let reference = Reference::Tag("1".parse().expect("valid"));
        let tags = async { upstream.list_tags(&repository, &page).await.map(drop) };
        let referrers = async { upstream.list_referrers(&repository, &digest, None, None).await.map(drop) };
        let manifest = async { upstream.manifest(&repository, &reference, AcceptSet::everything()).await.map(drop) };
        let asked = [tags.boxed(), referrers.boxed(), manifest.boxed()];
        for (mut asked, readers) in asked.into_iter().zip([&upstream.readers, &upstream.readers, &upstream.manifests]) {
            let turn = Arc::clone(&readers.0).acquire_owned().await.expect("a turn");
            // Those who have a turn or wait for one have a part in it.
            let waits = async {
                while Arc::strong_count(&readers.0) < 3 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                read = &mut asked => panic!("not its turn: {read:?}"),
                () = waits => {}
            }
            drop(turn);
            asked.await.expect("read");
        }
    }

    #[tokio::test]
    async fn what_is_long_is_read_beside_the_runtime() {
        let readers = Readers::default();
        for (length, is_here) in [(LONG - 1, true), (LONG, false)] {
            let read = readers.read("a list", Bytes::from(vec![b' '; length]), reader).await.expect("read");
            assert_eq!(read == thread::current().id(), is_here, "{length}");
        }
    }
}
