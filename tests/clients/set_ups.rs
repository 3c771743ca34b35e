//! The set-ups of `examples/` for private images: `check` accepts each file, and a pull through it is as its text says.

use std::process::Output;

use scripted_registry::{Registry, TokenPolicy, base64, noise};
use tokio::runtime::Runtime;

use crate::identities::users;
use crate::support::authority::Authority;
use crate::support::issuer::{self, Issuer, OTHER, RUNNER};
use crate::support::mirror::Mirror;
use crate::support::private::outcome;
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;
use crate::support::{command, loopback};

const HOST: &str = "registry.example";
/// Its password is its name, as of all here.
const ACCOUNT: &str = "robot";
const IMAGES: [&str; 4] = ["acme/app", "wonka/app", "base/os", "release/app"];

/// A registry and a mirror with the file of an example, on this machine's addresses and with this test's files.
struct SetUp<'a> {
    runtime: Runtime,
    registry: Registry,
    mirror: Mirror<'a>,
    workspace: &'a Workspace,
}

impl<'a> SetUp<'a> {
    fn start(example: &str, policy: TokenPolicy, workspace: &'a Workspace) -> SetUp<'a> {
        let (runtime, authority, address) =
            (Runtime::new().expect("a runtime"), Authority::new(), loopback::unused_address());
        let registry = runtime.block_on(Registry::start());
        for (seed, image) in (80..).zip(IMAGES) {
            registry.add_docker_image(image, "1", &[noise(seed, 100_000)]);
        }
        registry.require_tokens(policy);
        authority.set_up(address.ip(), workspace);
        workspace.write("trust/ca.crt", &authority.pem());
        workspace.write("tls/account", &format!("{ACCOUNT}:{ACCOUNT}"));
        workspace.write("tls/users", &users(&["acme", "wonka"]));
        let (host, files) = (format!("host   = \"{HOST}\""), workspace.path("tls").display().to_string());
        assert!(example.contains(&host), "{example}");
        let config = example
            .replace(&host, &format!("{host}\nurl = \"{}\"", registry.url()))
            .replace("/var/vcap/jobs/registry-mirror/config", &files)
            .replace("/etc/registry-mirror", &files)
            .replace("/var/vcap/store/registry-mirror", &workspace.path("store").display().to_string())
            .replace("/var/cache/registry-mirror", &workspace.path("store").display().to_string());
        let file = workspace.write("checked.toml", &config);
        let mut check = command::confined(env!("CARGO_BIN_EXE_registry-mirror"));
        assert!(command::run(check.arg("check").arg(&file)).contains("valid"));
        let mirror = Mirror::configured(address, HOST, &config, workspace);
        SetUp { runtime, registry, mirror, workspace }
    }

    /// As staging and the cells do it: with the library of skopeo, over TLS, the password beside the name.
    fn pull(&self, repository: &str, login: Option<(&str, &str)>) -> Result<(), String> {
        let mut copy = command::confined("skopeo");
        copy.args(["copy", "--src-cert-dir"]).arg(self.workspace.path("trust"));
        copy.arg(match login {
            Some((user, password)) => format!("--src-creds={user}:{password}"),
            None => "--src-no-creds".to_owned(),
        });
        let folder = self.workspace.path("copy");
        copy.arg(format!("docker://{}/{repository}:1", self.mirror.address()));
        let said: Output = command::output(copy.arg(format!("dir:{}", folder.display())));
        let _ = std::fs::remove_dir_all(folder);
        outcome(&said)
    }

    fn pulls(&self, repository: &str, login: (&str, &str)) {
        self.pull(repository, Some(login)).unwrap_or_else(|said| panic!("{repository}: {said}"));
    }

    /// Refused, and told alike whether it is there or not.
    fn refuses(&self, repository: &str, login: Option<(&str, &str)>) {
        let absent = format!("{}/nothing", repository.split('/').next().expect("a first part"));
        let said = [repository, absent.as_str()].map(|name| {
            let said = self.pull(name, login).expect_err("is refused");
            said.split_once("msg=")
                .expect("skopeo's words")
                .1
                .replace(name, "NAME")
                .replace(&name.replace('/', "%2F"), "NAME")
        });
        assert_eq!(said[0], said[1]);
    }

    /// Whether the registry was ever shown this user's password.
    fn was_shown(&self, user: &str) -> bool {
        let shown = format!("Basic {}", base64(&format!("{user}:{user}")));
        self.registry.requests().iter().any(|request| request.header("authorization") == Some(&shown))
    }

    fn stop_registry(&mut self) {
        self.runtime.block_on(self.registry.stop());
    }
}

fn missing(programs: &[&str]) -> Missing {
    Missing::among(&[&["skopeo", "setpriv", "mount", "umount"], programs].concat())
}

/// Everything is private: to the mirror's account, or to who is named.
fn policy(readers: &dyn Fn(&str) -> Vec<&'static str>) -> TokenPolicy {
    let users = [ACCOUNT, "acme", "wonka"].into_iter();
    let policy = users.fold(TokenPolicy::bearer(), |policy, user| policy.user(user, user));
    let absent = ["acme/nothing", "wonka/nothing"].into_iter();
    IMAGES.into_iter().chain(absent).fold(policy, |policy, name| policy.private_to(name, &readers(name)))
}

#[test]
fn cloud_foundry_with_one_technical_account() {
    if !missing(&[]).is_nothing("examples/cloud-foundry/mapped.toml") {
        return;
    }
    let workspace = Workspace::new();
    let example = include_str!("../../examples/cloud-foundry/mapped.toml");
    let mut set_up = SetUp::start(example, policy(&|_| vec![ACCOUNT]), &workspace);
    let (acme, wonka) = (("acme", "acme"), ("wonka", "wonka"));
    for _stored in [false, true] {
        set_up.refuses("acme/app", Some(wonka));
        set_up.refuses("acme/app", None);
        set_up.refuses("acme/app", Some(("acme", "wrong")));
        set_up.pulls("acme/app", acme);
        set_up.pulls("base/os", wonka);
    }
    assert!(set_up.was_shown(ACCOUNT) && !set_up.was_shown("acme") && !set_up.was_shown("wonka"));
    set_up.stop_registry();
    set_up.pulls("acme/app", acme);
    set_up.refuses("acme/app", Some(wonka));
    set_up.refuses("acme/app", None);
}

#[test]
fn cloud_foundry_with_the_account_of_each_org() {
    if !missing(&[]).is_nothing("examples/cloud-foundry/pass-through.toml") {
        return;
    }
    let workspace = Workspace::new();
    let example = include_str!("../../examples/cloud-foundry/pass-through.toml");
    let readers = |name: &str| match name.split('/').next() {
        Some("acme") => vec!["acme"],
        Some("wonka") => vec!["wonka"],
        _ => vec![],
    };
    let mut set_up = SetUp::start(example, policy(&readers), &workspace);
    let (acme, wonka) = (("acme", "acme"), ("wonka", "wonka"));
    for _stored in [false, true] {
        set_up.refuses("acme/app", None);
        set_up.refuses("acme/app", Some(("acme", "wrong")));
        set_up.refuses("acme/app", Some(wonka));
        set_up.pulls("acme/app", acme);
        set_up.pulls("base/os", wonka);
    }
    assert!(set_up.was_shown("acme") && set_up.was_shown("wonka") && !set_up.was_shown(ACCOUNT));
    set_up.stop_registry();
    set_up.refuses("acme/app", Some(acme));
}

#[test]
fn ci_with_the_tokens_of_its_jobs() {
    let mut missing = missing(&["node", "npm", "curl"]);
    missing.or_else(issuer::installed);
    if !missing.is_nothing("examples/ci/mirror.toml") {
        return;
    }
    let workspace = Workspace::new();
    let issuer = Issuer::start(&workspace);
    let theirs = "https://token.actions.githubusercontent.com";
    let example = include_str!("../../examples/ci/mirror.toml");
    assert!(example.contains(theirs));
    let example = example.replace(theirs, &issuer.url());
    let set_up = SetUp::start(&example, policy(&|_| vec![ACCOUNT]), &workspace);
    let (ours, other) = (issuer.token(RUNNER), issuer.token(OTHER));
    for _stored in [false, true] {
        set_up.refuses("acme/app", None);
        set_up.refuses("acme/app", Some(("ci", &other)));
        set_up.refuses("wonka/app", Some(("ci", &ours)));
        for image in ["acme/app", "base/os", "release/app"] {
            set_up.pulls(image, ("ci", &ours));
        }
    }
}
