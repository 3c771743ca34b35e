//! Who asks: what a request or its connection shows is judged here, and becomes a [`Caller`].
//!
//! A verdict is remembered for a minute under a keyed hash of what was shown, which tells nothing of it, so
//! that a pull is judged once. Judging waits its turn among the addresses that want it. Nothing that was shown
//! is logged or kept.

pub mod certificate;
mod passwords;
mod tokens;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use moka::sync::Cache;
use zeroize::Zeroizing;

pub use passwords::{Passwords, PasswordsError};
pub use tokens::{FetchKeys, Issuer, PublishedKeys};

use crate::access::{self, Caller, Holder};
use crate::clients::ClientId;
use crate::clock::{Clock, Timestamp};
use tokens::{Claims, Tokens};

/// How long a verdict holds.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many verdicts are remembered.
const MOST_REMEMBERED: u64 = 10_000;

/// Judges what callers show.
pub struct Authenticator {
    passwords: Option<Arc<Passwords>>,
    tokens: Tokens,
    /// Whether callers show something for upstreams, which is not ours to judge.
    passes: bool,
    /// What opens another door of ours.
    kept: Option<Sealed>,
    key: hmac::Key,
    known: Cache<Sealed, Known>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// What was shown, by its keyed hash: good for comparing, and for nothing else.
type Sealed = [u8; 32];

/// A verdict, as long as it holds.
#[derive(Clone)]
struct Known {
    verdict: Verdict,
    until: Option<Timestamp>,
}

/// What a request shows.
pub struct Presented {
    what: What,
    sealed: Sealed,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").finish_non_exhaustive()
    }
}

enum What {
    Password {
        user: String,
        password: Zeroizing<String>,
    },
    Token(Zeroizing<String>),
    /// Nothing that we know.
    Odd,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is his.
    Is(Caller),
    /// It is not right.
    Wrong,
}

/// It cannot be judged now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    /// Too many others want to be judged.
    #[error("this mirror is judging as many logins as it can; try again in a moment")]
    Busy,
    /// The keys of an issuer cannot be had.
    #[error("tokens of {0} cannot be judged now: its keys cannot be had")]
    NoKeys(String),
}

