//! The bucket: what holds for every object store that is one, in memory, in process over the wire, and a real server
//! where there is one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use registry_mirror::blob_store::{Content, Source, key_of};
use registry_mirror::carrier::Carrier;
use registry_mirror::metrics::Metrics;
use registry_mirror::oci::{Algorithm, Digest, Span};
use registry_mirror::tier::settings::{Credentials, Settings};
use registry_mirror::tier::{Bucket, Conditional, Found, Leases, Pace, PeersKey, Trouble, Waited, remove_void};
use scripted_registry::bucket::{Bucket as Scripted, Fault};
use scripted_registry::noise;

fn settings(endpoint: Option<&str>) -> Settings {
    Settings {
        name: "shared".to_owned(),
        endpoint: endpoint.map(|url| url.parse().expect("an address")),
        region: None,
        prefix: "mirror/".to_owned(),
        credentials: Credentials::Environment,
        ca: None,
        patience: Duration::from_secs(10),
    }
}

fn env(name: &str) -> Option<String> {
    match name {
        "AWS_ACCESS_KEY_ID" => Some("access".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("secretsecret".to_owned()),
        _ => None,
    }
}

fn at(endpoint: &str) -> Bucket {
    Bucket::open(&settings(Some(endpoint)), &Carrier::default(), env).expect("settings")
}

fn content(bytes: &Bytes) -> (Digest, Content) {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    (digest, Content { size: bytes.len() as u64, source: Source::Memory(bytes.clone()) })
}

/// What every bucket keeps to.
async fn keeps_the_contract(bucket: &Bucket) {
    keeps_small_objects(bucket).await;
    keeps_to_conditions(bucket).await;
    keeps_blobs(bucket).await;
    leaves_nothing_half(bucket).await;
}

async fn keeps_small_objects(bucket: &Bucket) {
    let small = Bytes::from_static(b"{}");
    assert_eq!(bucket.read("a/b+c", 10).await, Ok(None));
    bucket.write("a/b+c", small.clone()).await.expect("written");
    let first = bucket.read("a/b+c", 10).await.expect("read").expect("there");
    assert_eq!(first.bytes, small);
    assert!(matches!(bucket.read("a/b+c", 1).await, Err(Trouble::Refused(_))), "longer than allowed");
    bucket.create("a/new", small.clone()).await.expect("created");
    let listed: BTreeSet<_> = bucket.list("a").map_ok(|listed| listed.key).try_collect().await.expect("a list");
    assert_eq!(listed, BTreeSet::from(["a/b+c".to_owned(), "a/new".to_owned()]));
    for key in ["a/new", "a/b+c"] {
        bucket.remove(key).await.expect("removed");
        bucket.remove(key).await.expect("what is gone is gone");
        assert_eq!(bucket.read(key, 10).await, Ok(None));
    }
}

async fn keeps_to_conditions(bucket: &Bucket) {
    let small = Bytes::from_static(b"{}");
    bucket.create("c", small.clone()).await.expect("created");
    assert_eq!(bucket.create("c", small.clone()).await, Err(Trouble::Changed));
    assert_eq!(bucket.claim("c", small.clone()).await, Err(Trouble::Changed));
    let version = bucket.read("c", 10).await.expect("read").expect("there").version.expect("a version");
    bucket.replace("c", Bytes::from_static(b"2"), &version).await.expect("replaced");
    assert_eq!(bucket.replace("c", small, &version).await, Err(Trouble::Changed));
    bucket.remove("c").await.expect("removed");
}

async fn keeps_blobs(bucket: &Bucket) {
    for length in [0, 1, 100_000, (16 << 20) + 5] {
        let bytes = noise(length as u64, length);
        let (digest, content) = content(&bytes);
        assert_eq!(bucket.stat(&digest).await, Ok(None), "{length}");
        bucket.send(&digest, &content, |_| ()).await.expect("sent");
        assert_eq!(bucket.stat(&digest).await, Ok(Some(length as u64)));
        let reading = bucket.blob(&digest, Span::default(), Pace::Any).await.expect("asked").expect("there");
        assert_eq!((reading.size, reading.offset, reading.part), (length as u64, 0, false));
        let whole: Vec<u8> = reading.body.map_ok(|bytes| bytes.to_vec()).try_concat().await.expect("all of it");
        assert!(whole == bytes, "{length}");
        if length > 10 {
            let span = Span { start: 5, end: Some(9) };
            let reading = bucket.blob(&digest, span, Pace::Helps).await.expect("asked").expect("there");
            assert_eq!((reading.size, reading.offset, reading.part), (length as u64, 5, true));
            let part: Vec<u8> = reading.body.map_ok(|bytes| bytes.to_vec()).try_concat().await.expect("the part");
            assert_eq!(part, &bytes[5..9]);
            let rest =
                bucket.blob(&digest, Span::from(length as u64 - 3), Pace::Any).await.expect("asked").expect("there");
            assert_eq!(rest.body.map_ok(|bytes| bytes.len()).try_fold(0, |a, b| async move { Ok(a + b) }).await, Ok(3));
        }
    }
}

async fn leaves_nothing_half(bucket: &Bucket) {
    for length in [1000, (16 << 20) + 5] {
        let bytes = noise(77, length);
        let (_, content) = content(&bytes);
        let wrong = Digest::of(Algorithm::Sha256, b"something else");
        let begun = std::sync::Mutex::new(None);
        let sent = bucket.send(&wrong, &content, |id| *begun.lock().unwrap() = Some(id.to_owned())).await;
        assert!(matches!(sent, Err(Trouble::Unfit(_))), "{sent:?}");
        assert_eq!(bucket.stat(&wrong).await, Ok(None), "what has another digest never appears");
        let id = begun.into_inner().unwrap();
        assert_eq!(id.is_some(), length > 16 << 20);
        if let Some(id) = id {
            bucket.abort(&key_of(&wrong), &id).await.expect("aborted");
        }
    }
}

#[tokio::test]
async fn in_memory_it_keeps_the_contract() {
    keeps_the_contract(&Bucket::in_memory(&settings(None))).await;
}

#[tokio::test]
async fn over_the_wire_it_keeps_the_contract_and_leaves_nothing_half() {
    let scripted = Scripted::start().await;
    let bucket = at(&scripted.url());
    keeps_the_contract(&bucket).await;
    assert_eq!(scripted.uploads(), 0);
    assert!(scripted.keys().iter().all(|key| key.starts_with("mirror/")));
    assert_eq!(Conditional::examine(&bucket).await, Ok(Conditional::Right));
    assert!(!scripted.keys().iter().any(|key| key.contains("probe")), "it tidies up");
}

#[tokio::test]
async fn a_store_that_lies_is_found_out() {
    let scripted = Scripted::start().await;
    scripted.lie();
    assert_eq!(Conditional::examine(&at(&scripted.url())).await, Ok(Conditional::Lies));
}

#[tokio::test]
async fn whoever_reads_waits_no_longer_than_his_patience_and_soon_not_at_all() {
    let scripted = Scripted::start().await;
    let settings = Settings { patience: Duration::from_millis(100), ..settings(Some(&scripted.url())) };
    let bucket = Bucket::open(&settings, &Carrier::default(), env).expect("settings");
    scripted.fault(&[], "", Fault::Stall);
    for _ in 0..3 {
        assert!(matches!(bucket.read("a", 10).await, Err(Trouble::Away(_))));
    }
    assert!(!bucket.is_well());
    let asked = scripted.requests().len();
    assert!(matches!(bucket.read("a", 10).await, Err(Trouble::Away(_))));
    assert_eq!(scripted.requests().len(), asked, "it is left alone");
    scripted.heal();
    tokio::time::sleep(bucket.pause()).await;
    assert_eq!(bucket.read("a", 10).await, Ok(None));
    assert!(bucket.is_well());
}

#[tokio::test]
async fn a_refusal_is_no_reason_to_leave_it_alone() {
    let scripted = Scripted::start().await;
    scripted.fault(&[], "", Fault::Status(403));
    let bucket = at(&scripted.url());
    for _ in 0..5 {
        assert!(matches!(bucket.read("a", 10).await, Err(Trouble::Refused(_))));
    }
    assert!(bucket.is_well());
}

#[test]
fn without_credentials_it_is_not_opened_and_a_file_of_them_is_not_quoted() {
    assert!(Bucket::open(&settings(None), &Carrier::default(), |_| None).is_err());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "access secret-word\n").expect("written");
    let settings = Settings { credentials: Credentials::File(path.clone()), ..settings(None) };
    let error = Bucket::open(&settings, &Carrier::default(), |_| None).expect_err("no colon").to_string();
    assert!(error.contains("KEY:SECRET") && !error.contains("secret-word"), "{error}");
    std::fs::write(&path, "access:secret-word\n").expect("written");
    Bucket::open(&settings, &Carrier::default(), |_| None).expect("a key");
}

