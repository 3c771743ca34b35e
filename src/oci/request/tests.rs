//! What a path and a query come to, and what is refused.

use super::*;
use crate::oci::ErrorCode;
use crate::oci::digest::DigestError;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn get(path_and_query: &str) -> Result<Request, RequestError> {
    let (path, query) = path_and_query.split_once('?').map_or((path_and_query, None), |(p, q)| (p, Some(q)));
    Request::parse(&Method::GET, path, query)
}

fn target(prefix: Option<&str>, namespace: Option<&str>, repository: &str) -> Target {
    let registry = |name: Option<&str>| name.map(|name| name.parse().expect("a registry"));
    let repository = RepositoryPath::parse(repository).expect("a repository");
    Target { prefix: registry(prefix), namespace: registry(namespace), repository }
}

fn by_tag(target: Target, tag: &str) -> Request {
    Request::Manifest { target, reference: Reference::Tag(tag.parse().expect("a tag")) }
}

#[test]
fn every_form_of_request_is_parsed_and_prints_as_itself() {
    let digest: Digest = DIGEST.parse().expect("a digest");
    let in_app = || target(None, None, "library/app");
    for (path, expected) in [
        ("/v2/library/app/manifests/1.0", by_tag(in_app(), "1.0")),
        (
            &*format!("/v2/library/app/manifests/{DIGEST}"),
            Request::Manifest { target: in_app(), reference: Reference::Digest(digest) },
        ),
        (&*format!("/v2/library/app/blobs/{DIGEST}"), Request::Blob { target: in_app(), digest }),
        ("/v2/library/app/tags/list", Request::Tags { target: in_app(), page: Page::default() }),
        (
            "/v2/library/app/tags/list?n=10&last=a%26b",
            Request::Tags { target: in_app(), page: Page { n: Some(10), last: Some("a&b".to_owned()), cursor: None } },
        ),
        (
            "/v2/library/app/tags/list?cursor=next_page%3Dx%26n%3D5",
            Request::Tags {
                target: in_app(),
                page: Page { cursor: "next_page=x&n=5".parse().ok(), ..Page::default() },
            },
        ),
        (
            &*format!("/v2/library/app/referrers/{DIGEST}"),
            Request::Referrers { target: in_app(), digest, artifact_type: None, cursor: None },
        ),
        (
            &*format!("/v2/library/app/referrers/{DIGEST}?artifactType=application%2Fx%2Bjson"),
            Request::Referrers {
                target: in_app(),
                digest,
                artifact_type: Some("application/x+json".to_owned()),
                cursor: None,
            },
        ),
        ("/ghcr.io/v2/owner/app/manifests/1", by_tag(target(Some("ghcr.io"), None, "owner/app"), "1")),
        ("/r.example:5000/v2/app/manifests/1", by_tag(target(Some("r.example:5000"), None, "app"), "1")),
        ("/v2/r.example:5000/a/b/manifests/1", by_tag(target(None, None, "r.example:5000/a/b"), "1")),
        ("/v2/app/manifests/1?ns=quay.io", by_tag(target(None, Some("quay.io"), "app"), "1")),
        ("/v2/app/manifests/1?ns=r.example%3A5000", by_tag(target(None, Some("r.example:5000"), "app"), "1")),
        ("/v2/app/manifests/sha256-abc.sig", by_tag(target(None, None, "app"), "sha256-abc.sig")),
    ] {
        let parsed = get(path);
        assert_eq!(parsed, Ok(expected), "{path}");
        assert_eq!(parsed.map(|request| request.path_and_query()).as_deref(), Ok(path));
    }
}

#[test]
fn a_ping_is_a_ping_with_and_without_slash_and_prefix() {
    for path in ["/v2", "/v2/", "/ghcr.io/v2", "/ghcr.io/v2/", "/v2/?ns=docker.io"] {
        assert_eq!(get(path), Ok(Request::Ping), "{path}");
    }
    assert_eq!(Request::Ping.path_and_query(), "/v2/");
    assert_eq!(Request::Ping.target(), None);
}