impl Authenticator {
    /// Judges passwords of this file, and tokens of these issuers, whose keys are fetched by the function beside each.
    /// With `passes` callers show something for upstreams, too.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn new(
        passwords: Option<Passwords>,
        issuers: Vec<(Issuer, FetchKeys)>,
        passes: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Authenticator, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        let known = memory();
        let passwords = passwords.map(Arc::new);
        Ok(Authenticator { passwords, tokens: Tokens::new(issuers), passes, kept: None, key, known, clock })
    }

    /// The same, which shows this secret to no upstream either: it opens another door of ours.
    #[must_use]
    pub fn keeping(mut self, secret: Option<&str>) -> Authenticator {
        self.kept = secret.map(|secret| self.sealed_text(secret));
        self
    }

    /// The same for other passwords and issuers: who somebody is by hashes stays, and so do the keys of an issuer that
    /// is the same. What was judged is forgotten where anything is other than it was.
    #[must_use]
    pub fn under(
        &self,
        passwords: Option<Passwords>,
        issuers: Vec<(Issuer, FetchKeys)>,
        passes: bool,
    ) -> Authenticator {
        let same_passwords = self.passwords.as_deref() == passwords.as_ref();
        let tokens = self.tokens.under(issuers);
        let known = if same_passwords && tokens.are_of_the_same(&self.tokens) { self.known.clone() } else { memory() };
        let passwords = if same_passwords { self.passwords.clone() } else { passwords.map(Arc::new) };
        let (key, clock) = (self.key.clone(), Arc::clone(&self.clock));
        Authenticator { passwords, tokens, passes, kept: self.kept, key, known, clock }
    }

    /// Whether it judges the same passwords.
    pub fn has_the_passwords_of(&self, other: &Authenticator) -> bool {
        self.passwords == other.passwords
    }

    /// What a request shows; `None` where it shows nothing, or where nobody can say who he is like that.
    pub fn presented(&self, headers: &HeaderMap) -> Option<Presented> {
        if self.passwords.is_none() && self.tokens.are_none() && !self.passes {
            return None;
        }
        let what = read(headers.get(AUTHORIZATION)?).unwrap_or(What::Odd);
        // What podman and skopeo send to whoever asks for a login, where they have none.
        if matches!(&what, What::Password { user, password } if user.is_empty() && password.is_empty()) {
            return None;
        }
        Some(Presented { sealed: self.sealed(&what), what })
    }

    /// How many verdicts are remembered.
    pub fn table(&self) -> (&'static str, u64) {
        ("verdicts", self.known.entry_count())
    }

    /// What of it is for an upstream: nothing that is ours to judge, right or wrong, ever goes to one.
    pub fn own(&self, presented: &Presented) -> Option<access::Presented> {
        let is_ours = |text: &str| self.tokens.are_of_an_issuer(text) || self.is_kept(text);
        let credential = match &presented.what {
            What::Odd => return None,
            _ if !self.passes => return None,
            What::Token(token) if is_ours(token) => return None,
            What::Password { user, password } if is_ours(user) || is_ours(password) => return None,
            What::Password { user, .. } if self.passwords.as_ref().is_some_and(|ours| ours.know(user)) => return None,
            What::Token(token) => access::Credential::Token(token.clone()),
            What::Password { user, password } => {
                access::Credential::Password { user: user.clone(), password: password.clone() }
            }
        };
        Some(access::Presented { credential: Some(credential), fingerprint: presented.sealed })
    }

    /// By which grants of a caller who is known are found.
    pub fn holder(&self, caller: &Caller) -> Holder {
        let mut holder = [0; 32];
        let tag = hmac::sign(&self.key, caller.to_string().as_bytes());
        holder.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        holder
    }

    /// The verdict, if it was given before and still holds.
    pub fn known(&self, presented: &Presented) -> Option<Verdict> {
        if matches!(presented.what, What::Odd) {
            return Some(Verdict::Wrong);
        }
        let Known { verdict, until } = self.known.get(&presented.sealed)?;
        until.is_none_or(|until| self.clock.now() < until).then_some(verdict)
    }

    /// The verdict; whoever asks from `client` waits for it in his turn.
    ///
    /// # Errors
    /// [`Unjudged`].
    pub async fn judge(&self, presented: &Presented, client: ClientId) -> Result<Verdict, Unjudged> {
        if let Some(verdict) = self.known(presented) {
            return Ok(verdict);
        }
        match &presented.what {
            What::Odd => Ok(Verdict::Wrong),
            What::Token(token) => self.judge_token(token, presented.sealed).await,
            What::Password { password, .. } if self.tokens.are_of_an_issuer(password) => {
                self.judge_token(password, presented.sealed).await
            }
            What::Password { user, password } => {
                let Some(passwords) = &self.passwords else { return Ok(Verdict::Wrong) };
                // Who waits beside others with the same password need not have it judged again.
                let turn = passwords.turn(client).await.ok_or(Unjudged::Busy)?;
                if let Some(verdict) = self.known(presented) {
                    return Ok(verdict);
                }
                let right = passwords.are(user, password, turn).await;
                let verdict = if right { Verdict::Is(Caller::User(user.as_str().into())) } else { Verdict::Wrong };
                self.known.insert(presented.sealed, Known { verdict: verdict.clone(), until: None });
                Ok(verdict)
            }
        }
    }

    async fn judge_token(&self, token: &str, sealed: Sealed) -> Result<Verdict, Unjudged> {
        let Some(Claims { caller, until }) = self.tokens.judge(token, self.clock.now()).await? else {
            return Ok(Verdict::Wrong);
        };
        let verdict = Verdict::Is(Caller::Token(caller));
        self.known.insert(sealed, Known { verdict: verdict.clone(), until: Some(until) });
        Ok(verdict)
    }

    /// By which limits and turns go for a caller.
    pub fn client_of(&self, caller: &Caller) -> ClientId {
        let [a, b, c, d, e, f, g, h, ..] = self.holder(caller);
        ClientId::Caller(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Whether it is what is kept. Told by keyed hashes in constant time, which tells nothing of it.
    fn is_kept(&self, shown: &str) -> bool {
        self.kept.is_some_and(|kept| verify_slices_are_equal(&kept, &self.sealed_text(shown)).is_ok())
    }

    fn sealed_text(&self, text: &str) -> Sealed {
        self.sealed(&What::Token(Zeroizing::new(text.to_owned())))
    }

    fn sealed(&self, what: &What) -> Sealed {
        let mut context = hmac::Context::with_key(&self.key);
        match what {
            What::Password { user, password } => {
                context.update(b"p");
                context.update(&(user.len() as u64).to_le_bytes());
                context.update(user.as_bytes());
                context.update(password.as_bytes());
            }
            What::Token(token) => {
                context.update(b"t");
                context.update(token.as_bytes());
            }
            What::Odd => {}
        }
        let mut sealed = [0; 32];
        sealed.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        sealed
    }
}

fn memory() -> Cache<Sealed, Known> {
    Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build()
}

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// `Basic` (RFC 7617) and `Bearer` (RFC 6750).
fn read(line: &HeaderValue) -> Option<What> {
    let (scheme, rest) = line.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        let is_one = rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        return is_one.then(|| What::Token(Zeroizing::new(rest.to_owned())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Zeroizing::new(STANDARD.decode(rest).ok()?);
    let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some(What::Password { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn made_up_credentials_do_not_fill_the_memory() {
        let judge = Authenticator::new(None, Vec::new(), true, Arc::new(SystemClock)).expect("random bytes");
        for number in 0..2 * MOST_REMEMBERED {
            let mut sealed = [0; 32];
            sealed[..8].copy_from_slice(&number.to_le_bytes());
            judge.known.insert(sealed, Known { verdict: Verdict::Wrong, until: None });
        }
        judge.known.run_pending_tasks();
        assert!((1..=MOST_REMEMBERED).contains(&judge.table().1), "{}", judge.table().1);
    }
}
