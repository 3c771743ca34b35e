//! What readers see of a fill, and how they wait for more of it.
//!
//! Truth: readers see every state, failure included; a fill that vanishes never looks like the end.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::mirror::error::MirrorError;
use crate::mirror::flight::places::RelayPlace;
use crate::mirror::flight::replica::AtReplica;
use crate::mirror::flight::shared::InBucket;
use crate::mirror::flight::window::Window;
use crate::oci::Verifier;

/// How many bytes at the end of a blob are kept from readers until its digest is verified.
pub const HELD_BACK: u64 = 64 << 10;
/// Where another address may have it, too, nothing of a blob is handed out before so many bytes of it came: of what
/// breaks off sooner nobody has any, and it can begin anew, with another size if need be.
const BEGINNING: u64 = 4 << 10;
/// Of a blob of no more bytes nothing is handed out before it is verified but what is not held back of all of it.
pub const SMALL: u64 = 4 << 20;
/// How many bytes of a larger one may be handed out as parts before that, and one of so many if that is more.
const EARLY: u64 = 1 << 20;
const SHARE: u64 = 10;

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
    /// Whether another address may have it, too.
    pub has_another: bool,
    /// Whether it begins like a page for people: then it is handed out when it turns out to be the blob all the same.
    pub unlikely: bool,
    /// The growing file. Readable to the end even after the fill is over.
    pub file: Option<Arc<File>>,
    /// Where it is not kept, or no longer: what comes, in memory.
    pub passed: Option<Arc<Window>>,
    /// The place at upstream of what never had one among the fills: who goes on alone keeps it.
    pub relay: Option<Arc<RelayPlace>>,
    /// Every reader holds one of these, so that they can be counted. Says whether there ever was one.
    pub seats: Arc<AtomicBool>,
    /// How many bytes of the blob are handed out as parts before they are verified.
    early: Arc<AtomicU64>,
    /// Its size by a manifest, where that is known; within, `None` where nothing of it is handed out early.
    pub told: Option<Option<u64>>,
    /// Where its bytes come from the bucket: the blob there.
    pub shared: Option<Arc<InBucket>>,
    /// Where another replica may fetch it: the blob there.
    pub replica: Option<Arc<AtReplica>>,
}

impl Progress {
    /// A fill that was just seated.
    pub fn starting() -> Progress {
        let (seats, early) = (Arc::default(), Arc::default());
        let (phase, total, file, passed, relay) = (Phase::Starting, None, None, None, None);
        let (shared, replica) = (None, None);
        Progress {
            phase,
            total,
            written: 0,
            doubtful: false,
            unlikely: false,
            has_another: false,
            file,
            passed,
            relay,
            seats,
            early,
            told: None,
            shared,
            replica,
        }
    }

    /// The same of a blob of which this is known: see [`Progress::told`].
    #[must_use]
    pub fn told(self, told: Option<Option<u64>>) -> Progress {
        Progress { told, ..self }
    }

    /// Whether its bytes come from the bucket or another replica, as far as those were asked.
    pub fn is_from_tier(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.gives())
            || self.replica.as_ref().is_some_and(|replica| replica.gives())
    }

    /// Takes back what came and is not the blob, if no reader has any of it and it may be had all the same: it was left
    /// over, or there is `another` address. Whether that is so. Readers wait then as if nothing had come yet: nobody
    /// may see those bytes without the doubt.
    pub fn begin_anew(&mut self, another: bool) -> bool {
        let anew = self.doubtful || another && self.is_held_back();
        if anew {
            (self.phase, self.total, self.written, self.doubtful) = (Phase::Starting, None, 0, false);
            (self.file, self.passed) = (None, None);
        }
        anew
    }

    /// How many bytes at the beginning may be handed out at all.
    pub fn reached(&self) -> u64 {
        match self.phase {
            Phase::Verified => self.written,
            _ if self.doubtful || self.unlikely => 0,
            _ => self.written,
        }
    }

    /// Whether no reader can have any of it yet.
    pub fn is_held_back(&self) -> bool {
        let is_small = self.total.unwrap_or_default().max(self.written) <= HELD_BACK;
        self.unlikely || is_small || (self.has_another && is_held_back(self.total, self.written))
    }

    /// Takes `length` of the bytes that may be handed out before they are verified, of a blob of `size` bytes, if so
    /// many are left.
    pub fn claim(&self, length: u64, size: u64) -> bool {
        if self.told.is_some_and(|told| told != Some(size)) {
            return false;
        }
        let most = if size > SMALL { (size / SHARE).max(EARLY) } else { 0 };
        let claimed = |early: u64| early.checked_add(length).filter(|sum| *sum <= most);
        self.early.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed).is_ok()
    }

    /// Gives back what was claimed and is not handed out.
    pub fn unclaim(&self, length: u64) {
        self.early.fetch_sub(length, Ordering::Relaxed);
    }

    /// How far a reader may read that wants nothing from `end` on: to there once the blob is verified or where that may
    /// be handed out `early`, before that to what is held back of it.
    pub fn readable_of(&self, end: u64, early: bool) -> u64 {
        match self.phase {
            Phase::Verified => self.reached().min(end),
            _ if self.is_held_back() => 0,
            _ if early => self.reached().min(end),
            _ => self.reached().min(end.saturating_sub(HELD_BACK)),
        }
    }

    /// How far a reader may read that wants the end: everything once it is verified, before that
    /// all but the tail. Where the store gave up, the tail is still to come, from upstream.
    pub fn readable(&self) -> u64 {
        match self.phase {
            Phase::Verified | Phase::Unkept(_) => self.reached(),
            _ if self.is_held_back() => 0,
            _ => self.reached().min(self.total.unwrap_or(self.written).saturating_sub(HELD_BACK)),
        }
    }
}

