//! Programs on this machine that pull images: whether their configuration leads to this mirror.
//!
//! Their files are only read. How each is written is `setup`'s to know; here it is enough to find our address in it.

use std::net::SocketAddr;

use crate::documents::Checked;

/// A program that pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// As commands call it.
    pub name: &'static str,
    /// The programs that it is, any of them.
    pub programs: &'static [&'static str],
    /// The files that may lead it here, below the root of the file system; `*` stands for any name.
    pub files: &'static [&'static str],
}

/// All that we know.
pub const CLIENTS: [Client; 5] = [
    Client {
        name: "docker",
        programs: &["dockerd"],
        files: &["etc/docker/daemon.json", "etc/docker/certs.d/*/hosts.toml"],
    },
    Client { name: "containerd", programs: &["containerd"], files: &["etc/containerd/certs.d/*/hosts.toml"] },
    Client {
        name: "podman",
        programs: &["podman", "crio", "buildah"],
        files: &["etc/containers/registries.conf", "etc/containers/registries.conf.d/*"],
    },
    Client { name: "buildkit", programs: &["buildkitd"], files: &["etc/buildkit/buildkitd.toml"] },
    Client { name: "k3s", programs: &["k3s", "rke2"], files: &["etc/rancher/k3s/registries.yaml"] },
];

/// A client as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As commands call it.
    pub name: &'static str,
    /// Whether it is on this machine.
    pub there: bool,
    /// The file that leads it here, if one does.
    pub led_by: Option<String>,
}

/// The line for a client.
pub fn judge(Found { name, there, led_by }: &Found) -> Checked {
    let about = format!("client {name}");
    match (led_by, there) {
        (Some(file), _) => Checked::ok(about, format!("{file} leads it to this mirror")),
        (None, true) => {
            let hint = format!("registry-mirror setup {name} shows what to write, --apply writes it");
            Checked::warn(about, "it does not ask this mirror", hint)
        }
        (None, false) => Checked::ok(about, "it is not on this machine"),
    }
}

/// Whether a configuration names one of the addresses where we listen, outside of its comments.
pub fn leads_here(text: &str, listening: &[SocketAddr]) -> bool {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let words = lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || "\"'`,={}()<>".contains(c)));
    words.filter_map(authority).any(|(host, port)| listening.iter().any(|at| is_at(*at, host, port)))
}

/// Host and port of a word that may be an address.
fn authority(word: &str) -> Option<(&str, u16)> {
    let word = word.split_once("://").map_or(word, |(_, rest)| rest);
    let authority = word.split('/').next().unwrap_or_default();
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// Whether host and port are where somebody listens who is at `at`. By another name it may be this machine, or not.
fn is_at(at: SocketAddr, host: &str, port: u16) -> bool {
    let named = match host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip == at.ip() || at.ip().is_unspecified() || (ip.is_loopback() && at.ip().is_loopback()),
        Err(_) => host == "localhost" || !at.ip().is_loopback(),
    };
    port == at.port() && named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Verdict;

    #[test]
    fn a_file_leads_here_where_it_names_our_address() {
        let at = |address: &str| vec![address.parse().expect("an address")];
        let (loopback, all) = (at("127.0.0.1:5000"), at("0.0.0.0:5000"));
        for (text, listening, expected) in [
            (r#"{"registry-mirrors": ["http://127.0.0.1:5000"]}"#, &loopback, true),
            (r#"{"registry-mirrors":["http://localhost:5000/"]}"#, &loopback, true),
            (r#"{"registry-mirrors": ["http://127.0.0.1:50001"]}"#, &loopback, false),
            (r#"{"registry-mirrors": ["http://mirror.corp:5000"]}"#, &loopback, false),
            (r#"{"registry-mirrors": ["http://mirror.corp:5000"]}"#, &all, true),
            (r#"{"log-level": "info"}"#, &loopback, false),
            ("[host.\"http://127.0.0.1:5000\"]\n", &loopback, true),
            ("# location = \"127.0.0.1:5000\"\n", &loopback, false),
            ("location = \"127.0.0.1:5000/ghcr.io\"\n", &loopback, true),
            ("[registry.\"docker.io\"]\n  mirrors = [\"127.0.0.1:5000\"]", &loopback, true),
            ("mirrors:\n  \"*\":\n    endpoint:\n      - http://[::1]:5000", &loopback, true),
        ] {
            assert_eq!(leads_here(text, listening), expected, "{text}");
        }
    }

    #[test]
    fn a_client_that_does_not_ask_is_told_how_to() {
        let found = Found { name: "docker", there: true, led_by: None };
        let line = judge(&found);
        assert!(line.verdict == Verdict::Warn && line.hint.is_some_and(|hint| hint.contains("setup docker")));
        let led = Found { led_by: Some("/etc/docker/daemon.json".to_owned()), ..found };
        assert_eq!(judge(&led).verdict, Verdict::Ok);
        assert_eq!(judge(&Found { there: false, ..found }).verdict, Verdict::Ok);
    }
}
