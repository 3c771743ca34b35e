//! Where a redirect may lead. Pure.
//!
//! A redirect is chosen by the upstream, so it must not reach what only we can reach: never from
//! https to http, never to an address of a private network unless the upstream is there itself,
//! never to where clouds tell a machine its secrets. A user name in it is dropped, and shown to nobody. What the address
//! spells is judged here, before anybody is asked, a proxy included; what names resolve to is up to
//! the resolver. The adapter drops credentials when the origin changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::StatusCode;
use url::{Host, Url};

/// Redirects in one request, at most.
pub(super) const MAX_REDIRECTS: usize = 10;

/// What the configuration of the upstream allows its redirects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RedirectRules {
    /// The upstream itself is plain http.
    pub(super) plain_http: bool,
    /// The operator lets an https upstream redirect to plain http for blobs.
    pub(super) blobs_over_http: bool,
    /// The upstream itself is on a private network, or is marked as such.
    pub(super) private: bool,
}

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("redirects without a valid address")]
    Malformed,
    #[error("redirects from https to plain http at {0}; if that is right for blobs, set redirect_to_http")]
    Downgrade(String),
    #[error("redirects to {0}, an address of a private network; set allow_private if that is right")]
    Private(String),
    #[error("redirects to {0}, where a machine finds its neighbours and its cloud; that is never followed")]
    LinkLocal(String),
}

impl RedirectRules {
    /// The rules for a question about a blob, or about anything else.
    pub(super) fn about(self, blob: bool) -> RedirectRules {
        RedirectRules { blobs_over_http: self.blobs_over_http && blob, ..self }
    }
}

/// The address that `location` leads to from `current`.
pub(super) fn next(current: &Url, location: &str, rules: RedirectRules) -> Result<Url, RedirectError> {
    let mut next = current.join(location).map_err(|_| RedirectError::Malformed)?;
    // Fails for addresses without a host, which are none.
    let _ = next.set_username("").and_then(|()| next.set_password(None));
    let host = next.host_str().unwrap_or_default().to_owned();
    if host.is_empty() {
        return Err(RedirectError::Malformed);
    }
    match (current.scheme(), next.scheme()) {
        (_, "https") => {}
        ("http", "http") if rules.plain_http => {}
        (_, "http") if rules.blobs_over_http => {}
        (_, "http") => return Err(RedirectError::Downgrade(host)),
        _ => return Err(RedirectError::Malformed),
    }
    // The first hop is where the configuration says, and others have come past here. Another port of the same host is
    // meant, too: registries keep their storage and their tokens there; secrets stay behind, and where we listen
    // ourselves is looked at elsewhere.
    if next.host() == current.host() {
        return Ok(next);
    }
    if names_link_local(&next) {
        return Err(RedirectError::LinkLocal(host));
    }
    if !rules.private && (names_private(&next) || is_bare_name(&next)) {
        return Err(RedirectError::Private(host));
    }
    Ok(next)
}

/// Whether an answer of this status leads on, where it has a location.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
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

/// Names under which clouds offer a machine its metadata, within the machine's network only.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.tencentyun.com"];

/// Whether the host is a link-local address, or a metadata service, as it stands.
pub(super) fn names_link_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_link_local(address.into()),
        Some(Host::Ipv6(address)) => is_link_local(address.into()),
        Some(Host::Domain(name)) => METADATA_NAMES.contains(&name.trim_end_matches('.')),
        None => false,
    }
}

/// Whether the host is a name without a dot, which only means something within a network.
fn is_bare_name(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Domain(name)) if !name.trim_end_matches('.').contains('.'))
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

/// Whether an address is link-local, or one where clouds keep metadata elsewhere.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    let v4 = match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => embedded_v4(address),
    };
    let v4_is = v4.is_some_and(|address| {
        address.is_link_local()
            || [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]].contains(&address.octets())
    });
    let v6_is = match address {
        IpAddr::V6(address) => matches!(address.segments(), [0xfe80..=0xfebf, ..] | [0xfd00, 0xec2, ..]),
        IpAddr::V4(_) => false,
    };
    v4_is || v6_is
}

