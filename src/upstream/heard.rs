//! Which of the addresses of an upstream answered a question.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Upstream;
use crate::oci::Place;

/// What is told of one question: which address answered it, once one has. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Option<Place>>>);

impl Heard {
    /// It was this one, if that is known.
    pub fn note(&self, place: Option<&Place>) {
        *self.0.lock() = place.cloned();
    }

    /// The address that answered. `None` also where nobody tells, as of an upstream with a single one.
    pub fn place(&self) -> Option<Place> {
        self.0.lock().clone()
    }
}

/// The same upstream for one question, and what will be told of that.
pub fn listening(upstream: &Arc<dyn Upstream>) -> (Arc<dyn Upstream>, Heard) {
    let heard = Heard::default();
    (upstream.noting(&heard).unwrap_or_else(|| Arc::clone(upstream)), heard)
}
