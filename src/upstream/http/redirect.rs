//! Where a redirect may lead. Pure.
//!
//! A redirect is chosen by the upstream, so it must not reach what only we can reach: never from
//! https to http, never to an address of a private network unless the upstream is there itself,
//! never with a user name in it. The adapter drops credentials when the origin changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Redirects in one request, at most.
pub(super) const MAX_REDIRECTS: usize = 10;

/// What the configuration of the upstream allows its redirects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RedirectRules {
    /// The upstream itself is plain http.
    pub(super) plain_http: bool,
    /// The upstream itself is on a private network, or is marked as such.
    pub(super) private: bool,
}

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("redirects without a valid address")]
    Malformed,
    #[error("redirects from https to plain http at {0}")]
    Downgrade(String),
    #[error("redirects to {0}, an address of a private network; set allow_private if that is right")]
    Private(String),
    #[error("redirects to {0} with a user name in the address")]
    UserInfo(String),
}

/// The address that `location` leads to from `current`.
pub(super) fn next(current: &Url, location: &str, rules: RedirectRules) -> Result<Url, RedirectError> {
    let next = current.join(location).map_err(|_| RedirectError::Malformed)?;
    let host = next.host_str().unwrap_or_default().to_owned();
    if host.is_empty() {
        return Err(RedirectError::Malformed);
    }
    match (current.scheme(), next.scheme()) {
        (_, "https") => {}
        ("http", "http") if rules.plain_http => {}
        (_, "http") => return Err(RedirectError::Downgrade(host)),
        _ => return Err(RedirectError::Malformed),
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err(RedirectError::UserInfo(host));
    }
    if !rules.private && names_private(&next) {
        return Err(RedirectError::Private(host));
    }
    Ok(next)
}

/// Whether two addresses have the same scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether the host is an address of a private network as it stands, without asking the DNS.
pub(super) fn names_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_private(address.into()),
        Some(Host::Ipv6(address)) => is_private(address.into()),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => true,
    }
}

/// Whether the host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether an address is anything but a public unicast one: loopback, private, link-local (where
/// clouds keep their metadata), shared, multicast, reserved.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    match a {
        0 | 10 | 127 | 224..=255 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => b == 168 || (b == 0 && c == 0),
        198 => b & 0xfe == 18,
        _ => false,
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [a, b, ..] = segments;
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // ::, ::1 and addresses of version 4 in their several clothes
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, ..] => true,
        [0x2002, high, low, ..] => v4(high, low),
        _ => matches!(a, 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff) || (a == 0x2001 && b == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: RedirectRules = RedirectRules { plain_http: false, private: false };

    fn go(from: &str, location: &str, rules: RedirectRules) -> Result<String, RedirectError> {
        next(&Url::parse(from).expect("url"), location, rules).map(String::from)
    }

    #[test]
    fn https_never_becomes_http() {
        let insecure = RedirectRules { plain_http: true, private: false };
        let down = Err(RedirectError::Downgrade("b.example".to_owned()));
        assert_eq!(go("https://a.example/v2/", "http://b.example/x", PUBLIC), down);
        assert_eq!(go("https://a.example/v2/", "http://b.example/x", insecure), down);
        assert_eq!(go("http://a.example/v2/", "http://b.example/x", PUBLIC), down);
        assert_eq!(go("http://a.example/v2/", "http://b.example/x", insecure), Ok("http://b.example/x".to_owned()));
        assert_eq!(go("http://a.example/v2/", "https://b.example/x", insecure), Ok("https://b.example/x".to_owned()));
    }

    #[test]
    fn relative_locations_are_joined_and_odd_ones_refused() {
        let from = "https://a.example/v2/x/blobs/y";
        assert_eq!(go(from, "/storage?sig=1", PUBLIC), Ok("https://a.example/storage?sig=1".to_owned()));
        assert_eq!(go(from, "//b.example/x", PUBLIC), Ok("https://b.example/x".to_owned()));
        for odd in ["ftp://b.example/", "file:///etc/passwd", "data:,x", "https://", "https://:1/"] {
            assert_eq!(go(from, odd, PUBLIC), Err(RedirectError::Malformed), "{odd}");
        }
        let user = Err(RedirectError::UserInfo("b.example".to_owned()));
        assert_eq!(go(from, "https://user:word@b.example/", PUBLIC), user);
    }

    #[test]
    fn private_addresses_are_for_private_upstreams() {
        let inside = RedirectRules { plain_http: false, private: true };
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "localhost",
            "LOCALHOST.",
            "x.localhost",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:7f00:1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:7f00:1::]",
        ] {
            let location = format!("https://{host}/x");
            assert!(matches!(go("https://a.example/", &location, PUBLIC), Err(RedirectError::Private(_))), "{host}");
            assert!(go("https://a.example/", &location, inside).is_ok(), "{host}");
        }
        for host in ["1.1.1.1", "172.32.0.1", "100.63.0.1", "192.0.2.1", "[2606:4700::1]", "[::ffff:1.1.1.1]"] {
            assert!(go("https://a.example/", &format!("https://{host}/x"), PUBLIC).is_ok(), "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).expect("url"), &Url::parse(b).expect("url"));
        assert!(same("https://a.example/x", "https://A.example:443/y?z"));
        assert!(!same("https://a.example", "http://a.example"));
        assert!(!same("https://a.example", "https://a.example:444"));
        assert!(!same("https://a.example", "https://b.a.example"));
        assert!(!same("http://a.example:443", "https://a.example:443"));
    }
}
