//! A registry with a token service and a repository for some of its users, a mirror that passes each caller's own
//! credential on, and the promise to each: he gets what the registry gives to him, and nobody learns more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use scripted_registry::client::{self, Response};
use scripted_registry::{Image, Match, Registry, TokenPolicy, noise};
use tokio::runtime::Runtime;

use super::loopback;
use super::mirror::Mirror;
use super::workspace::Workspace;

/// The name that the registry has for the mirror.
pub(crate) const HOST: &str = "registry.test";
/// A repository for [`READER`] and, until he is withdrawn, for [`LEAVER`]; its tag is `1`.
pub(crate) const PRIVATE: &str = "team/private";
/// One that does not exist, and of which the registry does not say so either.
pub(crate) const ABSENT: &str = "team/nothing";
/// May read, and stays.
pub(crate) const READER: &str = "ann";
/// May read until [`Scene::withdraw`].
pub(crate) const LEAVER: &str = "cid";
/// How long a yes of the registry holds.
pub(crate) const LIFE: Duration = Duration::from_secs(2);

/// The password of each user is his name.
pub(crate) fn policy(readers: &[&str]) -> TokenPolicy {
    let policy = TokenPolicy::bearer().user(READER, READER).user(LEAVER, LEAVER);
    policy.private_to(PRIVATE, readers).private_to(ABSENT, &["nobody"])
}

/// The registry, its image and the mirror.
pub(crate) struct Scene<'a> {
    runtime: Runtime,
    /// The registry.
    pub(crate) registry: Registry,
    /// The image at [`PRIVATE`].
    pub(crate) image: Image,
    /// The mirror.
    pub(crate) mirror: Mirror<'a>,
}

