//! How long a client waits for an upstream, whatever that does: where something stored can be served, and
//! where nothing is. The time that passes is the runtime's own: it stands still while anybody has something
//! to do. The file is long, as it is one table: each trouble, and whom it keeps waiting.

use std::time::Duration;

use registry_mirror::clock::Clock as _;
use scripted_registry::client::{self, Response};
use scripted_registry::{Gate, Image, Match, Registry, Rule, TokenPolicy, noise};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";

/// What an upstream can do to keep a client waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// No answer.
    Silent,
    /// A byte of the body each second.
    Dripping,
    /// One redirect after the other, each after 2.5 s.
    Redirecting,
    /// The token service does not answer.
    TokensSilent,
    /// The token comes at a byte each second.
    TokensDripping,
    /// A byte of the head each second.
    HeadDripping,
    /// The token service redirects to itself, each time after 2.5 s.
    TokensRedirecting,
    /// Nobody listens where tokens are.
    TokensRefused,
    /// The token service answers 500.
    TokensFailing,
    /// The storage host, where blobs are, does not answer.
    StorageSilent,
    /// One redirect after the other, at once.
    Looping,
    /// 500.
    Failing,
    /// Connections end instead of an answer.
    Cutting,
    /// 429.
    Limiting,
    /// 503 that says for how long.
    Away,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::Silent,
    Trouble::Dripping,
    Trouble::HeadDripping,
    Trouble::Redirecting,
    Trouble::TokensSilent,
    Trouble::TokensDripping,
    Trouble::TokensRedirecting,
];

impl Trouble {
    /// Begins, for requests that match.
    fn begin(self, registry: &Registry, on: Match) -> Gate {
        let gate = Gate::new();
        let (registry_itself, every_token) = (|| on.clone(), || Rule::on(Match::token()));
        registry.rule(match self {
            Trouble::Silent => Rule::on(registry_itself()).stall_before_headers(&gate),
            Trouble::Dripping => Rule::on(registry_itself().get()).drip(1, &gate),
            Trouble::Redirecting => {
                Rule::on(registry_itself()).redirect_to_host(&registry.url()).stall_before_headers(&gate)
            }
            Trouble::TokensSilent => every_token().stall_before_headers(&gate),
            Trouble::TokensDripping => every_token().drip(1, &gate),
            Trouble::TokensRedirecting => every_token().redirect("/token").stall_before_headers(&gate),
            Trouble::HeadDripping => Rule::on(registry_itself()).drip_head(&gate),
            Trouble::TokensRefused => every_token(),
            Trouble::TokensFailing => every_token().refuse(500),
            Trouble::StorageSilent => Rule::on(Match::storage()).stall_before_headers(&gate),
            Trouble::Looping => Rule::on(registry_itself()).redirect_to_host(&registry.url()),
            Trouble::Failing => Rule::on(registry_itself()).refuse(500),
            Trouble::Cutting => Rule::on(registry_itself()).close_at_once(),
            Trouble::Limiting => Rule::on(registry_itself()).too_many_requests(None),
            Trouble::Away => Rule::on(registry_itself()).refuse(503).header("retry-after", "7"),
        });
        match self {
            Trouble::Dripping | Trouble::TokensDripping | Trouble::HeadDripping => slowly(&gate, 1000),
            Trouble::Redirecting | Trouble::TokensRedirecting => slowly(&gate, 2500),
            _ => {}
        }
        let policy = match self {
            Trouble::TokensRefused => TokenPolicy::bearer().realm("http://127.0.0.1:1/token"),
            Trouble::TokensSilent | Trouble::TokensDripping | Trouble::TokensRedirecting | Trouble::TokensFailing => {
                TokenPolicy::bearer()
            }
            _ => return gate,
        };
        registry.require_tokens(policy);
        registry.expire_tokens();
        gate
    }
}

/// Lets one after the other through, each so many milliseconds after it came.
fn slowly(gate: &Gate, step: u64) {
    let gate = gate.clone();
    tokio::spawn(async move {
        for passed in 1.. {
            gate.reached_times(passed).await;
            tokio::time::sleep(Duration::from_millis(step)).await;
            gate.let_through(1);
        }
    });
}

