//! Which eviction policy? Simulated on a written trace; and how long the plan takes.
//!
//! The trace is what a site does: nodes start images by a Zipf law (few images are started often),
//! deployments roll new versions of an application over many nodes, builds pull images that nobody
//! asks for again, and every "night" a scanner reads a large part of what there is. Images share the
//! layers of their bases and of their earlier versions; a node asks only for layers it has not got.
//! Run with `cargo bench --bench eviction`; every run prints the same numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use registry_mirror::clock::Timestamp;
use registry_mirror::metadata::BlobRecord;
use registry_mirror::mirror::keep::eviction::{Stock, Use, plan, plan_by, worth};
use registry_mirror::oci::Digest;

type Blob = u64;

/// An image: its manifest and its layers.
#[derive(Clone)]
struct Image {
    manifest: Blob,
    layers: Arc<[Blob]>,
}

/// One pull: what is asked of the mirror.
struct Pull {
    at: u64,
    image: Image,
    /// Those that the node does not have.
    wanted: Vec<Blob>,
}

struct Trace {
    pulls: Vec<Pull>,
    sizes: HashMap<Blob, u64>,
}

const APPLICATIONS: usize = 400;
const BASES: usize = 30;
const NODES: usize = 60;
const DAYS: u64 = 30;
const DAY: u64 = 86_400_000;

struct Generator {
    random: StdRng,
    sizes: HashMap<Blob, u64>,
    next: Blob,
}

impl Generator {
    fn blob(&mut self, median: f64) -> Blob {
        // Log-normal by the sum of uniforms: sizes of layers spread over orders of magnitude.
        let normal: f64 = (0..12).map(|_| self.random.random::<f64>()).sum::<f64>() - 6.0;
        self.next += 1;
        self.sizes.insert(self.next, (median * (normal * 1.3).exp()) as u64 + 200);
        self.next
    }

    fn layers(&mut self, below: &[Blob], new: usize) -> Arc<[Blob]> {
        let mut layers = below.to_vec();
        layers.extend((0..new).map(|_| self.blob(4e6)));
        layers.into()
    }

    fn image(&mut self, below: &[Blob], new: usize) -> Image {
        Image { layers: self.layers(below, new), manifest: self.blob(2e3) }
    }
}

fn zipf(random: &mut StdRng, cumulated: &[f64]) -> usize {
    let point = random.random::<f64>() * cumulated.last().copied().unwrap_or_default();
    cumulated.partition_point(|sum| *sum < point).min(cumulated.len() - 1)
}

fn cumulated(count: usize, exponent: f64) -> Vec<f64> {
    let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
    weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect()
}

fn trace(scans: bool, deployments: bool) -> Trace {
    let mut make = Generator { random: StdRng::seed_from_u64(7), sizes: HashMap::new(), next: 0 };
    let bases: Vec<Arc<[Blob]>> = (0..BASES).map(|_| make.layers(&[], 2)).collect();
    let popular = cumulated(APPLICATIONS, 0.9);
    let mut images: Vec<Image> = (0..APPLICATIONS).map(|n| make.image(&bases[n % BASES], 3)).collect();
    let mut nodes: Vec<VecDeque<Image>> = vec![VecDeque::new(); NODES];
    let mut pulls = Vec::new();
    let mut pull = |at: u64, node: Option<usize>, image: &Image| {
        let wanted = match node {
            // A scanner or a builder keeps nothing.
            None => image.layers.to_vec(),
            Some(node) => {
                let has: HashSet<Blob> = nodes[node].iter().flat_map(|image| image.layers.iter().copied()).collect();
                let wanted = image.layers.iter().copied().filter(|layer| !has.contains(layer)).collect();
                nodes[node].push_back(image.clone());
                // A node keeps what it ran lately.
                if nodes[node].len() > 12 {
                    nodes[node].pop_front();
                }
                wanted
            }
        };
        pulls.push(Pull { at, image: image.clone(), wanted });
    };
    for day in 0..DAYS {
        for minute in 0..1440_u64 {
            let at = day * DAY + minute * 60_000;
            if minute % 2 == 0 {
                let application = zipf(&mut make.random, &popular);
                pull(at, Some(make.random.random_range(0..NODES)), &images[application]);
            }
            if minute % 12 == 5 {
                // A build: its own top layers on a base, never asked for again.
                let base = Arc::clone(&bases[make.random.random_range(0..BASES)]);
                let once = make.image(&base, 2);
                pull(at, None, &once);
            }
            if deployments && minute % 120 == 60 {
                let application = zipf(&mut make.random, &popular);
                let below = images[application].layers[..4].to_vec();
                images[application] = make.image(&below, 1);
                for node in 0..NODES / 3 {
                    pull(at + 10 * node as u64, Some(node), &images[application]);
                }
            }
        }
        if scans && day % 3 == 2 {
            for (n, image) in images.iter().enumerate().filter(|(n, _)| n % 3 == (day as usize / 3) % 3) {
                pull(day * DAY + DAY - 400_000 + n as u64, None, image);
            }
        }
    }
    Trace { pulls, sizes: make.sizes }
}

