//! Which upstream answers for a request, and under which repository name. Pure.
//!
//! Only configured upstreams can be named; a request selects among them by exact name and never
//! forms an address. Precedence: a prefix in the path (before or after `/v2/`), then `?ns=`, then
//! the default. Docker Hub's aliases are folded and its `library/` is added here, before any key or
//! scope is computed, so that one image never has two names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Permit;
use crate::clients::Asker;
use crate::mirror::Location;
use crate::oci::{ImageName, Notice, Reference, RegistryName, Repository, RepositoryPath, Target};
use crate::tier::Waited;
use crate::upstream::{Resource, Upstream};

/// The other names of Docker Hub.
const HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
const HUB: &str = "docker.io";

/// The upstreams there are.
#[derive(Clone)]
pub struct Routes {
    default: RegistryName,
    upstreams: HashMap<RegistryName, Arc<dyn Upstream>>,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.upstreams.keys().collect();
        f.debug_struct("Routes").field("default", &self.default).field("upstreams", &names).finish()
    }
}

/// A request that found its upstream. Whether it may be answered is not decided.
#[derive(Clone)]
pub struct Found {
    location: Location,
    upstream: Arc<dyn Upstream>,
    namespace: Option<RegistryName>,
    waited: Waited,
}

impl Found {
    /// Upstream and repository, under their one canonical name.
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// The registry that would be asked.
    pub(super) const fn upstream(&self) -> &Arc<dyn Upstream> {
        &self.upstream
    }

    /// How long it has waited for the bucket.
    pub(super) const fn waited(&self) -> &Waited {
        &self.waited
    }

    /// The way in, for whom the permit is. `None` when it is one for something else.
    pub fn permitted(self, permit: Permit) -> Option<Route> {
        let Found { location, upstream, namespace, waited } = self;
        let asker = Asker::operator();
        (*permit.location() == location).then_some(Route {
            location,
            upstream,
            namespace,
            asker,
            permit,
            waited,
            fresh_for: None,
        })
    }

    /// The way in, for whoever runs the mirror.
    pub fn for_operator(self) -> Route {
        let Found { location, upstream, namespace, waited } = self;
        Route { namespace, waited, ..Route::of_operator(location, upstream) }
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A request that found its upstream, and may be answered: there is none without a permit.
#[derive(Clone)]
pub struct Route {
    /// Upstream and repository, under their one canonical name: the start of every key.
    pub location: Location,
    /// The registry to ask.
    pub upstream: Arc<dyn Upstream>,
    /// The `ns` that took part in the decision, to be echoed in `OCI-Namespace`.
    pub namespace: Option<RegistryName>,
    /// Who asks.
    pub asker: Asker,
    /// Why he may.
    permit: Permit,
    /// How long it has waited for the bucket.
    pub(super) waited: Waited,
    /// What a tag points at counts as fresh for no longer than this, where it is not to for as long as usual.
    fresh_for: Option<Duration>,
}

impl Route {
    /// What upstream said beside its latest answer about this.
    pub(super) fn notice(&self, about: impl FnOnce(&Repository) -> Resource) -> Notice {
        let notices = self.upstream.notices();
        notices.map_or_else(Notice::default, |notices| notices.of(|| about(&self.location.repository)))
    }

    /// For what whoever runs the mirror does, and what the mirror does by itself.
    pub(crate) fn of_operator(location: Location, upstream: Arc<dyn Upstream>) -> Route {
        let permit = Permit::operator(location.clone());
        let waited = Waited::of(upstream.health().gives_nothing());
        Route { location, upstream, namespace: None, asker: Asker::operator(), permit, waited, fresh_for: None }
    }

    /// The same for another look-up, which has not waited yet.
    pub(super) fn anew(&self) -> Route {
        Route { waited: Waited::of(self.upstream.health().gives_nothing()), ..self.clone() }
    }

    /// The same for whom what a tag points at is fresh for no longer than this.
    pub(super) fn checked_within(self, time: Duration) -> Route {
        Route { fresh_for: Some(time), ..self }
    }

    /// For how long what a tag points at is fresh for him, where it usually is for this long.
    pub(super) fn fresh_for(&self, usually: Duration) -> Duration {
        self.fresh_for.map_or(usually, |time| time.min(usually))
    }

    /// Why he who asks may read it.
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// An image there, by its whole name.
    pub fn image(&self, reference: &Reference) -> ImageName {
        let Location { upstream, repository } = self.location.clone();
        ImageName { registry: upstream, repository, reference: reference.clone() }
    }

    /// The same, for `asker`.
    #[must_use]
    pub fn asked_by(self, asker: Asker) -> Route {
        let upstream = self.upstream.for_client(asker.client()).unwrap_or(self.upstream);
        Route { asker, upstream, ..self }
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("location", &self.location).finish_non_exhaustive()
    }
}

/// Why a request found no upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The named registry is not an upstream of this mirror.
    #[error("{0} is not an upstream of this mirror; its operator can add it as an [[upstream]]")]
    UnknownUpstream(RegistryName),
    /// Two parts of the request name different upstreams.
    #[error("the request names two upstreams, {0} and {1}")]
    Contradiction(RegistryName, RegistryName),
    /// What is left of the path is not a repository name.
    #[error("not a repository name")]
    InvalidName,
}

impl Routes {
    /// Routes to `upstreams`, and to `default` what names none.
    pub fn new(
        default: RegistryName,
        upstreams: impl IntoIterator<Item = (RegistryName, Arc<dyn Upstream>)>,
    ) -> Routes {
        let upstreams = upstreams.into_iter().map(|(name, upstream)| (fold_alias(name), upstream)).collect();
        Routes { default: fold_alias(default), upstreams }
    }

