//! Which token service may be asked for a token of an upstream. Pure.
//!
//! Truth: a credential goes only to a token service that [`check_realm`] lets through. Rules: the realm
//! advisories of 2026.

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
    /// It is plain http while the upstream is https.
    #[error("the upstream is https but names a token service at {0} over plain http")]
    PlainHttp(String),
    /// Another site than the upstream's.
    #[error(
        "the upstream names a token service at {0}, which is another site; \
         if it is the right one, add \"{0}\" to auth_realms of this upstream"
    )]
    Foreign(String),
}

/// Reads the `realm` of a challenge by `upstream` and decides whether it may be asked for tokens:
/// its host is the upstream's, or of the same registrable domain, or one of `allowed`. Addresses and
/// `localhost` have no domain and must be equal. The port may differ.
///
/// # Errors
/// See [`RealmError`]; the messages name the host and nothing else of the realm.
pub fn check_realm(upstream: &Url, realm: &str, allowed: &[RegistryName]) -> Result<Url, RealmError> {
    let realm = Url::parse(realm).map_err(|_| RealmError::Malformed)?;
    let host = realm.host_str().unwrap_or_default().to_owned();
    if host.is_empty() || !matches!(realm.scheme(), "https" | "http") {
        return Err(RealmError::Malformed);
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(RealmError::UserInfo(host));
    }
    if upstream.scheme() == "https" && realm.scheme() != "https" {
        return Err(RealmError::PlainHttp(host));
    }
    if same_site(upstream, &realm) || allowed.iter().any(|allowed| allowed.as_str() == host) {
        return Ok(realm);
    }
    Err(RealmError::Foreign(host))
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
    fn a_realm_is_of_the_same_site_or_allowed_by_name() {
        let hub = "https://registry-1.docker.io";
        let foreign = |host: &str| Err(RealmError::Foreign(host.to_owned()));
        let allowed: RegistryName = "login.partner.example".parse().expect("a host");
        for (upstream, realm, expected) in [
            (hub, "https://auth.docker.io/token", Ok(())),
            (hub, "https://AUTH.docker.io:8443/token", Ok(())),
            ("https://ghcr.io", "https://ghcr.io/token", Ok(())),
            ("https://registry.gitlab.example", "https://gitlab.example/jwt/auth", Ok(())),
            ("http://registry.example", "http://auth.registry.example/t", Ok(())),
            ("http://registry.example", "https://registry.example/t", Ok(())),
            ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token", Ok(())),
            ("http://localhost:5000", "http://localhost:5001/token", Ok(())),
            ("https://[::1]", "https://[0:0::1]:1/token", Ok(())),
            (hub, "https://login.partner.example/x", Ok(())),
            (hub, "https://sub.login.partner.example/x", foreign("sub.login.partner.example")),
            (hub, "https://docker.io.evil.test/token", foreign("docker.io.evil.test")),
            (hub, "https://evildocker.io/token", foreign("evildocker.io")),
            (hub, "https://auth.docker.io./token", foreign("auth.docker.io.")),
            (hub, "https://169.254.169.254/token", foreign("169.254.169.254")),
            (hub, "https://\u{501}ocker.io/token", foreign("xn--ocker-xwf.io")),
            ("https://one.co.uk", "https://two.co.uk/", foreign("two.co.uk")),
            ("https://me.github.io", "https://you.github.io/", foreign("you.github.io")),
            ("https://10.0.0.1", "https://10.0.0.2/token", foreign("10.0.0.2")),
            ("https://10.0.0.1", "https://1.0.0.1/token", foreign("1.0.0.1")),
            ("http://127.0.0.1:5000", "http://localhost:5000/token", foreign("localhost")),
            ("http://localhost", "http://x.localhost/", foreign("x.localhost")),
            (hub, "http://auth.docker.io/token", Err(RealmError::PlainHttp("auth.docker.io".to_owned()))),
            (hub, "https://u@auth.docker.io/token", Err(RealmError::UserInfo("auth.docker.io".to_owned()))),
            (hub, "https://docker.io:x@evil.test/", Err(RealmError::UserInfo("evil.test".to_owned()))),
            (hub, "ftp://auth.docker.io/token", Err(RealmError::Malformed)),
            (hub, "/token", Err(RealmError::Malformed)),
            (hub, "", Err(RealmError::Malformed)),
        ] {
            let upstream = Url::parse(upstream).expect("url");
            let found = check_realm(&upstream, realm, std::slice::from_ref(&allowed)).map(|_| ());
            assert_eq!(found, expected, "{upstream} {realm}");
        }
    }
}
