//! What a client asks for: method, path and query become a closed [`Request`] once.
//!
//! Nothing from the network is looked at as a string after this. The path is split at the *last*
//! keyword, because repositories may contain components called `manifests`, `blobs` or `v2`.
//! The component behind the keyword, a digest or a tag, is percent-decoded once, as every URL parser
//! may have encoded it. Any other `%`, empty component, dot component or byte outside the grammar is
//! refused here, so that no later layer can be talked into another view of the path.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::Method;
use percent_encoding::percent_decode_str;

use super::digest::Digest;
use super::name::{Reference, RegistryName, Tag};
use super::page::{Cursor, Page};
use super::refusal::RequestError;
use super::target::{RepositoryPath, Target, split_prefix};

/// A request of the pull side of the distribution specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `GET /v2/`: is this a registry?
    Ping,
    /// A manifest by tag or digest.
    Manifest {
        /// Where it is.
        target: Target,
        /// Which one.
        reference: Reference,
    },
    /// A blob by digest.
    Blob {
        /// Where it is.
        target: Target,
        /// Which one.
        digest: Digest,
    },
    /// The tags of a repository.
    Tags {
        /// Which repository.
        target: Target,
        /// Which part of the list.
        page: Page,
    },
    /// The manifests that refer to one.
    Referrers {
        /// Where it is.
        target: Target,
        /// The manifest referred to.
        digest: Digest,
        /// Only referrers of this type.
        artifact_type: Option<String>,
        /// Where the list goes on, for every page but the first.
        cursor: Option<Cursor>,
    },
}

impl Target {
    /// Where a path points that is no request's here, such as that of an upload, as far as it names a repository.
    pub fn within(path: &str, query: Option<&str>) -> Option<Target> {
        let (prefix, path) = split_prefix(path).ok()?;
        let keywords = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
        let name = path.get(1..keywords.into_iter().filter_map(|keyword| path.rfind(keyword)).max()?)?;
        let namespace = Query::parse(query.unwrap_or_default()).ok()?.namespace;
        Some(Target { prefix, namespace, repository: RepositoryPath::parse(name).ok()? })
    }
}

impl Request {
    /// Parses method, path and query.
    ///
    /// # Errors
    /// Everything in [`RequestError`]; the request has touched nothing by then.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Request, RequestError> {
        if method != Method::GET && method != Method::HEAD {
            return Err(RequestError::Method);
        }
        let (prefix, path) = split_prefix(path)?;
        if path.is_empty() || path == "/" {
            return Ok(Request::Ping);
        }
        if path.to_ascii_lowercase().contains("%2f") {
            return Err(RequestError::Slash);
        }
        let query = Query::parse(query.unwrap_or_default())?;
        if path == "/v2" || path == "/v2/" {
            return Err(RequestError::Doubled);
        }
        if path.strip_suffix("/_catalog").is_some_and(|registry| !registry.trim_start_matches('/').contains('/')) {
            return Err(RequestError::Catalog);
        }
        let (name, keyword, rest) = split_keyword(&path[1..]).ok_or(RequestError::NotFound)?;
        let rest = &*decoded(rest);
        let target = Target { prefix, namespace: query.namespace.clone(), repository: RepositoryPath::parse(name)? };
        match (keyword, rest) {
            ("manifests", rest) => Ok(Request::Manifest { target, reference: reference(rest)? }),
            ("blobs", rest) => Ok(Request::Blob { target, digest: rest.parse()? }),
            ("tags", "list") => Ok(Request::Tags { target, page: query.page()? }),
            ("referrers", rest) => {
                let digest = rest.parse()?;
                Ok(Request::Referrers { target, digest, cursor: query.cursor()?, artifact_type: query.artifact_type })
            }
            _ => Err(RequestError::NotFound),
        }
    }

    /// The registry at whose door a ping is, where it names one: in front of the path, or by `ns`.
    pub fn door(path: &str, query: Option<&str>) -> Option<RegistryName> {
        let (prefix, _) = split_prefix(path).ok()?;
        prefix.or_else(|| Query::parse(query.unwrap_or_default()).ok()?.namespace)
    }

    /// The path and query that parse to this request.
    pub fn path_and_query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let (target, rest) = match self {
            Request::Ping => return "/v2/".to_owned(),
            Request::Manifest { target, reference } => (target, format!("manifests/{reference}")),
            Request::Blob { target, digest } => (target, format!("blobs/{digest}")),
            Request::Tags { target, page } => {
                page.n.map(|n| query.append_pair("n", &n.to_string()));
                page.last.as_ref().map(|last| query.append_pair("last", last));
                page.cursor.as_ref().map(|cursor| query.append_pair("cursor", cursor.as_str()));
                (target, "tags/list".to_owned())
            }
            Request::Referrers { target, digest, artifact_type, cursor } => {
                artifact_type.as_ref().map(|wanted| query.append_pair("artifactType", wanted));
                cursor.as_ref().map(|cursor| query.append_pair("cursor", cursor.as_str()));
                (target, format!("referrers/{digest}"))
            }
        };
        if let Some(namespace) = &target.namespace {
            query.append_pair("ns", namespace.as_str());
        }
        let mut path = String::new();
        if let Some(prefix) = &target.prefix {
            let _ = write!(path, "/{prefix}");
        }
        let _ = write!(path, "/v2/{}/{rest}", target.repository);
        let query = query.finish();
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    /// Where the request points, for everything but a ping.
    pub const fn target(&self) -> Option<&Target> {
        match self {
            Request::Ping => None,
            Request::Manifest { target, .. }
            | Request::Blob { target, .. }
            | Request::Tags { target, .. }
            | Request::Referrers { target, .. } => Some(target),
        }
    }

    /// The tag or digest that is asked for, or about.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Request::Ping | Request::Tags { .. } => None,
            Request::Manifest { reference, .. } => Some(reference.clone()),
            Request::Blob { digest, .. } | Request::Referrers { digest, .. } => Some(Reference::Digest(*digest)),
        }
    }
}

