//! A report that somebody can hand on: a tar of texts without secrets.
//!
//! What we write holds none. Should one come in with what others say, it leaves here: the secrets that are known,
//! and whatever stands before the host of an address.

use std::io;

use crate::clock::Timestamp;

/// What stands in the place of a secret.
const GONE: &str = "***";

/// A text of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub text: String,
}

/// The tar, as of `now`, without these secrets.
///
/// # Errors
/// None that memory does not make.
pub fn bundle(pages: &[Page], secrets: &[&str], now: Timestamp) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for Page { name, text } in pages {
        let text = without_secrets(text, secrets);
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.0 / 1000);
        tar.append_data(&mut header, format!("registry-mirror-report/{name}"), text.as_bytes())?;
    }
    tar.into_inner()
}

fn without_secrets(text: &str, secrets: &[&str]) -> String {
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    let text = known.fold(text.to_owned(), |text, secret| text.replace(secret, GONE));
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let end = part.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '<' | '>' | '\\'));
        let (authority, rest) = part.split_at(end.unwrap_or(part.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => format!("{text}://{GONE}@{host}{rest}"),
            None => format!("{text}://{part}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_and_all_else_stays() {
        for (text, expected) in [
            ("http://proxy.example:3128/x", "http://proxy.example:3128/x"),
            ("http://me:canary@proxy.example:3128 and more", "http://***@proxy.example:3128 and more"),
            ("{\"proxy\":\"socks5://me:can@ary@proxy\"}", "{\"proxy\":\"socks5://***@proxy\"}"),
            ("token of 24 canaries: the-token-canary", "token of 24 canaries: ***"),
            ("https://a/b@sha256:1 https://c", "https://a/b@sha256:1 https://c"),
        ] {
            assert_eq!(without_secrets(text, &["the-token-canary", ""]), expected);
        }
    }
}
