//! What clients do, request by request, replayed: docker 1.13, containerd, containers/image, stargz. And an image
//! of each kind, byte for byte.

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::client::{self, Response, Stream};
use scripted_registry::{Algorithm, Digest, Image, Match, Registry, Rule, noise};
use serde_json::{Value, json};

use crate::support::mirror::TestMirror;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn verified(answer: &Response, digest: &str) -> Bytes {
    assert_eq!((answer.status, answer.complete), (200, true), "{digest}");
    let algorithm = digest.parse::<Digest>().expect("a digest").algorithm();
    assert_eq!(Digest::of(algorithm, &answer.body).to_string(), digest);
    answer.body.clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[tokio::test]
async fn docker_1_13_pulls_without_oci_types_and_with_one_connection_for_each_request() {
    let registry = Registry::start().await;
    let image = registry.add_docker_image("library/app", "amd64", &[noise(151, 300_000), noise(152, 70_000)]);
    registry.add_docker_list("library/app", "1", &[(&image, "amd64")]);
    // The first layer breaks on its way to the client, who goes on where it broke.
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/").await.header("docker-distribution-api-version"), Some("registry/2.0"));
    let accept = [
        ("Accept", DOCKER_LIST),
        ("Accept", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ("Accept", "application/json"),
        ("Accept", "application/vnd.docker.distribution.manifest.v2+json"),
        ("User-Agent", "docker/1.13.1 go/go1.7.5"),
        ("Connection", "close"),
    ];
    let list = client::get(mirror.address, "/v2/library/app/manifests/1", &accept).await;
    assert_eq!(list.header("content-type"), Some(DOCKER_LIST));
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    let child = text(&list["manifests"][0]["digest"]);
    let manifest = client::get(mirror.address, &format!("/v2/library/app/manifests/{child}"), &accept).await;
    let manifest: Value = serde_json::from_slice(&verified(&manifest, child)).unwrap();
    let identity = [("Accept-Encoding", "identity"), ("Connection", "close")];
    let config = text(&manifest["config"]["digest"]);
    verified(&client::get(mirror.address, &format!("/v2/library/app/blobs/{config}"), &identity).await, config);
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
        let (digest, size) = (text(&layer["digest"]).to_owned(), layer["size"].as_u64().unwrap() as usize);
        let address = mirror.address;
        async move {
            let path = format!("/v2/library/app/blobs/{digest}");
            let mut broken = Stream::get(address, &path, &identity).await;
            let start = broken.read_exactly(size / 3).await;
            broken.reset();
            let range = format!("bytes={}-", start.len());
            let rest = client::get(address, &path, &[identity[0], identity[1], ("Range", &range)]).await;
            let said = format!("bytes {}-{}/{size}", start.len(), size - 1);
            assert_eq!((rest.status, rest.header("content-range")), (206, Some(said.as_str())));
            let whole = [start, rest.body].concat();
            assert_eq!(Digest::of(Algorithm::Sha256, &whole).to_string(), digest);
        }
    });
    join_all(layers).await;
    let types = "application/vnd.oci";
    assert!(registry.requests().iter().filter(|r| r.path.ends_with("/manifests/1")).all(|request| {
        !request.headers.get_all("accept").iter().any(|value| value.to_str().is_ok_and(|value| value.contains(types)))
    }));
}

