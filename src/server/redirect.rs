//! Clients that are sent to the bucket for a blob. What they get there is verified by themselves alone: nothing goes
//! through us, so nothing here has hashed it on its way.

use std::net::IpAddr;
use std::time::Duration;

use url::Url;

use crate::clients::{Network, is_within};
use crate::oci::host;

/// Who is sent there, and for how long an address is good.
#[derive(Clone, Debug, Default)]
pub struct Redirects {
    /// Clients in these; none, nobody.
    pub networks: Vec<Network>,
    /// The life of an address.
    pub ttl: Duration,
}

impl Redirects {
    /// Whether this client is sent there.
    pub(super) fn are_for(&self, client: Option<IpAddr>) -> bool {
        client.is_some_and(|client| is_within(&self.networks, client))
    }
}

/// Whether who asked under this `Host` may be sent there: never where it could show what it has for us, and never from
/// https to http.
pub(super) fn may_go(to: &Url, asked: &str, encrypted: bool) -> bool {
    let downgrades = encrypted && to.scheme() != "https";
    !downgrades && to.host_str().is_some_and(|to| !host::is_at_or_below(to, host::of_authority(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_below_the_name_that_he_asked_nor_from_https_to_http() {
        for (to, asked, encrypted, expected) in [
            ("https://s3.example/x", "mirror.corp", true, true),
            ("http://s3.example/x", "mirror.corp", false, true),
            ("http://s3.example/x", "mirror.corp", true, false),
            ("https://mirror.corp:9000/x", "mirror.corp:5000", true, false),
            ("https://s3.mirror.corp/x", "mirror.corp", false, false),
            ("http://127.0.0.1:9000/x", "127.0.0.1:5000", false, true),
        ] {
            assert_eq!(may_go(&to.parse().expect("an address"), asked, encrypted), expected, "{to} {asked}");
        }
    }
}
