//! What is added to the metadata and takes longer than a pull waits for.

use std::sync::Arc;

use tokio::sync::watch;

/// How many additions are under way that nobody waits for any more.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Late(watch::Sender<usize>);

impl Late {
    pub(in crate::mirror) fn count(&self) -> usize {
        *self.0.borrow()
    }

    pub(in crate::mirror) async fn nothing_left(&self) {
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    pub(in crate::mirror) fn one_more(self: &Arc<Self>) -> LateOne {
        self.0.send_modify(|count| *count += 1);
        LateOne(Arc::clone(self))
    }
}

/// Counts as late until it is dropped.
pub(in crate::mirror) struct LateOne(Arc<Late>);

impl Drop for LateOne {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
