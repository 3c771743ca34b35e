//! The section `[access]`, and the modes of upstreams: who may read what, and who can say who he is.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::upstreams::is_this_machine;
use super::{Check, grants};
use crate::access::{Access, Grant, May, Who};
use crate::audit;
use crate::config::document::nearest;
use crate::config::{BY_SYSTEMD, Callers, Config, Server, Upstream, file};
use crate::mirror::routes::fold_alias;
use crate::oci::RegistryName;
use crate::server::authenticate::Issuer;

/// The longest life of a grant.
const LONGEST_GRANT: Duration = Duration::from_secs(300);

impl Check {
    pub(super) fn callers(&mut self, typed: &file::Access, server: &Server, upstreams: &[Upstream]) -> Callers {
        let grant_ttl = self.duration("access.grant_ttl", &typed.grant_ttl);
        if grant_ttl > LONGEST_GRANT {
            self.problem("access.grant_ttl", "more than 5 minutes", "so long may somebody read who may no longer");
        }
        let htpasswd = (!typed.htpasswd.is_empty()).then(|| PathBuf::from(&typed.htpasswd));
        let issuers: Vec<Issuer> =
            typed.oidc.iter().enumerate().filter_map(|(n, typed)| self.issuer(n, typed)).collect();
        self.names_of_issuers(typed);
        let grants =
            typed.grant.iter().enumerate().map(|(n, grant)| self.grant(n, grant, &issuers, upstreams)).collect();
        self.names_of_grants(typed);
        let audit = match typed.audit.as_str() {
            "" => None,
            "stderr" => Some(audit::Place::Stderr),
            path => Some(audit::Place::File(PathBuf::from(path))),
        };
        let callers = Callers { htpasswd, issuers, grants, grant_ttl, audit };
        let key = match (&callers.htpasswd, callers.issuers.is_empty()) {
            (Some(_), _) => Some("access.htpasswd"),
            (None, false) => Some("access.oidc"),
            (None, true) => None,
        };
        if let Some(key) = key {
            self.private_ways(key, server);
        }
        callers
    }

    /// Passwords and tokens may be shown only where nobody else reads them.
    fn private_ways(&mut self, key: &str, server: &Server) {
        let exposed = beyond_loopback(server);
        if let Some(address) = exposed.filter(|_| server.tls.is_none() && server.trusted_proxies.is_empty()) {
            let message = format!("what callers show would be read by others on its way to {address}");
            let hint = "set [server.tls] cert and key, listen on loopback (in the socket unit, where there is one), or name the proxies in front that speak TLS \
                        in server.trusted_proxies";
            self.problem(key, message, hint);
        }
    }

