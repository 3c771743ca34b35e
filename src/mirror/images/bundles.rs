//! Bundles made and taken in while pulls go on.
//!
//! Reading and writing block and run on threads of their own; what they work on is held meanwhile,
//! so that neither eviction nor a collection takes it away. What comes in gets its room like a fill
//! and counts like one. Dropping the future that waits for a bundle does not end it: whoever reads or
//! writes it fails when the other side is gone.

use std::any::Any;
use std::io::{Read, Write};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob_store::StoreError;
use crate::bundle::import::Intake;
use crate::bundle::{ExportError, ImportError, Plan, Selection, Space, Stores, import};
use crate::documents::{self, Imported, Receipt};
use crate::mirror::Mirror;
use crate::mirror::fill::Fills;
use crate::mirror::keep::RoomKeeper;
use crate::mirror::recall::negatives::Negatives;
use crate::mirror::room::holds::Hold;
use crate::oci::{Digest, ImageName};

/// How often a plan is made again because something of it was evicted before it could be held.
const ATTEMPTS: usize = 3;

/// A bundle that can be written: all of it is there and stays until this is dropped.
pub struct Outgoing {
    plan: Plan,
    stores: Stores,
    tasks: TaskTracker,
    _hold: Hold,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Whether there would be nothing in it.
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }

    /// What it will be, for whoever ordered it.
    pub fn document(&self) -> documents::Plan {
        self.plan.document()
    }

    /// Writes the tar, on a thread that may block.
    ///
    /// # Errors
    /// [`ExportError`]; what was written before is not a bundle.
    pub async fn send(self, out: impl Write + Send + 'static) -> Result<(), ExportError> {
        let tasks = self.tasks.clone();
        let written = tasks.spawn_blocking(move || self.plan.write(&self.stores, out, &Handle::current()));
        written.await.unwrap_or_else(|error| Err(ExportError::Write(std::io::Error::other(error))))
    }
}

/// Makes bundles and takes them in.
pub(crate) struct Bundles {
    stores: Stores,
    room: Arc<RoomKeeper>,
    negatives: Arc<Negatives>,
    tasks: TaskTracker,
    /// Cancelled when what is under way has to end.
    ending: CancellationToken,
}

impl Mirror {
    /// Finds out what a bundle would be, and keeps that.
    ///
    /// # Errors
    /// [`ExportError::Metadata`]; [`ExportError::Gone`] when blobs disappear faster than they are held.
    pub async fn plan_bundle(&self, selection: Selection) -> Result<Outgoing, ExportError> {
        let Bundles { stores, room, tasks, .. } = &self.0.bundles;
        let selection = Arc::new(selection);
        let mut attempt = 1;
        loop {
            let (made_from, selection) = (stores.clone(), Arc::clone(&selection));
            let planned = tokio::task::spawn_blocking(move || Plan::make(&made_from, &selection, &Handle::current()));
            let plan = planned.await.map_err(|error| ExportError::Write(std::io::Error::other(error)))??;
            let hold = room.holds.begin();
            match self.0.bundles.hold_all(&plan, &hold).await {
                None => {
                    let (stores, tasks) = (stores.clone(), tasks.clone());
                    return Ok(Outgoing { plan, stores, tasks, _hold: hold });
                }
                Some(digest) if attempt == ATTEMPTS => return Err(ExportError::Gone(digest)),
                Some(_) => attempt += 1,
            }
        }
    }

    /// Takes a bundle in. The name is for the image of a layout that has one image and no whole name
    /// for it. Gives the source back, at the place where reading ended.
    pub async fn take_in<R>(&self, mut bundle: R, name: Option<ImageName>) -> (Result<Imported, ImportError>, Option<R>)
    where
        R: Read + Send + 'static,
    {
        let Bundles { stores, room, negatives, tasks, .. } = &self.0.bundles;
        let (stores, room, negatives) = (stores.clone(), Arc::clone(room), Arc::clone(negatives));
        let work = move || {
            let runtime = Handle::current();
            let incoming = Incoming { hold: room.holds.begin(), room, runtime: runtime.clone() };
            let intake = Intake { space: Some(&incoming), name: name.as_ref() };
            let imported = import::import(&stores, &mut bundle, &intake, &runtime);
            // What upstream did not have a moment ago may have come.
            negatives.forget_all();
            if let Ok(Imported { stored, stored_bytes, images, .. }) = &imported {
                tracing::info!(blobs = stored, bytes = stored_bytes, images = images.len(), "a bundle was taken in");
            }
            (imported, bundle)
        };
        match tasks.spawn_blocking(work).await {
            Ok((imported, bundle)) => (imported, Some(bundle)),
            Err(error) => (Err(ImportError::Read(std::io::Error::other(error))), None),
        }
    }

    /// Cancelled when the daemon has waited long enough for what is under way.
    pub fn stopping(&self) -> CancellationToken {
        self.0.bundles.ending.clone()
    }

    /// What this side has, for the next export of the other side.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the blobs cannot be listed.
    pub async fn receipt(&self) -> Result<Receipt, StoreError> {
        Ok(self.0.bundles.stores.blobs.list().await?.into_iter().map(|(digest, _)| digest).collect())
    }
}

impl Bundles {
    pub(crate) fn new(stores: Stores, fills: &Fills) -> Bundles {
        let (room, negatives) = (Arc::clone(&fills.room), Arc::clone(&fills.negatives));
        Bundles { stores, room, negatives, tasks: fills.tasks.clone(), ending: fills.ending.clone() }
    }

    /// Holds everything that goes into a bundle; a blob that is gone already.
    async fn hold_all(&self, plan: &Plan, hold: &Hold) -> Option<Digest> {
        self.room.while_nothing_goes(|| plan.contents().for_each(|digest| hold.add(*digest))).await;
        for digest in plan.contents() {
            if self.stores.blobs.open(digest).await.is_none() {
                return Some(*digest);
            }
        }
        None
    }
}

/// Room for a bundle that comes in.
struct Incoming {
    room: Arc<RoomKeeper>,
    hold: Hold,
    runtime: Handle,
}

impl Space for Incoming {
    fn most(&self) -> u64 {
        self.room.most_room()
    }

    fn hold(&self, digest: &Digest) {
        self.runtime.block_on(self.room.while_nothing_goes(|| self.hold.add(*digest)));
    }

    fn reserve(&self, bytes: u64) -> Result<Box<dyn Any>, StoreError> {
        Ok(Box::new(self.runtime.block_on(self.room.reserve(bytes, 0))?))
    }

    fn relieve(&self, bytes: u64) {
        self.runtime.block_on(self.room.relieve(bytes));
    }
}