/// Splits `name/keyword/rest` at the last keyword that has exactly one component behind it.
fn split_keyword(path: &str) -> Option<(&str, &str, &str)> {
    let (front, rest) = path.rsplit_once('/')?;
    let (name, keyword) = front.rsplit_once('/')?;
    Some((name, keyword, rest))
}

/// What a tag or digest was before it was percent-encoded. What is encoded twice stays as it is: neither a tag
/// nor a digest.
fn decoded(component: &str) -> Cow<'_, str> {
    let decoded = percent_decode_str(component).decode_utf8().ok();
    decoded.filter(|decoded| !decoded.contains('%')).unwrap_or(Cow::Borrowed(component))
}

fn reference(text: &str) -> Result<Reference, RequestError> {
    if text.contains(':') {
        text.parse().map(Reference::Digest).map_err(RequestError::ManifestDigest)
    } else {
        text.parse::<Tag>().map(Reference::Tag).map_err(|_| RequestError::Tag)
    }
}

/// The parameters we know; all others are ignored and are not part of any key.
#[derive(Default)]
struct Query {
    namespace: Option<RegistryName>,
    n: Option<String>,
    last: Option<String>,
    artifact_type: Option<String>,
    cursor: Option<String>,
}

impl Query {
    fn parse(query: &str) -> Result<Query, RequestError> {
        let mut parsed = Query::default();
        let mut filters = 0;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let own = |value: Cow<'_, str>| Some(value.into_owned());
            match key.as_ref() {
                "ns" if parsed.namespace.is_some() => return Err(RequestError::Contradiction),
                "ns" => {
                    parsed.namespace = Some(RegistryName::parse_any_case(&value).map_err(|_| RequestError::Registry)?)
                }
                "n" => parsed.n = own(value),
                "last" => parsed.last = own(value),
                "artifactType" => {
                    filters += 1;
                    parsed.artifact_type = own(value);
                }
                "cursor" => parsed.cursor = own(value),
                _ => {}
            }
        }
        // Registries disagree on what several filters mean. Without any, the client filters.
        parsed.artifact_type = parsed.artifact_type.filter(|_| filters == 1);
        Ok(parsed)
    }

    fn page(self) -> Result<Page, RequestError> {
        let n = self.n.as_ref().map(|n| n.parse().map_err(|_| RequestError::Page)).transpose()?;
        Ok(Page { n, cursor: self.cursor()?, last: self.last })
    }

    fn cursor(&self) -> Result<Option<Cursor>, RequestError> {
        self.cursor.as_deref().map(str::parse).transpose()
    }
}

#[cfg(test)]
mod tests;
