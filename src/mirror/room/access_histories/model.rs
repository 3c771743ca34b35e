//! Who may have what, as it is written for people. Shares no code with what decides.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{DAY, GUESTS, LIFE, LINES, Line, Place, REPOSITORIES, Truth, UPSTREAMS};
use crate::access::{Access, Said};

/// Who may have what, as it is written for people.
#[derive(Default)]
pub(super) struct Model {
    pub(super) passwords: bool,
    pub(super) tokens: bool,
    pub(super) certificates: bool,
    /// When upstream said yes, to what was shown and to the holder of the certificate.
    pub(super) yes: HashMap<(usize, Place), Instant>,
    pub(super) yes_to_node: HashMap<Place, Instant>,
    /// What the tag was found to lead to.
    pub(super) led: HashMap<Place, usize>,
    pub(super) denied: HashSet<Place>,
    /// What is in the store, and was given there.
    pub(super) stored: HashSet<usize>,
    pub(super) given: HashSet<(Place, usize)>,
    /// What was given where an upstream is not now.
    pub(super) given_elsewhere: HashSet<(Place, usize)>,
}

impl Model {
    pub(super) fn may(&mut self, truth: &Truth, guest: usize, at: Place, blob: Option<usize>, now: Instant) -> bool {
        let (who, _, reader) = GUESTS[guest];
        let (upstream, access, ours, _) = UPSTREAMS[at.0];
        let is_somebody = who.starts_with("user:") || who.starts_with("cert:") || who == "oidc:named";
        if self.certificates && (self.passwords || self.tokens) && !is_somebody {
            return false;
        }
        let line = |(caller, of, repository, tag): &Line| {
            let led = tag.is_none() || blob.is_none_or(|blob| self.led.get(&at) == Some(&blob));
            *caller == who && *of == upstream && *repository == REPOSITORIES[at.1] && led
        };
        match access {
            Access::Public => !ours || truth.says(at, 0) == Said::Yes,
            Access::Shared if !(self.passwords || self.tokens || self.certificates) => true,
            Access::Shared if who.starts_with("oidc:") => LINES.iter().any(line),
            Access::Shared => is_somebody,
            Access::Mapped => {
                let to_all = |it: &Line| it.0 == "anonymous" && line(&(who, it.1, it.2, it.3));
                LINES.iter().any(|it| line(it) || to_all(it))
            }
            Access::PassThrough => self.passes(truth, (who.starts_with("cert:"), reader), at, now),
        }
    }

    /// It is another registry that has this name now: its yes is its own, and so is what it gave.
    pub(super) fn moves(&mut self, upstream: usize) {
        self.yes.retain(|(_, at), _| at.0 != upstream);
        self.yes_to_node.retain(|at, _| at.0 != upstream);
        self.led.retain(|at, _| at.0 != upstream);
        let of_now: Vec<_> = self.given.extract_if(|(at, _)| at.0 == upstream).collect();
        self.given.extend(self.given_elsewhere.extract_if(|(at, _)| at.0 == upstream));
        self.given_elsewhere.extend(of_now);
    }

    fn passes(&mut self, truth: &Truth, (node, reader): (bool, usize), at: Place, now: Instant) -> bool {
        let within = |at: Option<&Instant>, life: Duration| at.is_some_and(|at| now.duration_since(*at) < life);
        // What everybody may have needs nothing that is shown.
        if [reader, 0].iter().any(|reader| within(self.yes.get(&(*reader, at)), LIFE)) {
            return true;
        }
        match truth.says(at, reader) {
            Said::Yes => {
                self.yes.insert((reader, at), now);
                if node {
                    self.yes_to_node.insert(at, now);
                }
                true
            }
            Said::No => {
                self.yes.remove(&(reader, at));
                if node && reader != 0 {
                    self.yes_to_node.remove(&at);
                }
                false
            }
            Said::Nothing => {
                let he = reader != 2 && within(self.yes.get(&(reader, at)), DAY);
                he || within(self.yes.get(&(0, at)), DAY) || node && within(self.yes_to_node.get(&at), DAY)
            }
        }
    }

    /// Why an answer is wrong, if it is.
    pub(super) fn judges(
        &mut self,
        truth: &Truth,
        may: bool,
        (at, blob): (Place, usize),
        served: bool,
    ) -> Option<&'static str> {
        // What everybody was given may come by the word of another.
        let to_all = |of: usize| UPSTREAMS[of].1 == Access::Public && !UPSTREAMS[of].2;
        let open = (0..UPSTREAMS.len())
            .filter(|of| to_all(*of))
            .any(|of| (0..2).any(|r| truth.ever_had.contains(&((of, r), blob))));
        let proven = truth.ever_had.contains(&(at, blob)) || open && UPSTREAMS[at.0].3;
        let denied = self.denied.contains(&at);
        let at_hand = self.stored.contains(&blob) && self.given.contains(&(at, blob));
        let away = truth.away.contains(&at.0) || truth.denied.contains(&at);
        let there = !away && truth.has.contains(&(at, blob));
        if served {
            self.stored.insert(blob);
            self.given.insert((at, blob));
        }
        match served {
            true if !may => Some("given to who may not"),
            true if !proven => Some("given without a proof that it is there"),
            true if denied => Some("given although it is denied"),
            false if may && !denied && (there || at_hand) => Some("kept from who may"),
            _ => None,
        }
    }
}
