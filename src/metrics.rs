//! Metrics: what happened, counted.
//!
//! Callers name events; the names of series, labels and units are decided here, in the only module
//! that knows `prometheus-client`. The truth it keeps: the number of series is bounded by the
//! configuration. Labels come from enums, from words in the code and from configured upstreams;
//! any other upstream counts as `other`; a repository or a digest never becomes a label. Every series
//! stands once in the table below and once in the event that counts with it, which makes the file as long
//! as it is.

mod format;
mod process;
mod totals;
mod words;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::oci::RegistryName;
use crate::outcome::Outcome;

pub use format::Format;
use process::Process;
use totals::Tally;
pub use totals::{Flow, Totals};
pub use words::{FillResult, RequestKind, SentBy};

/// A label whose values are known before the first request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Label {
    Word(&'static str),
    Upstream(RegistryName),
    Status(u16),
    Endpoint(String),
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Label::Word(word) => word.encode(encoder),
            Label::Upstream(name) => name.as_str().encode(encoder),
            Label::Status(status) => u64::from(*status).encode(encoder),
            Label::Endpoint(endpoint) => endpoint.as_str().encode(encoder),
        }
    }
}

macro_rules! labels {
    ($($name:ident { $($label:ident),+ })+) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($label: Label),+ }
    )+};
}

labels! {
    OfRequest { upstream, kind, outcome, status }
    OfSent { upstream, outcome }
    OfUpstream { upstream }
    OfUpstreamRequest { upstream, result }
    OfEndpoint { upstream, endpoint }
    OfOutcome { outcome }
    OfResult { result }
    OfClass { class }
    OfPath { path }
    OfMove { kind }
    OfLimit { limit }
    OfTable { table }
    OfPart { part }
}

/// Every series: its name without the prefix and without what the format adds, unit and suffix; how it
/// is made where that is not the default; its help.
macro_rules! series {
    ($($name:ident: $kind:ty $(= $make:expr)?, $([$unit:ident])? $help:literal;)+) => {
        #[derive(Debug)]
        struct Series { $($name: $kind),+ }

        impl Series {
            fn registered(registry: &mut Registry) -> Series {
                let series = Series { $($name: series!(@make $($make)?)),+ };
                $(series!(@register registry, $name, series.$name.clone(), $help $(, $unit)?);)+
                series
            }
        }
    };
    (@make) => { Default::default() };
    (@make $make:expr) => { $make };
    (@register $registry:ident, $name:ident, $metric:expr, $help:literal) => {
        $registry.register(stringify!($name), $help, $metric)
    };
    (@register $registry:ident, $name:ident, $metric:expr, $help:literal, $unit:ident) => {
        $registry.register_with_unit(stringify!($name), $help, Unit::$unit, $metric)
    };
}

/// A number that only ever is what it was last set to.
type Level = Gauge<u64, AtomicU64>;

