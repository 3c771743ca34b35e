//! Requests that were answered from memory a moment ago, recognised by their bytes.
//!
//! A client that asks for what was asked for before sends the same method, path and `Accept` lines.
//! What they were understood to mean, and where they were routed, cannot have changed, so neither is
//! done again. Truths: only what everybody may read is remembered, and nothing but that. The answer itself belongs to
//! the mirror, which is asked each time whether it still holds.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::{Arc, Weak};

use http::Method;
use http::header::ACCEPT;
use parking_lot::RwLock;

use crate::mirror::{Asked, Kept, Route};
use crate::oci::Request;

/// How many requests are remembered; each takes a few hundred bytes.
const SLOTS: usize = 4096;
/// A request is remembered when what it is recognised by has at most so many bytes. Docker's lines of
/// `Accept` have 500; a longer one goes the long way.
const LONGEST: usize = 2 << 10;

/// A request that was understood.
#[derive(Debug)]
pub struct Shortcut {
    sent: Sent,
    /// Where it was routed.
    pub route: Route,
    /// What it means.
    pub request: Request,
    /// What it asks the mirror for.
    pub asked: Asked,
    /// What it was answered with.
    pub kept: Weak<Kept>,
    /// What held then: [`super::Edge::epoch`].
    pub epoch: u64,
}

impl Shortcut {
    /// What `http`, understood and routed so, was answered with.
    pub fn new<B>(
        http: &http::Request<B>,
        route: Route,
        request: Request,
        asked: Asked,
        kept: &Arc<Kept>,
        epoch: u64,
    ) -> Shortcut {
        Shortcut { sent: Sent::by(http), route, request, asked, kept: Arc::downgrade(kept), epoch }
    }
}

/// What a request is recognised by: a copy of its own, for a piece of what was read from a connection would
/// keep all of that.
#[derive(Debug)]
struct Sent {
    method: Method,
    path_and_query: Box<str>,
    /// The lines of `Accept`, each ended by the line feed that no line can have.
    accept_lines: Box<[u8]>,
}

impl Sent {
    fn by<B>(http: &http::Request<B>) -> Sent {
        let lines = http.headers().get_all(ACCEPT).into_iter();
        Sent {
            method: http.method().clone(),
            path_and_query: path_and_query(http).into(),
            accept_lines: lines.flat_map(|line| [line.as_bytes(), b"\n"]).collect::<Vec<_>>().concat().into(),
        }
    }

    fn again<B>(&self, http: &http::Request<B>) -> bool {
        let mut lines = self.accept_lines.split_inclusive(|byte| *byte == b'\n');
        self.method == *http.method()
            && *self.path_and_query == *path_and_query(http)
            && http.headers().get_all(ACCEPT).into_iter().all(|line| {
                lines.next().and_then(|known| known.strip_suffix(b"\n")).is_some_and(|known| known == line.as_bytes())
            })
            && lines.next().is_none()
    }

    fn len(&self) -> usize {
        self.path_and_query.len() + self.accept_lines.len()
    }
}

/// The shortcuts of a listener. One that needs the place of another takes it.
pub struct Shortcuts {
    slots: Box<[RwLock<Option<Arc<Shortcut>>>]>,
    hasher: RandomState,
}

impl Default for Shortcuts {
    fn default() -> Shortcuts {
        let slots = (0..SLOTS).map(|_| RwLock::default()).collect();
        Shortcuts { slots, hasher: RandomState::new() }
    }
}

impl std::fmt::Debug for Shortcuts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shortcuts").finish_non_exhaustive()
    }
}

impl Shortcuts {
    /// What is known of this request.
    pub fn find<B>(&self, http: &http::Request<B>) -> Option<Arc<Shortcut>> {
        self.slot(http)?.read().as_ref().filter(|shortcut| shortcut.sent.again(http)).cloned()
    }

    /// Remembers what `http` came to, unless it is very long, or depends on who asks. By how many bytes more requests are recognised
    /// now: all together by at most `SLOTS` times `LONGEST`.
    pub fn remember<B>(&self, http: &http::Request<B>, shortcut: Shortcut) -> i64 {
        let after = shortcut.sent.len();
        let for_everybody = shortcut.route.permit().is_for_everybody();
        let Some(slot) = self.slot(http).filter(|_| for_everybody && after <= LONGEST) else { return 0 };
        let before = slot.write().replace(Arc::new(shortcut)).map_or(0, |before| before.sent.len());
        i64::try_from(after).unwrap_or_default() - i64::try_from(before).unwrap_or_default()
    }

    /// Forgets all. By how many bytes they were recognised.
    pub(super) fn forget(&self) -> i64 {
        let taken = self.slots.iter().filter_map(|slot| slot.write().take());
        taken.map(|shortcut| i64::try_from(shortcut.sent.len()).unwrap_or_default()).sum()
    }

    fn slot<B>(&self, http: &http::Request<B>) -> Option<&RwLock<Option<Arc<Shortcut>>>> {
        let mut hasher = self.hasher.build_hasher();
        http.method().hash(&mut hasher);
        hasher.write(path_and_query(http).as_bytes());
        for line in http.headers().get_all(ACCEPT) {
            line.hash(&mut hasher);
        }
        self.slots.get(usize::try_from(hasher.finish() % SLOTS as u64).ok()?)
    }
}

fn path_and_query<B>(http: &http::Request<B>) -> &str {
    http.uri().path_and_query().map_or("", |whole| whole.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &Method, path: &str, accept: &[&str]) -> http::Request<()> {
        let builder = http::Request::builder().method(method).uri(path);
        accept.iter().fold(builder, |builder, line| builder.header(ACCEPT, *line)).body(()).expect("a request")
    }

    #[test]
    fn only_the_same_method_path_query_and_accept_lines_are_the_same_request() {
        let (path, lines) = ("/v2/app/manifests/1?ns=docker.io", ["a/b, c/d", "e/f"]);
        let sent = Sent::by(&request(&Method::GET, path, &lines));
        assert!(sent.again(&request(&Method::GET, path, &lines)));
        for (method, path, lines) in [
            (Method::POST, path, &lines[..]),
            (Method::HEAD, path, &lines),
            (Method::GET, "/v2/app/manifests/1", &lines),
            (Method::GET, "/v2/app/manifests/1?ns=ghcr.io", &lines),
            (Method::GET, path, &lines[..1]),
            (Method::GET, path, &["e/f", "a/b, c/d"]),
            (Method::GET, path, &[]),
        ] {
            assert!(!sent.again(&request(&method, path, lines)), "{method} {path} {lines:?}");
        }
    }
}
