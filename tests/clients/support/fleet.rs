//! Three replicas over one bucket of a real object store, and HAProxy with the file of `examples/replicas` in front of
//! them: to clients it is one mirror. What each of them was asked, and what the store was, tell who sent which bytes.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use registry_mirror::oci::digest::Digest;
use serde_json::Value;
use tempfile::TempDir;

use super::image::{Image, Images};
use super::mirror::Mirror;
use super::process::{Daemon, eventually};
use super::registry::Registry;
use super::requirements::Missing;
use super::scenario::{self, Client};
use super::workspace::Workspace;
use super::{command, loopback};

/// The variable that names the program of the object store, as in `.ci/run`.
const STORE: &str = "VERSITYGW";
/// Where the store writes what it is asked.
const ASKED: &str = "asked-of-the-store";
/// The replicas, by HAProxy's names for them.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// What this machine lacks for replicas and a client that needs these programs.
pub(crate) fn missing(programs: &[&str]) -> Missing {
    let mut missing = scenario::missing(&[&["haproxy"], programs].concat());
    missing.or_else(|| env::var_os(STORE).ok_or_else(|| format!("an object store, whose program {STORE} names")));
    missing
}

/// How the blobs of the bucket come to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the replica that is asked.
    Proxied,
    /// Clients are sent to the store for them.
    Redirected,
}

impl Way {
    pub(crate) const BOTH: [Way; 2] = [Way::Proxied, Way::Redirected];
}

/// The folders of a fleet.
pub(crate) struct Grounds {
    /// For what its replicas have in common.
    common: Workspace,
    replicas: [Workspace; 3],
    /// The bucket's, on a disk: what is in memory keeps no attributes of files everywhere.
    objects: TempDir,
}

impl Grounds {
    pub(crate) fn new() -> Grounds {
        let objects = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder is made");
        fs::create_dir(objects.path().join("shared")).expect("the bucket is made");
        Grounds { common: Workspace::new(), replicas: NAMES.map(|_| Workspace::new()), objects }
    }
}

/// The replicas and all they need. Dropping it ends them.
pub(crate) struct Fleet<'a> {
    images: &'static Images,
    hub: Registry,
    other: Registry,
    _store: Daemon,
    replicas: Vec<Mirror<'a>>,
    _balancer: Daemon,
    address: SocketAddr,
    way: Way,
    grounds: &'a Grounds,
}

