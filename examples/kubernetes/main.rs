//! What mirrors for 10,000 nodes need and cost, from assumptions that stand here: `sums.md` is what this prints.
//!
//! `cargo run --example kubernetes > examples/kubernetes/sums.md`, after you have put in your own.

#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

/// What is assumed, and what is known of prices.
pub(crate) struct Assumed {
    nodes: f64,
    /// Pulls of images by a node on a day.
    pulls_per_node: f64,
    /// Blobs that a pull fetches, and requests for manifests that it makes: what the node has it does not ask for.
    blobs_per_pull: f64,
    manifests_per_pull: f64,
    /// Of a blob, in MB.
    blob: f64,
    /// The busiest minute, as a multiple of the mean.
    peak: f64,
    /// What is new on a day, and what the bucket holds, in TB.
    new: f64,
    stored: f64,
    /// Tags that are asked for all day, and how long each is fresh, in seconds.
    tags: f64,
    tag_ttl: f64,
    /// What a replica carries: requests a second of two cores, and Gbit/s of a 25 Gbit/s port.
    requests: f64,
    gigabits: f64,
    /// Dollars: a thousand GETs, a thousand PUTs and lists, a GB stored for a month, a GB to another zone and out.
    get: f64,
    put: f64,
    gigabyte_month: f64,
    zone: f64,
    out: f64,
    /// What everybody pulls at once, in GB, and in how many minutes.
    rush: f64,
    rush_minutes: f64,
    /// Pulls that Docker Hub grants an address without a login in six hours.
    grant: f64,
}

pub(crate) const ASSUMED: Assumed = Assumed {
    nodes: 10_000.0,
    pulls_per_node: 50.0,
    blobs_per_pull: 8.0,
    manifests_per_pull: 3.0,
    blob: 25.0,
    peak: 10.0,
    new: 1.0,
    stored: 30.0,
    tags: 2_000.0,
    tag_ttl: 300.0,
    requests: 1_000.0,
    gigabits: 15.0,
    get: 0.0004,
    put: 0.005,
    gigabyte_month: 0.023,
    zone: 0.02,
    out: 0.05,
    rush: 5.0,
    rush_minutes: 10.0,
    grant: 100.0,
};

const DAY: f64 = 86_400.0;
const MONTH: f64 = 30.0;
/// As this program does it: parts of an upload in MB, hours between two rounds of the collector, what it looks at at a
/// time, what a list tells at a time, minutes between two looks whether a round is due.
const PART: f64 = 16.777_216;
const ROUND: f64 = 6.0;
const PAGE: f64 = 100_000.0;
const LIST: f64 = 1_000.0;
const LOOK: f64 = 10.0;

fn main() {
    print!("{}", sums(&ASSUMED));
}

/// With a comma between thousands.
fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.round());
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