#[test]
fn names_may_contain_the_keywords_because_the_last_one_splits() {
    for (path, name, tag) in [
        ("/v2/manifests/blobs/manifests/tags/list/manifests/latest", "manifests/blobs/manifests/tags/list", "latest"),
        ("/v2/v2/manifests/manifests", "v2", "manifests"),
        ("/v2/tags/manifests/list", "tags", "list"),
        ("/v2/referrers/blobs/manifests/blobs", "referrers/blobs", "blobs"),
    ] {
        assert_eq!(get(path), Ok(by_tag(target(None, None, name), tag)), "{path}");
    }
    let tags = Request::Tags { target: target(None, None, "a/tags/list"), page: Page::default() };
    assert_eq!(get("/v2/a/tags/list/tags/list"), Ok(tags));
}

#[test]
fn a_namespace_that_is_doubled_or_no_host_is_refused() {
    for (query, expected) in [
        ("ns=docker.io&ns=docker.io", RequestError::Contradiction),
        ("ns=docker.io&ns=quay.io", RequestError::Contradiction),
        ("ns=", RequestError::Registry),
        ("ns", RequestError::Registry),
        ("ns=..", RequestError::Registry),
        ("ns=a%2Fb", RequestError::Registry),
        ("ns=user%40a", RequestError::Registry),
        ("ns=https%3A%2F%2Fa", RequestError::Registry),
        ("ns=a%00", RequestError::Registry),
        ("ns=%FF", RequestError::Registry),
        ("ns=r.example%3A05000", RequestError::Registry),
    ] {
        assert_eq!(get(&format!("/v2/app/manifests/1?{query}")), Err(expected), "{query}");
    }
}

#[test]
fn other_parameters_are_ignored() {
    let expected = by_tag(target(None, Some("quay.io"), "app"), "1");
    assert_eq!(get("/v2/app/manifests/1?x=1&ns=quay.io&n=x&last=&&=&artifactType=y"), Ok(expected));
}

#[test]
fn a_page_is_a_number_of_tags_after_one() {
    for query in ["n=-1", "n=x", "n=", "n=1.5", "n=99999999999999999999"] {
        assert_eq!(get(&format!("/v2/app/tags/list?{query}")), Err(RequestError::Page), "{query}");
    }
    let page = Page { n: Some(0), last: Some(String::new()), cursor: None };
    let expected = Request::Tags { target: target(None, None, "app"), page };
    assert_eq!(get("/v2/app/tags/list?n=0&last="), Ok(expected));
    assert_eq!(get("/v2/app/tags/list?cursor=a%23b"), Err(RequestError::Page));
}

#[test]
fn several_filters_are_none() {
    let path = format!("/v2/app/referrers/{DIGEST}?artifactType=a&artifactType=b");
    assert!(matches!(get(&path), Ok(Request::Referrers { artifact_type: None, .. })));
}

#[test]
fn an_illegal_reference_is_a_missing_manifest_and_any_other_illegal_digest_a_bad_request() {
    for tag in [".INVALID_MANIFEST_NAME", "", "a%20b", "-a", "a@b", &"x".repeat(129)] {
        let error = get(&format!("/v2/app/manifests/{tag}")).expect_err(tag);
        assert_eq!((&error, error.code()), (&RequestError::Tag, ErrorCode::ManifestUnknown), "{tag}");
    }
    for (digest, expected) in [
        ("sha256:totallywrong", DigestError::InvalidHash),
        ("sha256:", DigestError::InvalidHash),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::UnknownAlgorithm),
        (":abc", DigestError::Malformed),
        (&DIGEST.to_uppercase(), DigestError::UnknownAlgorithm),
        (&DIGEST.replace('e', "E"), DigestError::InvalidHash),
    ] {
        for keyword in ["blobs", "referrers"] {
            let error = get(&format!("/v2/app/{keyword}/{digest}")).expect_err(digest);
            assert_eq!((&error, error.code()), (&RequestError::Digest(expected), ErrorCode::DigestInvalid));
        }
        let error = get(&format!("/v2/app/manifests/{digest}")).expect_err(digest);
        assert_eq!((&error, error.code()), (&RequestError::ManifestDigest(expected), ErrorCode::ManifestUnknown));
    }
    assert_eq!(get("/v2/app/blobs/latest"), Err(RequestError::Digest(DigestError::Malformed)));
}

