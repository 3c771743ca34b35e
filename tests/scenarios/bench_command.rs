//! `registry-mirror bench` in front of a mirror and past it: what it measures is what happened.

use std::process::{Output, Stdio};

use scripted_registry::{Image, Match, Registry, Rule, noise};
use serde_json::Value;
use tokio::process::Command;

use crate::support::mirror::TestMirror;

struct Bench(Command);

impl Bench {
    fn of(registry: &Registry, mirror: &TestMirror) -> Bench {
        Bench::at(registry, &format!("http://{}", mirror.address), mirror)
    }

    fn at(registry: &Registry, url: &str, mirror: &TestMirror) -> Bench {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        command.args(["bench", "--direct", &registry.url(), "--mirror", url]);
        command
            .args(["--admin", &format!("unix:{}", mirror.socket().display())])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Bench(command)
    }

    fn args(mut self, args: &[&str]) -> Bench {
        self.0.args(args);
        self
    }

    async fn run(mut self) -> Output {
        self.0.output().await.expect("the program runs")
    }

    /// Runs it and gives the report of each image.
    async fn reports(self) -> Vec<Value> {
        let output = self.args(&["--json"]).run().await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout and nothing else");
        document["images"].as_array().expect("images").clone()
    }
}

async fn setting() -> (Registry, Image, TestMirror) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 200_000), noise(2, 70_000)]);
    let mirror = TestMirror::of(&registry).await;
    (registry, image, mirror)
}

fn series<'a>(report: &'a Value, way: &str) -> &'a Value {
    let series = report["series"].as_array().expect("series");
    series.iter().find(|series| series["way"] == way).unwrap_or_else(|| panic!("no {way} pulls in {report}"))
}

