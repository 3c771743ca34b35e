//! The honest answer: what a well-behaved registry says to a request. Scripts change it afterwards.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::json;

use super::content::{Content, Holding, StoredManifest};
use super::{Digest, Options, Recorded};

/// An answer before it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The body, or the selected part of it.
    pub body: Bytes,
    /// What the content is, for the count of bytes sent.
    pub digest: Option<Digest>,
    /// The whole content, when a range of it may be asked for.
    pub whole: Option<Bytes>,
    /// Where `body` begins in the content.
    pub offset: u64,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into(), digest: None, whole: None, offset: 0 }
            .with("content-type", content_type)
    }

    pub fn error(status: u16, code: &str) -> Answer {
        Answer::new(status, "application/json", error_body(code))
    }

    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| known != name);
    }

    /// Content that can be asked for in parts.
    pub fn content(bytes: Bytes, digest: Digest, media_type: &str, range: Option<&str>) -> Answer {
        let mut answer = Answer::new(200, media_type, bytes.clone())
            .with("docker-content-digest", &digest.to_string())
            .with("etag", &format!("\"{digest}\""))
            .with("accept-ranges", "bytes");
        answer.digest = Some(digest);
        answer.whole = Some(bytes);
        if let Some(range) = range {
            answer.narrow(range);
        }
        answer
    }

    fn narrow(&mut self, range: &str) {
        let size = self.body.len() as u64;
        match part(range, size) {
            Part::Ignored => {}
            Part::Unsatisfiable => {
                let content_range = format!("bytes */{size}");
                *self = Answer::error(416, "RANGE_INVALID").with("content-range", &content_range);
            }
            Part::Bytes(first, last) => {
                self.status = 206;
                self.set("content-range", &format!("bytes {first}-{last}/{size}"));
                self.body = self.body.slice(first as usize..=last as usize);
                self.offset = first;
            }
        }
    }
}

enum Part {
    Ignored,
    Unsatisfiable,
    Bytes(u64, u64),
}

/// One range; several are ignored, as some registries do.
fn part(header: &str, size: u64) -> Part {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|set| set.split_once('-')) else {
        return Part::Ignored;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), size.saturating_sub(1)),
        _ => return Part::Ignored,
    };
    if first >= size || first > last { Part::Unsatisfiable } else { Part::Bytes(first, last) }
}

/// The body of an error.
pub fn error_body(code: &str) -> Bytes {
    json!({"errors": [{"code": code, "message": "said the registry of the test", "detail": null}]}).to_string().into()
}

/// The code that a registry sends with a status.
pub fn code_for(status: u16) -> &'static str {
    match status {
        400 => "NAME_INVALID",
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        405 => "UNSUPPORTED",
        416 => "RANGE_INVALID",
        429 => "TOOMANYREQUESTS",
        503 => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}

/// Answers a request to `/v2/…` from the content.
pub fn honest(content: &Content, options: &Options, request: &Recorded) -> Answer {
    if request.method != "GET" && request.method != "HEAD" {
        return Answer::error(405, "UNSUPPORTED").with("allow", "GET, HEAD");
    }
    if request.path.trim_end_matches('/') == "/v2" {
        return Answer::new(200, "application/json", "{}");
    }
    let Some((name, keyword, rest)) = request.parts() else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let Some(holding) = content.repositories.get(name) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    match (keyword, rest) {
        ("manifests", reference) => manifest(holding, options, reference, &request.headers),
        ("blobs", digest) => blob(holding, digest, &request.headers),
        ("tags", "list") => tags(name, holding, options, request),
        ("referrers", digest) if options.referrers => referrers(holding, options, digest, request),
        _ => Answer::error(404, "NAME_UNKNOWN"),
    }
}

