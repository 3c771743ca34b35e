//! Where the credentials for an upstream come from, as the configuration writes it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::helper::Helpers;
use super::{Credential, CredentialError, CredentialSource, Place, Remembering, docker_config, helper};
use crate::oci::Repository;

/// One of `anonymous`, `docker-config`, `helper:NAME` and `file:PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// None are used.
    #[default]
    Anonymous,
    /// Docker's `config.json` and podman's `auth.json` of the user we run as, and `DOCKER_AUTH_CONFIG`.
    DockerConfig,
    /// The program `docker-credential-NAME`.
    Helper(String),
    /// A file with `user:password` on one line.
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
    /// The file that is read, where it is a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Auth::File(path) => Some(path),
            _ => None,
        }
    }

    /// All files that may say who we are, by the environment of this process.
    pub fn files_here(&self) -> Vec<PathBuf> {
        match self {
            Auth::DockerConfig => {
                let user = rustix::process::getuid().as_raw();
                let places = docker_config::places(|name| std::env::var_os(name), user);
                places.into_iter().filter_map(docker_config::Logins::file).collect()
            }
            auth => auth.file().map(Path::to_owned).into_iter().collect(),
        }
    }

    /// The source, with its files and programs found by the environment of this process.
    pub fn source(&self) -> Arc<dyn CredentialSource> {
        self.source_in(|name| std::env::var_os(name))
    }

    /// The source, with its files and programs found by these environment variables.
    pub fn source_in(&self, variable: impl Fn(&str) -> Option<OsString>) -> Arc<dyn CredentialSource> {
        Arc::new(Remembering::new(self.place(variable)))
    }

    fn place(&self, variable: impl Fn(&str) -> Option<OsString>) -> Place {
        match self {
            Auth::Anonymous => Place::Nowhere,
            Auth::DockerConfig => {
                let user = rustix::process::getuid().as_raw();
                Place::DockerConfig(docker_config::places(&variable, user), Helpers::new(&variable))
            }
            Auth::Helper(name) => Place::Helper(name.clone(), Helpers::new(&variable)),
            Auth::File(path) => Place::File(path.clone()),
        }
    }
}

impl Auth {
    /// Where the credential for `repository` at `origin` is, in words that tell nothing of it; `None` where there
    /// is none. Files and programs are found by these environment variables; programs are run.
    ///
    /// # Errors
    /// When the source is broken.
    pub async fn whereabouts(
        &self,
        origin: &str,
        repository: &Repository,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<String>, CredentialError> {
        let place = self.place(variable);
        let found = |place: String| move |found: Credential| (found != Credential::Anonymous).then_some(place);
        match &place {
            Place::Nowhere => Ok(None),
            Place::DockerConfig(places, helpers) => {
                docker_config::where_it_is(places, helpers, origin, repository).await
            }
            Place::Helper(name, _) => {
                place.look(origin, repository).await.map(found(format!("docker-credential-{name}")))
            }
            Place::File(path) => place.look(origin, repository).await.map(found(path.display().to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_prints_as_it_was_parsed_and_says_what_it_wants() {
        for text in ["anonymous", "docker-config", "helper:ecr-login", "file:/run/secret", "file:name"] {
            assert_eq!(text.parse::<Auth>().map(|auth| auth.to_string()).as_deref(), Ok(text));
        }
        for (text, error) in [
            ("", AuthError::Unknown),
            ("Anonymous", AuthError::Unknown),
            ("me:password", AuthError::Unknown),
            ("docker-config:x", AuthError::Unknown),
            ("helper:", AuthError::HelperName),
            ("helper:../x", AuthError::HelperName),
            ("file:", AuthError::NoPath),
        ] {
            assert_eq!(text.parse::<Auth>(), Err(error), "{text}");
        }
    }
}