/// What comes of a request, and after how long.
async fn timed(mirror: &TestMirror, method: &str, path: &str) -> (Response, Duration) {
    let asked = Instant::now();
    let response = match method {
        "HEAD" => client::head(mirror.address, path, &[]).await,
        _ => mirror.get(path).await,
    };
    (response, asked.elapsed())
}

fn is_stale(response: &Response) -> bool {
    assert_eq!(response.status, 200);
    response.header("warning").is_some() && response.header("cache-status").is_some_and(|s| s.contains("stale"))
}

/// A mirror that knows a tag, the tags and the referrers of it, of which nothing is fresh any more; and an
/// upstream where the tag has moved.
async fn warm(config: &str) -> (Registry, TestMirror, Image) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(901, 1000)]);
    let mirror = Settings::of(&registry).config(config).start().await;
    for path in [TAG, TAGS, &referrers(&image)] {
        assert_eq!(mirror.get(path).await.status, 200);
    }
    mirror.settled().await;
    registry.add_image("library/app", "1", &[noise(902, 1000)]);
    mirror.advance(Duration::from_secs(301));
    registry.forget_requests();
    (registry, mirror, image)
}

fn referrers(image: &Image) -> String {
    format!("/v2/library/app/referrers/{}", image.manifest.digest)
}

#[tokio::test]
async fn nobody_waits_longer_than_his_patience_where_something_stored_can_be_served() {
    let seconds = Duration::from_secs;
    for (config, patience) in [
        ("", seconds(2)),
        ("cache.patience = \"700ms\"", Duration::from_millis(700)),
        ("cache.mode = \"prefer-cache\"", Duration::from_millis(300)),
        ("cache.mode = \"prefer-cache\"\ncache.patience = \"100ms\"", Duration::from_millis(100)),
    ] {
        let troubles = if config.is_empty() { &TROUBLES[..] } else { &TROUBLES[..1] };
        for trouble in troubles {
            let (registry, mirror, image) = warm(config).await;
            let gate = trouble.begin(&registry, Match::repository("library/app"));
            tokio::time::pause();
            for (method, path) in [("GET", TAG), ("GET", TAGS), ("GET", referrers(&image).as_str())] {
                let what = format!("{trouble:?} {config} {path}");
                let (response, waited) = timed(&mirror, method, path).await;
                assert!(is_stale(&response), "{what}");
                let most = patience + Duration::from_millis(10);
                assert!(waited >= patience.min(seconds(2)) && waited < most, "{what}: {waited:?}");
                let asked = registry.requests().len();
                // By HEAD it is the same question.
                for method in ["GET", "HEAD", "GET"] {
                    let (response, waited) = timed(&mirror, method, path).await;
                    assert!(is_stale(&response) && waited < Duration::from_millis(10), "{what}: {waited:?} again");
                }
                assert!(registry.requests().len() <= asked + 1, "{what}: one question is under way");
            }
            tokio::time::resume();
            registry.clear_rules();
            gate.open();
        }
    }
}

