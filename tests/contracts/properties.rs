//! Properties of the vocabulary: nothing from the network panics it, what is printed is parsed back,
//! and ranges never leave the content.

use http::Method;
use proptest::prelude::*;
use registry_mirror::oci::challenge::{self, Challenge};
use registry_mirror::oci::link;
use registry_mirror::oci::{
    AcceptSet, Algorithm, ContentRange, Digest, Manifest, Page, RangeHeader, Reference, RegistryName, Repository,
    RepositoryPath, Request, Selection, Tag, Target,
};

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}",
        1 => prop::sample::select(vec!["manifests", "blobs", "tags", "list", "referrers", "v2", "localhost"])
            .prop_map(str::to_owned),
    ]
}

fn repository() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..5).prop_map(|components| components.join("/"))
}

/// Never `v2`: in front of `/v2/` that is not a prefix but the start of the path itself.
fn registry() -> impl Strategy<Value = RegistryName> {
    let host = prop_oneof![
        "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?(\\.[a-z0-9]{1,5}){0,2}",
        Just("localhost".to_owned()),
        Just("[::1]".to_owned()),
        Just("127.0.0.1".to_owned()),
    ];
    (host, prop::option::of(1..=u16::MAX))
        .prop_map(|(host, port)| port.map_or(host.clone(), |port| format!("{host}:{port}")))
        .prop_filter("the path itself", |name| name != "v2")
        .prop_map(|name| name.parse().expect("made by the grammar"))
}

fn digest() -> impl Strategy<Value = Digest> {
    (any::<bool>(), any::<[u8; 8]>())
        .prop_map(|(long, bytes)| Digest::of(if long { Algorithm::Sha512 } else { Algorithm::Sha256 }, &bytes))
}

fn tag() -> impl Strategy<Value = Tag> {
    "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}".prop_map(|tag| tag.parse().expect("made by the grammar"))
}

fn target() -> impl Strategy<Value = Target> {
    let below = prop_oneof![
        repository(),
        (registry(), repository())
            .prop_filter("shaped like a registry", |(registry, _)| {
                registry.as_str().contains(['.', ':']) || registry.as_str() == "localhost"
            })
            .prop_map(|(registry, repository)| format!("{registry}/{repository}")),
    ];
    (prop::option::of(registry()), prop::option::of(registry()), below).prop_map(|(prefix, namespace, path)| Target {
        prefix,
        namespace,
        repository: RepositoryPath::parse(&path).expect("made by the grammar"),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let cursor = || prop::option::of("[!-\"$-~]{1,40}".prop_map(|query| query.parse().expect("made by the grammar")));
    let page = (any::<Option<u32>>(), prop::option::of(any::<String>()), cursor()).prop_map(|(n, last, cursor)| Page {
        n,
        last,
        cursor,
    });
    prop_oneof![
        Just(Request::Ping),
        (target(), tag()).prop_map(|(target, tag)| Request::Manifest { target, reference: Reference::Tag(tag) }),
        (target(), digest())
            .prop_map(|(target, digest)| Request::Manifest { target, reference: Reference::Digest(digest) }),
        (target(), digest()).prop_map(|(target, digest)| Request::Blob { target, digest }),
        (target(), page).prop_map(|(target, page)| Request::Tags { target, page }),
        (target(), digest(), prop::option::of(any::<String>()), cursor()).prop_map(
            |(target, digest, artifact_type, cursor)| Request::Referrers { target, digest, artifact_type, cursor }
        ),
    ]
}

/// Paths that look like requests, with something odd in them.
fn odd_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("v2".to_owned()),
        Just("..".to_owned()),
        Just(String::new()),
        Just("%2f".to_owned()),
        Just("tags".to_owned()),
        Just("list".to_owned()),
        Just("manifests".to_owned()),
        Just("blobs".to_owned()),
        Just("ghcr.io".to_owned()),
        Just("r.example:5000".to_owned()),
        Just("sha256:00".to_owned()),
        component(),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.join("/")))
}