#[test]
fn paths_that_could_mean_something_else_to_another_reader_are_refused() {
    let long = format!("/v2/{}/manifests/1", "a/".repeat(5000));
    let long_name = format!("/v2/{}/manifests/1", "a".repeat(10_000));
    let long_prefix = format!("/{}/v2/app/manifests/1", "a".repeat(10_000));
    for (path, expected) in [
        ("/v2/../manifests/1", RequestError::Name),
        ("/v2/a/../b/manifests/1", RequestError::Name),
        ("/v2/./manifests/1", RequestError::Name),
        ("/v2//manifests/1", RequestError::Name),
        ("/v2/a//b/manifests/1", RequestError::Name),
        ("/v2/a%2Fb/manifests/1", RequestError::Slash),
        ("/v2/%2e%2e/manifests/1", RequestError::Name),
        ("/v2/a\\b/manifests/1", RequestError::Name),
        ("/v2/a\0b/manifests/1", RequestError::Name),
        ("/v2/ä/manifests/1", RequestError::Name),
        ("/v2/_tags/manifests/1", RequestError::Name),
        ("/v2/ghcr.io/../app/manifests/1", RequestError::Name),
        ("/v2/[::1]/../app/manifests/1", RequestError::Name),
        (&*long, RequestError::Name),
        (&*long_name, RequestError::Name),
        (&*long_prefix, RequestError::Registry),
        ("/../v2/app/manifests/1", RequestError::Registry),
        ("//v2/app/manifests/1", RequestError::Registry),
        ("/%2e/v2/app/manifests/1", RequestError::Registry),
        ("/v2/app/manifests/..", RequestError::Tag),
        ("/v2/app/manifests/a%2f..%2fb", RequestError::Slash),
        ("/v2/app%2fmanifests/1", RequestError::Slash),
        ("/v2/quay.io%2f_catalog", RequestError::Slash),
        ("/quay.io/v2/v2%2F", RequestError::Slash),
        ("/a%2fb/v2/app/manifests/1", RequestError::Registry),
        ("/v2/app/manifests/a%252Fb", RequestError::Tag),
        ("/v2/app/manifests/a\0", RequestError::Tag),
        ("/v2/app/manifests/1/", RequestError::NotFound),
    ] {
        assert_eq!(get(path), Err(expected), "{path:.80}");
    }
}

#[test]
fn what_is_not_part_of_the_pull_side_is_not_found() {
    for path in [
        "",
        "/",
        "/v1/",
        "/v2x",
        "/v",
        "v2/",
        "/a/b/v2/app/manifests/1",
        "/v2/manifests/1",
        "/v2/app",
        "/v2/app/tags",
        "/v2/app/tags/other",
        "/v2/app/uploads/1",
        "/v2/app/manifest/1",
        "/v2//",
        "/metrics",
        "/ghcr.io/v3/app/manifests/1",
    ] {
        let error = get(path).expect_err(path);
        assert_eq!((&error, error.code()), (&RequestError::NotFound, ErrorCode::NameUnknown), "{path}");
    }
}

#[test]
fn only_get_and_head_are_served_and_nothing_else_of_a_write_is_looked_at() {
    let head = Request::parse(&Method::HEAD, "/v2/app/manifests/1", None);
    assert_eq!(head, get("/v2/app/manifests/1"));
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
        for path in ["/v2/app/blobs/uploads/", "/v2/", "/..", ""] {
            let error = Request::parse(&method, path, Some("ns=a&ns=b")).expect_err("a write");
            assert_eq!((&error, error.code()), (&RequestError::Method, ErrorCode::Unsupported));
        }
    }
}

