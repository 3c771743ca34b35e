//! Whether an answer can be what was asked for. Pure, and decided before anything of an answer is kept or
//! passed on: a captive portal, a proxy's page and a registry that lies all say 200.
//!
//! One decision for everything that becomes a fact here: manifests by tag and by digest, the heads that
//! memberships rest on, lists, what is imported. Sources: distribution-spec 1.1.1; image-spec 1.1.1;
//! GHSA-mc8v-mgrf-8f4m, of documents that are an index to one reader and an image to the next.

use super::descriptor::MediaType;
use super::digest::Digest;
use super::manifest::{
    MAX_MANIFEST_SIZE, MOST_NESTED, Outline, declared_type, is_artifact, is_image, is_index, is_too_deep,
};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// A manifest, by this digest or by tag.
    Manifest(Option<&'a Digest>),
    /// A blob.
    Blob(&'a Digest),
    /// A list of tags.
    List,
}

/// What the head of an answer tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// `Content-Type`, as it came.
    pub content_type: Option<&'a str>,
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// `Content-Length`, in bytes.
    pub size: Option<u64>,
}

/// Why an answer cannot be what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// HTML.
    #[error("is a page for people; something between this mirror and the registry may have answered for it")]
    Page,
    /// No manifest is called so.
    #[error("is called {0}, which is no type of a manifest")]
    Type(String),
    /// The head names other content.
    #[error("is said to be {0}, which was not asked for")]
    Other(Digest),
    /// More than any manifest has.
    #[error("has more than {MAX_MANIFEST_SIZE} bytes")]
    Large,
    /// Deeper than any manifest.
    #[error("is nested more than {MOST_NESTED} deep")]
    Deep,
    /// Not a JSON object.
    #[error("is no JSON object")]
    Json,
    /// It leads to manifests and to layers, and readers would disagree on which.
    #[error("is an image and an index at once")]
    Both,
    /// It is JSON, and neither what it is called nor anything else that we know.
    #[error("has not the shape of {0}")]
    Shape(String),
}

/// Whether an answer with this head, and with this body where there is one, can be what was asked for.
///
/// # Errors
/// Why it cannot.
pub fn check(asked: Asked<'_>, told: &Told<'_>, body: Option<&[u8]>) -> Result<(), Implausible> {
    let digest = match asked {
        Asked::Manifest(digest) => digest,
        Asked::Blob(digest) => Some(digest),
        Asked::List => None,
    };
    // Of a body the bytes decide.
    if let (None, Some(asked), Some(told)) = (body, digest, told.digest)
        && *asked != told
    {
        return Err(Implausible::Other(told));
    }
    let declared = declared_type(told.content_type);
    let is_page =
        declared.as_ref().is_some_and(|declared| matches!(declared.as_ref(), "text/html" | "application/xhtml+xml"));
    match asked {
        // A blob may be a page, if somebody who knows its digest says so.
        Asked::Blob(_) if is_page && told.digest.is_none() => Err(Implausible::Page),
        Asked::Blob(digest) if told.size == Some(0) && *digest != Digest::of(digest.algorithm(), b"") => {
            Err(Implausible::Empty)
        }
        Asked::Blob(_) => Ok(()),
        _ if is_page => Err(Implausible::Page),
        Asked::List => body.map_or(Ok(()), json),
        Asked::Manifest(_) => {
            let size = told.size.max(body.map(|body| body.len() as u64));
            if size.is_some_and(|size| size > MAX_MANIFEST_SIZE) {
                return Err(Implausible::Large);
            }
            match declared.as_ref().filter(|declared| !declared.as_ref().starts_with("application/")) {
                Some(other) => Err(Implausible::Type(shown(other))),
                None => body.map_or(Ok(()), |body| manifest(declared, body)),
            }
        }
    }
}

/// Whether bytes look like JSON that we may read.
fn json(body: &[u8]) -> Result<(), Implausible> {
    match body.trim_ascii_start().first() {
        None => Err(Implausible::Empty),
        Some(b'<') => Err(Implausible::Page),
        Some(_) if is_too_deep(body) => Err(Implausible::Deep),
        Some(_) => Ok(()),
    }
}

/// Whether bytes can be a manifest of the type they are called by, or of any.
fn manifest(declared: Option<MediaType>, body: &[u8]) -> Result<(), Implausible> {
    json(body)?;
    let outline = Outline::read(body).ok_or(Implausible::Json)?;
    let (index, image) = (outline.manifests.given, outline.config.given || outline.layers.given);
    if index && image {
        return Err(Implausible::Both);
    }
    let Some(called) = declared.or_else(|| outline.inferred()) else {
        return Err(Implausible::Shape("a manifest".to_owned()));
    };
    let inside = outline.media_type.as_deref().map(MediaType::from);
    let kinds = [is_index, is_image, is_artifact];
    let kind = |media_type: &MediaType| kinds.iter().position(|is_of| is_of(media_type));
    let agrees = inside.as_ref().and_then(kind).is_none_or(|inside| kind(&called).is_none_or(|kind| kind == inside));
    let fits = match kind(&called) {
        Some(0) => outline.manifests.named && !image,
        // Of an image, too, more may be left out than clients can do with.
        Some(_) => !index && !outline.errors,
        None => called.as_ref().starts_with("application/") && !outline.errors,
    };
    if fits && agrees { Ok(()) } else { Err(Implausible::Shape(shown(&called))) }
}

