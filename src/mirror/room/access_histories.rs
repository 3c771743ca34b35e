//! Histories of what everybody does, against a model of who may have what: no byte without a proof, and none kept
//! from whom it is due.
//!
//! The decisions are the true ones: rules, grants, memberships, denials, over stores in memory. What stands between
//! them here is as short as it can be. The model is written from the rules for people, and shares no code with them.
//! `REGISTRY_MIRROR_HISTORIES` says how many; a failure says the number of its history, which
//! `REGISTRY_MIRROR_HISTORY` runs alone. The file is long because a world takes some lines.

mod model;

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use self::model::Model;
use super::records::Records;
use super::stored::Stored;
use crate::access::{Access, Asked, Caller, Decision, Grant, Grants, Holders, Identities, Permit, Rules, Said, Shown};
use crate::blob_store::ingest::Ingest;
use crate::blob_store::{BlobStore, Content, Source, StoreError, Usage};
use crate::clock::{ManualClock, Timestamp};
use crate::metadata::memory::MemoryMetadata;
use crate::metadata::{Location, MetadataStore, Proof, Standing, TagKey, TagRecord};
use crate::metrics::Metrics;
use crate::oci::Place as Address;
use crate::oci::{AcceptSet, Algorithm, Descriptor, Digest, Places, Reference, RegistryName, Tag, Whereabouts};

const USUAL: u64 = 20_000;
const STEPS: u64 = 16;
/// So many histories share a world.
const A_WORLD: usize = 100;
const LIFE: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Blobs in memory.
#[derive(Default)]
struct Blobs(Mutex<HashMap<Digest, Bytes>>);

#[async_trait]
impl BlobStore for Blobs {
    async fn open(&self, digest: &Digest) -> Option<Content> {
        let bytes = self.0.lock().get(digest).cloned()?;
        Some(Content { size: bytes.len() as u64, source: Source::Memory(bytes) })
    }
    async fn commit(&self, _: Ingest, _: &Digest) -> Result<(), StoreError> {
        Ok(())
    }
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        self.0.lock().remove(digest);
        Ok(())
    }
    async fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        Ok(Vec::new())
    }
    async fn set_aside(&self, digest: &Digest, _: &Content) -> Result<bool, StoreError> {
        Ok(self.0.lock().remove(digest).is_some())
    }
    fn is_damaged(&self, _: &Digest) -> bool {
        false
    }
    async fn drop_set_aside(&self) -> Result<(), StoreError> {
        Ok(())
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn removals(&self) -> u64 {
        0
    }
}

/// The upstreams: by name, mode, whether we have a credential there, whether it says yes to each HEAD.
const UPSTREAMS: [(&str, Access, bool, bool); 6] = [
    ("open.example", Access::Public, false, false),
    ("mixed.example", Access::Public, true, false),
    ("shared.example", Access::Shared, true, false),
    ("mapped.example", Access::Mapped, true, false),
    ("pass.example", Access::PassThrough, false, false),
    ("liar.example", Access::Public, false, true),
];
/// The one that may be elsewhere.
const PASSES: usize = 4;
const REPOSITORIES: [&str; 2] = ["acme/app", "other/app"];
/// Who asks: what he was found to be, whether he showed something wrong, what he shows his upstream: nothing, a
/// password, a token.
const GUESTS: [(&str, bool, usize); 10] = [
    ("", false, 0),
    ("", true, 0),
    ("user:ann", false, 0),
    ("user:bob", false, 0),
    ("oidc:named", false, 0),
    ("oidc:other", false, 0),
    ("cert:node", false, 0),
    ("cert:node", false, 1),
    ("", false, 1),
    ("", false, 2),
];
/// Who may what, for people: caller, upstream, repository, tag.
const LINES: [Line; 5] = [
    ("user:ann", "mapped.example", "acme/app", None),
    ("user:bob", "mapped.example", "acme/app", Some("1")),
    ("oidc:named", "shared.example", "acme/app", None),
    ("anonymous", "mapped.example", "other/app", Some("1")),
    ("cert:node", "mapped.example", "other/app", None),
];

type Line = (&'static str, &'static str, &'static str, Option<&'static str>);