#[tokio::test]
async fn past_the_mirror_is_where_its_configuration_says() {
    let (registry, _, mirror) = setting().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mirror.toml");
    let (address, url, socket) = (mirror.address, registry.url(), mirror.socket());
    let text = format!(
        "server.listen = [\"{address}\"]\nserver.admin_socket = \"{}\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{url}\"\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
    command.args(["bench", "app:1", "--warm", "1", "-c"]).arg(&config).stdin(Stdio::null()).kill_on_drop(true);
    let [report] = &Bench(command).reports().await[..] else { panic!("no report") };
    assert_eq!(series(report, "direct")["time"]["count"], 3, "{report}");
    assert!(report["notes"].to_string().contains(&format!("direct {url}")), "{report}");
}

#[tokio::test]
async fn a_report_counts_the_pulls_and_the_bytes_that_the_mirror_fetched_for_them() {
    let (registry, image, mirror) = setting().await;
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    let bench = Bench::of(&registry, &mirror);
    let bench = bench.args(&["app:1", "--clients", "4", "--warm", "2", "--direct-pulls", "2", "-o"]);
    let reports = bench.args(&[plot.to_str().unwrap()]).reports().await;

    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(report["image"], "docker.io/library/app:1");
    assert_eq!(report["digest"], image.manifest.digest.to_string());
    assert_eq!(report["size_bytes"], image.blob_bytes() + image.manifest.size);
    for (way, rounds) in [("direct", 2), ("cold", 1), ("warm", 2)] {
        let series = series(report, way);
        assert_eq!((series["rounds"].as_u64(), series["time"]["count"].as_u64()), (Some(rounds), Some(rounds * 4)));
        assert!(series["time"]["min"].as_f64() > Some(0.0), "{series}");
        assert!(series["first_byte"]["max"].as_f64() <= series["time"]["max"].as_f64(), "{series}");
    }
    let cold = series(report, "cold");
    assert_eq!(cold["fetched"], true);
    assert_eq!(cold["upstream_bytes_per_client_byte"], 0.25, "four clients, one fetch");
    assert_eq!(series(report, "warm")["upstream_bytes_per_client_byte"], 0.0);
    assert_eq!(series(report, "direct")["upstream_bytes_per_client_byte"], Value::Null);
    for layer in &image.layers {
        assert_eq!(registry.gets_of(&layer.digest), 2 * 4 + 1, "eight direct pulls and one fill");
    }
    let plot = std::fs::read_to_string(plot).expect("a plot");
    assert_eq!(plot.matches("<circle").count(), 8 + 4 + 8);
}

#[tokio::test]
async fn a_first_pull_of_what_the_mirror_has_is_not_passed_off_as_cold() {
    let (registry, _, mirror) = setting().await;
    let bench = || Bench::of(&registry, &mirror).args(&["app:1", "--warm", "0", "--direct-pulls", "0"]);
    assert_eq!(series(&bench().reports().await[0], "cold")["fetched"], true);
    mirror.settled().await;
    let again = bench().reports().await;
    assert_eq!(series(&again[0], "cold")["fetched"], false);
    assert!(again[0]["notes"].to_string().contains("NOT COLD"), "{}", again[0]["notes"]);
}

#[tokio::test]
async fn cold_pulls_are_repeated_with_a_command_that_makes_the_mirror_forget() {
    let (registry, image, mirror) = setting().await;
    let forget = format!("test $IMAGE = docker.io/library/app:1 && rm -rf {}/blobs/sha256/*", mirror.store().display());
    let bench = Bench::of(&registry, &mirror).args(&["app:1", "--cold", "3", "--warm", "1", "--direct-pulls", "0"]);
    let reports = bench.args(&["--cold-reset", &forget]).reports().await;
    let cold = series(&reports[0], "cold");
    assert_eq!((cold["rounds"].as_u64(), cold["fetched"].as_bool()), (Some(3), Some(true)));
    assert_eq!(registry.gets_of(&image.layers[0].digest), 3);
}

#[tokio::test]
async fn cold_pulls_are_repeated_by_making_our_own_mirror_forget() {
    let (registry, image, mirror) = setting().await;
    let bench = || Bench::of(&registry, &mirror).args(&["app:1", "--warm", "1", "--direct-pulls", "0", "--forget"]);
    for (args, cold) in [(&["--cold", "3"][..], 3), (&[], 5)] {
        registry.forget_requests();
        let reports = bench().args(args).reports().await;
        let series = series(&reports[0], "cold");
        assert_eq!((series["rounds"].as_u64(), series["fetched"].as_bool()), (Some(cold), Some(true)));
        assert_eq!(series["upstream_bytes_per_client_byte"], 1.0);
        for layer in &image.layers {
            assert_eq!(registry.gets_of(&layer.digest) as u64, cold);
        }
        assert!(!reports[0]["notes"].to_string().contains("NOT COLD"));
    }
    let code = async |args: &[&str]| bench().args(args).run().await.status.code();
    assert_eq!(code(&["--cold-reset", "true"]).await, Some(2), "one or the other");
}

#[tokio::test]
async fn a_benchmark_of_pulls_that_fail_is_none_and_the_exit_code_says_why() {
    let (registry, image, mirror) = setting().await;
    let code = async |args: &[&str]| Bench::of(&registry, &mirror).args(args).run().await.status.code();
    assert_eq!(code(&["app:1", "--cold", "2"]).await, Some(2), "nothing makes it cold again");
    assert_eq!(code(&["Not/An/Image"]).await, Some(2));
    assert_eq!(code(&["app:2"]).await, Some(5), "not found");
    assert_eq!(code(&["app:1", "--platform", "plan9/mips", "--cold-reset", "false"]).await, Some(1));
    assert_eq!(code(&["app:2", "app:1"]).await, Some(3), "one of two");
    registry.rule(Rule::on(Match::blob(&image.layers[0].digest)).flip_last_byte());
    assert_eq!(code(&["app:1"]).await, Some(6), "wrong content");
    let mut registry = registry;
    registry.stop().await;
    let nobody = Bench::at(&registry, &registry.url(), &mirror);
    let output = nobody.args(&["app:1", "--direct-pulls", "0"]).run().await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}
