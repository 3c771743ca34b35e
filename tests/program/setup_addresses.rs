//! `setup` and the addresses of the mirror: those that a client cannot read, the same listener by other names, and
//! several mirrors at once.

use crate::setup::{root, run, tree};

/// What is said with a mirror of this file; what is written goes below a root of its own.
fn told(config: &str, line: &str) -> (i32, String, String) {
    let folder = root(&[("mirror.toml", config)]);
    let at = folder.path().display();
    let (code, out, err) = run(&format!("{line} -c {at}/mirror.toml --root {at}"), &[("PATH", "/nonexistent")]);
    (code, out.replace(&at.to_string(), ""), err.replace(&at.to_string(), ""))
}

/// Those that do not read an address of IPv6, with what stands in the place of one.
const READ_NO_IP6: [(&str, &str); 7] = [
    ("podman", "location = \"{}/docker.io\""),
    ("cri-o", "location = \"{}/docker.io\""),
    ("containerd", "[host.\"http://{}\"]"),
    ("k3s", "\"http://{}\""),
    ("rke2", "\"http://{}\""),
    ("buildkit", "mirrors = [\"{}\"]"),
    ("cf", "-o {}/docker.io/REPOSITORY:TAG"),
];

#[test]
fn a_client_that_reads_no_address_of_ip6_is_led_to_another_listener_or_refused() {
    let both = "server.listen = [\"[::1]:4998\", \"127.0.0.1:4999\"]\n";
    let alone = "server.listen = [\"[::1]:4998\"]\n";
    for (client, line) in READ_NO_IP6 {
        let (code, out, err) = told(both, client);
        let expected = line.replace("{}", "127.0.0.1:4999");
        assert!(code == 0 && out.contains(&expected) && !out.contains("[::1]"), "{client}: {code} {out}{err}");
        for (config, more) in
            [(alone, ""), (both, " --mirror http://[::1]:4998"), ("", " --mirror http://[::1]:9=docker.io")]
        {
            let (code, out, err) = told(config, &format!("{client}{more}"));
            let name = if more.contains(":9=") { "http://localhost:9" } else { "http://localhost:4998" };
            let is_told = err.contains("IPv6") && err.contains(&format!("--mirror {name}"));
            assert!(code == 2 && is_told && out.is_empty(), "{client}{more}: {code} {out}{err}");
        }
        let (code, out, err) = told(alone, &format!("{client} --mirror http://localhost:4998"));
        let expected = line.replace("{}", "localhost:4998");
        assert!(code == 0 && out.contains(&expected), "{client}: {code} {out}{err}");
    }
    let (code, _, err) = told("", "podman --mirror http://[2001:db8::1]:5000");
    assert!(code == 2 && err.contains("--mirror http://mirror.example:5000"), "{code} {err}");
    // Those that read it are told as ever.
    for (client, line) in [
        ("docker", "\"http://[::1]:4998\""),
        ("kaniko", "--registry-map=index.docker.io=[::1]:4998/docker.io"),
        ("crane", "[::1]:4998/docker.io/REPOSITORY:TAG"),
    ] {
        let (code, out, err) = told(alone, client);
        assert!(code == 0 && out.contains(line), "{client}: {code} {out}{err}");
    }
    // Docker reads hosts.toml with its other store.
    let folder = root(&[
        ("mirror.toml", alone),
        ("etc/docker/daemon.json", "{\"features\": {\"containerd-snapshotter\": true}}"),
    ]);
    let at = folder.path().display();
    let before = tree(folder.path());
    let (code, _, err) = run(&format!("docker --apply -c {at}/mirror.toml --root {at}"), &[]);
    assert!(code == 2 && err.contains("IPv6"), "{code} {err}");
    assert_eq!(tree(folder.path()), before, "nothing is written");
}

#[test]
fn of_two_listeners_for_a_registry_the_one_that_can_be_read_is_the_one() {
    let config = "server.listen = [\"127.0.0.1:4997\", \"[::1]:4998=pass.example\", \"127.0.0.1:4999=pass.example\"]\n\
                  [[upstream]]\nhost = \"pass.example\"\naccess = \"pass-through\"\n";
    for client in ["podman", "cri-o", "buildkit", "cf"] {
        let (code, out, err) = told(config, &format!("{client} --for pass.example"));
        assert!(code == 0 && out.contains("127.0.0.1:4999") && !out.contains("4998"), "{client}: {out}{err}");
        assert!(!err.contains("nobody can log in"), "{client}: {err}");
    }
    // Where it has none that can be read, it is told which one would be.
    let six = config.replace(", \"127.0.0.1:4999=pass.example\"", "");
    let (code, out, err) = told(&six, "podman --for pass.example");
    assert!(code == 0 && out.contains("127.0.0.1:4997/pass.example"), "{out}{err}");
    assert!(err.contains("nobody can log in") && err.contains("--mirror http://localhost:4998"), "{err}");
    let (code, out, err) = told(&six, "podman --for pass.example --mirror http://localhost:4998");
    assert!(
        code == 0 && out.contains("location = \"localhost:4998\"") && !err.contains("nobody can log in"),
        "{out}{err}"
    );
}

