//! What is spared, for how long, and what is told meanwhile.

use super::*;
use crate::clock::ManualClock;

#[derive(Default)]
struct Changes(Mutex<Vec<bool>>);

impl UpstreamObserver for Changes {
    fn requested(&self, _: &RegistryName, _: Option<u16>) {}
    fn received(&self, _: &RegistryName, _: u64, _: Duration) {}
    fn availability(&self, _: &RegistryName, _: &str, up: bool) {
        self.0.lock().push(up);
    }
}

struct Scene {
    changes: Arc<Changes>,
    clock: Arc<ManualClock>,
    guard: Guard,
}

impl Scene {
    fn new() -> Scene {
        let changes = Arc::new(Changes::default());
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let name = "registry.example".parse().expect("name");
        let guard = Guard::new(name, "registry.example".to_owned(), false, clock.clone(), changes.clone());
        Scene { changes, clock, guard }
    }

    /// What comes of a request that the upstream would answer like this.
    async fn ask(&self, answer: Result<u64, UpstreamErrorClass>) -> Result<u64, UpstreamErrorClass> {
        let answer = answer.map_err(|class| UpstreamError::new(class, "told"));
        self.guard.ask(Lane::Blobs, &resource(), None, async { answer }).await.map_err(|error| error.class)
    }

    fn changes(&self) -> Vec<bool> {
        self.changes.0.lock().clone()
    }
}

fn resource() -> Resource {
    Resource::tags(&"app".parse().expect("a name"))
}

