//! Whether a client's files lead it to this mirror, read as the client reads them.
//!
//! Which files count, and whom they have the client ask, is told by each client's own module, beside what `setup`
//! writes there. Truth: yes is said only where we are the first who is asked for all images of a registry, in the
//! way in which we can be spoken to, and what we are asked for there are images of that registry.

use std::net::{IpAddr, SocketAddr};

use url::Url;

use super::Refused;
use crate::oci::RegistryName;

/// An address where this mirror listens for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub at: SocketAddr,
    /// Whether TLS is spoken there.
    pub encrypted: bool,
    /// The upstream of a request that names none.
    pub upstream: RegistryName,
}

/// Where a client's files lead it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To this mirror, by this file.
    Here(String),
    /// They name it, or may, in vain: why, in a sentence.
    InVain(String),
    /// Elsewhere.
    Elsewhere,
}

/// Where clients log in for the images of a registry that ask for it once for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nowhere: nobody has to.
    Nowhere,
    /// At a listener that is for it.
    AtItsListener,
    /// There, and at the registry's own token service, which knows its repositories by their own names.
    PassedThrough,
}

impl Login {
    /// Why nobody can log in who is led to this path of a listener; none where another listener would be no better.
    fn fails(self, registry: &RegistryName, path: &str, (at, all): (&Listener, &[Listener])) -> Option<String> {
        let is_own = |listener: &&Listener| listener.upstream == *registry;
        let own = all.iter().find(is_own).filter(|_| self != Login::Nowhere)?;
        let fits = is_own(&at) && (self == Login::AtItsListener || path.is_empty());
        (!fits).then(|| {
            format!(
                "nobody can log in for {registry} there: that is done at {}, the address that is for it, without its \
                 name behind that",
                own.at
            )
        })
    }
}

/// How somebody is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Plain,
    Tls,
    /// By the one, and if that fails by the other.
    Either,
}

/// Somebody who is asked for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The file that says so, below the root.
    pub(super) file: String,
    /// How he is named there.
    pub(super) name: String,
    /// Where that is; `None` for what is no address.
    at: Option<Url>,
    pub(super) speaks: Speaks,
    /// Whether he is told of which registry an image is.
    pub(super) names_registry: bool,
    /// Why he is not asked for everything, if so.
    pub(super) hindrance: Option<String>,
}

impl Asked {
    /// Somebody of this name, by which he is spoken to like this, unless it says itself how.
    pub(super) fn new(file: &str, name: &str, speaks: Speaks) -> Asked {
        let (speaks, url) = match name.split_once("://") {
            Some(("http", _)) => (Speaks::Plain, name.to_owned()),
            Some(_) => (Speaks::Tls, name.to_owned()),
            None if speaks == Speaks::Plain => (speaks, format!("http://{name}")),
            None => (speaks, format!("https://{name}")),
        };
        let (file, name, at) = (file.to_owned(), name.to_owned(), Url::parse(&url).ok());
        Asked { file, name, at, speaks, names_registry: false, hindrance: None }
    }

    pub(super) fn naming_registries(self) -> Asked {
        Asked { names_registry: true, ..self }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.at.as_ref()?.host_str()?.trim_matches(['[', ']']).parse().ok()
    }

    /// Whether it is an address of IPv6.
    pub(super) fn is_ip6(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_ipv6())
    }

    /// That he is named in vain, and why.
    pub(super) fn in_vain(&self, why: &str) -> String {
        format!("/{} names it as {:?}, but {why}", self.file, self.name)
    }

    fn is_named_localhost(&self) -> bool {
        self.at.as_ref().and_then(Url::host_str) == Some("localhost")
    }

    /// Whether it is this machine, as it names itself.
    pub(super) fn is_loopback(&self) -> bool {
        self.ip().map_or_else(|| self.is_named_localhost(), |ip| ip.to_canonical().is_loopback())
    }

    /// Whether it is where somebody listens. By another name it may be this machine, or not.
    fn is(&self, listener: &Listener) -> bool {
        let at = listener.at;
        let named = match self.ip() {
            Some(ip) => ip == at.ip() || at.ip().is_unspecified() || (ip.is_loopback() && at.ip().is_loopback()),
            None => self.is_named_localhost() || !at.ip().is_loopback(),
        };
        named && self.at.as_ref().and_then(Url::port_or_known_default) == Some(at.port())
    }

    /// What stands behind the address.
    fn path(&self) -> &str {
        let path = self.at.as_ref().map(|url| url.path().trim_matches('/')).unwrap_or_default();
        path.trim_start_matches("v2").trim_end_matches("v2").trim_matches('/')
    }

    /// Of which registry the images are that he is asked for, if he is this listener.
    fn registry<'a>(&'a self, meant: &'a RegistryName, listener: &'a Listener) -> &'a str {
        match self.path() {
            "" if self.names_registry => meant.as_str(),
            "" => listener.upstream.as_str(),
            named => named,
        }
    }
}

