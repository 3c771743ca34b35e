//! Docker's `config.json` and podman's `auth.json`, which share one format.
//!
//! Keys of `auths` are hosts, or hosts with a path (podman), or addresses (old dockers); the most
//! specific one wins. For a host: its helper, then the common store, then the file itself, as in
//! docker. Files are tried in podman's order; the first that has something is taken.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Credential, CredentialError, Secret, decode_base64, helper};
use crate::oci::Repository;

/// The key under which docker keeps the credential of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// The files to read, by the environment: `REGISTRY_AUTH_FILE`, podman's two, docker's.
pub(super) fn paths(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |sub: &str| folder("HOME").map(|home| home.join(sub));
    [
        folder("REGISTRY_AUTH_FILE"),
        folder("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json")),
        folder("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|config| config.join("containers/auth.json")),
        folder("DOCKER_CONFIG").or_else(|| home(".docker")).map(|docker| docker.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a helper is asked for: the host, except for Docker Hub, which has a name from older days.
pub(super) fn server_url(origin: &str) -> &str {
    if host_of_hub(origin) { HUB_KEY } else { origin }
}

/// Looks for a credential in one file after the other. Files that do not exist are skipped.
pub(super) async fn look_up(
    paths: &[PathBuf],
    origin: &str,
    repository: &Repository,
) -> Result<Credential, CredentialError> {
    for path in paths {
        if !tokio::fs::try_exists(path).await.unwrap_or(true) {
            continue;
        }
        let text = Zeroizing::new(super::read(path).await?);
        let file = parse(path, &text)?;
        let found = file.credential(path, origin, repository).await?;
        if found != Credential::Anonymous {
            return Ok(found);
        }
    }
    Ok(Credential::Anonymous)
}

fn parse(path: &Path, text: &str) -> Result<File, CredentialError> {
    // The parser's own message may quote a value, and values here are secrets.
    serde_json::from_str(text).map_err(|error| CredentialError::Invalid {
        path: path.to_owned(),
        reason: format!("line {} column {}", error.line(), error.column()),
    })
}

impl File {
    async fn credential(
        &self,
        path: &Path,
        origin: &str,
        repository: &Repository,
    ) -> Result<Credential, CredentialError> {
        let host = normalised(origin);
        let named = self.cred_helpers.iter().find(|(key, _)| normalised(key) == host).map(|(_, name)| name);
        if let Some(name) = named.or(self.creds_store.as_ref().filter(|name| !name.is_empty())) {
            let found = helper::get(name, server_url(origin)).await?;
            if found != Credential::Anonymous {
                return Ok(found);
            }
        }
        self.entry(&host, repository).map_or(Ok(Credential::Anonymous), |entry| {
            entry.credential().ok_or_else(|| CredentialError::Invalid {
                path: path.to_owned(),
                reason: format!("auth of {host} is not base64 of user:password"),
            })
        })
    }

    /// The entry for `host/a/b`, else for `host/a`, else for `host`.
    fn entry(&self, host: &str, repository: &Repository) -> Option<&Entry> {
        let full = format!("{host}/{repository}");
        let ends = full.match_indices('/').map(|(at, _)| at).chain([full.len()]);
        let candidates: Vec<&str> = ends.map(|end| &full[..end]).collect();
        candidates.iter().rev().find_map(|candidate| {
            self.auths.iter().find(|(key, _)| normalised(key) == *candidate).map(|(_, entry)| entry)
        })
    }
}

impl Entry {
    /// `None` where `auth` cannot be read. An empty entry only marks a login kept elsewhere.
    fn credential(&self) -> Option<Credential> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.expose().is_empty()) {
            return Some(Credential::IdentityToken(token.clone()));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.expose().is_empty()) else {
            return Some(Credential::Anonymous);
        };
        let pair = Zeroizing::new(decode_base64(auth.expose().trim())?);
        let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
        Some(Credential::from_pair(user, password.trim_end_matches('\0').to_owned()))
    }
}

/// A key without scheme, API version and closing slash, Docker Hub's hosts under one name.
fn normalised(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_at(key.find('/').unwrap_or(key.len()));
    if host_of_hub(host) { format!("docker.io{path}") } else { format!("{}{path}", host.to_ascii_lowercase()) }
}

fn host_of_hub(host: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"].iter().any(|hub| hub.eq_ignore_ascii_case(host))
}
