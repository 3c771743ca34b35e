//! What readers see of a fill, and how they wait for more of it.
//!
//! Truth: readers see every state, failure included; a fill that vanishes never looks like the end.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use crate::mirror::error::MirrorError;
use crate::mirror::flight::early::Early;
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

/// Why readers wait for what came already: it may turn out to be no part of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing speaks against it.
    None,
    /// Another address may have it, too: so as long as nobody has any of it, it can begin anew.
    Another,
    /// Some of it is left over of an upstream that was in trouble: nobody gets any of it before all is verified, so that
    /// it can begin anew unnoticed.
    LeftOver,
    /// It begins like a page for people, or is called one: then it is handed out when it turns out to be the blob all the same.
    Page,
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
    /// Why nobody may have them yet.
    pub doubt: Doubt,
    /// The growing file. Readable to the end even after the fill is over.
    pub file: Option<Arc<File>>,
    /// Where it is not kept, or no longer: what comes, in memory.
    pub passed: Option<Arc<Window>>,
    /// The place at upstream of what never had one among the fills: who goes on alone keeps it.
    pub relay: Option<Arc<RelayPlace>>,
    /// Every reader holds one of these, so that they can be counted. Says whether there ever was one.
    pub seats: Arc<AtomicBool>,
    /// What may be handed out as parts before it is verified, where it is known how large the blob is.
    pub early: Option<Arc<Early>>,
    /// Where its bytes come from the bucket: the blob there.
    pub shared: Option<Arc<InBucket>>,
    /// Where another replica may fetch it: the blob there.
    pub replica: Option<Arc<AtReplica>>,
}

impl Progress {
    /// A fill that was just seated.
    pub fn starting() -> Progress {
        let (phase, total, file, passed, relay) = (Phase::Starting, None, None, None, None);
        let (doubt, seats, early, shared, replica) = (Doubt::None, Arc::default(), None, None, None);
        Progress { phase, total, written: 0, doubt, file, passed, relay, seats, early, shared, replica }
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
        let anew = self.doubt == Doubt::LeftOver || another && self.is_held_back();
        if anew {
            (self.phase, self.total, self.written, self.doubt) = (Phase::Starting, None, 0, Doubt::None);
            (self.file, self.passed) = (None, None);
        }
        anew
    }

    /// How many bytes at the beginning may be handed out at all.
    pub fn reached(&self) -> u64 {
        match (&self.phase, self.doubt) {
            (Phase::Verified, _) | (_, Doubt::None | Doubt::Another) => self.written,
            (_, Doubt::LeftOver | Doubt::Page) => 0,
        }
    }

    /// Whether no reader can have any of it yet.
    pub fn is_held_back(&self) -> bool {
        match self.doubt {
            Doubt::Page => true,
            Doubt::Another => is_held_back(self.total, self.written),
            Doubt::None | Doubt::LeftOver => self.total.unwrap_or_default().max(self.written) <= HELD_BACK,
        }
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
    fn nothing_can_be_read_of_what_is_taken_back() {
        for (doubt, another, written, expected) in [
            (Doubt::LeftOver, false, 1 << 20, true),
            (Doubt::LeftOver, true, 1, true),
            (Doubt::Page, true, 1 << 20, true),
            (Doubt::Another, true, HELD_BACK, true),
            (Doubt::Another, true, HELD_BACK + 1, false),
            (Doubt::None, false, 1, false),
        ] {
            let phase = Phase::Streaming;
            let mut progress = Progress { phase, doubt, written, total: None, ..Progress::starting() };
            assert_eq!(progress.begin_anew(another), expected, "{doubt:?} {another} {written}");
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
            let progress = Progress { total, written, doubt: Doubt::Another, ..Progress::starting() };
            assert_eq!(progress.is_held_back(), expected, "{total:?} {written}");
        }
    }
}
