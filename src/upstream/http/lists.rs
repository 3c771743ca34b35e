//! Lists over HTTP: the tags of a repository and the referrers of a manifest.
//!
//! What registries get wrong is straightened here: `null` is an empty list, a page that is too
//! large for them is asked for again in their own size, and the next page is read off `Link`
//! whatever address it names. Nobody goes to that address; only its query is used.

use http::header::{ACCEPT, HeaderMap, HeaderName, LINK};
use http::{Method, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use url::form_urlencoded::Serializer;

use super::HttpUpstream;
use super::exchange::{Answer, Question};
use super::protocol;
use super::wire::{header, text};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Cursor, Digest, MediaType, Page, Repository, link};
use crate::upstream::{ReferrerList, TagList, UpstreamError, UpstreamErrorClass};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

#[derive(Deserialize)]
struct WireTags {
    tags: Option<Vec<String>>,
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
        let answer = self.ask(&tags_question(repository, page)?).await?;
        let answer = match answer.response.status() {
            StatusCode::OK => answer,
            // Amazon's registries have a largest page, and others have smaller ones.
            StatusCode::BAD_REQUEST if page.n.is_some() && page.cursor.is_none() => {
                let page = Page { n: None, ..page.clone() };
                let answer = self.ask(&tags_question(repository, &page)?).await?;
                if answer.response.status() != StatusCode::OK {
                    return Err(self.refusal(answer).await);
                }
                answer
            }
            _ => return Err(self.refusal(answer).await),
        };
        let (what, next) = (answer.what.clone(), next_query(&answer));
        let bytes = self.body(answer, None)?.collect(MAX_MANIFEST_SIZE).await?;
        let list: WireTags =
            serde_json::from_slice(&bytes).map_err(|error| protocol(&what, format_args!("is no list: {error}")))?;
        Ok(TagList { tags: list.tags.unwrap_or_default(), next: next.as_deref().and_then(Page::of_link) })
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
        headers.insert(ACCEPT, header(MediaType::ImageIndex.to_string())?);
        let path = format!("referrers/{digest}");
        let answer = self.ask(&Question { method: Method::GET, path, query, repository, headers }).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            // A registry that does not know the path.
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => return Err(no_referrers(&answer.what)),
            _ => return Err(self.refusal(answer).await),
        }
        let applied = text(&answer.response, FILTERS_APPLIED).unwrap_or_default();
        let filtered = applied.split(',').any(|filter| filter.trim().eq_ignore_ascii_case("artifactType"));
        let (what, next) = (answer.what.clone(), next_query(&answer));
        let index = self.body(answer, None)?.collect(MAX_MANIFEST_SIZE).await?;
        // Some answer every path with a page for people.
        serde_json::from_slice::<WireIndex>(&index).map_err(|_| no_referrers(&what))?;
        Ok(ReferrerList { index, filtered, next: next.and_then(|next| next.parse().ok()) })
    }
}

fn tags_question<'a>(repository: &'a Repository, page: &Page) -> Result<Question<'a>, UpstreamError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, header("application/json".to_owned())?);
    let (path, query) = ("tags/list".to_owned(), page.upstream_query());
    Ok(Question { method: Method::GET, path, query, repository, headers })
}

fn next_query(answer: &Answer) -> Option<String> {
    let lines = answer.response.headers().get_all(LINK).iter().filter_map(|line| line.to_str().ok());
    link::next(lines).and_then(link::query).map(str::to_owned)
}

fn no_referrers(what: &str) -> UpstreamError {
    UpstreamError::new(UpstreamErrorClass::NotFound, format!("{what}: this registry keeps no list of referrers"))
}
