//! Whether an answer can be what was asked for. Pure, and decided before anything of an answer is kept or
//! passed on: a captive portal, a proxy's page and a registry that lies all say 200.
//!
//! One decision for everything that becomes a fact here: manifests by tag and by digest, the heads that
//! memberships rest on, lists, what is imported. Sources: distribution-spec 1.1.1; image-spec 1.1.1;
//! GHSA-mc8v-mgrf-8f4m, of documents that are an index to one reader and an image to the next; RFC 9457, of
//! errors. What is none of the types that we know is one of the vendor tree, and does not look like an error.

#[cfg(test)]
mod tests;

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

/// Whether a blob begins like a page for people: it may be one, and more often somebody on the way has answered.
pub fn begins_like_a_page(beginning: &[u8]) -> bool {
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    let is = |tag: &&[u8]| text.get(..tag.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(tag));
    [b"<!doctype html".as_slice(), b"<html"].iter().any(is)
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
    let named = [config, layers, manifests, blobs].iter().all(|entries| !entries.odd);
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
    let is_image = layers.given || config.given && !config.odd;
    outline.tells(&["architecture", "os", "rootfs"]) && !is_image
}

/// A media type for people, whatever is in it.
fn shown(media_type: &MediaType) -> String {
    media_type.as_ref().escape_debug().take(127).collect()
}
