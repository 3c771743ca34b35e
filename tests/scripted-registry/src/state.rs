//! What a registry knows while it runs, and how it decides what a request gets: record, challenge,
//! content, and then the first rule that takes the request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use super::answer::{self, Answer};
use super::content::Content;
use super::script::{Behaviour, Rule};
use super::tokens::{Issued, TokenPolicy};
use super::{Digest, Listener, Options, Recorded};

/// What all connections of a registry share.
pub(crate) struct Shared {
    inside: Mutex<Inside>,
    /// Moves with everything that a test may wait for.
    pub(crate) events: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) authority: String,
    pub(crate) storage: Option<String>,
    pub(crate) content: Content,
    pub(crate) options: Options,
    pub(crate) rules: Vec<Rule>,
    pub(crate) policy: Option<TokenPolicy>,
    pub(crate) issued: Issued,
    /// Manifest GETs left, and the limit, as Docker Hub counts them.
    pub(crate) quota: Option<(u64, u64)>,
    pub(crate) requests: Vec<Recorded>,
    pub(crate) connections: usize,
    pub(crate) open_connections: usize,
    pub(crate) hang_ups: usize,
    pub(crate) sent: HashMap<Digest, u64>,
    pub(crate) watcher: Option<Watcher>,
    /// See `Options::one_blob_at_a_time`.
    pub(crate) sends_a_blob: bool,
}

pub(crate) type Watcher = Box<dyn Fn(&Recorded, u16) + Send>;

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn new(authority: String) -> Shared {
        let inside = Inside { authority, ..Inside::default() };
        Shared { inside: Mutex::new(inside), events: watch::Sender::new(0) }
    }

    /// The number of a connection that was just accepted.
    pub(crate) fn connected(&self) -> usize {
        let mut inside = self.lock();
        inside.connections += 1;
        inside.open_connections += 1;
        inside.connections - 1
    }

    pub(crate) fn disconnected(&self) {
        self.lock().open_connections -= 1;
        self.happened();
    }

    pub(crate) fn count(&self, digest: Option<Digest>, bytes: u64) {
        if let Some(digest) = digest {
            *self.lock().sent.entry(digest).or_default() += bytes;
            self.happened();
        }
    }

    pub(crate) fn hung_up(&self) {
        self.lock().hang_ups += 1;
        self.happened();
    }

    fn happened(&self) {
        self.events.send_modify(|events| *events += 1);
    }

    /// Records a request and decides what it gets.
    pub(crate) fn take(&self, request: &Recorded) -> (Answer, Behaviour) {
        let mut inside = self.lock();
        let inside = &mut *inside;
        inside.requests.push(request.clone());
        let (answer, authorised) = inside.honest(request);
        let rule = inside.rules.iter().find(|rule| rule.takes(request, authorised));
        let behaviour = rule.map(|rule| rule.behaviour.clone()).unwrap_or_default();
        if let Some(watcher) = &inside.watcher {
            let replaced = behaviour.replace.as_ref().map(|replacement| replacement.status);
            watcher(request, behaviour.status.or(replaced).unwrap_or(answer.status));
        }
        self.happened();
        (answer, behaviour)
    }
}

impl Inside {
    /// The honest answer, and whether it is more than a demand for credentials.
    fn honest(&mut self, request: &Recorded) -> (Answer, bool) {
        if request.listener == Listener::Storage {
            return (self.stored(request), true);
        }
        if request.path == "/token" {
            let policy = self.policy.clone().unwrap_or_else(TokenPolicy::bearer);
            return (self.issued.token(&policy, request), true);
        }
        if let Some(policy) = &self.policy {
            let own_url = format!("http://{}", self.authority);
            if let Some(refusal) = self.issued.check(policy, &own_url, request) {
                return (refusal.with("docker-distribution-api-version", "registry/2.0"), false);
            }
        }
        let answer = answer::honest(&self.content, &self.options, request)
            .with("docker-distribution-api-version", "registry/2.0");
        let answer = self.redirected_blob(&answer, request).unwrap_or(answer);
        (self.charge(answer, request), true)
    }

    /// The storage host: content for whoever has a good signature and sends no credentials.
    fn stored(&mut self, request: &Recorded) -> Answer {
        if let Some(refusal) = self.issued.check_signature(request) {
            return refusal;
        }
        let digest = request.path.strip_prefix("/storage/").and_then(|digest| digest.parse::<Digest>().ok());
        let found = digest.and_then(|digest| {
            let bytes = self.content.repositories.values().find_map(|holding| holding.blobs.get(&digest))?;
            Some((digest, bytes.clone()))
        });
        match found {
            Some((digest, bytes)) => {
                let mut answer = Answer::content(bytes, digest, "application/octet-stream", request.header("range"));
                answer.remove("docker-content-digest");
                answer.with("etag", "\"not-a-digest\"")
            }
            None => Answer::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        }
    }

    fn redirected_blob(&mut self, answer: &Answer, request: &Recorded) -> Option<Answer> {
        let storage = self.storage.clone()?;
        let digest = answer.digest.filter(|_| request.keyword() == Some("blobs"))?;
        let path = format!("/storage/{digest}");
        let location = format!("http://{storage}{path}?{}", self.issued.sign(&request.method, &path));
        Some(Answer::new(307, "text/html", "").with("location", &location))
    }

    /// Counts manifest GETs as Docker Hub does.
    fn charge(&mut self, answer: Answer, request: &Recorded) -> Answer {
        let Some((limit, left)) = self.quota.filter(|_| request.keyword() == Some("manifests")) else {
            return answer;
        };
        let counts = request.method == "GET" && answer.status == 200;
        let (answer, left) = match (counts, left) {
            (true, 0) => (Answer::error(429, "TOOMANYREQUESTS"), 0),
            (true, left) => (answer, left - 1),
            (false, left) => (answer, left),
        };
        self.quota = Some((limit, left));
        answer
            .with("ratelimit-limit", &format!("{limit};w=21600"))
            .with("ratelimit-remaining", &format!("{left};w=21600"))
            .with("docker-ratelimit-source", "192.0.2.1")
    }
}