#[tokio::test]
async fn containerd_resolves_by_head_fetches_by_digest_and_tries_blobs_for_what_is_missing() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(153, 100_000)]);
    let mirror = TestMirror::of(&registry).await;
    let accept = format!("{DOCKER_LIST}, {OCI_MANIFEST}, application/vnd.oci.image.index.v1+json, */*");
    let headers = [("Accept", accept.as_str())];
    let head = client::head(mirror.address, "/v2/library/app/manifests/1?ns=docker.io", &headers).await;
    assert_eq!((head.status, head.header("oci-namespace")), (200, Some("docker.io")));
    let digest = head.header("docker-content-digest").expect("or containerd asks again").to_owned();
    assert_eq!(head.header("content-length"), Some(image.manifest.size.to_string().as_str()));
    let headers = [("Accept", "application/vnd.oci.image.manifest.v1+json, */*")];
    let manifest = mirror.get_with(&format!("/v2/library/app/manifests/{digest}?ns=docker.io"), &headers).await;
    verified(&manifest, &digest);
    let encodings = [("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
    for blob in image.blobs() {
        let path = format!("/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
        verified(&mirror.get_with(&path, &encodings).await, &blob.digest.to_string());
    }
    let missing = format!("sha256:{}", "0".repeat(64));
    for keyword in ["manifests", "blobs"] {
        assert_eq!(mirror.head(&format!("/v2/library/app/{keyword}/{missing}?ns=docker.io")).await.status, 404);
    }
}

#[tokio::test]
async fn containers_image_pings_gets_and_resumes_only_on_206() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(154, 3_000_000)]);
    let layer = &image.layers[0];
    // Upstream breaks once too; the client must not notice that.
    registry.rule(Rule::on(Match::blob(&layer.digest).get()).once().close_after(2_000_000));
    let mirror = TestMirror::of(&registry).await;
    let ping = mirror.get_with("/v2/", &[("Docker-Distribution-API-Version", "registry/2.0")]).await;
    assert_eq!((ping.status, ping.header("x-registry-supports-signatures")), (200, None));
    let manifest = mirror.get_with("/v2/docker.io/library/app/manifests/1", &[("Accept", OCI_MANIFEST)]).await;
    verified(&manifest, &image.manifest.digest.to_string());
    let path = format!("/v2/docker.io/library/app/blobs/{}", layer.digest);
    let mut broken = mirror.stream(&path).await;
    let start = broken.read_exactly(1 << 20).await;
    broken.reset();
    let rest = mirror.get_with(&path, &[("Range", "bytes=1048576-")]).await;
    assert_eq!(rest.status, 206, "a 200 to a resumption is an error to this client");
    assert!(rest.header("content-range").unwrap().starts_with("bytes 1048576-"));
    assert_eq!(Digest::of(Algorithm::Sha256, &[start, rest.body].concat()), layer.digest);
}

