//! The threads that carry what others send.
//!
//! Who sends without end, heads that only announce one or the digits of a length, keeps whoever reads them from everything
//! else. Where the connections of upstreams, and the fills that they feed, are carried by threads of their own, hits and
//! their deadlines do not wait behind that; and fills not behind the bucket, where that has threads of its own.

use std::sync::{Arc, OnceLock};

use tokio::runtime::{Handle, Runtime};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Carries tasks. Until it has threads for it they stay with who begins them.
#[derive(Clone, Debug, Default)]
pub struct Carrier(Arc<OnceLock<Handle>>);

/// Who carries what comes from whom: nobody waits behind what others send.
#[derive(Clone, Debug, Default)]
pub struct Carriers {
    /// From upstreams, with the fills.
    pub upstreams: Carrier,
    /// From the bucket, and from other replicas.
    pub tier: Carrier,
}

impl Carrier {
    /// From now on by the threads of `runtime`, which outlives what it carries.
    pub fn begin(&self, runtime: &Runtime) {
        // Whoever was first keeps it.
        let _ = self.0.set(runtime.handle().clone());
    }

    /// What `task` comes to. It ends with who waits for it; what it spawned goes on where it was carried.
    pub async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let Some(carrier) = self.0.get() else { return task.await };
        match AbortOnDropHandle::new(carrier.spawn(task)).await {
            Ok(came) => came,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Has `task` go on by itself, as one of `tasks`.
    pub fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        match self.0.get() {
            Some(carrier) => tasks.spawn_on(task, carrier),
            None => tasks.spawn(task),
        };
    }
}
