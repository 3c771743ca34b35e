//! Tokens of OIDC issuers (RFC 7519), judged by the keys that each issuer publishes.
//!
//! Algorithms are those of public keys, and a key is used for its own alone. Keys are fetched once for all who
//! wait, at most once in [`COOL_DOWN`]: when they are old, when a token names one that is not known, and when one
//! has made no signature that it should have made, for issuers replace keys under their names. Keys that cannot be
//! fetched anew stay good for a day.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous};
use parking_lot::Mutex;
use serde::Deserialize;

use super::Unjudged;
use crate::clock::Timestamp;

/// What signatures are made with.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(60);
/// How long keys are used without a look at new ones, at least and at most, whatever their issuer says.
const FRESH: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(3600)];
/// How long they are used when no new ones can be had.
const STALE: Duration = Duration::from_secs(86_400);
/// How long no keys are fetched after an attempt.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// How long fetching them may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys of an issuer that are looked at.
const MOST_KEYS: usize = 100;
/// A longer token is none, in bytes.
const LONGEST: usize = 16 << 10;
/// Base64 with padding or without, and whatever its last digit has left over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whose tokens count, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What it is called in grants, where issuers have names.
    pub name: Option<Arc<str>>,
    /// The claim `iss`, and the address where its description is.
    pub issuer: String,
    /// What a token must be for.
    pub audience: String,
}

/// The keys of an issuer: JSON (RFC 7517), and how long it says that they are good for.
pub type PublishedKeys = (Bytes, Option<Duration>);

/// Fetches them, or says why not.
pub type FetchKeys = Arc<dyn Fn() -> BoxFuture<'static, Result<PublishedKeys, String>> + Send + Sync>;

/// What a token that is right says.
pub(super) struct Claims {
    /// `sub`, behind the name of the issuer.
    pub(super) caller: Arc<str>,
    pub(super) until: Timestamp,
}

/// All issuers.
pub(super) struct Tokens(Vec<Arc<Keyring>>);

struct Keyring {
    issuer: Issuer,
    fetch: FetchKeys,
    keys: Mutex<Keys>,
    /// Held by whoever fetches them.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Keys {
    keys: Arc<Vec<Key>>,
    /// How long they are fresh.
    life: Duration,
    fetched_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
}

impl Keys {
    fn is_within(at: Option<Timestamp>, time: Duration, now: Timestamp) -> bool {
        at.and_then(|at| at.age(now)).is_some_and(|age| age < time)
    }

    /// The keys that a token may be signed with: those of the name that it tells; without a name the only one that
    /// fits.
    fn fitting(&self, Signed { kid, algorithm }: Signed<'_>) -> Vec<&Key> {
        let named = |key: &&Key| kid.is_none() || key.name.as_deref() == kid;
        let fitting: Vec<_> = self.keys.iter().filter(|key| key.fits(algorithm)).filter(named).collect();
        if kid.is_none() && fitting.len() > 1 { Vec::new() } else { fitting }
    }

    /// What a token comes to by these keys.
    fn judge(&self, issuer: &Issuer, token: &str, signed: Signed<'_>, now: Timestamp) -> Judged {
        let mut each = self.fitting(signed).into_iter().map(|key| claims(issuer, token, key, signed.algorithm, now));
        each.find(|judged| !matches!(judged, Judged::NotSigned)).unwrap_or(Judged::NotSigned)
    }
}

/// How a token says that it is signed.
#[derive(Clone, Copy)]
struct Signed<'t> {
    kid: Option<&'t str>,
    algorithm: Algorithm,
}

/// What a token comes to.
enum Judged {
    Right(Claims),
    /// It is signed, and says nothing that counts now.
    Wrong,
    /// None of the keys has signed it.
    NotSigned,
}

