//! Identities of the mirror's own: passwords of its file with `podman login`, and tokens of a real issuer.

use crate::podman::Podman;
use crate::support::issuer::{self, Issuer, OTHER, RUNNER, curl};
use crate::support::private::{HOST, PRIVATE, READER, Scene, outcome};
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;
use crate::support::{command, loopback};

/// The technical account of a mirror, which may read everything.
fn account(workspace: &Workspace) -> String {
    format!("auth = \"file:{}\"\n", workspace.write("account", &format!("{READER}:{READER}")).display())
}

/// A file of users whose passwords are their names.
pub(crate) fn users(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}:{}\n", bcrypt::hash(name, 4).expect("a hash"))).collect()
}

fn log_in(podman: &Podman<'_>, registry: &str, user: &str, password: &str) -> Result<(), String> {
    let logins = podman.workspace.path(&format!("logins-of-{user}.json"));
    let mut login = podman.command();
    login.args(["login", "--tls-verify=false", "--username", user, "--password", password, "--authfile"]).arg(logins);
    outcome(&command::output(login.arg(registry)))
}

/// Pulls, with what the user's login left behind, and forgets it again.
fn pull(podman: &Podman<'_>, registry: &str, user: &str, repository: &str) -> Result<(), String> {
    let logins = podman.workspace.path(&format!("logins-of-{user}.json"));
    let name = format!("{registry}/{repository}:1");
    let mut pull = podman.command();
    pull.args(["pull", "--quiet", "--tls-verify=false", "--authfile"]).arg(logins);
    outcome(&command::output(pull.arg(&name)))?;
    command::run(podman.command().args(["image", "rm", &name]));
    Ok(())
}

fn missing(programs: &[&str]) -> Missing {
    Missing::among(&[&["podman", "conmon", "runc", "setpriv", "mount", "umount"], programs].concat())
}

#[test]
fn podman_logs_in_with_a_password_of_the_mirrors_own_file() {
    if !missing(&[]).is_nothing("podman login with htpasswd") {
        return;
    }
    for (mode, others) in [("mapped", false), ("shared", true)] {
        let workspace = Workspace::new();
        workspace.write("registries.conf", "");
        let file = workspace.write("users", &users(&["ci", "other"]));
        let lines = format!(
            "[access]\nhtpasswd = \"{}\"\n[[access.grant]]\nwho = \"user:ci\"\nmay = \"{HOST}/team/*\"\n",
            file.display()
        );
        let upstream = format!("access = \"{mode}\"\n{}", account(&workspace));
        let mut scene = Scene::configured(loopback::unused_address(), &lines, &upstream, &workspace);
        let (podman, mirror) = (Podman { workspace: &workspace }, scene.mirror.address().to_string());
        for (user, password) in [("ci", "wrong"), ("nobody", "nobody"), (READER, READER)] {
            assert!(log_in(&podman, &mirror, user, password).is_err(), "{mode}: {user} {password}");
        }
        for user in ["ci", "other"] {
            log_in(&podman, &mirror, user, user).unwrap_or_else(|said| panic!("{mode}: {user}: {said}"));
        }
        workspace.write("logins-of-nobody.json", "{}");
        for _stored in [false, true] {
            assert!(pull(&podman, &mirror, "nobody", PRIVATE).is_err(), "{mode}");
            assert_eq!(pull(&podman, &mirror, "other", PRIVATE).is_ok(), others, "{mode}");
            pull(&podman, &mirror, "ci", PRIVATE).unwrap_or_else(|said| panic!("{mode}: {said}"));
        }
        assert_eq!(scene.fetched(), [1, 1], "{mode}");
        scene.stop_registry();
        assert!(pull(&podman, &mirror, "nobody", PRIVATE).is_err(), "{mode}");
        pull(&podman, &mirror, "ci", PRIVATE).unwrap_or_else(|said| panic!("{mode}, registry away: {said}"));
    }
}

#[test]
fn a_token_of_a_real_issuer_is_a_password_for_podman_and_skopeo_and_a_bearer_for_curl() {
    let mut missing = missing(&["skopeo", "node", "npm", "curl"]);
    missing.or_else(issuer::installed);
    if !missing.is_nothing("tokens of an issuer") {
        return;
    }
    let workspace = Workspace::new();
    workspace.write("registries.conf", "");
    let issuer = Issuer::start(&workspace);
    let lines = format!(
        "[[access.oidc]]\nissuer = \"{}\"\n\
         [[access.grant]]\nwho = \"oidc:repo:acme/*\"\nmay = \"{HOST}/team/*\"\n",
        issuer.url()
    );
    let upstream = format!("access = \"mapped\"\n{}", account(&workspace));
    let scene = Scene::configured(loopback::unused_address(), &lines, &upstream, &workspace);
    let (podman, mirror) = (Podman { workspace: &workspace }, scene.mirror.address().to_string());
    let (right, other) = (issuer.token(RUNNER), issuer.token(OTHER));
    let (rest, signature) = right.rsplit_once('.').expect("three parts");
    let forged = format!("{}.{signature}", issuer.token(OTHER).rsplit_once('.').expect("three parts").0);
    assert_ne!(forged, format!("{rest}.{signature}"));

    assert!(log_in(&podman, &mirror, "forger", &forged).is_err());
    log_in(&podman, &mirror, "ci", &right).unwrap_or_else(|said| panic!("{said}"));
    pull(&podman, &mirror, "ci", PRIVATE).unwrap_or_else(|said| panic!("{said}"));
    for (token, copies, status) in [(&right, true, "200"), (&other, false, "403"), (&forged, false, "401")] {
        let mut copy = command::confined("skopeo");
        copy.args(["copy", "--src-tls-verify=false", "--src-creds", &format!("ci:{token}")]);
        copy.arg(format!("docker://{mirror}/{PRIVATE}:1")).arg(format!("dir:{}", workspace.path("copy").display()));
        assert_eq!(outcome(&command::output(&mut copy)).is_ok(), copies);
        let mut bearer = curl();
        bearer.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
        bearer.args(["--oauth2-bearer", token, &format!("http://{mirror}/v2/{PRIVATE}/manifests/1")]);
        assert_eq!(command::run(&mut bearer), status);
    }
    assert!(scene.registry.requests().iter().all(|request| {
        let shown = request.header("authorization").unwrap_or_default().to_owned();
        ![&right, &other, &forged].iter().any(|token| shown.contains(token.as_str()))
    }));
}
