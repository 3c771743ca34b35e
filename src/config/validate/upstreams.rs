//! The sections `[[upstream]]`, and those that are there without being written.

use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use super::Check;
use crate::access::Access;
use crate::config::document::nearest;
use crate::config::{Upstream, file, well_known};
use crate::mirror::routes::fold_alias;
use crate::oci::RegistryName;
use crate::upstream::credentials::{Auth, AuthError};
use crate::upstream::settings::{ClientCertificate, OnMissing, Settings, Timeouts, split_api};

impl Check {
    pub(super) fn known_upstream(&mut self, path: &str, typed: &str, upstreams: &[Upstream]) -> Option<RegistryName> {
        let folded = typed.parse().map(fold_alias);
        let known = folded.ok().and_then(|host| upstreams.iter().find(|upstream| upstream.host == host));
        if known.is_none() {
            let message = format!("{typed:?} is not an upstream");
            let near = nearest(typed, upstreams.iter().map(|upstream| upstream.host.as_str()));
            let hint = near.map_or("add it under [[upstream]]".to_owned(), |near| format!("did you mean {near}?"));
            self.problem(path, message, &hint);
        }
        known.map(|upstream| upstream.host.clone())
    }

    pub(super) fn upstreams(&mut self, file: &file::File) -> Vec<Upstream> {
        let mut upstreams: Vec<Upstream> = Vec::new();
        for (n, typed) in file.upstream.iter().enumerate() {
            let path = format!("upstream[{n}]");
            let Some(upstream) = self.upstream(&path, typed) else { continue };
            if upstreams.iter().any(|other| other.host == upstream.host) {
                let message = match &typed.host {
                    typed if upstream.host.as_str() == typed => format!("{typed} is configured twice"),
                    typed => format!("{typed} is another name of {0}, and {0} is configured twice", upstream.host),
                };
                self.problem(
                    &format!("{path}.host"),
                    message,
                    "several addresses of one registry go into one url list",
                );
            }
            upstreams.push(upstream);
        }
        if file.routes.well_known {
            for host in well_known::HOSTS {
                let typed = file::Upstream { host: host.to_owned(), ..file::Upstream::default() };
                if !upstreams.iter().any(|upstream| upstream.host.as_str() == host) {
                    upstreams.extend(self.upstream("routes.well_known", &typed));
                }
            }
        }
        upstreams
    }

    fn upstream(&mut self, path: &str, typed: &file::Upstream) -> Option<Upstream> {
        let at = |key: &str| format!("{path}.{key}");
        let host = self.host(path, &typed.host);
        let urls = match typed.url.as_slice() {
            [] => vec![well_known::url(host.as_ref().map_or(&typed.host, RegistryName::as_str))],
            urls => urls.to_vec(),
        };
        // The address of an upstream without a url follows from its host, which has been found wanting.
        let urls = if host.is_none() && typed.url.is_empty() { Vec::new() } else { urls };
        let urls = urls.iter().enumerate().filter_map(|(n, url)| {
            let place = if typed.url.is_empty() { at("host") } else { self.0.element(&at("url"), n) };
            self.url(&place, url, typed.insecure)
        });
        let urls = urls.collect();
        let auth = self.auth(&at("auth"), &typed.auth);
        let mut auth_realms = Vec::new();
        for (n, realm) in typed.auth_realms.iter().enumerate() {
            match realm.parse() {
                Ok(realm) => auth_realms.push(realm),
                Err(_) => {
                    let place = self.0.element(&at("auth_realms"), n);
                    self.problem(
                        &place,
                        "not a host with an optional port",
                        "for example auth_realms = [\"auth.example.com\"]",
                    );
                }
            }
        }
        let settings = Settings {
            auth,
            auth_realms,
            insecure: typed.insecure,
            ca: (!typed.ca.is_empty()).then(|| PathBuf::from(&typed.ca)),
            certificate: self.certificate(path, typed),
            proxy: self.proxy(&at("proxy"), &typed.proxy),
            proxy_auth: self.proxy_auth(&at("proxy_auth"), typed),
            timeouts: Timeouts {
                connect: self.positive(&at("connect_timeout"), &typed.connect_timeout),
                first_byte: self.positive(&at("first_byte_timeout"), &typed.first_byte_timeout),
                idle: self.positive(&at("idle_timeout"), &typed.idle_timeout),
            },
            allow_private: typed.allow_private,
            redirect_to_http: typed.redirect_to_http,
            budget_floor: self.percent(&at("budget_floor"), &typed.budget_floor),
        };
        let parallel = self.parallel(&at("parallel"), typed.parallel);
        let connections = (typed.connections > 0).then(|| self.count(&at("connections"), typed.connections));
        let on_missing = self.on_missing(&at("on_missing"), typed);
        // Which it is depends on the listeners; nobody gets anything until that is decided.
        let access = Access::Mapped;
        Some(Upstream { host: host?, urls, settings, parallel, connections, on_missing, access })
    }