/// The address of version 4 that one of version 6 stands for.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
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
    // `::` and `::1` are among those that stand for one of version 4.
    if let Some(address) = embedded_v4(address) {
        return is_private_v4(address);
    }
    match address.segments() {
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => true,
        [a, ..] => matches!(a, 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: RedirectRules = RedirectRules { plain_http: false, blobs_over_http: false, private: false };

    fn go(from: &str, location: &str, rules: RedirectRules) -> Result<String, RedirectError> {
        next(&Url::parse(from).expect("url"), location, rules).map(String::from)
    }

    #[test]
    fn https_never_becomes_http() {
        let insecure = RedirectRules { plain_http: true, blobs_over_http: false, private: false };
        let down = Err(RedirectError::Downgrade("b.example".to_owned()));
        assert_eq!(go("https://a.example/v2/", "http://b.example/x", PUBLIC), down);
        assert_eq!(go("https://a.example/v2/", "http://b.example/x", insecure), down);
        assert_eq!(go("http://a.example/v2/", "http://b.example/x", PUBLIC), down);
        assert_eq!(go("http://a.example/v2/", "http://b.example/x", insecure), Ok("http://b.example/x".to_owned()));
        assert_eq!(go("http://a.example/v2/", "https://b.example/x", insecure), Ok("https://b.example/x".to_owned()));
    }

    #[test]
    fn blobs_alone_may_be_fetched_over_http_where_the_operator_allows_it() {
        let allowed = RedirectRules { blobs_over_http: true, ..PUBLIC };
        let (blobs, api) = (allowed.about(true), allowed.about(false));
        let target = "http://b.example/x";
        assert_eq!(go("https://a.example/v2/", target, blobs), Ok(target.to_owned()));
        assert_eq!(go("https://a.example/v2/", target, api), Err(RedirectError::Downgrade("b.example".to_owned())));
        let refused = go("https://a.example/v2/", "http://10.0.0.1/x", blobs);
        assert_eq!(refused, Err(RedirectError::Private("10.0.0.1".to_owned())));
    }

    #[test]
    fn relative_locations_are_joined_and_odd_ones_refused() {
        let from = "https://a.example/v2/x/blobs/y";
        assert_eq!(go(from, "/storage?sig=1", PUBLIC), Ok("https://a.example/storage?sig=1".to_owned()));
        assert_eq!(go(from, "//b.example/x", PUBLIC), Ok("https://b.example/x".to_owned()));
        for odd in ["ftp://b.example/", "file:///etc/passwd", "data:,x", "https://", "https://:1/"] {
            assert_eq!(go(from, odd, PUBLIC), Err(RedirectError::Malformed), "{odd}");
        }
        for named in ["https://user:word@b.example/x", "https://user@b.example/x", "//:word@b.example/x"] {
            assert_eq!(go(from, named, PUBLIC), Ok("https://b.example/x".to_owned()), "nobody is told who {named} is");
        }
    }

    #[test]
    fn private_addresses_are_for_private_upstreams() {
        let inside = RedirectRules { plain_http: false, blobs_over_http: false, private: true };
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
            let refused = go("https://a.example/", &location, PUBLIC);
            assert!(matches!(refused, Err(RedirectError::Private(_) | RedirectError::LinkLocal(_))), "{host}");
            let never = matches!(refused, Err(RedirectError::LinkLocal(_)));
            assert_eq!(go("https://a.example/", &location, inside).is_ok(), !never, "{host}");
        }
        // Whoever is there already may lead to another port of it.
        assert!(go("https://10.0.0.1/", "https://10.0.0.1:22/x", PUBLIC).is_ok());
        for host in ["registry", "registry.", "internal"] {
            let location = format!("https://{host}/x");
            assert!(matches!(go("https://a.example/", &location, PUBLIC), Err(RedirectError::Private(_))), "{host}");
            assert!(go("https://a.example/", &location, inside).is_ok(), "{host}");
        }
        assert!(go("https://registry/", "https://registry/x", PUBLIC).is_ok(), "where the configuration says");
        for host in ["1.1.1.1", "172.32.0.1", "100.63.0.1", "192.0.2.1", "[2606:4700::1]", "[::ffff:1.1.1.1]"] {
            assert!(go("https://a.example/", &format!("https://{host}/x"), PUBLIC).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_metadata_service_is_for_nobody_but_who_names_it() {
        let inside = RedirectRules { plain_http: true, blobs_over_http: false, private: true };
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "2852039166",
            "0xa9.254.43518",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[2002:a9fe:a9fe::]",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "instance-data.ec2.internal",
        ] {
            for from in ["http://127.0.0.1:5000/v2/", "http://10.0.0.1/", "http://registry/"] {
                let found = go(from, &format!("http://{host}/latest/meta-data/"), inside);
                assert!(matches!(found, Err(RedirectError::LinkLocal(_))), "{from} {host} {found:?}");
            }
            let itself = format!("http://{host}/x");
            assert!(go(&itself, "/y", inside).is_ok(), "{host}");
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