#[test]
fn a_digest_or_tag_is_percent_decoded_once_and_nothing_else_is() {
    let digest: Digest = DIGEST.parse().expect("a digest");
    let in_app = || target(None, None, "app");
    let by_digest = Request::Manifest { target: in_app(), reference: Reference::Digest(digest) };
    let encoded = [DIGEST.replace(':', "%3A"), DIGEST.replace(':', "%3a"), DIGEST.replace('e', "%65")];
    for encoded in &encoded {
        assert_eq!(get(&format!("/v2/app/manifests/{encoded}")), Ok(by_digest.clone()), "{encoded}");
        let blob = Request::Blob { target: in_app(), digest };
        assert_eq!(get(&format!("/v2/app/blobs/{encoded}")), Ok(blob), "{encoded}");
        let referrers = get(&format!("/v2/app/referrers/{encoded}"));
        assert!(matches!(referrers, Ok(Request::Referrers { digest: found, .. }) if found == digest), "{encoded}");
    }
    assert_eq!(get("/v2/app/manifests/1%2E0%5Fa"), Ok(by_tag(in_app(), "1.0_a")));
    for (path, expected) in [
        (format!("/v2/app/blobs/{}", DIGEST.replace(':', "%253A")), RequestError::Digest(DigestError::Malformed)),
        (format!("/v2/app/blobs/{}", DIGEST.replace(':', "%2F")), RequestError::Slash),
        ("/v2/app/manifests/1%2F0".to_owned(), RequestError::Slash),
        ("/v2/app/manifests/1%252E0".to_owned(), RequestError::Tag),
        ("/v2/app/manifests/1%00".to_owned(), RequestError::Tag),
        ("/v2/app/manifests/%FF".to_owned(), RequestError::Tag),
        ("/v2/app/manifests/%".to_owned(), RequestError::Tag),
        ("/v2/app/tags%2Flist".to_owned(), RequestError::Slash),
        ("/v2/a%2Fb/manifests/1".to_owned(), RequestError::Slash),
        ("/v2/%61/manifests/1".to_owned(), RequestError::Name),
    ] {
        assert_eq!(get(&path), Err(expected), "{path}");
    }
}

#[test]
fn hosts_are_named_in_any_case() {
    for path in ["/v2/app/manifests/1?ns=QUAY.IO", "/v2/app/manifests/1?ns=Quay.io"] {
        assert_eq!(get(path), Ok(by_tag(target(None, Some("quay.io"), "app"), "1")), "{path}");
    }
    assert_eq!(get("/QUAY.IO/v2/app/manifests/1"), Ok(by_tag(target(Some("quay.io"), None, "app"), "1")));
    let below = get("/v2/QUAY.IO/app/manifests/1").expect("a request");
    let path = below.target().map(|target| target.repository.clone()).expect("a target");
    assert_eq!(path.registry, "quay.io".parse().ok());
    assert_eq!(path.below_registry, "app".parse().ok());
}

#[test]
fn a_catalog_and_a_doubled_prefix_are_not_found_and_say_why() {
    for (path, expected) in [
        ("/v2/_catalog", RequestError::Catalog),
        ("/v2/_catalog?n=100", RequestError::Catalog),
        ("/v2/quay.io/_catalog", RequestError::Catalog),
        ("/quay.io/v2/_catalog", RequestError::Catalog),
        ("/v2/v2/", RequestError::Doubled),
        ("/v2/v2", RequestError::Doubled),
        ("/quay.io/v2/v2/", RequestError::Doubled),
    ] {
        assert_eq!(get(path), Err(expected.clone()), "{path}");
        assert_eq!(expected.code().status(), 404);
    }
    assert_eq!(get("/v2/app/manifests/_catalog"), Ok(by_tag(target(None, None, "app"), "_catalog")));
    let doubled = get("/v2/v2/library/app/manifests/1").expect("v2 may be a part of a name");
    assert!(doubled.target().is_some_and(Target::may_be_doubled));
}
