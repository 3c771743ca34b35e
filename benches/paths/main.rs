//! The paths that every pull takes, each alone: digest, parsing of requests, a hit, a fill with
//! several readers. `cargo bench -p paths`; compare with `--save-baseline` and `--baseline`.
//!
//! Hits and fills run on the mirror as production wires it, without the listener; the registry
//! behind it is the scripted one. Bytes are read from the store's files, as a listener without
//! sendfile would.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use registry_mirror::config::{Config, Overrides};
use registry_mirror::daemon::Daemon;
use registry_mirror::mirror::{Chunk, Framing, Mirror, Route, Selected};
use registry_mirror::oci::{AcceptSet, Algorithm, Digest, Reference, Request, Verifier};
use scripted_registry::{Registry, noise};
use tokio::runtime::Runtime;

const REPOSITORY: &str = "library/bench";
/// How much a listener asks a body for, in bytes.
const PIECE: u64 = 256 << 10;

fn digests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    let bytes = noise(1, 1 << 20);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for algorithm in Algorithm::ALL {
        group.bench_function(algorithm.as_str(), |bencher| {
            bencher.iter(|| {
                let mut verifier = Verifier::new(algorithm);
                verifier.update(black_box(&bytes));
                verifier.finish()
            });
        });
    }
    group.finish();
    let text = Digest::of(Algorithm::Sha256, b"").to_string();
    criterion.bench_function("digest/parse", |bencher| bencher.iter(|| black_box(&text).parse::<Digest>()));
}

fn requests(criterion: &mut Criterion) {
    let digest = Digest::of(Algorithm::Sha256, b"");
    for (name, path, query) in [
        ("tag", "/v2/library/redis/manifests/7-alpine".to_owned(), None),
        ("blob", format!("/v2/library/redis/blobs/{digest}"), None),
        ("prefixed", format!("/v2/ghcr.io/owner/app/blobs/{digest}"), None),
        ("namespaced", format!("/v2/owner/app/blobs/{digest}"), Some("ns=ghcr.io")),
        ("refused", "/v2/library/redis/blobs/../../etc/passwd".to_owned(), None),
    ] {
        criterion.bench_function(&format!("parse/{name}"), |bencher| {
            bencher.iter(|| Request::parse(&Method::GET, black_box(&path), query));
        });
    }
    let accept = ["application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json"];
    criterion.bench_function("parse/accept", |bencher| bencher.iter(|| AcceptSet::from_headers(black_box(accept))));
}

/// A registry and a mirror in front of it, without listeners of its own.
struct Stage {
    runtime: Runtime,
    registry: Registry,
    daemon: Daemon,
    _store: tempfile::TempDir,
}

