//! Deterministic fuzzing: what comes in from clients and from upstreams, mutated at random from a
//! fixed seed. Nothing may panic, nothing may hang, and every answer of an upstream ends as a value or
//! as an error with a class.
//!
//! `REGISTRY_MIRROR_FUZZ_ITERATIONS` sets how long, `REGISTRY_MIRROR_FUZZ_SEED` where it begins.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use registry_mirror::clock::Timestamp;
use registry_mirror::oci::{
    AcceptSet, Algorithm, ContentRange, Digest, Manifest, RangeHeader, Reference, Repository, Request, Selection, Span,
    challenge,
};
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::quota::{Quota, Reading};
use registry_mirror::upstream::settings::{Settings, Timeouts};
use registry_mirror::upstream::token::parse_token;
use registry_mirror::upstream::{Upstream as _, UpstreamError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// How many iterations: `usual`, or what the environment says.
fn iterations(usual: usize) -> usize {
    variable("REGISTRY_MIRROR_FUZZ_ITERATIONS").unwrap_or(usual)
}

fn random() -> StdRng {
    StdRng::seed_from_u64(variable("REGISTRY_MIRROR_FUZZ_SEED").unwrap_or(1) as u64)
}

fn variable(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Changes a few places of `seed`: bytes flipped, cut out, doubled, or replaced by `words`.
fn mutated(random: &mut StdRng, seed: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..8)).min(bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                let times = random.random_range(1..40);
                bytes.splice(at..at, part.repeat(times));
            }
            3 => drop(bytes.splice(at..end, [random.random::<u8>()])),
            4 => bytes.truncate(at),
            _ => drop(bytes.splice(at..end, words[random.random_range(0..words.len())].iter().copied())),
        }
    }
    bytes
}

fn pick<'a>(random: &mut StdRng, seeds: &[&'a str]) -> &'a [u8] {
    seeds[random.random_range(0..seeds.len())].as_bytes()
}

const REQUEST_WORDS: [&[u8]; 24] = [
    b"/v2/",
    b"//",
    b"/../",
    b"%2f",
    b"%2e%2e",
    b"%00",
    b"%",
    b"manifests",
    b"blobs",
    b"tags/list",
    b"referrers",
    b"?",
    b"&",
    b"=",
    b"ns=",
    b":",
    b"@",
    b"sha256:",
    b"sha512:",
    b"\xff\xfe",
    b"\r\n",
    b"[::1]",
    b"18446744073709551616",
    b"_",
];

#[test]
fn no_request_panics_and_what_is_understood_is_understood_again() {
    let mut random = random();
    let paths = [
        "/v2/".to_owned(),
        "/v2/library/redis/manifests/7".to_owned(),
        format!("/ghcr.io/v2/owner/app/blobs/{EMPTY}"),
        "/v2/manifests/blobs/manifests/tags/list/manifests/latest".to_owned(),
        "/v2/a/tags/list".to_owned(),
        format!("/v2/localhost:5000/a/referrers/{EMPTY}"),
    ];
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let queries = ["ns=docker.io", "n=10&last=a", "artifactType=a%2Fb", "ns=a.example%3A5000&n=0", "digest=x", ""];
    let mut understood = 0;
    for _ in 0..iterations(20_000) {
        let seed = pick(&mut random, &paths);
        let path = String::from_utf8_lossy(&mutated(&mut random, seed, &REQUEST_WORDS)).into_owned();
        let seed = pick(&mut random, &queries);
        let query = String::from_utf8_lossy(&mutated(&mut random, seed, &REQUEST_WORDS)).into_owned();
        let method = [Method::GET, Method::HEAD, Method::POST, Method::DELETE][random.random_range(0..4)].clone();
        let Ok(request) = Request::parse(&method, &path, Some(&query)) else { continue };
        understood += 1;
        let again = request.path_and_query();
        let (path, query) = again.split_once('?').map_or((again.as_str(), None), |(path, query)| (path, Some(query)));
        let again = Request::parse(&method, path, query);
        assert_eq!(again.ok().as_ref(), Some(&request), "{path:?} {query:?}");
    }
    assert!(understood > iterations(20_000) / 100, "the mutations leave something to be understood: {understood}");
}