#[tokio::test]
async fn uploads_and_leases_that_nobody_goes_on_with_are_taken_away_later() {
    let scripted = Scripted::start().await;
    let bucket = at(&scripted.url());
    let bytes = noise(78, (16 << 20) + 5);
    let (digest, content) = content(&bytes);
    scripted.fault(&["PUT"], &key_of(&digest), Fault::Stall);
    let is_begun = |scripted: &Scripted| {
        scripted.requests().iter().any(|(method, key)| method == "PUT" && key.ends_with(&key_of(&digest)))
    };
    tokio::select! {
        sent = bucket.send(&digest, &content, |_| ()) => panic!("{sent:?}"),
        () = scripted.until(is_begun) => {}
    }
    let leases = Leases::new(
        bucket.clone(),
        PeersKey::new("0123456789abcdef"),
        "http://127.0.0.1:1".to_owned(),
        Arc::new(Metrics::new([])),
    );
    assert_eq!(leases.take(&digest, 1, &Waited::default()).await, Found::Ours);
    scripted.heal();
    let take_away = async || (bucket.abort_old().await, remove_void(&bucket).await);
    assert_eq!((take_away().await, scripted.uploads(), scripted.keys().len()), ((Ok(0), Ok(0)), 1, 2));
    scripted.advance(Duration::from_secs(60 * 60));
    assert_eq!(take_away().await, (Ok(0), Ok(0)), "void for less than an hour");
    scripted.advance(Duration::from_secs(60));
    assert_eq!(take_away().await, (Ok(0), Ok(1)));
    scripted.advance(Duration::from_secs(24 * 60 * 60));
    assert_eq!(take_away().await, (Ok(1), Ok(0)));
    assert_eq!((scripted.uploads(), scripted.keys()), (0, Vec::new()));
}