/// A key of an issuer.
#[derive(Clone)]
struct Key {
    name: Option<String>,
    /// The one algorithm that it is for, where it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

impl Key {
    /// `None` for one of a kind that we do not know, or that is not for signatures.
    fn read(published: serde_json::Value) -> Option<Key> {
        let published: Jwk = serde_json::from_value(published).ok()?;
        let key = DecodingKey::from_jwk(&published).ok()?;
        let common = published.common;
        let is_for_signatures = common.public_key_use.is_none_or(|for_what| for_what == PublicKeyUse::Signature)
            && common.key_operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = common.key_algorithm.map(|algorithm| algorithm.to_string());
        is_for_signatures.then_some(Key { name: common.key_id, algorithm, key })
    }

    /// Whether signatures of this algorithm are made with it.
    fn fits(&self, algorithm: Algorithm) -> bool {
        let own = self.algorithm.as_ref().is_none_or(|own| *own == format!("{algorithm:?}"));
        own && self.key.family().algorithms().contains(&algorithm)
    }
}

#[derive(Deserialize)]
struct Named {
    iss: String,
}

#[derive(Deserialize)]
struct Said {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<serde_json::Value>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|ring| &ring.issuer)).finish()
    }
}

impl Tokens {
    pub(super) fn new(issuers: Vec<(Issuer, FetchKeys)>) -> Tokens {
        Tokens(Vec::new()).under(issuers)
    }

    /// Those of other issuers; the keys of one that is the same stay.
    pub(super) fn under(&self, issuers: Vec<(Issuer, FetchKeys)>) -> Tokens {
        let ring = |(issuer, fetch)| {
            let known = self.0.iter().find(|ring| ring.issuer == issuer).cloned();
            known.unwrap_or_else(|| {
                let (keys, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
                Arc::new(Keyring { issuer, fetch, keys, fetching })
            })
        };
        Tokens(issuers.into_iter().map(ring).collect())
    }

    /// Whether they are of the same issuers.
    pub(super) fn are_of_the_same(&self, other: &Tokens) -> bool {
        self.0.iter().map(|ring| &ring.issuer).eq(other.0.iter().map(|ring| &ring.issuer))
    }

    /// Whether there is no issuer.
    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this says, however it is written, that it is a token of one of the issuers. What cannot be judged for
    /// its form is ours all the same: nobody else is shown it.
    pub(super) fn are_of_an_issuer(&self, shown: &str) -> bool {
        let names = |bytes: &[u8]| {
            let text = plain(bytes);
            self.0.iter().any(|ring| is_named(&text, &plain(ring.issuer.issuer.as_bytes())))
        };
        !self.are_none() && (names(shown.as_bytes()) || shown.split('.').flat_map(decoded).any(|part| names(&part)))
    }

    fn ring(&self, token: &str) -> Option<&Keyring> {
        if token.len() > LONGEST || token.matches('.').count() != 2 {
            return None;
        }
        let Named { iss } = dangerous::insecure_decode_claims(token).ok()?;
        self.0.iter().map(|ring| &**ring).find(|ring| ring.issuer.issuer == iss)
    }

    /// What a token says, if it is right.
    ///
    /// # Errors
    /// [`Unjudged::NoKeys`].
    pub(super) async fn judge(&self, token: &str, now: Timestamp) -> Result<Option<Claims>, Unjudged> {
        let Some(ring) = self.ring(token) else { return Ok(None) };
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(None) };
        if !ALGORITHMS.contains(&header.alg) {
            return Ok(None);
        }
        let signed = Signed { kid: header.kid.as_deref(), algorithm: header.alg };
        let keys = ring.keys(&|keys| !keys.fitting(signed).is_empty(), now).await?;
        let mut judged = keys.judge(&ring.issuer, token, signed, now);
        if matches!(judged, Judged::NotSigned) && !keys.fitting(signed).is_empty() {
            // Another one may be called so by now.
            let anew = ring.keys(&|anew| anew.fetched_at != keys.fetched_at, now).await?;
            judged = anew.judge(&ring.issuer, token, signed, now);
        }
        Ok(match judged {
            Judged::Right(claims) => Some(claims),
            Judged::Wrong | Judged::NotSigned => None,
        })
    }
}

