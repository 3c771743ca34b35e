//! Which token service may be asked for a token of an upstream. Pure.
//!
//! Truth: a credential goes only to a token service that [`check_realm`] calls trusted, and over https
//! where the upstream is https. One that is not may be asked for a token for nobody, which takes no secret.
//! Rules: the realm advisories of 2026.

use url::{Host, Url};

use crate::oci::RegistryName;

/// Why a token service is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmError {
    /// Not an absolute http or https address.
    #[error("the upstream names a token service whose address is not valid")]
    Malformed,
    /// It carries a user or a password.
    #[error("the upstream names a token service at {0} with a user name in its address")]
    UserInfo(String),
}

/// A token service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// Where it is: over https, where the upstream is.
    pub url: Url,
    /// Whether it may see credentials.
    pub trusted: bool,
    /// Whether the upstream named it over plain http, and is https itself.
    pub upgraded: bool,
}

impl Realm {
    /// The host, and the port where it is not the usual one.
    pub fn authority(&self) -> String {
        authority(&self.url)
    }
}

/// Reads the `realm` of a challenge by `upstream` and decides whether it may see credentials: its host is
/// the upstream's, or of the same registrable domain, or one of `allowed`, with its port or without one.
/// Addresses and `localhost` have no domain and must be equal. The port may differ.
///
/// # Errors
/// See [`RealmError`]; the messages name the host and nothing else of the realm.
pub fn check_realm(upstream: &Url, realm: &str, allowed: &[RegistryName]) -> Result<Realm, RealmError> {
    let mut url = Url::parse(realm).map_err(|_| RealmError::Malformed)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    if host.is_empty() || !matches!(url.scheme(), "https" | "http") {
        return Err(RealmError::Malformed);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RealmError::UserInfo(host));
    }
    let upgraded = upstream.scheme() == "https" && url.scheme() == "http" && url.set_scheme("https").is_ok();
    let trusted = same_site(upstream, &url) || allowed.iter().any(|allowed| names(allowed, &url));
    Ok(Realm { url, trusted, upgraded })
}

/// Whether `allowed`, a host with or without a port, is where `url` leads.
fn names(allowed: &RegistryName, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    allowed.as_str() == host || allowed.as_str() == format!("{host}:{port}")
}

/// Host, and port where it is not the usual one.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn same_site(one: &Url, other: &Url) -> bool {
    match (one.host(), other.host()) {
        (Some(one), Some(other)) if one == other => true,
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            let absolute = one.ends_with('.') || other.ends_with('.');
            !absolute && psl::domain_str(one).is_some_and(|domain| psl::domain_str(other) == Some(domain))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_trusted_where_it_is_of_the_same_site_or_allowed_by_name() {
        let hub = "https://registry-1.docker.io";
        let allowed: Vec<RegistryName> = ["login.partner.example", "login.other.example:8443", "third.example:443"]
            .map(|name| name.parse().expect("a host"))
            .into();
        for (upstream, realm, expected) in [
            (hub, "https://auth.docker.io/token", Ok(true)),
            (hub, "https://AUTH.docker.io:8443/token", Ok(true)),
            (hub, "HTTPS://auth.docker.io/token", Ok(true)),
            ("https://ghcr.io", "https://ghcr.io/token", Ok(true)),
            ("https://registry.gitlab.example", "https://gitlab.example/jwt/auth", Ok(true)),
            ("http://registry.example", "http://auth.registry.example/t", Ok(true)),
            ("http://registry.example", "https://registry.example/t", Ok(true)),
            ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token", Ok(true)),
            ("http://localhost:5000", "http://localhost:5001/token", Ok(true)),
            ("https://[::1]", "https://[0:0::1]:1/token", Ok(true)),
            (hub, "https://login.partner.example/x", Ok(true)),
            (hub, "https://login.partner.example:8443/x", Ok(true)),
            (hub, "https://login.other.example:8443/x", Ok(true)),
            (hub, "https://login.other.example/x", Ok(false)),
            (hub, "https://third.example/x", Ok(true)),
            (hub, "https://third.example:8443/x", Ok(false)),
            (hub, "https://sub.login.partner.example/x", Ok(false)),
            (hub, "https://docker.io.evil.test/token", Ok(false)),
            (hub, "https://evildocker.io/token", Ok(false)),
            (hub, "https://auth.docker.io./token", Ok(false)),
            (hub, "https://169.254.169.254/token", Ok(false)),
            (hub, "https://\u{501}ocker.io/token", Ok(false)),
            ("https://one.co.uk", "https://two.co.uk/", Ok(false)),
            ("https://me.github.io", "https://you.github.io/", Ok(false)),
            ("https://10.0.0.1", "https://10.0.0.2/token", Ok(false)),
            ("https://10.0.0.1", "https://1.0.0.1/token", Ok(false)),
            ("http://127.0.0.1:5000", "http://localhost:5000/token", Ok(false)),
            ("http://localhost", "http://x.localhost/", Ok(false)),
            (hub, "http://auth.docker.io/token", Ok(true)),
            (hub, "https://u@auth.docker.io/token", Err(RealmError::UserInfo("auth.docker.io".to_owned()))),
            (hub, "https://docker.io:x@evil.test/", Err(RealmError::UserInfo("evil.test".to_owned()))),
            (hub, "ftp://auth.docker.io/token", Err(RealmError::Malformed)),
            (hub, "/token", Err(RealmError::Malformed)),
            (hub, "", Err(RealmError::Malformed)),
        ] {
            let upstream = Url::parse(upstream).expect("url");
            let found = check_realm(&upstream, realm, &allowed).map(|realm| realm.trusted);
            assert_eq!(found, expected, "{upstream} {realm}");
        }
    }

    #[test]
    fn the_token_service_of_an_https_upstream_is_asked_over_https() {
        let upstream = Url::parse("https://registry.example").expect("url");
        let asked =
            |realm: &str| check_realm(&upstream, realm, &[]).map(|realm| (realm.url.to_string(), realm.upgraded));
        assert_eq!(asked("http://registry.example/t"), Ok(("https://registry.example/t".to_owned(), true)));
        assert_eq!(asked("http://registry.example:80/t"), Ok(("https://registry.example/t".to_owned(), true)));
        assert_eq!(asked("http://registry.example:81/t"), Ok(("https://registry.example:81/t".to_owned(), true)));
        assert_eq!(asked("https://registry.example/t"), Ok(("https://registry.example/t".to_owned(), false)));
    }
}
