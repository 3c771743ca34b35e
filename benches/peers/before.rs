//! Ours against an earlier build of ours: whether what was added since slows a warm public pull down.

use std::path::Path;
use std::time::Duration;

use super::bench::Bench;
use super::images::{TAG, blob_path, manifest_path};
use super::load::{self, Asked};
use super::rounds::{Contest, Effort, Unit, sample};

/// What a warm public pull may at least do, of what it did before.
const LEAST: f64 = 0.97;
const NAMES: [&str; 2] = ["now", "before"];

/// Prints a row for each kind of pull.
///
/// # Errors
/// When one does less than [`LEAST`] of what it did before, or cannot be measured.
pub fn compare(bench: &Bench, program: &Path) -> anyhow::Result<()> {
    let upstream = bench.upstream.address;
    let servers = [bench.workshop.mirror(upstream)?, bench.workshop.mirror_by(program, upstream)?];
    let blobs = bench.images.image.blobs().map(|blob| blob_path(&blob.digest));
    let image: Vec<String> = [manifest_path(TAG)].into_iter().chain(blobs).collect();
    for server in &servers {
        load::fetch_all(server.address, &image, None)?;
        bench.fill(server.address)?;
    }
    // None is left out for want of time: what is asked is a difference of a few per cent.
    let effort = Effort { share: Duration::MAX, ..bench.effort };
    let mut slower = Vec::new();
    let works = [
        ("warm pull of an image of 10 layers", &image[..], Unit::Gigabytes),
        ("manifest by tag", &image[..1], Unit::Requests),
    ];
    for (name, paths, unit) in works {
        for connections in [1, 64] {
            let asked = Asked::get(paths);
            let work = format!("{name}, {connections} connections");
            let contest = Contest::run(work.clone(), unit, &effort, &NAMES, |peer| {
                let server = &servers[peer];
                sample(unit, server.process(), &bench.helpers(), Duration::ZERO, || {
                    load::keep_asking(server.address, &asked, connections, effort.time)
                })
            })?;
            print!("{}", contest.rows());
            slower.extend(contest.ratio(1).filter(|ratio| *ratio < LEAST).map(|ratio| format!("{work}: {ratio:.3}")));
        }
    }
    anyhow::ensure!(slower.is_empty(), "less than {LEAST} of what was done before: {}", slower.join("; "));
    Ok(())
}