/// Where: an upstream and a repository, by their numbers.
type Place = (usize, usize);

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask {
        guest: usize,
        at: Place,
        blob: usize,
        by_tag: bool,
    },
    Publish {
        at: Place,
        blob: usize,
    },
    Retract {
        at: Place,
        blob: usize,
    },
    Retag {
        at: Place,
        blob: usize,
    },
    Grant {
        at: Place,
        reader: usize,
    },
    Revoke {
        at: Place,
        reader: usize,
    },
    Evict {
        blob: usize,
    },
    Away {
        upstream: usize,
        is: bool,
    },
    Deny {
        at: Place,
        is: bool,
    },
    /// Upstream is asked for a manifest that is stored, with what is ours.
    LookInto {
        at: Place,
    },
    /// Upstream is at its other address from now on, where it is another registry, or back at the first one.
    Move {
        upstream: usize,
    },
    Restart,
    Wait {
        seconds: u64,
    },
}

/// Numbers that look like chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % count as u64).unwrap_or_default()
    }

    fn step(&mut self, at: Option<Place>) -> Step {
        // Few places and blobs, so that much happens to each.
        let at = at.unwrap_or((self.below(UPSTREAMS.len()), self.below(2)));
        let (blob, reader, is) = (self.below(2), self.below(3), self.below(2) == 0);
        match self.below(32) {
            0..=15 => Step::Ask { guest: self.below(GUESTS.len()), at, blob, by_tag: is },
            16..=17 => Step::Publish { at, blob },
            18 => Step::Retract { at, blob },
            19 => Step::Retag { at, blob },
            20..=21 => Step::Grant { at, reader },
            22..=23 => Step::Revoke { at, reader },
            24 => Step::Evict { blob },
            25..=26 => Step::Away { upstream: at.0, is },
            27 => Step::Deny { at, is },
            28 => Step::LookInto { at },
            29 if is => Step::Restart,
            30 if UPSTREAMS[at.0].1 == Access::PassThrough => Step::Move { upstream: at.0 },
            // Most of what they are about is remembered for a while.
            _ => Step::Wait { seconds: [1, 60, 119, 121, 80_000, 90_000][self.below(6)] },
        }
    }
}

/// What is so, whoever knows it.
#[derive(Default)]
struct Truth {
    has: HashSet<(Place, usize)>,
    ever_had: HashSet<(Place, usize)>,
    tag: HashMap<Place, usize>,
    readers: HashSet<(Place, usize)>,
    away: HashSet<usize>,
    denied: HashSet<Place>,
    /// Those that are not where they were first.
    moved: HashSet<usize>,
    /// What is so at the addresses where they are not now.
    elsewhere: Elsewhere,
}

/// What a registry has, had, and gives to whom.
#[derive(Default)]
struct Elsewhere {
    has: HashSet<(Place, usize)>,
    ever_had: HashSet<(Place, usize)>,
    tag: HashMap<Place, usize>,
    readers: HashSet<(Place, usize)>,
}

/// What is of one upstream in both changes places.
fn swap<T: Copy + Eq + std::hash::Hash>(here: &mut HashSet<T>, there: &mut HashSet<T>, is_its: impl Fn(&T) -> bool) {
    let [of_here, of_there] =
        [&mut *here, &mut *there].map(|all| all.extract_if(|one| is_its(one)).collect::<Vec<_>>());
    here.extend(of_there);
    there.extend(of_here);
}

impl Truth {
    fn moves(&mut self, upstream: usize) {
        let Truth { has, ever_had, tag, readers, moved, elsewhere, .. } = self;
        for (here, there) in
            [(has, &mut elsewhere.has), (ever_had, &mut elsewhere.ever_had), (readers, &mut elsewhere.readers)]
        {
            swap(here, there, |((of, _), _)| *of == upstream);
        }
        let tags = [&mut *tag, &mut elsewhere.tag];
        let [of_here, of_there] = tags.map(|all| all.extract_if(|at, _| at.0 == upstream).collect::<Vec<_>>());
        tag.extend(of_there);
        elsewhere.tag.extend(of_here);
        if !moved.remove(&upstream) {
            moved.insert(upstream);
        }
    }

    fn says(&self, at: Place, reader: usize) -> Said {
        if self.away.contains(&at.0) {
            return Said::Nothing;
        }
        let yes = self.readers.contains(&(at, reader)) && !self.denied.contains(&at);
        if yes { Said::Yes } else { Said::No }
    }
}

/// Names of one history. A world sees some of them, one after the other, and none has to do with another.
#[derive(Clone, Copy)]
struct Names(u64);

impl Names {
    fn bytes(self, blob: usize) -> Bytes {
        Bytes::from(format!("blob {blob} of {}", self.0))
    }

    fn digest(self, blob: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &self.bytes(blob))
    }

    fn location(self, (upstream, repository): Place) -> Location {
        let upstream = UPSTREAMS[upstream].0.parse().expect("a name");
        let repository = format!("h{}/{}", self.0, REPOSITORIES[repository]);
        Location { upstream, repository: repository.parse().expect("a name") }
    }
}