#[tokio::test]
async fn every_change_is_told_once() {
    use UpstreamErrorClass::{NotFound, Unavailable};
    let scene = Scene::new();
    assert_eq!(scene.ask(Err(NotFound)).await, Err(NotFound));
    assert_eq!(scene.ask(Err(Unavailable)).await, Err(Unavailable));
    assert_eq!(scene.ask(Ok(1)).await, Err(Unavailable), "not asked");
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.ask(Err(Unavailable)).await, Err(Unavailable));
    assert_eq!(scene.changes(), [true, false]);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.ask(Err(NotFound)).await, Err(NotFound), "no is an answer");
    assert_eq!(scene.ask(Ok(1)).await, Ok(1));
    assert_eq!(scene.changes(), [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_client_leaves_is_taken_over_by_the_next() {
    let scene = Scene::new();
    assert!(scene.ask(Err(UpstreamErrorClass::Unavailable)).await.is_err());
    scene.clock.advance(Duration::from_secs(1));
    {
        let silence = std::future::pending::<Result<u64, _>>();
        let what = resource();
        let mut probe = Box::pin(scene.guard.ask(Lane::Blobs, &what, None, silence));
        assert!(futures_util::poll!(&mut probe).is_pending());
        assert_eq!(scene.ask(Ok(1)).await, Err(UpstreamErrorClass::Unavailable), "one at a time");
    }
    assert_eq!(scene.ask(Ok(1)).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_one_finds_out_waits_for_it_and_not_for_long() {
    let scene = Scene::new();
    for (answer, expected) in
        [(Ok(1), Ok(2)), (Err(UpstreamErrorClass::Unavailable), Err(UpstreamErrorClass::Unavailable))]
    {
        assert!(scene.ask(Err(UpstreamErrorClass::Unavailable)).await.is_err());
        scene.clock.advance(Duration::from_secs(1));
        let probe = async {
            tokio::time::sleep(FINDING_OUT / 2).await;
            answer.map_err(|class| UpstreamError::new(class, "told"))
        };
        let (began, what) = (Instant::now(), resource());
        let (_, waited) = tokio::join!(scene.guard.ask(Lane::Blobs, &what, None, probe), scene.ask(Ok(2)));
        assert_eq!((waited, began.elapsed()), (expected, FINDING_OUT / 2));
    }
    scene.clock.advance(Duration::from_secs(60));
    let silence = async {
        tokio::time::sleep(FINDING_OUT * 30).await;
        Ok(1)
    };
    let (began, what) = (Instant::now(), resource());
    let (_, waited) = tokio::join!(scene.guard.ask(Lane::Blobs, &what, None, silence), async {
        let waited = scene.ask(Ok(2)).await;
        (waited, began.elapsed())
    });
    assert_eq!(waited, (Err(UpstreamErrorClass::Unavailable), FINDING_OUT));
}

#[tokio::test]
async fn trouble_of_a_storage_host_is_none_of_the_registry() {
    let scene = Scene::new();
    let wait = Some(Duration::from_secs(900));
    for class in [UpstreamErrorClass::Unavailable, UpstreamErrorClass::RateLimited(wait)] {
        for _ in 0..20 {
            let error = UpstreamError::new(class, "told").elsewhere(true);
            let asked = scene.guard.ask(Lane::Blobs, &resource(), None, async { Err::<u64, _>(error) }).await;
            assert_eq!(asked.map_err(|error| error.class), Err(class), "asked again");
        }
    }
    assert_eq!(scene.ask(Ok(1)).await, Ok(1));
    assert_eq!(scene.changes(), [true]);
}

#[tokio::test]
async fn what_is_said_to_be_away_is_left_alone_and_everything_where_nothing_else_is_given() {
    let scene = Scene::new();
    let wait = Some(Duration::from_secs(600));
    let of = |name: &str| Resource::tags(&name.parse().expect("a name"));
    let ask = async |resource: Resource, answer: Result<u64, Option<u16>>| {
        let away = |status| UpstreamError { status, ..UpstreamError::new(UpstreamErrorClass::RateLimited(wait), "") };
        let answer = async { answer.map_err(away) };
        scene.guard.ask(Lane::Manifests, &resource, None, answer).await.map_err(|error| error.class)
    };
    let rested = Err(UpstreamErrorClass::RateLimited(wait));
    for one in ["a", "b", "c"] {
        assert_eq!(ask(of(one), Err(AWAY)).await, rested);
        assert_eq!(ask(of(one), Ok(1)).await, rested, "not asked");
        assert!(matches!(scene.guard.outlook(&of(one), None), Outlook::Spared(_)));
        assert_eq!(scene.guard.outlook(&of("other"), None), Outlook::Well);
        assert_eq!(ask(of("other"), Ok(1)).await, Ok(1));
    }
    scene.clock.advance(Duration::from_secs(600));
    assert_eq!(ask(of("a"), Ok(1)).await, Ok(1));
    for one in ["b", "c"] {
        assert_eq!(ask(of(one), Err(AWAY)).await, rested);
    }
    assert_eq!(ask(of("other"), Ok(1)).await, rested, "two, and nothing else was given");
    // What is said of everything, and by who limits our rate, is for all at once.
    for (resource, status) in [(Resource::door(), AWAY), (of("a"), Some(429)), (of("a"), None)] {
        scene.clock.advance(Duration::from_secs(600));
        assert_eq!(ask(of("other"), Ok(1)).await, Ok(1));
        assert_eq!(ask(resource, Err(status)).await, rested);
        assert_eq!(ask(of("other"), Ok(1)).await, rested, "{status:?}");
    }
}

#[tokio::test]
async fn a_limit_is_told_to_everybody_with_what_is_left_of_it() {
    use UpstreamErrorClass::RateLimited;
    let scene = Scene::new();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(scene.ask(Err(RateLimited(None))).await, Err(RateLimited(seconds(60))));
    scene.clock.advance(Duration::from_secs(20));
    assert_eq!(scene.ask(Ok(1)).await, Err(RateLimited(seconds(40))));
    scene.clock.advance(Duration::from_secs(40));
    assert_eq!(scene.ask(Ok(1)).await, Ok(1));
    assert_eq!(scene.changes(), [true], "who limits is there");
}