#[tokio::test]
async fn a_way_that_led_nowhere_slowly_is_known_to_who_comes_next() {
    for trouble in [Trouble::Redirecting, Trouble::TokensRedirecting] {
        let (registry, mirror, _) = warm("").await;
        let _gate = trouble.begin(&registry, Match::repository("library/app"));
        tokio::time::pause();
        let (response, waited) = timed(&mirror, "GET", TAG).await;
        assert!(is_stale(&response) && waited >= Duration::from_secs(2), "{trouble:?}: {waited:?}");
        // The question ends behind.
        tokio::time::sleep(Duration::from_secs(40)).await;
        let asked = registry.requests().len();
        for method in ["GET", "HEAD"] {
            let (response, waited) = timed(&mirror, method, TAG).await;
            assert!(is_stale(&response) && waited < Duration::from_millis(10), "{trouble:?} {method}: {waited:?}");
        }
        assert_eq!(registry.requests().len(), asked, "{trouble:?}");
        mirror.advance(Duration::from_secs(30));
        let (response, waited) = timed(&mirror, "GET", TAG).await;
        assert!(is_stale(&response) && waited <= Duration::from_millis(310), "{trouble:?}: {waited:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn what_a_question_finds_after_its_client_left_is_kept() {
    let (registry, mirror, image) = warm("").await;
    let gate = Trouble::Silent.begin(&registry, Match::repository("library/app"));
    let list = referrers(&image);
    let paths = [TAG, TAGS, &list];
    tokio::time::pause();
    for path in paths {
        assert!(is_stale(&mirror.get(path).await));
    }
    tokio::time::resume();
    registry.clear_rules();
    gate.open();
    let found = async {
        for path in paths {
            while mirror.get(path).await.header("warning").is_some() {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("what was found is served");
    let kept = mirror.get(TAG).await;
    assert_ne!(kept.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
    assert_eq!(registry.count_of(&Match::manifest("library/app", "1").head()), 1, "the first question found it");
    assert_eq!(registry.count_of(&Match::path(TAGS)), 1);
}

#[tokio::test]
async fn who_comes_while_a_question_is_under_way_waits_no_longer_than_who_asked_it() {
    let (registry, mirror, _) = warm("").await;
    let gate = Trouble::Silent.begin(&registry, Match::manifests());
    tokio::time::pause();
    let later = |after: u64| {
        let address = mirror.address;
        async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let asked = Instant::now();
            assert!(is_stale(&client::get(address, TAG, &[]).await));
            (asked.elapsed().as_millis() + 50) / 100
        }
    };
    let waited = tokio::join!(later(0), later(500), later(1500), later(2500));
    assert_eq!(waited, (20, 15, 5, 0));
    assert_eq!(registry.requests().len(), 1);
    gate.open();
}

/// What the README promises for an upstream with these time-outs.
const UPSTREAM: &str = "connect_timeout = \"1s\"\nfirst_byte_timeout = \"6s\"";
const LONGEST: Duration = Duration::from_millis(8_010);

/// What comes of everything that can be asked for of a mirror that has stored nothing, and after how long.
async fn cold(settings: Settings, image: &Image, mut assert: impl FnMut(&str, &str, &Response, Duration)) {
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    for path in [TAG, &by_digest, TAGS, &referrers(image), &blob] {
        for method in ["GET", "HEAD"] {
            // As long as an upstream is left alone that is in trouble.
            let mirror = settings.clone().store_at(tempfile::tempdir().expect("a folder").path()).start().await;
            tokio::time::pause();
            let (response, waited) = timed(&mirror, method, path).await;
            tokio::time::resume();
            assert(method, path, &response, waited);
        }
    }
}

/// The table of the README: what can be wrong, and the worst time to an answer where nothing is stored.
#[tokio::test]
async fn where_nothing_is_stored_everything_that_belongs_to_an_answer_has_one_time_out() {
    let (seconds, slack) = (Duration::from_secs, Duration::from_millis(10));
    for (trouble, worst, status) in [
        (Trouble::Silent, seconds(7), 503),
        (Trouble::HeadDripping, seconds(7), 503),
        (Trouble::Dripping, LONGEST, 503),
        (Trouble::Redirecting, LONGEST, 503),
        (Trouble::Looping, seconds(3), 502),
        (Trouble::TokensSilent, LONGEST, 503),
        (Trouble::TokensDripping, LONGEST, 503),
        (Trouble::TokensRedirecting, LONGEST, 503),
        (Trouble::TokensRefused, seconds(3), 503),
        (Trouble::TokensFailing, seconds(3), 503),
        (Trouble::StorageSilent, LONGEST, 503),
        (Trouble::Failing, seconds(3), 503),
        (Trouble::Cutting, seconds(3), 503),
        (Trouble::Limiting, seconds(0), 503),
        (Trouble::Away, seconds(0), 503),
    ] {
        // Time goes on by itself where nothing is to be done here, also while a socket of a busy machine is: what
        // took too long is tried again.
        let mut late = Vec::new();
        for _ in 0..3 {
            late.clear();
            let mut registry = Registry::start().await;
            if trouble == Trouble::StorageSilent {
                registry = registry.with_storage_host().await;
            }
            let image = registry.add_image("library/app", "1", &[noise(903, 1000)]);
            let gate = trouble.begin(&registry, Match::repository("library/app"));
            cold(Settings::of(&registry).upstream(UPSTREAM), &image, |method, path, response, waited| {
                let told = response.status;
                let passed_on = trouble == Trouble::Dripping && (method == "HEAD" || path.contains("/blobs/"));
                let elsewhere = trouble == Trouble::StorageSilent && !path.contains("/blobs/");
                let expected = if passed_on || elsewhere { told } else { status };
                assert_eq!(told, expected, "{trouble:?} {method} {path}");
                assert!(trouble != Trouble::Away || response.header("retry-after") == Some("7"), "{method} {path}");
                if !passed_on && waited > worst + slack {
                    late.push(format!("{trouble:?} {method} {path}: {waited:?}"));
                }
            })
            .await;
            gate.open();
            if late.is_empty() {
                break;
            }
        }
        assert!(late.is_empty(), "{late:?}");
    }
}

/// Where nobody accepts what comes, and there is room for one to wait.
async fn full() -> (std::net::SocketAddr, (TcpListener, TcpStream)) {
    let full = TcpSocket::new_v4().expect("a socket");
    full.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let full = full.listen(0).expect("it listens");
    let address = full.local_addr().expect("bound");
    let waiting = TcpStream::connect(address).await.expect("the first may wait");
    (address, (full, waiting))
}

#[tokio::test]
async fn where_nothing_is_stored_and_no_connection_can_be_made_it_is_known_soon() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(905, 1000)]);
    let (address, _full) = full().await;
    let hanging = Settings::of(&registry).in_front_of(address).upstream(UPSTREAM);
    cold(hanging, &image, |method, path, response, waited| {
        assert_eq!((response.status, waited.as_secs()), (503, 1), "hanging: {method} {path}: {waited:?}");
    })
    .await;
    registry.stop().await;
    cold(Settings::of(&registry).upstream(UPSTREAM), &image, |method, path, response, waited| {
        assert_eq!(response.status, 503, "refused: {method} {path}");
        assert!(waited <= Duration::from_secs(2), "refused: {method} {path}: {waited:?}");
    })
    .await;
}

#[tokio::test]
async fn a_slow_token_service_keeps_nobody_waiting_longer_than_who_came_first() {
    let registry = Registry::start().await;
    for tag in ["1", "2", "3"] {
        registry.add_image("library/app", tag, &[noise(904, 1000)]);
    }
    let mirror = Settings::of(&registry).upstream(UPSTREAM).start().await;
    let gate = Trouble::TokensDripping.begin(&registry, Match::any());
    tokio::time::pause();
    let asked = Instant::now();
    let pull =
        |tag: u32| client::get(mirror.address, Box::leak(format!("/v2/library/app/manifests/{tag}").into()), &[]);
    let (one, two, three) = tokio::join!(pull(1), pull(2), pull(3));
    let waited = asked.elapsed();
    assert!([one, two, three].iter().all(|response| response.status == 503));
    assert!(waited <= LONGEST, "{waited:?}");
    gate.open();
}

#[tokio::test]
async fn a_tag_whose_manifest_is_in_trouble_is_known_within_two_questions() {
    let by_digest = || Match::manifests().get().and(Match::when(|asked| asked.path.contains("sha256:")));
    for (drips, stored) in [(true, false), (true, true), (false, false), (false, true)] {
        let (registry, mirror) = if stored {
            let (registry, mirror, _) = warm("").await;
            (registry, mirror)
        } else {
            let registry = Registry::start().await;
            registry.add_image("library/app", "1", &[noise(907, 1000)]);
            let mirror = Settings::of(&registry).upstream(UPSTREAM).start().await;
            assert_eq!(mirror.get(TAGS).await.status, 200);
            (registry, mirror)
        };
        let gate = if drips {
            Trouble::Dripping.begin(&registry, by_digest())
        } else {
            // It says what the tag points at, and that this is not there, each so late that it is nearly silence.
            let gate = Gate::new();
            registry.rule(Rule::on(by_digest()).refuse(404).stall_before_headers(&gate));
            registry.rule(Rule::on(Match::manifests().head()).stall_before_headers(&gate));
            registry.rule(Rule::on(Match::manifests()).stall_before_headers(&Gate::new()));
            slowly(&gate, 5_500);
            gate
        };
        tokio::time::pause();
        let (response, waited) = timed(&mirror, "GET", TAG).await;
        tokio::time::resume();
        let most = if stored { Duration::from_secs(2) } else { 2 * LONGEST } + Duration::from_millis(300);
        assert!(waited <= most, "drips: {drips}, stored: {stored}: {waited:?}");
        assert!(if stored { is_stale(&response) } else { response.status == 503 }, "drips: {drips}, stored: {stored}");
        gate.open();
    }
}

#[tokio::test]
async fn a_blob_that_began_and_whose_upstream_went_away_is_cut_within_18_s() {
    let mut registry = Registry::start().await;
    let blob = registry.add_blob("library/app", noise(908, 300_000));
    registry.rule(Rule::on(Match::blob(&blob).get()).stall_after(200_000, &Gate::new()));
    let mirror = Settings::of(&registry).upstream(UPSTREAM).start().await;
    let mut stream = mirror.stream(&format!("/v2/library/app/blobs/{blob}")).await;
    stream.read_exactly(100_000).await;
    registry.stop().await;
    tokio::time::pause();
    let asked = Instant::now();
    let rest = stream.finish().await;
    assert!(!rest.complete && asked.elapsed() <= Duration::from_millis(18_500), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_blob_that_trickles_is_asked_for_again_after_a_minute() {
    let registry = Registry::start().await;
    let bytes = noise(909, 300_000);
    let blob = registry.add_blob("library/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&blob).get()).once().drip(1, &gate));
    slowly(&gate, 1000);
    let mirror = TestMirror::of(&registry).await;
    tokio::time::pause();
    let (response, waited) = timed(&mirror, "GET", &format!("/v2/library/app/blobs/{blob}")).await;
    assert!(response.complete && response.body == bytes && waited < Duration::from_secs(63), "{waited:?}");
    assert_eq!(registry.gets_of(&blob), 2);
    gate.open();
}

#[tokio::test]
async fn each_address_has_one_time_out() {
    let (first, second) = (Registry::start().await, Registry::start().await);
    let image = first.add_image("library/app", "1", &[noise(910, 1000)]);
    let gates = [&first, &second].map(|registry| Trouble::Silent.begin(registry, Match::any()));
    cold(Settings::of(&first).or_at(&second).upstream(UPSTREAM), &image, |method, path, response, waited| {
        assert_eq!(response.status, 503, "{method} {path}");
        assert!(waited <= 2 * Duration::from_millis(7_100), "{method} {path}: {waited:?}");
    })
    .await;
    gates.iter().for_each(Gate::open);
}

/// What can be wrong with the connections themselves, or is over at once.
#[derive(Clone, Copy, Debug)]
enum Way {
    Refused,
    Hanging,
    In(Trouble),
}

#[tokio::test]
async fn where_something_is_stored_nobody_waits_longer_than_his_patience_whatever_the_trouble() {
    let quick = [
        Trouble::TokensRefused,
        Trouble::TokensFailing,
        Trouble::Failing,
        Trouble::Cutting,
        Trouble::Looping,
        Trouble::Limiting,
        Trouble::Away,
    ];
    let troubles = TROUBLES.into_iter().chain(quick).map(Way::In);
    let (full, _held) = full().await;
    for way in troubles.chain([Way::Refused, Way::Hanging]) {
        for restarted in [false, true] {
            let (mut registry, mut mirror, image) = warm("").await;
            let gate = match way {
                Way::In(trouble) => trouble.begin(&registry, Match::repository("library/app")),
                _ => Gate::new(),
            };
            if matches!(way, Way::Refused) {
                registry.stop().await;
            }
            if restarted || matches!(way, Way::Hanging) {
                let now = mirror.clock.now();
                let settings = mirror.stop().await;
                let settings = if matches!(way, Way::Hanging) { settings.in_front_of(full) } else { settings };
                mirror = settings.start_at(now).await;
            }
            tokio::time::pause();
            let most = Duration::from_millis(2010);
            for (path, method) in
                [TAG, TAGS, &referrers(&image)].into_iter().flat_map(|path| [(path, "HEAD"), (path, "GET")])
            {
                for _ in 0..3 {
                    let (response, waited) = timed(&mirror, method, path).await;
                    let what = format!("{way:?} {method} {path}, restarted: {restarted}: {waited:?}");
                    // What drips is a body.
                    let is_whole = matches!(way, Way::In(Trouble::Dripping)) && method == "HEAD";
                    assert!((is_stale(&response) || is_whole) && waited <= most, "{what}");
                }
            }
            let (response, waited) = timed(&mirror, "GET", TAG).await;
            let is_known = !matches!(way, Way::In(Trouble::Looping));
            assert!(is_stale(&response) && (!is_known || waited < Duration::from_millis(10)), "{way:?}: {waited:?}");
            tokio::time::resume();
            gate.open();
        }
    }
}
