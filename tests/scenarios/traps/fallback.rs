//! Trap 26: what we answer when we cannot serve makes every client do the right thing.
//!
//! dockerd asks its mirrors first and the registry itself last; what makes it go on, or give up, is
//! modelled here after its documentation of behaviour, for version 1.13 and for 20.10 and later, and
//! held against every error that we can emit, as a table and over the wire.

use std::time::Duration;

use registry_mirror::mirror::{MirrorError, RouteError, Subject};
use registry_mirror::oci::{ErrorCode, RequestError};
use registry_mirror::server::handler;
use registry_mirror::upstream::{UpstreamError, UpstreamErrorClass};
use scripted_registry::{Match, Registry, Rule, noise};
use serde_json::Value;

use crate::support::mirror::{Settings, TestMirror};

/// What dockerd does after an answer that is not the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    NextEndpoint,
    /// Five attempts with pauses of 50 s together, and then the next endpoint.
    NextEndpointAfterRetries,
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// 1.13 to 19.03
    Old,
    /// 20.10 and later
    New,
}

/// The code of an error as dockerd reads it: from a 4xx in JSON with its content type, and no other.
fn code_read(status: u16, content_type: &str, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok().filter(|_| (400..500).contains(&status))?;
    assert!(body.get("details").is_none(), "dockerd 1.13 takes a top-level details for another error");
    let json = content_type.split(';').next().unwrap_or_default().trim() == "application/json";
    body["errors"][0]["code"].as_str().filter(|_| json).map(str::to_owned)
}

fn after_manifest(version: Version, status: u16, content_type: &str, body: &[u8]) -> Then {
    match code_read(status, content_type, body).as_deref() {
        _ if version == Version::New => Then::NextEndpoint,
        None | Some("UNAUTHORIZED" | "MANIFEST_UNKNOWN" | "NAME_UNKNOWN") => Then::NextEndpoint,
        Some(_) => Then::Abort,
    }
}

fn after_layer(status: u16, content_type: &str, body: &[u8]) -> Then {
    match code_read(status, content_type, body).as_deref() {
        _ if status == 404 => Then::NextEndpoint,
        Some("UNAUTHORIZED" | "DENIED" | "TOOMANYREQUESTS" | "UNSUPPORTED" | "NAME_UNKNOWN") => Then::NextEndpoint,
        _ => Then::NextEndpointAfterRetries,
    }
}

const CLASSES: [UpstreamErrorClass; 6] = [
    UpstreamErrorClass::NotFound,
    UpstreamErrorClass::Denied,
    UpstreamErrorClass::RateLimited(None),
    UpstreamErrorClass::RateLimited(Some(Duration::from_secs(60))),
    UpstreamErrorClass::Unavailable,
    UpstreamErrorClass::Protocol,
];

fn failed(subject: Subject, class: UpstreamErrorClass) -> MirrorError {
    MirrorError::upstream(subject, UpstreamError::new(class, "said the upstream"))
}

/// Every error that can be the answer to a request for a manifest or for tags, as dockerd sends them.
fn manifest_errors() -> Vec<MirrorError> {
    let unknown = RouteError::UnknownUpstream("unknown.example".parse().unwrap());
    let subjects = [Subject::Manifest, Subject::Tags];
    let upstream = subjects.into_iter().flat_map(|subject| CLASSES.map(|class| failed(subject, class)));
    upstream.chain([MirrorError::Route(unknown), MirrorError::Internal("a panic".to_owned())]).collect()
}

#[test]
fn trap_26_no_error_for_a_manifest_makes_any_dockerd_abort() {
    let as_sent = |code: ErrorCode| (code.status().as_u16(), code.body("why"));
    for error in manifest_errors() {
        let (status, body) = as_sent(handler::code(&error, ErrorCode::Unavailable));
        for version in [Version::Old, Version::New] {
            assert_eq!(after_manifest(version, status, "application/json", &body), Then::NextEndpoint, "{error:?}");
        }
    }
    // A tag that no client can mean, a digest such as docker's own parser lets through, and a path below a name that we do not serve.
    let digest = "sha256:3A5".parse::<registry_mirror::oci::Digest>().expect_err("illegal");
    for error in [RequestError::Tag, RequestError::ManifestDigest(digest), RequestError::NotFound] {
        let (status, body) = as_sent(error.code());
        assert_eq!(after_manifest(Version::Old, status, "application/json", &body), Then::NextEndpoint, "{error:?}");
    }
    // The model can tell: what a registry sends for these would end the pull.
    for code in [
        ErrorCode::Denied,
        ErrorCode::TooManyRequests,
        ErrorCode::Unsupported,
        ErrorCode::NameInvalid,
        ErrorCode::DigestInvalid,
    ] {
        let (status, body) = as_sent(code);
        assert_eq!(after_manifest(Version::Old, status, "application/json", &body), Then::Abort, "{code:?}");
    }
}

