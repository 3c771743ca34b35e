//! The way out: straight, or through a proxy that is configured or that the environment names.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` mean what they mean to Go's clients, ports
//! included: people set them once for all of their programs.

use std::net::IpAddr;
use std::path::Path;

use reqwest::{ClientBuilder, Proxy};
use url::{Host, Url};

use super::redirect;
use super::settings::{HttpSettings, HttpSettingsError};
use crate::setting_file;
use crate::upstream::credentials::{Auth, pair_of_file};

/// Sets the way of everything that a client for this upstream sends.
pub(super) fn egress(builder: ClientBuilder, settings: &HttpSettings) -> Result<ClientBuilder, HttpSettingsError> {
    let builder = builder.no_proxy();
    if let Some(url) = configured(settings)? {
        let proxy = Proxy::all(url).map_err(|error| unusable(settings, error.without_url().to_string()))?;
        return Ok(builder.proxy(proxy));
    }
    if redirect::is_loopback(&settings.url) {
        return Ok(builder);
    }
    let proxies = Proxies::new(|name| std::env::var(name).ok());
    Ok(if proxies.is_none() { builder } else { builder.proxy(Proxy::custom(move |url| proxies.of(url))) })
}

/// The proxy on the way to `url`, with user and password where it wants some.
pub(super) fn proxy_of(settings: &HttpSettings, url: &Url) -> Result<Option<Url>, HttpSettingsError> {
    let of_environment = || Proxies::new(|name| std::env::var(name).ok()).of(url);
    Ok(configured(settings)?.or_else(|| if redirect::is_loopback(&settings.url) { None } else { of_environment() }))
}

/// The proxy that is configured.
fn configured(settings: &HttpSettings) -> Result<Option<Url>, HttpSettingsError> {
    let Some(mut url) = settings.configured.proxy.clone() else { return Ok(None) };
    if let Some(path) = settings.configured.proxy_auth.as_ref().and_then(Auth::file) {
        log_in(&mut url, path).map_err(|reason| unusable(settings, reason))?;
    }
    Ok(Some(url))
}

fn unusable(settings: &HttpSettings, reason: String) -> HttpSettingsError {
    HttpSettingsError::Proxy { name: settings.name.clone(), reason }
}

/// Puts user and password into the address of a proxy, which is where the client looks for them.
fn log_in(proxy: &mut Url, path: &Path) -> Result<(), String> {
    let text = setting_file::text(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let (user, password) = pair_of_file(path, &text).map_err(|error| error.to_string())?;
    let put = proxy.set_username(user).and_then(|()| proxy.set_password(Some(password)));
    put.map_err(|()| "its address takes no user".to_owned())
}

/// The proxies of the environment.
struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    /// Where none is used.
    except: Vec<Exception>,
}

impl Proxies {
    /// Read from these variables.
    fn new(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let set = |name: &str| {
            let found = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
            found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let proxy = |name: &str| set(name).as_deref().and_then(proxy_url);
        let all = proxy("ALL_PROXY");
        // Within a CGI script that variable is a header of the request.
        let http = if variable("REQUEST_METHOD").is_some() { None } else { proxy("HTTP_PROXY") };
        let except = set("NO_PROXY").unwrap_or_default();
        Proxies {
            http: http.or_else(|| all.clone()),
            https: proxy("HTTPS_PROXY").or(all),
            except: except.split(',').filter_map(Exception::parse).collect(),
        }
    }

    fn is_none(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// The proxy for what goes to `url`.
    fn of(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let port = url.port_or_known_default();
        let direct = redirect::is_loopback(url) || self.except.iter().any(|except| except.takes(url, port));
        proxy.clone().filter(|_| !direct)
    }
}

/// The address of a proxy, with or without a scheme.
pub(super) fn proxy_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{text}")).ok())
}

/// A part of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A network: its address and the length of its prefix.
    Network(IpAddr, u32),
    Address(IpAddr, Option<u16>),
    /// A name and all below it; only those below it, where it was written with a dot in front.
    Domain {
        name: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Exception {
    fn parse(text: &str) -> Option<Exception> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Exception::Everything);
        }
        if let Some((address, length)) = text.split_once('/') {
            return Some(Exception::Network(address.parse().ok()?, length.parse().ok()?));
        }
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Exception::Address(address, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Exception::Address(address, port));
        }
        let host = host.strip_prefix('*').unwrap_or(host).trim_end_matches('.');
        let itself = !host.starts_with('.');
        Some(Exception::Domain { name: host.trim_start_matches('.').to_owned(), itself, port })
    }

    fn takes(&self, url: &Url, port: Option<u16>) -> bool {
        let same_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match self {
            Exception::Everything => true,
            Exception::Network(network, length) => address.is_some_and(|address| contains(*network, *length, address)),
            Exception::Address(wanted, wanted_port) => address == Some(*wanted) && same_port(wanted_port),
            Exception::Domain { name, itself, port: wanted_port } => {
                let Some(Host::Domain(host)) = url.host() else { return false };
                let host = host.trim_end_matches('.');
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (below || (*itself && host == name)) && same_port(wanted_port)
            }
        }
    }
}

fn contains(network: IpAddr, length: u32, address: IpAddr) -> bool {
    let prefix = |bits: u128, width: u32| bits.checked_shr(width.saturating_sub(length)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            prefix(u32::from(network).into(), 32) == prefix(u32::from(address).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => prefix(network.into(), 128) == prefix(address.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Proxies::new(find)
    }

    fn goes_through(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).of(&Url::parse(url).expect("url")).map(|proxy| proxy.authority().to_owned())
    }

    #[test]
    fn an_exception_from_the_proxy_may_name_a_port() {
        for (except, url, direct) in [
            ("registry.example:5000", "https://registry.example:5000/", true),
            ("registry.example:5000", "https://registry.example/", false),
            ("registry.example:443", "https://registry.example/", true),
            ("registry.example:5000", "https://sub.registry.example:5000/", true),
            ("registry.example", "https://registry.example:5000/", true),
            ("registry.example", "https://sub.registry.example/", true),
            ("registry.example", "https://myregistry.example/", false),
            (".registry.example", "https://registry.example/", false),
            (".registry.example", "https://sub.registry.example/", true),
            ("*.registry.example:5000", "https://sub.registry.example:5000/", true),
            ("*.registry.example:5000", "https://registry.example:5000/", false),
            ("REGISTRY.example", "https://registry.example/", true),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3/", false),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("[fd12::1]:5000", "https://[fd12::1]:5000/", true),
            ("fd12::1", "https://[fd12::1]:5000/", true),
            (" a.example , registry.example:5000 ", "https://registry.example:5000/", true),
            ("*", "https://registry.example/", true),
            ("", "https://registry.example/", false),
            ("", "https://127.0.0.1:5000/", true),
            ("", "https://localhost:5000/", true),
        ] {
            let through = goes_through(&[("HTTPS_PROXY", "proxy.example:3128"), ("NO_PROXY", except)], url);
            assert_eq!(through.is_none(), direct, "{except:?} {url}");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_in_either_case() {
        let one = [("https_proxy", "http://one:1"), ("ALL_PROXY", "socks5://all:2")];
        assert_eq!(goes_through(&one, "https://registry.example/").as_deref(), Some("one:1"));
        assert_eq!(goes_through(&one, "http://registry.example/").as_deref(), Some("all:2"));
        let within_cgi = [("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(goes_through(&within_cgi, "http://registry.example/"), None);
        assert!(proxies(&[("HTTPS_PROXY", " ")]).is_none());
    }
}
