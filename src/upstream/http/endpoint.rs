//! One address of an upstream, and what it wanted when it was last asked.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use url::Url;

use super::redirect::{RedirectRules, names_private};
use crate::oci::{NameError, Repository};
use crate::upstream::realm::{Realm, authority};
use crate::upstream::settings::{Settings, split_api};

/// How long it is believed that `/v2/` demands nothing, and how long where it did not tell.
const LET_IN: Duration = Duration::from_secs(10 * 60);
const UNTOLD: Duration = Duration::from_secs(10);
/// For so many kinds of questions it is remembered what is wanted beyond the usual.
const MOST_BEYOND: u64 = 1024;
/// So long a token lives for certain.
const ALIVE: Duration = Duration::from_secs(10);

/// What one address wanted when it was last asked, and when that was. Clones are one; whoever asks the same address
/// after us may be given it.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<RwLock<Option<(Demand, Instant)>>>);

/// What an origin wants before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// A token. The realm is one that [`crate::upstream::realm::check_realm`] understood.
    Bearer {
        realm: Realm,
        service: Option<String>,
        /// What it wants beyond the pull of the repository, for this question.
        beyond: Option<String>,
    },
    Basic {
        realm: Option<String>,
    },
}

impl Demand {
    /// The same, for what was wanted beyond the pull of a repository.
    pub(super) fn with(self, beyond: Option<String>) -> Demand {
        match self {
            Demand::Bearer { realm, service, beyond: None } => Demand::Bearer { realm, service, beyond },
            demand => demand,
        }
    }

    /// The same for every question.
    fn of_all(&self) -> Demand {
        match self.clone() {
            Demand::Bearer { realm, service, .. } => Demand::Bearer { realm, service, beyond: None },
            demand => demand,
        }
    }

    /// Whether a client can be told of it: none is sent to a token service that may see no credential.
    pub(super) fn is_for_clients(&self) -> bool {
        match self {
            Demand::Bearer { realm, .. } => realm.trusted,
            Demand::Basic { .. } => true,
        }
    }

    /// Whether the same meets both.
    pub(super) fn is_like(&self, other: &Demand) -> bool {
        matches!((self, other), (Demand::Basic { .. }, Demand::Basic { .. })) || self == other
    }
}

/// What is wanted beyond the pull of a repository.
type Beyond = moka::sync::Cache<(Repository, Kind), String>;

fn nothing_beyond() -> Beyond {
    Beyond::builder().max_capacity(MOST_BEYOND).time_to_live(LET_IN).build()
}

/// What a question is about: `manifests`, `blobs`, `tags`, `referrers`.
pub(super) type Kind = String;

/// One of the addresses of an upstream.
pub(super) struct Endpoint {
    pub(super) url: Url,
    /// Host, and port where it is not the usual one.
    pub(super) origin: String,
    pub(super) rules: RedirectRules,
    /// What stands before `/v2/`.
    base: String,
    /// What stands before every repository name.
    prefix: Option<Repository>,
    wanted: Wanted,
    /// Until when `/v2/` is taken to demand nothing that is to be had.
    let_in: Mutex<Option<Instant>>,
    /// What was wanted beyond the pull of a repository, by that and the kind of the question.
    pub(super) beyond: Beyond,
    /// The token that was fetched last to ask again for what is not there, and until when it lives for certain.
    alive: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Endpoint {
    pub(super) fn new(url: Url, settings: &Settings, wanted: Wanted) -> Endpoint {
        let (base, prefix) = split_api(&url).unwrap_or_default();
        let rules = RedirectRules {
            plain_http: url.scheme() == "http",
            blobs_over_http: settings.redirect_to_http,
            private: settings.allow_private || names_private(&url),
        };
        let origin = authority(&url);
        let (let_in, alive) = (Mutex::default(), Mutex::default());
        let beyond = nothing_beyond();
        Endpoint { url, origin, rules, base, prefix, wanted, let_in, beyond, alive }
    }

    /// What `repository` is called there.
    ///
    /// # Errors
    /// [`NameError::Repository`] when that is longer than a repository may be.
    pub(super) fn name_there(&self, repository: &Repository) -> Result<Repository, NameError> {
        match &self.prefix {
            Some(prefix) => repository.prefixed(prefix.as_str()),
            None => Ok(repository.clone()),
        }
    }

    /// The address of `path` below `/v2/`.
    pub(super) fn address(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/{path}", self.base));
        url
    }

    /// What it wanted last time.
    pub(super) fn demand(&self) -> Option<Demand> {
        self.wanted.0.read().as_ref().map(|(demand, _)| demand.clone())
    }

    /// The same, and how long ago that was.
    pub(super) fn demand_and_age(&self) -> Option<(Demand, Duration)> {
        self.wanted.0.read().as_ref().map(|(demand, at)| (demand.clone(), at.elapsed()))
    }

    pub(super) fn learn(&self, demand: &Demand) {
        *self.wanted.0.write() = Some((demand.of_all(), Instant::now()));
    }

    /// Whether `/v2/` demanded nothing a while ago.
    pub(super) fn let_in_lately(&self) -> bool {
        self.let_in.lock().is_some_and(|until| Instant::now() < until)
    }

    /// `/v2/` demands nothing that is to be had, as it `told`, or as far as is known.
    pub(super) fn lets_in(&self, told: bool) {
        *self.let_in.lock() = Some(Instant::now() + if told { LET_IN } else { UNTOLD });
    }

    /// Whether that something is not there cannot be for the sake of this token.
    pub(super) fn is_alive(&self, token: &HeaderValue) -> bool {
        self.alive.lock().as_ref().is_some_and(|(alive, until)| alive == token && Instant::now() < *until)
    }

    /// This token was fetched just now, and something is not there all the same.
    pub(super) fn lives(&self, token: &HeaderValue) {
        *self.alive.lock() = Some((token.clone(), Instant::now() + ALIVE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_beyond_the_usual_does_not_fill_the_memory() {
        let beyond = nothing_beyond();
        for number in 0..2 * MOST_BEYOND {
            let repository = format!("made-up/{number}").parse().expect("a name");
            beyond.insert((repository, "tags".to_owned()), String::new());
        }
        beyond.run_pending_tasks();
        assert!((1..=MOST_BEYOND).contains(&beyond.entry_count()), "{}", beyond.entry_count());
    }
}