#[derive(Clone, Copy, Default)]
struct Ratio {
    hits: u64,
    requests: u64,
    hit_bytes: u64,
    bytes: u64,
}

impl Ratio {
    fn count(&mut self, hit: bool, size: u64) {
        self.requests += 1;
        self.bytes += size;
        if hit {
            self.hits += 1;
            self.hit_bytes += size;
        }
    }
}

/// A policy over single blobs.
trait Policy {
    /// Whether the blob was there; it is afterwards.
    fn get(&mut self, blob: Blob, size: u64, now: u64) -> bool;
}

fn run_blobs(trace: &Trace, mut policy: impl Policy) -> Ratio {
    let mut ratio = Ratio::default();
    for pull in &trace.pulls {
        for blob in std::iter::once(&pull.image.manifest).chain(&pull.wanted) {
            let size = trace.sizes[blob];
            ratio.count(policy.get(*blob, size, pull.at), size);
        }
    }
    ratio
}

/// A policy that keeps an order of blobs by a key.
struct Keyed<F> {
    room: u64,
    used: u64,
    order: BTreeMap<(u128, Blob), u64>,
    keys: HashMap<Blob, (u128, u64)>,
    /// Grows to the key of what went last, for those that age by it.
    age: u128,
    key: F,
}

impl<F: Fn(u128, u64, u64, u64) -> u128> Keyed<F> {
    fn new(room: u64, key: F) -> Keyed<F> {
        Keyed { room, used: 0, order: BTreeMap::new(), keys: HashMap::new(), age: 0, key }
    }
}

impl<F: Fn(u128, u64, u64, u64) -> u128> Policy for Keyed<F> {
    fn get(&mut self, blob: Blob, size: u64, now: u64) -> bool {
        let before = self.keys.remove(&blob);
        if let Some((key, _)) = before {
            self.order.remove(&(key, blob));
            self.used -= size;
        }
        while self.used + size > self.room {
            let Some(((key, gone), size)) = self.order.pop_first() else { return false };
            self.keys.remove(&gone);
            self.used -= size;
            self.age = key;
        }
        let uses = before.map_or(0, |(_, uses)| uses) + 1;
        let key = (self.key)(self.age, uses, size, now);
        self.order.insert((key, blob), size);
        self.keys.insert(blob, (key, uses));
        self.used += size;
        before.is_some()
    }
}

/// S3-FIFO: a small queue for newcomers, a main queue with second chances, ghosts of the small one.
struct S3Fifo {
    room: u64,
    small: VecDeque<Blob>,
    main: VecDeque<Blob>,
    ghosts: VecDeque<Blob>,
    ghostly: HashSet<Blob>,
    bytes: [u64; 2],
    /// Size, uses, whether in the main queue.
    known: HashMap<Blob, (u64, u8, bool)>,
}

impl S3Fifo {
    fn new(room: u64) -> S3Fifo {
        S3Fifo {
            room,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghostly: HashSet::new(),
            bytes: [0; 2],
            known: HashMap::new(),
        }
    }