series! {
    requests: Family<OfRequest, Counter>, "Requests answered";
    sent: Family<OfSent, Counter>, [Bytes] "Bytes of content sent to clients";
    upstream_requests: Family<OfUpstreamRequest, Counter>, "Requests made to upstreams";
    upstream_received: Family<OfUpstream, Counter>, [Bytes] "Bytes of content received from upstreams";
    upstream_transfer: Family<OfUpstream, Counter<f64, AtomicU64>>, [Seconds]
        "Time that content from upstreams was waited for, once it had begun";
    upstream_up: Family<OfEndpoint, Gauge>, "Whether an address of an upstream answers";
    upstream_budget_limit: Family<OfEndpoint, Level>, "Pulls an address of an upstream grants in a window";
    upstream_budget_left: Family<OfEndpoint, Level>, "Pulls left of them";
    upstream_budget_reset_timestamp: Family<OfEndpoint, Level>, [Seconds] "When the window ends, at the latest";
    fills: Family<OfResult, Counter>, "Fills ended";
    fills_in_flight: Gauge, "Fills running";
    fills_waiting: Gauge, "Fills that wait for a place among those of their upstream";
    fills_unplaced: Counter, "Fills that found no place in time, and were passed through or refused";
    errors: Family<OfClass, Counter>, "Errors by class";
    limited: Family<OfLimit, Counter>, "Requests and connections refused because their client had what one may have";
    time_to_first_byte: Family<OfOutcome, Histogram, fn() -> Histogram>
        = Family::new_with_constructor(first_byte_buckets),
        [Seconds] "From the head of a request to the first byte of its answer";
    bodies: Family<OfPath, Counter>, "Bodies sent, by the way they took";
    store_used: Level, [Bytes] "Bytes of blobs in the store";
    store_blobs: Level, "Blobs in the store";
    store_budget: Level, [Bytes] "Bytes the store may hold";
    store_index: Level, [Bytes] "Bytes that the index over the store takes on disk";
    store_names: Level, [Bytes] "Bytes that tags, histories, memberships and lists take on disk, with their folders";
    store_name_files: Level, "Files and folders of tags, histories, memberships and lists";
    store_rounding: Level, [Bytes] "Bytes that the disk takes for blobs beyond what they have, about";
    store_lingering: Level, [Bytes] "Bytes of deleted blobs, and of fills that were given up, that somebody reads still";
    tag_moves: Family<OfMove, Counter>, "Tags seen to point elsewhere than before";
    index_rebuilds: Counter, "Rebuilds of the metadata index from the files";
    evicted_blobs: Counter, "Blobs evicted";
    evicted: Counter, [Bytes] "Bytes evicted";
    store_promised: Level, [Bytes] "Bytes of the budget promised to running fills";
    reservations_refused: Counter, "Fills that were passed through for want of room";
    damaged_blobs: Counter, "Stored blobs that turned out to be damaged";
    checked: Counter, [Bytes] "Stored bytes that were hashed again";
    resumed: Counter, [Bytes] "Bytes of earlier fills that were gone on with";
    audit_lost: Counter, "Lines of the audit that could not be written";
    reloads: Family<OfResult, Counter>, "Times that the settings were read again, by what came of it";
    bucket_up: Level, "Whether the bucket answers, gives content and takes what is owed to it; 1 without a bucket";
    bucket_backlog: Level, "Objects that have still to go up into the bucket";
    bucket_raised: Counter, "Objects that went up into the bucket, or were there";
    bucket_sent: Counter, [Bytes] "Bytes of blobs that went up into the bucket";
    bucket_errors: Counter, "Times that the bucket did not do what it was asked, or took too long; pulls go on without it, and what is owed goes up later";
    bucket_stored: Level, [Bytes] "Bytes of content in the bucket, when this replica went round it last";
    bucket_objects: Level, "Content in the bucket, when this replica went round it last";
    bucket_rounds: Family<OfResult, Counter>, "Times that this replica went round the bucket for what no name leads to";
    bucket_collected: Counter, "Content that this replica deleted from the bucket";
    bucket_freed: Counter, [Bytes] "Its bytes";
    bucket_names_taken: Counter, "Names taken out of the bucket because it held more than it may";
    leases_held: Level, "Leases of fills that this replica holds, until their blobs are in the bucket";
    leases_taken_over: Counter, "Leases taken where another replica had one and no longer gives";
    leases_of_strangers: Counter, "Leases of replicas that are not sealed with the peers_secret of this one: all need the same file";
    lease_errors: Counter, "Times that it was not known whose a lease is; the blob was fetched without";
    replica_questions: Family<OfResult, Counter>, "Questions to other replicas for blobs that they fetch, by what came of it";
    replica_received: Counter, [Bytes] "Bytes of blobs that came from other replicas";
    replica_answers: Family<OfResult, Counter>, "Questions of other replicas, by what came of it; not among the requests";
    replica_sent: Counter, [Bytes] "Bytes of blobs sent to other replicas; not among those for clients";
    memory_hits: Counter, "Answers from memory, without a look at the store";
    memory_used: Level, [Bytes] "Bytes of answers in memory";
    bodies_used: Level, [Bytes] "Bytes of bodies in memory: on their way in, in hand, at hand, passed on, on their way to the disk, and lists";
    bodies_budget: Level, [Bytes] "Bytes that bodies in memory may take together";
    bodies_part_used: Family<OfPart, Level>, [Bytes] "Bytes of bodies in memory, by the part of the budget that they are of";
    bodies_part_budget: Family<OfPart, Level>, [Bytes] "Bytes that bodies of this part may take: beyond, they are refused";
    entries: Family<OfTable, Gauge>, "Entries of what clients and upstreams can make grow, by table";
    shortcuts: Level, [Bytes] "Bytes by which requests are recognised that were answered from memory";
    prefetched_blobs: Counter, "Fills begun ahead of clients";
    prefetched: Counter, [Bytes] "Bytes of blobs whose fill was begun ahead of clients";
    prefetches_dropped: Counter, "Blobs not fetched ahead of clients because others needed the places or the room";
    parallel_streams: Counter, "Connections that helped a fill, besides its first";
    parallel_streams_given_up: Counter, "Fills that went on through one connection after another had failed";
}