/// What part of a token may stand for: in either alphabet, with or without padding, and whatever stands before it.
fn decoded(part: &str) -> impl Iterator<Item = Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'+' | b'/' => Some(byte),
        byte => byte.is_ascii_alphanumeric().then_some(byte),
    };
    let digits: Vec<u8> = part.bytes().filter_map(digit).collect();
    (0..4.min(digits.len())).filter_map(move |start| {
        let digits = &digits[start..];
        // One digit alone stands for nothing.
        LENIENT.decode(&digits[..digits.len() - usize::from(digits.len() % 4 == 1)]).ok()
    })
}

/// Text without what JSON lets one write in another way, in small letters.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = rest.next() {
        let code =
            |rest: &str| u32::from_str_radix(rest.strip_prefix('u')?.get(..4)?, 16).ok().and_then(char::from_u32);
        match c {
            '\\' => {
                if let Some(escaped) = code(rest.as_str()) {
                    plain.push(escaped);
                    rest.nth(4);
                }
            }
            '\0' => {}
            c => plain.push(c),
        }
    }
    plain.make_ascii_lowercase();
    plain
}

/// Whether a text names an issuer, with blanks and slashes behind it or without, and not another one that begins like
/// it.
fn is_named(text: &str, issuer: &str) -> bool {
    let issuer = issuer.trim_end_matches('/');
    text.match_indices(issuer).any(|(at, _)| {
        let behind = text[at + issuer.len()..].trim_start_matches(|c: char| c == '/' || c.is_whitespace());
        !behind.starts_with(|c: char| c.is_alphanumeric() || "._-:%~".contains(c))
    })
}

impl Keyring {
    /// The keys, fetched anew where they are old or not `good`, if that was not tried a moment ago.
    async fn keys(&self, good: &(impl Fn(&Keys) -> bool + Sync), now: Timestamp) -> Result<Keys, Unjudged> {
        let mut keys = self.keys.lock().clone();
        let good = |keys: &Keys| Keys::is_within(keys.fetched_at, keys.life, now) && good(keys);
        if !good(&keys) {
            let fetched = tokio::time::timeout(PATIENCE, self.fetched(&good, now)).await;
            keys = fetched.unwrap_or_else(|_| self.keys.lock().clone());
        }
        if !Keys::is_within(keys.fetched_at, STALE, now) {
            return Err(Unjudged::NoKeys(self.issuer.issuer.clone()));
        }
        Ok(keys)
    }

    /// The keys after one attempt to fetch them, or none if there was one a moment ago.
    async fn fetched(&self, good: &impl Fn(&Keys) -> bool, now: Timestamp) -> Keys {
        let _fetching = self.fetching.lock().await;
        let keys = self.keys.lock().clone();
        if good(&keys) || Keys::is_within(keys.tried_at, COOL_DOWN, now) {
            return keys;
        }
        self.keys.lock().tried_at = Some(now);
        let published = (self.fetch)().await.and_then(|(json, good_for)| {
            let read = serde_json::from_slice::<Published>(&json);
            Ok((read.map_err(|error| format!("its keys cannot be read: {error}"))?.keys, good_for))
        });
        match published {
            Ok((keys, good_for)) => {
                // Those of a kind that we do not know are left out.
                let known = keys.into_iter().take(MOST_KEYS).filter_map(Key::read);
                let [least, most] = FRESH;
                let life = good_for.map_or(most, |time| time.clamp(least, most));
                let keys = Keys { keys: Arc::new(known.collect()), life, fetched_at: Some(now), tried_at: Some(now) };
                *self.keys.lock() = keys.clone();
                keys
            }
            Err(error) => {
                tracing::warn!(issuer = %self.issuer.issuer, error, "the keys of an issuer cannot be had");
                self.keys.lock().clone()
            }
        }
    }
}