    fn evict(&mut self) {
        if self.bytes[0] * 10 > self.room || self.main.is_empty() {
            let Some(blob) = self.small.pop_front() else { return };
            let (size, uses, _) = self.known[&blob];
            self.bytes[0] -= size;
            if uses > 0 {
                self.bytes[1] += size;
                self.main.push_back(blob);
                self.known.insert(blob, (size, 0, true));
            } else {
                self.known.remove(&blob);
                self.ghosts.push_back(blob);
                self.ghostly.insert(blob);
                if self.ghosts.len() > self.known.len().max(16) {
                    let gone = self.ghosts.pop_front().unwrap();
                    self.ghostly.remove(&gone);
                }
            }
            return;
        }
        let Some(blob) = self.main.pop_front() else { return };
        let (size, uses, _) = self.known[&blob];
        if uses > 0 {
            self.known.insert(blob, (size, uses - 1, true));
            self.main.push_back(blob);
        } else {
            self.known.remove(&blob);
            self.bytes[1] -= size;
        }
    }
}

impl Policy for S3Fifo {
    fn get(&mut self, blob: Blob, size: u64, _: u64) -> bool {
        if let Some(known) = self.known.get_mut(&blob) {
            known.1 = (known.1 + 1).min(3);
            return true;
        }
        if size > self.room {
            return false;
        }
        while self.bytes[0] + self.bytes[1] + size > self.room {
            self.evict();
        }
        let main = self.ghostly.contains(&blob);
        self.known.insert(blob, (size, 0, main));
        self.bytes[usize::from(main)] += size;
        if main { &mut self.main } else { &mut self.small }.push_back(blob);
        false
    }
}

/// The plan of the mirror, by any measure of worth, as the mirror applies it: down to 95 %.
fn run_images<W: Ord>(trace: &Trace, room: u64, worth: impl Fn(&Use, u64) -> W) -> Ratio {
    let mut ratio = Ratio::default();
    let mut records: HashMap<Blob, BlobRecord> = HashMap::new();
    let mut children: HashMap<Blob, Arc<[Blob]>> = HashMap::new();
    let mut used = 0;
    for pull in &trace.pulls {
        children.insert(pull.image.manifest, Arc::clone(&pull.image.layers));
        let now = Timestamp(pull.at);
        for blob in std::iter::once(&pull.image.manifest).chain(&pull.wanted) {
            let size = trace.sizes[blob];
            let known = records.get_mut(blob);
            ratio.count(known.is_some(), size);
            if let Some(known) = known {
                *known = known.used(now);
                continue;
            }
            if used + size > room {
                let stock = stock(&records, &children);
                for victim in plan_by(&stock, used + size - room + room / 20, |image| worth(image, pull.at)) {
                    let gone = number(&victim.digest);
                    records.remove(&gone);
                    children.remove(&gone);
                    used -= victim.size;
                }
            }
            if used + size <= room {
                records.insert(*blob, BlobRecord::new(size, now));
                used += size;
            }
        }
    }
    ratio
}

fn digest(blob: Blob) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&blob.to_be_bytes());
    Digest::Sha256(bytes)
}

fn number(digest: &Digest) -> Blob {
    Blob::from_be_bytes(digest.as_bytes()[..8].try_into().unwrap())
}

fn stock(records: &HashMap<Blob, BlobRecord>, children: &HashMap<Blob, Arc<[Blob]>>) -> Stock {
    let stored = children.iter().filter(|(manifest, _)| records.contains_key(manifest));
    Stock {
        blobs: records.iter().map(|(blob, record)| (digest(*blob), *record)).collect(),
        children: stored
            .map(|(manifest, layers)| (digest(*manifest), layers.iter().map(|l| digest(*l)).collect()))
            .collect(),
        pinned: HashSet::new(),
    }
}

