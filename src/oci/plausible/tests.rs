//! What can be an answer and what cannot, byte for byte.

use super::*;
use crate::oci::Algorithm;
use crate::oci::descriptor::{DOCKER_LIST, DOCKER_MANIFEST};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

fn of(content_type: &str, body: &str) -> Result<(), Implausible> {
    let told = Told { content_type: (!content_type.is_empty()).then_some(content_type), ..Told::default() };
    check(Asked::Manifest(None), &told, Some(body.as_bytes()))
}

/// The same with `N` for a descriptor that names a digest, and `@` for the beginning of one.
fn named(json: &str) -> String {
    let begun = format!(r#"{{"digest":"sha256:{:064}""#, 0);
    json.replace('N', &format!("{begun}}}")).replace('@', &begun)
}

const SCHEMA1: &str = DOCKER_SCHEMA1;
const ALIEN: &str = "application/vnd.example.thing+json";

#[test]
fn every_kind_of_manifest_is_plausible_under_its_own_name_and_under_none() {
    let image = r#"{"schemaVersion":2,"config":N,"layers":[N,N]}"#;
    for (content_type, body) in [
        (IMAGE, image),
        (DOCKER_MANIFEST, image),
        ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", image),
        ("Application/VND.OCI.Image.Manifest.V1+JSON", image),
        ("text/plain", image),
        ("application/json", image),
        ("binary/octet-stream", image),
        ("", image),
        (IMAGE, r#"{"Config":{"Digest":"blake3:00ff"},"LAYERS":[]}"#),
        (IMAGE, r#"{"config":N,"layers":null,"manifests":null}"#),
        (IMAGE, r#"{"config":@,"size":0},"layers":[@,"size":null},@,"size":9223372036854775807}]}"#),
        (IMAGE, r#"{"config":N,"layers":[N],"architecture":"amd64","mediaType":"application/json"}"#),
        (IMAGE, r#"{"config":N,"layers":[],"mediaType":"application/vnd.example.thing+json"}"#),
        // What readers written in Go take: a key that stands twice, and no version.
        (IMAGE, r#"{"config":N,"layers":[N],"Layers":[N],"schemaVersion":null}"#),
        (INDEX, r#"{"manifests":[N],"manifests":[N],"mediaType":"a/b","mediaType":"application/json"}"#),
        (INDEX, r#"{"schemaVersion":2,"manifests":[N]}"#),
        (INDEX, r#"{"manifests":null}"#),
        (INDEX, r#"{"manifests":[N],"layers":null}"#),
        (DOCKER_LIST, r#" {"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#),
        ("", r#"{"manifests":[]}"#),
        (ARTIFACT, r#"{"blobs":[N]}"#),
        (ARTIFACT, r#"{"artifactType":"x"}"#),
        (ARTIFACT, r#"{"subject":N}"#),
        (ARTIFACT, r#"{"config":N}"#),
        (ARTIFACT, r#"{"blobs":[N],"schemaVersion":null}"#),
        (SCHEMA1, r#"{"schemaVersion":1,"fsLayers":[]}"#),
        ("application/json", r#"{"schemaVersion":1,"architecture":"amd64","history":[]}"#),
        (ALIEN, "{}"),
        (ALIEN, r#"{"schemaVersion":"3","status":"signed"}"#),
        ("", r#"{"mediaType":"application/vnd.example.thing+json"}"#),
    ] {
        assert_eq!(of(content_type, &named(body)), Ok(()), "{content_type} {body}");
    }
}

#[test]
fn what_cannot_be_a_manifest_is_none_whatever_it_is_called() {
    let nested = |deep: usize| {
        format!(r#"{{"schemaVersion":2,"manifests":[],"x":{}{}}}"#, "[".repeat(deep - 1), "]".repeat(deep - 1))
    };
    assert_eq!(of(INDEX, &nested(128)), Ok(()));
    for content_type in ["", IMAGE, INDEX, ARTIFACT, SCHEMA1, "text/plain", ALIEN] {
        for (body, expected) in [
            ("", Implausible::Empty),
            (" \n", Implausible::Empty),
            ("<!DOCTYPE html><html></html>", Implausible::Page),
            ("\n<html>", Implausible::Page),
            ("no JSON", Implausible::Json),
            ("[]", Implausible::Json),
            ("{} {}", Implausible::Json),
            (r#"{"config":{},"layers":["#, Implausible::Json),
            (r#"{"config":N,"layers":[],"manifests":[]}"#, Implausible::Both),
            (r#"{"layers":[],"Manifests":[]}"#, Implausible::Both),
            (r#"{"manifests":[],"manifests":null,"config":N}"#, Implausible::Both),
            (&nested(129), Implausible::Deep),
        ] {
            assert_eq!(of(content_type, &named(body)), Err(expected), "{content_type} {body}");
        }
        for body in [
            r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#,
            r#"{"error":"no","code":403}"#,
            r#"{"message":"quota"}"#,
            r#"{"Detail":"Not Found"}"#,
            r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#,
            r#"{"architecture":"amd64","os":"linux","config":{"Env":[]},"rootfs":{"type":"layers"}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#,
        ] {
            assert!(matches!(of(content_type, body), Err(Implausible::Shape(_))), "{content_type} {body}");
        }
    }
    let image = named(r#"{"config":N,"layers":[]}"#);
    assert_eq!(of("text/html; charset=utf-8", &image), Err(Implausible::Page));
    for content_type in [
        "image/png",
        "application/problem+json",
        "application/xml",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ] {
        assert_eq!(of(content_type, &image), Err(Implausible::Type(content_type.to_owned())));
    }
    let large = format!("{image}{}", " ".repeat(8 << 20));
    assert_eq!(of(IMAGE, &large), Err(Implausible::Large));
}

#[test]
fn what_says_it_is_a_manifest_has_what_makes_one() {
    for (content_type, body) in [
        (IMAGE, "{}"),
        (IMAGE, r#"{"schemaVersion":2}"#),
        (IMAGE, r#"{"a":1}"#),
        (IMAGE, r#"{"config":null,"layers":null}"#),
        (IMAGE, r#"{"config":{}}"#),
        (IMAGE, r#"{"config":"x","layers":[]}"#),
        (IMAGE, r#"{"config":{"digest":"notadigest"}}"#),
        (IMAGE, r#"{"config":{"digest":"sha256:00"}}"#),
        (IMAGE, r#"{"config":{"digest":"blake3:"}}"#),
        (IMAGE, r#"{"config":{"digest":"blake3:xyz"}}"#),
        (IMAGE, r#"{"config":{"digest":7}}"#),
        (IMAGE, r#"{"config":N,"layers":{}}"#),
        (IMAGE, r#"{"config":N,"layers":"x"}"#),
        (IMAGE, r#"{"config":N,"layers":[1,2]}"#),
        (IMAGE, r#"{"config":N,"layers":[N,null]}"#),
        (IMAGE, r#"{"config":N,"layers":[{},N]}"#),
        (IMAGE, r#"{"config":N}"#),
        (IMAGE, r#"{"layers":[N]}"#),
        (IMAGE, r#"{"config":null,"layers":[N]}"#),
        (IMAGE, r#"{"config":null,"layers":null}"#),
        (IMAGE, r#"{"config":@,"size":-1},"layers":[]}"#),
        (IMAGE, r#"{"config":N,"layers":[@,"size":-1}]}"#),
        (IMAGE, r#"{"config":N,"layers":[@,"size":"5"}]}"#),
        (IMAGE, r#"{"config":N,"layers":[@,"size":5.0}]}"#),
        (IMAGE, r#"{"config":N,"layers":[@,"size":9223372036854775808}]}"#),
        (INDEX, r#"{"manifests":[@,"size":"5"}]}"#),
        (ARTIFACT, r#"{"blobs":[@,"size":-1}]}"#),
        (IMAGE, r#"{"config":N,"layers":[],"schemaVersion":1}"#),
        (IMAGE, r#"{"config":N,"layers":[],"schemaVersion":"2"}"#),
        (IMAGE, r#"{"config":N,"layers":[],"schemaVersion":99}"#),
        (IMAGE, r#"{"config":N,"layers":[],"schemaVersion":2.0}"#),
        (IMAGE, r#"{"config":N,"errors":[]}"#),
        (IMAGE, r#"{"config":N,"mediaType":"text/html"}"#),
        (IMAGE, r#"{"manifests":[]}"#),
        (IMAGE, r#"{"config":N,"mediaType":"application/vnd.oci.image.index.v1+json"}"#),
        (INDEX, "{}"),
        (INDEX, r#"{"config":N,"layers":[]}"#),
        (INDEX, r#"{"manifests":"x"}"#),
        (INDEX, r#"{"manifests":{}}"#),
        (INDEX, r#"{"manifests":[{}]}"#),
        (INDEX, r#"{"manifests":[],"schemaVersion":1}"#),
        (INDEX, r#"{"manifests":[],"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#),
        (ARTIFACT, "{}"),
        (ARTIFACT, r#"{"manifests":[]}"#),
        (ARTIFACT, r#"{"blobs":[7]}"#),
        (SCHEMA1, r#"{"schemaVersion":2,"fsLayers":[]}"#),
        (SCHEMA1, r#"{"schemaVersion":1}"#),
        ("", r#"{"schemaVersion":1,"name":"x"}"#),
        ("", "{}"),
        ("application/json", r#"{"status":"ok"}"#),
        ("", r#"{"mediaType":"text/html"}"#),
        ("", r#"{"mediaType":"application/problem+json"}"#),
        ("", r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#),
    ] {
        let found = of(content_type, &named(body));
        assert!(matches!(found, Err(Implausible::Shape(_))), "{content_type} {body}: {found:?}");
    }
}

#[test]
fn a_head_is_believed_only_where_it_can_be_that_of_what_was_asked_for() {
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let (other, nothing) = (Digest::of(Algorithm::Sha256, b"other"), Digest::of(Algorithm::Sha256, b""));
    let html = Some("text/html");
    let told = |content_type, digest, size| Told { content_type, digest, size };
    for (asked, told, plausible) in [
        (Asked::Blob(&digest), told(None, None, None), true),
        (Asked::Blob(&digest), told(Some("application/octet-stream"), Some(digest), Some(4)), true),
        (Asked::Blob(&digest), told(None, Some(other), Some(4)), false),
        (Asked::Blob(&digest), told(html, None, Some(4)), false),
        (Asked::Blob(&digest), told(html, Some(digest), Some(4)), true),
        (Asked::Blob(&digest), told(None, Some(digest), Some(0)), false),
        (Asked::Blob(&nothing), told(None, None, Some(0)), true),
        (Asked::Manifest(None), told(Some(IMAGE), Some(digest), Some(4)), true),
        (Asked::Manifest(Some(&digest)), told(Some(IMAGE), Some(other), Some(4)), false),
        (Asked::Manifest(None), told(html, Some(digest), Some(4)), false),
        (Asked::Manifest(None), told(Some(IMAGE), Some(digest), Some((8 << 20) + 1)), false),
        (Asked::Manifest(None), told(Some("image/png"), Some(digest), Some(4)), false),
        (Asked::Manifest(None), told(Some("application/problem+json"), Some(digest), Some(4)), false),
        (Asked::Manifest(None), told(Some(ALIEN), Some(digest), Some(4)), true),
    ] {
        assert_eq!(check(asked, &told, None).is_ok(), plausible, "{asked:?} {told:?}");
    }
}

#[test]
fn a_list_is_no_page_and_not_nothing_and_one_of_referrers_is_an_index() {
    let list = |asked, content_type, body: &str| {
        check(asked, &Told { content_type, ..Told::default() }, Some(named(body).as_bytes())).is_ok()
    };
    let tags = |content_type, body: &str| list(Asked::Tags, content_type, body);
    assert!(tags(None, r#"{"tags":[]}"#) && tags(Some("text/plain"), r#"{"tags":[]}"#));
    assert!(!tags(Some("text/html"), r#"{"tags":[]}"#) && !tags(None, "<html>") && !tags(None, ""));
    for (body, plausible) in [
        (r#"{"schemaVersion":2,"manifests":[]}"#, true),
        (r#"{"Manifests":[N]}"#, true),
        (r#"{"manifests":null}"#, true),
        (r#"{"schemaVersion":2}"#, false),
        (r#"{"manifests":"x"}"#, false),
        (r#"{"manifests":[],"layers":[]}"#, false),
        (r#"{"manifests":null,"config":N}"#, false),
        (r#"{"config":N,"layers":[]}"#, false),
        (r#"{"errors":[]}"#, false),
        ("[]", false),
        ("", false),
        ("<html>", false),
    ] {
        assert_eq!(list(Asked::Referrers, None, body), plausible, "{body}");
    }
}
