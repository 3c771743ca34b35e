//! `[store.bucket]`: on where it has a name.

use std::time::Duration;

use url::Url;

use super::Check;
use crate::access::Access;
use crate::config::{Bucket, Upstream, file};
use crate::oci::host;
use crate::tier::settings::{Credentials, Settings};

/// Who waits for nothing gets nothing from a bucket.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// The longest that a signature may be good for (AWS, "Authenticating requests: using query parameters").
const LONGEST_REDIRECT: Duration = Duration::from_secs(7 * 86_400);

impl Check {
    /// `patience` is that of clients, as it was typed.
    pub(super) fn bucket(&mut self, typed: &file::Bucket, patience: &str) -> Option<Bucket> {
        let endpoint = self.address("store.bucket.endpoint", &typed.endpoint);
        let advertise = self.address("store.bucket.advertise", &typed.advertise);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !typed.name.is_empty() && (!(3..=63).contains(&typed.name.len()) || !typed.name.chars().all(is_name)) {
            let hint = "3 to 63 letters, digits, dots and hyphens; what is in front of the keys is prefix";
            self.problem("store.bucket.name", format!("{:?} is not the name of a bucket", typed.name), hint);
        }
        let prefix = &typed.prefix;
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        if !prefix.is_empty() && !prefix.strip_suffix('/').is_some_and(|path| path.split('/').all(is_part)) {
            let hint = "for example prefix = \"mirror/\", or \"\" for a bucket of its own";
            self.problem("store.bucket.prefix", format!("{prefix:?} is not the beginning of a key"), hint);
        }
        let credentials = match typed.credentials.as_str() {
            "env" => Some(Credentials::Environment),
            "instance" => Some(Credentials::Instance),
            file if file.starts_with("file:") => self.secret("store.bucket.credentials", file).map(Credentials::File),
            other => {
                let message = format!("{other:?} means nothing here");
                self.problem("store.bucket.credentials", message, "env, instance, or file:PATH with KEY:SECRET");
                None
            }
        };
        let max_size = self.size("store.bucket.max_size", &typed.max_size);
        let peers_secret = self.secret("store.bucket.peers_secret", &typed.peers_secret);
        let redirect = self.networks("store.bucket.redirect", &typed.redirect);
        let redirect_ttl = self.positive("store.bucket.redirect_ttl", &typed.redirect_ttl);
        if redirect_ttl > LONGEST_REDIRECT {
            self.problem("store.bucket.redirect_ttl", "no signed address is good for longer than 7 days", "");
        }
        let leases = self.word("store.bucket.leases", &typed.leases, &[("auto", true), ("off", false)]);
        if let Some((endpoint, own)) = endpoint.as_ref().zip(advertise.as_ref())
            && is_below(endpoint, own)
        {
            let message = "it is at or below our own name: clients would show their login there";
            self.problem("store.bucket.endpoint", message, "a bucket needs a name of its own");
        }
        if typed.name.is_empty() {
            return None;
        }
        let given = |typed: &str| (!typed.is_empty()).then(|| typed.to_owned());
        let tier = Settings {
            name: typed.name.clone(),
            endpoint,
            region: given(&typed.region),
            prefix: prefix.clone(),
            credentials: credentials?,
            ca: given(&typed.ca).map(Into::into),
            patience: humantime::parse_duration(patience).unwrap_or_default().max(LEAST_PATIENCE),
        };
        let advertise = advertise.map(|url| url.as_str().trim_end_matches('/').to_owned());
        let leases = leases.unwrap_or_default();
        Some(Bucket { tier, max_size, peers_secret, advertise, leases, redirect, redirect_ttl })
    }

    fn address(&mut self, path: &str, typed: &str) -> Option<Url> {
        if typed.is_empty() {
            return None;
        }
        let plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let url = Url::parse(typed).ok().filter(plain);
        if url.is_none() {
            // What is wrong may be a password in it.
            self.problem(path, "not an address", "https:// or http://, a host, and a port if need be; nothing else");
        }
        url
    }
}

fn is_below(endpoint: &Url, own: &Url) -> bool {
    endpoint.host_str().zip(own.host_str()).is_some_and(|(endpoint, own)| host::is_at_or_below(endpoint, own))
}

/// What is allowed and yet worth a second look.
pub(super) fn warnings(typed: &file::Bucket, upstreams: &[Upstream]) -> Vec<String> {
    let mut warnings = Vec::new();
    if typed.name.is_empty() {
        return warnings;
    }
    if Url::parse(&typed.endpoint)
        .is_ok_and(|url| url.scheme() == "http" && !url.host_str().is_some_and(host::is_loopback))
    {
        warnings.push(
            "store.bucket.endpoint is plain http: whoever is on the way may read private images there".to_owned(),
        );
    }
    let (told, secret) = (!typed.advertise.is_empty(), !typed.peers_secret.is_empty());
    if typed.leases == "auto" && told != secret {
        let missing = if told { "peers_secret" } else { "advertise" };
        warnings.push(format!("store.bucket: replicas fetch each for itself: for leases {missing} is missing"));
    }
    if !typed.redirect.is_empty() && upstreams.iter().all(|upstream| upstream.access != Access::Public) {
        warnings.push("store.bucket.redirect: no upstream is public, so nobody is sent to the bucket".to_owned());
    }
    warnings
}