const OUTCOMES: usize = Outcome::ALL.len();

/// Series of one upstream that most requests add to, once they exist: to find them by their labels
/// would cost a request more than to answer it. They are in the order in which the enums are declared.
#[derive(Debug, Default)]
struct Held {
    /// Those of answers with status 200, by kind and outcome.
    requests: [[OnceLock<Counter>; OUTCOMES]; RequestKind::COUNT],
    sent: [OnceLock<Counter>; OUTCOMES],
}

/// Counts in a gauge as long as it is there.
struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Where the series of an upstream are.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamPlace(usize);

/// Everything that is counted. Cheap to call; shared behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is not ours: it has no prefix.
    process: Registry,
    upstreams: Vec<RegistryName>,
    /// Those that came later.
    later: RwLock<Vec<RegistryName>>,
    /// For each upstream by its place, and behind them for others and for none.
    held: Vec<Held>,
    first_bytes: [OnceLock<Histogram>; OUTCOMES],
    paths: [OnceLock<Counter>; SentBy::ALL.len()],
    tally: Tally,
    series: Series,
}

impl Metrics {
    /// Nothing counted yet. Only `upstreams` get series of their own.
    pub fn new(upstreams: impl IntoIterator<Item = RegistryName>) -> Metrics {
        let mut upstreams: Vec<RegistryName> = upstreams.into_iter().collect();
        upstreams.sort_unstable();
        upstreams.dedup();
        let mut registry = Registry::with_prefix("mirror");
        let series = Series::registered(&mut registry);
        registry.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        // An alert on a rise needs the series to exist before its first event.
        for kind in ["move", "rollback"] {
            drop(series.tag_moves.get_or_create(&OfMove { kind: Label::Word(kind) }));
        }
        for result in FillResult::ALL {
            drop(series.fills.get_or_create(&OfResult { result: Label::Word(result.as_str()) }));
        }
        series.bucket_up.set(1);
        for by in SentBy::ALL {
            drop(series.bodies.get_or_create(&OfPath { path: Label::Word(by.as_str()) }));
        }
        let mut process = Registry::default();
        process.register_collector(Box::new(Process));
        Metrics {
            registry,
            process,
            held: (0..upstreams.len() + 2).map(|_| Held::default()).collect(),
            upstreams,
            later: RwLock::default(),
            first_bytes: Default::default(),
            paths: Default::default(),
            tally: Tally::default(),
            series,
        }
    }

    /// This upstream gets series of its own, too.
    pub fn add_upstream(&self, name: &RegistryName) {
        let mut later = self.later.write();
        if self.upstreams.binary_search(name).is_err() && !later.contains(name) {
            later.push(name.clone());
        }
    }

    /// Where the series of an upstream are; `None` is a request for none.
    pub fn place(&self, upstream: Option<&RegistryName>) -> UpstreamPlace {
        UpstreamPlace(self.place_of(upstream.map(RegistryName::as_str)))
    }

    /// A request was answered.
    pub fn request(&self, UpstreamPlace(place): UpstreamPlace, kind: RequestKind, outcome: Outcome, status: u16) {
        Tally::count(&self.tally.requests, outcome, 1);
        let find = || {
            let labels = OfRequest {
                upstream: self.label(place),
                kind: Label::Word(kind.as_str()),
                outcome: Label::Word(outcome.as_str()),
                status: if (100..600).contains(&status) { Label::Status(status) } else { Label::Word("other") },
            };
            self.series.requests.get_or_create(&labels).clone()
        };
        match self.held.get(place) {
            Some(held) if status == 200 => held.requests[kind as usize][outcome as usize].get_or_init(find).inc(),
            _ => find().inc(),
        };
    }

    /// So many bytes of content went to a client.
    pub fn sent(&self, UpstreamPlace(place): UpstreamPlace, outcome: Outcome, bytes: u64) {
        Tally::count(&self.tally.sent, outcome, bytes);
        let find = || {
            let labels = OfSent { upstream: self.label(place), outcome: Label::Word(outcome.as_str()) };
            self.series.sent.get_or_create(&labels).clone()
        };
        match self.held.get(place) {
            Some(held) => held.sent[outcome as usize].get_or_init(find).inc_by(bytes),
            None => find().inc_by(bytes),
        };
    }

