//! The page: three files in the binary, shown to whoever asks. They hold nothing of this mirror; what the page
//! shows it gets from `/api/v1`, under the rules that hold there.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{Body, api, respond};
use crate::oci::{Algorithm, Digest};

/// Nothing from outside, nothing inline, in no frame.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

struct File {
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const FILES: [File; 3] = [
    File { path: "/", media_type: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") },
    File { path: "/page.css", media_type: "text/css; charset=utf-8", bytes: include_bytes!("page/page.css") },
    File { path: "/page.js", media_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/page.js") },
];

/// Browsers ask for it unasked; there is none.
const ICON: &str = "/favicon.ico";

/// Whether this is one of its files.
pub(super) fn has(path: &str) -> bool {
    path == ICON || FILES.iter().any(|file| file.path == path)
}

/// The file, unless the client has it already.
pub(super) fn answer<B>(request: &Request<B>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return api::not_allowed("GET, HEAD");
    }
    let mut answer = match FILES.iter().find(|file| file.path == request.uri().path()) {
        Some(file) => shown(file, request.headers()),
        None => respond(StatusCode::NO_CONTENT, "image/x-icon", Bytes::new()),
    };
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    answer
}

fn shown(file: &File, asked: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", Digest::of(Algorithm::Sha256, file.bytes).hex());
    let known =
        asked.get_all(header::IF_NONE_MATCH).iter().flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    let known = known.map(|known| known.trim_ascii()).map(|known| known.strip_prefix(b"W/").unwrap_or(known));
    let mut answer = match known.into_iter().any(|known| known == tag.as_bytes() || known == b"*") {
        true => respond(StatusCode::NOT_MODIFIED, file.media_type, Bytes::new()),
        false => respond(StatusCode::OK, file.media_type, file.bytes),
    };
    let headers = answer.headers_mut();
    // It may be kept, and is asked about each time: another version has other files under the same names.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn get(path: &str, known: &str) -> Response<Body> {
        answer(&Request::get(path).header("if-none-match", known).body(()).expect("a request"))
    }

    #[tokio::test]
    async fn its_files_have_a_tag_and_the_policy_and_ask_for_nothing_from_outside() {
        for file in &FILES {
            let answer = get(file.path, "\"other\"");
            let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
            assert_eq!((answer.status(), header("content-type")), (StatusCode::OK, file.media_type.to_owned()));
            assert_eq!(header("content-security-policy"), POLICY);
            assert_eq!(
                (header("x-content-type-options"), header("referrer-policy")),
                ("nosniff".to_owned(), "no-referrer".to_owned())
            );
            let tag = header("etag");
            for known in [tag.clone(), format!("W/{tag}"), format!("\"a\", {tag}"), "*".to_owned()] {
                assert_eq!(get(file.path, &known).status(), StatusCode::NOT_MODIFIED, "{known}");
            }
            let body = answer.into_body().collect().await.expect("in memory").to_bytes();
            let text = std::str::from_utf8(&body).expect("text");
            assert!(
                !text.contains("innerHTML") && !text.contains("style=") && !text.contains("onclick="),
                "{}",
                file.path
            );
            assert!(!text.contains("://"), "{}", file.path);
        }
        assert_eq!(get(ICON, "").status(), StatusCode::NO_CONTENT);
        let posted = answer(&Request::post("/").body(()).expect("a request"));
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