const PRIVATE: &str = "server.listen = [\"127.0.0.1:4997\", \"127.0.0.1:4998=pass.example\", \"127.0.0.1:4999=mapped.example\"]\n\
    access.htpasswd = \"users\"\n\
    access.grant = [{ who = \"user:ann\", may = \"mapped.example/**\" }]\n\
    [[upstream]]\nhost = \"pass.example\"\naccess = \"pass-through\"\n\
    [[upstream]]\nhost = \"mapped.example\"\naccess = \"mapped\"\nauth = \"file:login\"\n\
    [[upstream]]\nhost = \"open.example\"\n";

#[test]
fn the_daemon_by_another_name_is_the_daemon() {
    let (code, out, err) = told(PRIVATE, "podman --for pass.example --mirror http://localhost:4998");
    assert!(code == 0 && out.contains("location = \"localhost:4998\"\n"), "{code} {out}{err}");
    assert!(out.contains("podman login localhost:4998  # as a user of pass.example"), "{out}");
    assert!(!err.contains("nobody can log in"), "{err}");
    // It is known which registry it is for, and that it is not this one.
    let (code, out, err) = told(PRIVATE, "podman --for open.example --mirror http://localhost:4998");
    assert!(code == 0 && out.contains("location = \"localhost:4998/open.example\""), "{code} {out}{err}");
    let (code, _, err) = told(PRIVATE, "docker --mirror http://localhost:4998 --for docker.io");
    assert!(code == 2 && err.contains("would get images of pass.example"), "{code} {err}");
    // By a name in its certificate; by others it is somebody else.
    let signed = rcgen::generate_simple_self_signed(["m.example".to_owned(), "*.lab.example".to_owned()]).unwrap();
    let folder = root(&[("cert.pem", &signed.cert.pem()), ("key.pem", &signed.signing_key.serialize_pem())]);
    let at = folder.path().display();
    let private = format!("server.tls = {{ cert = \"{at}/cert.pem\", key = \"{at}/key.pem\" }}\n{PRIVATE}");
    for (name, is_it) in [("m.example", true), ("a.lab.example", true), ("other.example", false)] {
        let (code, out, err) = told(&private, &format!("podman --for pass.example --mirror https://{name}:4998"));
        let location = if is_it { format!("\"{name}:4998\"") } else { format!("\"{name}:4998/pass.example\"") };
        assert!(code == 0 && out.contains(&location), "{name}: {code} {out}{err}");
        assert_eq!(out.contains(&format!("podman login {name}:4998")), is_it, "{name}: {out}");
    }
}

#[test]
fn a_mirror_that_is_named_for_a_registry_is_for_that_one() {
    let (code, out, err) = told("", "podman --mirror http://m.example:5001=reg.test");
    assert!(code == 0 && out.contains("location = \"reg.test\"") && out.contains("\"m.example:5001\""), "{out}{err}");
    assert!(!out.contains("docker.io"), "{out}");
    let (code, _, err) = told("", "podman --mirror http://m.example:0");
    assert!(code == 2 && err.contains("port 0"), "{code} {err}");
    // A listener that is known to be another registry's is not taken for this one.
    for (mirror, other) in [
        ("http://127.0.0.1:4999=pass.example", "the one that is for pass.example is http://127.0.0.1:4998"),
        ("http://localhost:4999=pass.example", "the one that is for pass.example is http://127.0.0.1:4998"),
        ("http://127.0.0.1:4999=open.example", "listen = [\"ADDRESS=open.example\"]"),
    ] {
        for client in ["podman", "containerd", "crane"] {
            let (code, _, err) = told(PRIVATE, &format!("{client} --mirror {mirror}"));
            assert!(
                code == 2 && err.contains("is for mapped.example") && err.contains(other),
                "{client} {mirror}: {err}"
            );
        }
    }
    // Without a daemon or a file nothing is known of who listens where one would.
    let folder = root(&[]);
    let line = format!("podman --mirror http://127.0.0.1:5000=ghcr.io --root {}", folder.path().display());
    let (code, out, err) = run(&line, &[]);
    assert!(code == 0 && out.contains("location = \"127.0.0.1:5000\""), "{code} {out}{err}");
}