    /// The names of all upstreams, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &RegistryName> {
        self.upstreams.keys()
    }

    /// How many entries there are in what upstreams remember.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.upstreams.values().flat_map(|upstream| upstream.tables())
    }

    /// Finds the upstream of a request; one that names none is for `default`, if there is one here,
    /// else for the default of all.
    ///
    /// # Errors
    /// [`RouteError`]; nothing was dialled.
    pub fn route(&self, target: &Target, default: Option<&RegistryName>) -> Result<Found, RouteError> {
        let path = &target.repository;
        let below = path.registry.clone().map(fold_alias).filter(|name| self.upstreams.contains_key(name));
        let named =
            agree([target.prefix.clone().map(fold_alias), below.clone(), target.namespace.clone().map(fold_alias)])?;
        let name = match named {
            Some(name) => name,
            // `first.component/…` without any upstream of that name: not ours to guess at.
            None => match &path.registry {
                Some(unknown) => return Err(RouteError::UnknownUpstream(unknown.clone())),
                None => default.cloned().map_or_else(|| self.default.clone(), fold_alias),
            },
        };
        let upstream = self.upstreams.get(&name).ok_or_else(|| RouteError::UnknownUpstream(name.clone()))?;
        let repository = repository(path, below.is_some()).ok_or(RouteError::InvalidName)?;
        let repository = in_library(&name, repository).ok_or(RouteError::InvalidName)?;
        Ok(Found {
            location: Location { upstream: name, repository },
            upstream: Arc::clone(upstream),
            namespace: target.namespace.clone(),
            waited: Waited::of(upstream.health().gives_nothing()),
        })
    }

    /// The upstream of a request that names none, where its listener has none of its own.
    pub const fn default(&self) -> &RegistryName {
        &self.default
    }

    /// The upstream of this name, by the name that it has here.
    pub fn known(&self, name: RegistryName) -> Option<&RegistryName> {
        self.upstreams.get_key_value(&fold_alias(name)).map(|(name, _)| name)
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &RegistryName) -> Option<Arc<dyn Upstream>> {
        self.upstreams.get(name).cloned()
    }

    /// Finds the upstream of an image as whoever runs the mirror names it.
    ///
    /// # Errors
    /// [`RouteError`]; nothing was dialled.
    pub fn of_image(&self, image: &ImageName) -> Result<Route, RouteError> {
        let name = fold_alias(image.registry.clone());
        let upstream = self.upstreams.get(&name).ok_or_else(|| RouteError::UnknownUpstream(name.clone()))?;
        let repository = in_library(&name, image.repository.clone()).ok_or(RouteError::InvalidName)?;
        let location = Location { upstream: name, repository };
        Ok(Route::of_operator(location, Arc::clone(upstream)))
    }
}

/// The one upstream that all parts of the request name, if any does.
fn agree(names: [Option<RegistryName>; 3]) -> Result<Option<RegistryName>, RouteError> {
    names.into_iter().flatten().try_fold(None, |agreed: Option<RegistryName>, name| match agreed {
        Some(agreed) if agreed != name => Err(RouteError::Contradiction(agreed, name)),
        _ => Ok(Some(name)),
    })
}

fn repository(path: &RepositoryPath, registry_in_path: bool) -> Option<Repository> {
    if registry_in_path { path.below_registry.clone() } else { path.whole.clone() }
}

/// The repository as its registry calls it. Docker Hub knows no capitals, and what it says to them is known.
fn in_library(upstream: &RegistryName, repository: Repository) -> Option<Repository> {
    if upstream.as_str() == HUB && repository.as_str().bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    if upstream.as_str() == HUB && !repository.as_str().contains('/') {
        repository.prefixed("library").ok()
    } else {
        Some(repository)
    }
}