    fn issuer(&mut self, n: usize, typed: &file::Oidc) -> Option<Issuer> {
        let path = format!("access.oidc[{n}]");
        let at = |key: &str| format!("{path}.{key}");
        if typed.audience.is_empty() {
            self.problem(
                &at("audience"),
                "tokens for anybody would count",
                "for example audience = \"registry-mirror\"",
            );
        }
        if typed.name.contains([':', '*']) {
            self.problem(&at("name"), "a name has neither a colon nor a star", "for example name = \"ci\"");
        }
        let hint = "for example issuer = \"https://token.actions.githubusercontent.com\"";
        let url = Url::parse(&typed.issuer).ok();
        let Some(url) = url.filter(|url| url.scheme() == "https" || url.scheme() == "http" && is_this_machine(url))
        else {
            self.problem(&at("issuer"), "an issuer is an https:// address, or an http:// one on loopback", hint);
            return None;
        };
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            self.problem(&at("issuer"), "an issuer has neither a user nor a query", hint);
        }
        let name = (!typed.name.is_empty()).then(|| typed.name.as_str().into());
        Some(Issuer { name, issuer: typed.issuer.clone(), audience: typed.audience.clone() })
    }

    fn names_of_issuers(&mut self, typed: &file::Access) {
        for (n, issuer) in typed.oidc.iter().enumerate() {
            let before = &typed.oidc[..n];
            let path = format!("access.oidc[{n}]");
            if typed.oidc.len() > 1 && issuer.name.is_empty() {
                self.problem(&path, "one of several issuers needs a name", "set name, and write oidc:NAME:SUB in who");
            } else if before.iter().any(|other| other.name == issuer.name) {
                self.problem(&path, format!("{:?} is the name of an issuer already", issuer.name), "");
            } else if before.iter().any(|other| other.issuer == issuer.issuer) {
                self.problem(&path, "this issuer is configured twice", "one section for each issuer");
            }
        }
    }

    fn grant(&mut self, n: usize, typed: &file::Grant, issuers: &[Issuer], upstreams: &[Upstream]) -> Grant {
        let path = format!("access.grant[{n}]");
        for (key, typed) in [("who", &typed.who), ("may", &typed.may)] {
            if typed.is_empty() {
                self.problem(&path, format!("a grant without {key} grants nothing"), "set who and may");
            }
        }
        let mut who = Vec::new();
        for (m, text) in typed.who.iter().enumerate() {
            let place = self.0.element(&format!("{path}.who"), m);
            match text.parse::<Who>() {
                Ok(one) => who.push(one),
                Err(error) => self.problem(&place, format!("{text:?}: {error}"), "for example who = [\"user:ci-*\"]"),
            }
            self.issuer_of(&place, text, issuers);
        }
        let mut may = Vec::new();
        for (m, text) in typed.may.iter().enumerate() {
            let place = self.0.element(&format!("{path}.may"), m);
            match in_full(text).parse::<May>() {
                Ok(one) => may.push(one),
                Err(_) if is_tag_with_star(text) => self.problem(
                    &place,
                    format!("{text:?}: a tag is written whole, * stands for anything in a repository only"),
                    "name each tag, as in may = [\"registry.example/acme/app:1\", …], or leave the tag out for all",
                ),
                Err(error) => self.problem(
                    &place,
                    format!("{text:?}: {error}"),
                    "for example may = [\"registry.example/acme/**\"]",
                ),
            }
            self.upstream_of(&place, text, upstreams);
        }
        let name = if typed.name.is_empty() { (n + 1).to_string() } else { typed.name.clone() };
        Grant { name: name.into(), who, may }
    }

    /// Where issuers have names, every token of a grant is one of theirs.
    fn issuer_of(&mut self, path: &str, who: &str, issuers: &[Issuer]) {
        let names: Vec<&str> = issuers.iter().filter_map(|issuer| issuer.name.as_deref()).collect();
        let Some(subject) = who.strip_prefix("oidc:").filter(|_| !names.is_empty()) else { return };
        if subject.split_once(':').is_none_or(|(name, _)| !names.contains(&name)) {
            let hint = format!("write oidc:NAME:SUB with one of {}", names.join(", "));
            self.problem(path, format!("{who:?} does not begin with the name of an issuer"), &hint);
        }
    }

    /// A grant for an upstream that there is not is a typing error.
    fn upstream_of(&mut self, path: &str, may: &str, upstreams: &[Upstream]) {
        let Some((host, _)) = may.split_once('/').filter(|(host, _)| !host.contains('*')) else { return };
        let folded = host.parse().map(fold_alias);
        if folded.is_ok_and(|host| upstreams.iter().any(|upstream| upstream.host == host)) {
            return;
        }
        let near = nearest(host, upstreams.iter().map(|upstream| upstream.host.as_str()));
        let hint = near.map_or("add it under [[upstream]]".to_owned(), |near| format!("did you mean {near}?"));
        self.problem(path, format!("{host:?} is not an upstream"), &hint);
    }

    fn names_of_grants(&mut self, typed: &file::Access) {
        for (n, grant) in typed.grant.iter().enumerate().filter(|(_, grant)| !grant.name.is_empty()) {
            let is_number = grant.name.parse::<usize>().is_ok();
            if is_number || typed.grant[..n].iter().any(|other| other.name == grant.name) {
                let message = format!("{:?} is {}", grant.name, if is_number { "a number" } else { "taken already" });
                self.problem(&format!("access.grant[{n}].name"), message, "a name of its own tells it from the others");
            }
        }
    }

    /// Who may read what each upstream has; with credentials of ours and a listener that others reach it has to be said.
    pub(super) fn modes(&mut self, file: &file::File, server: &Server, callers: &Callers, upstreams: &mut [Upstream]) {
        let exposed = exposed(server);
        // Of a section that is wrong in itself nothing came.
        let sections: Vec<_> = file.upstream.iter().enumerate().collect();
        for upstream in upstreams {
            let section =
                sections.iter().find(|(_, typed)| typed.host.parse().map(fold_alias).as_ref() == Ok(&upstream.host));
            let Some((n, typed)) = section else {
                upstream.access = Access::Public;
                continue;
            };
            let path = format!("upstream[{n}]");
            let private = upstream.has_credentials();
            upstream.access = match (typed.access.as_str(), private, &exposed) {
                ("", false, _) => Access::Public,
                ("", true, None) => Access::Shared,
                ("", true, Some(place)) => {
                    let message = format!(
                        "it is not said who may pull what our credentials for {} can pull, and others than this machine \
                         reach {place}",
                        upstream.host
                    );
                    self.problem(&path, message, &choices(&upstream.host.to_string(), place, callers));
                    Access::Mapped
                }
                (word, ..) => {
                    let words = Access::ALL.map(|access| (access.as_str(), access));
                    self.word(&format!("{path}.access"), word, &words).unwrap_or(Access::Mapped)
                }
            };
            self.mode(&path, upstream, server);
        }
    }

    fn mode(&mut self, path: &str, upstream: &Upstream, server: &Server) {
        let at = format!("{path}.access");
        if upstream.access != Access::PassThrough {
            return;
        }
        let settings = &upstream.settings;
        if upstream.has_credentials() || settings.insecure {
            let message = "pass-through asks with the caller's own credential";
            self.problem(&at, message, "leave auth, client_cert and insecure out, or use another mode");
        }
        let hosts: Vec<_> = upstream.urls.iter().map(Url::host_str).collect();
        let safe = |url: &Url| url.scheme() == "https" || is_this_machine(url);
        if hosts.windows(2).any(|two| two[0] != two[1]) || !upstream.urls.iter().all(safe) {
            let message = "a caller's credential goes to one host, over https or on loopback";
            self.problem(&at, message, "give url addresses of one host, or use another mode");
        }
        self.private_ways(&at, server);
    }
}

