//! What is configured of an upstream and obeyed by whoever asks it. Plain values; no client is made here.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::credentials::Auth;
use crate::oci::{Algorithm, Digest, Place, RegistryName, Repository};
use crate::setting_file;

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the request to the headers of the answer.
    pub first_byte: Duration,
    /// Between two chunks of a body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts { connect: seconds(10), first_byte: seconds(30), idle: seconds(30) }
    }
}

impl Timeouts {
    /// How long an answer may take in all: the questions that precede it, redirects, another try, and its
    /// body where that is small. A moment longer than a single question, so that a single one that is not
    /// answered is known as such.
    pub fn longest(self) -> Duration {
        self.connect + self.first_byte + Duration::from_secs(1)
    }
}

/// How an upstream is asked. By default as where nothing is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where our credentials for it come from.
    pub auth: Auth,
    /// Hosts of token services that may get credentials although they are on another site.
    pub auth_realms: Vec<RegistryName>,
    /// Allows plain http to its own url, and https without a look at its certificate. It holds for
    /// exactly this origin, never for a token service or a redirect elsewhere. On loopback addresses
    /// http is allowed anyway.
    pub insecure: bool,
    /// Certificates to trust besides those of the system, PEM.
    pub ca: Option<PathBuf>,
    /// What to show of ourselves to exactly this origin.
    pub certificate: Option<ClientCertificate>,
    /// The proxy for everything that goes out, without user and password: `http://`, `https://`,
    /// `socks5://` (names are looked up here) or `socks5h://` (there). `None` for what the environment
    /// says. Proxies other than `socks5` look the names of redirect targets up themselves: what the
    /// address spells is refused all the same, what a name resolves to there is out of our reach.
    pub proxy: Option<Url>,
    /// The file with `user:password` for `proxy`, as an [`Auth::File`]; read once, when the clients are
    /// set up.
    pub proxy_auth: Option<Auth>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Allows redirects and token services on private networks. They are allowed anyway where the url
    /// itself spells a private address. Link-local addresses, metadata services among them, are not.
    pub allow_private: bool,
    /// Allows an https upstream to redirect to plain http for blobs, whose digest is verified in any case.
    pub redirect_to_http: bool,
    /// Below so many hundredths of the pulls that it grants, it is spared.
    pub budget_floor: u8,
}

impl Settings {
    /// What is in the files that are named, where they can be read: credentials and certificates.
    pub fn content(&self) -> Digest {
        let proxy = self.proxy_auth.iter().flat_map(Auth::files_here);
        let own = self.certificate.iter().flat_map(|own| [own.certificate.clone(), own.key.clone()]);
        let files = self.auth.files_here().into_iter().chain(self.ca.clone()).chain(proxy).chain(own);
        let read = files.map(|path| setting_file::bytes(&path).unwrap_or_default());
        let each: Vec<_> = read.flat_map(|bytes| Digest::of(Algorithm::Sha256, &bytes).as_bytes().to_vec()).collect();
        Digest::of(Algorithm::Sha256, &each)
    }
}

/// What a 404 of one of several addresses means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissing {
    /// That it does not exist.
    #[default]
    Answer,
    /// That this address has not got it, and the next may.
    Next,
}

/// What stands before the API in the path of an upstream's url, without a slash at the end, and what stands
/// before every repository name there: `https://harbor.corp/v2/proxy-hub/` has nothing of the former and
/// `proxy-hub` of the latter. `None` where no repository name can begin like that.
pub fn split_api(url: &Url) -> Option<(String, Option<Repository>)> {
    let path = url.path().trim_end_matches('/');
    let below = |at: usize| path[at..].strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let found = path.match_indices("/v2").find_map(|(at, _)| Some((at, below(at)?)));
    match found {
        None => Some((path.to_owned(), None)),
        Some((at, "")) => Some((path[..at].to_owned(), None)),
        Some((at, prefix)) => Some((path[..at].to_owned(), Some(prefix[1..].parse().ok()?))),
    }
}

/// Where an address leads: scheme, host, port, and what stands before the API and before every name there, however that
/// is spelled.
pub fn place_of(url: &Url) -> Place {
    let (base, prefix) = split_api(url).unwrap_or_default();
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let prefix = prefix.as_ref().map_or("", Repository::as_str);
    Place::of(&format!("{}://{host}:{port}{base}/v2/{prefix}", url.scheme()))
}

/// A certificate of ours and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The file with the certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_behind_the_api_stands_before_every_repository_name() {
        for (url, expected) in [
            ("https://r.example", Some(("", None))),
            ("https://r.example/", Some(("", None))),
            ("https://r.example/v2/", Some(("", None))),
            ("https://r.example/v2", Some(("", None))),
            ("https://r.example/v2/proxy-hub/", Some(("", Some("proxy-hub")))),
            ("https://r.example/v2/a/b", Some(("", Some("a/b")))),
            ("https://r.example/docker/v2/a", Some(("/docker", Some("a")))),
            ("https://r.example/docker/", Some(("/docker", None))),
            ("https://r.example/v2x/v2/a", Some(("/v2x", Some("a")))),
            ("https://r.example/v2/v2/a", Some(("", Some("v2/a")))),
            ("https://r.example/v2/a%2Fb", None),
            ("https://r.example/v2/a//b", None),
            ("https://r.example/v2/_catalog", None),
        ] {
            let split = split_api(&Url::parse(url).expect("url"));
            let split = split.as_ref().map(|(base, prefix)| (base.as_str(), prefix.as_ref().map(Repository::as_str)));
            assert_eq!(split, expected, "{url}");
        }
    }

    #[test]
    fn addresses_lead_to_one_place_however_they_are_spelled_and_to_others_where_anything_differs() {
        let place = |url: &str| place_of(&Url::parse(url).expect("url"));
        for same in ["https://R.example/", "https://r.example:443", "https://r.example/v2", "https://r.example/v2/"] {
            assert_eq!(place(same), place("https://r.example"), "{same}");
        }
        assert_eq!(place("https://r.example/a/v2/b"), place("https://r.example/a/v2/b/"));
        for other in ["http://r.example", "https://s.example", "https://r.example:5000", "https://r.example/v2/a"] {
            assert_ne!(place(other), place("https://r.example"), "{other}");
        }
        assert_ne!(place("https://r.example/a"), place("https://r.example/v2/a"));
    }
}
