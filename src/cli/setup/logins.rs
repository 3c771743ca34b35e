//! How one says at the mirror who he is: what is left to do by hand, for each client in its own words.

use serde_json::{Map, Value};

use crate::config;
use crate::oci::{Glob, RegistryName};
use crate::setup::{Client, DOCKER_HUB, MirrorAddress, Settings};

/// What the settings of a mirror say of who may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Logins {
    passwords: bool,
    tokens: bool,
    certificates: bool,
    /// Whether a grant lets somebody who would log in have something of Docker Hub.
    grants_the_hub: bool,
    /// The upstreams that give not all to everybody.
    private: Vec<(RegistryName, Mode)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    PassedThrough,
    /// To identities of the mirror's own, or to all who reach it.
    Shared,
    /// By grants for identities of the mirror's own.
    Mapped,
}

/// How one says who he is for a registry.
enum Way {
    Nothing,
    /// As a user of the registry.
    ItsUser,
    /// As somebody whom the mirror knows.
    OurUser,
    /// Nobody is asked for a login there.
    NoLogin,
}

impl Logins {
    /// What these settings mean, as the file says them.
    pub(super) fn of(settings: &Map<String, Value>) -> Logins {
        let text = |section: &str, key: &str| settings.get(section).and_then(|section| said(section.get(key)?));
        let client_ca = || said(settings.get("server")?.get("tls")?.get("client_ca")?);
        let issuers = settings.get("access").and_then(|access| access.get("oidc")?.as_array());
        let upstreams = settings.get("upstream").and_then(Value::as_array).into_iter().flatten();
        let grants = settings.get("access").and_then(|access| access.get("grant")?.as_array());
        Logins {
            passwords: text("access", "htpasswd").is_some(),
            tokens: issuers.is_some_and(|issuers| !issuers.is_empty()),
            certificates: client_ca().is_some(),
            grants_the_hub: grants.into_iter().flatten().any(grants_the_hub),
            private: upstreams.filter_map(|upstream| Some((name(upstream)?, mode(upstream)?))).collect(),
        }
    }

    /// Whether clients log in for a registry, at a listener that is for it.
    pub(super) fn asks(&self, registry: &RegistryName) -> bool {
        matches!(self.way(registry), Way::ItsUser | Way::OurUser)
    }

    /// Why those who would log in for it cannot, and what to do.
    pub(super) fn asks_in_vain(&self, registry: &RegistryName) -> Option<String> {
        let others = "an upstream of another name with Docker Hub's url, default of a listener of its own";
        let what_to_do = if self.certificates {
            format!("who has a certificate of server.tls.client_ca shows that; for the others have {others}")
        } else {
            format!("use certificates (server.tls.client_ca), or {others}")
        };
        matches!(self.way(registry), Way::NoLogin).then(|| {
            format!(
                "nobody can log in for {registry} at the mirror with a password or a token: it asks for no login there, \
                 since dockerd would show the Hub's; {what_to_do}"
            )
        })
    }

    fn way(&self, registry: &RegistryName) -> Way {
        let known = self.private.iter().find(|(known, _)| known == registry);
        match known.map(|(_, mode)| mode) {
            Some(Mode::PassedThrough) => Way::ItsUser,
            Some(mode) if self.passwords || self.tokens => match mode {
                _ if registry.as_str() != DOCKER_HUB => Way::OurUser,
                // Who shows a certificate there, or nothing, is asked for no login and needs none.
                Mode::Mapped if !self.grants_the_hub => Way::Nothing,
                _ => Way::NoLogin,
            },
            _ => Way::Nothing,
        }
    }

