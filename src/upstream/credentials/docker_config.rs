//! Docker's `config.json` and podman's `auth.json`, which share one format.
//!
//! Keys of `auths` are hosts, or hosts with a path (podman), or addresses (old dockers); the most
//! specific one wins. For a host: its helper, then the common store, then the file itself, as in
//! docker; a helper that does not work, because it is not installed say, hides nothing that stands
//! elsewhere. What stands in `DOCKER_AUTH_CONFIG` comes first, then files in podman's order, last the
//! one from before there were folders; the first that has something is taken.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::helper::Helpers;
use super::{Credential, CredentialError, Secret, decode_base64};
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
    registrytoken: Option<Secret>,
}

/// The variable that holds what a file would.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// Where logins are kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Logins {
    /// In the environment; the text is that of a file.
    Inline(Secret),
    /// In a file.
    File(PathBuf),
    /// In a file that is what `auths` is in the others.
    Dockercfg(PathBuf),
}

impl Logins {
    /// The file, if it is one.
    pub(super) fn file(self) -> Option<PathBuf> {
        match self {
            Logins::Inline(_) => None,
            Logins::File(path) | Logins::Dockercfg(path) => Some(path),
        }
    }
}

/// Where to look, by the environment and for the user of this number: `DOCKER_AUTH_CONFIG`,
/// `REGISTRY_AUTH_FILE`, podman's two files, docker's, docker's from before 2015.
pub(super) fn places(variable: impl Fn(&str) -> Option<OsString>, user: u32) -> Vec<Logins> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |sub: &str| folder("HOME").map(|home| home.join(sub));
    let inline = variable(VARIABLE).and_then(|text| text.into_string().ok()).filter(|text| !text.is_empty());
    let files = [
        folder("REGISTRY_AUTH_FILE"),
        Some(match folder("XDG_RUNTIME_DIR") {
            Some(run) => run.join("containers/auth.json"),
            None => PathBuf::from(format!("/run/containers/{user}/auth.json")),
        }),
        folder("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|config| config.join("containers/auth.json")),
        folder("DOCKER_CONFIG").or_else(|| home(".docker")).map(|docker| docker.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .map(Logins::File);
    let inline = inline.map(|text| Logins::Inline(Secret::new(text)));
    inline.into_iter().chain(files).chain(home(".dockercfg").map(Logins::Dockercfg)).collect()
}

/// What a helper is asked for: the host, except for Docker Hub, which has a name from older days.
pub(super) fn server_url(origin: &str) -> &str {
    if host_of_hub(origin) { HUB_KEY } else { origin }
}

/// Looks for a credential in one place after the other. Files that do not exist are skipped.
pub(super) async fn look_up(
    places: &[Logins],
    helpers: &Helpers,
    origin: &str,
    repository: &Repository,
) -> Result<Credential, CredentialError> {
    let mut failure = None;
    for place in places {
        let (path, file) = match place {
            Logins::Inline(text) => (Path::new(VARIABLE), parse(Path::new(VARIABLE), text.expose())?),
            Logins::File(path) | Logins::Dockercfg(path) => {
                if !tokio::fs::try_exists(path).await.unwrap_or(true) {
                    continue;
                }
                let text = super::read(path).await?;
                let file = match place {
                    Logins::Dockercfg(_) => File { auths: parse(path, &text)?, ..File::default() },
                    _ => parse(path, &text)?,
                };
                (path.as_path(), file)
            }
        };
        match file.credential(path, helpers, origin, repository).await {
            Ok(Credential::Anonymous) => {}
            Err(error @ CredentialError::Helper { .. }) => failure = failure.or(Some(error)),
            found => return found,
        }
    }
    failure.map_or(Ok(Credential::Anonymous), Err)
}

/// The first of the places that has a credential, by its name.
pub(super) async fn where_it_is(
    places: &[Logins],
    helpers: &Helpers,
    origin: &str,
    repository: &Repository,
) -> Result<Option<String>, CredentialError> {
    let mut failure = None;
    for place in places {
        match look_up(std::slice::from_ref(place), helpers, origin, repository).await {
            Ok(Credential::Anonymous) => {}
            Err(error @ CredentialError::Helper { .. }) => failure = failure.or(Some(error)),
            Err(error) => return Err(error),
            Ok(_) => {
                return Ok(Some(match place {
                    Logins::Inline(_) => format!("${VARIABLE}"),
                    Logins::File(path) | Logins::Dockercfg(path) => path.display().to_string(),
                }));
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, CredentialError> {
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
        helpers: &Helpers,
        origin: &str,
        repository: &Repository,
    ) -> Result<Credential, CredentialError> {
        let host = normalised(origin);
        let named = self.cred_helpers.iter().find(|(key, _)| normalised(key) == host).map(|(_, name)| name);
        if let Some(name) = named.or(self.creds_store.as_ref().filter(|name| !name.is_empty())) {
            match helpers.get(name, server_url(origin)).await {
                Ok(Credential::Anonymous) => {}
                Err(error) => {
                    let written = self.written(path, &host, repository)?;
                    return if written == Credential::Anonymous { Err(error) } else { Ok(written) };
                }
                found => return found,
            }
        }
        self.written(path, &host, repository)
    }

    /// What the file itself says.
    fn written(&self, path: &Path, host: &str, repository: &Repository) -> Result<Credential, CredentialError> {
        self.entry(host, repository).map_or(Ok(Credential::Anonymous), |entry| {
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
        if let Some(token) = self.registrytoken.as_ref().filter(|token| !token.expose().is_empty()) {
            return Some(Credential::RegistryToken(token.clone()));
        }
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

#[cfg(test)]
mod tests {
    use base64::engine::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const PATH: &str = "config.json";

    /// `user:word` in base64.
    fn auth(user: &str) -> String {
        STANDARD.encode(format!("{user}:word"))
    }

    async fn found(json: &str, origin: &str, repository: &str) -> Result<Credential, CredentialError> {
        let file: File = parse(Path::new(PATH), json)?;
        file.credential(Path::new(PATH), &Helpers::default(), origin, &repository.parse().expect("name")).await
    }

    async fn user(json: &str, origin: &str, repository: &str) -> Option<String> {
        match found(json, origin, repository).await.expect("valid") {
            Credential::Basic { user, password } => Some(user).filter(|_| password.expose() == "word"),
            _ => None,
        }
    }

    #[tokio::test]
    async fn the_most_specific_key_wins() {
        let entries: Vec<String> =
            ["quay.io", "quay.io/org", "quay.io/org/app", "https://old.example/v1/", "other.example:5000"]
                .iter()
                .map(|key| format!(r#""{key}":{{"auth":"{}"}}"#, auth(key.trim_start_matches("https:"))))
                .collect();
        let json = format!(r#"{{"auths":{{{}}},"HttpHeaders":{{}}}}"#, entries.join(","));
        for (origin, repository, expected) in [
            ("quay.io", "org/app", Some("quay.io/org/app")),
            ("quay.io", "org/app/sub", Some("quay.io/org/app")),
            ("quay.io", "org/application", Some("quay.io/org")),
            ("quay.io", "organisation/app", Some("quay.io")),
            ("QUAY.io", "x", Some("quay.io")),
            ("old.example", "a/b", Some("//old.example/v1/")),
            ("other.example", "a", None),
            ("evil-quay.io", "org/app", None),
            ("quay.io:444", "org/app", None),
        ] {
            // The first colon ends the user name, so keys with a port are not told apart here.
            assert_eq!(user(&json, origin, repository).await.as_deref(), expected, "{origin} {repository}");
        }
        assert!(found(&json, "other.example:5000", "a").await.is_ok_and(|c| c != Credential::Anonymous));
    }

    #[tokio::test]
    async fn docker_hub_goes_by_all_its_names() {
        for key in [HUB_KEY, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, auth("me"));
            for origin in ["registry-1.docker.io", "docker.io"] {
                assert_eq!(user(&json, origin, "library/redis").await.as_deref(), Some("me"), "{key} {origin}");
            }
            assert_eq!(user(&json, "mirror.example", "library/redis").await, None);
        }
        assert_eq!((server_url("registry-1.docker.io"), server_url("ghcr.io")), (HUB_KEY, "ghcr.io"));
    }

    #[tokio::test]
    async fn tokens_markers_and_helpers_are_told_apart() {
        let json = format!(
            r#"{{"auths":{{"a.io":{{"auth":"{}","identitytoken":"t"}},"b.io":{{}}}},"credHelpers":{{"c.io":"no-such-helper"}}}}"#,
            auth("<token>")
        );
        let token = Credential::IdentityToken(Secret::new("t".to_owned()));
        assert_eq!(found(&json, "a.io", "x").await, Ok(token));
        let ready = r#"{"auths":{"a.io":{"identitytoken":"t","registrytoken":"r"}}}"#;
        assert_eq!(found(ready, "a.io", "x").await, Ok(Credential::RegistryToken(Secret::new("r".to_owned()))));
        assert_eq!(found(&json, "b.io", "x").await, Ok(Credential::Anonymous));
        assert!(matches!(found(&json, "c.io", "x").await, Err(CredentialError::Helper { .. })));
        let json = r#"{"auths":{"b.io":{}},"credsStore":"no-such-store"}"#;
        assert!(matches!(found(json, "b.io", "x").await, Err(CredentialError::Helper { .. })));
    }

    #[tokio::test]
    async fn a_broken_file_is_named_and_not_quoted() {
        for json in [
            r#"{"auths":"canary"}"#,
            r#"{"auths":{"a.io":{"auth":["canary"]}}}"#,
            r#"{"auths":{"a.io":{"auth":"canary!"}}}"#,
            r#"{"auths":{"a.io":{"auth":"Y2FuYXJ5"}}}"#,
            "canary",
        ] {
            let error = found(json, "a.io", "x").await.expect_err(json);
            let text = format!("{error} {error:?}");
            assert!(text.contains(PATH) && !text.contains("canary"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_first_file_that_has_something_is_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let [missing, empty, full] = ["missing", "empty", "full"].map(|name| folder.path().join(name));
        std::fs::write(&empty, "{}").expect("write");
        std::fs::write(&full, format!(r#"{{"auths":{{"a.io":{{"auth":"{}"}}}}}}"#, auth("me"))).expect("write");
        let old = folder.path().join("old");
        std::fs::write(&old, format!(r#"{{"https://b.io":{{"auth":"{}","email":"x"}}}}"#, auth("old"))).expect("write");
        let inline = format!(r#"{{"auths":{{"c.io":{{"auth":"{}"}}}}}}"#, auth("env"));
        let places = [
            Logins::Inline(Secret::new(inline)),
            Logins::File(missing),
            Logins::File(empty),
            Logins::File(full),
            Logins::Dockercfg(old),
        ];
        for (origin, expected) in [("a.io", "user me"), ("b.io", "user old"), ("c.io", "user env")] {
            let found = look_up(&places, &Helpers::default(), origin, &"x".parse().expect("name")).await;
            assert_eq!(found.expect("valid").identity().as_deref(), Some(expected));
        }
        let broken = [Logins::Inline(Secret::new("{\"auths\":\"canary\"}".to_owned()))];
        let error =
            look_up(&broken, &Helpers::default(), "a.io", &"x".parse().expect("name")).await.expect_err("broken");
        assert!(error.to_string().contains(VARIABLE) && !format!("{error:?} {broken:?}").contains("canary"), "{error}");
    }

    #[test]
    fn files_are_looked_for_where_podman_and_docker_keep_them() {
        let environment = |set: &'static [(&str, &str)]| {
            places(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()), 7)
        };
        let home = environment(&[("HOME", "/h")]);
        let file = |path: &str| Logins::File(path.into());
        let old = || Logins::Dockercfg("/h/.dockercfg".into());
        let [first, second, third] =
            ["/run/containers/7/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"].map(file);
        assert_eq!(home, [first, second, third, old()]);
        let all = environment(&[
            ("DOCKER_AUTH_CONFIG", "{}"),
            ("REGISTRY_AUTH_FILE", "/r"),
            ("XDG_RUNTIME_DIR", "/run/u"),
            ("XDG_CONFIG_HOME", "/c"),
            ("DOCKER_CONFIG", "/d"),
            ("HOME", "/h"),
        ]);
        let [first, second, third, fourth] =
            ["/r", "/run/u/containers/auth.json", "/c/containers/auth.json", "/d/config.json"].map(file);
        let inline = Logins::Inline(Secret::new("{}".to_owned()));
        assert_eq!(all, [inline, first, second, third, fourth, old()]);
        assert_eq!(environment(&[("HOME", ""), ("DOCKER_AUTH_CONFIG", "")]), [file("/run/containers/7/auth.json")]);
    }
}
