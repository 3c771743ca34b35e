//! Tokens of upstreams: how long one lives, and the cache.
//!
//! Knows no HTTP: the adapter hands in how to fetch. Truths kept here: one token is fetched once however
//! many requests wait for it; a lifetime counts from our own clock at receipt; who must know what holds now gets
//! none that was asked for before. Rules: distribution's token authentication specification.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::credentials::{Fingerprint, Secret, decode_base64};
use super::limit::within_reason;
use super::{UpstreamError, UpstreamErrorClass};
use crate::clock::Timestamp;
use crate::oci::Repository;

/// What a token lives when nobody says, as the specification has it.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// No shorter lifetime is believed. A token that does die earlier costs one refused request.
const MIN_LIFETIME: Duration = Duration::from_secs(10);
/// No longer lifetime is believed.
const MAX_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// How long a token service that is away is left alone while there is a token that still lives.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// What a token of ours may ever be good for; and how many scopes of a challenge are read.
const READING: [&str; 2] = ["pull", "metadata_read"];
const MOST_NAMED: usize = 4;
/// What all tokens of an upstream may take, in bytes. The one that was used the longest time ago goes first.
const MAX_BYTES: u64 = 4 << 20;
/// What a token takes besides its text and its key, in bytes, roughly.
const OVERHEAD: usize = 256;

/// The scope we ask for first. Computed, because what upstreams propose may be missing or `*`.
pub fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}

/// The same, and what is wanted `beyond` it.
pub fn wider_scope(repository: &Repository, beyond: Option<&str>) -> String {
    let pull = pull_scope(repository);
    beyond.map(|beyond| format!("{pull} {beyond}")).unwrap_or(pull)
}

/// What a challenge names beyond the pull of `repository`. Clients (crane, skopeo, containerd) ask for that beside their
/// own scope: Azure's registries want `metadata_read` for lists, and a façade calls the repository by another
/// name. Like theirs, our token may then be good for the pull of something else there; it goes to that registry alone,
/// which chose that name. Unlike theirs it is never good for more than reading.
pub fn scope_beyond(repository: &Repository, named: &str) -> Option<String> {
    let beyond = named.split_whitespace().take(MOST_NAMED).filter_map(|scope| {
        let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
        let name: Repository = name.parse().ok()?;
        let wanted = |action: &&str| READING.contains(action) && (name != *repository || *action != "pull");
        let actions: Vec<_> = actions.split(',').filter(wanted).collect();
        (!actions.is_empty()).then(|| format!("repository:{name}:{}", actions.join(",")))
    });
    Some(beyond.collect::<Vec<_>>().join(" ")).filter(|beyond| !beyond.is_empty())
}

/// A token and how long it is good for, by our own clock.
#[derive(Clone, Debug)]
pub struct Token {
    /// What goes behind `Bearer`.
    pub secret: Secret,
    /// From here on a new one is fetched.
    pub renew_at: Instant,
    /// Until here it may stand in where no new one can be fetched.
    pub expires_at: Instant,
}

/// Reads the JSON answer of a token service that arrived now, its keys in any case. `None` when there is no token
/// in it.
pub fn parse_token(body: &[u8], now: Timestamp) -> Option<Token> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let get = |wanted: &'static str| {
        let of_key = answer.as_object()?.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(wanted));
        Some(of_key.map(|(_, value)| value))
    };
    let text = |key| get(key)?.filter_map(Value::as_str).find(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token"))?;
    let is_header_text = token.bytes().all(|byte| byte.is_ascii_graphic());
    let told = get("expires_in").and_then(|mut values| values.find_map(seconds)).or_else(|| jwt_lifetime(token, now));
    let lifetime = told.unwrap_or(DEFAULT_LIFETIME).clamp(MIN_LIFETIME, MAX_LIFETIME);
    let received = Instant::now();
    is_header_text.then(|| Token {
        secret: Secret::new(token.to_owned()),
        renew_at: received + lifetime.saturating_sub(margin(lifetime)),
        expires_at: received + lifetime,
    })
}

/// How long before its end a token is renewed: a tenth of its life, and ten seconds where that is
/// no more than half of it.
fn margin(lifetime: Duration) -> Duration {
    (lifetime / 10).max(Duration::from_secs(10).min(lifetime / 2))
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds.clamp(0.0, 1e12)).ok()
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
    /// Whose it is.
    pub identity: Identity,
}

/// Who a token is for. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Everybody.
    Nobody,
    /// Us, by the name of the configured credential.
    Ours(String),
    /// Who presented a credential of his own.
    Of(Fingerprint),
}