    /// What somebody has to do by hand who sets up a client, a line each.
    pub(super) fn steps(&self, client: Client, settings: &Settings) -> Vec<String> {
        let mut steps: Vec<String> = Vec::new();
        for registry in &settings.registries {
            let mirror = settings.mirror_of(registry);
            let who = match self.way(registry) {
                Way::ItsUser => Some(format!("as a user of {registry}, which is asked with that login")),
                Way::OurUser => Some(self.our_user()),
                Way::Nothing | Way::NoLogin => None,
            };
            let login = who.and_then(|who| Some(format!("{}  # {who}", login(client, registry, mirror)?)));
            let certificate = self.certificates.then(|| self.certificate(client, mirror)).flatten();
            for step in login.into_iter().chain(certificate) {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        steps
    }

    fn our_user(&self) -> String {
        let user = self.passwords.then_some("as a user of access.htpasswd");
        let token = self.tokens.then_some("with a token of [[access.oidc]] as the password of any user");
        user.into_iter().chain(token).collect::<Vec<_>>().join(", or ")
    }

    fn certificate(&self, client: Client, mirror: &MirrorAddress) -> Option<String> {
        let place = shown_certificate(client, mirror)?;
        let need = if self.passwords || self.tokens { "who has one, shows" } else { "everybody shows" };
        Some(format!("{need} {mirror} a certificate of server.tls.client_ca: {place}"))
    }
}

fn said(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn name(upstream: &Value) -> Option<RegistryName> {
    config::registry(said(upstream.get("host")?)?).ok()
}

fn mode(upstream: &Value) -> Option<Mode> {
    let text = |key: &str| upstream.get(key).and_then(said);
    let has_credentials = text("auth").is_some_and(|auth| auth != "anonymous") || text("client_cert").is_some();
    match text("access") {
        Some("pass-through") => Some(Mode::PassedThrough),
        Some("mapped") => Some(Mode::Mapped),
        Some("shared") => Some(Mode::Shared),
        None if has_credentials => Some(Mode::Shared),
        _ => None,
    }
}

/// Whether a grant lets somebody who would log in have something of Docker Hub.
fn grants_the_hub(grant: &Value) -> bool {
    let texts = |key: &str| {
        let all = grant.get(key).map_or(&[][..], |one| one.as_array().map_or(std::slice::from_ref(one), Vec::as_slice));
        all.iter().filter_map(said)
    };
    let is_of_the_hub = |may: &str| {
        let host = may.split('/').next().unwrap_or_default();
        let is_it = config::registry(host).is_ok_and(|registry| registry.as_str() == DOCKER_HUB);
        is_it || host.contains("**") || Glob::of_paths(host).matches(DOCKER_HUB)
    };
    texts("who").any(|who| who.starts_with("user:") || who.starts_with("oidc:")) && texts("may").any(is_of_the_hub)
}

/// How this client is told a name and a password.
fn login(client: Client, registry: &RegistryName, mirror: &MirrorAddress) -> Option<String> {
    let at = mirror.authority();
    Some(match client {
        // The engine shows mirrors what it has for the Hub.
        Client::Docker if registry.as_str() == DOCKER_HUB => "docker login".to_owned(),
        Client::Docker => return None,
        Client::Podman => format!("podman login {at}"),
        Client::Buildkit => format!("docker login {at}"),
        Client::Containerd | Client::CriO | Client::K3s | Client::Rke2 => {
            format!("pods name a pull secret (imagePullSecrets) for {registry}")
        }
        Client::Crane => format!("crane auth login {at} (oras login {at}, regctl registry login {at})"),
        Client::Kaniko => format!("docker login {at} writes what has to be kaniko's /kaniko/.docker/config.json"),
        Client::CloudFoundry => "cf push with --docker-username, and the password in CF_DOCKER_PASSWORD".to_owned(),
    })
}

/// Where this client has the certificate that it shows; none where it shows none.
fn shown_certificate(client: Client, mirror: &MirrorAddress) -> Option<String> {
    let at = mirror.authority();
    Some(match client {
        Client::Docker => format!("/etc/docker/certs.d/{at}/client.cert and client.key"),
        Client::Podman | Client::CriO => format!("/etc/containers/certs.d/{at}/client.cert and client.key"),
        Client::Containerd => format!("client = [[\"CERT\", \"KEY\"]] below [host.\"{mirror}\"] in hosts.toml"),
        Client::K3s | Client::Rke2 => format!("cert_file and key_file in configs.\"{at}\".tls of registries.yaml"),
        Client::Buildkit => format!("key and cert in [[registry.\"{at}\".keypair]]"),
        Client::Kaniko => format!("--registry-client-cert={at}=CERT,KEY"),
        Client::Crane => {
            format!("oras --cert-file CERT --key-file KEY, regctl registry set {at} --client-cert --client-key")
        }
        Client::CloudFoundry => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::setup::Own;

    /// Of these sections, and these upstreams.
    fn logins(sections: Value, upstreams: Value) -> Logins {
        let Value::Object(mut settings) = sections else { panic!("sections") };
        settings.insert("upstream".to_owned(), upstreams);
        Logins::of(&settings)
    }

    fn upstreams() -> Value {
        json!([
            { "host": "pass.example", "access": "pass-through" },
            { "host": "Mapped.Example:443", "access": "mapped", "auth": "file:x" },
            { "host": "usual.example", "auth": "file:x" },
            { "host": "open.example", "access": "public", "auth": "file:x" },
            { "host": "index.docker.io", "access": "mapped", "auth": "file:x" },
        ])
    }

    fn registry(name: &str) -> RegistryName {
        name.parse().expect("a registry")
    }

    #[test]
    fn who_has_to_log_in_is_told_by_the_modes_and_by_who_can() {
        let grant = json!([{ "who": ["user:*", "oidc:*"], "may": "docker.io/**" }]);
        let users = json!({ "access": { "htpasswd": "users", "grant": grant } });
        let tokens = json!({ "access": { "oidc": [{ "issuer": "x" }], "grant": grant } });
        for (settings, asking, in_vain) in [
            (json!({}), &["pass.example"][..], false),
            (users, &["pass.example", "mapped.example", "usual.example"], true),
            (tokens, &["pass.example", "mapped.example", "usual.example"], true),
        ] {
            let logins = logins(settings.clone(), upstreams());
            for name in ["pass.example", "mapped.example", "usual.example", "open.example", "docker.io", "ghcr.io"] {
                assert_eq!(logins.asks(&registry(name)), asking.contains(&name), "{settings} {name}");
            }
            assert_eq!(logins.asks_in_vain(&registry("docker.io")).is_some(), in_vain, "{settings}");
        }
    }

    #[test]
    fn who_shows_a_certificate_for_the_hub_is_not_told_that_nobody_can_log_in() {
        let said = |who: Value, may: Value, client_ca: &str, access: &str| {
            let grants = json!([{ "who": "user:ann", "may": "a.example/**" }, { "who": who, "may": may }]);
            let sections = json!({
                "server": { "tls": { "client_ca": client_ca } },
                "access": { "htpasswd": "users", "grant": grants },
            });
            let upstreams =
                json!([{ "host": "docker.io", "access": access }, { "host": "a.example", "access": "mapped" }]);
            logins(sections, upstreams).asks_in_vain(&registry("docker.io"))
        };
        for (who, may) in [
            (json!(["cert:build-*", "anonymous"]), json!(["docker.io/**"])),
            (json!("cert:*"), json!("**")),
            (json!(["user:ann", "oidc:x"]), json!(["a.example/**", "*.example/x"])),
        ] {
            assert_eq!(said(who.clone(), may.clone(), "ca.pem", "mapped"), None, "{who} {may}");
        }
        for (who, may) in [
            (json!(["cert:build-*", "user:ann"]), json!("docker.io/library/*")),
            (json!("oidc:repo:*"), json!(["a.example/**", "**"])),
            (json!("user:*"), json!("*/team/**")),
            (json!("user:*"), json!("index.docker.io/library/*")),
        ] {
            let with = said(who.clone(), may.clone(), "ca.pem", "mapped").expect("they would log in");
            assert!(
                with.contains("; who has a certificate of server.tls.client_ca shows that; for the others"),
                "{with}"
            );
            let without = said(who, may, "", "mapped").expect("they would log in");
            assert!(without.contains("; use certificates (server.tls.client_ca), or an upstream"), "{without}");
        }
        assert!(said(json!("cert:*"), json!("docker.io/**"), "ca.pem", "shared").is_some(), "users count there, too");
    }

    #[test]
    fn each_client_is_told_what_is_left_to_do_by_hand() {
        let all = json!({ "server": { "tls": { "client_ca": "ca.pem" } }, "access": { "htpasswd": "users" } });
        let logins = logins(all, upstreams());
        let own = Own { registry: registry("pass.example"), mirror: "https://m.example:5001".parse().expect("one") };
        let settings = Settings {
            mirror: "https://m.example:5000".parse().expect("an address"),
            registries: ["pass.example", "mapped.example", "docker.io"].map(registry).into(),
            default: None,
            own: vec![own],
            authority: None,
        };
        let steps = logins.steps(Client::Podman, &settings);
        let places = [5001, 5000].map(|port| {
            format!(
                "who has one, shows https://m.example:{port} a certificate of server.tls.client_ca: \
                 /etc/containers/certs.d/m.example:{port}/client.cert and client.key"
            )
        });
        let expected = [
            "podman login m.example:5001  # as a user of pass.example, which is asked with that login",
            &places[0],
            "podman login m.example:5000  # as a user of access.htpasswd",
            &places[1],
        ];
        assert_eq!(steps, expected);
        for client in Client::ALL {
            let steps = logins.steps(client, &settings);
            assert!(!steps.is_empty(), "{client:?}");
        }
        let alone = Settings { registries: vec![registry("pass.example")], ..settings };
        let passed = self::logins(json!({}), upstreams());
        let steps = |client| passed.steps(client, &alone).join("\n");
        assert!(steps(Client::Containerd).contains("a pull secret (imagePullSecrets) for pass.example"));
        assert!(steps(Client::Crane).contains("crane auth login m.example:5001 "));
        assert!(steps(Client::Docker).is_empty(), "it asks mirrors for nothing of others");
        let hub = self::logins(json!({}), json!([{ "host": "docker.io", "access": "pass-through" }]));
        let of_hub = Settings { registries: vec![registry("docker.io")], ..alone };
        assert!(hub.steps(Client::Docker, &of_hub).concat().starts_with("docker login  # as a user of docker.io"));
        assert!(passed.steps(Client::Podman, &of_hub).is_empty(), "it is public");
    }
}