impl<'a> Fleet<'a> {
    /// Starts all, with nothing stored anywhere.
    pub(crate) fn start(way: Way, grounds: &'a Grounds) -> Fleet<'a> {
        let images = Images::get().expect("the requirements are met");
        let registry = |name| Registry::read_only(name, &images.storage(name), &grounds.common);
        let (hub, other) = (registry("docker.io"), registry(Images::OTHER_REGISTRY));
        let (store, endpoint) = start_store(grounds);
        let upstreams = [("docker.io", hub.address()), (Images::OTHER_REGISTRY, other.address())];
        let replica = |workspace| start_replica(way, endpoint, &upstreams, &grounds.common, workspace);
        let replicas: Vec<_> = grounds.replicas.iter().map(replica).collect();
        let (balancer, address) = start_balancer(&replicas, &grounds.common);
        Fleet { images, hub, other, _store: store, replicas, _balancer: balancer, address, way, grounds }
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls the images cold from the first replica; warm, with the upstreams away, from the second, whose disk is
    /// empty; and from all as HAProxy shares them out.
    pub(crate) fn pull_cold_warm_and_from_all<C: Client>(&mut self, client: &mut C) {
        let mut images = self.images.all().to_vec();
        images.retain(|image| !C::ONLY_DOCKER_HUB || image.registry == "docker.io");

        self.lead_to(&["one"]);
        pull_and_remove(client, &images);
        self.assert_each_blob_was_fetched_once(&images);
        self.wait_until_up(&images);
        self.hub.stop();
        self.other.stop();

        self.lead_to(&["two"]);
        self.forget_what_was_asked();
        pull_and_remove(client, &images);
        self.assert_blobs_came(&images, "tier");

        self.lead_to(&NAMES);
        self.forget_what_was_asked();
        pull_and_remove(client, &images);
        self.assert_blobs_came(&images, if self.way == Way::Redirected { "tier" } else { "" });
    }

    /// Has HAProxy ask these replicas and no others.
    fn lead_to(&self, asked: &[&str]) {
        for name in NAMES {
            let state = if asked.contains(&name) { "ready" } else { "maint" };
            self.tell_balancer(&format!("set server replicas/{name} state {state}"));
        }
        let is_so = |table: &str| {
            NAMES.iter().all(|name| {
                let line = table.lines().find(|line| line.starts_with(&format!("replicas,{name},")));
                let state = line.and_then(|line| line.split(',').nth(17)).unwrap_or_default();
                state == if asked.contains(name) { "UP" } else { "MAINT" }
            })
        };
        assert!(eventually(|| is_so(&self.tell_balancer("show stat"))), "{}", self.tell_balancer("show stat"));
    }

    fn tell_balancer(&self, order: &str) -> String {
        let mut socket = UnixStream::connect(self.grounds.common.path("haproxy.sock")).expect("HAProxy takes orders");
        writeln!(socket, "{order}").expect("it is told");
        let mut said = String::new();
        socket.read_to_string(&mut said).expect("it answers");
        said
    }

    fn assert_each_blob_was_fetched_once(&mut self, images: &[&Image]) {
        let (hub, other) = (self.hub.access_log(), self.other.access_log());
        for image in images {
            let upstream = if image.registry == Images::OTHER_REGISTRY { &other } else { &hub };
            for blob in &image.blobs {
                assert_eq!(upstream.blob_gets(*blob), 1, "requests to {} for {blob}", image.registry);
            }
        }
    }

    /// Waits until all of these images is in the bucket, and the first replica owes it nothing.
    fn wait_until_up(&self, images: &[&Image]) {
        let blobs = self.grounds.objects.path().join("shared/mirror/blobs");
        for digest in images.iter().flat_map(|image| image.blobs.iter().chain([&image.root, &image.manifest])) {
            let object = blobs.join(digest.to_string().replace(':', "/"));
            assert!(eventually(|| object.exists()), "{digest} goes up");
        }
        let is_up = || {
            loopback::answer(self.replicas[0].admin(), "/metrics")
                .is_some_and(|told| told.lines().any(|line| line == "mirror_bucket_backlog 0"))
        };
        assert!(eventually(is_up), "all goes up");
    }

    /// Every blob of these images came the way it should, and with this outcome, if one is said.
    fn assert_blobs_came(&self, images: &[&Image], outcome: &str) {
        for blob in images.iter().flat_map(|image| &image.blobs) {
            let mut answers = Vec::new();
            let is_asked = eventually(|| {
                answers = self.answers_for(*blob);
                !answers.is_empty()
            });
            assert!(is_asked, "{blob} was asked for");
            let sent = self.asked_of_store().iter().filter(|line| is_signed_for(line, *blob)).count();
            for answer in &answers {
                assert!(outcome.is_empty() || answer["outcome"] == outcome, "{answer}");
                match self.way {
                    Way::Proxied => assert!(answer["status"] != 307 && answer["bytes"] != 0, "{answer}"),
                    Way::Redirected => assert!(answer["status"] == 307 && answer["bytes"] == 0, "{answer}"),
                }
            }
            let expected = if self.way == Way::Redirected { answers.len() } else { 0 };
            assert_eq!(sent, expected, "{blob} came from the store by a signed address");
        }
    }

    /// What replicas answered since to requests for this blob, as their audits have it.
    fn answers_for(&self, blob: Digest) -> Vec<Value> {
        let audits = self.audits().map(|audit| fs::read_to_string(audit).expect("there is an audit"));
        let lines = audits.iter().flat_map(|audit| audit.lines());
        // The last one may be on its way.
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_for =
            |line: &Value| line["method"] == "GET" && line["kind"] == "blob" && line["reference"] == blob.to_string();
        lines.filter(is_for).collect()
    }

    fn audits(&self) -> [PathBuf; 3] {
        self.grounds.replicas.each_ref().map(|workspace| workspace.path("audit.jsonl"))
    }

    /// What the store was asked since, a line each.
    fn asked_of_store(&self) -> Vec<String> {
        let log = fs::read_to_string(self.grounds.common.path(ASKED)).expect("the store keeps a log");
        log.lines().map(str::to_owned).collect()
    }

    /// The replicas and the store write what they are asked behind what is there: from now on that is new.
    fn forget_what_was_asked(&self) {
        for file in self.audits().into_iter().chain([self.grounds.common.path(ASKED)]) {
            fs::write(file, "").expect("a file is emptied");
        }
    }
}

/// Whether this is somebody with a signed address of this blob, to whom it was given.
fn is_signed_for(line: &str, blob: Digest) -> bool {
    line.contains(&blob.hex()) && line.contains("X-Amz-Signature=") && line.contains(" 200 ")
}

fn pull_and_remove(client: &mut impl Client, images: &[&Image]) {
    for image in images {
        client.pull(image);
        client.verify(image);
    }
    for image in images {
        client.remove(image);
    }
}

fn start_store(grounds: &Grounds) -> (Daemon, SocketAddr) {
    let (address, program) = (loopback::unused_address(), env::var_os(STORE).expect("the requirements are met"));
    let mut command = command::daemon_at(program.as_ref());
    command.env("ROOT_ACCESS_KEY", "access").env("ROOT_SECRET_KEY", "secretsecret");
    command.args(["--port", &address.to_string(), "--access-log"]).arg(grounds.common.path(ASKED));
    command.arg("posix").arg(grounds.objects.path());
    let mut store = Daemon::start(&mut command, &grounds.common.path("store.log"));
    store.wait_until_ready(|| loopback::status(address, "/").is_some());
    (store, address)
}

fn start_replica<'a>(
    way: Way,
    endpoint: SocketAddr,
    upstreams: &[(&str, SocketAddr)],
    common: &Workspace,
    workspace: &'a Workspace,
) -> Mirror<'a> {
    let key = common.write("key", "access:secretsecret\n");
    let secret = common.write("secret", "what all replicas know\n");
    let address = loopback::unused_address();
    let networks = if way == Way::Redirected { "\"127.0.0.0/8\"" } else { "" };
    let mut config = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [access]\naudit = \"{}\"\n\
         [store]\nmin_free = \"0\"\n\
         [store.bucket]\nname = \"shared\"\nendpoint = \"http://{endpoint}\"\ncredentials = \"file:{}\"\n\
         advertise = \"http://{address}\"\npeers_secret = \"file:{}\"\nredirect = [{networks}]\n\
         [cache]\ntag_ttl = \"0s\"\nnegative_ttl = \"0s\"\n",
        workspace.path("audit.jsonl").display(),
        key.display(),
        secret.display(),
    );
    for (host, upstream) in upstreams {
        config += &format!("[[upstream]]\nhost = \"{host}\"\nurl = \"http://{upstream}\"\ninsecure = true\n");
    }
    Mirror::configured(address, "", &config, workspace)
}

/// With the example's file, in which the addresses are ours, and which takes orders.
fn start_balancer(replicas: &[Mirror<'_>], common: &Workspace) -> (Daemon, SocketAddr) {
    let address = loopback::unused_address();
    let socket = common.path("haproxy.sock");
    let mut config = include_str!("../../../examples/replicas/haproxy.cfg").to_owned();
    let mut put = |theirs: String, ours: String| {
        assert!(config.contains(&theirs), "{theirs} stands in the example");
        config = config.replace(&theirs, &ours);
    };
    put("global\n".to_owned(), format!("global\n  stats socket {} level admin\n", socket.display()));
    put("127.0.0.1:5000".to_owned(), address.to_string());
    for (number, replica) in (1..).zip(replicas) {
        let theirs = format!("127.0.0.1:500{number} check port 510{number}");
        put(theirs, format!("{} check port {}", replica.address(), replica.admin().port()));
    }
    let file = common.write("haproxy.cfg", &config);
    let mut command = command::daemon("haproxy");
    let mut balancer = Daemon::start(command.arg("-db").arg("-f").arg(file), &common.path("haproxy.log"));
    balancer.wait_until_ready(|| loopback::status(address, "/v2/") == Some(200));
    (balancer, address)
}
