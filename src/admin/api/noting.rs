//! What is written down of an act: who did what, and what came of it. One line for each, when it is answered, or
//! given up by who ordered it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Response, StatusCode};

use super::status_of;
use crate::admin::Body;
use crate::admin::guard::{Actor, Door};
use crate::audit::{Audit, Image, Line};
use crate::documents::{Code, Error};
use crate::oci::{Digest, ImageName};

/// An act, to be written down when it is dropped.
pub(super) struct Noting {
    audit: Option<Arc<Audit>>,
    door: Door,
    act: String,
    actor: Actor,
    order: Option<String>,
    /// Where it is done to images: those to which it was.
    images: Option<Vec<Image>>,
    came_of_it: (&'static str, Option<StatusCode>),
    bytes: Arc<AtomicU64>,
}

impl Noting {
    /// Nothing is known yet of what comes of it.
    pub(super) fn new(audit: Option<Arc<Audit>>, door: Door, act: &str, actor: Actor) -> Noting {
        Noting {
            audit,
            door,
            act: act.to_owned(),
            actor,
            order: None,
            images: None,
            came_of_it: ("failed", None),
            bytes: Arc::default(),
        }
    }

    /// It turned out who acts.
    pub(super) fn by(&mut self, actor: Actor) {
        self.actor = actor;
    }

    /// It is ordered in these words.
    pub(super) fn ordered(&mut self, order: String) {
        self.order = Some(order);
    }

    /// This is one of the images that it is done to, and whether it was, with what its name meant.
    pub(super) fn done_to(&mut self, name: &ImageName, done: bool, digest: Option<&Digest>) {
        self.images.get_or_insert_default().extend(done.then(|| Image::new(name, digest)));
    }

    /// This is answered.
    pub(super) fn ended(mut self, answered: Result<Response<Body>, Error>) -> Result<Response<Body>, Error> {
        self.came_of_it = match &answered {
            Ok(answer) => (self.done(true), Some(answer.status())),
            Err(error) => (verdict(error.code), Some(status_of(error.code))),
        };
        answered
    }

    /// It is answered before it has ended, and is to be written down by who sees its end.
    pub(super) fn goes_on(&mut self) -> Noting {
        let (audit, act, order) = (self.audit.take(), self.act.clone(), self.order.take());
        Noting { audit, act, order, images: self.images.take(), bytes: self.bytes(), ..*self }
    }

    /// Where the bytes of a bundle are counted that goes to who acts, or comes from there.
    pub(super) fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// It was answered, and came to this end.
    pub(super) fn came_to(mut self, is_done: bool) {
        self.came_of_it = (self.done(is_done), Some(StatusCode::OK));
    }

    /// What was done to none of the images that it was for came to nothing.
    fn done(&self, is_done: bool) -> &'static str {
        let in_vain = self.images.as_ref().is_some_and(Vec::is_empty);
        if is_done && !in_vain { "allowed" } else { "failed" }
    }
}

const fn verdict(code: Code) -> &'static str {
    match code {
        Code::Unauthorized | Code::Forbidden | Code::Busy => "refused",
        _ => "failed",
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        let Some(audit) = &self.audit else { return };
        let (verdict, status) = self.came_of_it;
        audit.write(&Line {
            peer: self.door.peer.to_string(),
            listener: self.door.listener,
            caller: (self.actor != Actor::Anybody).then(|| self.actor.to_string()),
            act: Some(&self.act),
            order: self.order.as_deref(),
            images: self.images.as_deref(),
            verdict,
            status: status.map(|status| status.as_u16()),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..Line::default()
        });
    }
}
