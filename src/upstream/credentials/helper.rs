//! Credential helpers: programs called `docker-credential-NAME` that keep secrets in a keychain or
//! fetch them from a cloud.
//!
//! Protocol of docker-credential-helpers: one argument, the server on standard input, JSON on
//! standard output. Run without a shell, one at a time for each registry, and for ten seconds at most; what
//! it says is kept for a while. Nothing that a helper prints goes into an error, because it may be the secret.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{Answer, Credential, CredentialError};
use crate::confine;

const TIME_OUT: Duration = Duration::from_secs(10);
/// Above so many answers, all are forgotten. Only hosts of the configuration are asked for.
const MAX_SAID: usize = 256;
/// What all helpers print when they have nothing for a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Whether `name` can be the end of a program's name, and no path.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// What a helper said, locked while it is asked.
type Slot = Arc<Mutex<Option<Answer>>>;

/// Where helpers are, and what they said.
#[derive(Default)]
pub(super) struct Helpers {
    /// The folders to search, as in `PATH`; `None` for those of this process.
    path: Option<OsString>,
    /// By the name of the helper and the server.
    said: Mutex<HashMap<(String, String), Slot>>,
}

impl Helpers {
    pub(super) fn new(variable: impl Fn(&str) -> Option<OsString>) -> Helpers {
        Helpers { path: variable("PATH"), said: Mutex::default() }
    }

    /// How many answers are remembered.
    #[cfg(test)]
    pub(super) async fn remembered(&self) -> usize {
        self.said.lock().await.len()
    }

    /// The credential of `server`, from a helper that is asked at most once in a while, whoever waits for it.
    pub(super) async fn get(&self, name: &str, server: &str) -> Result<Credential, CredentialError> {
        let slot = {
            let mut said = self.said.lock().await;
            if said.len() >= MAX_SAID {
                said.clear();
            }
            Arc::clone(said.entry((name.to_owned(), server.to_owned())).or_default())
        };
        let mut said = slot.lock().await;
        if let Some(answer) = said.as_ref().filter(|answer| answer.holds()) {
            return answer.found.clone();
        }
        let found = self.run(name, server).await;
        *said = Some(Answer::now(&found));
        found
    }

    /// What was said about `server` is not good any more.
    pub(super) async fn forget(&self, server: &str) {
        self.said.lock().await.retain(|(_, known), _| known != server);
    }

    async fn run(&self, name: &str, server: &str) -> Result<Credential, CredentialError> {
        if !is_name(name) {
            let reason = "is not a name of a program".to_owned();
            return Err(CredentialError::Helper { helper: name.to_owned(), reason });
        }
        let mut program = Command::new(format!("docker-credential-{name}"));
        if let Some(path) = &self.path {
            program.env("PATH", path);
        }
        ask(name, program, server).await
    }
}

async fn ask(name: &str, program: Command, server: &str) -> Result<Credential, CredentialError> {
    let failed = |reason: String| CredentialError::Helper { helper: name.to_owned(), reason };
    let output = tokio::time::timeout(TIME_OUT, run(program, server))
        .await
        .map_err(|_| failed(format!("did not answer within {} seconds", TIME_OUT.as_secs())))?
        .map_err(|error| failed(format!("could not be run: {error}")))?;
    let stdout = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return match String::from_utf8_lossy(&stdout).contains(NOT_FOUND) {
            true => Ok(Credential::Anonymous),
            false => Err(failed(format!("failed ({}); run it by hand to see why", output.status))),
        };
    }
    let answer: Printed = serde_json::from_slice(&stdout)
        .map_err(|error| failed(format!("printed invalid JSON, line {} column {}", error.line(), error.column())))?;
    Ok(Credential::from_pair(&answer.username, answer.secret))
}

async fn run(mut program: Command, server: &str) -> std::io::Result<std::process::Output> {
    program.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    // A helper may have files of its own to write.
    let mut child = confine::freely(move || program.spawn()).await??;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without having read the question.
        let _unread = stdin.write_all(server.as_bytes()).await;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    /// Asks a helper that is this shell script; `$1` is its argument.
    async fn script(text: &str) -> Result<Credential, CredentialError> {
        let mut shell = Command::new("sh");
        shell.args(["-c", text, "helper"]);
        ask("x", shell, "registry.example").await
    }

    #[tokio::test]
    async fn a_helper_is_given_the_server_and_gives_a_user_and_a_password() {
        let found = script(r#"printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$(cat)""#).await;
        let password = Secret::new("registry.example".to_owned());
        assert_eq!(found, Ok(Credential::Basic { user: "get".to_owned(), password }));
        let found = script(r#"printf '{"Username":"<token>","Secret":"t"}'"#).await;
        assert_eq!(found, Ok(Credential::IdentityToken(Secret::new("t".to_owned()))));
    }

    #[tokio::test]
    async fn nothing_found_is_nobody_and_not_an_error() {
        let found = script("echo credentials not found in native keychain; exit 1").await;
        assert_eq!(found, Ok(Credential::Anonymous));
        assert_eq!(script(r#"printf '{}'"#).await, Ok(Credential::Anonymous));
    }

    #[tokio::test]
    async fn a_broken_helper_is_an_error_without_anything_it_printed() {
        for text in ["echo canary; exit 3", "echo canary", r#"printf '{"Username":"a","Secret":["canary"]}'"#] {
            let error = script(text).await.expect_err(text);
            assert!(error.to_string().starts_with("docker-credential-x "), "{error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
        for name in ["no-such-program-anywhere", "../x", "a b", ""] {
            assert!(
                matches!(Helpers::default().get(name, "registry.example").await, Err(CredentialError::Helper { .. })),
                "{name}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_helper_that_hangs_is_given_up() {
        let error = script("exec sleep 600").await.expect_err("no answer");
        assert!(error.to_string().contains("within 10 seconds"), "{error}");
    }
}