    /// An upstream answered a request, or did not: a word for how.
    pub fn upstream_request(&self, upstream: &str, result: &'static str) {
        let labels = OfUpstreamRequest { upstream: self.upstream(Some(upstream)), result: Label::Word(result) };
        self.series.upstream_requests.get_or_create(&labels).inc();
    }

    /// So many bytes of content came from an upstream, and were waited for so long.
    pub fn upstream_received(&self, upstream: &str, bytes: u64, waited: Duration) {
        self.tally.received.fetch_add(bytes, Ordering::Relaxed);
        let of = OfUpstream { upstream: self.upstream(Some(upstream)) };
        self.series.upstream_received.get_or_create(&of).inc_by(bytes);
        self.series.upstream_transfer.get_or_create(&of).inc_by(waited.as_secs_f64());
    }

    /// A client was refused: he has had what this limit allows.
    pub fn limited(&self, limit: &'static str) {
        self.series.limited.get_or_create(&OfLimit { limit: Label::Word(limit) }).inc();
    }

    /// An address of an upstream, host and port as they are configured, answers or does not.
    pub fn upstream_up(&self, upstream: &RegistryName, endpoint: &str, up: bool) {
        self.series.upstream_up.get_or_create(&self.endpoint(upstream, endpoint)).set(up.into());
    }

    fn endpoint(&self, upstream: &RegistryName, endpoint: &str) -> OfEndpoint {
        let upstream = self.upstream(Some(upstream.as_str()));
        OfEndpoint { upstream, endpoint: Label::Endpoint(endpoint.to_owned()) }
    }

    /// What an address of an upstream grants in a window, what is left, and when the window ends, in
    /// seconds since 1970.
    pub fn upstream_budget(&self, upstream: &RegistryName, endpoint: &str, limit: u64, left: u64, resets_at: u64) {
        let labels = self.endpoint(upstream, endpoint);
        self.series.upstream_budget_limit.get_or_create(&labels).set(limit);
        self.series.upstream_budget_left.get_or_create(&labels).set(left);
        self.series.upstream_budget_reset_timestamp.get_or_create(&labels).set(resets_at);
    }

    /// A fill started; [`Metrics::fill_ended`] follows in every case.
    pub fn fill_started(&self) {
        self.series.fills_in_flight.inc();
    }

    /// Whether the bucket is well, and how many objects are owed to it.
    pub fn bucket(&self, up: bool, backlog: u64) {
        self.series.bucket_up.set(up.into());
        self.series.bucket_backlog.set(backlog);
    }

    /// An object is in the bucket that was owed to it.
    pub fn bucket_took(&self) {
        self.series.bucket_raised.inc();
    }

    /// So many bytes of a blob went up.
    pub fn bucket_got(&self, bytes: u64) {
        self.series.bucket_sent.inc_by(bytes);
    }

    /// The bucket did not do what it was asked.
    pub fn bucket_failed(&self) {
        self.series.bucket_errors.inc();
    }

    /// It was gone round the bucket: content deleted, its bytes, names taken away, and whether it ended in trouble.
    pub fn collected(&self, [objects, bytes, names]: &[u64; 3], in_trouble: bool) {
        let series = &self.series;
        let result = if in_trouble { "failed" } else { "ok" };
        series.bucket_rounds.get_or_create(&OfResult { result: Label::Word(result) }).inc();
        series.bucket_collected.inc_by(*objects);
        series.bucket_freed.inc_by(*bytes);
        series.bucket_names_taken.inc_by(*names);
    }

    /// So much content is in the bucket, of so many bytes.
    pub fn bucket_holds(&self, objects: u64, bytes: u64) {
        self.series.bucket_objects.set(objects);
        self.series.bucket_stored.set(bytes);
    }

    /// This replica holds so many leases of fills.
    pub fn leases(&self, held: usize) {
        self.series.leases_held.set(held as u64);
    }

    /// One of them was taken where another replica had had it.
    pub fn lease_taken_over(&self) {
        self.series.leases_taken_over.inc();
    }

    /// A lease is not sealed with our secret.
    pub fn lease_of_a_stranger(&self) {
        self.series.leases_of_strangers.inc();
    }

