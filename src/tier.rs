//! The tier: one bucket of an S3-compatible store behind the local one, the same for all replicas.
//!
//! [`Bucket`] is the one place that knows `object_store`; its methods speak of keys, which are the names of files
//! below the store, and of digests. Whoever reads waits for it no longer than his patience. [`Raising`] carries up
//! what is [`owed`](crate::owed). [`Leases`] say which replica fetches a blob,
//! [`marks`] what is to leave the bucket, and [`claims`] what leaves it just now. The use case holds a bucket as it holds a port: what is exchanged in tests is the
//! object store inside. Truth: an object under a digest was hashed on its way there; what comes from one is hashed
//! again by whoever keeps it.

mod breaker;
mod bucket;
pub mod claims;
mod conditional;
mod doubted;
mod inventory;
mod leases;
pub mod marks;
mod merge;
mod proof;
mod raising;
mod record;
pub mod settings;
mod silent;
mod store_time;
pub mod trial;
mod waited;

pub use bucket::{Bucket, Listed, Object, OpenError, Pace, Reading, Trouble};
pub use conditional::Conditional;
pub use doubted::Doubted;
pub use inventory::Lost;
pub use leases::{Found, Leases, remove_void};
pub use proof::{PeersKey, Question};
pub use raising::{Raising, Standing};
pub(crate) use waited::IN_A_ROW;
pub use waited::Waited;
