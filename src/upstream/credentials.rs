//! Credentials for upstreams: what they are and where they come from.
//!
//! A [`CredentialSource`] is asked only after an upstream has demanded something, per origin (host
//! and port) and repository, so that a credential found by host name goes to that host. Secrets
//! print as `***` and are wiped when dropped. What is found is remembered for a minute, what a program
//! says for a registry and not for each of its repositories.

mod auth;
mod docker_config;
mod helper;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, Engine as _};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::auth::{Auth, AuthError};
use self::helper::Helpers;
use crate::oci::Repository;
use crate::setting_file;

/// How long a found credential is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long a failure is remembered, and how old a refused credential must be to be looked up anew.
const SETTLED: Duration = Duration::from_secs(10);
/// Above so many answers, all are forgotten.
const MAX_REMEMBERED: usize = 1024;

/// A password or a token. Prints as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The secret itself, for building a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who we are to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nobody.
    Anonymous,
    /// A user with a password.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, which the token service turns into access tokens (OAuth2).
    IdentityToken(Secret),
    /// An access token, ready to be shown to the registry; no token service is asked.
    RegistryToken(Secret),
}

impl Credential {
    /// A name for the identity that is no secret; `None` for nobody.
    pub fn identity(&self) -> Option<String> {
        match self {
            Credential::Anonymous => None,
            Credential::Basic { user, .. } => Some(format!("user {user}")),
            Credential::IdentityToken(_) => Some("identity token".to_owned()),
            Credential::RegistryToken(_) => Some("registry token".to_owned()),
        }
    }

    /// A user and a password; an empty pair is nobody, and the user name `<token>` marks a refresh
    /// token in answers of credential helpers.
    fn from_pair(user: &str, password: String) -> Credential {
        match user {
            "" if password.is_empty() => Credential::Anonymous,
            "<token>" => Credential::IdentityToken(Secret::new(password)),
            _ => Credential::Basic { user: user.to_owned(), password: Secret::new(password) },
        }
    }
}

/// Which credential it is, without saying what it says: a keyed hash of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A credential that is not the configured one: that of somebody who asks through us, or nobody's.
#[derive(Clone, Debug)]
pub struct Presented {
    /// What is shown.
    pub credential: Credential,
    /// By which what comes of it is kept; `None` for nobody's.
    pub fingerprint: Option<Fingerprint>,
    /// When it must have been good, where it is shown for a token: one that was asked for before is asked for anew.
    pub since: Option<Instant>,
}

impl Presented {
    /// Nobody's.
    pub const NOBODY: Presented = Presented { credential: Credential::Anonymous, fingerprint: None, since: None };
}

/// Why a credential could not be looked up. No message contains a part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read the credential file {path}: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why, as the system says it.
        reason: String,
    },
    /// The file is not what it should be.
    #[error("the credential file {path} is not valid: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is expected, or where it stops being valid.
        reason: String,
    },
    /// The program could not be run, failed, or took longer than ten seconds.
    #[error("docker-credential-{helper} {reason}")]
    Helper {
        /// The name of the helper, without the prefix.
        helper: String,
        /// What happened.
        reason: String,
    },
}

/// Looks up credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// The credential for `repository` at `origin`, a host with an optional port such as
    /// `registry-1.docker.io` or `registry.example:5000`.
    ///
    /// # Errors
    /// When the source is broken. Finding nothing is [`Credential::Anonymous`].
    async fn credential(&self, origin: &str, repository: &Repository) -> Result<Credential, CredentialError>;

    /// The upstream refused what was found; it should be looked up anew.
    async fn refused(&self, origin: &str, repository: &Repository);

    /// Why nothing could be looked up the last time, if that was so.
    fn broken(&self) -> Option<CredentialError> {
        None
    }
}

enum Place {
    Nowhere,
    DockerConfig(Vec<docker_config::Logins>, Helpers),
    Helper(String, Helpers),
    File(PathBuf),
}

impl Place {
    async fn look(&self, origin: &str, repository: &Repository) -> Result<Credential, CredentialError> {
        match self {
            Place::Nowhere => Ok(Credential::Anonymous),
            Place::DockerConfig(places, helpers) => docker_config::look_up(places, helpers, origin, repository).await,
            Place::Helper(name, helpers) => helpers.get(name, docker_config::server_url(origin)).await,
            Place::File(path) => user_and_password(path).await,
        }
    }

    /// Forgets what programs said for `origin`.
    async fn refused(&self, origin: &str) {
        if let Place::DockerConfig(_, helpers) | Place::Helper(_, helpers) = self {
            helpers.forget(docker_config::server_url(origin)).await;
        }
    }
}

async fn user_and_password(path: &Path) -> Result<Credential, CredentialError> {
    let text = read(path).await?;
    let (user, password) = pair_of_file(path, &text)?;
    Ok(Credential::from_pair(user, password.to_owned()))
}

/// The user and the password of a file that holds nothing else.
pub(super) fn pair_of_file<'a>(path: &Path, text: &'a str) -> Result<(&'a str, &'a str), CredentialError> {
    let invalid = || CredentialError::Invalid { path: path.to_owned(), reason: "expected user:password".to_owned() };
    let (user, password) = text.lines().next().and_then(|line| line.split_once(':')).ok_or_else(invalid)?;
    if user.is_empty() || text.lines().skip(1).any(|line| !line.trim().is_empty()) {
        return Err(invalid());
    }
    Ok((user, password))
}

async fn read(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let wanted = path.to_owned();
    let read = tokio::task::spawn_blocking(move || setting_file::text(&wanted).map_err(|error| error.to_string()));
    let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
    read.map_err(|reason| CredentialError::Unreadable { path: path.to_owned(), reason })
}

