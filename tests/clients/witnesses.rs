//! Clients that met faults of other mirrors, in front of registries that make them: what each got to see there, it
//! does not get to see here.

use std::fs;
use std::process::Command;

use scripted_registry::client::{self, Response};
use scripted_registry::{Image, Match, Recorded, Registry, Rule, noise};
use tokio::runtime::Runtime;

use crate::docker::Docker;
use crate::support::mirror::Mirror;
use crate::support::process::Daemon;
use crate::support::workspace::Workspace;
use crate::support::{command, loopback, scenario};

/// A registry that can be told to misbehave, and a mirror of it as Docker Hub.
struct Scene<'a> {
    runtime: Runtime,
    registry: Registry,
    mirror: Mirror<'a>,
}

impl<'a> Scene<'a> {
    fn start(workspace: &'a Workspace) -> Scene<'a> {
        let runtime = Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start());
        let mirror = Mirror::start(&[("docker.io", registry.address())], workspace);
        Scene { runtime, registry, mirror }
    }

    fn stop_registry(&mut self) {
        self.runtime.block_on(self.registry.stop());
    }
}

/// HEAD of a blob is 404 until it was asked for by GET, as in a proxy project of Harbor.
fn head_after_get() -> Match {
    let had = std::sync::Mutex::new(std::collections::HashSet::new());
    Match::blobs().and(Match::when(move |request: &Recorded| {
        let mut had = had.lock().expect("nobody panics with it");
        if request.method == "GET" {
            had.insert(request.path.clone());
        }
        !had.contains(&request.path)
    }))
}

#[test]
fn skopeo_copies_a_layer_that_another_repository_brought_where_a_head_is_404_until_a_get() {
    if !scenario::missing(&["skopeo"]).is_nothing("skopeo") {
        return;
    }
    let workspace = Workspace::new();
    let scene = Scene::start(&workspace);
    let layers = [noise(1, 300_000)];
    let images = ["library/a", "library/b"].map(|name| (name, scene.registry.add_image(name, "1", &layers)));
    scene.registry.rule(Rule::on(head_after_get()).refuse(404));
    for (repository, image) in &images {
        let folder = workspace.path(&repository.replace('/', "-"));
        command::run(
            command::confined("skopeo")
                .args(["copy", "--preserve-digests", "--src-tls-verify=false"])
                .arg(format!("docker://{}/docker.io/{repository}:1", scene.mirror.address()))
                .arg(format!("dir:{}", folder.display())),
        );
        let held = |name: &str| fs::read(folder.join(name)).expect("skopeo wrote it");
        let (manifest, blob) = scene.registry.content(|content| {
            let holding = content.repository(repository);
            let layer = image.layers[0].digest;
            (holding.manifests[&image.manifest.digest].bytes.clone(), (layer, holding.blobs[&layer].clone()))
        });
        assert!(held("manifest.json") == manifest && held(&blob.0.hex()) == blob.1, "{repository}");
    }
}

#[test]
fn docker_pulls_what_an_index_without_platforms_names_once_the_mirror_says_that_it_is_ready() {
    if !scenario::missing(&["dockerd", "docker", "containerd", "runc", "iptables"]).is_nothing("dockerd") {
        return;
    }
    let workspace = Workspace::new();
    let mut scene = Scene::start(&workspace);
    let image = scene.registry.add_docker_image("library/app", "amd64", &[noise(2, 300_000)]);
    add_nameless_index(&scene.registry, &image);
    let socket = format!("unix:{}", workspace.path("store/admin.sock").display());
    for act in ["pull", "ready"] {
        let mut ours = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        command::run(ours.args([act, "app:1", "--admin", &socket]));
    }
    scene.stop_registry();
    let docker = Docker::start(scene.mirror.address(), &workspace);
    // The docker of Debian finds no image for this machine in such an index; by its digest it does.
    let name = format!("app@{}", image.manifest.digest);
    command::run(docker.client().args(["pull", &name]));
    let held = command::run(docker.client().args(["image", "inspect", "--format", "{{.Id}}", &name]));
    assert_eq!(held.trim(), image.config.digest.to_string());
}

/// An index at `library/app:1` whose only entry does not say what it is for.
fn add_nameless_index(registry: &Registry, image: &Image) {
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let entry = format!(
        r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
        image.manifest.media_type, image.manifest.digest, image.manifest.size
    );
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":[{entry}]}}"#);
    registry.add_manifest("library/app", &["1"], index, LIST);
}

#[test]
fn nginx_in_front_makes_no_whole_answer_of_a_blob_without_length_that_is_wrong_or_cut() {
    if !scenario::missing(&["nginx"]).is_nothing("nginx") {
        return;
    }
    let workspace = Workspace::new();
    let scene = Scene::start(&workspace);
    // As shipped: it speaks HTTP/1.0 to whom it passes requests on.
    let front = loopback::unused_address();
    let config = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path a;\nproxy_temp_path b;\nfastcgi_temp_path c;\nuwsgi_temp_path d;\nscgi_temp_path e;\n\
         server {{ listen {front}; location / {{ proxy_pass http://{}; }} }}\n}}\n",
        scene.mirror.address()
    );
    let path = workspace.write("nginx.conf", &config);
    let mut nginx = command::daemon("nginx");
    nginx.arg("-p").arg(workspace.path("")).arg("-c").arg(path).args(["-e", "stderr"]);
    let mut nginx = Daemon::start(&mut nginx, &workspace.path("nginx.log"));
    nginx.wait_until_ready(|| loopback::status(front, "/v2/") == Some(200));
    let get = |path: &str| -> Response { scene.runtime.block_on(client::get(front, path, &[])) };
    for (round, size) in [1_000, 70_000, 500_000].into_iter().enumerate() {
        let seed = 10 * round as u64;
        let blobs: Vec<_> = (0..3).map(|n| scene.registry.add_blob("library/app", noise(seed + n, size))).collect();
        let path = |n: usize| format!("/v2/library/app/blobs/{}", blobs[n]);
        scene.registry.rule(Rule::on(Match::blob(&blobs[0]).get()).without_length().flip_last_byte());
        scene.registry.rule(Rule::on(Match::blob(&blobs[1]).get()).without_length().close_after(size as u64 - 1));
        scene.registry.rule(Rule::on(Match::blob(&blobs[2]).get()).without_length());
        for n in 0..2 {
            let answer = get(&path(n));
            assert!(answer.status != 200 || !answer.complete, "{size} bytes, {n}: a whole {}", answer.body.len());
        }
        let right = get(&path(2));
        assert!(right.status == 200 && right.complete && right.body == noise(seed + 2, size), "{size} bytes");
    }
}