/// All of it, as a document.
#[allow(clippy::too_many_lines, reason = "a document, from its beginning to its end")]
pub(crate) fn sums(of: &Assumed) -> String {
    let mut text = String::new();
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let (pulls, replicas_at_least) = (of.nodes * of.pulls_per_node, 3.0);
    let (blobs, manifests) = (pulls * of.blobs_per_pull, pulls * of.manifests_per_pull);
    let terabytes = blobs * of.blob / 1e6;
    let mean = terabytes * 8000.0 / DAY;
    let peak = mean * of.peak;
    let peak_requests = (blobs + manifests) / DAY * of.peak;

    say("# Mirrors for 10,000 nodes: the sums\n");
    say("Printed by `cargo run --example kubernetes`; the assumptions are at the top of `main.rs`, and yours differ.");
    say(
        "Prices are list prices of one large cloud, and what a replica carries is set low: measure it on your machines.\n",
    );
    say("## What is assumed\n");
    say("| | |\n|---|---|");
    for (what, how_much) in [
        ("nodes", count(of.nodes)),
        ("pulls by each on a day", count(of.pulls_per_node)),
        (
            "blobs, and requests for manifests, of a pull",
            format!("{} and {}", of.blobs_per_pull, of.manifests_per_pull),
        ),
        ("a blob", format!("{} MB", of.blob)),
        ("the busiest minute", format!("{} times the mean", of.peak)),
        ("new on a day; stored", format!("{} TB; {} TB", of.new, of.stored)),
        ("tags in use; fresh for", format!("{}; {} s", count(of.tags), of.tag_ttl)),
        ("a replica carries", format!("{} requests/s, {} Gbit/s", count(of.requests), of.gigabits)),
    ] {
        say(&format!("| {what} | {how_much} |"));
    }
    say("\n## What comes of it\n");
    say("| | a day | mean | busiest minute |\n|---|---|---|---|");
    say(&format!("| bytes | {} TB | {mean:.1} Gbit/s | {peak:.0} Gbit/s |", count(terabytes)));
    for (what, many) in [("pulls", pulls), ("blobs", blobs), ("manifests", manifests)] {
        let mean = many / DAY;
        say(&format!("| {what} | {} | {mean:.0}/s | {:.0}/s |", count(many), mean * of.peak));
    }
    let granted = of.grant * 4.0;
    say(&format!(
        "\nDocker Hub grants an address without a login {} pulls a day: of these {} that is one in {}.",
        count(granted),
        count(pulls),
        count(pulls / granted)
    ));

    say("\n## With redirects: clients fetch blobs from the bucket\n");
    let replicas = (peak_requests / of.requests).ceil().max(replicas_at_least);
    say(&format!(
        "Replicas carry heads, manifests and what is new: {peak_requests:.0} requests/s in the busiest minute. \
         **{replicas:.0} replicas of two cores**, so that one may be lost."
    ));
    let new_blobs = of.new * 1e6 / of.blob;
    let parts = of.new * 1e6 / PART;
    // Created, completed, written down and struck out; its membership; its lease.
    let for_blobs = new_blobs * (4.0 + 1.0 + 1.0) + parts;
    let tag_checks = (of.tags * DAY / of.tag_ttl).min(pulls);
    let all = of.stored * 1e6 / of.blob;
    // Blobs once, and their names for each page of them.
    let lists = (all / LIST + (all / PAGE).ceil() * all / LIST) * 24.0 / ROUND + replicas * 24.0 * 60.0 / LOOK;
    // Of a blob that a client is sent to, it was asked before whether it is there.
    let gets = 2.0 * blobs + pulls + questions(new_blobs);
    let month = |thousands: f64, price: f64| thousands / 1000.0 * MONTH * price;
    let costs = [
        (format!("{} GETs a day", count(gets)), month(gets, of.get)),
        (format!("{} PUTs a day for what is new", count(for_blobs)), month(for_blobs, of.put)),
        (format!("{} PUTs a day for tags that were checked", count(tag_checks)), month(tag_checks, of.put)),
        (format!("{} lists a day, the collector's", count(lists)), month(lists, of.put)),
        (format!("{} TB stored", of.stored), of.stored * 1000.0 * of.gigabyte_month),
    ];
    say("\n| the bucket | a month |\n|---|---|");
    costs.iter().for_each(|(what, cost)| say(&format!("| {what} | ${} |", count(*cost))));
    let total: f64 = costs.iter().map(|(_, cost)| cost).sum();
    say(&format!("| **together** | **${}** |", count(total)));
    say(&format!(
        "\nBytes within the region are free through a gateway endpoint. A bucket takes 5,500 GETs/s below each prefix, \
         and digests spread evenly: {:.0}/s is far from that.",
        blobs / DAY * of.peak
    ));

    say("\n## Without: all bytes through the replicas\n");
    let carried = (peak / of.gigabits).ceil();
    say(&format!(
        "{peak:.0} Gbit/s by {} Gbit/s are {carried:.0} replicas: **run {:.0}**, each with 25 Gbit/s and 4 TB of NVMe. \
         This is the way on premises. Let the balancer hash the path, and most of what one has not is fetched once.",
        of.gigabits,
        carried + 1.0
    ));
    let across = terabytes * MONTH * 1000.0 * of.zone * 2.0 / 3.0;
    say(&format!(
        "In a cloud of three zones two bytes of three go to another one: ${} a month. That is what redirects are for.",
        count(across)
    ));
    let out = terabytes * MONTH * 1000.0 * of.out;
    say(&format!(
        "Nodes outside the region: ${} a month for {} TB going out. Put replicas and a store where the nodes are.",
        count(out),
        count(terabytes * MONTH)
    ));

    say("\n## Where it ends\n");
    let rush = of.nodes * of.rush * 8.0 / (of.rush_minutes * 60.0);
    say(&format!(
        "All nodes at once, {} GB in {} minutes, are {rush:.0} Gbit/s: {:.0} such replicas. No small row of mirrors \
         carries that. Roll out in stages, let redirects do it, or put something that shares between nodes in front, \
         with this mirror as its upstream.",
        of.rush,
        of.rush_minutes,
        (rush / of.gigabits).ceil()
    ));
    text
}

/// What a new blob makes replicas ask the bucket: whether it is there, whose its lease is, whether it is marked.
fn questions(new_blobs: f64) -> f64 {
    new_blobs * 6.0
}
