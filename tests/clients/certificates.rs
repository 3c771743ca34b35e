//! dockerd with a certificate in its `certs.d`: it is known by that, and pulls private images with it while their
//! registry is away.

use std::time::Instant;

use crate::docker::Docker;
use crate::private::{DOCKER, log_in, show_to_mirrors};
use crate::support::authority::Authority;
use crate::support::loopback;
use crate::support::private::{LEAVER, PRIVATE, Person, READER, Scene, refusal, until_refused};
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;

/// A mirror that asks for certificates, and three dockerds, two of which have one.
struct Certified {
    workspaces: [Workspace; 4],
    authority: Authority,
}

impl Certified {
    fn new() -> Certified {
        Certified { workspaces: [(); 4].map(|()| Workspace::new()), authority: Authority::new() }
    }

    /// A mirror with these lines and keys of its upstream, and a dockerd for each name, without certificate where it
    /// is empty.
    fn start(&self, lines: &str, upstream: &str, names: [&str; 3]) -> (Scene<'_>, [Docker<'_>; 3]) {
        let [own, rest @ ..] = &self.workspaces;
        let mirror = loopback::unused_address_v6();
        let authority = own.write("tls/ca.pem", &self.authority.pem());
        let tls = self.authority.set_up(mirror.ip(), own);
        let lines = format!("{tls}client_ca = \"{}\"\n{lines}", authority.display());
        let scene = Scene::configured(mirror, &lines, upstream, own);
        let mut names = names.into_iter();
        let dockers = rest.each_ref().map(|workspace| {
            let folder = format!("etc/certs.d/{mirror}");
            workspace.write(&format!("{folder}/ca.crt"), &self.authority.pem());
            if let Some(name) = names.next().filter(|name| !name.is_empty()) {
                let (certificate, key) = self.authority.client(name);
                workspace.write(&format!("{folder}/client.cert"), &certificate);
                workspace.write(&format!("{folder}/client.key"), &key);
            }
            Docker::start_with_own_certificates(mirror, workspace)
        });
        (scene, dockers)
    }
}

fn missing() -> Missing {
    Missing::among(&[&DOCKER[..], &["unshare", "sh"]].concat())
}

#[test]
fn dockerd_is_known_by_its_certificate_and_pulls_what_a_grant_gives_to_it() {
    if !missing().is_nothing("dockerd with a certificate") {
        return;
    }
    let set_up = Certified::new();
    let grants = "[[access.grant]]\nwho = \"cert:build-*\"\nmay = \"registry.test/team/*\"\n";
    let account = set_up.workspaces[0].write("account", &format!("{READER}:{READER}"));
    let account = format!("access = \"mapped\"\nauth = \"file:{}\"", account.display());
    let (mut scene, [mut builder, mut other, mut nobody]) = set_up.start(grants, &account, ["build-1", "other", ""]);
    let before = refusal(&mut other);
    refusal(&mut nobody);
    assert_eq!(scene.fetched(), [0, 0]);
    builder.pull(PRIVATE).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(refusal(&mut other), before, "the same when it is stored");
    refusal(&mut nobody);
    scene.stop_registry();
    builder.pull(PRIVATE).unwrap_or_else(|said| panic!("while the registry is away: {said}"));
    assert_eq!(refusal(&mut other), before);
    refusal(&mut nobody);
}

#[test]
fn dockerd_pulls_with_its_certificate_what_its_login_had_opened_while_the_registry_is_away() {
    if !missing().is_nothing("dockerd with a certificate and a login") {
        return;
    }
    let set_up = Certified::new();
    let (mut scene, dockers) =
        set_up.start("[access]\ngrant_ttl = \"2s\"\n", "access = \"pass-through\"", ["one", "two", "three"]);
    let [mut reader, mut leaver, mut stranger] = dockers;
    let mirror = scene.mirror.address().to_string();
    for (docker, workspace, user) in
        [(&reader, &set_up.workspaces[1], READER), (&leaver, &set_up.workspaces[2], LEAVER)]
    {
        log_in(docker.client(), &mirror, user, user).unwrap_or_else(|said| panic!("{said}"));
        show_to_mirrors(workspace, &mirror);
    }
    for person in [&mut reader, &mut leaver] {
        person.pull(PRIVATE).unwrap_or_else(|said| panic!("{said}"));
    }
    refusal(&mut stranger);
    let withdrawn = Instant::now();
    scene.withdraw();
    until_refused(&mut leaver, withdrawn);
    scene.stop_registry();
    reader.pull(PRIVATE).unwrap_or_else(|said| panic!("by the certificate alone: {said}"));
    refusal(&mut stranger);
    refusal(&mut leaver);
}
