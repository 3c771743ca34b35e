//! Headers that cannot be read: they change nothing, and least of all make a hit a question to upstream.

use scripted_registry::{Registry, client, noise};

use crate::support::mirror::TestMirror;

/// What is no request for anything else: nonsense, and what this mirror does not look at.
const ODD: [(&str, &str); 34] = [
    ("Accept-Encoding", "\u{fffd};q=NaN,,;=,gzip;q=-1"),
    ("Accept-Encoding", "zstd, *;q=0"),
    ("Accept-Language", ",,,;"),
    ("Accept-Charset", "utf-8;q=2"),
    ("Authorization", "Bearer made-up"),
    ("Authorization", "Basic !!!"),
    ("Authorization", ""),
    ("Authorization", "Negotiate"),
    ("Cache-Control", "no-cache"),
    ("Cache-Control", "max-age=0, no-store, =,\"\""),
    ("Pragma", "no-cache"),
    ("Connection", "keep-alive, , \u{e9}"),
    ("Content-Length", "0"),
    ("Cookie", "a=\"; b"),
    ("Date", "yesterday"),
    ("Expect", "the-spanish-inquisition"),
    ("Forwarded", "for=\"[::1\";;proto"),
    ("If-Match", "\"other\""),
    ("If-Modified-Since", "yesterday"),
    ("If-Modified-Since", "Sat, 28 Nov 2099 12:00:00 GMT"),
    ("If-None-Match", "unquoted, \"open"),
    ("If-Range", "yesterday"),
    ("If-Unmodified-Since", "0"),
    ("Max-Forwards", "0"),
    ("Origin", "null"),
    ("Range", "bytes=a-b"),
    ("Range", "bytes=-"),
    ("Range", "lines=1-2"),
    ("Range", "bytes=18446744073709551616-"),
    ("TE", "trailers, \u{e9};q=x"),
    ("Trailer", "Content-Length"),
    ("Via", "1.1 loop, 1.1 loop"),
    ("X-Forwarded-For", "unknown, [::1"),
    ("X-Http-Method-Override", "DELETE"),
];

#[tokio::test]
async fn a_header_that_cannot_be_read_makes_no_hit_a_question_to_upstream() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 100_000)]);
    let mirror = TestMirror::of(&registry).await;
    let (manifest, layer) = (image.manifest.digest, image.layers[0].digest);
    let paths = [
        "/v2/library/app/manifests/1".to_owned(),
        format!("/v2/library/app/manifests/{manifest}"),
        format!("/v2/library/app/blobs/{layer}"),
        format!("/v2/library/app/blobs/{}", image.config.digest),
        "/v2/library/app/tags/list".to_owned(),
        format!("/v2/library/app/referrers/{manifest}"),
    ];
    let mut honest = Vec::new();
    for path in &paths {
        mirror.get(path).await;
        mirror.settled().await;
        let answer = mirror.get(path).await;
        honest.push((answer.status, answer.body));
    }
    registry.forget_requests();
    for (name, value) in ODD {
        for (path, (status, body)) in paths.iter().zip(&honest) {
            for _ in 0..2 {
                let answer = mirror.get_with(path, &[(name, value)]).await;
                let is_same = answer.status == *status && answer.body == *body && answer.complete;
                // Nonsense may also be refused.
                assert!(is_same || [400, 412, 416].contains(&answer.status), "{name}: {value} for {path}: {answer:?}");
            }
            let head = client::head(mirror.address, path, &[(name, value)]).await;
            assert!([*status, 400, 412, 416].contains(&head.status), "HEAD {name}: {value} for {path}: {head:?}");
        }
    }
    assert_eq!(registry.requests().len(), 0, "{:?}", registry.requests());
}