/// Folds Docker Hub's other names into `docker.io`, and leaves out the port that https means anyway.
pub fn fold_alias(name: RegistryName) -> RegistryName {
    let name = name.without_default_port();
    if HUB_ALIASES.contains(&name.as_str()) { HUB.parse().unwrap_or(name) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Request;
    use crate::upstream::offline::Offline;

    fn routes() -> Routes {
        let upstream = |name: &str| -> (RegistryName, Arc<dyn Upstream>) {
            let name: RegistryName = name.parse().expect("valid");
            (name.clone(), Arc::new(Offline::new(name)))
        };
        let names = ["docker.io", "ghcr.io", "registry.example:5000"];
        Routes::new("docker.io".parse().expect("valid"), names.map(upstream))
    }

    fn route(path_and_query: &str) -> Result<String, RouteError> {
        let (path, query) = path_and_query.split_once('?').map_or((path_and_query, None), |(p, q)| (p, Some(q)));
        let request = Request::parse(&http::Method::GET, path, query).expect("a valid request");
        routes().route(request.target().expect("not a ping"), None).map(|found| found.location.to_string())
    }

    #[test]
    fn every_way_to_name_an_upstream_leads_to_the_same_repository() {
        for path in [
            "/v2/nginx/manifests/1",
            "/v2/library/nginx/manifests/1",
            "/v2/docker.io/nginx/manifests/1",
            "/v2/docker.io/library/nginx/manifests/1",
            "/v2/index.docker.io/nginx/manifests/1",
            "/docker.io/v2/nginx/manifests/1",
            "/registry-1.docker.io/v2/library/nginx/manifests/1",
            "/v2/nginx/manifests/1?ns=docker.io",
            "/v2/library/nginx/manifests/1?ns=registry-1.docker.io",
            "/docker.io/v2/nginx/manifests/1?ns=index.docker.io",
        ] {
            assert_eq!(route(path).as_deref(), Ok("docker.io/library/nginx"), "{path}");
        }
        for path in
            ["/v2/owner/app/blobs/x?ns=ghcr.io", "/v2/ghcr.io/owner/app/blobs/x", "/ghcr.io/v2/owner/app/blobs/x"]
        {
            let path = path.replace("blobs/x", "manifests/1");
            assert_eq!(route(&path).as_deref(), Ok("ghcr.io/owner/app"), "{path}");
        }
    }

    #[test]
    fn a_port_belongs_to_the_name_and_library_to_docker_hub() {
        assert_eq!(route("/v2/app/manifests/1?ns=ghcr.io").as_deref(), Ok("ghcr.io/app"));
        assert_eq!(route("/v2/registry.example:5000/app/manifests/1").as_deref(), Ok("registry.example:5000/app"));
        assert_eq!(route("/v2/app/manifests/1?ns=registry.example%3A5000").as_deref(), Ok("registry.example:5000/app"));
        let unknown = RouteError::UnknownUpstream("registry.example".parse().expect("valid"));
        assert_eq!(route("/v2/app/manifests/1?ns=registry.example"), Err(unknown));
    }

    #[test]
    fn a_default_of_the_listener_is_for_requests_that_name_nobody() {
        let ghcr: RegistryName = "ghcr.io".parse().expect("valid");
        for (path, expected) in [
            ("/v2/owner/app/manifests/1", "ghcr.io/owner/app"),
            ("/v2/app/manifests/1", "ghcr.io/app"),
            ("/v2/app/manifests/1?ns=docker.io", "docker.io/library/app"),
            ("/v2/docker.io/app/manifests/1", "docker.io/library/app"),
        ] {
            let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
            let request = Request::parse(&http::Method::GET, path, query).expect("a valid request");
            let route = routes().route(request.target().expect("not a ping"), Some(&ghcr));
            assert_eq!(route.map(|found| found.location.to_string()).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn unknown_and_contradictory_names_are_refused() {
        for path in [
            "/v2/app/manifests/1?ns=169.254.169.254",
            "/v2/app/manifests/1?ns=localhost:22",
            "/v2/evil.example/app/manifests/1",
            "/evil.example/v2/app/manifests/1",
        ] {
            assert!(matches!(route(path), Err(RouteError::UnknownUpstream(_))), "{path}");
        }
        for path in ["/v2/ghcr.io/app/manifests/1?ns=docker.io", "/ghcr.io/v2/docker.io/app/manifests/1"] {
            assert!(matches!(route(path), Err(RouteError::Contradiction(..))), "{path}");
        }
    }

    #[test]
    fn capitals_are_for_the_upstream_to_judge_and_docker_hub_knows_none() {
        assert_eq!(route("/v2/ghcr.io/Org/Model/manifests/1").as_deref(), Ok("ghcr.io/Org/Model"));
        assert_eq!(route("/v2/registry.example:5000/App/manifests/1").as_deref(), Ok("registry.example:5000/App"));
        for path in ["/v2/Org/model/manifests/1", "/v2/docker.io/App/manifests/1", "/v2/App/manifests/1?ns=docker.io"] {
            assert_eq!(route(path), Err(RouteError::InvalidName), "{path}");
        }
    }

    #[test]
    fn with_a_namespace_a_dotted_component_may_be_part_of_the_repository() {
        assert_eq!(route("/v2/my.org/app/manifests/1?ns=ghcr.io").as_deref(), Ok("ghcr.io/my.org/app"));
    }
}