    /// The bucket did not tell whose a lease is.
    pub fn lease_failed(&self) {
        self.series.lease_errors.inc();
    }

    /// Another replica was asked for what it fetches, and this came of it.
    pub fn replica_asked(&self, result: &'static str) {
        self.series.replica_questions.get_or_create(&OfResult { result: Label::Word(result) }).inc();
    }

    /// It gave so many bytes.
    pub fn replica_gave(&self, bytes: u64) {
        self.series.replica_received.inc_by(bytes);
    }

    /// Another replica asked for what is fetched here, this came of it, and it got so many bytes.
    pub fn replica_answered(&self, result: &'static str, bytes: u64) {
        self.series.replica_answers.get_or_create(&OfResult { result: Label::Word(result) }).inc();
        self.series.replica_sent.inc_by(bytes);
    }

    /// A fill waits for a place, until what is returned is dropped.
    pub fn fill_waits(&self) -> impl Drop + Send + use<> {
        self.series.fills_waiting.inc();
        Waiting(self.series.fills_waiting.clone())
    }

    /// A fill found no place in time.
    pub fn fill_unplaced(&self) {
        self.series.fills_unplaced.inc();
    }

    /// A fill ended.
    pub fn fill_ended(&self, result: FillResult) {
        self.series.fills_in_flight.dec();
        self.series.fills.get_or_create(&OfResult { result: Label::Word(result.as_str()) }).inc();
    }

    /// Something went wrong; the word of its class.
    pub fn error(&self, class: &'static str) {
        self.series.errors.get_or_create(&OfClass { class: Label::Word(class) }).inc();
    }

    /// How long a client waited for the first byte of content.
    pub fn time_to_first_byte(&self, outcome: Outcome, waited: Duration) {
        let find = || {
            let labels = OfOutcome { outcome: Label::Word(outcome.as_str()) };
            self.series.time_to_first_byte.get_or_create(&labels).clone()
        };
        self.first_bytes[outcome as usize].get_or_init(find).observe(waited.as_secs_f64());
    }

    /// The body of an answer was sent, or as much of it as the client took.
    pub fn sent_by(&self, by: SentBy) {
        let find = || self.series.bodies.get_or_create(&OfPath { path: Label::Word(by.as_str()) }).clone();
        self.paths[by as usize].get_or_init(find).inc();
    }

    /// What the store holds: bytes, blobs.
    pub fn store(&self, used: u64, blobs: u64) {
        self.series.store_used.set(used);
        self.series.store_blobs.set(blobs);
    }

    /// How many bytes it may hold.
    pub fn store_may_hold(&self, budget: u64) {
        self.series.store_budget.set(budget);
    }

    /// Bodies in memory: bytes that they take, and may take.
    pub fn bodies(&self, used: u64, budget: u64) {
        self.series.bodies_used.set(used);
        self.series.bodies_budget.set(budget);
    }