    fn on_missing(&mut self, path: &str, typed: &file::Upstream) -> OnMissing {
        let words = [("answer", OnMissing::Answer), ("next", OnMissing::Next)];
        let on_missing = self.word(path, &typed.on_missing, &words).unwrap_or_default();
        if on_missing == OnMissing::Next && typed.url.len() < 2 {
            self.problem(path, "there is no next address", "give url a list of two or more");
        }
        on_missing
    }

    fn host(&mut self, path: &str, typed: &str) -> Option<RegistryName> {
        let hint = "the name images use, in lower case, such as docker.io or registry.example:5000";
        if typed.is_empty() {
            self.problem(path, "an upstream needs a host", hint);
            return None;
        }
        let host = typed.parse::<RegistryName>();
        if host.is_err() {
            self.problem(&format!("{path}.host"), "not a registry host", hint);
        }
        // As requests are matched: another name of a registry is no second registry.
        host.ok().map(fold_alias)
    }

    fn url(&mut self, path: &str, typed: &str, insecure: bool) -> Option<Url> {
        let Ok(url) = Url::parse(typed) else {
            self.problem(path, "not a URL", "for example url = \"https://registry.example\"");
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.problem(
                path,
                "credentials do not belong in a URL",
                "use auth = \"file:PATH\", \"docker-config\" or \"helper:NAME\"",
            );
        } else if url.query().is_some() || url.fragment().is_some() {
            self.problem(path, "a query or fragment has no meaning here", "give scheme, host and path only");
        } else if url.scheme() == "http" && !insecure && !is_this_machine(&url) {
            self.problem(
                path,
                "plain http to another machine",
                "use https://, or set insecure = true for this upstream",
            );
        } else if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            self.problem(path, "not an http or https URL", "for example url = \"https://registry.example\"");
        } else if split_api(&url).is_none() {
            self.problem(
                path,
                "what stands behind /v2/ is not what a repository name can begin with",
                "for example url = \"https://harbor.example/v2/proxy-hub/\"",
            );
        } else {
            return Some(url);
        }
        None
    }

    fn auth(&mut self, path: &str, typed: &str) -> Auth {
        let auth = typed.parse();
        match &auth {
            Ok(_) => {}
            // The value is not quoted: it may be a password that was put here by mistake.
            Err(AuthError::Unknown) => {
                self.problem(path, "not a way to log in", "one of anonymous, docker-config, helper:NAME, file:PATH");
            }
            Err(error) => self.problem(path, "not a way to log in", &error.to_string()),
        }
        auth.unwrap_or_default()
    }

    fn certificate(&mut self, path: &str, typed: &file::Upstream) -> Option<ClientCertificate> {
        let (cert, key) = (&typed.client_cert, &typed.client_key);
        if cert.is_empty() != key.is_empty() {
            let (there, missing) =
                if key.is_empty() { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
            let message = format!("{there} without {missing}");
            self.problem(&format!("{path}.{there}"), message, "a certificate is of use only with its key");
            return None;
        }
        (!cert.is_empty()).then(|| ClientCertificate { certificate: PathBuf::from(cert), key: PathBuf::from(key) })
    }

    fn proxy(&mut self, path: &str, typed: &str) -> Option<Url> {
        if typed.is_empty() {
            return None;
        }
        let hint = "for example proxy = \"http://proxy.example:3128\" or \"socks5://127.0.0.1:1080\"";
        let Ok(url) = Url::parse(typed) else {
            self.problem(path, "not a URL", hint);
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            let hint = "put user:password into a file, and set proxy_auth = \"file:PATH\"";
            self.problem(path, "credentials do not belong in a URL", hint);
        } else if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h")
            || url.host_str().is_none_or(str::is_empty)
        {
            self.problem(path, "not a proxy: its scheme is http, https, socks5 or socks5h", hint);
        } else {
            return Some(url);
        }
        None
    }

    fn proxy_auth(&mut self, path: &str, typed: &file::Upstream) -> Option<Auth> {
        let hint = "for example proxy_auth = \"file:proxy-password\", with user:password in the file";
        if typed.proxy_auth.is_empty() {
            return None;
        }
        if typed.proxy.is_empty() {
            self.problem(path, "a password without its proxy", "set proxy, too");
        }
        let auth = typed.proxy_auth.parse().ok().filter(|auth| matches!(auth, Auth::File(_)));
        if auth.is_none() {
            // Not quoted: it may be a password that was put here by mistake.
            self.problem(path, "not a file with a password", hint);
        }
        auth
    }
}

pub(super) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}
