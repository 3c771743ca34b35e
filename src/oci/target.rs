//! Where a request points: the upstream, as far as the address names one, and the repository.
//!
//! An upstream may be named in front of `/v2/`, behind it, or by `?ns=`. What is named is kept apart
//! here and not decided upon; that is up to the mirror's routes, which know the configuration.

use super::name::{RegistryName, Repository};
use super::refusal::RequestError;

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

impl Target {
    /// Whether the path may say `/v2/` twice: `v2` may also be the first component of a repository.
    pub fn may_be_doubled(&self) -> bool {
        let RepositoryPath { below_registry, whole, .. } = &self.repository;
        [below_registry, whole].into_iter().flatten().any(|repository| repository.as_str().starts_with("v2/"))
    }
}

/// The path between `/v2/` and the keyword. Its first component may be a registry with a port or in
/// a form that repositories may not have, so it is kept apart from [`Repository`] until it is routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPath {
    /// The first component, where it is shaped like a registry: it has a dot, a colon or is
    /// `localhost`, and something follows it.
    pub registry: Option<RegistryName>,
    /// The repository without that component. There exactly when `registry` is; both are `None` when
    /// the path is a repository only as a whole.
    pub below_registry: Option<Repository>,
    /// The path as a repository, when it is one as a whole.
    pub whole: Option<Repository>,
}

impl RepositoryPath {
    /// Parses the path between `/v2/` and the keyword.
    ///
    /// # Errors
    /// [`RequestError::Name`] when it is neither a repository nor a registry and a repository.
    pub fn parse(path: &str) -> Result<RepositoryPath, RequestError> {
        let whole = path.parse().ok();
        let split = path.split_once('/').filter(|(first, _)| first.contains(['.', ':']) || *first == "localhost");
        let split =
            split.and_then(|(first, rest)| Some((RegistryName::parse_any_case(first).ok()?, rest.parse().ok()?)));
        if whole.is_none() && split.is_none() {
            return Err(RequestError::Name);
        }
        let (registry, below_registry) = split.unzip();
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
pub(super) fn split_prefix(path: &str) -> Result<(Option<RegistryName>, &str), RequestError> {
    let below_v2 = |path: &str| -> bool { path.is_empty() || path.starts_with('/') };
    if let Some(rest) = path.strip_prefix("/v2").filter(|rest| below_v2(rest)) {
        return Ok((None, rest));
    }
    let (prefix, rest) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(RequestError::NotFound)?;
    let rest = rest.strip_prefix("v2").filter(|rest| below_v2(rest)).ok_or(RequestError::NotFound)?;
    let prefix = RegistryName::parse_any_case(prefix).map_err(|_| RequestError::Registry)?;
    Ok((Some(prefix), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_is_a_registry_where_it_is_shaped_like_one() {
        for (path, registry, below, whole) in [
            ("ghcr.io/owner/app", Some("ghcr.io"), Some("owner/app"), Some("ghcr.io/owner/app")),
            ("localhost/app", Some("localhost"), Some("app"), Some("localhost/app")),
            ("r.example:5000/app", Some("r.example:5000"), Some("app"), None),
            ("localhost:5000/app", Some("localhost:5000"), Some("app"), None),
            ("library/app", None, None, Some("library/app")),
            ("ghcr.io", None, None, Some("ghcr.io")),
            ("a__b.c/app", None, None, Some("a__b.c/app")),
        ] {
            let parsed = RepositoryPath::parse(path).expect(path);
            assert_eq!(parsed.registry.as_ref().map(RegistryName::as_str), registry, "{path}");
            assert_eq!(parsed.below_registry.as_ref().map(Repository::as_str), below, "{path}");
            assert_eq!(parsed.whole.as_ref().map(Repository::as_str), whole, "{path}");
            assert_eq!(parsed.to_string(), path);
        }
        for path in ["r.example:5000", "r.example:0/app", "user@r.example/app", ":5000/app", ""] {
            assert_eq!(RepositoryPath::parse(path), Err(RequestError::Name), "{path}");
        }
    }

    #[test]
    fn a_repository_becomes_a_path_that_is_that_repository() {
        for name in ["app", "library/app", "ghcr.io/owner/app"] {
            let repository: Repository = name.parse().expect("a repository");
            let path = RepositoryPath::from(repository.clone());
            assert_eq!((path.whole.as_ref(), path.to_string().as_str()), (Some(&repository), name));
        }
    }
}