#[tokio::test]
async fn stargz_probes_two_bytes_asks_for_the_size_and_reads_pieces() {
    let registry = Registry::start().await;
    let bytes = noise(155, 9_000_000);
    let digest = registry.add_layer("library/app", "1", bytes.clone());
    let gate = scripted_registry::Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get().without_header("range")).stall_after(200_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    let path = format!("/v2/library/app/blobs/{digest}?ns=docker.io");
    let probe = mirror.get_with(&path, &[("Range", "bytes=0-1"), ("Accept-Encoding", "identity")]).await;
    assert_eq!((probe.status, probe.header("content-range")), (206, Some("bytes 0-1/9000000")));
    assert_eq!(mirror.head(&path).await.header("content-length"), Some("9000000"));
    let footer = mirror.get_with(&path, &[("Range", "bytes=8999949-8999999")]).await;
    assert_eq!((footer.status, &footer.body), (206, &bytes.slice(8_999_949..)));
    for piece in 0..5 {
        let start = 8_000_000 + piece * 50_000;
        let range = format!("bytes={start}-{}", start + 49_999);
        let answer = mirror.get_with(&path, &[("Range", &range)]).await;
        assert!(answer.status == 206 && answer.body == bytes.slice(start..start + 50_000), "{range}");
    }
    // What it reads of a layer it asks for together, and gives up after thirty seconds.
    for ranges in ["8200000-8249999,8300000-8349999,8400000-8449999", "0-9,100-109", "0-49999,8500000-8500999"] {
        let header = format!("bytes={ranges}");
        let headers = [("Range", header.as_str()), ("Accept-Encoding", "identity")];
        let several = mirror.get_with(&path, &headers).await;
        assert!(several.status == 206 && several.complete, "{ranges}");
        assert!(several.header("content-type").is_some_and(|kind| kind.starts_with("multipart/byteranges; boundary=")));
        for range in ranges.split(',') {
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let part = [format!("bytes {range}/9000000\r\n\r\n").as_bytes(), &bytes[first..=last]].concat();
            assert!(several.body.windows(part.len()).any(|window| window == part), "{range} of {ranges}");
        }
    }
    assert_eq!(registry.count_of(&Match::blob(&digest).get().without_header("range")), 1);
    gate.open();
    mirror.settled().await;
    assert_eq!(mirror.get(&path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
}

async fn pulls_byte_exact(registry: &mut Registry, requests: &[(String, String, Bytes)]) {
    let mirror = TestMirror::of(registry).await;
    for pass in ["cold", "warm", "away"] {
        if pass == "away" {
            registry.stop().await;
        }
        for (path, content_type, bytes) in requests {
            let answer = mirror.get(path).await;
            assert_eq!((answer.status, answer.complete), (200, true), "{pass} {path}");
            assert!(answer.body == *bytes, "{pass} {path}");
            assert_eq!(answer.header("content-type"), Some(content_type.as_str()), "{pass} {path}");
        }
        mirror.settled().await;
    }
}

/// Everything of a repository, as clients ask for it, and what they must get.
fn everything(registry: &Registry) -> Vec<(String, String, Bytes)> {
    registry.content(|content| {
        let holding = content.repository("library/app");
        let mut requests = Vec::new();
        for (digest, manifest) in &holding.manifests {
            let answer = (manifest.media_type.clone(), manifest.bytes.clone());
            requests.push((format!("/v2/library/app/manifests/{digest}"), answer.0.clone(), answer.1.clone()));
            for (tag, digests) in &holding.tags {
                if digests.first() == Some(digest) {
                    requests.push((format!("/v2/library/app/manifests/{tag}"), answer.0.clone(), answer.1.clone()));
                }
            }
        }
        for (digest, bytes) in &holding.blobs {
            let path = format!("/v2/library/app/blobs/{digest}");
            requests.push((path, "application/octet-stream".to_owned(), bytes.clone()));
        }
        requests
    })
}

fn image(registry: &Registry, tag: &str, seed: u64) -> Image {
    registry.add_image("library/app", tag, &[noise(seed, 50_000)])
}

#[tokio::test]
async fn a_docker_list_comes_through_byte_for_byte() {
    let mut registry = Registry::start().await;
    let one = registry.add_docker_image("library/app", "one", &[noise(161, 50_000)]);
    let two = registry.add_docker_image("library/app", "two", &[noise(162, 50_000)]);
    registry.add_docker_list("library/app", "1", &[(&one, "amd64"), (&two, "arm64")]);
    let requests = everything(&registry);
    pulls_byte_exact(&mut registry, &requests).await;
}

#[tokio::test]
async fn an_oci_index_comes_through_byte_for_byte() {
    let mut registry = Registry::start().await;
    let (one, two) = (image(&registry, "one", 163), image(&registry, "two", 164));
    registry.add_index("library/app", "1", &[(&one, "amd64"), (&two, "arm64")]);
    let requests = everything(&registry);
    pulls_byte_exact(&mut registry, &requests).await;
}

#[tokio::test]
async fn an_artifact_with_referrers_comes_through_byte_for_byte() {
    let mut registry = Registry::start().await;
    let subject = image(&registry, "1", 165).manifest;
    let referrer = registry.add_referrer("library/app", &subject, "application/vnd.example.sbom", noise(166, 5000));
    registry.add_referrer("library/app", &referrer, "application/vnd.example.signature", noise(167, 50));
    let requests = everything(&registry);
    let mirror = TestMirror::of(&registry).await;
    for digest in [&subject.digest, &referrer.digest] {
        let path = format!("/v2/library/app/referrers/{digest}");
        let (ours, theirs) = (mirror.get(&path).await, client::get(registry.address(), &path, &[]).await);
        assert_eq!((ours.status, &ours.body), (200, &theirs.body));
    }
    pulls_byte_exact(&mut registry, &requests).await;
}

#[tokio::test]
async fn sha512_zero_length_and_zstd_layers_come_through_byte_for_byte() {
    let mut registry = Registry::start().await;
    let long = registry.add_blob_with("library/app", Algorithm::Sha512, noise(168, 70_000));
    let empty = registry.add_blob("library/app", "");
    let config = registry.add_blob("library/app", "{}");
    // The magic number of zstd, so that whoever looks into layers is found out.
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &noise(169, 60_000)].concat();
    let zstd = registry.add_blob("library/app", zstd);
    let layer = |digest: &Digest, size: usize, suffix: &str| {
        json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": digest.to_string(),
            "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer(&config, 2, "+json"),
        "layers": [layer(&long, 70_000, "+gzip"), layer(&empty, 0, ""), layer(&zstd, 60_004, "+zstd")],
    });
    let text = serde_json::to_vec_pretty(&manifest).unwrap();
    registry.add_manifest_with("library/app", Algorithm::Sha512, &[], text.clone(), OCI_MANIFEST);
    registry.add_manifest("library/app", &["1"], text, OCI_MANIFEST);
    let requests = everything(&registry);
    pulls_byte_exact(&mut registry, &requests).await;
}