#[derive(Default)]
struct Slot {
    /// Held by who fetches.
    fetching: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// How many fetches have ended, to tell who waited for one.
    ended: AtomicU64,
    /// The length of the token, in bytes.
    length: AtomicUsize,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// When that was asked for.
    asked_at: Option<Instant>,
    failure: Option<UpstreamError>,
    /// Until when a token service beside the registry wants rest, as it said with the failure.
    rests_until: Option<Instant>,
}

impl State {
    /// The token, where it is good for who wants one that was asked for `since` then.
    fn good(&self, since: Option<Instant>, now: Instant) -> Option<Secret> {
        let token = self.token.as_ref().filter(|token| since <= self.asked_at && now < token.renew_at);
        token.map(|token| token.secret.clone())
    }

    /// What nobody is asked again for now: who `waited` shares what came, and rest that was wanted is given.
    fn failure(&self, waited: bool, now: Instant) -> Option<UpstreamError> {
        let failure = self.failure.as_ref()?;
        match self.rests_until.filter(|until| now < *until) {
            Some(until) => {
                let class = UpstreamErrorClass::RateLimited(Some(until - now));
                Some(UpstreamError { class, ..failure.clone() })
            }
            None => waited.then(|| failure.clone()),
        }
    }

    /// None came. A token service that is away takes no token away, and who need not know what holds now goes on with
    /// what there is.
    fn failed(&mut self, error: UpstreamError, since: Option<Instant>) -> Result<(Secret, bool), UpstreamError> {
        let now = Instant::now();
        let (token, asked_at) = (self.token.take().filter(|token| now < token.expires_at), self.asked_at);
        let token = token.filter(|_| error.class.is_outage());
        *self = State { token, asked_at, failure: Some(error.clone()), rests_until: None };
        if let Some(token) = self.token.as_mut().filter(|_| since <= asked_at) {
            token.renew_at = now + ASK_AGAIN;
            return Ok((token.secret.clone(), false));
        }
        self.rests_until = match error.class {
            UpstreamErrorClass::RateLimited(wait) if error.elsewhere => Some(now + within_reason(wait)),
            _ => None,
        };
        Err(error)
    }
}

/// The tokens of one upstream, bounded in bytes.
pub struct Tokens {
    slots: Cache<TokenKey, Arc<Slot>>,
}

impl Tokens {
    /// How many tokens are kept.
    pub fn entries(&self) -> u64 {
        self.slots.entry_count()
    }
}