impl<'a> Scene<'a> {
    /// With the registry as the default of the mirror's listener, in `pass-through`.
    pub(crate) fn start(workspace: &'a Workspace) -> Scene<'a> {
        let lines = format!("[access]\ngrant_ttl = \"{}s\"\n", LIFE.as_secs());
        Scene::configured(loopback::unused_address(), &lines, "access = \"pass-through\"", workspace)
    }

    /// With a mirror at `address`, further lines of its configuration, and keys of its upstream.
    pub(crate) fn configured(address: SocketAddr, lines: &str, upstream: &str, workspace: &'a Workspace) -> Scene<'a> {
        let runtime = Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start());
        let image = registry.add_docker_image(PRIVATE, "1", &[noise(71, 300_000), noise(72, 300_000)]);
        registry.require_tokens(policy(&[READER, LEAVER]));
        // Tags stay fresh: the registry is asked for nothing but whether somebody may.
        let config = format!(
            "{lines}\n[store]\nmin_free = \"0\"\n[cache]\ntag_ttl = \"1h\"\nnegative_ttl = \"0s\"\n\
             [[upstream]]\nhost = \"{HOST}\"\nurl = \"{}\"\n{upstream}\n",
            registry.url()
        );
        let mirror = Mirror::configured(address, HOST, &config, workspace);
        Scene { runtime, registry, image, mirror }
    }

    /// [`LEAVER`] may not read any more.
    pub(crate) fn withdraw(&self) {
        self.registry.require_tokens(policy(&[READER]));
    }

    /// The registry is away from now on, its token service with it.
    pub(crate) fn stop_registry(&mut self) {
        self.runtime.block_on(self.registry.stop());
    }

    /// How often each layer was asked for at the registry.
    pub(crate) fn fetched(&self) -> Vec<usize> {
        self.image.layers.iter().map(|layer| self.registry.gets_of(&layer.digest)).collect()
    }

    /// HEADs for manifests so far: the questions whether somebody may.
    pub(crate) fn questions(&self) -> usize {
        self.registry.count_of(&Match::manifests().head())
    }

    /// What somebody without a login is told about the repository, stored or not: the status of each answer.
    ///
    /// # Panics
    /// When any of it differs from what he is told of one that does not exist.
    pub(crate) fn answers_to_nobody(&self) -> Vec<u16> {
        let (manifest, layer) = (&self.image.manifest.digest, &self.image.layers[0].digest);
        let parts = [format!("manifests/{manifest}"), "manifests/1".to_owned(), format!("blobs/{layer}")];
        let lists = ["tags/list".to_owned(), format!("referrers/{manifest}")];
        let mut statuses = Vec::new();
        for part in parts.iter().chain(&lists) {
            for method in ["GET", "HEAD"] {
                let told = [PRIVATE, ABSENT].map(|repository| {
                    let path = format!("/v2/{repository}/{part}");
                    let asked = client::request(self.mirror.address(), method, &path, &[]);
                    told(&self.runtime.block_on(asked), repository)
                });
                assert_eq!(told[0], told[1], "{method} {part}: a private image is told as one that does not exist");
                statuses.push(told[0].0);
            }
        }
        statuses
    }
}

/// All that can be told from an answer, without the name of the repository.
fn told(response: &Response, repository: &str) -> (u16, Vec<String>, String) {
    let plain = |text: String| text.replace(repository, "NAME");
    let headers = response.headers.iter().filter(|(name, _)| *name != "date" && *name != "content-length");
    let headers = headers.map(|(name, value)| plain(format!("{name}: {value:?}")));
    (response.status, headers.collect(), plain(String::from_utf8_lossy(&response.body).into_owned()))
}

/// Somebody with a client of his own.
pub(crate) trait Person {
    /// Pulls tag `1` of the repository through the mirror and forgets it again.
    ///
    /// # Errors
    /// What the client says where it does not get it.
    fn pull(&mut self, repository: &str) -> Result<(), String>;
}

/// Somebody who pulls with this client: the reader, a stranger without a login, and who loses his rights.
pub(crate) fn each_gets_what_is_his(scene: &mut Scene<'_>, mut people: [Box<dyn Person + '_>; 3]) {
    let [reader, stranger, leaver] = &mut people;
    let cold = refusal(stranger.as_mut());
    let (unproven, told) = (scene.answers_to_nobody(), vec![401; 10]);
    assert_eq!(unproven, told, "before it is stored");
    assert_eq!(scene.fetched(), [0, 0], "nobody who may not read makes the mirror fetch");

    pulls(reader.as_mut());
    assert_eq!(refusal(stranger.as_mut()), cold, "the same when it is stored");
    assert_eq!(scene.answers_to_nobody(), told, "when it is stored");
    pulls(leaver.as_mut());
    assert_eq!(scene.fetched(), [1, 1], "the bytes are shared");

    let withdrawn = Instant::now();
    scene.withdraw();
    until_refused(leaver.as_mut(), withdrawn);
    pulls(reader.as_mut());
    assert_eq!(scene.fetched(), [1, 1], "one who lost his rights took nothing from the others");

    scene.stop_registry();
    refusal(stranger.as_mut());
    assert_eq!(scene.answers_to_nobody(), told, "while the registry is away he is told what it wanted to see");
}

fn pulls(person: &mut dyn Person) {
    person.pull(PRIVATE).unwrap_or_else(|said| panic!("is refused what he may read: {said}"));
}

/// Pulls until that is refused, which is when a yes from before `withdrawn` is over, however often it was used.
pub(crate) fn until_refused(person: &mut dyn Person, withdrawn: Instant) {
    loop {
        let begun = withdrawn.elapsed();
        if person.pull(PRIVATE).is_err() {
            return;
        }
        assert!(begun < LIFE, "a pull that began {begun:?} after the rights were withdrawn");
    }
}

/// What the client says to somebody who may not read.
///
/// # Panics
/// When it gets the image, or says something else about one that does not exist.
pub(crate) fn refusal(person: &mut dyn Person) -> String {
    let [private, absent] = [PRIVATE, ABSENT].map(|repository| {
        let said = person.pull(repository).expect_err("is refused");
        // Clients write the time before what they say.
        let words = said.split_whitespace().filter(|word| !word.starts_with("time="));
        words.collect::<Vec<_>>().join(" ").replace(repository, "NAME").replace(&repository.replace('/', "%2F"), "NAME")
    });
    assert_eq!(private, absent);
    private
}

/// What a command said, where it failed.
pub(crate) fn outcome(output: &std::process::Output) -> Result<(), String> {
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(said)
}