#[test]
fn no_header_panics_and_no_range_leaves_the_content() {
    let mut random = random();
    let words: [&[u8]; 16] = [
        b"bytes=",
        b"-",
        b",",
        b"0",
        b"18446744073709551615",
        b"99999999999999999999",
        b"*",
        b"/",
        b";q=0",
        b"*/*",
        b"\"",
        b"\\",
        b"Bearer ",
        b"realm=",
        b"=",
        b"\xff",
    ];
    let seeds = [
        "bytes=0-99",
        "bytes=-5",
        "bytes=5-",
        "bytes=0-0,2-3",
        "bytes 0-99/100",
        "bytes */7",
        "application/vnd.oci.image.index.v1+json, */*;q=0.1",
        "text/plain",
        "Bearer realm=\"https://a.example/t\",service=\"s\",scope=\"repository:a:pull,push\", Basic realm=x",
        "Negotiate abc==",
        "100;w=21600",
        "{\"token\":\"t\",\"expires_in\":300}",
        "{\"access_token\":\"a.eyJleHAiOjF9.c\"}",
        "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"sha256:x\",\"size\":-1}]}",
    ];
    for _ in 0..iterations(20_000) {
        let seed = pick(&mut random, &seeds);
        let bytes = mutated(&mut random, seed, &words);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let size = random.random_range(0..200);
        if let Some(Selection::Part(part)) = RangeHeader::parse(&text).map(|range| range.select(size)) {
            assert!(part.start < part.end && part.end <= size, "{text:?} of {size}: {part:?}");
        }
        if let Some(range) = ContentRange::parse(&text) {
            assert!(range.first <= range.last && range.total.is_none_or(|total| range.last < total), "{text:?}");
        }
        let accepted = AcceptSet::from_headers([text.as_str()]);
        if let Some(header) = accepted.header_value() {
            assert!(HeaderValue::try_from(header).is_ok(), "{text:?}");
        }
        let _ = challenge::parse([text.as_str()]);
        let _ =
            parse_token(&bytes, Timestamp(0)).map(|token| HeaderValue::try_from(token.secret.expose()).expect("plain"));
        let _ = Manifest::from_wire(bytes.clone().into(), Some(&text), Algorithm::Sha256).children();
        let mut headers = HeaderMap::new();
        for name in ["ratelimit-limit", "ratelimit-remaining", "docker-ratelimit-source"] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert(name, value);
            }
        }
        if let Some(reading) = Reading::of(&headers) {
            let quota = Quota::after(None, reading, Timestamp(u64::MAX - 1));
            assert!(quota.tenths() <= 10);
        }
    }
}

/// Answers every connection with bytes of the moment and hangs up.
async fn raw_server(bytes: Arc<Mutex<Vec<u8>>>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = bytes.lock().unwrap().clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
                // Read to the end, so that the answer is not lost to a reset.
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (url, task)
}

const ANSWER_WORDS: [&[u8]; 26] = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"HTTP/1.1 ",
    b"HTTP/1.0 200 OK\r\n",
    b"content-length: ",
    b"Content-Length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"ffffffffffffffff\r\n",
    b"\0",
    b"\xff",
    b"location: /v2/\r\n",
    b"location: http://169.254.169.254/\r\n",
    b"content-range: bytes 0-0/1\r\n",
    b"content-encoding: gzip\r\n",
    b"www-authenticate: Bearer realm=\"/token\"\r\n",
    b"www-authenticate: Basic\r\n",
    b"retry-after: 99999999999999999999\r\n",
    b"ratelimit-limit: 0;w=0\r\n",
    b"ratelimit-remaining: 0\r\n",
    b"docker-content-digest: sha256:\r\n",
    b"100 Continue\r\n\r\n",
    b"connection: close\r\n",
];

