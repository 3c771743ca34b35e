//! The address of the mirror, as clients are told of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Why something is no address of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as http://127.0.0.1:5000 or https://mirror.example: scheme, host and port, and no more")]
pub struct AddressError;

/// What a mirror is called in lines that are to be copied where it has no name that is known.
pub const SOME_HOST: &str = "mirror.example";

/// `http://host:port` or `https://host:port`, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MirrorAddress {
    /// `host`, or `host:port` where it is not that of the scheme.
    authority: String,
    encrypted: bool,
    loopback: bool,
}

impl MirrorAddress {
    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether TLS is spoken there.
    pub const fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether it is an address of this machine for itself.
    pub const fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Whether it is a number of IPv6, which stands in brackets and which many clients cannot read.
    pub fn is_ip6(&self) -> bool {
        self.authority.starts_with('[')
    }

    /// Whether nobody can listen there.
    pub fn has_no_port(&self) -> bool {
        self.host_and_port().1 == 0
    }

    /// The same port by a name: this machine's own, or one that somebody has to put there.
    pub fn by_name(&self) -> MirrorAddress {
        let (_, port) = self.host_and_port();
        let host = if self.loopback { "localhost" } else { SOME_HOST };
        MirrorAddress { authority: format!("{host}:{port}"), ..self.clone() }
    }

    /// Whether it is where somebody listens, by another name: this machine's own, or one of those in the certificate
    /// that is shown there.
    pub fn is_another_name_of(&self, listener: &MirrorAddress, certified: &[String]) -> bool {
        let ((host, port), (_, listening)) = (self.host_and_port(), listener.host_and_port());
        let is_named = match host {
            "localhost" => listener.loopback,
            name => self.encrypted && certified.iter().any(|pattern| is_certified(name, pattern)),
        };
        is_named && port == listening && self.encrypted == listener.encrypted
    }

    fn host_and_port(&self) -> (&str, u16) {
        let usual = if self.encrypted { 443 } else { 80 };
        let named = self.authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        named.unwrap_or((&self.authority, usual))
    }
}

/// Whether a certificate that says this is for a host: `*` is one label, the first.
fn is_certified(host: &str, pattern: &str) -> bool {
    let below = pattern.strip_prefix("*.").zip(host.split_once('.'));
    host.eq_ignore_ascii_case(pattern) || below.is_some_and(|(of, (_, rest))| rest.eq_ignore_ascii_case(of))
}

impl FromStr for MirrorAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<MirrorAddress, AddressError> {
        let url = Url::parse(text).map_err(|_| AddressError)?;
        let encrypted = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(AddressError),
        };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none() && !text.contains('@');
        let host = url.host().filter(|_| bare && anonymous).ok_or(AddressError)?;
        // All addresses are none to connect to.
        let host = match host {
            Host::Ipv4(ip) if ip.is_unspecified() => Host::Ipv4(Ipv4Addr::LOCALHOST),
            Host::Ipv6(ip) if ip.to_canonical().is_unspecified() => Host::Ipv4(Ipv4Addr::LOCALHOST),
            host => host,
        };
        let loopback = match &host {
            Host::Ipv4(ip) => IpAddr::from(*ip).is_loopback(),
            Host::Ipv6(ip) => ip.to_canonical().is_loopback(),
            Host::Domain(name) => *name == "localhost",
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if matches!(&host, Host::Domain(name) if !name.contains(is_plain) || name.contains(|c| !is_plain(c))) {
            return Err(AddressError);
        }
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        Ok(MirrorAddress { authority, encrypted, loopback })
    }
}

impl TryFrom<String> for MirrorAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<MirrorAddress, AddressError> {
        text.parse()
    }
}

impl From<MirrorAddress> for String {
    fn from(address: MirrorAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for MirrorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.encrypted { "https" } else { "http" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for (typed, expected) in [
            ("http://127.0.0.1:5000", Some("http://127.0.0.1:5000")),
            ("http://127.0.0.1:5000/", Some("http://127.0.0.1:5000")),
            ("HTTPS://Mirror.Example:443", Some("https://mirror.example")),
            ("https://mirror.example:5000", Some("https://mirror.example:5000")),
            ("http://[::1]:5000", Some("http://[::1]:5000")),
            ("127.0.0.1:5000", None),
            ("ftp://mirror.example", None),
            ("http://mirror.example/hub", None),
            ("http://me:secret@mirror.example", None),
            ("http://mirror.example?x", None),
            ("http://mir\"ror.example", None),
            ("http://", None),
        ] {
            let parsed = typed.parse::<MirrorAddress>().map(|address| address.to_string());
            assert_eq!(parsed.ok().as_deref(), expected, "{typed}");
        }
    }

    #[test]
    fn a_listener_is_known_by_its_other_names() {
        let certified = ["Mirror.Example", "*.lab.example"].map(str::to_owned);
        for (named, listener, expected) in [
            ("http://localhost:5000", "http://127.0.0.1:5000", true),
            ("http://localhost:5000", "http://[::1]:5000", true),
            ("http://localhost:5000", "http://127.0.0.1:5001", false),
            ("https://localhost:5000", "http://127.0.0.1:5000", false),
            ("http://localhost:5000", "http://192.0.2.1:5000", false),
            ("http://mirror.example:5000", "http://192.0.2.1:5000", false),
            ("https://mirror.example:5000", "https://192.0.2.1:5000", true),
            ("https://mirror.example", "https://192.0.2.1", true),
            ("https://a.lab.example:5000", "https://192.0.2.1:5000", true),
            ("https://a.b.lab.example:5000", "https://192.0.2.1:5000", false),
            ("https://other.example:5000", "https://192.0.2.1:5000", false),
        ] {
            let address = |text: &str| text.parse::<MirrorAddress>().expect("an address");
            let known = address(named).is_another_name_of(&address(listener), &certified);
            assert_eq!(known, expected, "{named} {listener}");
        }
    }

    #[test]
    fn an_address_of_ip6_has_a_name_to_put_in_its_place() {
        for (typed, expected) in [
            ("http://[::1]:5000", Some("http://localhost:5000")),
            ("http://[2001:db8::1]:5000", Some("http://mirror.example:5000")),
            ("https://[::1]", Some("https://localhost:443")),
            ("http://127.0.0.1:5000", None),
            ("http://localhost:5000", None),
        ] {
            let address = typed.parse::<MirrorAddress>().expect("an address");
            let named = address.is_ip6().then(|| address.by_name().to_string());
            assert_eq!(named.as_deref(), expected, "{typed}");
        }
    }

    #[test]
    fn loopback_is_known() {
        for (typed, expected) in [
            ("http://127.0.0.7:1", true),
            ("http://localhost:1", true),
            ("http://[::1]:1", true),
            ("http://192.0.2.1:1", false),
            ("http://mirror.example", false),
        ] {
            assert_eq!(typed.parse::<MirrorAddress>().map(|address| address.is_loopback()), Ok(expected), "{typed}");
        }
    }
}
