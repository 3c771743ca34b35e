//! Names of hosts, as far as one is in the other.

/// Whether a host is this one or below it: to such a host a client may show what it has for this one. Loopback is exempt:
/// there everybody has the same name.
pub fn is_at_or_below(host: &str, own: &str) -> bool {
    // A dot at the end is the root of all names, and changes nothing.
    let plain = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let (host, own) = (plain(host), plain(own));
    let below = host.strip_suffix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below && !is_loopback(&own)
}

/// Whether a host is this machine, whoever asks.
pub fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let named = host == "localhost" || host.ends_with(".localhost");
    named || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The host of an authority, without its port.
pub fn of_authority(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_a_name_or_below_it_is_known() {
        for (host, own, expected) in [
            ("mirror.corp", "mirror.corp:5000", true),
            ("s3.Mirror.corp", "mirror.CORP", true),
            ("s3.corp", "mirror.corp", false),
            ("notmirror.corp", "mirror.corp", false),
            ("s3.mirror.corp.", "mirror.corp", true),
            ("s3.mirror.corp", "mirror.corp.:5000", true),
            ("notmirror.corp.", "mirror.corp", false),
            ("corp", "mirror.corp", false),
            ("10.0.0.1", "10.0.0.1:5000", true),
            ("[fd00::1]", "[fd00::1]:5000", true),
            ("127.0.0.1", "127.0.0.1:5000", false),
            ("[::1]", "[::1]", false),
            ("localhost", "localhost:5000", false),
        ] {
            assert_eq!(is_at_or_below(host, of_authority(own)), expected, "{host} {own}");
        }
    }
}