    /// The same of each part of them.
    pub fn parts_of_bodies(&self, parts: impl IntoIterator<Item = (&'static str, (u64, u64))>) {
        for (part, (used, budget)) in parts {
            let part = OfPart { part: Label::Word(part) };
            self.series.bodies_part_used.get_or_create(&part).set(used);
            self.series.bodies_part_budget.get_or_create(&part).set(budget);
        }
    }

    /// How many entries there are in each of these tables.
    pub fn entries(&self, tables: impl IntoIterator<Item = (&'static str, u64)>) {
        for (table, entries) in tables {
            let entries = i64::try_from(entries).unwrap_or(i64::MAX);
            self.series.entries.get_or_create(&OfTable { table: Label::Word(table) }).set(entries);
        }
    }

    /// What the store has on disk besides blobs: bytes and files of names, the index over them, and bytes of deleted
    /// blobs that are read.
    pub fn store_besides(&self, (names, files, index): (u64, u64, u64), rounding: u64, lingering: u64) {
        self.series.store_names.set(names);
        self.series.store_name_files.set(files);
        self.series.store_index.set(index);
        self.series.store_rounding.set(rounding);
        self.series.store_lingering.set(lingering);
    }

    /// A tag points elsewhere than before; `rollback` when it had that digest once already.
    pub fn tag_moved(&self, rollback: bool) {
        let kind = Label::Word(if rollback { "rollback" } else { "move" });
        self.series.tag_moves.get_or_create(&OfMove { kind }).inc();
    }

    /// The metadata index was rebuilt from the files.
    pub fn index_rebuilt(&self) {
        self.series.index_rebuilds.inc();
    }

    /// A blob of so many bytes was evicted.
    pub fn evicted(&self, bytes: u64) {
        self.series.evicted_blobs.inc();
        self.series.evicted.inc_by(bytes);
    }

    /// So many bytes are promised to running fills.
    pub fn promised(&self, bytes: u64) {
        self.series.store_promised.set(bytes);
    }

    /// A fill was passed through because there was no room for it.
    pub fn reservation_refused(&self) {
        self.series.reservations_refused.inc();
    }

    /// A stored blob turned out to be damaged.
    pub fn damaged(&self) {
        self.series.damaged_blobs.inc();
    }

    /// So many stored bytes were hashed again.
    pub fn checked(&self, bytes: u64) {
        self.series.checked.inc_by(bytes);
    }

    /// A fill went on where an earlier one had ended, after so many bytes.
    pub fn resumed(&self, bytes: u64) {
        self.series.resumed.inc_by(bytes);
    }

    /// The fill of a blob of so many bytes begins before a client has asked for it.
    pub fn fetching_ahead(&self, bytes: u64) {
        self.series.prefetched_blobs.inc();
        self.series.prefetched.inc_by(bytes);
    }

    /// A blob was not fetched ahead of clients: it would have taken something from others.
    pub fn not_fetched_ahead(&self) {
        self.series.prefetches_dropped.inc();
    }

    /// A fill is read through so many connections besides its first.
    pub fn streams_helped(&self, streams: usize) {
        self.series.parallel_streams.inc_by(streams as u64);
    }

    /// A fill goes on through one connection, although several are allowed.
    pub fn streams_gave_up(&self) {
        self.series.parallel_streams_given_up.inc();
    }

    /// The settings were read again: `done`, `partly` or `refused`.
    pub fn reloaded(&self, result: &'static str) {
        self.series.reloads.get_or_create(&OfResult { result: Label::Word(result) }).inc();
    }

    /// So many lines of the audit could not be written.
    pub fn audit_lost(&self, lines: u64) {
        self.series.audit_lost.inc_by(lines);
    }

    /// The lines of the audit that could not be written.
    pub fn lost_of_audit(&self) -> u64 {
        self.series.audit_lost.get()
    }

    /// A request was answered from memory, without a look at the store.
    pub fn at_hand(&self) {
        self.series.memory_hits.inc();
    }

    /// Requests that are answered from memory are recognised by so many bytes more, or fewer.
    pub fn shortcuts(&self, change: i64) {
        match change {
            0.. => self.series.shortcuts.inc_by(change.unsigned_abs()),
            _ => self.series.shortcuts.dec_by(change.unsigned_abs()),
        };
    }

    /// So many bytes of answers are in memory.
    pub fn memory(&self, used: u64) {
        self.series.memory_used.set(used);
    }

    /// The sums that people ask for.
    pub fn totals(&self) -> Totals {
        Totals {
            requests: Tally::read(&self.tally.requests),
            sent: Tally::read(&self.tally.sent),
            received: self.tally.received.load(Ordering::Relaxed),
            store_budget: self.series.store_budget.get(),
        }
    }

    /// Everything, in this format.
    pub fn encode(&self, format: Format) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail; half a text is more use than none.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text));
        format.written(text)
    }

    fn upstream(&self, name: Option<&str>) -> Label {
        self.label(self.place_of(name))
    }

    /// Where an upstream is among those with series of their own; behind them come the others, and none, and behind
    /// these who came later.
    fn place_of(&self, name: Option<&str>) -> usize {
        let count = self.upstreams.len();
        let Some(name) = name else { return count + 1 };
        let later = || self.later.read().iter().position(|known| known.as_str() == name).map(|n| count + 2 + n);
        self.upstreams.binary_search_by(|known| known.as_str().cmp(name)).ok().or_else(later).unwrap_or(count)
    }

    fn label(&self, place: usize) -> Label {
        match self.upstreams.get(place) {
            Some(known) => Label::Upstream(known.clone()),
            None if place == self.upstreams.len() => Label::Word("other"),
            None if place == self.upstreams.len() + 1 => Label::Word("none"),
            None => {
                let known = self.later.read().get(place - self.upstreams.len() - 2).cloned();
                known.map_or(Label::Word("other"), Label::Upstream)
            }
        }
    }
}

fn first_byte_buckets() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

#[cfg(test)]
mod tests;