/// Where others than this machine reach clients' listeners, if they do.
fn exposed(server: &Server) -> Option<String> {
    beyond_loopback(server).or_else(|| {
        let behind = server.listen.first().filter(|_| !server.trusted_proxies.is_empty());
        behind.map(|address| format!("{address} (by server.trusted_proxies)"))
    })
}

/// The first address for clients that is not this machine's alone.
fn beyond_loopback(server: &Server) -> Option<String> {
    let address = server.listen.iter().find(|address| !address.ip().to_canonical().is_loopback())?;
    Some(if server.is_handed { format!("{address} ({BY_SYSTEMD})") } else { address.to_string() })
}

/// What each mode would mean for this upstream.
fn choices(host: &str, place: &str, callers: &Callers) -> String {
    let login = callers.htpasswd.is_some() || !callers.issuers.is_empty();
    let all = if login {
        "everybody who logs in at this mirror".to_owned()
    } else {
        format!("everybody who reaches {place}")
    };
    format!(
        "set access under this [[upstream]]:\n    \
         access = \"public\"        everybody gets what {host} gives to everybody, and nothing else\n    \
         access = \"shared\"        {all} gets all that our credentials can pull\n    \
         access = \"pass-through\"  each gets what {host} gives to him, asked with his own credential in place of ours\n    \
         access = \"mapped\"        identities of ours (htpasswd, certificates, OIDC) get what [[access.grant]] names"
    )
}

/// Whether it would be what a grant is about, were the tag written whole.
fn is_tag_with_star(may: &str) -> bool {
    let last = may.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_some_and(|(_, tag)| tag.contains('*'))
}

/// The image name in full, as requests are matched: Docker Hub has other names, and a `library/`.
fn in_full(may: &str) -> String {
    let Some((host, rest)) = may.split_once('/') else { return may.to_owned() };
    let Ok(host) = host.parse().map(fold_alias) else { return may.to_owned() };
    let is_short = host.as_str() == "docker.io" && !rest.contains('/') && !rest.starts_with("**");
    if is_short { format!("{host}/library/{rest}") } else { format!("{host}/{rest}") }
}

