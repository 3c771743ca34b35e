//! Credentials for upstreams: what they are and where they come from.
//!
//! A [`CredentialSource`] is asked only after an upstream has demanded something, per origin (host
//! and port) and repository, so that a credential found by host name goes to that host. Secrets
//! print as `***` and are wiped when dropped. What is found is remembered for a minute.

mod docker_config;
mod helper;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::oci::Repository;

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
}

impl Credential {
    /// A name for the identity that is no secret; `None` for nobody.
    pub fn identity(&self) -> Option<String> {
        match self {
            Credential::Anonymous => None,
            Credential::Basic { user, .. } => Some(format!("user {user}")),
            Credential::IdentityToken(_) => Some("identity token".to_owned()),
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
}

/// Where credentials come from, as the configuration writes it:
/// `anonymous`, `docker-config`, `helper:NAME` or `file:PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// None are used.
    #[default]
    Anonymous,
    /// Docker's `config.json` and podman's `auth.json` of the user we run as.
    DockerConfig,
    /// The program `docker-credential-NAME`.
    Helper(String),
    /// A file with `user:password` on one line. A relative name is looked for in
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts credentials.
    File(PathBuf),
}

/// The string names no source of credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// None of the four forms.
    #[error("auth is one of anonymous, docker-config, helper:NAME, file:PATH")]
    Unknown,
    /// The name of a helper is `[A-Za-z0-9._-]+`.
    #[error("the NAME in helper:NAME is what follows docker-credential- in the name of the program")]
    HelperName,
    /// `file:` without a path.
    #[error("file: needs a path to a file that contains user:password")]
    NoPath,
}

impl FromStr for Auth {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Auth, AuthError> {
        match text.split_once(':') {
            None if text == "anonymous" => Ok(Auth::Anonymous),
            None if text == "docker-config" => Ok(Auth::DockerConfig),
            Some(("helper", name)) if helper::is_name(name) => Ok(Auth::Helper(name.to_owned())),
            Some(("helper", _)) => Err(AuthError::HelperName),
            Some(("file", "")) => Err(AuthError::NoPath),
            Some(("file", path)) => Ok(Auth::File(path.into())),
            _ => Err(AuthError::Unknown),
        }
    }
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("anonymous"),
            Auth::DockerConfig => f.write_str("docker-config"),
            Auth::Helper(name) => write!(f, "helper:{name}"),
            Auth::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Auth {
    /// The source, with its files found by the environment of this process.
    pub fn source(&self) -> Arc<dyn CredentialSource> {
        let place = match self {
            Auth::Anonymous => Place::Nowhere,
            Auth::DockerConfig => Place::DockerConfig(docker_config::paths(|name| std::env::var_os(name))),
            Auth::Helper(name) => Place::Helper(name.clone()),
            Auth::File(path) => Place::File(match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => Path::new(&folder).join(path),
                None => path.clone(),
            }),
        };
        Arc::new(Remembering { place, answers: Mutex::default() })
    }
}

/// A source that never finds any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl CredentialSource for Anonymous {
    async fn credential(&self, _: &str, _: &Repository) -> Result<Credential, CredentialError> {
        Ok(Credential::Anonymous)
    }

    async fn refused(&self, _: &str, _: &Repository) {}
}

enum Place {
    Nowhere,
    DockerConfig(Vec<PathBuf>),
    Helper(String),
    File(PathBuf),
}

impl Place {
    async fn look(&self, origin: &str, repository: &Repository) -> Result<Credential, CredentialError> {
        match self {
            Place::Nowhere => Ok(Credential::Anonymous),
            Place::DockerConfig(paths) => docker_config::look_up(paths, origin, repository).await,
            Place::Helper(name) => helper::get(name, docker_config::server_url(origin)).await,
            Place::File(path) => user_and_password(path).await,
        }
    }
}

async fn user_and_password(path: &Path) -> Result<Credential, CredentialError> {
    let text = Zeroizing::new(read(path).await?);
    let invalid = || CredentialError::Invalid { path: path.to_owned(), reason: "expected user:password".to_owned() };
    let (user, password) = text.lines().next().and_then(|line| line.split_once(':')).ok_or_else(invalid)?;
    if user.is_empty() || text.lines().skip(1).any(|line| !line.trim().is_empty()) {
        return Err(invalid());
    }
    Ok(Credential::from_pair(user, password.to_owned()))
}

async fn read(path: &Path) -> Result<String, CredentialError> {
    let reason = |error: std::io::Error| error.to_string();
    let unreadable = |reason| CredentialError::Unreadable { path: path.to_owned(), reason };
    tokio::fs::read_to_string(path).await.map_err(|error| unreadable(reason(error)))
}

struct Answer {
    at: Instant,
    found: Result<Credential, CredentialError>,
}

impl Answer {
    fn holds(&self) -> bool {
        self.at.elapsed() < if self.found.is_ok() { REMEMBERED } else { SETTLED }
    }
}

struct Remembering {
    place: Place,
    answers: Mutex<HashMap<(String, Repository), Answer>>,
}

#[async_trait]
impl CredentialSource for Remembering {
    async fn credential(&self, origin: &str, repository: &Repository) -> Result<Credential, CredentialError> {
        if let Place::Nowhere = self.place {
            return Ok(Credential::Anonymous);
        }
        // Held while looking, so that a hundred requests start one helper and not a hundred.
        let mut answers = self.answers.lock().await;
        let key = (origin.to_owned(), repository.clone());
        if let Some(answer) = answers.get(&key).filter(|answer| answer.holds()) {
            return answer.found.clone();
        }
        let found = self.place.look(origin, repository).await;
        if answers.len() >= MAX_REMEMBERED {
            answers.clear();
        }
        answers.insert(key, Answer { at: Instant::now(), found: found.clone() });
        found
    }

    async fn refused(&self, origin: &str, repository: &Repository) {
        let mut answers = self.answers.lock().await;
        let key = (origin.to_owned(), repository.clone());
        if answers.get(&key).is_some_and(|answer| answer.at.elapsed() >= SETTLED) {
            answers.remove(&key);
        }
    }
}

/// Decodes base64 of the common or the URL alphabet, padded or not. `None` for anything else.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    (count < 6).then_some(bytes)
}

/// Encodes in padded base64 of the common alphabet.
pub(super) fn encode_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