impl Default for Tokens {
    fn default() -> Tokens {
        let slots = Cache::builder()
            .max_capacity(MAX_BYTES)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &TokenKey, slot: &Arc<Slot>| {
                let service = key.service.as_ref().map_or(0, String::len);
                let text = key.realm.len() + service + key.scope.len() + slot.length.load(Ordering::Relaxed);
                u32::try_from(text + OVERHEAD).unwrap_or(u32::MAX)
            })
            .time_to_live(MAX_LIFETIME)
            .build();
        Tokens { slots }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// The token for `key`, asked for `since` then where that matters, and whether this call fetched it. While one call
    /// fetches, the others wait and share what comes, token or failure.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn get<F>(
        &self,
        key: &TokenKey,
        since: Option<Instant>,
        fetch: impl FnOnce() -> F,
    ) -> Result<(Secret, bool), UpstreamError>
    where
        F: Future<Output = Result<Token, UpstreamError>>,
    {
        let slot = self.slot(key);
        // Who may have what is there waits for nobody who fetches.
        let good = || slot.state.lock().good(since, Instant::now());
        if let Some(secret) = good() {
            return Ok((secret, false));
        }
        let ended_before = slot.ended.load(Ordering::SeqCst);
        let fetching = slot.fetching.lock().await;
        if let Some(secret) = good() {
            return Ok((secret, false));
        }
        let waited = slot.ended.load(Ordering::SeqCst) != ended_before;
        if let Some(failure) = slot.state.lock().failure(waited, Instant::now()) {
            return Err(failure);
        }
        let asked_at = Instant::now();
        let fetched = fetch().await;
        slot.ended.fetch_add(1, Ordering::SeqCst);
        let answer = match fetched {
            Ok(token) => {
                let secret = token.secret.clone();
                slot.length.store(secret.expose().len(), Ordering::Relaxed);
                *slot.state.lock() = State { token: Some(token), asked_at: Some(asked_at), ..State::default() };
                Ok((secret, true))
            }
            Err(error) => slot.state.lock().failed(error, since),
        };
        drop(fetching);
        if matches!(answer, Ok((_, true))) {
            // Put in again, so that it is weighed with what it holds now.
            self.slots.insert(key.clone(), slot);
        }
        answer
    }

    /// Drops the token for `key` if it still is `refused`: another request may have put a new one
    /// in its place already.
    pub fn forget(&self, key: &TokenKey, refused: &Secret) {
        let Some(slot) = self.slots.get(key) else { return };
        let mut state = slot.state.lock();
        if state.token.as_ref().is_some_and(|token| token.secret == *refused) {
            state.token = None;
        }
    }

    /// The token for `key`, if there is one that still lives.
    pub fn kept(&self, key: &TokenKey) -> Option<Secret> {
        let slot = self.slots.get(key)?;
        let state = slot.state.lock();
        let token = state.token.as_ref().filter(|token| Instant::now() < token.expires_at);
        token.map(|token| token.secret.clone())
    }

    fn slot(&self, key: &TokenKey) -> Arc<Slot> {
        self.slots.get_with_by_ref(key, Arc::default)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn jwt(claims: &str) -> String {
        format!(r#"{{"access_token":"head.{}.sign"}}"#, URL_SAFE_NO_PAD.encode(claims))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifetime_is_what_was_said_counted_from_now() {
        for (answer, lifetime, renewed) in [
            (r#"{"token":"t","expires_in":300}"#.to_owned(), 300, 270),
            (r#"{"token":"t","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#.to_owned(), 300, 270),
            (r#"{"access_token":"t"}"#.to_owned(), 60, 50),
            (r#"{"Token":"","Access_Token":"t","Expires_In":100}"#.to_owned(), 100, 90),
            (r#"{"token":"","access_token":"t","expires_in":"60"}"#.to_owned(), 60, 50),
            (r#"{"token":"t","expires_in":1}"#.to_owned(), 10, 5),
            (r#"{"token":"t","expires_in":0}"#.to_owned(), 10, 5),
            (r#"{"token":"t","expires_in":-7}"#.to_owned(), 10, 5),
            (r#"{"token":"t","expires_in":1e300}"#.to_owned(), 43_200, 38_880),
            (r#"{"token":"t","expires_in":null}"#.to_owned(), 60, 50),
            (jwt(r#"{"iat":5,"exp":4505}"#), 4500, 4050),
            (jwt(r#"{"exp":1700000100}"#), 100, 90),
            (jwt(r#"{"exp":1600000000}"#), 60, 50),
            (jwt("not json"), 60, 50),
        ] {
            let token = parse_token(answer.as_bytes(), NOW).expect("a token");
            let lives = |until: Instant| until.duration_since(Instant::now()).as_secs();
            assert_eq!((lives(token.expires_at), lives(token.renew_at)), (lifetime, renewed), "{answer}");
        }
    }

    #[test]
    fn a_challenge_is_met_as_far_as_it_wants_to_be_read() {
        let repository = "library/x".parse().expect("a name");
        for (named, beyond) in [
            ("", None),
            ("repository:library/x:pull", None),
            ("repository:library/x:*", None),
            ("repository:library/x:pull,push", None),
            ("registry:catalog:*", None),
            ("repository:Not a Name:pull", None),
            ("repository:library/x:metadata_read", Some("repository:library/x:metadata_read")),
            ("repository:library/x:pull,metadata_read,delete", Some("repository:library/x:metadata_read")),
            ("repository:other/x:pull,push registry:catalog:*", Some("repository:other/x:pull")),
            ("repository:a:pull  repository:b:pull", Some("repository:a:pull repository:b:pull")),
            ("a b c d repository:a:pull", None),
        ] {
            assert_eq!(scope_beyond(&repository, named).as_deref(), beyond, "{named}");
        }
    }

    #[tokio::test]
    async fn what_is_no_token_is_none() {
        for answer in
            ["", "{}", "[]", r#"{"token":7}"#, r#"{"token":""}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":"a b"}"#]
        {
            assert!(parse_token(answer.as_bytes(), NOW).is_none(), "{answer}");
        }
    }

    fn key() -> TokenKey {
        let realm = "https://auth.example/".to_owned();
        TokenKey { realm, service: None, scope: pull_scope(&"a".parse().expect("name")), identity: Identity::Nobody }
    }

    fn token(text: &str) -> Result<Token, UpstreamError> {
        parse_token(format!(r#"{{"token":"{text}"}}"#).as_bytes(), NOW)
            .ok_or_else(|| UpstreamError::new(UpstreamErrorClass::Protocol, "no token"))
    }

    fn away() -> Result<Token, UpstreamError> {
        Err(UpstreamError::new(UpstreamErrorClass::Unavailable, "away"))
    }

    /// What `get` gives when fetching gives `fetched`: the token, and whether it was fetched.
    async fn got(tokens: &Tokens, fetched: Result<Token, UpstreamError>) -> Option<(String, bool)> {
        let (secret, fresh) = tokens.get(&key(), None, || async { fetched }).await.ok()?;
        Some((secret.expose().to_owned(), fresh))
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_until_its_margin_and_stands_in_until_its_end() {
        let tokens = Tokens::default();
        let kept = || Some(("one".to_owned(), false));
        assert_eq!(got(&tokens, token("one")).await, Some(("one".to_owned(), true)));
        tokio::time::advance(Duration::from_secs(49)).await;
        assert_eq!(got(&tokens, token("two")).await, kept());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(got(&tokens, away()).await, kept());
        assert_eq!(got(&tokens, token("two")).await, kept());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(got(&tokens, away()).await, None);
        assert_eq!(got(&tokens, token("two")).await, Some(("two".to_owned(), true)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_must_know_what_holds_now_gets_no_older_token_and_takes_it_from_nobody() {
        let tokens = Tokens::default();
        let since = async |since: Option<Instant>, fetched| {
            let (secret, fresh) = tokens.get(&key(), since, || async { fetched }).await.ok()?;
            Some((secret.expose().to_owned(), fresh))
        };
        let (before, kept) = (Some(Instant::now()), |text: &str| Some((text.to_owned(), false)));
        assert_eq!(since(before, token("one")).await, Some(("one".to_owned(), true)));
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Some(Instant::now());
        assert_eq!(since(before, token("two")).await, kept("one"));
        assert_eq!(since(now, away()).await, None);
        assert_eq!(since(before, away()).await, kept("one"), "it is new enough for others");
        assert_eq!(since(now, token("two")).await, Some(("two".to_owned(), true)));
        assert_eq!(since(now, token("three")).await, kept("two"), "once for each who must know");
        assert_eq!(since(None, token("three")).await, kept("two"));
        tokio::time::advance(Duration::from_secs(1)).await;
        let hangs = std::future::pending::<Result<Token, UpstreamError>>;
        let key = key();
        let asking = tokio::time::timeout(Duration::from_secs(60), tokens.get(&key, Some(Instant::now()), hangs));
        let others = async {
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_secs(1), since(None, token("three"))).await
        };
        assert_eq!(tokio::join!(asking, others).1.ok(), Some(kept("two")), "others do not wait for that");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_service_beside_the_registry_that_wants_rest_is_not_asked_before() {
        for (elsewhere, fetched) in [(true, 1), (false, 3)] {
            let (tokens, fetches) = (Tokens::default(), AtomicU64::new(0));
            let fetch = || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                let class = UpstreamErrorClass::RateLimited(Some(Duration::from_secs(30)));
                Err(UpstreamError::new(class, "rest").elsewhere(elsewhere))
            };
            for left in [30, 20, 10] {
                let error = tokens.get(&key(), None, fetch).await.expect_err("it rests");
                let left = if elsewhere { left } else { 30 };
                assert_eq!(error.class, UpstreamErrorClass::RateLimited(Some(Duration::from_secs(left))));
                tokio::time::advance(Duration::from_secs(10)).await;
            }
            assert_eq!(fetches.load(Ordering::SeqCst), fetched);
            assert_eq!(got(&tokens, token("one")).await, Some(("one".to_owned(), true)));
        }
    }

    #[tokio::test]
    async fn only_the_refused_token_is_forgotten() {
        let tokens = Tokens::default();
        got(&tokens, token("new")).await;
        tokens.forget(&key(), &Secret::new("old".to_owned()));
        assert_eq!(got(&tokens, token("newer")).await, Some(("new".to_owned(), false)));
        tokens.forget(&key(), &Secret::new("new".to_owned()));
        assert_eq!(got(&tokens, token("newer")).await, Some(("newer".to_owned(), true)));
    }

    #[tokio::test]
    async fn made_up_names_do_not_fill_the_memory() {
        let tokens = Tokens::default();
        let long = "t".repeat(4096);
        for number in 0..3000 {
            let key = TokenKey { scope: format!("repository:r{number}:pull"), ..key() };
            tokens.get(&key, None, || async { token(&long) }).await.expect("a token");
        }
        tokens.slots.run_pending_tasks();
        let kept = tokens.slots.weighted_size();
        assert!(kept <= MAX_BYTES && kept > MAX_BYTES / 2, "{kept}");
        assert_eq!(got(&tokens, token("one")).await, Some(("one".to_owned(), true)));
        assert_eq!(got(&tokens, token("two")).await, Some(("one".to_owned(), false)));
    }

    #[tokio::test]
    async fn those_who_wait_for_a_fetch_share_its_failure() {
        let (tokens, fetches) = (Tokens::default(), AtomicU64::new(0));
        let fetch = || async {
            fetches.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            away()
        };
        let key = key();
        let answers = futures_util::future::join_all((0..50).map(|_| tokens.get(&key, None, fetch))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        // Who comes later tries for itself.
        assert!(tokens.get(&key, None, fetch).await.is_err());
        assert_eq!(fetches.load(Ordering::SeqCst), 2);
    }
}
