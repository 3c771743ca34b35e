//! Each misbehaviour of the rude registry, of the program that others can point their caches at: it happens, it
//! breaks no promise, and when it is over everything can be had.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::ValueEnum as _;
use scripted_registry::client::{Connection, Response};
use scripted_registry::{Algorithm, Digest, Options, Registry};
use tokio::time::Instant;

use crate::support::mirror::{Settings, TestMirror};

#[path = "../../examples/rude_registry/behaviour.rs"]
mod behaviour;

use behaviour::{Behaviour, REPOSITORY, TAGS, add_images, script};

/// The longest that the README allows for an answer to begin, of two questions.
const LONGEST: Duration = Duration::from_secs(73);
/// After so long nobody here waits for the end of a body any more.
const ENOUGH: Duration = Duration::from_secs(3000);
/// More than anything here has; who sends more does not end.
const MOST: usize = 20 << 20;

/// What a registry holds, by digest.
fn held(registry: &Registry) -> HashMap<String, Bytes> {
    registry.content(|content| {
        let holding = content.repository(REPOSITORY);
        let manifests = holding.manifests.iter().map(|(digest, manifest)| (digest.to_string(), manifest.bytes.clone()));
        let blobs = holding.blobs.iter().map(|(digest, bytes)| (digest.to_string(), bytes.clone()));
        manifests.chain(blobs).collect()
    })
}

/// Everything that can be asked for, with the digest where that is what it is asked for by.
fn paths(registry: &Registry) -> Vec<String> {
    let at = |rest: String| format!("/v2/{REPOSITORY}/{rest}");
    let mut paths: Vec<_> = TAGS.iter().map(|tag| at(format!("manifests/{tag}"))).collect();
    registry.content(|content| {
        let holding = content.repository(REPOSITORY);
        paths.extend(holding.manifests.keys().map(|digest| at(format!("manifests/{digest}"))));
        paths.extend(holding.blobs.keys().map(|digest| at(format!("blobs/{digest}"))));
        paths.extend(holding.manifests.keys().take(1).map(|digest| at(format!("referrers/{digest}"))));
    });
    paths.push(at("tags/list".to_owned()));
    paths
}

/// An answer, as long as one waits for it, and how long it took to begin; `None` where its body does not end.
async fn asked(mirror: &TestMirror, method: &str, path: &str, range: &str) -> (Option<Response>, Duration) {
    let begun = Instant::now();
    let connection = Connection::open(mirror.address).await;
    let headers = [("Range", range)];
    let headers = if range.is_empty() { &[][..] } else { &headers };
    let mut stream = connection.send(method, path, headers).await.expect("an answer");
    let waited = begun.elapsed();
    let (status, headers) = (stream.status, stream.headers.clone());
    let mut body = BytesMut::new();
    let ends = tokio::time::timeout(ENOUGH, async {
        while body.len() <= MOST {
            let piece = stream.read(1 << 20).await;
            if piece.is_empty() {
                return true;
            }
            body.extend_from_slice(&piece);
        }
        false
    });
    if !ends.await.unwrap_or_default() {
        return (None, waited);
    }
    let complete = stream.done().await.is_some();
    (Some(Response { status, headers, body: body.freeze(), complete }), waited)
}

/// An answer that ends is right: its bytes are those of its digest, and of what was asked for.
fn is_right(answer: &Response, method: &str, path: &str, held: &HashMap<String, Bytes>) -> bool {
    // What a head claims cannot be verified.
    if method == "HEAD"
        || !matches!(answer.status, 200 | 206)
        || !answer.complete
        || path.ends_with("/tags/list")
        || path.contains("/referrers/")
    {
        return true;
    }
    let Some(digest) = answer.header("docker-content-digest") else { return false };
    let named = path.rsplit('/').next().filter(|name| name.starts_with("sha256:"));
    let known = held.get(digest).filter(|_| named.is_none_or(|named| named == digest));
    match (known, answer.status) {
        (None, _) => false,
        (Some(bytes), 200) => *bytes == answer.body && Digest::of(Algorithm::Sha256, bytes).to_string() == digest,
        // No digest covers a part of what is still arriving.
        (Some(bytes), _) => answer.body.len() == bytes.len().min(100),
    }
}

