//! `setup --mirror-ca`: a mirror whose certificate the machine does not know.

use std::fs;

use super::setup::{root, run, tree};

const MIRROR: &str = "https://127.0.0.1:5000";

fn pem(name: &str) -> String {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
}

#[test]
fn the_authority_of_the_mirror_is_written_beside_its_hosts_named_there_and_taken_back() {
    let files = [("etc/docker/daemon.json", "{\"features\": {\"containerd-snapshotter\": true}}\n")];
    for (client, folder) in [("containerd", "etc/containerd/certs.d"), ("docker", "etc/docker/certs.d")] {
        let root = root(&files);
        let before = tree(root.path());
        let authority = tempfile::NamedTempFile::new().unwrap();
        let (at, ca) = (root.path().display(), authority.path().display());
        let both = "--for docker.io --for ghcr.io";
        let apply = |more: &str| run(&format!("{client} --apply --mirror {MIRROR} --root {at} {both} {more}"), &[]);
        let read = |name: &str| fs::read_to_string(root.path().join(folder).join(name));
        for content in ["a.example", "b.example"].map(pem) {
            fs::write(authority.path(), &content).unwrap();
            let (code, out, err) = apply(&format!("--mirror-ca {ca}"));
            assert_eq!(code, 0, "{client}: {out}{err}");
            for registry in ["docker.io", "ghcr.io"] {
                let hosts: toml::Table = read(&format!("{registry}/hosts.toml")).unwrap().parse().unwrap();
                let named = hosts["host"][MIRROR]["ca"].as_str().unwrap();
                assert_eq!(read(&format!("{registry}/{named}")).unwrap(), content, "{client}");
            }
        }
        let (code, _, err) =
            run(&format!("{client} --check --mirror {MIRROR} --root {at} {both} --mirror-ca {ca}"), &[]);
        assert_eq!(code, 0, "{client}: {err}");
        // Once the machine knows it, it need not be named.
        assert_eq!(apply("").0, 0, "{client}");
        assert!(!read("docker.io/hosts.toml").unwrap().contains("ca ="), "{client}");
        assert!(read("docker.io/registry-mirror-ca.pem").is_err(), "{client}");
        assert_eq!(apply(&format!("--mirror-ca {ca}")).0, 0, "{client}");
        let (code, out, err) = run(&format!("{client} --undo --root {at}"), &[]);
        assert_eq!(code, 0, "{client}: {out}{err}");
        assert_eq!(tree(root.path()), before, "{client}: all is as it was");
    }
}

#[test]
fn who_reads_no_hosts_is_not_told_of_an_authority_and_says_so() {
    let (root, authority) = (root(&[]), tempfile::NamedTempFile::new().unwrap());
    fs::write(authority.path(), pem("a.example")).unwrap();
    for client in ["docker", "podman", "cri-o", "buildkit", "k3s", "rke2"] {
        let (at, ca) = (root.path().display(), authority.path().display());
        let (code, _, err) = run(&format!("{client} --apply --mirror {MIRROR} --mirror-ca {ca} --root {at}"), &[]);
        assert!(code == 2 && err.contains("is told of no authority here"), "{client}: {code} {err}");
    }
    assert!(tree(root.path()).is_empty());
}
