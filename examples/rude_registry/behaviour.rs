//! What the rude registry holds, and what it can do wrong. Its tests are among the scenarios.
//!
//! A long file, because it is one table: each behaviour, and the rules of the scripted registry that make it.
//! What only TLS and HTTP/2 can do wrong is not here, but in the tests of the upstream adapter.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use scripted_registry::{
    Descriptor, Digest, Expired, Gate, Image, Match, Recorded, Registry, Rule, TokenPolicy, noise,
};

/// What can be wrong with the registry.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Behaviour {
    /// The last byte of every blob has one bit flipped.
    FlipLastByte,
    /// Blobs end after 30 % with an orderly close.
    #[value(name = "cut-at-30-percent")]
    CutAt30Percent,
    /// Blobs end after 70 % with a reset.
    #[value(name = "reset-at-70-percent")]
    ResetAt70Percent,
    /// Blobs declare one byte more than they have.
    TooShort,
    /// Blobs have more bytes than they declare.
    TooLong,
    /// Blobs come without a length, up to the close of the connection.
    WithoutLength,
    /// Blobs come in chunks.
    Chunked,
    /// Blobs are 200 with nothing in them.
    EmptyBlobs,
    /// Blobs come in chunks, and their last byte has one bit flipped.
    ChunkedFlipLastByte,
    /// Blobs come without a length, and without their last byte.
    WithoutLengthCut,
    /// The first byte of blobs has one bit flipped, and they end at half; nothing comes of what is asked for then.
    WrongThenCut,
    /// Blobs end at half, and whoever asks for the rest is told that there is no such range.
    RefuseResume,
    /// Blobs end at half, and whoever asks for the rest is told 403.
    DenyResume,
    /// Blobs end at half, and whoever asks for the rest is told 501.
    ResumeNotImplemented,
    /// While one blob is being sent, every other is 429.
    OneAtATime,
    /// Blobs come gzipped, whatever the client accepts.
    Gzip,
    /// Ranges are ignored.
    IgnoreRange,
    /// Blobs come 1 KB a second.
    Drip,
    /// Blobs stop after the first half, for ever.
    StallAtHalf,
    /// No answer comes to anything.
    Stall,
    /// No answer comes to the tag `latest`; everything else is answered.
    StallOneTag,
    /// No answer comes from the token service. Asks for tokens.
    StallTokens,
    /// Tokens come a byte a second. Asks for tokens.
    DripTokens,
    /// Manifests and lists come a byte a second.
    DripManifests,
    /// Everything is redirected to where it is, after a second each time.
    RedirectSlowly,
    /// Connections are reset when the largest layer is asked for.
    ResetOneBlob,
    /// What HEAD says that a tag points at is 404 by the time that it is asked for by digest.
    MovingTag,
    /// 403 to manifests by digest; by tag they are given.
    DigestDenied,
    /// Indexes come with the type of an image.
    IndexAsImage,
    /// 429 with a long Retry-After to everything at the storage host, 200 elsewhere. Wants --storage-host.
    StorageRateLimited,
    /// Manifests come as text/plain.
    WrongContentType,
    /// 200 and a page for people to everything, as a captive portal does it.
    CaptivePortal,
    /// Manifests are 200 with nothing in them.
    EmptyManifests,
    /// Manifests and lists are 200 with an error document.
    ErrorsWith200,
    /// Manifests are an image and an index at once.
    Ambiguous,
    /// Manifests are no JSON.
    NotJson,
    /// Manifests and blobs come without Docker-Content-Digest.
    WithoutDigest,
    /// Manifests and blobs claim another digest.
    WrongDigest,
    /// 405 to every HEAD.
    NoHead,
    /// 404 to every HEAD; GET is answered.
    HeadNotFound,
    /// 403 to every HEAD; GET is answered.
    HeadDenied,
    /// 500 to every HEAD; GET is answered.
    HeadFailing,
    /// 503 with Retry-After to every HEAD; GET is answered.
    HeadAway,
    /// Manifests are 404 to who does not name OCI's types.
    OciTypesOnly,
    /// Manifests are 404 to who does not name application/vnd.example.artifact.manifest.v1+json.
    ArtifactTypeOnly,
    /// Who names none of OCI's types gets a manifest of schema 1.
    SchemaOne,
    /// 429 with Retry-After to everything.
    RateLimited,
    /// 429 as plain text with bare LF line ends to everything.
    RateLimitedAsText,
    /// 403 to everything.
    Denied,
    /// 503 to everything.
    Unavailable,
    /// 500 to everything.
    Failing,
    /// Blobs are redirected to where they are.
    RedirectLoop,
    /// Blobs are redirected to a link-local address.
    RedirectPrivate,
    /// The challenge names a token service on another host, which gives tokens to anybody. Asks for tokens.
    ForeignRealm,
    /// Blobs come in chunks without end, 64 KB a second.
    EndlessBlobs,
    /// Manifests, lists and tokens come in chunks without end. Asks for tokens.
    EndlessDocuments,
    /// Heads of answers come a byte a second.
    DripHeads,
    /// Every connection is closed when a second request comes on it.
    LostConnections,
    /// Every connection is closed after one answer that does not say so.
    CloseUnannounced,
    /// Blobs end at half, and whoever asks for the rest gets the whole.
    ResumeWithWhole,
    /// Blobs end at half, and the rest comes as 206 of another range.
    ResumeWithOther,
    /// Blobs end at half, and the rest comes as 206 that does not say of what.
    ResumeUnnamed,
    /// Blobs end at half, and the rest comes with its last byte flipped.
    ResumeWrong,
    /// HEAD of a blob is 404 until it was asked for by GET.
    HeadAfterGet,
    /// Tokens are good for one request, and 403 says so without a challenge. Asks for tokens.
    TokensDie,
    /// Every second request is told that its token has died, by a challenge of another host. Asks for tokens.
    TokensDieElsewhere,
    /// A token that has died is told `Basic`. Tokens are good for one request. Asks for tokens.
    TokensDieAsBasic,
    /// The challenge comes at `/v2/` only, and 401 without one elsewhere. Asks for tokens.
    ChallengeAtPing,
    /// The token service redirects to itself. Asks for tokens.
    RedirectTokens,
    /// The challenge has quotes of the wrong kind, no commas, and bytes beyond ASCII. Asks for tokens.
    OddChallenge,
    /// Everything is redirected to another registry, which asks for tokens.
    Facade,
    /// Blobs are redirected to a path in raw UTF-8.
    RawLocation,
    /// Blobs are redirected to where nobody listens.
    DeadStorage,
    /// Everything says `Content-Encoding: aws-chunked`, and is as it should be.
    OddEncoding,
    /// Lists go on, and do not say where.
    UnclearLinks,
    /// The list of tags has 11 MB.
    LargeTagList,
    /// There is no list of referrers.
    NoReferrers,
    /// 501 to lists.
    NotImplemented,
    /// 451 to everything.
    Blocked,
    /// 503 with Retry-After to everything.
    AwayForAWhile,
    /// Everything carries a warning for people.
    Deprecated,
    /// Everything says that it is stale.
    StaleAnswers,
}