/// What a token comes to that is to be signed with this key, for us, and now.
fn claims(issuer: &Issuer, token: &str, key: &Key, algorithm: Algorithm, now: Timestamp) -> Judged {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[&issuer.audience]);
    validation.set_issuer(&[&issuer.issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // By our own clock, below.
    validation.validate_exp = false;
    let Said { sub, exp, nbf } = match jsonwebtoken::decode(token, &key.key, &validation) {
        Ok(said) => said.claims,
        Err(error) if *error.kind() == ErrorKind::InvalidSignature => return Judged::NotSigned,
        Err(_) => return Judged::Wrong,
    };
    let at = |seconds: f64| Timestamp((seconds.clamp(0.0, 1e13) * 1000.0) as u64);
    let until = at(exp).plus(LEEWAY);
    if sub.is_empty() || now >= until || nbf.is_some_and(|nbf| now.plus(LEEWAY) < at(nbf)) {
        return Judged::Wrong;
    }
    let caller = issuer.name.as_ref().map_or_else(|| sub.as_str().into(), |name| format!("{name}:{sub}").into());
    Judged::Right(Claims { caller, until })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_token_of_an_issuer_is_known_however_it_is_written() {
        let issuer = Issuer { name: None, issuer: "https://Ci.example/".to_owned(), audience: "x".to_owned() };
        let fetch: FetchKeys = Arc::new(|| Box::pin(std::future::ready(Err(String::new()))));
        let tokens = Tokens::new(vec![(issuer, fetch)]);
        let payload = r#"{"iss":"https://ci.example","z":"???>>>~~~"}"#;
        let plain = URL_SAFE_NO_PAD.encode(payload);
        let utf16: Vec<u8> = payload.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let whole = |payload: &[u8]| format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        for shown in [
            format!("e30.{plain}.sig"),
            format!("e30.{plain}"),
            format!("e30.{plain}.sig.more"),
            format!("{plain}.a.b.c.d"),
            plain.clone(),
            format!("Bearer {plain}"),
            format!("x{plain}"),
            format!("e30.{}.sig", URL_SAFE.encode(payload)),
            format!("e30.{}.sig", STANDARD.encode(payload)),
            payload.to_owned(),
            whole(br#"{"iss":"x","iss":"https://ci.example"}"#),
            whole(br#"{"iss":"https://ci.example","iss":"x"}"#),
            whole(br#"{"iss":["https://ci.example"]}"#),
            whole(b"\xef\xbb\xbf{\"iss\":\"https://ci.example\"}"),
            whole(b"{\"iss\":\"https://ci.example\",\"a\":\"\xff\"}x"),
            whole(br#"{"iss":"https:\/\/ci.example"}"#),
            whole(br#"{"iss":"\u0068ttps://ci.exampl\u0065"}"#),
            whole(br#"{"iss":"https://ci.example// "}"#),
            whole(br#"{"iss":"HTTPS://CI.EXAMPLE"}"#),
            whole(&utf16),
            whole(format!("{payload}{}", "x".repeat(20_000)).as_bytes()),
        ] {
            assert!(tokens.are_of_an_issuer(&shown), "{shown}");
        }
        for other in [
            String::new(),
            ".".to_owned(),
            "hunter2".to_owned(),
            "dckr_pat_x.y_z".to_owned(),
            whole(br#"{"iss":"https://ci.example.org"}"#),
            whole(br#"{"iss":"https://ci.example:8443"}"#),
            whole(br#"{"iss":"https://ci.example/realms/a"}"#),
            whole(br#"{"iss":"https://other.example"}"#),
        ] {
            assert!(!tokens.are_of_an_issuer(&other), "{other}");
        }
        assert!(!Tokens::new(Vec::new()).are_of_an_issuer(&plain), "of none");
    }
}
