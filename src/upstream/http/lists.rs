//! Lists over HTTP: the tags of a repository and the referrers of a manifest.
//!
//! What registries get wrong is straightened here: `null` is an empty list, a page that is too
//! large for them is asked for again in their own size, and the next page is read off `Link`
//! whatever address it names. Nobody goes to that address; only its query is used.

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, HeaderName, LINK};
use http::{Method, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use url::form_urlencoded::Serializer;

use super::HttpUpstream;
use super::answer::{Answer, Question};
use super::protocol;
use super::status::{is_not_implemented, is_whole};
use super::wire::{header_value, text};
use crate::oci::link::{self, Next};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::plausible::{Asked, Told, check};
use crate::oci::{Cursor, Digest, MediaType, Page, Repository, TagNames, header};
use crate::upstream::{ReferrerList, Resource, TagList, UpstreamError, UpstreamErrorClass};

/// The most bytes of tags that are taken in one answer: a list of 11 MB is one that people have.
const MAX_TAGS_SIZE: u64 = 64 << 20;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

#[derive(Deserialize)]
struct WireTags {
    /// `null` is an empty list; who leaves it out says at least whose list it is.
    #[serde(default, deserialize_with = "given")]
    tags: Option<TagNames>,
    name: Option<IgnoredAny>,
    errors: Option<IgnoredAny>,
}

fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<TagNames>, D::Error> {
    Option::deserialize(value).map(|list| Some(list.unwrap_or_default()))
}

#[derive(Deserialize)]
struct WireIndex {
    #[serde(rename = "manifests", deserialize_with = "list_or_null")]
    _manifests: (),
}

/// Registries written in Go may send an empty list as `null`, but the key is there.
fn list_or_null<'de, D: Deserializer<'de>>(value: D) -> Result<(), D::Error> {
    Option::<Vec<IgnoredAny>>::deserialize(value).map(|_| ())
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
            // Asking for such a list again does not help either.
            StatusCode::NOT_IMPLEMENTED => {
                let message = format!("{}: this registry lists no tags", answer.what);
                return Err(UpstreamError::new(UpstreamErrorClass::Refused, message));
            }
            _ => return Err(self.refusal(answer).await),
        };
        self.notice(Resource::tags(repository), &answer);
        let (what, next) = (answer.what.clone(), next_query(&answer)?);
        let bytes = self.body(answer, None)?.collect(MAX_TAGS_SIZE, None).await?;
        check(Asked::List, &Told::default(), Some(&bytes)).map_err(|odd| protocol(&what, odd))?;
        let list: WireTags =
            serde_json::from_slice(&bytes).map_err(|error| protocol(&what, format_args!("is no list: {error}")))?;
        let is_list = list.tags.is_some() || list.name.is_some() && list.errors.is_none();
        if !is_list {
            return Err(protocol(&what, "is no list of tags"));
        }
        let next = next.map(|query| Page::of_link(&query).ok_or_else(|| unclear(&what))).transpose()?;
        Ok(TagList { tags: list.tags.unwrap_or_default(), next })
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
                return Err(no_referrers(&answer.what));
            }
            _ => return Err(self.refusal(answer).await),
        }
        let applied = text(&answer.response, FILTERS_APPLIED).unwrap_or_default();
        let filtered = applied.split(',').any(|filter| filter.trim().eq_ignore_ascii_case("artifactType"));
        self.notice(Resource::referrers(repository, digest), &answer);
        let (what, next) = (answer.what.clone(), next_query(&answer)?);
        // A copy: it may be remembered for long, and is counted there.
        let index = Bytes::from(self.body(answer, None)?.collect(MAX_MANIFEST_SIZE, None).await?.to_vec());
        check(Asked::List, &Told::default(), Some(&index)).map_err(|odd| protocol(&what, odd))?;
        serde_json::from_slice::<WireIndex>(&index)
            .map_err(|error| protocol(&what, format_args!("is no list of referrers: {error}")))?;
        let next = next.map(|query| query.parse().map_err(|_| unclear(&what))).transpose()?;
        Ok(ReferrerList { index, filtered, next })
    }
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