/// Where each upstream is: at its first address, or at the other one.
fn whereabouts(moved: &HashSet<usize>) -> Whereabouts {
    let at = |(number, (name, ..)): (usize, &(&str, Access, bool, bool))| {
        let place = if moved.contains(&number) { "the other" } else { "the first" };
        (name.parse().expect("a name"), Address::of(&format!("{name} {place}")).into())
    };
    UPSTREAMS.iter().enumerate().map(at).collect()
}

fn the_tag() -> Tag {
    "1".parse().expect("a tag")
}

fn callers(guest: usize) -> Vec<Caller> {
    GUESTS[guest].0.split_whitespace().map(|caller| caller.parse().expect("a caller")).collect()
}

fn holders(guest: usize) -> Holders {
    let (name, _, reader) = GUESTS[guest];
    let certificate = name.starts_with("cert:").then_some([200; 32]);
    Holders {
        own: [u8::try_from(reader).unwrap_or_default(); 32],
        shows: reader != 0,
        lasting: reader != 2,
        certificate,
    }
}

/// The mirror, as far as it decides.
struct World {
    rules: Rules,
    grants: Grants,
    stored: Arc<Stored>,
    blobs: Arc<Blobs>,
    metadata: Arc<dyn MetadataStore>,
    metrics: Arc<Metrics>,
    now: Instant,
    names: Names,
}

impl World {
    fn new(metrics: &Arc<Metrics>) -> World {
        let name = |upstream: &(&str, Access, bool, bool)| upstream.0.parse::<RegistryName>().expect("a name");
        let grant = |(number, (who, upstream, repository, tag)): (usize, &Line)| Grant {
            name: number.to_string().into(),
            who: vec![who.parse().expect("a who")],
            may: vec![
                format!("{upstream}/*/{repository}{}", tag.map_or(String::new(), |tag| format!(":{tag}")))
                    .parse()
                    .expect("a may"),
            ],
        };
        let unproven = UPSTREAMS.iter().filter(|(_, access, ours, _)| *access == Access::Public && *ours);
        let rules = Rules {
            modes: UPSTREAMS.iter().map(|upstream| (name(upstream), upstream.1)).collect(),
            unproven: unproven.map(name).collect(),
            grants: LINES.iter().enumerate().map(grant).collect(),
            identities: Identities::default(),
        };
        let (blobs, metadata) = (Arc::new(Blobs::default()), Arc::new(MemoryMetadata::new()));
        let metrics = Arc::clone(metrics);
        let stored =
            World::stored(&blobs, &(Arc::clone(&metadata) as Arc<dyn MetadataStore>), &metrics, &HashSet::new());
        World {
            rules,
            grants: Grants::new(LIFE),
            stored,
            blobs,
            metadata,
            metrics,
            now: Instant::now(),
            names: Names(0),
        }
    }

    fn stored(
        blobs: &Arc<Blobs>,
        metadata: &Arc<dyn MetadataStore>,
        metrics: &Arc<Metrics>,
        moved: &HashSet<usize>,
    ) -> Arc<Stored> {
        let clock = Arc::new(ManualClock::at(Timestamp(1)));
        let records = Records::new(Arc::clone(metadata), clock, TaskTracker::new());
        let names = |which: &dyn Fn(Access, bool) -> bool| {
            let those = UPSTREAMS.iter().filter(|(_, access, ours, _)| which(*access, *ours));
            those.map(|(name, ..)| name.parse().expect("a name")).collect()
        };
        let standing = Standing {
            public: names(&|access, ours| access == Access::Public && !ours),
            of_callers: names(&|access, _| access == Access::PassThrough),
            places: Arc::new(whereabouts(moved)),
        };
        Arc::new(Stored::new(blobs.clone(), records, Arc::clone(metrics), Arc::new(standing), false))
    }

    fn restart(&mut self, truth: &Truth) {
        self.grants = Grants::new(LIFE);
        self.stored = World::stored(&self.blobs, &self.metadata, &self.metrics, &truth.moved);
    }

    /// The settings are read again, with another address of an upstream.
    fn reload(&mut self, truth: &Truth, upstream: usize) {
        let gone = HashSet::from([UPSTREAMS[upstream].0.parse().expect("a name")]);
        self.grants = self.grants.without(&gone, LIFE);
        let standing = Standing { places: Arc::new(whereabouts(&truth.moved)), ..(*self.stored.standing).clone() };
        self.stored = Arc::new(self.stored.under(Arc::new(standing), false));
    }

