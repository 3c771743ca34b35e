//! The scripted registry of the scenarios, on its own: point any cache or client at it and see what
//! it makes of a registry that lies, stalls or breaks off.
//!
//! `cargo run --example rude_registry -- --listen 127.0.0.1:5555 --behaviour flip-last-byte --times 1`
//!
//! Image names go to stdout; every request it gets goes to stderr, without its query, which may be
//! signed. Ctrl-C ends it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use scripted_registry::{Descriptor, Digest, Gate, Image, Match, Registry, Rule, TokenPolicy, noise};

/// Serves images that it makes, and misbehaves as told.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to do wrong. Given several times, with --times, one takes over when the one before is used up.
    #[arg(long, value_enum)]
    behaviour: Vec<Behaviour>,
    /// How many requests each behaviour is for; all of them if left out.
    #[arg(long)]
    times: Option<usize>,
    /// Ask for anonymous tokens first.
    #[arg(long)]
    tokens: bool,
    /// Redirect blobs to a second listener with addresses that are good for one use.
    #[arg(long)]
    storage_host: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Behaviour {
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
    /// The challenge names a token service on another host.
    ForeignRealm,
}

const REPOSITORY: &str = "library/rude";
const LAYER: usize = 1 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut registry = Registry::start_at(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is something else there?", arguments.listen))?;
    if arguments.storage_host {
        registry = registry.with_storage_host().await;
    }
    if arguments.tokens {
        registry.require_tokens(TokenPolicy::bearer());
    }
    registry.watch(|request, status| eprintln!("{status} {} {}", request.method, request.path));
    add_images(&registry);
    for behaviour in &arguments.behaviour {
        script(&registry, *behaviour, arguments.times.unwrap_or(usize::MAX));
    }
    eprintln!("listening on {}; {}", registry.url(), described(&arguments.behaviour));
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    registry.stop().await;
    Ok(())
}

/// An image in each dialect, one tag that depends on `Accept`, and an index of both.
fn add_images(registry: &Registry) {
    let layers = [noise(1, LAYER), noise(2, LAYER / 2), noise(3, 1000)];
    let oci = registry.add_image(REPOSITORY, "oci", &layers);
    let docker = registry.add_docker_image(REPOSITORY, "docker", &layers);
    registry.negotiate_tag(REPOSITORY, "latest", &[oci.manifest.digest, docker.manifest.digest]);
    registry.add_index(REPOSITORY, "index", &[(&oci, "amd64"), (&docker, "arm64")]);
    add_odd_images(registry, &oci);
    for tag in ["latest", "oci", "docker", "index", "nameless", "cache", "deep", "twice", "foreign", "partly"] {
        println!("{}/{REPOSITORY}:{tag}", registry.authority());
    }
}

/// Images as they really are met: an index without platforms, a cache of BuildKit, indexes in indexes, a key
/// that stands twice, a layer that says it is elsewhere, an index of which the first image is not there.
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
    let gone = format!(r#"{{"mediaType":"{MANIFEST}","digest":"sha256:{}","size":3}}"#, "0".repeat(64));
    index("partly", &format!("{gone},{}", of(&image.manifest, "")));
}

fn described(behaviours: &[Behaviour]) -> String {
    if behaviours.is_empty() {
        return "honest (see --help for what else it can be)".to_owned();
    }
    let names: Vec<String> = behaviours
        .iter()
        .filter_map(|behaviour| behaviour.to_possible_value())
        .map(|value| value.get_name().to_owned())
        .collect();
    format!("rude: {}", names.join(", "))
}

/// Each behaviour takes `times` requests and then leaves the field to the next.
fn script(registry: &Registry, behaviour: Behaviour, times: usize) {
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
        Behaviour::RefuseResume => {
            let mut rules = vec![Rule::on(blobs().get().with_header("range")).refuse(416)];
            rules.extend(per_blob(registry, |on, size| Rule::on(on).once().close_after(size / 2)));
            return rules.into_iter().for_each(|rule| registry.rule(rule));
        }
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
        Behaviour::MovingTag => {
            let gone = Match::manifests().and(Match::when(|request| request.path.contains("sha256:")));
            vec![Rule::on(gone.get()).refuse(404)]
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
        Behaviour::OciTypesOnly => vec![Rule::on(Match::manifests().and(unnamed("vnd.oci."))).refuse(404)],
        Behaviour::ArtifactTypeOnly => {
            vec![Rule::on(Match::manifests().and(unnamed("vnd.example.artifact.manifest.v1+json"))).refuse(404)]
        }
        Behaviour::SchemaOne => {
            let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
            let rule = Rule::on(Match::manifests().and(unnamed("vnd.oci.")));
            vec![rule.answer(200, media_type, r#"{"schemaVersion":1}"#)]
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
            registry.require_tokens(TokenPolicy::bearer().realm("https://tokens.other.test/token"));
            Vec::new()
        }
    };
    for rule in rules {
        registry.rule(rule.times(times));
    }
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