/// A media type for people, whatever is in it.
fn shown(media_type: &MediaType) -> String {
    media_type.as_ref().escape_debug().take(127).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn every_kind_of_manifest_is_plausible_under_its_own_name_and_under_none() {
        let image = r#"{"schemaVersion":2,"config":{"digest":"x"},"layers":[]}"#;
        for (content_type, body) in [
            (IMAGE, image),
            (DOCKER_MANIFEST, image),
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", image),
            ("text/plain", image),
            ("application/json", image),
            ("binary/octet-stream", image),
            ("", image),
            (IMAGE, r#"{"Config":{},"LAYERS":[]}"#),
            (IMAGE, r#"{"config":{},"layers":null,"manifests":null}"#),
            (IMAGE, "{}"),
            (INDEX, r#"{"manifests":[]}"#),
            (INDEX, r#"{"manifests":null}"#),
            (INDEX, r#"{"manifests":[{"digest":"x"}],"layers":null}"#),
            (DOCKER_LIST, r#" {"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#),
            ("", r#"{"manifests":[]}"#),
            (ARTIFACT, r#"{"blobs":[]}"#),
            (ARTIFACT, r#"{"artifactType":"x"}"#),
            ("application/vnd.example.thing+json", "{}"),
            ("", r#"{"mediaType":"application/vnd.example.thing+json"}"#),
        ] {
            assert_eq!(of(content_type, body), Ok(()), "{content_type} {body}");
        }
    }

    #[test]
    fn what_cannot_be_a_manifest_is_none_whatever_it_is_called() {
        let nested =
            |deep: usize| format!(r#"{{"manifests":[],"x":{}{}}}"#, "[".repeat(deep - 1), "]".repeat(deep - 1));
        assert_eq!(of(INDEX, &nested(128)), Ok(()));
        for content_type in ["", IMAGE, INDEX, ARTIFACT, "text/plain", "application/vnd.example.thing+json"] {
            for (body, expected) in [
                ("", Implausible::Empty),
                (" \n", Implausible::Empty),
                ("<!DOCTYPE html><html></html>", Implausible::Page),
                ("\n<html>", Implausible::Page),
                ("no JSON", Implausible::Json),
                ("[]", Implausible::Json),
                ("{} {}", Implausible::Json),
                (r#"{"config":{},"layers":["#, Implausible::Json),
                (r#"{"config":{},"layers":[],"manifests":[]}"#, Implausible::Both),
                (r#"{"layers":[],"Manifests":[]}"#, Implausible::Both),
                (r#"{"manifests":[],"manifests":null,"config":{}}"#, Implausible::Both),
                (&nested(129), Implausible::Deep),
            ] {
                assert_eq!(of(content_type, body), Err(expected), "{content_type} {body}");
            }
            let errors = r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#;
            assert!(matches!(of(content_type, errors), Err(Implausible::Shape(_))), "{content_type}");
        }
        for (content_type, body) in [
            (IMAGE, r#"{"manifests":[]}"#),
            (IMAGE, r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{}}"#),
            (INDEX, r#"{"config":{},"layers":[]}"#),
            (INDEX, r#"{"manifests":[],"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#),
            (INDEX, "{}"),
            (ARTIFACT, r#"{"manifests":[]}"#),
            ("", "{}"),
            ("application/json", r#"{"status":"ok"}"#),
            ("", r#"{"mediaType":"text/html"}"#),
        ] {
            assert!(matches!(of(content_type, body), Err(Implausible::Shape(_))), "{content_type} {body}");
        }
        let image = r#"{"config":{},"layers":[]}"#;
        assert_eq!(of("text/html; charset=utf-8", image), Err(Implausible::Page));
        assert_eq!(of("image/png", image), Err(Implausible::Type("image/png".to_owned())));
        let large = format!("{image}{}", " ".repeat(8 << 20));
        assert_eq!(of(IMAGE, &large), Err(Implausible::Large));
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
        ] {
            assert_eq!(check(asked, &told, None).is_ok(), plausible, "{asked:?} {told:?}");
        }
    }

    #[test]
    fn a_list_is_no_page_and_not_nothing() {
        let list = |content_type, body: &str| {
            check(Asked::List, &Told { content_type, ..Told::default() }, Some(body.as_bytes())).is_ok()
        };
        assert!(list(None, r#"{"tags":[]}"#) && list(Some("text/plain"), r#"{"tags":[]}"#));
        assert!(!list(Some("text/html"), r#"{"tags":[]}"#) && !list(None, "<html>") && !list(None, ""));
    }
}
