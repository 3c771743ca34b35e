//! Private images through one shared mirror, with each client's own way to log in: who may read pulls them, who
//! may not learns nothing, and who loses his rights is refused before his grant is over.

use std::fs;
use std::process::Command;
use std::time::Instant;

use scripted_registry::TokenPolicy;
use serde_json::Value;

use crate::containerd::{Containerd, SNAPSHOTTER};
use crate::docker::Docker;
use crate::podman::Podman;
use crate::support::command;
use crate::support::private::{self, HOST, LEAVER, PRIVATE, Person, READER, Scene, each_gets_what_is_his, outcome};
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;

pub(crate) const DOCKER: [&str; 8] =
    ["dockerd", "docker", "containerd", "runc", "iptables", "setpriv", "mount", "umount"];

#[test]
fn dockerd_pulls_a_private_image_with_its_login_and_not_without() {
    if !Missing::among(&DOCKER).is_nothing("dockerd with a login") {
        return;
    }
    let workspaces = [(); 4].map(|()| Workspace::new());
    let [own, rest @ ..] = &workspaces;
    let mut scene = Scene::start(own);
    let mirror = scene.mirror.address();
    let [reader, stranger, leaver] = rest.each_ref().map(|workspace| Docker::start(mirror, workspace));
    let at = mirror.to_string();
    assert!(log_in(reader.client(), &at, READER, "wrong").is_err(), "a wrong password is no login");
    for (docker, workspace, user) in [(&reader, &rest[0], READER), (&leaver, &rest[2], LEAVER)] {
        log_in(docker.client(), &at, user, user).unwrap_or_else(|said| panic!("{said}"));
        show_to_mirrors(workspace, &at);
    }
    each_gets_what_is_his(&mut scene, [reader, stranger, leaver].map(|docker| Box::new(docker) as Box<dyn Person>));
}

/// dockerd shows mirrors the login for Docker Hub and no other. Logging in there takes Docker Hub; what that leaves
/// behind is such an entry.
pub(crate) fn show_to_mirrors(workspace: &Workspace, registry: &str) {
    let path = workspace.path("client/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("docker has written it")).expect("JSON");
    config["auths"]["https://index.docker.io/v1/"] = config["auths"][registry].clone();
    fs::write(path, config.to_string()).expect("written");
}

pub(crate) fn log_in(mut client: Command, registry: &str, user: &str, password: &str) -> Result<(), String> {
    outcome(&command::output(client.args(["login", "--username", user, "--password", password, registry])))
}

impl Person for Docker<'_> {
    fn pull(&mut self, repository: &str) -> Result<(), String> {
        let name = format!("{repository}:1");
        outcome(&command::output(self.client().args(["pull", &name])))?;
        command::run(self.client().args(["image", "rm", &name]));
        Ok(())
    }
}

#[test]
fn containerd_pulls_a_private_image_with_its_secret_and_not_without() {
    if !Missing::among(&["containerd", "ctr", "setpriv", "mount", "umount"]).is_nothing("containerd with a secret") {
        return;
    }
    let (own, workspace) = (Workspace::new(), Workspace::new());
    let mut scene = Scene::start(&own);
    let containerd = Containerd::start(scene.mirror.address(), &workspace);
    let person = |user| Box::new(Ctr { containerd: &containerd, workspace: &workspace, user }) as Box<dyn Person>;
    each_gets_what_is_his(&mut scene, [person(READER), person(""), person(LEAVER)]);
}

struct Ctr<'a> {
    containerd: &'a Containerd<'a>,
    workspace: &'a Workspace,
    /// Nobody where it is empty.
    user: &'static str,
}

impl Person for Ctr<'_> {
    fn pull(&mut self, repository: &str) -> Result<(), String> {
        let name = format!("{HOST}/{repository}:1");
        let mut pull = self.containerd.ctr();
        pull.args(["images", "pull", SNAPSHOTTER, "--hosts-dir"]).arg(self.workspace.path("hosts"));
        if !self.user.is_empty() {
            pull.args(["--user", &format!("{0}:{0}", self.user)]);
        }
        // What its display of progress says when it is cut short depends on the moment.
        let own = |said: String| said.lines().filter(|line| line.starts_with("ctr: ")).collect::<String>();
        outcome(&command::output(pull.arg(&name))).map_err(own)?;
        command::run(self.containerd.ctr().args(["images", "rm", "--sync", &name]));
        Ok(())
    }
}

#[test]
fn podman_pulls_a_private_image_with_its_login_and_not_without() {
    if !Missing::among(&["podman", "conmon", "runc", "setpriv", "mount", "umount"]).is_nothing("podman login") {
        return;
    }
    let (own, workspace) = (Workspace::new(), Workspace::new());
    let mut scene = Scene::start(&own);
    let mirror = scene.mirror.address();
    workspace.write(
        "registries.conf",
        &format!(
            "[[registry]]\nlocation = \"{HOST}\"\n\n[[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
        ),
    );
    let podman = Podman { workspace: &workspace };
    let person = |user| Box::new(WithLogin::podman(&podman, &mirror.to_string(), user)) as Box<dyn Person>;
    let people = [person(READER), person(""), person(LEAVER)];
    each_gets_what_is_his(&mut scene, people);
}

