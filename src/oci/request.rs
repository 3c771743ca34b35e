//! What a client asks for: method, path and query become a closed [`Request`] once.
//!
//! Nothing from the network is looked at as a string after this. The path is split at the *last*
//! keyword, because repositories may contain components called `manifests`, `blobs` or `v2`.
//! Any `%`, empty component, dot component or byte outside the grammar is refused here, so that no
//! later layer can be talked into another view of the path.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::Method;

use super::digest::Digest;
use super::error::ErrorCode;
use super::name::{Reference, RegistryName, Repository, Tag};

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
    },
}

/// Everything a request says about where content is: which upstream is decided from it, and from
/// the configuration, by the mirror's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The upstream named in front of `/v2/`, as in `/ghcr.io/v2/owner/app/…`.
    pub prefix: Option<RegistryName>,
    /// The upstream named by `?ns=`.
    pub namespace: Option<RegistryName>,
    /// The repository, which may start with the name of an upstream, as in `ghcr.io/owner/app`.
    pub repository: RepositoryPath,
}

/// The path between `/v2/` and the keyword. Its first component may be a registry with a port or in
/// a form that repositories may not have, so it is kept apart from [`Repository`] until it is routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPath {
    /// The first component, where it is shaped like a registry: it has a dot, a colon or is
    /// `localhost`, and something follows it.
    pub registry: Option<RegistryName>,
    /// The repository without that component. `None` when the path is a repository only as a whole.
    pub below_registry: Option<Repository>,
    /// The path as a repository, when it is one as a whole.
    pub whole: Option<Repository>,
}

/// A part of a list of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub n: Option<u32>,
    /// Only those after this one.
    pub last: Option<String>,
}

/// Why a request is refused before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not GET or HEAD.
    #[error("this is a read-only mirror: only GET and HEAD are served")]
    Method,
    /// Not below `/v2/`.
    #[error("not found: registry requests start with /v2/")]
    NotFound,
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
    /// The digest cannot be parsed.
    #[error("not a digest: {0}")]
    Digest(#[from] super::digest::DigestError),
    /// `n` is not a number.
    #[error("n is not a number")]
    Page,
}

impl RequestError {
    /// The code to answer with. An illegal tag is 404, not 400: the conformance suite asks for one.
    pub const fn code(&self) -> ErrorCode {
        match self {
            RequestError::Method => ErrorCode::Unsupported,
            RequestError::NotFound => ErrorCode::NameUnknown,
            RequestError::Name | RequestError::Registry | RequestError::Contradiction | RequestError::Page => {
                ErrorCode::NameInvalid
            }
            RequestError::Tag => ErrorCode::ManifestUnknown,
            RequestError::Digest(_) => ErrorCode::DigestInvalid,
        }
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
        let query = Query::parse(query.unwrap_or_default())?;
        let (name, keyword, rest) = split_keyword(&path[1..]).ok_or(RequestError::NotFound)?;
        let target = Target { prefix, namespace: query.namespace.clone(), repository: RepositoryPath::parse(name)? };
        match (keyword, rest) {
            ("manifests", rest) => Ok(Request::Manifest { target, reference: reference(rest)? }),
            ("blobs", rest) => Ok(Request::Blob { target, digest: rest.parse()? }),
            ("tags", "list") => Ok(Request::Tags { target, page: query.page()? }),
            ("referrers", rest) => {
                Ok(Request::Referrers { target, digest: rest.parse()?, artifact_type: query.artifact_type })
            }
            _ => Err(RequestError::NotFound),
        }
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
                (target, "tags/list".to_owned())
            }
            Request::Referrers { target, digest, artifact_type } => {
                artifact_type.as_ref().map(|wanted| query.append_pair("artifactType", wanted));
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
}

impl RepositoryPath {
    /// Parses the path between `/v2/` and the keyword.
    ///
    /// # Errors
    /// [`RequestError::Name`] when it is neither a repository nor a registry and a repository.
    pub fn parse(path: &str) -> Result<RepositoryPath, RequestError> {
        let whole = path.parse().ok();
        let (registry, below_registry) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.parse().ok(), rest.parse().ok())
            }
            _ => (None, None),
        };
        if whole.is_none() && (registry.is_none() || below_registry.is_none()) {
            return Err(RequestError::Name);
        }
        Ok(RepositoryPath { registry, below_registry, whole })
    }
}

impl From<Repository> for RepositoryPath {
    fn from(repository: Repository) -> RepositoryPath {
        RepositoryPath::parse(repository.as_str()).unwrap_or(RepositoryPath {
            registry: None,
            below_registry: None,
            whole: Some(repository),
        })
    }
}

impl std::fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RepositoryPath { whole: Some(whole), .. } => whole.fmt(f),
            RepositoryPath { registry: Some(registry), below_registry: Some(below), .. } => {
                write!(f, "{registry}/{below}")
            }
            _ => Ok(()),
        }
    }
}

/// Takes `/v2` off, and one component in front of it. What is left is empty or starts with a slash.
fn split_prefix(path: &str) -> Result<(Option<RegistryName>, &str), RequestError> {
    let below_v2 = |path: &str| -> bool { path.is_empty() || path.starts_with('/') };
    if let Some(rest) = path.strip_prefix("/v2").filter(|rest| below_v2(rest)) {
        return Ok((None, rest));
    }
    let (prefix, rest) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(RequestError::NotFound)?;
    let rest = rest.strip_prefix("v2").filter(|rest| below_v2(rest)).ok_or(RequestError::NotFound)?;
    let prefix = prefix.parse().map_err(|_| RequestError::Registry)?;
    Ok((Some(prefix), rest))
}

/// Splits `name/keyword/rest` at the last keyword that has exactly one component behind it.
fn split_keyword(path: &str) -> Option<(&str, &str, &str)> {
    let (front, rest) = path.rsplit_once('/')?;
    let (name, keyword) = front.rsplit_once('/')?;
    Some((name, keyword, rest))
}

fn reference(text: &str) -> Result<Reference, RequestError> {
    if text.contains(':') {
        Ok(Reference::Digest(text.parse()?))
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
}

impl Query {
    fn parse(query: &str) -> Result<Query, RequestError> {
        let mut parsed = Query::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let own = |value: Cow<'_, str>| Some(value.into_owned());
            match key.as_ref() {
                "ns" if parsed.namespace.is_some() => return Err(RequestError::Contradiction),
                "ns" => parsed.namespace = Some(value.parse().map_err(|_| RequestError::Registry)?),
                "n" => parsed.n = own(value),
                "last" => parsed.last = own(value),
                "artifactType" => parsed.artifact_type = own(value),
                _ => {}
            }
        }
        Ok(parsed)
    }

    fn page(self) -> Result<Page, RequestError> {
        let n = self.n.map(|n| n.parse().map_err(|_| RequestError::Page)).transpose()?;
        Ok(Page { n, last: self.last })
    }
}