    /// The permit of a guest, as admission has it.
    fn permit(&self, truth: &Truth, guest: usize, at: Place, reference: &Reference) -> Option<Permit> {
        let (location, callers) = (self.names.location(at), callers(guest));
        let shown = Shown { callers: &callers, wrong: GUESTS[guest].1, overheard: false };
        match self.rules.decide(Asked { location: &location, reference: Some(reference) }, shown) {
            Decision::Granted(permit) => Some(permit),
            Decision::IfPublic(unproven) => (truth.says(at, 0) == Said::Yes).then(|| unproven.proven()),
            Decision::AskUpstream(pending) => {
                let holders = holders(guest);
                let holds = self.grants.hold(&holders.own, &location, self.now)
                    || self.grants.is_for_everybody(&location, self.now);
                let said = || truth.says(at, GUESTS[guest].2);
                let may = holds || self.grants.heard(&holders, &location, said(), self.now);
                may.then(|| pending.granted(None))
            }
            Decision::ByTag(claim) => {
                let Reference::Digest(digest) = reference else { return None };
                let records = self.metadata.tag_records(&location, &the_tag()).expect("in memory");
                let leads = claim.tags().any(|tag| *tag == the_tag())
                    && records.iter().any(|(_, record)| record.descriptor.digest == *digest);
                if leads { claim.led_by(&the_tag()).ok() } else { None }
            }
            Decision::Refused(_) => None,
        }
    }

    /// What a guest gets who asks for a blob, by the tag or by its digest.
    async fn ask(
        &self,
        truth: &Truth,
        guest: usize,
        at: Place,
        blob: usize,
        by_tag: bool,
    ) -> Option<(Location, usize)> {
        let reference = if by_tag { Reference::Tag(the_tag()) } else { Reference::Digest(self.names.digest(blob)) };
        let permit = self.permit(truth, guest, at, &reference)?;
        let blob = if by_tag { *truth.tag.get(&at)? } else { blob };
        if by_tag {
            if truth.away.contains(&at.0) {
                return None;
            }
            let key = TagKey { location: permit.location().clone(), tag: the_tag(), accept: AcceptSet::default() };
            let descriptor = Descriptor::of_blob(self.names.digest(blob), self.names.bytes(blob).len() as u64);
            let record = TagRecord {
                descriptor,
                checked_at: Timestamp(1),
                since: Timestamp(1),
                observed_at: None,
                places: Places::default(),
            };
            self.metadata.put_tag(&key, &record).expect("in memory");
        }
        let given = self.give(truth, permit.location(), at, blob).await;
        given.then(|| (permit.location().clone(), blob))
    }

    /// Whether it is served: from the store, by the word of upstream, or by its bytes.
    async fn give(&self, truth: &Truth, location: &Location, at: Place, blob: usize) -> bool {
        let (stored, digest, size) = (&self.stored, self.names.digest(blob), self.names.bytes(blob).len() as u64);
        if stored.open(location, &digest).await.is_some() {
            return true;
        }
        let (is_there, liar) = (truth.has.contains(&(at, blob)), UPSTREAMS[at.0].3);
        if truth.away.contains(&at.0) || truth.denied.contains(&at) || stored.denials.holds(location) {
            return false;
        }
        let known = stored.open_any(&digest).await.is_some();
        if known && stored.is_word_enough(location, &digest).await && (is_there || liar) {
            stored.add_blob_member(location, digest, size, (Proof::Head, stored.standing.places_of(location))).await;
            return true;
        }
        if is_there {
            self.blobs.0.lock().insert(digest, self.names.bytes(blob));
            stored.add_blob_member(location, digest, size, (Proof::Bytes, stored.standing.places_of(location))).await;
        }
        is_there
    }
}