proptest! {
    #[test]
    fn a_request_that_is_printed_is_parsed_back_to_itself(request in request()) {
        let printed = request.path_and_query();
        let (path, query) = printed.split_once('?').map_or((&*printed, None), |(path, query)| (path, Some(query)));
        prop_assert!(path.parse::<http::uri::PathAndQuery>().is_ok());
        prop_assert_eq!(Request::parse(&Method::GET, path, query), Ok(request));
    }

    #[test]
    fn no_path_and_no_query_panics(path in prop_oneof![any::<String>(), odd_path()], query in any::<Option<String>>()) {
        if let Ok(request) = Request::parse(&Method::GET, &path, query.as_deref()) {
            let printed = request.path_and_query();
            let (path, query) = printed.split_once('?').map_or((&*printed, None), |(path, query)| (path, Some(query)));
            prop_assert_eq!(Request::parse(&Method::GET, path, query), Ok(request));
        }
    }

    #[test]
    fn a_name_that_is_accepted_is_safe_as_a_path_below_a_folder(text in prop_oneof![any::<String>(), odd_path(), repository()]) {
        let safe = |name: &str| {
            name.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\\', '%']))
        };
        for text in [text.as_str(), text.trim_start_matches('/')] {
            prop_assert!(text.parse::<Repository>().map_or(true, |name| safe(name.as_str()) && !text.starts_with('_')));
            prop_assert!(text.parse::<RegistryName>().map_or(true, |name| safe(name.as_str()) && !text.contains('/')));
            prop_assert!(text.parse::<Tag>().map_or(true, |name| safe(name.as_str()) && !text.contains('/')));
            prop_assert!(text.parse::<Digest>().map_or(true, |digest| digest.to_string() == text));
        }
    }

    #[test]
    fn a_digest_that_is_printed_is_parsed_back_to_itself(digest in digest()) {
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn ranges_select_what_counting_byte_by_byte_selects_and_no_byte_twice(
        size in 0_u64..40, ranges in prop::collection::vec((0_u64..50, 0_u64..50, 0..3), 1..5),
    ) {
        let wants = |at: u64| ranges.iter().any(|(first, last, shape)| match shape {
            0 => at >= *first,
            1 => at >= *first && at <= *last,
            _ => size - at <= *last,
        });
        let header: Vec<_> = ranges.iter().map(|(first, last, shape)| match shape {
            0 => format!("{first}-"),
            1 => format!("{first}-{last}"),
            _ => format!("-{last}"),
        }).collect();
        let header = format!("bytes={}", header.join(","));
        let mut selected: Vec<u64> = match RangeHeader::parse(&header).expect("a valid header").select(size) {
            Selection::Part(range) => range.collect(),
            Selection::Parts(parts) => parts.into_iter().flatten().collect(),
            Selection::Unsatisfiable => Vec::new(),
            Selection::Whole => (0..size).collect(),
        };
        selected.sort_unstable();
        let wanted: Vec<u64> = (0..size).filter(|at| wants(*at)).collect();
        prop_assert_eq!(selected, wanted);
    }

    #[test]
    fn a_link_leads_to_a_page_or_nowhere(lines in prop::collection::vec(any::<String>(), 0..3), link in "[<>?&=a-z\";, ]{0,60}") {
        let lines = lines.iter().map(String::as_str).chain([link.as_str()]);
        if let link::Next::At(target) = link::next(lines)
            && let Some(page) = link::query(&target).and_then(Page::of_link)
        {
            let query = page.upstream_query().expect("it says where the list goes on");
            prop_assert!(!query.contains('#') && !query.contains(char::is_whitespace));
        }
    }

    #[test]
    fn no_range_leaves_the_content(header in range_text(), size in any::<u64>()) {
        let Some(parsed) = RangeHeader::parse(&header) else { return Ok(()) };
        if let Selection::Part(range) = parsed.select(size) {
            prop_assert!(range.start < range.end && range.end <= size);
            if let Some(start) = parsed.known_start() {
                prop_assert_eq!(start, range.start);
            }
        }
    }

    #[test]
    fn a_content_range_is_sound_and_printed_back(text in prop_oneof![any::<String>(), content_range_text()]) {
        if let Some(parsed) = ContentRange::parse(&text) {
            prop_assert!(parsed.first <= parsed.last && parsed.last < parsed.total.unwrap_or(u64::MAX));
            prop_assert_eq!(ContentRange::parse(&parsed.to_string()), Some(parsed));
        }
    }

    #[test]
    fn accepted_types_form_the_same_set_in_any_order_on_any_lines(
        (types, shuffled) in accepted().prop_flat_map(|types| (Just(types.clone()), Just(types).prop_shuffle())),
        split in any::<prop::sample::Index>(),
    ) {
        let one_line = types.join(",");
        let set = AcceptSet::from_headers([one_line.as_str()]);
        let (front, back) = shuffled.split_at(split.index(shuffled.len() + 1));
        let lines = [front.join(" , "), back.join(", ")];
        prop_assert_eq!(&AcceptSet::from_headers(lines.iter().map(String::as_str)), &set);
        prop_assert_eq!(set.to_string().parse(), Ok(set.clone()));
        let sent_on = set.header_value();
        prop_assert_eq!(AcceptSet::from_headers(sent_on.as_deref()), set);
    }

    #[test]
    fn no_accept_line_panics(line in any::<String>()) {
        let set = AcceptSet::from_headers([line.as_str()]);
        prop_assert_eq!(set.to_string().parse(), Ok(set));
    }

    #[test]
    fn no_challenge_panics(line in prop_oneof![any::<String>(), challenge_text()]) {
        for challenge in challenge::parse([line.as_str()]) {
            let _ = format!("{challenge:?}");
        }
    }

    #[test]
    fn a_challenge_is_read_as_it_was_written(realm in "[ -~&&[^\"\\\\]]{1,40}", service in prop::option::of("[a-z. ]{0,10}")) {
        let mut line = format!("Bearer realm=\"{realm}\"");
        if let Some(service) = &service {
            line += &format!(", service=\"{service}\"");
        }
        let expected = Challenge::Bearer { realm, service, scope: None, error: None };
        prop_assert_eq!(challenge::parse([line.as_str()]), vec![expected]);
    }

    #[test]
    fn no_manifest_panics(bytes in prop_oneof![any::<Vec<u8>>(), manifest_text()], content_type in any::<Option<String>>()) {
        let manifest = Manifest::from_wire(bytes.clone().into(), content_type.as_deref(), Algorithm::Sha256);
        prop_assert_eq!(manifest.descriptor.size, bytes.len() as u64);
        prop_assert_eq!(manifest.descriptor.digest, Digest::of(Algorithm::Sha256, &bytes));
        let _ = manifest.children();
    }
}

fn range_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "bytes=[0-9]{0,22}-[0-9]{0,22}",
        "[Bb]ytes ?= ?[0-9]{0,3} ?- ?[0-9]{0,3}(,[0-9]{0,2}-[0-9]{0,2}){0,3}",
        any::<(u64, u64)>().prop_map(|(first, last)| format!("bytes={first}-{last}")),
    ]
}

