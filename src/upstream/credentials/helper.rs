//! Credential helpers: programs called `docker-credential-NAME` that keep secrets in a keychain or
//! fetch them from a cloud.
//!
//! Protocol of docker-credential-helpers: one argument, the server on standard input, JSON on
//! standard output. Run without a shell and for ten seconds at most. Nothing that a helper prints
//! goes into an error, because it may be the secret.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::{Credential, CredentialError};

const TIME_OUT: Duration = Duration::from_secs(10);
/// What all helpers print when they have nothing for a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Whether `name` can be the end of a program's name, and no path.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Asks the helper for the credential of `server`.
pub(super) async fn get(name: &str, server: &str) -> Result<Credential, CredentialError> {
    let failed = |reason: String| CredentialError::Helper { helper: name.to_owned(), reason };
    if !is_name(name) {
        return Err(failed("is not a name of a program".to_owned()));
    }
    let output = tokio::time::timeout(TIME_OUT, run(name, server))
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
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|error| failed(format!("printed invalid JSON, line {} column {}", error.line(), error.column())))?;
    Ok(Credential::from_pair(&answer.username, answer.secret))
}

async fn run(name: &str, server: &str) -> std::io::Result<std::process::Output> {
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without having read the question.
        let _unread = stdin.write_all(server.as_bytes()).await;
    }
    child.wait_with_output().await
}