fn simulate(name: &str, trace: &Trace) {
    let all: u64 = trace
        .pulls
        .iter()
        .flat_map(|pull| pull.image.layers.iter().chain([&pull.image.manifest]))
        .collect::<HashSet<_>>()
        .into_iter()
        .map(|blob| trace.sizes[blob])
        .sum();
    println!("\n{name}: {} pulls, {:.1} GB of distinct content", trace.pulls.len(), all as f64 / 1e9);
    println!("{:34} {:>17} {:>17} {:>17}", "hit ratio by requests / bytes", "room 5 %", "room 15 %", "room 40 %");
    type Run = fn(&Trace, u64) -> Ratio;
    let runs: [(&str, Run); 10] = [
        ("blobs, LRU", |t, room| run_blobs(t, Keyed::new(room, |_, _, _, now| u128::from(now)))),
        ("blobs, LFU", |t, room| {
            run_blobs(t, Keyed::new(room, |_, uses, _, now| (u128::from(uses) << 64) + u128::from(now)))
        }),
        ("blobs, S3-FIFO", |t, room| run_blobs(t, S3Fifo::new(room))),
        ("blobs, GDSF (uses / size, aged)", |t, room| {
            run_blobs(t, Keyed::new(room, |age, uses, size, _| age + (u128::from(uses) << 80) / u128::from(size)))
        }),
        ("blobs, LFU aged", |t, room| run_blobs(t, Keyed::new(room, |age, uses, _, _| age + u128::from(uses)))),
        ("images, LRU", |t, room| run_images(t, room, |image, _| image.used_at.0)),
        ("images, LFU", |t, room| run_images(t, room, |image, _| (image.uses, image.used_at.0))),
        ("images, uses / time stored", |t, room| {
            run_images(t, room, |image, now| {
                (u128::from(image.uses) << 64) / u128::from(now.saturating_sub(image.stored_at.0) + 1)
            })
        }),
        ("images, once-used first, then LRU", |t, room| {
            run_images(t, room, |image, _| (image.uses > 1, image.used_at.0))
        }),
        ("images, ours", |t, room| run_images(t, room, |image, now| worth(image, Timestamp(now)))),
    ];
    for (name, run) in runs {
        print!("{name:34}");
        for percent in [5, 15, 40] {
            let ratio = run(trace, all / 100 * percent);
            let (requests, bytes) =
                (ratio.hits as f64 / ratio.requests as f64, ratio.hit_bytes as f64 / ratio.bytes as f64);
            print!("   {:>6.1} % {:>4.1} %", requests * 100.0, bytes * 100.0);
        }
        println!();
    }
}

fn time_the_plan(blobs: u64) {
    let mut random = StdRng::seed_from_u64(9);
    let mut stock = Stock::default();
    let images = blobs / 10;
    for image in 0..images {
        let manifest = digest(image);
        let layers: Arc<[Digest]> = (0..12)
            .map(|n| {
                if n < 3 {
                    digest(images + random.random_range(0..images / 10 + 1))
                } else {
                    digest(2 * images + image * 9 + n - 3)
                }
            })
            .collect();
        let at = Timestamp(random.random_range(0..DAYS * DAY));
        stock.blobs.push((manifest, BlobRecord::new(2_000, at)));
        stock.children.insert(manifest, layers);
    }
    stock.blobs.extend((0..images / 10 + 1).map(|n| (digest(images + n), BlobRecord::new(30_000_000, Timestamp(0)))));
    stock.blobs.extend((0..images * 9).map(|n| (digest(2 * images + n), BlobRecord::new(5_000_000, Timestamp(0)))));
    let start = Instant::now();
    let victims = plan(&stock, u64::MAX, Timestamp(DAYS * DAY));
    println!(
        "plan over {} blobs, {} of them evicted: {:.0} ms",
        stock.blobs.len(),
        victims.len(),
        start.elapsed().as_secs_f64() * 1e3
    );
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        time_the_plan(1_000);
        return;
    }
    simulate("Zipf and builds", &trace(false, false));
    simulate("... with deployments", &trace(false, true));
    simulate("... with deployments and scans", &trace(true, true));
    println!();
    for blobs in [100_000, 1_000_000] {
        time_the_plan(blobs);
    }
}