impl Stage {
    fn set(lines: &str) -> Stage {
        let runtime = Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start());
        let store = tempfile::tempdir().expect("a folder");
        let text = format!("{lines}\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n", registry.url());
        let overrides = Overrides { store: Some(store.path().display().to_string()), ..Overrides::default() };
        let config = Config::parse(Path::new("bench.toml"), &text, [], overrides).expect("a configuration");
        let daemon = runtime.block_on(async { Daemon::open(config) }).expect("the daemon starts");
        Stage { runtime, registry, daemon, _store: store }
    }

    fn mirror(&self) -> &Mirror {
        self.daemon.mirror()
    }

    fn route(&self, path: &str) -> Route {
        let request = Request::parse(&Method::GET, path, None).expect("a request");
        self.mirror().route(request.target().expect("a target")).expect("a route").for_operator()
    }

    fn blob_route(&self, digest: &Digest) -> Route {
        self.route(&format!("/v2/{REPOSITORY}/blobs/{digest}"))
    }

    /// Puts a blob into the registry. It names what it has by digests of its own type.
    fn add(&self, bytes: bytes::Bytes) -> Digest {
        self.registry.add_blob(REPOSITORY, bytes).to_string().parse().expect("a digest")
    }

    /// Takes a blob out of the registry.
    fn remove(&self, digest: &Digest) {
        self.registry.remove_blob(REPOSITORY, &digest.to_string().parse().expect("a digest"));
    }

    /// Pulls and waits until it is stored.
    fn store(&self, digest: Digest) {
        let route = self.blob_route(&digest);
        self.runtime.block_on(async {
            drain(self.mirror().blob(&route, digest, None, Framing::Told).await.expect("a blob").selected).await;
            self.settle().await;
        });
    }

    async fn settle(&self) {
        while self.mirror().fills() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn drain(selected: Selected) -> u64 {
    let Selected::Whole(mut body) = selected else { panic!("a part") };
    let mut buffer = vec![0; PIECE as usize];
    let mut drained = 0;
    while let Some(chunk) = body.next(PIECE).await.expect("a whole body") {
        drained += chunk.len();
        match chunk {
            Chunk::Bytes(bytes) => drop(black_box(bytes)),
            Chunk::File(file, range) => {
                let length = usize::try_from(range.end - range.start).expect("a piece");
                file.read_exact_at(&mut buffer[..length], range.start).expect("the file is whole");
                black_box(&buffer);
            }
        }
    }
    drained
}

fn hits(criterion: &mut Criterion) {
    let stage = Stage::set("");
    let mut group = criterion.benchmark_group("hit");
    for size in [4 << 10, 1 << 20, 16 << 20] {
        let digest = stage.add(noise(size as u64, size));
        stage.store(digest);
        let route = stage.blob_route(&digest);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("blob", size), &digest, |bencher, digest| {
            bencher.iter(|| {
                stage.runtime.block_on(async {
                    drain(stage.mirror().blob(&route, *digest, None, Framing::Told).await.expect("a hit").selected)
                        .await
                })
            });
        });
    }
    group.finish();
    let image = stage.registry.add_image(REPOSITORY, "1", &[noise(7, 1000)]);
    let route = stage.route(&format!("/v2/{REPOSITORY}/manifests/1"));
    for (name, reference) in [
        ("tag", Reference::Tag("1".parse().expect("a tag"))),
        ("digest", Reference::Digest(image.manifest.digest.to_string().parse().expect("a digest"))),
    ] {
        criterion.bench_function(&format!("hit/manifest by {name}"), |bencher| {
            bencher.iter(|| {
                let answer = stage.mirror().manifest(&route, &reference, AcceptSet::everything());
                stage.runtime.block_on(answer).expect("a manifest")
            });
        });
    }
}

/// What `verify_on_read` costs where the blob was not verified a moment ago: compare with `hit/blob`.
fn verified_hits(criterion: &mut Criterion) {
    let stage = Stage::set("store.verify_on_read = true");
    let mut seed = 2_000_000;
    let mut group = criterion.benchmark_group("verified hit");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for size in [4 << 10, 1 << 20, 16 << 20] {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("blob", size), &size, |bencher, size| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    seed += 1;
                    let digest = stage.add(noise(seed, *size));
                    stage.store(digest);
                    let route = stage.blob_route(&digest);
                    let start = Instant::now();
                    stage.runtime.block_on(async {
                        drain(stage.mirror().blob(&route, digest, None, Framing::Told).await.expect("a hit").selected)
                            .await
                    });
                    spent += start.elapsed();
                    stage.remove(&digest);
                }
                spent
            });
        });
    }
    group.finish();
}

fn fills(criterion: &mut Criterion) {
    const SIZE: usize = 4 << 20;
    let stage = Stage::set("");
    let mut seed = 1_000_000;
    let mut group = criterion.benchmark_group("fill of 4 MiB");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    for readers in [1, 4, 16] {
        group.throughput(Throughput::Bytes((SIZE * readers) as u64));
        group.bench_with_input(BenchmarkId::new("readers", readers), &readers, |bencher, readers| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    seed += 1;
                    let digest = stage.add(noise(seed, SIZE));
                    spent += fan_out(&stage, digest, *readers);
                    stage.remove(&digest);
                }
                spent
            });
        });
    }
    group.finish();
}

/// The time until all readers have a blob that nobody has asked for before.
fn fan_out(stage: &Stage, digest: Digest, readers: usize) -> Duration {
    let route = stage.blob_route(&digest);
    stage.runtime.block_on(async {
        let start = Instant::now();
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                let (mirror, route) = (stage.mirror().clone(), route.clone());
                tokio::spawn(async move {
                    drain(mirror.blob(&route, digest, None, Framing::Told).await.expect("a blob").selected).await
                })
            })
            .collect();
        for reader in readers {
            reader.await.expect("a reader");
        }
        let spent = start.elapsed();
        stage.settle().await;
        spent
    })
}

criterion_group!(benches, digests, requests, hits, verified_hits, fills);
criterion_main!(benches);