#[tokio::test]
async fn no_answer_of_an_upstream_panics_or_hangs_us() {
    let mut random = random();
    let manifest = "{\"schemaVersion\":2,\"manifests\":[]}";
    let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
    let seeds = [
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.index.v1+json\r\n\
             docker-content-digest: {digest}\r\ncontent-length: {}\r\n\r\n{manifest}",
            manifest.len()
        ),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n22\r\n{manifest}\r\n0\r\n\r\n"),
        format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-33/34\r\ncontent-length: 34\r\n\r\n{manifest}"),
        "HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"http://127.0.0.1:9/t\"\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 307 Go\r\nlocation: /v2/x?sig=1\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 429 Slow\nRetry-After: 60\nRateLimit-Limit: 100;w=21600\nRateLimit-Remaining: 0;w=21600\n\nslow\n"
            .to_owned(),
        "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 416 No\r\ncontent-range: bytes */0\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nlink: </v2/a/tags/list?last=b>; rel=next\r\n\
         content-length: 32\r\n\r\n{\"name\":\"a\",\"tags\":[\"a\",\"b\",null]}"
            .to_owned(),
    ];
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (url, server) = raw_server(Arc::clone(&bytes)).await;
    let quick = Duration::from_millis(500);
    let name = "registry.example".parse().unwrap();
    let settings = Settings {
        // Wherever a mutated redirect leads: it ends at the server of this test.
        proxy: Some(url.parse().unwrap()),
        timeouts: Timeouts { connect: quick, first_byte: quick, idle: quick },
        budget_floor: 10,
        ..Settings::default()
    };
    let upstream = HttpUpstream::new(HttpSettings::new(name, url.parse().unwrap(), settings)).unwrap();
    let (mut values, mut errors) = (0, 0);
    for number in 0..iterations(400) {
        let seed = pick(&mut random, &seeds);
        let answer = mutated(&mut random, seed, &ANSWER_WORDS);
        bytes.lock().unwrap().clone_from(&answer);
        let asked = tokio::time::timeout(Duration::from_secs(60), ask(&upstream, &digest, number));
        let ended = asked.await.unwrap_or_else(|_| panic!("hangs: {}", String::from_utf8_lossy(&answer)));
        match ended {
            Ok(()) => values += 1,
            Err(error) => {
                assert!(!error.message.is_empty() && !error.message.contains("sig="), "{error}");
                errors += 1;
            }
        }
    }
    server.abort();
    assert!(values > 0 && errors > 0, "{values} values and {errors} errors");
}

/// One question of each kind in turn, read to its end.
async fn ask(upstream: &HttpUpstream, digest: &Digest, number: usize) -> Result<(), UpstreamError> {
    let repository: Repository = "library/app".parse().unwrap();
    let tag = Reference::Tag("1".parse().unwrap());
    match number % 5 {
        0 => upstream.resolve(&repository, &tag, AcceptSet::everything()).await.map(drop),
        1 => {
            let found = upstream.manifest(&repository, &Reference::Digest(*digest), AcceptSet::everything()).await?;
            assert_eq!(Digest::of(Algorithm::Sha256, &found.bytes), *digest);
            Ok(())
        }
        2 => upstream.stat(&repository, digest).await.map(drop),
        3 => upstream.tags(&repository, &registry_mirror::oci::Page::default()).await.map(drop),
        _ => {
            let span = if number.is_multiple_of(2) { Span::default() } else { Span { start: 3, end: Some(9) } };
            let mut blob = upstream.blob(&repository, digest, span).await?;
            while let Some(chunk) = blob.body.next().await {
                chunk?;
            }
            Ok(())
        }
    }
}
