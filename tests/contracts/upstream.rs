//! The contract of upstreams, for the adapter and for what stands around it, before a registry as
//! plain as can be and before one that wants tokens and sends its blobs from elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use registry_mirror::clock::SystemClock;
use registry_mirror::oci::{AcceptSet, Algorithm, Digest, Page, Reference, Repository, Span};
use registry_mirror::upstream::asking::Asking;
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::offline::Offline;
use registry_mirror::upstream::settings::Settings;
use registry_mirror::upstream::{Allowance, Unobserved, Upstream, UpstreamErrorClass, UpstreamObserver};
use scripted_registry::{Image, Match, Registry, Rule, TokenPolicy, noise};

/// A registry with an image, a signature of it and a blob, and what is in it.
struct Known {
    registry: Registry,
    image: Image,
    signature: scripted_registry::Descriptor,
    blob: Digest,
    bytes: Bytes,
}

impl Known {
    fn of(registry: Registry) -> Known {
        let image = registry.add_image("owner/app", "1", &[noise(1, 1000)]);
        let signature = registry.add_referrer("owner/app", &image.manifest, "application/x.signature", noise(3, 100));
        let bytes = noise(2, 100_000);
        let blob = registry.add_blob("owner/app", bytes.clone()).to_string().parse().unwrap();
        Known { registry, image, signature, blob, bytes }
    }

    async fn plain() -> Known {
        Known::of(Registry::start().await)
    }

    async fn elaborate() -> Known {
        let registry = Registry::start().await.with_storage_host().await;
        registry.require_tokens(TokenPolicy::bearer());
        Known::of(registry)
    }
}

fn http(registry: &Registry) -> Arc<dyn Upstream> {
    let (name, url) = ("registry.example".parse().unwrap(), registry.url().parse().unwrap());
    Arc::new(HttpUpstream::new(HttpSettings::new(name, url, Settings::default())).unwrap())
}

fn asking(registries: &[&Registry]) -> Asking {
    let addresses = registries.iter().map(|registry| (registry.authority(), http(registry)));
    let observer: Arc<dyn UpstreamObserver> = Arc::new(Unobserved);
    Asking::new(&"registry.example".parse().unwrap(), addresses, Arc::new(SystemClock), &observer)
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod adapter {
            $(#[tokio::test]
            async fn $case() {
                let known = super::Known::plain().await;
                super::$case(&known, &*super::http(&known.registry)).await;
            })*
        }
        mod adapter_with_tokens_and_redirects {
            $(#[tokio::test]
            async fn $case() {
                let known = super::Known::elaborate().await;
                super::$case(&known, &*super::http(&known.registry)).await;
            })*
        }
        mod asking_at_one_address {
            $(#[tokio::test]
            async fn $case() {
                let known = super::Known::plain().await;
                super::$case(&known, &super::asking(&[&known.registry])).await;
            })*
        }
        mod asking_at_the_second_address {
            $(#[tokio::test]
            async fn $case() {
                let (mut gone, known) = (super::Registry::start().await, super::Known::plain().await);
                gone.stop().await;
                super::$case(&known, &super::asking(&[&gone, &known.registry])).await;
            })*
        }
    };
}

contract! {
    a_tag_resolves_to_what_its_manifest_is,
    a_blob_comes_from_where_it_was_asked_for,
    tags_come_in_the_order_of_the_upstream_and_say_where_they_go_on,
    referrers_are_an_index_of_the_type_that_was_asked_for,
    what_is_not_there_is_not_found,
    no_list_of_referrers_is_not_an_empty_one,
    health_asks_nobody_and_tells_what_the_latest_answer_told,
}

fn repository() -> Repository {
    "owner/app".parse().unwrap()
}

fn tag(tag: &str) -> Reference {
    Reference::Tag(tag.parse().unwrap())
}

async fn a_tag_resolves_to_what_its_manifest_is(known: &Known, upstream: &dyn Upstream) {
    let everything = AcceptSet::everything();
    let resolved = upstream.resolve(&repository(), &tag("1"), everything.clone()).await.unwrap().descriptor().clone();
    let told = (resolved.digest.to_string(), resolved.size, resolved.media_type.to_string());
    let expected = &known.image.manifest;
    assert_eq!(told, (expected.digest.to_string(), expected.size, expected.media_type.clone()));
    for reference in [tag("1"), Reference::Digest(resolved.digest)] {
        let manifest = upstream.manifest(&repository(), &reference, everything.clone()).await.unwrap();
        assert_eq!(manifest.descriptor, resolved);
        assert_eq!(Digest::of(resolved.digest.algorithm(), &manifest.bytes), resolved.digest);
    }
}

async fn a_blob_comes_from_where_it_was_asked_for(known: &Known, upstream: &dyn Upstream) {
    let size = known.bytes.len() as u64;
    assert_eq!(upstream.stat(&repository(), &known.blob).await.unwrap(), Some(size));
    for (span, part) in [
        (Span::default(), 0..known.bytes.len()),
        (Span::from(40_000), 40_000..known.bytes.len()),
        (Span { start: 10, end: Some(20) }, 10..20),
    ] {
        let blob = upstream.blob(&repository(), &known.blob, span).await.unwrap();
        assert_eq!((blob.size, blob.offset), (Some(size), span.start));
        let chunks: Vec<Bytes> = blob.body.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), known.bytes[part]);
    }
}

