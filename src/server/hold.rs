//! What there is of a connection beside what goes over it: how its answers get on, and whether it has to make room.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::half_closed::Answering;
use crate::mirror::Taker;

/// A hold on a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    answering: Answering,
    makes_room: CancellationToken,
    ends: CancellationToken,
}

impl Hold {
    /// On a connection that ends, at the latest, when `all` are to end.
    pub(super) fn under(all: &CancellationToken) -> Hold {
        Hold(Arc::new(Held { ends: all.child_token(), ..Held::default() }))
    }

    pub(super) fn answering(&self) -> &Answering {
        &self.0.answering
    }

    /// Cancelled when an answer for which the client only waits is to make room: he is told so.
    pub fn makes_room(&self) -> &CancellationToken {
        &self.0.makes_room
    }

    /// Cancelled when the connection is to end at once: to make room, or because all are to.
    pub(super) fn ends(&self) -> &CancellationToken {
        &self.0.ends
    }
}

impl Taker for Hold {
    fn still_for(&self) -> Duration {
        self.0.answering.still_for()
    }

    fn end(&self) {
        self.0.ends.cancel();
    }
}
