//! Where a daemon may be: what was typed, else what the configuration says.

use std::path::PathBuf;

use super::tls::Trust;
use crate::config::{Config, reachable};
use crate::daemon::store::socket_of_daemon;

/// Where a service has its socket, for commands that are run outside of it.
const SOCKET_OF_SERVICE: &str = "/run/registry-mirror/registry-mirror.sock";
/// The port of `https://` without one.
const HTTPS: u16 = 443;

/// A place where a daemon may listen.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Address {
    /// `host:port`, where HTTP is spoken as it is.
    Plain(String),
    /// `host:port`, where it is spoken within TLS, and whom to believe there.
    Tls(String, Trust),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Plain(at) => write!(f, "http://{at}"),
            Address::Tls(at, _) => write!(f, "https://{at}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where the daemon of this configuration listens, in the order to try.
pub(super) fn configured(config: &Config) -> Vec<Address> {
    let mut addresses = of_store(config);
    let service = Some(PathBuf::from(SOCKET_OF_SERVICE)).filter(|path| path.exists());
    addresses.extend(service.map(Address::Unix));
    addresses.extend(config.server.admin.iter().map(|listening| {
        let at = reachable(*listening).to_string();
        match &config.server.tls {
            Some(files) if !listening.ip().to_canonical().is_loopback() => {
                Address::Tls(at, Trust::exactly(&files.cert))
            }
            _ => Address::Plain(at),
        }
    }));
    addresses
}

/// Where the daemon of this store listens, and no other.
pub(super) fn of_store(config: &Config) -> Vec<Address> {
    let mut sockets: Vec<_> = config.server.admin_socket.iter().cloned().chain(socket_of_daemon(config)).collect();
    sockets.dedup();
    sockets.into_iter().filter(|path| path.exists()).map(Address::Unix).collect()
}

/// What was typed as an address; `https://` is believed as `trust` says.
pub(super) fn parse(typed: &str, trust: impl FnOnce() -> Trust) -> Option<Address> {
    if let Some(path) = typed.strip_prefix("unix:") {
        let path = std::path::absolute(path.strip_prefix("//").unwrap_or(path));
        return path.ok().map(Address::Unix);
    }
    let (at, encrypted) = match typed.strip_prefix("https://") {
        Some(at) => (at, true),
        None => (typed.strip_prefix("http://").unwrap_or(typed), false),
    };
    let at = at.strip_suffix('/').unwrap_or(at);
    let has_port = at.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let at = if encrypted && !has_port { format!("{at}:{HTTPS}") } else { at.to_owned() };
    let (host, port) = at.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#' | '[' | ']');
    let is_host = !bare.is_empty() && !bare.contains(odd) && (!bare.contains(':') || bare != host);
    (is_host && port.parse::<u16>().is_ok())
        .then(|| if encrypted { Address::Tls(at.clone(), trust()) } else { Address::Plain(at.clone()) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    #[test]
    fn an_admin_address_is_a_url_an_address_or_a_socket() {
        for (typed, expected) in [
            ("http://127.0.0.1:5080/", Some("http://127.0.0.1:5080")),
            ("localhost:5080", Some("http://localhost:5080")),
            ("[::1]:5080", Some("http://[::1]:5080")),
            ("unix:/run/x.sock", Some("unix:/run/x.sock")),
            ("unix:///run/x.sock", Some("unix:/run/x.sock")),
            ("https://mirror.example/", Some("https://mirror.example:443")),
            ("https://[2001:db8::1]", Some("https://[2001:db8::1]:443")),
            ("https://mirror.example:5080", Some("https://mirror.example:5080")),
            ("unix:", None),
            ("5080", None),
            ("http://mirror.example/", None),
            ("http://mirror.example:5080/api", None),
            ("https://me@mirror.example", None),
            ("https://", None),
            ("::1:5080", None),
        ] {
            let parsed = parse(typed, Trust::system).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{typed}");
        }
        let here = std::env::current_dir().expect("a folder");
        let parsed = parse("unix:x.sock", Trust::system).map(|address| address.to_string());
        assert_eq!(parsed, Some(format!("unix:{}/x.sock", here.display())));
    }

    #[test]
    fn the_addresses_of_a_configuration_are_those_that_can_be_connected_to() {
        let text =
            "[server]\nadmin_socket = \"off\"\nadmin = [\"127.0.0.1:1\", \"0.0.0.0:2\", \"[::]:3\", \"192.0.2.7:4\"]\n";
        let certificate = "[server.tls]\ncert = \"/nonexistent/cert\"\nkey = \"/nonexistent/key\"\n";
        let found = |text: &str| {
            let home = [("HOME".to_owned(), "/home/someone".to_owned())];
            let config = Config::parse(Path::new("x"), text, home, Overrides::default()).expect("valid");
            let all: Vec<_> = configured(&config).iter().map(ToString::to_string).collect();
            all.into_iter().filter(|address| !address.starts_with("unix:")).collect::<Vec<_>>()
        };
        assert_eq!(found(text), ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://[::1]:3", "http://192.0.2.7:4"]);
        let both = format!("{text}{certificate}");
        assert_eq!(
            found(&both),
            ["http://127.0.0.1:1", "https://127.0.0.1:2", "https://[::1]:3", "https://192.0.2.7:4"]
        );
    }
}
