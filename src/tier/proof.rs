//! How replicas prove themselves to each other: by an HMAC with the secret that all of them know, which is never sent.
//!
//! Each use of it has a label of its own, so that what proves one thing proves no other. Pure.

use std::time::Duration;

use aws_lc_rs::hmac;

use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

/// A question is good for so long, by the store's clock, and as long before.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// What is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Lease,
    Question,
}

impl Use {
    const fn label(self) -> &'static str {
        match self {
            Use::Lease => "registry-mirror lease of a fill",
            Use::Question => "registry-mirror question of a replica",
        }
    }
}

/// What one replica asks another.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// GET.
    pub method: &'a str,
    /// Of which upstream.
    pub upstream: &'a str,
    /// How that is asked: replicas that differ in it give each other nothing.
    pub standing: &'a str,
    /// The path, with the query if there is one.
    pub path: &'a str,
}

/// The secret that all replicas know.
#[derive(Clone)]
pub struct PeersKey(hmac::Key);

impl std::fmt::Debug for PeersKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeersKey")
    }
}

impl PeersKey {
    /// Made of what is in the file.
    pub fn new(secret: &str) -> PeersKey {
        PeersKey(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    pub(super) fn sign(&self, of: Use, fields: &[&str]) -> String {
        let tag = hmac::sign(&self.0, &message(of, fields));
        <[u8; 32]>::try_from(tag.as_ref()).map(|tag| Digest::Sha256(tag).hex()).unwrap_or_default()
    }

    pub(super) fn proves(&self, of: Use, fields: &[&str], seal: &str) -> bool {
        let seal = Algorithm::Sha256.digest(seal);
        seal.is_some_and(|seal| hmac::verify(&self.0, &message(of, fields), seal.as_bytes()).is_ok())
    }

    /// The header for a question that is put `now` to the replica at `address`.
    pub(super) fn header(&self, asked: &Question<'_>, address: &str, now: Timestamp) -> String {
        let at = (now.0 / 1000).to_string();
        let seal = self.sign(Use::Question, &fields(asked, address, &at));
        format!("{at}.{seal}")
    }

    /// Whether such a header is right `now`.
    pub(super) fn is_right(&self, asked: &Question<'_>, address: &str, shown: &str, now: Timestamp) -> bool {
        let Some((at, seal)) = shown.split_once('.') else { return false };
        let is_recent = at.parse().is_ok_and(|at: u64| now.0.abs_diff(at.saturating_mul(1000)) <= millis(GOOD_FOR));
        is_recent && self.proves(Use::Question, &fields(asked, address, at), seal)
    }
}

fn fields<'a>(asked: &Question<'a>, address: &'a str, at: &'a str) -> [&'a str; 6] {
    [asked.method, asked.upstream, asked.standing, asked.path, address, at]
}

/// Each field with its length, so that no two lists of fields are one message.
fn message(of: Use, fields: &[&str]) -> Vec<u8> {
    let all = [of.label()].into_iter().chain(fields.iter().copied());
    all.flat_map(|field| format!("{}:{field}\n", field.len()).into_bytes()).collect()
}

const fn millis(time: Duration) -> u64 {
    time.as_secs() * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Question<'_> =
        Question { method: "GET", upstream: "docker.io", standing: "as nobody", path: "/docker.io/v2/a/blobs/x" };
    const AT: &str = "http://10.0.0.1:5000";

    #[test]
    fn a_question_is_right_for_what_it_asks_whom_it_asks_and_half_a_minute() {
        let (key, now) = (PeersKey::new("0123456789abcdef"), Timestamp(1_700_000_000_500));
        let shown = key.header(&ASKED, AT, now);
        let is_right = |asked: &Question<'_>, at, now| key.is_right(asked, at, &shown, now);
        assert!(is_right(&ASKED, AT, now) && is_right(&ASKED, AT, now.plus(Duration::from_secs(29))));
        assert!(is_right(&ASKED, AT, now.minus(Duration::from_secs(29))), "clocks are read, and differ a little");
        assert!(!is_right(&ASKED, AT, now.plus(Duration::from_secs(31))));
        assert!(!is_right(&ASKED, AT, now.minus(Duration::from_secs(32))));
        assert!(!is_right(&ASKED, "http://10.0.0.2:5000", now));
        for other in [
            Question { method: "HEAD", ..ASKED },
            Question { upstream: "ghcr.io", ..ASKED },
            Question { standing: "", ..ASKED },
            Question { path: "/docker.io/v2/b/blobs/x", ..ASKED },
        ] {
            assert!(!is_right(&other, AT, now), "{other:?}");
        }
        assert!(!PeersKey::new("another secret ..").is_right(&ASKED, AT, &shown, now));
        for wrong in ["", ".", "1700000000", "1700000000.", "x.y", &shown.replace('.', "")] {
            assert!(!key.is_right(&ASKED, AT, wrong, now), "{wrong}");
        }
    }

    #[test]
    fn what_proves_one_thing_proves_no_other() {
        let key = PeersKey::new("0123456789abcdef");
        let seal = key.sign(Use::Lease, &["a", "bc"]);
        assert!(key.proves(Use::Lease, &["a", "bc"], &seal));
        assert!(!key.proves(Use::Question, &["a", "bc"], &seal) && !key.proves(Use::Lease, &["ab", "c"], &seal));
    }
}