async fn tags_come_in_the_order_of_the_upstream_and_say_where_they_go_on(known: &Known, upstream: &dyn Upstream) {
    for tag in ["2", "3"] {
        known.registry.move_tag("owner/app", tag, &known.image.manifest.digest);
    }
    let all = upstream.tags(&repository(), &Page::default()).await.unwrap();
    assert_eq!((all.tags, all.next), (["1", "2", "3"].iter().collect(), None));
    let first = upstream.tags(&repository(), &Page { n: Some(2), ..Page::default() }).await.unwrap();
    assert!(first.tags.iter().eq(["1", "2"]));
    let rest = upstream.tags(&repository(), &first.next.unwrap()).await.unwrap();
    assert_eq!((rest.tags, rest.next), (["3"].iter().collect(), None));
}

async fn referrers_are_an_index_of_the_type_that_was_asked_for(known: &Known, upstream: &dyn Upstream) {
    let subject = known.image.manifest.digest.to_string().parse().unwrap();
    for (wanted, found) in [(None, true), (Some("application/x.signature"), true), (Some("application/x.sbom"), false)]
    {
        let list = upstream.referrers(&repository(), &subject, wanted, None).await.unwrap();
        let index = String::from_utf8(list.index.to_vec()).unwrap();
        assert_eq!(index.contains(&known.signature.digest.to_string()), found, "{wanted:?} {index}");
        assert_eq!((list.filtered, list.next), (wanted.is_some(), None));
    }
}

async fn what_is_not_there_is_not_found(_: &Known, upstream: &dyn Upstream) {
    let missing = Digest::of(Algorithm::Sha256, b"missing");
    let (everything, nowhere) = (AcceptSet::everything(), "owner/missing".parse().unwrap());
    let classes = [
        upstream.resolve(&repository(), &tag("missing"), everything.clone()).await.map(drop).unwrap_err().class,
        upstream.manifest(&repository(), &Reference::Digest(missing), everything).await.map(drop).unwrap_err().class,
        upstream.stat(&repository(), &missing).await.map(drop).unwrap_err().class,
        upstream.blob(&repository(), &missing, Span::default()).await.map(drop).unwrap_err().class,
        upstream.tags(&nowhere, &Page::default()).await.map(drop).unwrap_err().class,
    ];
    assert_eq!(classes, [UpstreamErrorClass::NotFound; 5]);
}

async fn no_list_of_referrers_is_not_an_empty_one(known: &Known, upstream: &dyn Upstream) {
    let nothing_refers_to = Digest::of(Algorithm::Sha256, b"missing");
    let ask = async || upstream.referrers(&repository(), &nothing_refers_to, None, None).await;
    let empty = ask().await.unwrap();
    assert!(!String::from_utf8_lossy(&empty.index).contains("sha256:"), "{empty:?}");
    known.registry.options(|options| options.referrers = false);
    assert_eq!(ask().await.unwrap_err().class, UpstreamErrorClass::NotFound);
}

async fn health_asks_nobody_and_tells_what_the_latest_answer_told(known: &Known, upstream: &dyn Upstream) {
    let before = upstream.health();
    assert!(known.registry.requests().is_empty());
    assert!(!before.is_down() && !before.endpoints.is_empty() && before.streams == 1);
    assert_eq!(before.allowance, Allowance::Free);
    known.registry.limit_pulls(10, 1);
    upstream.manifest(&repository(), &tag("1"), AcceptSet::everything()).await.unwrap();
    let after = upstream.health();
    assert!(!after.is_down());
    assert_eq!(after.allowance, Allowance::Spent);
    let pulls: Vec<_> = after.endpoints.iter().filter_map(|endpoint| endpoint.pulls).collect();
    assert_eq!(pulls.iter().map(|pulls| (pulls.limit, pulls.left)).collect::<Vec<_>>(), [(10, 0)]);
}

#[tokio::test]
async fn an_address_that_stumbles_is_asked_again_where_there_is_no_other() {
    let [first, last] = [Known::plain().await, Known::plain().await];
    for known in [&first, &last] {
        known.registry.rule(Rule::on(Match::any()).refuse(503).once());
    }
    let upstream = asking(&[&first.registry, &last.registry]);
    assert_eq!(upstream.stat(&repository(), &last.blob).await.unwrap(), Some(last.bytes.len() as u64));
    assert_eq!([&first, &last].map(|known| known.registry.requests().len()), [1, 2]);
}

#[tokio::test]
async fn an_upstream_is_down_when_none_of_its_addresses_answers() {
    let (mut first, mut second) = (Registry::start().await, Registry::start().await);
    let upstream = asking(&[&first, &second]).with_streams(4);
    let missing = Digest::of(Algorithm::Sha256, b"missing");
    for (stops, class, is_down) in
        [(&mut first, UpstreamErrorClass::NotFound, false), (&mut second, UpstreamErrorClass::Unavailable, true)]
    {
        stops.stop().await;
        assert_eq!(upstream.stat(&repository(), &missing).await.unwrap_err().class, class);
        assert_eq!((upstream.health().is_down(), upstream.health().streams), (is_down, 4));
    }
}

#[tokio::test]
async fn offline_nothing_can_be_answered_and_nothing_is_denied() {
    let upstream = Offline::new("registry.example".parse().unwrap());
    let digest = Digest::of(Algorithm::Sha256, b"");
    let classes = [
        upstream.resolve(&repository(), &tag("1"), AcceptSet::everything()).await.map(drop).unwrap_err().class,
        upstream.blob(&repository(), &digest, Span::default()).await.map(drop).unwrap_err().class,
    ];
    assert_eq!(classes, [UpstreamErrorClass::Unavailable; 2]);
    assert!(!upstream.health().is_down(), "nobody has failed to answer");
}
