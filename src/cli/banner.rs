//! What `serve` says on a terminal when it is ready: where everything is, and what to do next.
//!
//! A pure function of the configuration and of what was really bound, because a port may have been
//! chosen by the system and the listeners may have come from systemd.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::config::{Config, reachable};
use crate::daemon::Bound;
use crate::oci::RegistryName;
use crate::setup::{self, Client, DOCKER_HUB, File, Kind, MirrorAddress, Own, Settings};

/// The banner; `budget` is how many bytes the store may hold. Ends with a line break.
pub(super) fn banner(config: &Config, bound: Bound<'_>, budget: u64) -> String {
    let source = match &config.source {
        Some(path) => path.display().to_string(),
        None => "defaults, no file".to_owned(),
    };
    let mut text = format!("registry-mirror {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<8} {value}");
    };
    let scheme = |exposed: bool| if exposed && config.server.tls.is_some() { "https" } else { "http" };
    line("pull", &urls(bound.pull, |_| scheme(true)));
    line("store", &config.store.path.display().to_string());
    line("at most", &super::show::size(budget));
    line("mode", config.cache.policy.mode.as_str());
    let pages = urls(bound.admin, |address| scheme(!address.ip().is_loopback()));
    line("page", &if pages.is_empty() { "off".to_owned() } else { pages });
    line("config", &source);
    // One that is for Docker Hub is of use to dockerd.
    let mut pull: Vec<_> = bound.pull.iter().enumerate().collect();
    pull.sort_by_key(|(place, address)| {
        (config.default_at(**address, *place).as_str() != DOCKER_HUB, address.is_ipv6())
    });
    if let Some((place, address)) = pull.first() {
        let default = config.default_at(**address, *place);
        let logs_in = config.rules().asks_to_log_in(default);
        text.push_str(&client_lines((default, logs_in), reachable(**address), scheme(true)));
    }
    text
}

/// What to tell a client on this machine, as `setup` writes it.
fn client_lines((default, logs_in): (&RegistryName, bool), address: SocketAddr, scheme: &str) -> String {
    let Ok(mirror) = format!("{scheme}://{address}").parse::<MirrorAddress>() else { return String::new() };
    // Most clients read no such address.
    let mirror = if mirror.is_ip6() { mirror.by_name() } else { mirror };
    let own = logs_in.then(|| Own { registry: default.clone(), mirror: mirror.clone() }).into_iter().collect();
    let (registries, default_there) = (vec![default.clone()], Some(default.clone()));
    let settings = Settings { mirror, registries, default: default_there, own, authority: None };
    let has_it = |text: &str| text.contains(settings.mirror.authority());
    let lines = |client: Client| {
        let written = setup::written(client, &settings).unwrap_or_default();
        let (File { path, kind }, text) = written.into_iter().find(|(_, text)| has_it(text))?;
        let note = match &kind {
            Kind::HostsToml(_) => " (where config_path names /etc/containerd/certs.d)",
            _ => "",
        };
        // On one line.
        let text = match &kind {
            Kind::DaemonJson => {
                let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
                words.replace("[ ", "[").replace(" ]", "]")
            }
            _ => text,
        };
        let text: String = text.trim().lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        Some(format!("\n  {:<10} /{path}{note}\n{text}", client.as_str()))
    };
    // Docker asks mirrors for Docker Hub's images only.
    let others = settings.name_of(default).filter(|_| default.as_str() != DOCKER_HUB);
    let others = others.map(|name| format!("\n  docker pull {name}/NAME\n"));
    let clients = [Client::Docker, Client::Containerd, Client::Podman].into_iter().filter_map(lines);
    others.into_iter().chain(clients).collect()
}

fn urls(addresses: &[SocketAddr], scheme: impl Fn(&SocketAddr) -> &'static str) -> String {
    let urls: Vec<_> = addresses.iter().map(|address| format!("{}://{address}", scheme(address))).collect();
    urls.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("/etc/mirror.toml"), text, [], Overrides::default()).expect("valid")
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("valid")
    }

    #[test]
    fn the_banner_says_where_everything_is_and_the_line_for_dockerd() {
        let config = config("[store]\npath = \"/var/cache/mirror\"\n");
        let bound = Bound { pull: &[address("127.0.0.1:5000")], admin: &[address("127.0.0.1:5080")] };
        let expected = format!(
            "registry-mirror {}
  pull     http://127.0.0.1:5000
  store    /var/cache/mirror
  at most  372.5 GiB
  mode     online
  page     http://127.0.0.1:5080
  config   /etc/mirror.toml

  docker     /etc/docker/daemon.json
    {{ \"registry-mirrors\": [\"http://127.0.0.1:5000\"] }}

  containerd /etc/containerd/certs.d/docker.io/hosts.toml (where config_path names /etc/containerd/certs.d)
    [host.\"http://127.0.0.1:5000\"]
    capabilities = [\"pull\", \"resolve\"]

  podman     /etc/containers/registries.conf.d/zz-registry-mirror.conf
    [[registry]]
    location = \"docker.io\"

    [[registry.mirror]]
    location = \"127.0.0.1:5000/docker.io\"
    insecure = true
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(banner(&config, bound, 400_000_000_000), expected);
    }

    #[test]
    fn the_banner_names_what_was_bound_and_an_address_that_works() {
        let config = config("[store]\npath = \"/x\"\n[routes]\ndefault = \"ghcr.io\"\n");
        let bound = Bound { pull: &[address("0.0.0.0:4711"), address("[::]:4711")], admin: &[] };
        let text = banner(&config, bound, 0);
        assert!(text.contains("http://0.0.0.0:4711, http://[::]:4711"), "{text}");
        assert!(text.contains("docker pull 127.0.0.1:4711/ghcr.io/NAME"), "{text}");
        assert!(text.contains("certs.d/ghcr.io/hosts.toml") && !text.contains("docker.io"), "{text}");
        assert!(text.contains("page     off"), "{text}");
        let private = format!(
            "[store]\npath = \"/x\"\n[routes]\ndefault = \"a.example\"\n{}",
            "[[upstream]]\nhost = \"a.example\"\naccess = \"pass-through\"\n"
        );
        let bound = Bound { pull: &[address("127.0.0.1:4711")], admin: &[] };
        let text = banner(&self::config(&private), bound, 0);
        assert!(text.contains("docker pull 127.0.0.1:4711/NAME") && text.contains("\"127.0.0.1:4711\""), "{text}");
        let listen = "[store]\npath = \"/x\"\n[server]\nlisten = [\"127.0.0.1:1=ghcr.io\", \"127.0.0.1:2\"]\n";
        let bound = Bound { pull: &[address("127.0.0.1:1"), address("127.0.0.1:2")], admin: &[] };
        let text = banner(&self::config(listen), bound, 0);
        assert!(text.contains("[\"http://127.0.0.1:2\"]"), "that one is for Docker Hub: {text}");
        let six = "[store]\npath = \"/x\"\n[server]\nlisten = [\"[::1]:1\", \"127.0.0.1:2\"]\n";
        let bound = [address("[::1]:1"), address("127.0.0.1:2")];
        for (bound, named) in [(&bound[..], "127.0.0.1:2"), (&bound[..1], "localhost:1")] {
            let text = banner(&self::config(six), Bound { pull: bound, admin: &[] }, 0);
            let lines = text.split_once("\n\n").expect("lines for clients").1;
            assert!(lines.contains(&format!("\"{named}/docker.io\"")) && !lines.contains("[::1]"), "{text}");
        }
    }
}
