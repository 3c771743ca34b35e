//! `setup` for registries that callers have to log in for: at which listener, by which names, and what is left to do.

use crate::setup::{root, run, tree};

const PODMAN: &str = "etc/containers/registries.conf.d/zz-registry-mirror.conf";
const PRIVATE: &str = "\
    server.listen = [\"127.0.0.1:4997\", \"127.0.0.1:4998=pass.example\", \"127.0.0.1:4999=mapped.example\"]\n\
    access.htpasswd = \"users\"\n\
    access.grant = [{ who = \"user:ann\", may = \"mapped.example/**\" }]\n\
    [[upstream]]\nhost = \"pass.example\"\naccess = \"pass-through\"\n\
    [[upstream]]\nhost = \"mapped.example\"\naccess = \"mapped\"\nauth = \"file:login\"\n\
    [[upstream]]\nhost = \"open.example\"\n\
    [[upstream]]\nhost = \"unheard.example\"\naccess = \"pass-through\"\n";

/// What is told of these registries, with a mirror of this file.
fn told(config: &str, line: &str) -> (String, String) {
    let folder = root(&[("mirror.toml", config)]);
    let file = folder.path().join("mirror.toml");
    let (code, out, err) = run(&format!("{line} -c {} --root {}", file.display(), folder.path().display()), &[]);
    assert_eq!(code, 0, "{line}: {out}{err}");
    (out, err)
}

#[test]
fn who_has_to_log_in_for_a_registry_is_led_to_its_listener_and_names_its_images_as_it_does() {
    for client in ["podman", "cri-o"] {
        let line = format!("{client} --for pass.example --for mapped.example --for open.example");
        let (out, err) = told(PRIVATE, &line);
        for location in ["127.0.0.1:4998\"", "127.0.0.1:4999\"", "127.0.0.1:4997/open.example\""] {
            assert!(out.contains(&format!("location = \"{location}")), "{client} {location}: {out}");
        }
        assert!(!err.contains("nobody can log in"), "{err}");
    }
    for (client, lines) in [
        (
            "crane",
            &["127.0.0.1:4998/REPOSITORY:TAG in the place of pass.example/", "crane auth login 127.0.0.1:4998"][..],
        ),
        ("kaniko", &["--registry-map=pass.example=127.0.0.1:4998\n", "--insecure-registry=127.0.0.1:4998"]),
        ("cf", &["cf push APP -o 127.0.0.1:4998/REPOSITORY:TAG", "[\"127.0.0.1:4998\"]"]),
        ("podman", &["podman login 127.0.0.1:4998  # as a user of pass.example"]),
    ] {
        let (out, _) = told(PRIVATE, &format!("{client} --for pass.example"));
        for line in lines {
            assert!(out.contains(line) && !out.contains("4997"), "{client} {line}: {out}");
        }
    }
    let (out, _) = told(PRIVATE, "podman --for mapped.example");
    assert!(out.contains("podman login 127.0.0.1:4999  # as a user of access.htpasswd"), "{out}");
    // Who has no listener of its own for it, or names another one, is told so.
    let (out, err) = told(PRIVATE, "podman --for unheard.example");
    assert!(out.contains("127.0.0.1:4997/unheard.example") && err.contains("listen = ["), "{out}{err}");
    assert!(err.contains("nobody can log in for unheard.example"), "{err}");
    let (out, err) = told(PRIVATE, "podman --for pass.example --mirror http://127.0.0.1:4997");
    assert!(out.contains("4997/pass.example") && err.contains("--mirror http://127.0.0.1:4998"), "{out}{err}");
    let (out, err) = told(PRIVATE, "podman --for pass.example --mirror http://127.0.0.1:4998");
    assert!(out.contains("\"127.0.0.1:4998\"") && !err.contains("nobody can log in"), "{out}{err}");
    // On another machine nothing is known but what is said.
    let (out, _) = told("", "podman --for pass.example --mirror http://m.example:5001=pass.example");
    assert!(out.contains("location = \"m.example:5001\""), "{out}");
    let (out, err) = told(&PRIVATE.replace("pass.example", "docker.io"), "podman --for docker.io");
    assert!(out.contains("location = \"127.0.0.1:4997\"") && !err.contains("nobody can log in"), "{out}{err}");
    let (out, err) = told(&PRIVATE.replace("mapped.example", "docker.io"), "podman --for docker.io");
    assert!(!out.contains("podman login") && err.contains("nobody can log in for docker.io"), "{out}{err}");
}

#[test]
fn what_was_written_before_is_taken_out_again_by_either_name() {
    let folder = root(&[("mirror.toml", &PRIVATE.replace("pass-through", "public"))]);
    let at = format!("-c {0}/mirror.toml --root {0}", folder.path().display());
    let apply = || run(&format!("podman --for pass.example --apply {at}"), &[]);
    let before = tree(folder.path());
    assert_eq!(apply().0, 0);
    let written = || std::fs::read_to_string(folder.path().join(PODMAN)).unwrap();
    assert!(written().contains("127.0.0.1:4997/pass.example"), "as earlier versions wrote it: {}", written());
    let record = folder.path().join("var/lib/registry-mirror/setup/podman/record.json");
    assert!(!std::fs::read_to_string(record).unwrap().contains("\"own\""), "and kept it");
    // Others write around it.
    std::fs::write(folder.path().join(PODMAN), written() + "\n[[registry]]\nlocation = \"o.example\"\n").unwrap();
    std::fs::write(folder.path().join("mirror.toml"), PRIVATE).unwrap();
    let (code, out, err) = apply();
    assert_eq!(code, 0, "{out}{err}");
    assert!(written().contains("\"127.0.0.1:4998\"") && !written().contains("4997"), "{}", written());
    assert!(written().contains("o.example"), "{}", written());
    assert_eq!(run(&format!("podman --check {at}"), &[]).0, 0);
    std::fs::write(folder.path().join(PODMAN), written().replace("\"o.example\"", "\"p.example\"")).unwrap();
    let (code, out, err) = run(&format!("podman --undo --root {}", folder.path().display()), &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!written().contains("127.0.0.1") && written().contains("p.example"), "{}", written());
    std::fs::remove_file(folder.path().join(PODMAN)).unwrap();
    let left = tree(folder.path());
    assert_eq!(
        left.contains_key("var/lib/registry-mirror/setup/podman"),
        before.contains_key("var/lib/registry-mirror")
    );
}
