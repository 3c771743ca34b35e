//! Tokens of upstreams: who may be asked for one, how long one lives, and the cache.
//!
//! Knows no HTTP: the adapter hands in how to fetch. Truths kept here: a credential goes only to a
//! token service that [`check_realm`] lets through; one token is fetched once however many requests
//! wait for it; a lifetime counts from our own clock at receipt. Rules: distribution's token
//! authentication specification, and the realm advisories of 2026.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use url::{Host, Url};

use super::UpstreamError;
use super::credentials::{Secret, decode_base64};
use crate::clock::Timestamp;
use crate::oci::Repository;

/// What a token lives when nobody says, as the specification has it.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// No shorter lifetime is believed. A token that does die earlier costs one refused request.
const MIN_LIFETIME: Duration = Duration::from_secs(10);
/// No longer lifetime is believed.
const MAX_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Above so many tokens, dead ones are swept out.
const SWEEP_AT: usize = 1024;

/// Why a token service is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmError {
    /// Not an absolute http or https address.
    #[error("the upstream names a token service whose address is not valid")]
    Malformed,
    /// It carries a user or a password.
    #[error("the upstream names a token service at {0} with a user name in its address")]
    UserInfo(String),
    /// It is plain http while the upstream is https.
    #[error("the upstream is https but names a token service at {0} over plain http")]
    PlainHttp(String),
    /// Another site than the upstream's.
    #[error(
        "the upstream names a token service at {0}, which is another site; \
         if it is the right one, add \"{0}\" to auth_realms of this upstream"
    )]
    Foreign(String),
}

/// Reads the `realm` of a challenge by `upstream` and decides whether it may be asked for tokens:
/// its host is the upstream's, or of the same registrable domain, or one of `allowed`. Addresses and
/// `localhost` have no domain and must be equal. The port may differ.
///
/// # Errors
/// See [`RealmError`]; the messages name the host and nothing else of the realm.
pub fn check_realm(upstream: &Url, realm: &str, allowed: &[String]) -> Result<Url, RealmError> {
    let realm = Url::parse(realm).map_err(|_| RealmError::Malformed)?;
    let host = realm.host_str().unwrap_or_default().to_owned();
    if host.is_empty() || !matches!(realm.scheme(), "https" | "http") {
        return Err(RealmError::Malformed);
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(RealmError::UserInfo(host));
    }
    if upstream.scheme() == "https" && realm.scheme() != "https" {
        return Err(RealmError::PlainHttp(host));
    }
    if same_site(upstream, &realm) || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host)) {
        return Ok(realm);
    }
    Err(RealmError::Foreign(host))
}

fn same_site(one: &Url, other: &Url) -> bool {
    match (one.host(), other.host()) {
        (Some(one), Some(other)) if one == other => true,
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            let absolute = one.ends_with('.') || other.ends_with('.');
            !absolute && psl::domain_str(one).is_some_and(|domain| psl::domain_str(other) == Some(domain))
        }
        _ => false,
    }
}

/// The scope we ask for. Computed, because what upstreams propose may be missing or `*`.
pub fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}

/// A token, and the moment from which it is not used any more.
#[derive(Clone, Debug)]
pub struct Token {
    /// What goes behind `Bearer`.
    pub secret: Secret,
    /// Our clock, margin taken off.
    pub dead_at: Instant,
}

/// Reads the JSON answer of a token service that arrived now. `None` when there is no token in it.
pub fn parse_token(body: &[u8], now: Timestamp) -> Option<Token> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token"))?;
    let is_header_text = token.bytes().all(|byte| byte.is_ascii_graphic());
    let told = answer.get("expires_in").and_then(seconds).or_else(|| jwt_lifetime(token, now));
    is_header_text.then(|| Token {
        secret: Secret::new(token.to_owned()),
        dead_at: Instant::now() + usable(told.unwrap_or(DEFAULT_LIFETIME)),
    })
}

/// How long a token of this lifetime is used: a tenth less, and ten seconds less where the lifetime
/// is long enough for that.
fn usable(lifetime: Duration) -> Duration {
    let lifetime = lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME);
    let margin = (lifetime / 10).max(Duration::from_secs(10).min(lifetime / 2));
    lifetime.saturating_sub(margin)
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds.clamp(0.0, 1e9)).ok()
}

/// The lifetime that a JWT tells of itself. Between its own two stamps if it has both, because its
/// issuer's clock need not be ours. Nothing else of it is read, and nothing is believed of it.
fn jwt_lifetime(token: &str, now: Timestamp) -> Option<Duration> {
    let payload = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&decode_base64(payload)?).ok()?;
    let claim = |key: &str| claims.get(key).and_then(seconds);
    let from = claim("iat").or_else(|| claim("nbf")).unwrap_or(Duration::from_millis(now.0));
    claim("exp")?.checked_sub(from)
}

/// What a token is good for. Tokens are kept per upstream, so the upstream is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The address of the token service.
    pub realm: String,
    /// The registry as the token service calls it.
    pub service: Option<String>,
    /// What the token allows.
    pub scope: String,
    /// Who we are: a user name, or nobody. Never a secret.
    pub identity: Option<String>,
}

#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<State>,
    /// How many fetches have ended, to tell who waited for one.
    ended: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failure: Option<UpstreamError>,
}

/// The tokens of one upstream.
#[derive(Default)]
pub struct Tokens {
    slots: Mutex<HashMap<TokenKey, Arc<Slot>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// The token for `key`, and whether this call fetched it. While one call fetches, the others
    /// wait and share what comes, token or failure.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn get<F>(&self, key: &TokenKey, fetch: impl FnOnce() -> F) -> Result<(Secret, bool), UpstreamError>
    where
        F: Future<Output = Result<Token, UpstreamError>>,
    {
        use std::sync::atomic::Ordering::SeqCst;
        let slot = self.slot(key);
        let ended_before = slot.ended.load(SeqCst);
        let mut state = slot.state.lock().await;
        if let Some(token) = state.token.as_ref().filter(|token| Instant::now() < token.dead_at) {
            return Ok((token.secret.clone(), false));
        }
        let waited = slot.ended.load(SeqCst) != ended_before;
        if let Some(failure) = state.failure.as_ref().filter(|_| waited) {
            return Err(failure.clone());
        }
        let fetched = fetch().await;
        slot.ended.fetch_add(1, SeqCst);
        match fetched {
            Ok(token) => {
                let secret = token.secret.clone();
                *state = State { token: Some(token), failure: None };
                Ok((secret, true))
            }
            Err(error) => {
                *state = State { token: None, failure: Some(error.clone()) };
                Err(error)
            }
        }
    }

    /// Drops the token for `key` if it still is `refused`: another request may have put a new one
    /// in its place already.
    pub async fn forget(&self, key: &TokenKey, refused: &Secret) {
        let slot = self.slot(key);
        let mut state = slot.state.lock().await;
        if state.token.as_ref().is_some_and(|token| token.secret == *refused) {
            state.token = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if slots.len() >= SWEEP_AT && !slots.contains_key(key) {
            let now = Instant::now();
            let lives = |state: &State| state.token.as_ref().is_some_and(|token| now < token.dead_at);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.state.try_lock().is_ok_and(|s| lives(&s)));
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