/// Goes through a history.
///
/// # Errors
/// What was wrong, behind the steps that led there.
async fn history(number: u64, world: &mut World) -> Result<(), String> {
    let mut chance = Chance(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let ways = [(false, false, false), (true, true, false), (false, false, true), (true, true, true)];
    let (passwords, tokens, certificates) = ways[chance.below(ways.len())];
    world.names = Names(number);
    world.rules.identities = Identities { passwords, tokens, certificates };
    let mut model = Model { passwords, tokens, certificates, ..Model::default() };
    let mut truth = Truth::default();
    let mut steps = Vec::new();
    for place in (0..UPSTREAMS.len()).flat_map(|upstream| [(upstream, 0), (upstream, 1)]) {
        let (blob, reader) = (chance.below(2), chance.below(3));
        truth.has.insert((place, blob));
        truth.tag.insert(place, blob);
        truth.readers.insert((place, reader));
    }
    for place in [(PASSES, 0), (PASSES, 1)] {
        let (blob, reader) = (chance.below(2), chance.below(3));
        truth.elsewhere.has.insert((place, blob));
        truth.elsewhere.tag.insert(place, blob);
        truth.elsewhere.readers.insert((place, reader));
    }
    truth.ever_had.clone_from(&truth.has);
    truth.elsewhere.ever_had.clone_from(&truth.elsewhere.has);
    // Much happens at one place in a history, or nothing would come of most of it.
    let home = (chance.below(UPSTREAMS.len()), chance.below(2));
    for _ in 0..STEPS {
        let at_home = chance.below(3) > 0;
        let step = chance.step(at_home.then_some(home));
        steps.push(step);
        match step {
            Step::Ask { guest, at, blob, by_tag } => {
                let may = model.may(&truth, guest, at, (!by_tag).then_some(blob), world.now);
                let served = world.ask(&truth, guest, at, blob, by_tag).await;
                let Some(asked) = (if by_tag { truth.tag.get(&at).copied() } else { Some(blob) }) else { continue };
                if by_tag && truth.away.contains(&at.0) {
                    continue;
                }
                if by_tag && may {
                    model.led.insert(at, asked);
                }
                let wrong = match &served {
                    Some(served) if *served != (world.names.location(at), asked) => Some("something else was given"),
                    served => model.judges(&truth, may, (at, asked), served.is_some()),
                };
                if let Some(wrong) = wrong {
                    return Err(format!("{wrong}; {identities:?}: {steps:#?}", identities = world.rules.identities));
                }
            }
            Step::Publish { at, blob } => {
                truth.has.insert((at, blob));
                truth.ever_had.insert((at, blob));
            }
            Step::Retract { at, blob } => drop(truth.has.remove(&(at, blob))),
            Step::Retag { at, blob } => drop(truth.tag.insert(at, blob)),
            Step::Grant { at, reader } => drop(truth.readers.insert((at, reader))),
            Step::Revoke { at, reader } => drop(truth.readers.remove(&(at, reader))),
            Step::Evict { blob } => {
                world.blobs.delete(&world.names.digest(blob)).await.map_err(|error| error.to_string())?;
                model.stored.remove(&blob);
            }
            Step::Away { upstream, is: true } => drop(truth.away.insert(upstream)),
            Step::Away { upstream, is: false } => drop(truth.away.remove(&upstream)),
            Step::Deny { at, is: true } => drop(truth.denied.insert(at)),
            Step::Deny { at, is: false } => drop(truth.denied.remove(&at)),
            Step::LookInto { at } if UPSTREAMS[at.0].1 == Access::PassThrough || truth.away.contains(&at.0) => {}
            Step::LookInto { at } if truth.denied.contains(&at) => {
                world.stored.denials.deny(&world.names.location(at)).await;
                model.denied.insert(at);
            }
            Step::LookInto { at } => {
                world.stored.denials.lift(&world.names.location(at)).await;
                model.denied.remove(&at);
            }
            Step::Move { upstream } => {
                truth.moves(upstream);
                world.reload(&truth, upstream);
                model.moves(upstream);
            }
            Step::Restart => {
                world.restart(&truth);
                model.yes.clear();
                model.yes_to_node.clear();
            }
            Step::Wait { seconds } => world.now += Duration::from_secs(seconds),
        }
    }
    if !truth.moved.is_empty() {
        world.restart(&Truth::default());
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_byte_is_given_without_a_proof() {
    let metrics = Arc::new(Metrics::new(UPSTREAMS.map(|(name, ..)| name.parse().expect("a name"))));
    let numbers = match number("REGISTRY_MIRROR_HISTORY") {
        Some(one) => one..one + 1,
        None => 0..number("REGISTRY_MIRROR_HISTORIES").unwrap_or(USUAL),
    };
    let (end, began) = (numbers.end, Instant::now());
    let worlds = Mutex::new(numbers.step_by(A_WORLD));
    let go_through = async || {
        while let Some(first) = { worlds.lock().next() } {
            let mut world = World::new(&metrics);
            for number in (first..end).take(A_WORLD) {
                if let Err(wrong) = history(number, &mut world).await {
                    panic!("REGISTRY_MIRROR_HISTORY={number}: {wrong}");
                }
            }
        }
    };
    // On all processors: what takes the time is that each change is made on a thread that may block.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                runtime.expect("a runtime").block_on(go_through());
            });
        }
    });
    println!("up to history {end} in {:?}", began.elapsed());
}
