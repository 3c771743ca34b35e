//! The documents: everything that a daemon answers and that a command prints with `--json` is what the
//! schema says, and everything in the schema is really said.

use std::collections::BTreeSet;

use registry_mirror::documents::orders;
use scripted_registry::client::Stream;
use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use serde_json::{Value, json};

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};
use crate::support::schema::Schema;

const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];

fn schema() -> Schema {
    Schema(serde_json::to_value(registry_mirror::documents::schema()).expect("JSON"))
}

/// Runs a command; the exit code and the documents that it printed.
async fn run(line: String) -> (i32, Vec<Value>) {
    let work = move || {
        let (code, out, _) = command::run(&line.split(' ').collect::<Vec<_>>(), b"");
        let text = String::from_utf8(out).expect("UTF-8");
        let documents = text.lines().map(|line| serde_json::from_str(line).expect("a document a line"));
        (code, documents.collect())
    };
    tokio::task::spawn_blocking(work).await.expect("ends")
}

async fn look(mirror: &TestMirror, path: &str) -> Value {
    let response = client::get(mirror.admin, path, &CONSENT).await;
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{path}: {error}: {:?}", response.body))
}

async fn post(mirror: &TestMirror, act: &str, order: impl AsRef<[u8]>) -> Vec<u8> {
    client::post(mirror.socket(), &format!("/api/v1/{act}"), &CONSENT, order).await.body.to_vec()
}

/// The documents around the bytes of a framed bundle.
fn frames(mut body: &[u8]) -> Vec<Value> {
    let mut documents = Vec::new();
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let document: Value = serde_json::from_slice(&body[..end]).expect("JSON");
        let bytes = document["size_bytes"].as_u64().filter(|_| document["event"] == "data").unwrap_or_default();
        body = &body[end + 1 + usize::try_from(bytes).expect("a length")..];
        documents.push(document);
    }
    documents
}