#[test]
fn skopeo_copies_a_private_image_with_its_login_and_not_without() {
    if !Missing::among(&["skopeo", "setpriv", "mount", "umount"]).is_nothing("skopeo login") {
        return;
    }
    let (own, workspace) = (Workspace::new(), Workspace::new());
    let mut scene = Scene::start(&own);
    let mirror = scene.mirror.address().to_string();
    let person = |user| Box::new(WithLogin::skopeo(&workspace, &mirror, user)) as Box<dyn Person>;
    let people = [person(READER), person(""), person(LEAVER)];
    each_gets_what_is_his(&mut scene, people);
}

/// podman or skopeo with what somebody's login left behind.
pub(crate) struct WithLogin<'a> {
    client: Client<'a>,
    workspace: &'a Workspace,
    mirror: String,
    logins: String,
}

enum Client<'a> {
    Podman(&'a Podman<'a>),
    Skopeo,
}

impl<'a> WithLogin<'a> {
    fn podman(podman: &'a Podman<'a>, mirror: &str, user: &str) -> WithLogin<'a> {
        WithLogin::new(Client::Podman(podman), podman.workspace, mirror, user)
    }

    pub(crate) fn skopeo(workspace: &'a Workspace, mirror: &str, user: &str) -> WithLogin<'a> {
        WithLogin::new(Client::Skopeo, workspace, mirror, user)
    }

    /// Logs in, unless the user is nobody.
    fn new(client: Client<'a>, workspace: &'a Workspace, mirror: &str, user: &str) -> WithLogin<'a> {
        let logins = workspace.write(&format!("logins-of-{user}.json"), "{}").display().to_string();
        let person = WithLogin { client, workspace, mirror: mirror.to_owned(), logins };
        if !user.is_empty() {
            assert!(person.log_in(user, "wrong").is_err(), "a wrong password is no login");
            person.log_in(user, user).unwrap_or_else(|said| panic!("{said}"));
        }
        person
    }

    fn log_in(&self, user: &str, password: &str) -> Result<(), String> {
        let mut login = self.command();
        login.args(["login", "--authfile", &self.logins, "--tls-verify=false"]);
        outcome(&command::output(login.args(["--username", user, "--password", password, &self.mirror])))
    }

    fn command(&self) -> Command {
        match self.client {
            Client::Podman(podman) => podman.command(),
            Client::Skopeo => command::confined("skopeo"),
        }
    }
}

impl Person for WithLogin<'_> {
    fn pull(&mut self, repository: &str) -> Result<(), String> {
        let mut pull = self.command();
        match self.client {
            Client::Podman(podman) => {
                let name = format!("{HOST}/{repository}:1");
                pull.args(["pull", "--quiet", "--authfile", &self.logins, &name]);
                outcome(&command::output(&mut pull))?;
                command::run(podman.command().args(["image", "rm", &name]));
            }
            Client::Skopeo => {
                let folder = self.workspace.path("copy");
                pull.args(["copy", "--authfile", &self.logins, "--src-tls-verify=false", "--preserve-digests"]);
                pull.arg(format!("docker://{}/{repository}:1", self.mirror));
                pull.arg(format!("dir:{}", folder.display()));
                let said = outcome(&command::output(&mut pull));
                let _ = fs::remove_dir_all(&folder);
                said?;
            }
        }
        Ok(())
    }
}

/// With a token service each pull shows another token. A registry that asks for the password itself sees the same
/// each time, and so does the mirror.
#[test]
fn a_password_whose_rights_are_withdrawn_is_refused_when_its_grant_is_over_however_often_it_was_used() {
    if !Missing::among(&["skopeo", "setpriv", "mount", "umount"]).is_nothing("skopeo with a password") {
        return;
    }
    let workspace = Workspace::new();
    let scene = Scene::start(&workspace);
    scene.registry.require_tokens(TokenPolicy::basic(LEAVER, LEAVER));
    let mut leaver = WithLogin::skopeo(&workspace, &scene.mirror.address().to_string(), LEAVER);
    leaver.pull(PRIVATE).unwrap_or_else(|said| panic!("{said}"));
    let before = scene.questions();
    leaver.pull(PRIVATE).unwrap_or_else(|said| panic!("{said}"));
    assert!(scene.questions() <= before + 1, "a warm pull costs one question");
    let withdrawn = Instant::now();
    scene.registry.require_tokens(TokenPolicy::basic(READER, READER));
    private::until_refused(&mut leaver, withdrawn);
    assert_eq!(scene.answers_to_nobody(), vec![401; 10]);
}
