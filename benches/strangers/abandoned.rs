//! Slow fills of many upstreams whose clients have hung up, and what the others wait for meanwhile.

use std::time::Duration;

use futures_util::future::join_all;
use scripted_registry::client::{self, Stream};
use scripted_registry::{Gate, Match, Registry, Rule, noise};
use tokio::runtime::Runtime;

use super::arguments::{Arguments, Check};
use super::latency::{Client, Met, median, percentile};
use super::server::Server;

const UPSTREAMS: usize = 9;
/// As many as one upstream may fill at once.
const FILLS: usize = 64;
/// How much of a blob comes at a time, in bytes, about once a second.
const DROP: usize = 256;

pub fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Check>> {
    let rounds = if arguments.short { 1 } else { 5 };
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let (idle, beside) = round(arguments)?;
        for (ratios, hundredths) in ratios.iter_mut().zip([50, 99]) {
            ratios.push(percentile(&beside.waits, hundredths) / percentile(&idle.waits, hundredths));
        }
        anyhow::ensure!(idle.refused + beside.refused == 0, "a warm request was refused");
    }
    let [middle, worst] = ratios.map(median);
    let what = format!("warm requests beside {} abandoned fills, against alone", UPSTREAMS * FILLS);
    Ok(vec![
        Check::new(format!("{what}: median"), middle, 2.0, " x"),
        Check::new(format!("{what}: p99"), worst, 2.0, " x"),
    ])
}

fn round(arguments: &Arguments) -> anyhow::Result<(Met, Met)> {
    let time = Duration::from_millis(if arguments.short { 300 } else { 4000 });
    let runtime = Runtime::new()?;
    let (healthy, tenth) = (runtime.block_on(Registry::start()), runtime.block_on(Registry::start()));
    let image = healthy.add_image("library/app", "1", &[noise(1, 300_000)]);
    let cold = tenth.add_image("library/app", "1", &[noise(2, 300_000)]);
    let gate = Gate::new();
    let mut more = vec![("tenth.example".to_owned(), tenth)];
    let mut slow = Vec::new();
    for number in 0..UPSTREAMS {
        let (registry, host) = (runtime.block_on(Registry::start()), format!("slow{number}.example"));
        for seed in 0..FILLS {
            let blob = registry.add_blob("library/slow", noise(1000 * number as u64 + seed as u64, 200_000));
            registry.rule(Rule::on(Match::blob(&blob).get()).drip(DROP, &gate));
            slow.push(format!("/v2/{host}/library/slow/blobs/{blob}"));
        }
        more.push((host, registry));
    }
    let server = Server::start(arguments, "", &healthy, &more)?;
    let address = server.address;
    let layer = image.blobs().map(|blob| blob.digest).last().expect("a layer");
    let mut paths = vec!["/v2/library/app/manifests/1".to_owned(), "/v2/library/app/tags/list".to_owned()];
    paths.push(format!("/v2/library/app/blobs/{layer}"));
    let mut client = Client::connect([127, 0, 0, 2], address)?;
    for path in paths.iter().chain(&paths) {
        anyhow::ensure!(client.ask(path)? == 200, "{path}");
    }
    let idle = client.keep_asking(&paths, time, Duration::from_millis(1))?;
    let dripping = {
        let all = slow.len() as u64;
        runtime.spawn(async move {
            loop {
                gate.let_through(all / 20);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    };
    runtime.block_on(async {
        let abandoned = slow.iter().map(|path| async move {
            let mut stream = Stream::get(address, path, &[]).await;
            stream.read_exactly(1).await;
            let status = stream.status;
            stream.reset();
            status
        });
        let statuses = join_all(abandoned).await;
        anyhow::ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        let under_way = server.metric("mirror_fills_in_flight ").await;
        anyhow::ensure!(under_way as usize == slow.len(), "{under_way} of {} fills are under way", slow.len());
        Ok(())
    })?;
    let beside = client.keep_asking(&paths, time, Duration::from_millis(1))?;
    runtime.block_on(async {
        let manifest = client::get(address, "/v2/tenth.example/library/app/manifests/1", &[]).await;
        anyhow::ensure!(manifest.status == 200 && manifest.complete, "the manifest of a tenth upstream");
        for blob in cold.blobs() {
            let path = format!("/v2/tenth.example/library/app/blobs/{}", blob.digest);
            let answer = client::get(address, &path, &[]).await;
            anyhow::ensure!(answer.status == 200 && answer.complete, "{path}: {}", answer.status);
        }
        let under_way = server.metric("mirror_fills_in_flight ").await;
        anyhow::ensure!(under_way as usize >= slow.len(), "{under_way} fills are left");
        Ok(())
    })?;
    dripping.abort();
    Ok((idle, beside))
}