fn manifest(holding: &Holding, options: &Options, reference: &str, headers: &HeaderMap) -> Answer {
    let found = if reference.contains(':') {
        reference.parse::<Digest>().ok().and_then(|digest| Some((digest, holding.manifests.get(&digest)?)))
    } else {
        let candidates = holding.tags.get(reference).map(Vec::as_slice).unwrap_or_default();
        let manifests = || candidates.iter().filter_map(|digest| Some((*digest, holding.manifests.get(digest)?)));
        let accepted = manifests().find(|(_, manifest)| accepts(headers, &manifest.media_type));
        accepted.or_else(|| if options.strict_accept { None } else { manifests().next() })
    };
    match found {
        Some((digest, StoredManifest { bytes, media_type })) => {
            let mut answer = Answer::content(bytes.clone(), digest, media_type, None);
            answer.remove("accept-ranges");
            answer
        }
        None => Answer::error(404, "MANIFEST_UNKNOWN"),
    }
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut lines = headers.get_all("accept").iter().filter_map(|line| line.to_str().ok()).peekable();
    lines.peek().is_none()
        || lines.flat_map(|line| line.split(',')).any(|item| {
            let item = item.split(';').next().unwrap_or_default().trim();
            item == "*/*" || item == media_type
        })
}

fn blob(holding: &Holding, digest: &str, headers: &HeaderMap) -> Answer {
    let Ok(digest) = digest.parse::<Digest>() else {
        return Answer::error(400, "DIGEST_INVALID");
    };
    match holding.blobs.get(&digest) {
        Some(bytes) => {
            let range = headers.get("range").and_then(|range| range.to_str().ok());
            Answer::content(bytes.clone(), digest, "application/octet-stream", range)
        }
        None => Answer::error(404, "BLOB_UNKNOWN"),
    }
}

fn tags(name: &str, holding: &Holding, options: &Options, request: &Recorded) -> Answer {
    let wanted = request.query("n").map(|n| n.parse::<usize>());
    let wanted = match wanted {
        Some(Err(_)) => return Answer::error(400, "PAGINATION_NUMBER_INVALID"),
        Some(Ok(n)) if options.largest_page.is_some_and(|largest| n > largest) => {
            return Answer::error(400, "PAGINATION_NUMBER_INVALID");
        }
        Some(Ok(n)) => Some(n),
        None => options.largest_page,
    };
    let last = request.query("last");
    let after = |tag: &&String| last.as_ref().is_none_or(|last| *tag > last);
    let rest: Vec<&String> = holding.tags.keys().filter(after).collect();
    let page = &rest[..wanted.unwrap_or(usize::MAX).min(rest.len())];
    let body = json!({"name": name, "tags": page}).to_string();
    let answer = Answer::new(200, "application/json", body);
    match (page.last(), wanted) {
        (Some(last), Some(n)) if page.len() < rest.len() => {
            let link = format!("<{}/v2/{name}/tags/list?n={n}&last={last}>; rel=\"next\"", options.link_base);
            answer.with("link", &link)
        }
        _ => answer,
    }
}

fn referrers(holding: &Holding, options: &Options, digest: &str, request: &Recorded) -> Answer {
    let Ok(subject) = digest.parse::<Digest>() else {
        return Answer::error(400, "DIGEST_INVALID");
    };
    let wanted = request.query("artifactType").filter(|_| options.referrers_filter);
    let list: Vec<_> = holding
        .manifests
        .iter()
        .filter_map(|(digest, manifest)| referrer(digest, manifest, &subject))
        .filter(|descriptor| wanted.as_ref().is_none_or(|wanted| descriptor["artifactType"] == wanted.as_str()))
        .collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let body = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": list}).to_string();
    let answer = Answer::new(200, media_type, body);
    if wanted.is_some() { answer.with("oci-filters-applied", "artifactType") } else { answer }
}

fn referrer(digest: &Digest, manifest: &StoredManifest, subject: &Digest) -> Option<serde_json::Value> {
    let parsed: serde_json::Value = serde_json::from_slice(&manifest.bytes).ok()?;
    if parsed["subject"]["digest"] != subject.to_string().as_str() {
        return None;
    }
    let artifact_type = parsed.get("artifactType").or_else(|| parsed.get("config")?.get("mediaType"));
    Some(json!({
        "mediaType": manifest.media_type, "digest": digest.to_string(), "size": manifest.bytes.len(),
        "artifactType": artifact_type, "annotations": parsed.get("annotations"),
    }))
}