/// What was found, and when.
struct Answer {
    at: Instant,
    found: Result<Credential, CredentialError>,
}

impl Answer {
    fn now(found: &Result<Credential, CredentialError>) -> Answer {
        Answer { at: Instant::now(), found: found.clone() }
    }

    fn holds(&self) -> bool {
        self.at.elapsed() < if self.found.is_ok() { REMEMBERED } else { SETTLED }
    }
}

struct Remembering {
    place: Place,
    answers: Mutex<HashMap<Subject, Answer>>,
    broken: parking_lot::Mutex<Option<CredentialError>>,
}

/// What a credential is for: an origin, and a repository where that makes a difference.
type Subject = (String, Option<Repository>);

impl Remembering {
    fn new(place: Place) -> Remembering {
        Remembering { place, answers: Mutex::default(), broken: parking_lot::Mutex::default() }
    }

    fn subject(&self, origin: &str, repository: &Repository) -> Subject {
        let by_repository = matches!(self.place, Place::DockerConfig(..));
        (origin.to_owned(), by_repository.then(|| repository.clone()))
    }
}

#[async_trait]
impl CredentialSource for Remembering {
    async fn credential(&self, origin: &str, repository: &Repository) -> Result<Credential, CredentialError> {
        if let Place::Nowhere = self.place {
            return Ok(Credential::Anonymous);
        }
        // Held while looking, so that a hundred requests start one helper and not a hundred.
        let mut answers = self.answers.lock().await;
        let key = self.subject(origin, repository);
        if let Some(answer) = answers.get(&key).filter(|answer| answer.holds()) {
            return answer.found.clone();
        }
        let found = self.place.look(origin, repository).await;
        if let Err(error) = &found {
            tracing::warn!(%error, "no credential for {origin} just now; what is public there is pulled without one");
        }
        *self.broken.lock() = found.as_ref().err().cloned();
        if answers.len() >= MAX_REMEMBERED {
            answers.clear();
        }
        answers.insert(key, Answer::now(&found));
        found
    }

    async fn refused(&self, origin: &str, repository: &Repository) {
        let mut answers = self.answers.lock().await;
        let key = self.subject(origin, repository);
        if answers.get(&key).is_some_and(|answer| answer.at.elapsed() >= SETTLED) {
            answers.remove(&key);
            self.place.refused(origin).await;
        }
    }

    fn broken(&self) -> Option<CredentialError> {
        self.broken.lock().clone()
    }
}

/// `user:password` in base64, as Basic authentication wants it.
pub(super) fn encoded_pair(user: &str, password: &Secret) -> Secret {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    Secret::new(STANDARD.encode(pair.as_bytes()))
}

/// Decodes base64 of the common or the URL alphabet, padded or not, as those who write credentials and
/// tokens do it. `None` for anything else.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, TOLERANT).decode(text.trim_end_matches('=')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_holds_a_user_and_a_password_on_one_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        let basic = |user: &str, password: &str| {
            Ok(Credential::Basic { user: user.to_owned(), password: Secret::new(password.to_owned()) })
        };
        for (text, expected) in [
            ("me:canary\n", basic("me", "canary")),
            ("me:with:colon ", basic("me", "with:colon ")),
            ("me:crlf\r\n\n", basic("me", "crlf")),
        ] {
            std::fs::write(&path, text).expect("write");
            assert_eq!(user_and_password(&path).await, expected, "{text}");
        }
        for text in ["", "canary", ":canary", "me:canary\nmore"] {
            std::fs::write(&path, text).expect("write");
            let error = user_and_password(&path).await.expect_err(text);
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
        std::fs::remove_file(&path).expect("remove");
        assert!(matches!(user_and_password(&path).await, Err(CredentialError::Unreadable { .. })));
    }

    #[test]
    fn base64_is_read_in_both_alphabets() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("YQ==", b"a"),
            ("YR==", b"a"),
            ("YWJjZA", b"abcd"),
            ("+/+/", b"\xfb\xff\xbf"),
            ("-_-_", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Y", "YWJjZ", "Y Q", "Y!=="] {
            assert_eq!(decode_base64(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn made_up_repositories_and_servers_do_not_fill_the_memory() {
        let source = Remembering::new(Place::DockerConfig(Vec::new(), Helpers::new(|_| None)));
        let helpers = Helpers::new(|_| None);
        for n in 0..2 * MAX_REMEMBERED {
            let repository = format!("r{n}").parse().expect("a name");
            let found = source.credential("https://registry.example", &repository).await;
            assert_eq!(found, Ok(Credential::Anonymous));
            assert!(helpers.get("a b", &n.to_string()).await.is_err());
        }
        assert!(source.answers.lock().await.len() <= MAX_REMEMBERED);
        assert!(helpers.remembered().await <= 256);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_for_a_minute_unless_it_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        let write = |user: &str| std::fs::write(&path, format!("{user}:x")).expect("write");
        let source = Remembering::new(Place::File(path.clone()));
        let repository: Repository = "a".parse().expect("name");
        let user = async || source.credential("a.io", &repository).await.ok().and_then(|found| found.identity());
        let first = Some("user one".to_owned());
        write("one");
        assert_eq!(user().await, first);
        write("two");
        // Refused at once: what was just looked up is not looked up again.
        source.refused("a.io", &repository).await;
        assert_eq!(user().await, first);
        tokio::time::advance(SETTLED).await;
        assert_eq!(user().await, first);
        source.refused("a.io", &repository).await;
        assert_eq!(user().await.as_deref(), Some("user two"));
        write("three");
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(user().await.as_deref(), Some("user three"));
    }
}