/// A real server on loopback, ended with the test.
struct Server {
    child: Child,
    _folder: tempfile::TempDir,
    endpoint: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The program that `variable` names, started in a folder with these arguments, which are told the folder and a port.
    async fn start(variable: &str, arguments: impl Fn(&Path, u16) -> Vec<String>) -> Option<Server> {
        let program = std::env::var_os(variable)?;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("shared")).expect("a bucket");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let mut command = Command::new(program);
        command.args(arguments(folder.path(), port)).env("ROOT_ACCESS_KEY", "access");
        command.env("ROOT_SECRET_KEY", "secretsecret").stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        let server = Server { child, _folder: folder, endpoint: format!("http://127.0.0.1:{port}") };
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        Some(server)
    }
}

/// Where `VERSITYGW` names the program, as `.ci/run` has it.
#[tokio::test]
async fn a_real_server_keeps_the_contract() {
    let arguments = |folder: &Path, port| {
        let at = format!("127.0.0.1:{port}");
        ["--port", &at, "--quiet", "posix"]
            .map(str::to_owned)
            .into_iter()
            .chain([folder.display().to_string()])
            .collect()
    };
    let Some(server) = Server::start("VERSITYGW", arguments).await else { return };
    let bucket = at(&server.endpoint);
    keeps_the_contract(&bucket).await;
    assert_eq!(Conditional::examine(&bucket).await, Ok(Conditional::Right));
}

/// Where `S3RVER` names the program, as `.ci/run` has it.
#[tokio::test]
async fn a_real_server_that_lies_is_found_out_and_keeps_the_rest_of_the_contract() {
    let arguments = |folder: &Path, port: u16| {
        let (folder, port) = (folder.display().to_string(), port.to_string());
        ["-a", "127.0.0.1", "-p", &port, "-d", &folder, "--configure-bucket", "shared"].map(str::to_owned).to_vec()
    };
    let Some(server) = Server::start("S3RVER", arguments).await else { return };
    // It knows one account, and does not abort what was begun.
    let account = |name: &str| name.starts_with("AWS_").then(|| "S3RVER".to_owned()).filter(|_| env(name).is_some());
    let bucket = Bucket::open(&settings(Some(&server.endpoint)), &Carrier::default(), account).expect("settings");
    keeps_small_objects(&bucket).await;
    keeps_blobs(&bucket).await;
    assert_eq!(Conditional::examine(&bucket).await, Ok(Conditional::Lies));
}

/// The server at `BUCKET_ENDPOINT` whose conditions are as `BUCKET_CONDITIONS` says, as `.ci/long s3` has it.
#[tokio::test]
async fn the_server_that_the_environment_names_keeps_the_contract() {
    let Ok(endpoint) = std::env::var("BUCKET_ENDPOINT") else { return };
    let bucket = at(&endpoint);
    let found = match &*std::env::var("BUCKET_CONDITIONS").expect("right, create-only or lies") {
        "right" => Conditional::Right,
        "create-only" => Conditional::CreateOnly,
        _ => Conditional::Lies,
    };
    keeps_small_objects(&bucket).await;
    keeps_blobs(&bucket).await;
    leaves_nothing_half(&bucket).await;
    if found == Conditional::Right {
        keeps_to_conditions(&bucket).await;
    }
    assert_eq!(Conditional::examine(&bucket).await, Ok(found));
}