/// A mirror with one image to pull, of which a part comes slowly, and an upstream of which one address
/// is dead and the other counts pulls.
async fn mirror() -> (Registry, Registry, TestMirror) {
    let registry = Registry::start().await;
    let amd64 = registry.add_image("library/app", "amd64", &[noise(301, 1000)]);
    registry.add_index("library/app", "1", &[(&amd64, "amd64")]);
    let (dead, counting) = (Registry::start().await, Registry::start().await);
    dead.rule(Rule::on(Match::any()).close_at_once());
    counting.limit_pulls(100, 8);
    counting.add_image("app", "1", &[noise(302, 1000)]);
    let more = format!("[[upstream]]\nhost = \"two.example\"\nurl = [\"{}\", \"{}\"]", dead.url(), counting.url());
    let mirror = Settings::of(&registry).upstream(&more).start().await;
    mirror.get("/v2/two.example/app/manifests/1").await;
    (registry, counting, mirror)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_said_is_in_the_schema_and_the_other_way_round() {
    let (registry, _counting, mirror) = mirror().await;
    let mut said = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("app.tar").display().to_string();
    let admin = format!("unix:{}", mirror.socket().display());
    let bench = format!("bench app:1 --warm 1 --direct-pulls 1 --mirror http://{}", mirror.address);
    for (line, expected) in [
        ("ready app:1".to_owned(), 5),
        ("pull app:1 nothing:here".to_owned(), 3),
        ("images".to_owned(), 0),
        ("inspect app:1".to_owned(), 0),
        ("history app:1".to_owned(), 0),
        ("ready app:1 other:2 app:1 --platform linux/amd64".to_owned(), 5),
        ("pin app:1".to_owned(), 0),
        ("unpin app:1".to_owned(), 0),
        ("freeze app:1".to_owned(), 0),
        ("unfreeze app:1".to_owned(), 0),
        ("why app:1".to_owned(), 0),
        ("why never:1".to_owned(), 0),
        ("doctor --client docker".to_owned(), 0),
        ("verify".to_owned(), 0),
        ("reload".to_owned(), 0),
        ("healthcheck".to_owned(), 0),
        (format!("export app:1 never:1 -o {bundle}"), 3),
        (format!("import {bundle}"), 0),
        (format!("{bench} --direct {}", registry.url()), 0),
        ("gc --dry-run".to_owned(), 0),
        ("forget app:1".to_owned(), 0),
        ("gc".to_owned(), 0),
        (format!("setup podman --mirror http://127.0.0.1:5000 --root {}", folder.path().display()), 0),
    ] {
        let (code, documents) = run(format!("{line} --json --admin {admin}")).await;
        assert_eq!(code, expected, "{line}: {documents:?}");
        said.extend(documents);
    }
    // What went wrong is on standard output, too, whatever it was.
    for (line, code, class) in [
        (format!("inspect never:1 --json --admin {admin}"), 5, "not-found"),
        (format!("inspect UPPER --json --admin {admin}"), 2, "usage"),
        ("status --json --admin unix:/nonexistent".to_owned(), 4, "unreachable"),
        ("status --json -c /nonexistent".to_owned(), 2, "configuration"),
        ("status --json --jsno".to_owned(), 2, "usage"),
        (format!("export never:1 -o {bundle}.new --json --admin {admin}"), 5, "nothing"),
        (format!("import /nonexistent --json --admin {admin}"), 1, "read"),
        (format!("import /dev/null --json --admin {admin}"), 6, "malformed"),
    ] {
        let (exit, documents) = run(line.clone()).await;
        let [error] = &documents[..] else { panic!("{line}: {documents:?}") };
        assert_eq!((exit, &error["document"], &error["code"]), (code, &json!("error"), &json!(class)), "{line}");
        said.push(error.clone());
    }
    for line in ["check", "version", "config show", "config schema", "config paths", "access explain anonymous app"] {
        said.extend(run(format!("{line} --json")).await.1);
    }
    said.extend(run("check --json /nonexistent".to_owned()).await.1);
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join(".config/registry-mirror")).expect("folders");
    let nowhere = home.join(".config/registry-mirror/mirror.toml");
    std::os::unix::fs::symlink("nowhere", nowhere).expect("a link");
    let (_, paths, _) = command::run_at_home(&home, &["config", "paths", "--json"], b"");
    said.push(serde_json::from_slice(&paths).expect("a document"));
    let bucket = scripted_registry::bucket::Bucket::start().await;
    let (key, file) = (folder.path().join("key"), folder.path().join("bucket.toml"));
    std::fs::write(&key, "key:secret").expect("written");
    let text = format!("name = \"shared\"\nendpoint = \"{}\"\ncredentials = \"file:{}\"", bucket.url(), key.display());
    std::fs::write(&file, format!("[store.bucket]\n{text}\n")).expect("written");
    let store = folder.path().join("up");
    std::fs::create_dir(&store).expect("a folder");
    std::fs::write(store.join("format"), "registry-mirror store format 1\n").expect("written");
    for what in ["test --json".to_owned(), format!("push --json --store {}", store.display())] {
        let (code, documents) = run(format!("store {what} -c {}", file.display())).await;
        assert_eq!(code, 0, "{documents:?}");
        said.extend(documents);
    }

    mirror.get("/v2/library/app/manifests/amd64").await;
    let gate = Gate::new();
    let slow = registry.add_blob("library/slow", noise(303, 200_000));
    registry.rule(Rule::on(Match::blob(&slow)).stall_after(150_000, &gate));
    let mut stream = mirror.stream(&format!("/v2/library/slow/blobs/{slow}")).await;
    stream.read_exactly(100_000).await;
    let status = look(&mirror, "/api/v1/status").await;
    assert_eq!(status["fills"].as_array().map(Vec::len), Some(1));
    gate.open();
    said.push(status);
    for path in [
        "usage",
        "config",
        "images",
        "canary",
        "receipt",
        "schema",
        "nothing",
        "images/inspect",
        "images/inspect?image=never:1",
        "pull",
    ] {
        said.push(look(&mirror, &format!("/api/v1/{path}")).await);
    }
    said.push(look(&mirror, "/nothing").await);
    let mut events = Stream::get(mirror.admin, "/api/v1/events", &CONSENT).await;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend_from_slice(&events.read(1).await);
    }
    said.push(serde_json::from_slice(&line).expect("a line"));
    said.push(
        serde_json::from_slice(&client::get(mirror.socket(), "/api/v1/session", &CONSENT).await.body).expect("JSON"),
    );
    let page: Value = serde_json::from_slice(&post(&mirror, "page", "").await).expect("JSON");
    let login = json!({ "login": page["address"].as_str().and_then(|page| Some(page.split_once("#login=")?.1)) });
    said.push(page);
    said.push(serde_json::from_slice(&post(&mirror, "login", login.to_string()).await).expect("JSON"));
    let tar = std::fs::read(&bundle).expect("a bundle");
    for (act, order) in [
        ("import", tar),
        ("export", br#"{"all":true,"dry_run":true}"#.to_vec()),
        ("export", b"{}".to_vec()),
        ("pin", b"[".to_vec()),
    ] {
        said.push(serde_json::from_slice(&post(&mirror, act, order).await).expect("one document"));
    }
    said.extend(frames(&post(&mirror, "export", r#"{"all":true,"framed":true}"#).await));

    let schema = schema();
    let names: BTreeSet<String> = said
        .iter()
        .map(|document| schema.check_document(document).unwrap_or_else(|why| panic!("{why}\n{document:#}")))
        .collect();
    assert_eq!(names, schema.documents().into_iter().collect());
}

#[test]
fn what_the_schema_does_not_say_is_found() {
    let schema = schema();
    let sound = json!({ "document": "healthcheck", "version": 1, "ready": true });
    assert_eq!(schema.check_document(&sound), Ok("healthcheck".to_owned()));
    let digest = format!("sha256:{}", "0".repeat(64));
    for wrong in [
        json!({ "document": "healthcheck", "version": 2, "ready": true }),
        json!({ "document": "healthcheck", "version": 1 }),
        json!({ "document": "healthcheck", "version": 1, "ready": 1 }),
        json!({ "document": "healthcheck", "version": 1, "ready": true, "more": 1 }),
        json!({ "document": "freeze", "version": 1, "image": "a:1", "digest": "sha256:0" }),
        json!({ "document": "pull", "version": 1, "event": "resolved", "image": "a:1", "digest": digest, "size": 1 }),
        json!({ "document": "pull", "version": 1, "event": "of-tomorrow" }),
        json!({ "document": "history", "version": 1, "image": "a:1",
            "history": [{ "digest": digest, "seen_at": 1_700_000_000_000_u64, "from": "docker.io" }] }),
    ] {
        assert!(schema.check_document(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn orders_are_in_the_schema_and_a_key_that_is_not_known_is_an_error() {
    let schema = schema();
    let order = |order: Result<Value, serde_json::Error>| order.expect("JSON");
    for (name, mut order) in [
        ("ImagesOrder", order(serde_json::to_value(orders::Images::default()))),
        ("FreezeOrder", order(serde_json::to_value(orders::Freeze::default()))),
        ("CollectOrder", order(serde_json::to_value(orders::Collect::default()))),
        ("VerifyOrder", order(serde_json::to_value(orders::Verify::default()))),
        ("ExportOrder", order(serde_json::to_value(orders::Export::default()))),
        ("LoginOrder", order(serde_json::to_value(orders::Login::default()))),
    ] {
        assert_eq!(schema.check(name, &order), Ok(()), "{order}");
        assert_eq!(schema.check(name, &json!({})), Ok(()), "every key has a default");
        order["imges"] = json!([]);
        assert!(schema.check(name, &order).is_err(), "{order}");
    }
}

/// Walks through all keys of the schema with what is said of them.
fn keys<'s>(schema: &'s Value, found: &mut Vec<(&'s str, String)>) {
    if let Some(properties) = schema["properties"].as_object() {
        found.extend(properties.iter().map(|(key, says)| (key.as_str(), says.to_string())));
    }
    match schema {
        Value::Object(parts) => parts.values().for_each(|part| keys(part, found)),
        Value::Array(parts) => parts.iter().for_each(|part| keys(part, found)),
        _ => {}
    }
}

#[test]
fn moments_end_in_at_and_sizes_in_bytes() {
    let Schema(schema) = schema();
    let mut found = Vec::new();
    keys(&schema, &mut found);
    assert!(found.len() > 100);
    for (key, says) in found {
        assert_eq!(key.ends_with("_at"), says.contains("/Moment\""), "{key}: {says}");
        assert!(!["size", "at", "written"].contains(&key), "{key} has no unit");
    }
}
