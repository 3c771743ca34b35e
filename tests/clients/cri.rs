//! containerd as kubelet asks it for the images of pods: by the runtime interface, with the pull secrets of the pod,
//! which name no server.

use std::path::PathBuf;
use std::process::Command;

use crate::containerd::Containerd;
use crate::support::command;
use crate::support::go::CRI_TOOLS;
use crate::support::private::{HOST, LEAVER, Person, READER, Scene, each_gets_what_is_his, outcome};
use crate::support::process::eventually;
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;

#[test]
fn a_pod_gets_a_private_image_with_its_pull_secret_and_neither_without_nor_with_a_wrong_one() {
    let mut missing = Missing::among(&["containerd", "ctr", "setpriv", "mount", "umount"]);
    let crictl = missing.or_else(|| CRI_TOOLS.program("cmd/crictl"));
    let (true, Some(crictl)) = (missing.is_nothing("containerd with pull secrets"), crictl) else { return };
    let (own, workspace) = (Workspace::new(), Workspace::new());
    let mut scene = Scene::start(&own);
    let containerd = Containerd::start_for_pods(scene.mirror.address(), &workspace);
    let settings = workspace.write("crictl.yaml", "");
    let pod = |secret: String| Pod { crictl: &crictl, settings: &settings, containerd: &containerd, secret };
    let mut probe = pod(String::new()).command();
    assert!(eventually(|| command::output(probe.arg("version")).status.success()), "containerd serves pods");
    let [reader, leaver] = [READER, LEAVER].map(|user| Box::new(pod(format!("{user}:{user}"))) as Box<dyn Person>);
    let strangers = Strangers([String::new(), format!("{READER}:wrong"), "nobody:nobody".to_owned()].map(pod));
    each_gets_what_is_his(&mut scene, [reader, Box::new(strangers), leaver]);
}

/// Whose image is pulled with this secret, if it is not empty.
struct Pod<'a> {
    crictl: &'a PathBuf,
    settings: &'a PathBuf,
    containerd: &'a Containerd<'a>,
    secret: String,
}

impl Pod<'_> {
    fn command(&self) -> Command {
        let mut command = command::confined_at(self.crictl);
        command.arg("--config").arg(self.settings);
        for endpoint in ["--runtime-endpoint", "--image-endpoint"] {
            command.args([endpoint, &format!("unix://{}", self.containerd.socket().display())]);
        }
        command
    }
}

impl Person for Pod<'_> {
    fn pull(&mut self, repository: &str) -> Result<(), String> {
        let name = format!("{HOST}/{repository}:1");
        let mut pull = self.command();
        pull.arg("pull");
        if !self.secret.is_empty() {
            pull.args(["--creds", &self.secret]);
        }
        // It says it twice, once with the time and the number of its process.
        let own = |said: String| said.lines().filter(|line| line.contains("fatal")).collect::<String>();
        outcome(&command::output(pull.arg(&name))).map_err(own)?;
        command::run(self.command().args(["rmi", &name]));
        Ok(())
    }
}

/// Those of whom none may read.
struct Strangers<'a, const N: usize>([Pod<'a>; N]);

impl<const N: usize> Person for Strangers<'_, N> {
    fn pull(&mut self, repository: &str) -> Result<(), String> {
        let said: Vec<_> = self.0.iter_mut().filter_map(|pod| pod.pull(repository).err()).collect();
        if said.len() == N { Err(said.join("\n")) } else { Ok(()) }
    }
}
