//! `examples/kubernetes`: the manifests are what they should be, as far as that shows without a cluster, and the sums
//! are what their program says.

use std::fs;
use std::path::Path;
use std::process::Command;

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

#[allow(dead_code, reason = "it prints, where it is a program")]
#[path = "../../examples/kubernetes/main.rs"]
mod sums;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes").join(name)).unwrap()
}

#[test]
fn the_sums_are_what_the_program_prints() {
    assert!(
        read("sums.md") == sums::sums(&sums::ASSUMED),
        "cargo run --example kubernetes > examples/kubernetes/sums.md"
    );
}

/// The documents of a file.
fn documents(text: &str) -> Vec<Value> {
    let mut events = Parser::new_from_str(text).map(|event| event.unwrap().0);
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        if matches!(event, Event::DocumentStart(_)) {
            let first = events.next().unwrap();
            documents.push(value(first, &mut events));
        }
    }
    documents
}

fn value<'a>(first: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
    match first {
        Event::Scalar(text, ..) => Value::String(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match events.next().unwrap() {
                    Event::SequenceEnd => return Value::Array(items),
                    event => items.push(value(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Map::new();
            loop {
                match events.next().unwrap() {
                    Event::MappingEnd => return Value::Object(entries),
                    Event::Scalar(key, ..) => {
                        let next = events.next().unwrap();
                        let before = entries.insert(key.clone().into_owned(), value(next, events));
                        assert!(before.is_none(), "{key} stands twice");
                    }
                    event => panic!("{event:?}"),
                }
            }
        }
        event => panic!("{event:?}"),
    }
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap()).collect()
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().into_iter().flatten().map(|entry| entry[key].as_str().unwrap()).collect()
}

#[test]
fn the_manifests_name_what_there_is() {
    for (file, kinds) in [
        ("deployment.yaml", &["ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "DaemonSet"][..]),
        ("daemonset.yaml", &["ConfigMap", "DaemonSet"]),
    ] {
        let all = documents(&read(file));
        assert_eq!(all.iter().map(|document| document["kind"].as_str().unwrap()).collect::<Vec<_>>(), kinds, "{file}");
        assert!(all.iter().all(|document| document["metadata"]["namespace"] == "registry-mirror"), "{file}");
        let config = &all[0];
        let pods: Vec<_> = all.iter().filter(|document| document["spec"]["template"].is_object()).collect();
        for document in &pods {
            let (labels, pod) =
                (&document["spec"]["template"]["metadata"]["labels"], &document["spec"]["template"]["spec"]);
            assert_eq!(document["spec"]["selector"]["matchLabels"], *labels, "{file}");
            let volumes = names(&pod["volumes"], "name");
            let containers =
                [&pod["initContainers"], &pod["containers"]].into_iter().filter_map(Value::as_array).flatten();
            for container in containers {
                for mounted in names(&container["volumeMounts"], "name") {
                    assert!(volumes.contains(&mounted), "{file}: no volume {mounted}");
                }
                let image = container["image"].as_str().unwrap();
                if let Some(version) = image.strip_prefix("registry-mirror:") {
                    assert_eq!(version, env!("CARGO_PKG_VERSION"), "{file}");
                    assert_is_understood(container);
                }
            }
            for volume in pod["volumes"].as_array().unwrap() {
                let configured = &volume["configMap"]["name"];
                assert!(configured.is_null() || *configured == config["metadata"]["name"], "{file}");
            }
        }
        for document in all.iter().filter(|document| document["kind"] == "Service") {
            assert_eq!(document["spec"]["selector"], pods[0]["spec"]["template"]["metadata"]["labels"]);
            let (port, container) =
                (&document["spec"]["ports"][0], &pods[0]["spec"]["template"]["spec"]["containers"][0]);
            assert!(names(&container["ports"], "name").contains(&port["targetPort"].as_str().unwrap()));
            let told = read(file).matches(&format!("http://127.0.0.1:{}", port["nodePort"].as_str().unwrap())).count();
            assert_eq!(told, 1, "nodes are told of the port that there is");
        }
        assert_fits(config, &pods[0]["spec"]["template"]["spec"]["volumes"], file);
        assert_is_configured(config, &pods[0]["spec"]["template"]["spec"]["containers"][0]);
    }
}

/// A store in a volume with a limit is bounded below it, and by bytes: Kubernetes ends a pod that goes beyond.
fn assert_fits(config: &Value, volumes: &Value, file: &str) {
    let text = config["data"]["mirror.toml"].as_str().unwrap();
    for limit in volumes.as_array().unwrap().iter().filter_map(|volume| volume["emptyDir"]["sizeLimit"].as_str()) {
        let bytes =
            |text: &str, unit: &str, bytes: u64| text.strip_suffix(unit).map(|n| n.parse::<u64>().unwrap() * bytes);
        let most = text.lines().find_map(|line| line.trim().strip_prefix("max_size = ")).unwrap().trim_matches('"');
        let (most, limit) = (bytes(most, "GB", 1_000_000_000), bytes(limit, "Gi", 1 << 30));
        assert!(most.is_some() && most < limit.map(|limit| limit / 10 * 9), "{file}: {most:?} in {limit:?}");
    }
}

/// The program knows each flag.
fn assert_is_understood(container: &Value) {
    let output = Command::new(BINARY).args(words(&container["args"])).arg("--help").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The program takes the file and the variables as they are. What is mounted is somewhere else here.
fn assert_is_configured(config: &Value, container: &Value) {
    let folder = tempfile::tempdir().unwrap();
    let (secret, store) = (folder.path().join("peers_secret"), folder.path().join("store"));
    fs::write(&secret, "what all replicas know").unwrap();
    let text = config["data"]["mirror.toml"].as_str().unwrap();
    let text = text
        .replace("/etc/registry-mirror/peers/peers_secret", secret.to_str().unwrap())
        .replace("/var/cache/registry-mirror", store.to_str().unwrap());
    let file = folder.path().join("mirror.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("check").arg(&file).env_clear().env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    for variable in container["env"].as_array().into_iter().flatten() {
        let (name, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str());
        let Some(value) = value.filter(|_| name != "REGISTRY_MIRROR_CONFIG") else { continue };
        command.env(name, value.replace("$(POD_IP)", "10.0.0.1"));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("is missing"), "{said}");
}
