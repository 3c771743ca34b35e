//! Whether an answer can be what was asked for. Pure, and decided before anything of an answer is kept or
//! passed on: a captive portal, a proxy's page and a registry that lies all say 200.
//!
//! One decision for everything that becomes a fact here: manifests by tag and by digest, the heads that
//! memberships rest on, lists, what is imported. Sources: distribution-spec 1.1.1; image-spec 1.1.1;
//! GHSA-mc8v-mgrf-8f4m, of documents that are an index to one reader and an image to the next; RFC 9457, of
//! errors. What is none of the types that we know is one of the vendor tree, and does not look like an error.

use super::descriptor::{DOCKER_SCHEMA1, MediaType, is_blob};
use super::digest::Digest;
use super::manifest::{
    MAX_MANIFEST_SIZE, MOST_NESTED, Outline, declared_type, is_artifact, is_first_schema, is_image, is_index,
    is_too_deep,
};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// A manifest, by this digest or by tag.
    Manifest(Option<&'a Digest>),
    /// A blob.
    Blob(&'a Digest),
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
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
        Asked::Tags | Asked::Referrers => None,
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
        Asked::Tags => body.map_or(Ok(()), json),
        Asked::Referrers => body.map_or(Ok(()), |body| manifest(Some(MediaType::ImageIndex), body)),
        Asked::Manifest(_) => {
            let size = told.size.max(body.map(|body| body.len() as u64));
            if size.is_some_and(|size| size > MAX_MANIFEST_SIZE) {
                return Err(Implausible::Large);
            }
            match declared.as_ref().filter(|declared| !may_be_of_manifest(declared)) {
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

/// Whether a manifest may be called so. All that we know are of the vendor tree.
fn may_be_of_manifest(media_type: &MediaType) -> bool {
    media_type.as_ref().starts_with("application/vnd.") && !is_blob(media_type)
}

/// What we know of manifests, in the order of [`KINDS`].
const INDEX: usize = 0;
const IMAGE: usize = 1;
const ARTIFACT: usize = 2;
const FIRST_SCHEMA: usize = 3;
const KINDS: [fn(&MediaType) -> bool; 4] =
    [is_index, is_image, is_artifact, |media_type| is_first_schema(Some(media_type.as_ref()), None)];

/// Whether bytes can be a manifest of the type they are called by, or of any.
fn manifest(declared: Option<MediaType>, body: &[u8]) -> Result<(), Implausible> {
    json(body)?;
    let outline = Outline::parse(body).ok_or(Implausible::Json)?;
    let Outline { config, layers, manifests, blobs, subject, .. } = &outline;
    let image = config.given || layers.given;
    if manifests.given && image {
        return Err(Implausible::Both);
    }
    let first = (declared.is_none() && outline.schema_version == Some(1)).then(|| MediaType::from(DOCKER_SCHEMA1));
    let Some(called) = declared.or(first).or_else(|| outline.inferred()) else {
        return Err(Implausible::Shape("a manifest".to_owned()));
    };
    let kind = |media_type: &MediaType| KINDS.iter().position(|is_of| is_of(media_type));
    let inside = declared_type(outline.media_type.as_deref());
    let agrees = inside.is_none_or(|inside| match (kind(&inside), kind(&called)) {
        (Some(inside), Some(called)) => inside == called,
        _ => may_be_of_manifest(&inside),
    });
    let version = if kind(&called) == Some(FIRST_SCHEMA) { 1 } else { 2 };
    let of_version = kind(&called).is_none() || outline.schema_version.is_none_or(|given| given == version);
    let named = [config, layers, manifests, blobs].iter().all(|entries| !entries.nameless);
    let fits = match kind(&called) {
        Some(INDEX) => manifests.named && !image && named,
        // Both are required; who writes Go may say null for an empty list of layers.
        Some(IMAGE) => config.given && layers.named && !manifests.given && named,
        Some(ARTIFACT) => {
            let says_what = outline.tells(&["artifacttype"]) || blobs.given || subject.given || config.given;
            says_what && !manifests.given && named
        }
        Some(_) => outline.tells(&["fslayers", "history"]),
        None => may_be_of_manifest(&called) && !is_error(&outline) && !is_configuration(&outline),
    };
    let fits = fits && agrees && of_version && !outline.tells(&["errors"]);
    if fits { Ok(()) } else { Err(Implausible::Shape(shown(&called))) }
}

/// Whether it looks like what services say in place of an answer.
fn is_error(outline: &Outline) -> bool {
    outline.tells(&["errors", "error", "message", "detail"])
        || (outline.tells(&["title"]) && outline.tells(&["status"]))
}

/// Whether it looks like the configuration of an image.
fn is_configuration(outline: &Outline) -> bool {
    let Outline { config, layers, .. } = outline;
    let is_image = layers.given || config.given && !config.nameless;
    outline.tells(&["architecture", "os", "rootfs"]) && !is_image
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

    /// The same with `N` for a descriptor that names a digest.
    fn named(json: &str) -> String {
        json.replace('N', &format!(r#"{{"digest":"sha256:{:064}"}}"#, 0))
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
            (IMAGE, r#"{"config":N,"layers":null,"manifests":null,"schemaVersion":null}"#),
            (IMAGE, r#"{"config":N,"layers":[N],"architecture":"amd64","mediaType":"application/json"}"#),
            (IMAGE, r#"{"config":N,"layers":[],"mediaType":"application/vnd.example.thing+json"}"#),
            (INDEX, r#"{"schemaVersion":2,"manifests":[N]}"#),
            (INDEX, r#"{"manifests":null}"#),
            (INDEX, r#"{"manifests":[N],"layers":null}"#),
            (DOCKER_LIST, r#" {"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#),
            ("", r#"{"manifests":[]}"#),
            (ARTIFACT, r#"{"blobs":[N]}"#),
            (ARTIFACT, r#"{"artifactType":"x"}"#),
            (ARTIFACT, r#"{"subject":N}"#),
            (ARTIFACT, r#"{"config":N}"#),
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
        let nested =
            |deep: usize| format!(r#"{{"manifests":[],"x":{}{}}}"#, "[".repeat(deep - 1), "]".repeat(deep - 1));
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
            (IMAGE, r#"{"config":N,"layers":[{}],"layers":[N]}"#),
            (IMAGE, r#"{"config":N}"#),
            (IMAGE, r#"{"layers":[N]}"#),
            (IMAGE, r#"{"config":null,"layers":[N]}"#),
            (IMAGE, r#"{"config":null,"layers":null}"#),
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
}