/// Where somebody is led who asks these for the images of a registry, in this order.
pub(super) fn judged(
    asked: Result<Vec<Asked>, Refused>,
    registry: &RegistryName,
    mirror: &[Listener],
    login: Login,
) -> Leads {
    let asked = match asked {
        Ok(asked) => asked,
        Err(refused) => return Leads::InVain(format!("its settings cannot be told: {refused}")),
    };
    let is_ours = |asked: &Asked| mirror.iter().find(|listener| asked.is(listener)).cloned();
    let ours = asked.iter().enumerate().find_map(|(place, asked)| Some((place, asked, is_ours(asked)?)));
    let Some((place, one, listener)) = ours else { return Leads::Elsewhere };
    let led_to = one.registry(registry, &listener);
    let why = if let Some(hindrance) = &one.hindrance {
        hindrance.clone()
    } else if one.speaks == Speaks::Tls && !listener.encrypted {
        "by TLS, which this mirror does not speak".to_owned()
    } else if one.speaks == Speaks::Plain && listener.encrypted {
        "without TLS, which this mirror speaks".to_owned()
    } else if led_to != registry.as_str() {
        format!("for images of {registry}, and would get those of {led_to}")
    } else if place > 0 {
        format!("after {}", asked[0].name)
    } else if let Some(why) = login.fails(registry, one.path(), (&listener, mirror)) {
        why
    } else {
        return Leads::Here(format!("/{}", one.file));
    };
    Leads::InVain(one.in_vain(&why))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::setup::{Client, Machine, Store, leads, store_of};

    /// Whether files lead a client to a mirror that listens on 127.0.0.1:5000, without TLS, for docker.io, and on
    /// 127.0.0.1:5001, for ghcr.io.
    fn led(client: Client, registry: &str, files: &[(&str, &str)]) -> Leads {
        led_with(Login::Nowhere, client, registry, files)
    }

    fn led_with(login: Login, client: Client, registry: &str, files: &[(&str, &str)]) -> Leads {
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        let listener = |at: &str, upstream: &str| Listener {
            at: at.parse().expect("an address"),
            encrypted: false,
            upstream: upstream.parse().expect("a registry"),
        };
        let names = |folder: &str| {
            let names = files.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
            Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
        };
        let machine = Machine {
            text: &|path| Ok(files.get(path).map(|text| (*text).to_owned())),
            names: &names,
            home: Some("home/me".to_owned()),
            docker_store: store_of(None, files.get("etc/docker/daemon.json").copied()),
        };
        let mirror = [listener("127.0.0.1:5000", "docker.io"), listener("127.0.0.1:5001", "ghcr.io")];
        leads(client, &registry.parse().expect("a registry"), &machine, &mirror, login)
    }

    #[track_caller]
    fn in_vain(client: Client, files: &[(&str, &str)], why: &str) {
        match led(client, "docker.io", files) {
            Leads::InVain(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{files:?}: {other:?}"),
        }
    }

    const JSON: &str = "etc/docker/daemon.json";

    #[test]
    fn docker_is_led_by_its_mirrors_to_a_listener_that_is_for_docker_hub() {
        let here = Leads::Here(format!("/{JSON}"));
        for text in [
            r#"{"registry-mirrors": ["http://127.0.0.1:5000"]}"#,
            r#"{"registry-mirrors": ["http://localhost:5000/"], "insecure-registries": []}"#,
            r#"{"registry-mirrors": ["http://[::1]:5000/"]}"#,
            "\u{feff}{\"registry-mirrors\": [\"http://127.0.0.1:5000\"]}",
        ] {
            assert_eq!(led(Client::Docker, "docker.io", &[(JSON, text)]), here, "{text}");
            assert_eq!(led(Client::Docker, "ghcr.io", &[(JSON, text)]), Leads::Elsewhere, "{text}");
        }
        for text in [
            r#"{"registry-mirrors": ["http://127.0.0.1:50001"]}"#,
            r#"{"insecure-registries": ["127.0.0.1:5000"]}"#,
            "",
        ] {
            assert_eq!(led(Client::Docker, "docker.io", &[(JSON, text)]), Leads::Elsewhere, "{text}");
        }
        for (text, why) in [
            (r#"{"registry-mirrors": ["http://127.0.0.1:5000"]"#, "cannot be read"),
            (r#"{"registry-mirrors": ["https://127.0.0.1:5000"]}"#, "by TLS"),
            (r#"{"registry-mirrors": ["http://127.0.0.1:5001"]}"#, "would get those of ghcr.io"),
            (r#"{"registry-mirrors": ["http://near.example", "http://127.0.0.1:5000"]}"#, "after http://near.example"),
        ] {
            in_vain(Client::Docker, &[(JSON, text)], why);
        }
        let hosts = ("etc/docker/certs.d/docker.io/hosts.toml", "[host.\"http://127.0.0.1:5000\"]\n");
        in_vain(Client::Docker, &[hosts], "containerd's store only");
        let store = r#"{"features": {"containerd-snapshotter": true}}"#;
        assert_eq!(led(Client::Docker, "docker.io", &[(JSON, store), hosts]), Leads::Here(format!("/{}", hosts.0)));
        assert_eq!(store_of(None, Some(store)), Store::Containerd);
    }

    const CONFIG: &str = "etc/containerd/config.toml";
    const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";

    #[test]
    fn containerd_is_led_by_the_hosts_in_the_folder_that_it_looks_in() {
        let table = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n";
        let config = format!("version = 2\n{table}config_path = \"/etc/containerd/certs.d\"\n");
        let hosts = "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
        let here = Leads::Here(format!("/{HOSTS}"));
        assert_eq!(led(Client::Containerd, "docker.io", &[(CONFIG, &config), (HOSTS, hosts)]), here);
        let all = "etc/containerd/certs.d/_default/hosts.toml";
        let by_all = Leads::Here(format!("/{all}"));
        assert_eq!(led(Client::Containerd, "ghcr.io", &[(CONFIG, &config), (all, hosts)]), by_all);
        for (config, hosts, why) in [
            ("version = 2\n", hosts, "names no folder of hosts"),
            (&config.replace("/etc/containerd/certs.d", "/nowhere"), hosts, "names /nowhere"),
            (&config, &hosts.replace("[\"pull\", \"resolve\"]", "[\"push\"]"), "without \"pull\""),
            (&config, &hosts.replace("http:", "https:"), "by TLS"),
            (&config, "[host\n", "cannot be read"),
            (&config, &format!("[host.\"https://near.example\"]\n{hosts}"), "after https://near.example"),
            (&config, &hosts.replace(":5000", ":5000/ghcr.io"), "would get those of ghcr.io"),
        ] {
            in_vain(Client::Containerd, &[(CONFIG, config), (HOSTS, hosts)], why);
        }
        let importing = format!("imports = [\"conf.d/*.toml\"]\n{config}");
        let other = format!("version = 2\n{table}config_path = \"/srv/z\"\n");
        let files = [(CONFIG, importing.as_str()), ("etc/containerd/conf.d/a.toml", &other), (HOSTS, hosts)];
        in_vain(Client::Containerd, &files, "/etc/containerd/conf.d/a.toml names /srv/z");
        let mirrors =
            format!("version = 2\n{}endpoint = [\"http://127.0.0.1:5000\"]\n", table.replace("]", ".mirrors.\"*\"]"));
        assert_eq!(led(Client::Containerd, "docker.io", &[(CONFIG, &mirrors)]), Leads::Here(format!("/{CONFIG}")));
        assert_eq!(led(Client::Containerd, "docker.io", &[(CONFIG, &config)]), Leads::Elsewhere);
    }

    const OURS: &str = "etc/containers/registries.conf.d/zz-registry-mirror.conf";

    #[test]
    fn podman_is_led_by_the_last_file_that_speaks_of_a_registry() {
        let entry = "[[registry]]\nlocation = \"docker.io\"\n";
        let mirror = "[[registry.mirror]]\nlocation = \"127.0.0.1:5000/docker.io\"\ninsecure = true\n";
        let whole = format!("{entry}{mirror}");
        let (here, later) = (Leads::Here(format!("/{OURS}")), "etc/containers/registries.conf.d/zzz.conf");
        let mirror_in_line = "{ location = \"127.0.0.1:5000/docker.io\", insecure = true }";
        let in_line = format!("registry = [{{ location = \"docker.io\", mirror = [{mirror_in_line}] }}]\n");
        for whole in [whole.clone(), whole.replace("/docker.io", ""), in_line] {
            assert_eq!(led(Client::Podman, "docker.io", &[(OURS, &whole)]), here, "{whole}");
        }
        in_vain(Client::Podman, &[(OURS, &whole), (later, entry)], "zzz.conf is read after it");
        in_vain(
            Client::Podman,
            &[(OURS, &whole), (later, "[[x")],
            "/etc/containers/registries.conf.d/zzz.conf: cannot be read",
        );
        // An entry for a part of its images counts for them, whichever file is read last.
        let of_part = "[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"near.example/library\"\n";
        let through = mirror.replace("/docker.io", "/docker.io/library");
        for other in ["etc/containers/registries.conf", "etc/containers/registries.conf.d/a.conf", later] {
            let why = format!("/{other} says something else of docker.io/library");
            in_vain(Client::Podman, &[(OURS, &whole), (other, of_part)], &why);
            let through = format!("{of_part}{through}");
            let blocked = format!("{of_part}blocked = true\n{}", through.replacen(of_part, "", 1));
            in_vain(Client::Podman, &[(OURS, &whole), (other, &blocked)], &why);
            assert_eq!(led(Client::Podman, "docker.io", &[(OURS, &whole), (other, &through)]), here);
            let elsewhere = of_part.replace("docker.io/library", "docker.io.example/library");
            assert_eq!(led(Client::Podman, "docker.io", &[(OURS, &whole), (other, &elsewhere)]), here);
        }
        let own = "home/me/.config/containers/registries.conf.d/a.conf";
        in_vain(Client::Podman, &[(OURS, &whole), (own, entry)], "a.conf is read after it");
        for (text, why) in [
            (format!("{entry}blocked = true\n{mirror}"), "blocked"),
            (whole.replace("insecure = true", ""), "by TLS"),
            (whole.replace("5000/docker.io", "5000/ghcr.io"), "would get those of ghcr.io"),
            (whole.replace("5000/docker.io", "5001"), "would get those of ghcr.io"),
            (format!("{whole}pull-from-mirror = \"digest-only\"\n"), "pull-from-mirror"),
            (format!("{entry}mirror-by-digest-only = true\n{mirror}"), "by-digest-only"),
            (format!("{entry}[[registry.mirror]]\nlocation = \"near.example\"\n{mirror}"), "after near.example"),
        ] {
            in_vain(Client::Podman, &[(OURS, &text)], why);
        }
        let port = "[[registry]]\nlocation = \"a.example:5\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000/a.example:5\"\n";
        let judged = led(Client::Podman, "a.example:5", &[(OURS, port)]);
        assert!(matches!(&judged, Leads::InVain(why) if why.contains("a port stands behind a slash")), "{judged:?}");
        let part = whole.replacen("location = \"docker.io\"", "location = \"docker.io/acme\"", 1);
        assert_eq!(led(Client::Podman, "docker.io", &[(OURS, &part)]), Leads::Elsewhere);
        assert_eq!(led(Client::Podman, "docker.io", &[(OURS, "# 127.0.0.1:5000\n")]), Leads::Elsewhere);
        let machines =
            [("etc/containers/registries.conf", whole.as_str()), ("home/me/.config/containers/registries.conf", "")];
        assert_eq!(led(Client::Podman, "docker.io", &machines), Leads::Elsewhere, "his own stands in its place");
    }

    #[test]
    fn who_logs_in_is_led_to_the_listener_of_the_registry_and_to_nothing_behind_it() {
        use Login::{AtItsListener, Nowhere, PassedThrough};
        for (login, location, is_led) in [
            (Nowhere, "127.0.0.1:5000/ghcr.io", true),
            (Nowhere, "127.0.0.1:5001/ghcr.io", true),
            (AtItsListener, "127.0.0.1:5000/ghcr.io", false),
            (AtItsListener, "127.0.0.1:5001/ghcr.io", true),
            (AtItsListener, "127.0.0.1:5001", true),
            (PassedThrough, "127.0.0.1:5000/ghcr.io", false),
            (PassedThrough, "127.0.0.1:5001/ghcr.io", false),
            (PassedThrough, "127.0.0.1:5001", true),
        ] {
            let mirror = format!("[[registry.mirror]]\nlocation = \"{location}\"\ninsecure = true\n");
            let text = format!("[[registry]]\nlocation = \"ghcr.io\"\n{mirror}");
            let judged = led_with(login, Client::Podman, "ghcr.io", &[(OURS, &text)]);
            match &judged {
                Leads::Here(_) => assert!(is_led, "{login:?} {location}"),
                Leads::InVain(why) => assert!(!is_led && why.contains("at 127.0.0.1:5001, the address"), "{why}"),
                Leads::Elsewhere => panic!("{login:?} {location}"),
            }
        }
        // Where no listener is for it, none would be better; whoever names the registry himself is asked each time.
        let text = "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000/quay.io\"\n\
                    insecure = true\n";
        let here = Leads::Here(format!("/{OURS}"));
        assert_eq!(led_with(PassedThrough, Client::Podman, "quay.io", &[(OURS, text)]), here);
        let file = "etc/rancher/k3s/registries.yaml";
        let all = "mirrors:\n  \"*\":\n    endpoint:\n      - http://127.0.0.1:5000\n";
        assert_eq!(led_with(PassedThrough, Client::K3s, "ghcr.io", &[(file, all)]), Leads::Here(format!("/{file}")));
    }

    #[test]
    fn nobody_is_led_by_an_address_of_ip6_that_is_not_understood() {
        let k3s = "etc/rancher/k3s/registries.yaml";
        for (client, file, text) in [
            (
                Client::Podman,
                OURS,
                "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"[::1]:5000/docker.io\"\ninsecure = true\n",
            ),
            (Client::Containerd, HOSTS, "[host.\"http://[::1]:5000\"]\n"),
            (Client::Buildkit, "etc/buildkit/buildkitd.toml", "[registry.\"docker.io\"]\nmirrors = [\"[::1]:5000\"]\n"),
            (Client::K3s, k3s, "mirrors:\n  docker.io:\n    endpoint:\n      - \"http://[::1]:5000\"\n"),
        ] {
            let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
            in_vain(client, &[(CONFIG, config), (file, text)], "IPv6");
        }
    }

    #[test]
    fn buildkit_and_k3s_are_led_by_what_stands_for_the_registry() {
        let file = "etc/buildkit/buildkitd.toml";
        let here = Leads::Here(format!("/{file}"));
        let mirrors = "[registry.\"docker.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n";
        let http = |http| format!("{mirrors}[registry.\"127.0.0.1:5000\"]\nhttp = {http}\n");
        for text in [mirrors.to_owned(), http(true), mirrors.replace(":5000", ":5001")] {
            assert_eq!(led(Client::Buildkit, "docker.io", &[(file, &text)]), here, "{text}");
        }
        in_vain(Client::Buildkit, &[(file, &http(false))], "by TLS");
        assert_eq!(led(Client::Buildkit, "ghcr.io", &[(file, mirrors)]), Leads::Elsewhere);
        let file = "etc/rancher/k3s/registries.yaml";
        let here = Leads::Here(format!("/{file}"));
        let all = "mirrors:\n  \"*\":\n    endpoint:\n      - http://127.0.0.1:5000\n";
        assert_eq!(led(Client::K3s, "ghcr.io", &[(file, all)]), here);
        let other = format!("{all}  docker.io:\n    endpoint: [\"https://near.example\"]\n");
        assert_eq!(led(Client::K3s, "docker.io", &[(file, &other)]), Leads::Elsewhere);
        let rewritten = format!("{all}    rewrite:\n      \"^(.*)$\": \"hub/$1\"\n");
        in_vain(Client::K3s, &[(file, &rewritten)], "rewrite");
        in_vain(Client::K3s, &[(file, "mirrors: [")], "cannot be read");
        assert_eq!(led(Client::Rke2, "ghcr.io", &[(file, all)]), Leads::Elsewhere, "it has a folder of its own");
        let file = "etc/rancher/rke2/registries.yaml";
        assert_eq!(led(Client::Rke2, "ghcr.io", &[(file, all)]), Leads::Here(format!("/{file}")));
    }
}