async fn breaks_no_promise(behaviour: Behaviour) {
    let mut registry = Registry::start().await;
    if matches!(behaviour, Behaviour::StorageRateLimited) {
        registry = registry.with_storage_host().await;
    }
    add_images(&registry);
    let (held, paths) = (held(&registry), paths(&registry));
    let other = script(&registry, behaviour, usize::MAX).await;
    // Bodies without an end fill what there is to fill.
    let mirror = Settings::of(&registry).config("store.max_size = \"64MB\"").start().await;
    tokio::time::pause();
    let mut odd = 0;
    for path in &paths {
        for (method, range) in [("HEAD", ""), ("GET", "bytes=0-99"), ("GET", "")] {
            if !range.is_empty() && !path.contains("/blobs/") {
                continue;
            }
            let (answer, waited) = asked(&mirror, method, path, range).await;
            assert!(waited <= LONGEST, "{behaviour:?}: {method} {path} {range}: {waited:?}");
            let Some(answer) = answer else {
                odd += 1;
                continue;
            };
            assert!(
                is_right(&answer, method, path, &held),
                "{behaviour:?}: {method} {path} {range}: {}",
                answer.status
            );
            odd += usize::from(!answer.complete || answer.status >= 400);
        }
    }
    let happened = registry.rule_matches() > 0 || registry.token_requests() > 0 || odd > 0;
    let quiet = matches!(behaviour, Behaviour::OneAtATime | Behaviour::NoReferrers);
    assert!(happened || quiet, "{behaviour:?} did not happen");
    // It is over.
    registry.clear_rules();
    registry.require_nothing();
    registry.options(|options| *options = Options::default());
    mirror.advance(Duration::from_secs(3600));
    // What has no end goes on without the rule that made it.
    let mirror = if matches!(behaviour, Behaviour::EndlessBlobs) { mirror.restart().await } else { mirror };
    for path in &paths {
        let (answer, _) = asked(&mirror, "GET", path, "").await;
        let answer = answer.expect("it ends");
        let there = !path.contains("/manifests/sha256:") || held.contains_key(path.rsplit('/').next().unwrap());
        assert!(there && answer.status == 200 && answer.complete, "after {behaviour:?}: {path}: {}", answer.status);
        assert!(is_right(&answer, "GET", path, &held), "after {behaviour:?}: {path}");
    }
    tokio::time::resume();
    drop(other);
}

/// What every client of a registry puts up with.
const PUT_UP_WITH: [Behaviour; 35] = [
    Behaviour::CutAt30Percent,
    Behaviour::ResetAt70Percent,
    Behaviour::WithoutLength,
    Behaviour::Chunked,
    Behaviour::IgnoreRange,
    Behaviour::RefuseResume,
    Behaviour::DenyResume,
    Behaviour::ResumeNotImplemented,
    Behaviour::ResumeWithWhole,
    Behaviour::ResumeWithOther,
    Behaviour::ResumeUnnamed,
    Behaviour::OneAtATime,
    Behaviour::NoHead,
    Behaviour::HeadNotFound,
    Behaviour::HeadDenied,
    Behaviour::HeadFailing,
    Behaviour::HeadAfterGet,
    Behaviour::WithoutDigest,
    Behaviour::MovingTag,
    Behaviour::DigestDenied,
    Behaviour::ForeignRealm,
    Behaviour::TokensDie,
    Behaviour::TokensDieElsewhere,
    Behaviour::TokensDieAsBasic,
    Behaviour::ChallengeAtPing,
    Behaviour::RedirectTokens,
    Behaviour::OddChallenge,
    Behaviour::Facade,
    Behaviour::RawLocation,
    Behaviour::OddEncoding,
    Behaviour::LostConnections,
    Behaviour::CloseUnannounced,
    Behaviour::ResetOneBlob,
    Behaviour::Deprecated,
    Behaviour::StaleAnswers,
];

/// Everything is whole by GET, but for what this behaviour refuses to anybody.
async fn is_served(behaviour: Behaviour) {
    let registry = Registry::start().await;
    add_images(&registry);
    let (held, paths) = (held(&registry), paths(&registry));
    let largest = held.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(digest, _)| digest.clone()).unwrap();
    let other = script(&registry, behaviour, usize::MAX).await;
    let mirror = Settings::of(&registry).start().await;
    for path in &paths {
        let refused = match behaviour {
            Behaviour::ResetOneBlob => path.ends_with(&largest),
            Behaviour::MovingTag | Behaviour::DigestDenied => path.contains("manifests/sha256:"),
            _ => false,
        };
        if refused {
            continue;
        }
        let answer = mirror.get(path).await;
        assert!(answer.status == 200 && answer.complete, "{behaviour:?}: {path}: {}", answer.status);
        assert!(is_right(&answer, "GET", path, &held), "{behaviour:?}: {path}");
    }
    drop(other);
}

#[tokio::test]
async fn what_others_put_up_with_is_served() {
    // Together, because what is cut is asked for again after a while.
    let each = PUT_UP_WITH.iter().map(|behaviour| Box::pin(is_served(*behaviour)));
    futures_util::future::join_all(each).await;
}

macro_rules! quarters {
    ($($name:ident: $quarter:literal),*) => {$(
        #[tokio::test]
        async fn $name() {
            for behaviour in Behaviour::value_variants().iter().skip($quarter).step_by(4) {
                breaks_no_promise(*behaviour).await;
            }
        }
    )*};
}

quarters! {
    each_misbehaviour_of_a_registry_happens_and_breaks_no_promise_1: 0,
    each_misbehaviour_of_a_registry_happens_and_breaks_no_promise_2: 1,
    each_misbehaviour_of_a_registry_happens_and_breaks_no_promise_3: 2,
    each_misbehaviour_of_a_registry_happens_and_breaks_no_promise_4: 3
}