#[test]
fn trap_26_a_layer_that_we_cannot_get_is_a_setting_between_honest_and_quick() {
    use Then::{NextEndpoint, NextEndpointAfterRetries};
    for (class, honest, quick) in [
        (UpstreamErrorClass::NotFound, NextEndpoint, NextEndpoint),
        (UpstreamErrorClass::Denied, NextEndpoint, NextEndpoint),
        (UpstreamErrorClass::RateLimited(None), NextEndpointAfterRetries, NextEndpoint),
        (UpstreamErrorClass::Unavailable, NextEndpointAfterRetries, NextEndpoint),
        (UpstreamErrorClass::Protocol, NextEndpointAfterRetries, NextEndpoint),
    ] {
        for (setting, expected) in [(ErrorCode::Unavailable, honest), (ErrorCode::BlobUnknown, quick)] {
            let code = handler::code(&failed(Subject::Blob, class), setting);
            let then = after_layer(code.status().as_u16(), "application/json", &code.body("why"));
            assert_eq!(then, expected, "{class:?} {setting:?}");
        }
        let manifest = failed(Subject::Manifest, class);
        assert_eq!(handler::code(&manifest, ErrorCode::BlobUnknown), manifest.code(), "of layers only");
    }
}

#[tokio::test]
async fn trap_26_whatever_the_upstream_does_dockerd_goes_on_to_the_next_endpoint() {
    type Misbehaviour = fn(Rule) -> Rule;
    let misbehaviours: [(&str, Misbehaviour); 12] = [
        ("400", |rule| rule.refuse(400)),
        ("401", |rule| rule.refuse(401)),
        ("403", |rule| rule.refuse(403)),
        ("404", |rule| rule.refuse(404)),
        ("429", |rule| rule.too_many_requests(Some("60"))),
        ("429 in text", |rule| rule.answer(429, "text/plain", "slow down").bare_lf()),
        ("500", |rule| rule.refuse(500)),
        ("418", |rule| rule.refuse(418)),
        ("hangs up", Rule::close_at_once),
        ("resets", Rule::reset_at_once),
        ("another manifest", |rule| rule.flip_bit_at(3)),
        ("redirects for ever", |rule| rule.redirect("/v2/library/app/manifests/1")),
    ];
    for (what, misbehave) in misbehaviours {
        let registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(61, 100)]);
        registry.rule(misbehave(Rule::on(Match::manifests())));
        let mirror = TestMirror::of(&registry).await;
        let answer = mirror.get("/v2/library/app/manifests/1").await;
        assert!(answer.status >= 400, "{what}: {}", answer.status);
        let content_type = answer.header("content-type").expect(what);
        assert_eq!(content_type, "application/json", "{what}");
        assert_eq!(answer.header("www-authenticate"), None, "{what}");
        let then = after_manifest(Version::Old, answer.status, content_type, &answer.body);
        assert_eq!(then, Then::NextEndpoint, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let expected = if what == "404" { "MANIFEST_UNKNOWN" } else { "" };
        assert!(String::from_utf8_lossy(&answer.body).contains(expected), "{what}: truly absent is told as absent");
    }
}

#[tokio::test]
async fn trap_26_the_setting_for_unavailable_blobs_is_obeyed() {
    let mut registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(62, 1000));
    let path = format!("/v2/library/app/blobs/{digest}");
    let honest = TestMirror::of(&registry).await;
    let quick = Settings::of(&registry).config("server.unavailable_blob = 404").start().await;
    registry.stop().await;
    assert_eq!(honest.get(&path).await.status, 503);
    for answer in [quick.get(&path).await, quick.head(&path).await] {
        assert_eq!(answer.status, 404);
    }
    let manifest = quick.get("/v2/library/app/manifests/1").await;
    assert_eq!(manifest.status, 503, "a manifest that may exist is never told as absent");
}
