//! Requests that were answered from memory a moment ago, recognised by their bytes.
//!
//! A client that asks for what was asked for before sends the same path and the same `Accept`
//! lines. What they were understood to mean, and where they were routed, cannot have changed, so
//! neither is done again. Truth: nothing but that is remembered here. The answer itself belongs to
//! the mirror, which is asked each time whether it still holds.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use http::header::ACCEPT;
use http::{HeaderValue, Request};

use crate::mirror::{Kept, Route, Wanted};
use crate::oci::{AcceptSet, Reference};

/// How many requests are remembered; each takes a few hundred bytes.
const SLOTS: usize = 4096;

/// A request that was understood.
#[derive(Debug)]
pub struct Shortcut {
    sent: Sent,
    /// Where it was routed.
    pub route: Route,
    /// What it asks for.
    pub asked: Asked,
    /// What it was answered with.
    pub kept: Weak<Kept>,
}

/// The bytes that a request is recognised by.
#[derive(Debug)]
struct Sent {
    path_and_query: Box<str>,
    accept_lines: Vec<HeaderValue>,
}

impl Sent {
    fn by<B>(request: &Request<B>) -> Sent {
        Sent {
            path_and_query: path_and_query(request).into(),
            accept_lines: request.headers().get_all(ACCEPT).into_iter().cloned().collect(),
        }
    }

    fn again<B>(&self, request: &Request<B>) -> bool {
        *self.path_and_query == *path_and_query(request)
            && request.headers().get_all(ACCEPT).into_iter().eq(&self.accept_lines)
    }
}

/// What may be in memory.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A manifest, by a client that accepts these types.
    Manifest(Reference, AcceptSet),
    /// A blob. It is always a digest.
    Blob(Reference),
}

impl Asked {
    /// What to ask the mirror for; always there.
    pub const fn wanted(&self) -> Option<Wanted<'_>> {
        match self {
            Asked::Manifest(reference, accept) => Some(Wanted::Manifest(reference, *accept)),
            Asked::Blob(Reference::Digest(digest)) => Some(Wanted::Blob(digest)),
            Asked::Blob(Reference::Tag(_)) => None,
        }
    }
}

impl Shortcut {
    /// What `request`, understood and routed so, was answered with.
    pub fn new<B>(request: &Request<B>, route: Route, asked: Asked, kept: &Arc<Kept>) -> Shortcut {
        Shortcut { sent: Sent::by(request), route, asked, kept: Arc::downgrade(kept) }
    }
}

/// The shortcuts of a listener. One that needs the place of another takes it.
pub struct Shortcuts {
    slots: Box<[RwLock<Option<Arc<Shortcut>>>]>,
    hasher: RandomState,
}

impl Default for Shortcuts {
    fn default() -> Shortcuts {
        Shortcuts { slots: (0..SLOTS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }
}

impl std::fmt::Debug for Shortcuts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shortcuts").finish_non_exhaustive()
    }
}

impl Shortcuts {
    /// What is known of this request.
    pub fn find<B>(&self, request: &Request<B>) -> Option<Arc<Shortcut>> {
        let slot = self.slot(request)?.read().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|shortcut| shortcut.sent.again(request)).cloned()
    }

    /// Remembers it.
    pub fn remember<B>(&self, request: &Request<B>, shortcut: Shortcut) {
        if let Some(slot) = self.slot(request) {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shortcut));
        }
    }

    fn slot<B>(&self, request: &Request<B>) -> Option<&RwLock<Option<Arc<Shortcut>>>> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(path_and_query(request).as_bytes());
        for line in request.headers().get_all(ACCEPT) {
            line.hash(&mut hasher);
        }
        self.slots.get(usize::try_from(hasher.finish() % SLOTS as u64).ok()?)
    }
}

fn path_and_query<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("", |whole| whole.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, accept: &[&str]) -> Request<()> {
        let mut builder = Request::get(path);
        for line in accept {
            builder = builder.header(ACCEPT, *line);
        }
        builder.body(()).expect("a request")
    }

    #[test]
    fn only_the_same_path_query_and_accept_lines_are_the_same_request() {
        let (path, lines) = ("/v2/app/manifests/1?ns=docker.io", ["a/b, c/d", "e/f"]);
        let sent = Sent::by(&request(path, &lines));
        assert!(sent.again(&request(path, &lines)));
        for (path, lines) in [
            ("/v2/app/manifests/1", &lines[..]),
            ("/v2/app/manifests/1?ns=ghcr.io", &lines[..]),
            (path, &lines[..1]),
            (path, &["e/f", "a/b, c/d"]),
            (path, &[]),
        ] {
            assert!(!sent.again(&request(path, lines)), "{path} {lines:?}");
        }
    }
}
