//! Programs on this machine that pull images: whether they ask this mirror.
//!
//! Their files are read, as each of them reads its own, where `setup` knows how they are written.

use crate::documents::Checked;

/// A program that pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// As commands call it.
    pub name: &'static str,
    /// The programs that it is, any of them.
    pub programs: &'static [&'static str],
}

/// All that we know.
pub const CLIENTS: [Client; 7] = [
    Client { name: "docker", programs: &["dockerd"] },
    Client { name: "containerd", programs: &["containerd"] },
    Client { name: "podman", programs: &["podman", "buildah", "skopeo"] },
    Client { name: "cri-o", programs: &["crio"] },
    Client { name: "buildkit", programs: &["buildkitd"] },
    Client { name: "k3s", programs: &["k3s"] },
    Client { name: "rke2", programs: &["rke2"] },
];

/// A client as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As commands call it.
    pub name: &'static str,
    /// Whether it is on this machine.
    pub there: bool,
    /// The files that lead it here, each with the registry whose images it asks for.
    pub led: Vec<(String, String)>,
    /// Why it names this mirror in vain, if it does.
    pub in_vain: Option<String>,
}

/// The line for a client.
pub fn judge(Found { name, there, led, in_vain }: &Found) -> Checked {
    let about = format!("client {name}");
    let hint = || format!("registry-mirror setup {name} shows what to write, --apply writes it");
    match (in_vain, &led[..], there) {
        (Some(why), ..) => Checked::warn(about, why, hint()),
        (None, [(file, registry)], _) => Checked::ok(about, format!("{file} leads it to this mirror for {registry}")),
        (None, [(file, registry), others @ ..], _) => {
            let message = format!("{file} leads it to this mirror for {registry} and {} more", others.len());
            Checked::ok(about, message)
        }
        (None, [], true) => Checked::warn(about, "it does not ask this mirror", hint()),
        (None, [], false) => Checked::ok(about, "it is not on this machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Verdict;

    #[test]
    fn a_client_that_does_not_ask_is_told_how_to() {
        let found = Found { name: "docker", there: true, led: Vec::new(), in_vain: None };
        let line = judge(&found);
        assert!(line.verdict == Verdict::Warn && line.hint.is_some_and(|hint| hint.contains("setup docker")));
        let led = vec![("/etc/docker/daemon.json".to_owned(), "docker.io".to_owned())];
        let led = Found { led, ..found.clone() };
        let line = judge(&led);
        assert!(line.verdict == Verdict::Ok && line.message.contains("leads it to this mirror for docker.io"));
        // What it says of one registry is not mended by what it says of another.
        let line = judge(&Found { in_vain: Some("daemon.json cannot be read".to_owned()), ..led });
        assert!(line.verdict == Verdict::Warn && line.message.contains("cannot be read") && line.hint.is_some());
        assert_eq!(judge(&Found { there: false, ..found }).verdict, Verdict::Ok);
    }
}