/// Whether nothing may be handed out yet of a blob of `total` bytes, where that is known, of which so many came, and
/// which another address may have.
pub(crate) fn is_held_back(total: Option<u64>, came: u64) -> bool {
    total.unwrap_or_default().max(came) <= HELD_BACK || came < BEGINNING
}

/// The handle by which a fill is followed.
pub type Following = watch::Receiver<Progress>;

/// Waits until upstream has answered the fill's request.
pub(crate) async fn started(following: &mut Following) -> Result<Progress, MirrorError> {
    wait_for(following, |progress| !matches!(progress.phase, Phase::Starting)).await
}

/// Waits until some of it may be handed out, or it is over.
pub(crate) async fn sendable(following: &mut Following) -> Result<(), MirrorError> {
    wait_for(following, |progress| !progress.is_held_back() || is_over(&progress.phase)).await.map(drop)
}

/// Waits until a fill of unknown size knows it. `None` when it never will.
pub(crate) async fn finished(following: &mut Following) -> Result<Option<u64>, MirrorError> {
    Ok(wait_for(following, |progress| is_over(&progress.phase)).await?.total)
}

/// Whether nothing more comes of it.
pub(crate) const fn is_over(phase: &Phase) -> bool {
    !matches!(phase, Phase::Starting | Phase::Streaming)
}

async fn wait_for(following: &mut Following, reached: impl Fn(&Progress) -> bool) -> Result<Progress, MirrorError> {
    let progress = match following.wait_for(|progress| reached(progress)).await {
        Ok(progress) => progress.clone(),
        Err(_) => return Err(MirrorError::Internal("the fill ended without a result".to_owned())),
    };
    match progress.phase {
        Phase::Failed(error) => Err(error),
        _ => Ok(progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_large_blob_is_handed_out_early_and_nothing_of_a_small_one() {
        let fill = Progress::starting();
        let size = 100 << 20;
        assert!(fill.claim(2, size) && fill.claim((10 << 20) - 2, size));
        assert!(!fill.claim(1, size));
        fill.unclaim(1);
        assert!(fill.claim(1, size));
        assert!(Progress::starting().claim(EARLY, SMALL + 1) && !Progress::starting().claim(1, SMALL));
        assert!(!fill.claim(u64::MAX, u64::MAX));
        let told = |told| Progress { told: Some(told), ..Progress::starting() };
        assert!(told(Some(size)).claim(1, size) && !told(Some(1000)).claim(1, size) && !told(None).claim(1, size));
    }

    #[test]
    fn nothing_can_be_read_of_what_is_taken_back() {
        for (doubtful, another, written, expected) in [
            (true, false, 1 << 20, true),
            (true, true, 1, true),
            (false, true, HELD_BACK, true),
            (false, true, HELD_BACK + 1, false),
            (false, false, 1, false),
        ] {
            let phase = Phase::Streaming;
            let mut progress = Progress { phase, doubtful, written, total: None, ..Progress::starting() };
            assert_eq!(progress.begin_anew(another), expected, "{doubtful} {another} {written}");
            assert_eq!(progress.reached() == 0, expected);
        }
    }

    #[test]
    fn what_is_no_more_than_is_held_back_has_reached_nobody() {
        for (total, written, expected) in
            [(None, 0, true), (None, HELD_BACK, true), (None, HELD_BACK + 1, false), (Some(HELD_BACK + 1), 0, true)]
                .into_iter()
                .chain([(Some(HELD_BACK + 1), BEGINNING, false), (Some(HELD_BACK), BEGINNING, true)])
        {
            let progress = Progress { total, written, has_another: true, ..Progress::starting() };
            assert_eq!(progress.is_held_back(), expected, "{total:?} {written}");
        }
    }
}
