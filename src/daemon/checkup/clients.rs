//! The facts of clients on this machine: their programs and their files, which are only read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::doctor::clients::{CLIENTS, Client, Found, leads_here};

/// A longer file is no configuration, in bytes.
const LONGEST: u64 = 1 << 20;

/// How the clients that are meant are set up.
pub(super) fn found(only: Option<&str>, listening: &[SocketAddr]) -> Vec<Found> {
    let meant = CLIENTS.iter().filter(|client| only.is_none_or(|only| only == client.name));
    // Of clients that are not here nothing is said, unless somebody asks for them.
    let found = meant.map(|client| look(client, Path::new("/"), listening));
    found.filter(|found| only.is_some() || found.there || found.led_by.is_some()).collect()
}

fn look(client: &Client, root: &Path, listening: &[SocketAddr]) -> Found {
    let own = std::env::var_os("HOME").map(PathBuf::from).filter(|_| client.name == "podman");
    let own = own.into_iter().flat_map(|home| files(&home, ".config/containers/registries.conf.d/*"));
    let files = client.files.iter().flat_map(|pattern| files(root, pattern)).chain(own);
    let led_by = files.into_iter().find(|file| text(file).is_some_and(|text| leads_here(&text, listening)));
    let there = client.programs.iter().any(|program| is_installed(program));
    Found { name: client.name, there, led_by: led_by.map(|file| file.display().to_string()) }
}

/// The files that a pattern means, in which one `*` stands for any name.
fn files(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let Some((folder, rest)) = pattern.split_once('*') else { return vec![root.join(pattern)] };
    let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path().join(rest.trim_start_matches('/'))).collect();
    // Joining nothing leaves a slash behind.
    files = files.into_iter().map(|file| file.components().collect()).collect();
    files.sort();
    files
}

fn text(path: &Path) -> Option<String> {
    let known = std::fs::metadata(path).ok()?;
    (known.is_file() && known.len() <= LONGEST).then(|| std::fs::read_to_string(path).ok())?
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_leads_here_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let listening = ["127.0.0.1:5000".parse().expect("an address")];
        let led = |name: &str| {
            let client = CLIENTS.iter().find(|client| client.name == name).expect("a client");
            look(client, root.path(), &listening).led_by
        };
        for (name, file, text) in [
            ("docker", "etc/docker/daemon.json", r#"{"registry-mirrors": ["http://127.0.0.1:5000"]}"#),
            ("containerd", "etc/containerd/certs.d/docker.io/hosts.toml", "[host.\"http://127.0.0.1:5000\"]"),
            ("k3s", "etc/rancher/k3s/registries.yaml", "mirrors: {\"*\": {endpoint: [\"http://127.0.0.1:5000\"]}}"),
        ] {
            assert_eq!(led(name), None, "{name}");
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, text).expect("written");
            assert_eq!(led(name), Some(path.display().to_string()));
        }
    }
}