fn content_range_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "bytes [0-9]{1,21}-[0-9]{1,21}/(\\*|[0-9]{1,21})",
        any::<(u64, u64, u64)>().prop_map(|(first, last, total)| format!("bytes {first}-{last}/{total}")),
    ]
}

fn accepted() -> impl Strategy<Value = Vec<String>> {
    let known = prop::sample::select(vec![
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "*/*",
        "text/html",
    ]);
    let weighted = (known, prop::option::of("; ?q=0\\.[0-9]"))
        .prop_map(|(media_type, weight)| format!("{media_type}{}", weight.unwrap_or_default()));
    prop::collection::vec(weighted, 0..10)
}

fn challenge_text() -> impl Strategy<Value = String> {
    "(Bearer|Basic|Negotiate|bEARER)? ?((realm|service|scope|error|x)=?\"?[a-z:/\\\\\" ,]{0,10}\"?,? ?){0,4}"
}

/// JSON that has the shape of a manifest and the wrong things in it.
fn manifest_text() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::sample::select(vec![
        "null",
        "1",
        "-1",
        "\"x\"",
        "[]",
        "{}",
        "[{}]",
        "[null]",
        "[{\"mediaType\":\"a/b\",\"digest\":\"sha256:x\",\"size\":1}]",
        "{\"mediaType\":\"\",\"digest\":\"\",\"size\":-1}",
        "{\"mediaType\":\"a/b\",\"digest\":\"md5:00\",\"size\":18446744073709551615}",
    ]);
    let key = prop::sample::select(vec!["mediaType", "config", "layers", "manifests", "subject", "schemaVersion"]);
    prop::collection::vec((key, value), 0..5).prop_map(|pairs| {
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", pairs.join(",")).into_bytes()
    })
}
