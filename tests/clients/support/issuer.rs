//! A real issuer of tokens: npm's `oidc-provider`, installed once by its lock file and kept below `target/tmp/npm`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use registry_mirror::oci::digest::{Algorithm, Digest};
use serde_json::Value;

use super::process::Daemon;
use super::workspace::Workspace;
use super::{command, loopback, requirements};

/// What it consists of, by the names of the files.
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../issuer/package.json")),
    ("package-lock.json", include_str!("../issuer/package-lock.json")),
    ("issuer.js", include_str!("../issuer/issuer.js")),
];
/// Who gets tokens of it, each by a secret that is his name.
const CLIENTS: [&str; 2] = [RUNNER, OTHER];
/// A job of acme's, as GitHub names it.
pub(crate) const RUNNER: &str = "repo:acme/app:ref:refs/heads/main";
/// A job of somebody else.
pub(crate) const OTHER: &str = "repo:other/app:ref:refs/heads/main";

/// Where it is installed; else why it cannot be had.
pub(crate) fn installed() -> Result<&'static Path, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOLDER.get_or_init(install).as_deref().map_err(String::clone)
}

fn install() -> Result<PathBuf, String> {
    let contents = FILES.map(|(_, content)| content).concat();
    let name = Digest::of(Algorithm::Sha256, contents.as_bytes()).hex();
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm");
    let folder = parent.join(&name[..16]);
    if folder.exists() {
        return Ok(folder);
    }
    if !requirements::demanded() {
        return Err(format!("the issuer of tokens (installed with {}=1)", requirements::DEMAND));
    }
    fs::create_dir_all(&parent).expect("the folder for packages is made");
    let unfinished = tempfile::tempdir_in(&parent).expect("a folder is made");
    for (name, content) in FILES {
        fs::write(unfinished.path().join(name), content).expect("a file is written");
    }
    let mut npm = command::unconfined("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(unfinished.path());
    let output = command::output(&mut npm);
    if !output.status.success() {
        return Err(format!("the issuer of tokens: npm: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(unfinished.keep(), &folder).expect("what is installed gets its name");
    Ok(folder)
}

/// A running issuer. Dropping it ends it.
pub(crate) struct Issuer {
    _daemon: Daemon,
    address: SocketAddr,
}

impl Issuer {
    pub(crate) fn start(workspace: &Workspace) -> Issuer {
        let folder = installed().expect("the requirements are met");
        let address = loopback::unused_address();
        let mut node = command::daemon_without_proxy("node");
        node.arg(folder.join("issuer.js")).args([address.ip().to_string(), address.port().to_string()]).args(CLIENTS);
        let mut daemon = Daemon::start(&mut node, &workspace.path("issuer.log"));
        daemon.wait_until_ready(|| loopback::status(address, "/.well-known/openid-configuration") == Some(200));
        Issuer { _daemon: daemon, address }
    }

    /// Its name in tokens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A token for one of its clients.
    pub(crate) fn token(&self, client: &str) -> String {
        let mut curl = curl();
        curl.args(["--fail", "--data-urlencode", "grant_type=client_credentials"]);
        for field in ["client_id", "client_secret"] {
            curl.args(["--data-urlencode", &format!("{field}={client}")]);
        }
        let answer = command::run(curl.arg(format!("{}/token", self.url())));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}

/// curl, which would use a proxy for loopback addresses, too.
pub(crate) fn curl() -> std::process::Command {
    let mut command = command::unconfined("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*"]);
    command
}
