//! What readers see of a fill, and how they wait for more of it.
//!
//! Truth: readers see every state, failure included; a fill that vanishes never looks like the end.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::watch;

use crate::mirror::error::MirrorError;
use crate::mirror::flight::places::RelayPlace;
use crate::mirror::flight::window::Window;
use crate::oci::Verifier;

/// How many bytes at the end of a blob are kept from readers until its digest is verified.
pub const HELD_BACK: u64 = 64 << 10;
/// Where a fill stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Upstream has not answered yet.
    Starting,
    /// Bytes arrive.
    Streaming,
    /// All bytes are there and have the digest.
    Verified,
    /// Neither the store nor memory could take the bytes any more. Readers go on upstream by themselves, from
    /// `written` with this verifier.
    Unkept(Verifier),
    /// Upstream failed, or sent something else. There is nothing more to come.
    Failed(MirrorError),
}

/// What readers see of a fill.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Size of the blob in bytes, once known.
    pub total: Option<u64>,
    /// How many bytes came: in the file, or from there on in memory.
    pub written: u64,
    /// Whether some of them came from an upstream that was in trouble: then readers get none of them before
    /// all are verified, so that the fill can begin anew unnoticed.
    pub doubtful: bool,
    /// The growing file. Readable to the end even after the fill is over.
    pub file: Option<Arc<File>>,
    /// Where it is not kept, or no longer: what comes, in memory.
    pub passed: Option<Arc<Window>>,
    /// The place at upstream of what never had one among the fills: who goes on alone keeps it.
    pub relay: Option<Arc<RelayPlace>>,
    /// Every reader holds one of these, so that they can be counted. Says whether there ever was one.
    pub seats: Arc<AtomicBool>,
    /// How many bytes of the blob lazy readers get from upstream besides this fill.
    pub relayed: Arc<AtomicU64>,
}

impl Progress {
    /// A fill that was just seated.
    pub fn starting() -> Progress {
        let (seats, relayed) = (Arc::default(), Arc::default());
        let (phase, total, file, passed, relay) = (Phase::Starting, None, None, None, None);
        Progress { phase, total, written: 0, doubtful: false, file, passed, relay, seats, relayed }
    }

    /// How many bytes at the beginning may be handed out at all.
    pub fn reached(&self) -> u64 {
        match self.phase {
            Phase::Verified => self.written,
            _ if self.doubtful => 0,
            _ => self.written,
        }
    }

    /// How far a reader may read that wants the end: everything once it is verified, before that
    /// all but the tail. Where the store gave up, the tail is still to come, from upstream.
    pub fn readable(&self) -> u64 {
        match self.phase {
            Phase::Verified | Phase::Unkept(_) => self.reached(),
            _ => self.reached().min(self.total.unwrap_or(self.written).saturating_sub(HELD_BACK)),
        }
    }
}

/// The handle by which a fill is followed.
pub type Following = watch::Receiver<Progress>;

/// Waits until upstream has answered the fill's request.
pub(crate) async fn started(following: &mut Following) -> Result<Progress, MirrorError> {
    wait(following, |phase| !matches!(phase, Phase::Starting)).await
}

/// Waits until a fill of unknown size knows it. `None` when it never will.
pub(crate) async fn finished(following: &mut Following) -> Result<Option<u64>, MirrorError> {
    Ok(wait(following, |phase| matches!(phase, Phase::Verified | Phase::Unkept(_) | Phase::Failed(_))).await?.total)
}

async fn wait(following: &mut Following, reached: impl Fn(&Phase) -> bool) -> Result<Progress, MirrorError> {
    let progress = match following.wait_for(|progress| reached(&progress.phase)).await {
        Ok(progress) => progress.clone(),
        Err(_) => return Err(MirrorError::Internal("the fill ended without a result".to_owned())),
    };
    match progress.phase {
        Phase::Failed(error) => Err(error),
        _ => Ok(progress),
    }
}