#[test]
fn buildkit_asks_for_each_private_registry_at_the_listener_that_is_for_it() {
    let both = "buildkit --for pass.example --for mapped.example --for open.example";
    let (code, out, err) = told(PRIVATE, both);
    for (registry, port) in [("pass.example", 4998), ("mapped.example", 4999), ("open.example", 4997)] {
        let entry = format!("[registry.\"{registry}\"]\n+mirrors = [\"127.0.0.1:{port}\"]");
        assert!(out.contains(&entry), "{entry}: {code} {out}{err}");
        assert!(out.contains(&format!("[registry.\"127.0.0.1:{port}\"]\n+http = true")), "{out}");
    }
    for (registry, port) in [("pass.example", 4998), ("mapped.example", 4999)] {
        assert!(out.contains(&format!("docker login 127.0.0.1:{port}  # ")), "{registry}: {out}");
    }
    assert!(!err.contains("one login"), "{err}");
    // Where they share one, it is told that this cannot work; one alone has it for itself.
    let shared = PRIVATE.replace(", \"127.0.0.1:4999=mapped.example\"", "").replace("4998=pass.example", "4998");
    let (code, out, err) = told(&shared, both);
    assert!(code == 0 && err.contains("buildkit has one login for http://127.0.0.1:4997"), "{code} {out}{err}");
    assert!(err.contains("pass.example") && err.contains("listen = ["), "{err}");
    let (_, _, err) = told(&shared, "buildkit --for pass.example --for open.example");
    assert!(!err.contains("one login"), "{err}");
    let (_, _, err) = told(PRIVATE, &format!("{both} --mirror http://127.0.0.1:4997"));
    assert!(err.contains("one login"), "{err}");
}

/// Clients with what they are told of a registry at a listener that is for it.
const EACH: [(&str, &str); 9] = [
    ("podman", "location = \"{mirror}\""),
    ("cri-o", "location = \"{mirror}\""),
    ("containerd", "[host.\"{scheme}://{mirror}\"]"),
    ("k3s", "\"{scheme}://{mirror}\""),
    ("rke2", "\"{scheme}://{mirror}\""),
    ("buildkit", "mirrors = [\"{mirror}\"]"),
    ("kaniko", "--registry-map={registry}={mirror}\n"),
    ("cf", "cf push APP -o {mirror}/REPOSITORY:TAG"),
    ("crane", "{mirror}/REPOSITORY:TAG in the place of {registry}/REPOSITORY:TAG"),
];

#[test]
fn several_registries_have_each_a_listener_elsewhere() {
    let mirrors = [("http", "10.0.0.9:5001", "reg1.test"), ("https", "m.example:5002", "reg2.test")];
    let words: String = mirrors.iter().map(|(scheme, at, of)| format!(" --mirror {scheme}://{at}={of}")).collect();
    for (client, line) in EACH {
        let (code, out, err) = told("", &format!("{client}{words}"));
        for (scheme, mirror, registry) in mirrors {
            let expected = line.replace("{scheme}", scheme).replace("{mirror}", mirror).replace("{registry}", registry);
            assert!(code == 0 && out.contains(&expected), "{client} {expected}: {code} {out}{err}");
        }
        // What is plain is said of the plain one.
        let plain = ["insecure = true", "http = true", "--insecure-registry=", "garden and of", "--tls disabled"];
        let times: usize = plain.iter().map(|word| out.matches(word).count()).sum();
        let expected = usize::from(!["containerd", "k3s", "rke2"].contains(&client));
        assert_eq!(times, expected, "{client}: {out}");
        assert!(err.contains("has to trust the certificate of https://m.example:5002"), "{client}: {err}");
    }
    // One without a registry is for all others.
    let (code, out, err) = told("", &format!("podman --for reg1.test --for c.test --mirror http://c:1{words}"));
    assert!(code == 0 && out.contains("\"10.0.0.9:5001\"") && out.contains("\"c:1/c.test\""), "{out}{err}");
    for twice in
        ["--mirror http://a:1 --mirror http://b:1", "--mirror http://a:1=reg1.test --mirror http://b:1=reg1.test"]
    {
        let (code, _, err) = told("", &format!("podman {twice}"));
        assert!(code == 2 && err.contains("there twice"), "{twice}: {code} {err}");
    }
}

#[test]
fn what_is_told_of_registries_that_are_gone_brings_them_back() {
    for (client, _) in EACH.into_iter().take(6) {
        let folder = root(&[("mirror.toml", "")]);
        let at = folder.path().display();
        let setup = |words: &str| run(&format!("{client} {words} -c {at}/mirror.toml --root {at}"), &[]);
        let before = tree(folder.path());
        assert_eq!(setup("--apply --mirror http://10.0.0.9:5001=reg1.test").0, 0, "{client}");
        let (code, _, err) = setup("--apply --mirror http://10.0.0.9:5002=reg2.test");
        assert!(code == 0 && err.contains("was set up for reg1.test before"), "{client}: {code} {err}");
        let (_, words) = err.split_once("for all of them, ").expect("what to type");
        let words = words.lines().next().expect("a line").to_owned();
        let (code, out, err) = setup(&format!("--apply {words}"));
        assert!(code == 0 && !err.contains("any more"), "{client} {words}: {code} {out}{err}");
        let (code, out, err) = setup(&format!("--check {words}"));
        assert_eq!(code, 0, "{client}: {out}{err}");
        let written: Vec<u8> = tree(&folder.path().join("etc")).into_values().flat_map(|(.., text)| text).collect();
        let written = String::from_utf8(written).unwrap();
        for mirror in ["10.0.0.9:5001", "10.0.0.9:5002"] {
            assert!(written.contains(mirror) && !written.contains(&format!("{mirror}/")), "{client}: {written}");
        }
        assert_eq!(setup("--undo").0, 0, "{client}");
        assert_eq!(tree(folder.path()), before, "{client}");
    }
}