pub(crate) const REPOSITORY: &str = "library/rude";
/// What can be asked for.
pub(crate) const TAGS: [&str; 12] = [
    "latest", "oci", "docker", "index", "either", "nameless", "cache", "deep", "twice", "foreign", "lenient", "partly",
];
const LAYER: usize = 1 << 20;

/// An image in each dialect, one tag that depends on `Accept`, and an index of both.
pub(crate) fn add_images(registry: &Registry) {
    let layers = [noise(1, LAYER), noise(2, LAYER / 2), noise(3, 1000)];
    let oci = registry.add_image(REPOSITORY, "oci", &layers);
    let docker = registry.add_docker_image(REPOSITORY, "docker", &layers);
    registry.negotiate_tag(REPOSITORY, "latest", &[oci.manifest.digest, docker.manifest.digest]);
    let index = registry.add_index(REPOSITORY, "index", &[(&oci, "amd64"), (&docker, "arm64")]);
    registry.negotiate_tag(REPOSITORY, "either", &[index.digest, oci.manifest.digest]);
    add_odd_images(registry, &oci);
}

/// Images as they really are met: an index without platforms, a cache of BuildKit, indexes in indexes, a key
/// that stands twice, a layer that says it is elsewhere, a layer of which little is said, an index of which the first
/// image is not there.
fn add_odd_images(registry: &Registry, image: &Image) {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let entry = |digest: &Digest, size: u64, media_type: &str, more: &str| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
    };
    let of =
        |descriptor: &Descriptor, more: &str| entry(&descriptor.digest, descriptor.size, &descriptor.media_type, more);
    let index = |tag: &str, entries: &str| {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#);
        let size = text.len() as u64;
        entry(&registry.add_manifest(REPOSITORY, &[tag], text, INDEX), size, INDEX, "")
    };
    let manifest = |tag: &str, layers: &str| {
        let text = format!(r#"{{"schemaVersion":2,"config":{},{layers}}}"#, of(&image.config, ""));
        registry.add_manifest(REPOSITORY, &[tag], text, MANIFEST);
    };
    let (first, second) = (of(&image.layers[0], ""), of(&image.layers[1], ""));
    index("nameless", &of(&image.manifest, ""));
    index("cache", &format!("{first},{second}"));
    let deep = (0..4).fold(of(&image.manifest, ""), |inner, _| index("deep", &inner));
    index("deep", &deep);
    manifest("twice", &format!(r#""layers":[{first}],"layers":[{second}]"#));
    let elsewhere = of(&image.layers[0], r#","urls":["https://elsewhere.example/layer"]"#);
    manifest("foreign", &format!(r#""layers":[{elsewhere}]"#));
    let (Descriptor { digest, size, .. }, odd) = (&image.layers[0], r#""annotations":{"x":null},"platform":{}"#);
    manifest("lenient", &format!(r#""layers":[{{"digest":"{digest}","size":{size},{odd}}}]"#));
    let gone = format!(r#"{{"mediaType":"{MANIFEST}","digest":"sha256:{}","size":3}}"#, "0".repeat(64));
    index("partly", &format!("{gone},{}", of(&image.manifest, "")));
}

/// Each behaviour takes `times` requests and then leaves the field to the next. Where it needs another registry,
/// that runs for as long as it is held.
pub(crate) async fn script(registry: &Registry, behaviour: Behaviour, times: usize) -> Option<Registry> {
    let mut other = None;
    let blobs = || if registry.storage_authority().is_some() { Match::storage() } else { Match::blobs() };
    let content = || Match::manifests().or(blobs());
    let rules = match behaviour {
        Behaviour::FlipLastByte => vec![Rule::on(blobs().get()).flip_last_byte()],
        Behaviour::CutAt30Percent => per_blob(registry, |on, size| Rule::on(on).close_after(size * 3 / 10)),
        Behaviour::ResetAt70Percent => per_blob(registry, |on, size| Rule::on(on).reset_after(size * 7 / 10)),
        Behaviour::TooShort => per_blob(registry, |on, size| Rule::on(on).declare_length(size + 1)),
        Behaviour::TooLong => vec![Rule::on(blobs().get()).extra("and more")],
        Behaviour::WithoutLength => vec![Rule::on(blobs().get()).without_length()],
        Behaviour::Chunked => vec![Rule::on(blobs().get()).chunked()],
        Behaviour::EmptyBlobs => vec![Rule::on(blobs()).answer(200, "application/octet-stream", "")],
        Behaviour::ChunkedFlipLastByte => vec![Rule::on(blobs().get()).chunked().flip_last_byte()],
        Behaviour::WithoutLengthCut => {
            per_blob(registry, |on, size| Rule::on(on).without_length().close_after(size.saturating_sub(1)))
        }
        Behaviour::WrongThenCut => {
            let mut rules = vec![Rule::on(blobs().get().with_header("range")).close_at_once()];
            rules.extend(per_blob(registry, |on, size| Rule::on(on).flip_bit_at(0).close_after(size / 2)));
            rules
        }
        Behaviour::RefuseResume => resumed(registry, |rule| rule.refuse(416)),
        Behaviour::DenyResume => resumed(registry, |rule| rule.refuse(403)),
        Behaviour::ResumeNotImplemented => resumed(registry, |rule| rule.refuse(501)),
        Behaviour::OneAtATime => {
            registry.options(|options| options.one_blob_at_a_time = true);
            Vec::new()
        }
        Behaviour::Gzip => vec![Rule::on(blobs().get()).gzip()],
        Behaviour::IgnoreRange => vec![Rule::on(blobs()).ignore_range()],
        Behaviour::Drip => vec![Rule::on(blobs().get()).drip(1024, &tap())],
        Behaviour::StallAtHalf => per_blob(registry, |on, size| Rule::on(on).stall_after(size / 2, &Gate::new())),
        Behaviour::Stall => vec![Rule::on(Match::any()).stall_before_headers(&Gate::new())],
        Behaviour::StallOneTag => {
            vec![Rule::on(Match::manifest(REPOSITORY, "latest")).stall_before_headers(&Gate::new())]
        }
        Behaviour::StallTokens | Behaviour::DripTokens => {
            registry.require_tokens(TokenPolicy::bearer());
            let rule = Rule::on(Match::token());
            let silent = matches!(behaviour, Behaviour::StallTokens);
            vec![if silent { rule.stall_before_headers(&Gate::new()) } else { rule.drip(1, &tap()) }]
        }
        Behaviour::DripManifests => vec![Rule::on(Match::manifests().or(Match::lists()).get()).drip(1, &tap())],
        Behaviour::RedirectSlowly => {
            vec![Rule::on(Match::any()).redirect_to_host(&registry.url()).stall_before_headers(&tap())]
        }
        Behaviour::ResetOneBlob => {
            let largest = registry.content(|content| {
                let blobs = &content.repository(REPOSITORY).blobs;
                blobs.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(digest, _)| *digest)
            });
            largest.iter().map(|digest| Rule::on(Match::blob(digest).get()).reset_at_once()).collect()
        }
        Behaviour::MovingTag | Behaviour::DigestDenied => {
            let gone = Match::manifests().and(Match::when(|request| request.path.contains("sha256:")));
            vec![Rule::on(gone.get()).refuse(if matches!(behaviour, Behaviour::MovingTag) { 404 } else { 403 })]
        }
        Behaviour::IndexAsImage => {
            let index = Match::manifest(REPOSITORY, "index");
            vec![Rule::on(index).header("content-type", "application/vnd.oci.image.manifest.v1+json")]
        }
        Behaviour::StorageRateLimited => vec![Rule::on(Match::storage()).too_many_requests(Some("900"))],
        Behaviour::WrongContentType => vec![Rule::on(Match::manifests()).header("content-type", "text/plain")],
        Behaviour::CaptivePortal => {
            vec![
                Rule::on(Match::any())
                    .answer(200, "text/html", "<html><body>Please log in</body></html>")
                    .before_auth(),
            ]
        }
        Behaviour::EmptyManifests => vec![Rule::on(Match::manifests()).answer(200, "application/json", "")],
        Behaviour::ErrorsWith200 => vec![Rule::on(Match::manifests().or(Match::lists())).refuse(503).status(200)],
        Behaviour::Ambiguous => {
            let both = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#;
            vec![Rule::on(Match::manifests()).answer(200, "application/vnd.oci.image.index.v1+json", both)]
        }
        Behaviour::NotJson => {
            vec![Rule::on(Match::manifests()).answer(200, "application/vnd.oci.image.index.v1+json", "no JSON")]
        }
        Behaviour::WithoutDigest => {
            vec![Rule::on(content()).without_header("docker-content-digest").without_header("etag")]
        }
        Behaviour::WrongDigest => {
            let other = format!("sha256:{}", "0".repeat(64));
            vec![Rule::on(content()).header("docker-content-digest", &other)]
        }
        Behaviour::NoHead => vec![Rule::on(Match::any().head()).refuse(405)],
        Behaviour::HeadNotFound => vec![Rule::on(Match::any().head()).refuse(404)],
        Behaviour::HeadDenied => vec![Rule::on(Match::any().head()).refuse(403)],
        Behaviour::HeadFailing => vec![Rule::on(Match::any().head()).refuse(500)],
        Behaviour::HeadAway => vec![Rule::on(Match::any().head()).refuse(503).header("retry-after", "5")],
        Behaviour::OciTypesOnly => vec![Rule::on(Match::manifests().and(unnamed("vnd.oci."))).refuse(404)],
        Behaviour::ArtifactTypeOnly => {
            vec![Rule::on(Match::manifests().and(unnamed("vnd.example.artifact.manifest.v1+json"))).refuse(404)]
        }
        Behaviour::SchemaOne => {
            let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
            let rule = Rule::on(Match::manifests().and(unnamed("vnd.oci.")));
            vec![rule.answer(200, media_type, r#"{"schemaVersion":1,"fsLayers":[]}"#)]
        }
        Behaviour::RateLimited => vec![Rule::on(Match::any()).too_many_requests(Some("5")).before_auth()],
        Behaviour::RateLimitedAsText => {
            let rule = Rule::on(Match::any()).answer(429, "text/plain", "Too Many Requests\n").bare_lf();
            vec![rule.header("retry-after", "60").header("connection", "close").close_afterwards().before_auth()]
        }
        Behaviour::Denied => vec![Rule::on(Match::any()).refuse(403).before_auth()],
        Behaviour::Unavailable => vec![Rule::on(Match::any()).refuse(503).before_auth()],
        Behaviour::Failing => vec![Rule::on(Match::any()).refuse(500).before_auth()],
        Behaviour::RedirectLoop => vec![Rule::on(blobs()).redirect_to_host(&registry.url())],
        Behaviour::RedirectPrivate => vec![Rule::on(blobs()).redirect("http://169.254.169.254/latest/meta-data/")],
        Behaviour::ForeignRealm => {
            let service = Registry::start().await;
            service.rule(Rule::on(Match::token()).redirect_to_host(&registry.url()));
            registry.require_tokens(TokenPolicy::bearer().realm(&format!("{}/token", foreign(&service))));
            other = Some(service);
            Vec::new()
        }
        Behaviour::EndlessBlobs => vec![Rule::on(blobs().get()).chunked().endless().drip(64 << 10, &tap())],
        Behaviour::EndlessDocuments => {
            registry.require_tokens(TokenPolicy::bearer());
            let documents = Match::manifests().or(Match::lists()).or(Match::token());
            vec![Rule::on(documents.get()).chunked().endless()]
        }
        Behaviour::DripHeads => vec![Rule::on(Match::any()).drip_head(&tap())],
        Behaviour::LostConnections => {
            let used = Mutex::new(HashSet::new());
            let again = move |request: &Recorded| {
                !used.lock().unwrap_or_else(PoisonError::into_inner).insert(request.at_connection)
            };
            vec![Rule::on(Match::when(again)).close_at_once().before_auth()]
        }
        Behaviour::CloseUnannounced => vec![Rule::on(Match::any()).close_afterwards().before_auth()],
        Behaviour::ResumeWithWhole => resumed(registry, Rule::ignore_range),
        Behaviour::ResumeWithOther => resumed(registry, |rule| rule.header("content-range", "bytes 0-99/1048576")),
        Behaviour::ResumeUnnamed => resumed(registry, |rule| rule.without_header("content-range")),
        Behaviour::ResumeWrong => resumed(registry, Rule::flip_last_byte),
        Behaviour::HeadAfterGet => {
            let had = Mutex::new(HashSet::new());
            let unknown = move |request: &Recorded| {
                let mut had = had.lock().unwrap_or_else(PoisonError::into_inner);
                if request.method == "GET" {
                    had.insert(request.path.clone());
                }
                !had.contains(&request.path)
            };
            vec![Rule::on(blobs().and(Match::when(unknown))).refuse(404)]
        }
        Behaviour::TokensDie | Behaviour::TokensDieAsBasic => {
            let silent = matches!(behaviour, Behaviour::TokensDie);
            let said = if silent { Expired::Denied } else { Expired::ChallengeBasic };
            registry.require_tokens(TokenPolicy::bearer().uses(1).expired(said));
            Vec::new()
        }
        Behaviour::TokensDieElsewhere => {
            registry.require_tokens(TokenPolicy::bearer());
            let nobody = Registry::start().await;
            let challenge = format!("Bearer realm=\"{}/token\"", foreign(&nobody));
            other = Some(nobody);
            let asked = AtomicUsize::new(0);
            let second = move |_: &Recorded| !asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            let dead = Match::any().with_header("authorization").and(Match::when(second));
            vec![Rule::on(dead).refuse(401).header("www-authenticate", &challenge).before_auth()]
        }
        Behaviour::ChallengeAtPing => {
            registry.require_tokens(TokenPolicy::bearer());
            let elsewhere = Match::when(|request| request.parts().is_some()).without_header("authorization");
            vec![Rule::on(elsewhere).refuse(401).before_auth()]
        }
        Behaviour::RedirectTokens => {
            registry.require_tokens(TokenPolicy::bearer());
            let asked = AtomicUsize::new(0);
            let first = move |_: &Recorded| asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            vec![Rule::on(Match::token().and(Match::when(first))).redirect_to_host(&registry.url())]
        }
        Behaviour::OddChallenge => {
            registry.require_tokens(TokenPolicy::bearer());
            let challenge = format!("bearer realm='{}/token' service=\"dép\u{f4}t\"", registry.url());
            let unknown = Match::when(|request| request.path.starts_with("/v2")).without_header("authorization");
            vec![Rule::on(unknown).refuse(401).header("www-authenticate", &challenge).before_auth()]
        }
        Behaviour::Facade => {
            let behind = Registry::start().await;
            add_images(&behind);
            behind.require_tokens(TokenPolicy::bearer());
            let rule = Rule::on(Match::any()).redirect_to_host(&behind.url());
            other = Some(behind);
            vec![rule]
        }
        Behaviour::RawLocation => {
            let held = registry.content(|content| content.repository(REPOSITORY).blobs.clone());
            let mut rules = Vec::new();
            for (digest, bytes) in held {
                let path = format!("/speicher/sch%C3%B6n/{digest}");
                rules.push(Rule::on(Match::path(&path)).answer(200, "application/octet-stream", bytes));
                rules.push(Rule::on(Match::blob(&digest)).redirect(&format!("/speicher/schön/{digest}")));
            }
            rules
        }
        Behaviour::DeadStorage => vec![Rule::on(Match::blobs()).redirect("http://127.0.0.1:1/storage")],
        Behaviour::OddEncoding => vec![Rule::on(Match::any()).header("content-encoding", "aws-chunked")],
        Behaviour::UnclearLinks => vec![Rule::on(Match::lists()).header("link", "next")],
        Behaviour::LargeTagList => {
            let tags: Vec<String> = (0..250_000).map(|tag| format!("\"{}-{tag:06}\"", "x".repeat(34))).collect();
            let list = format!(r#"{{"name":"{REPOSITORY}","tags":[{}]}}"#, tags.join(","));
            let tags = Match::lists().and(Match::when(|request| request.path.ends_with("/tags/list")));
            vec![Rule::on(tags).answer(200, "application/json", list)]
        }
        Behaviour::NoReferrers => {
            registry.options(|options| options.referrers = false);
            Vec::new()
        }
        Behaviour::NotImplemented => vec![Rule::on(Match::lists()).refuse(501)],
        Behaviour::Blocked => vec![Rule::on(Match::any()).refuse(451).before_auth()],
        Behaviour::AwayForAWhile => {
            vec![Rule::on(Match::any()).refuse(503).header("retry-after", "5").before_auth()]
        }
        Behaviour::Deprecated => {
            vec![Rule::on(Match::any()).header("warning", "299 - \"this image is deprecated\"")]
        }
        Behaviour::StaleAnswers => {
            vec![Rule::on(Match::any()).header("cache-status", "another-mirror; hit; detail=stale")]
        }
    };
    for rule in rules {
        registry.rule(rule.times(times));
    }
    other
}

/// The address of a registry as that of another host than ours.
fn foreign(registry: &Registry) -> String {
    registry.url().replace("127.0.0.1", "localhost")
}

/// Each blob ends at half once, and whoever asks for the rest is answered so, however often.
fn resumed(registry: &Registry, rest: impl FnOnce(Rule) -> Rule) -> Vec<Rule> {
    let blobs = if registry.storage_authority().is_some() { Match::storage() } else { Match::blobs() };
    registry.rule(rest(Rule::on(blobs.get().with_header("range"))));
    per_blob(registry, |on, size| Rule::on(on).once().close_after(size / 2))
        .into_iter()
        .for_each(|rule| registry.rule(rule));
    Vec::new()
}

/// Requests whose `Accept` does not name this.
fn unnamed(media_type: &'static str) -> Match {
    let names = move |line: &http::HeaderValue| line.to_str().is_ok_and(|line| line.contains(media_type));
    Match::when(move |request| !request.headers.get_all("accept").iter().any(names))
}

/// A rule for each blob, because what it does depends on how large the blob is.
fn per_blob(registry: &Registry, rule: impl Fn(Match, u64) -> Rule) -> Vec<Rule> {
    let stored = registry.storage_authority().is_some();
    registry.content(|content| {
        let blobs = content.repository(REPOSITORY).blobs.iter();
        blobs
            .map(|(digest, bytes)| {
                let on = if stored { Match::stored(digest) } else { Match::blob(digest) };
                rule(on.get(), bytes.len() as u64)
            })
            .collect()
    })
}

/// A gate that lets one drop through a second.
fn tap() -> Gate {
    let gate = Gate::new();
    let opener = gate.clone();
    tokio::spawn(async move {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            opener.let_through(1);
        }
    });
    gate
}