/// Whether somebody would get something from it who says who he is by a password or a token.
fn would_log_in(config: &Config, host: &RegistryName, access: Access) -> bool {
    let mut who = grants::about(config, host).flat_map(|grant| &grant.who);
    access == Access::Shared || who.any(|who| who.is_a_user() || who.is_a_token())
}

/// What keeps callers of an upstream from saying who they are.
fn no_login(config: &Config, host: &RegistryName, access: Access) -> Option<String> {
    let identities = config.identities();
    match access {
        Access::Shared | Access::Mapped
            if host.as_str() == "docker.io" && identities.shown() && would_log_in(config, host, access) =>
        {
            Some(
            "no client is ever asked for a login for docker.io, where dockerd would show the Hub's, so users of \
             access.htpasswd and tokens get nothing from it: use certificates (server.tls.client_ca), or name an upstream \
             otherwise, with url = \"https://registry-1.docker.io\", that is the default of a listener of its own, as in \
             listen = [\"127.0.0.1:5001=hub.internal\"]"
                .to_owned(),
        )
        }
        Access::PassThrough if identities.certificates && identities.shown() => Some(format!(
            "who shows {host} a login of its own, and no certificate, gets nothing from it: with server.tls.client_ca \
             beside access.htpasswd or [[access.oidc]] everybody has to say first who he is here, and one login is all \
             that a client shows; have those clients show a certificate, or leave one of the two keys out"
        )),
        _ => None,
    }
}

/// What is allowed and yet worth a second look.
pub(super) fn warnings(config: &Config, file: &file::File) -> Vec<String> {
    let mut warnings = grants::warnings(config, &file.access);
    let (identities, rules, exposed) = (config.identities(), config.rules(), exposed(&config.server));
    let first = config.server.listen.first().map(ToString::to_string);
    let place = exposed.clone().or(first).unwrap_or_default();
    for upstream in &config.upstreams {
        let host = &upstream.host;
        let said = file
            .upstream
            .iter()
            .any(|typed| !typed.access.is_empty() && typed.host.parse().map(fold_alias).as_ref() == Ok(host));
        match upstream.access {
            Access::Shared if upstream.has_credentials() && !identities.any() && (said || exposed.is_some()) => {
                warnings.push(format!(
                    "everyone who reaches {place} can pull what our credentials for {host} can pull: no client is asked \
                     who he is (access.htpasswd, [[access.oidc]] or server.tls.client_ca)"
                ));
            }
            Access::Mapped
                if !identities.any()
                    && !config.callers.grants.iter().any(|grant| grant.who.iter().any(Who::is_anybody)) =>
            {
                warnings.push(format!(
                    "nobody can pull from {host}: it is mapped, and nobody can say who he is; set access.htpasswd, \
                     [[access.oidc]] or server.tls.client_ca"
                ));
            }
            Access::Mapped if grants::about(config, host).next().is_none() => {
                warnings
                    .push(format!("nobody can pull from {host}: it is mapped, and no [[access.grant]] is about it"));
            }
            _ => {}
        }
        let is_hub = |url: &Url| url.host_str().is_some_and(|host| host == "docker.io" || host.ends_with(".docker.io"));
        if upstream.access == Access::PassThrough && host.as_str() == "docker.io" && !upstream.urls.iter().all(is_hub) {
            warnings.push(
                "docker.io is passed through to another address than Docker Hub's: dockerd shows the Hub's login to whatever \
                 token service that one names"
                    .to_owned(),
            );
        }
        warnings.extend(no_login(config, host, upstream.access));
        let is_a_default =
            config.routes.default == *host || config.server.defaults.iter().flatten().any(|of| of == host);
        if rules.asks_to_log_in(host) && !is_a_default {
            warnings.push(format!(
                "dockerd and podman log in only at a listener whose default {host} is: \
                 listen = [\"127.0.0.1:5001={host}\"]"
            ));
        }
    }
    warnings
}
