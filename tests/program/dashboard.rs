//! The dashboard and the alerts, with a real Prometheus that scrapes a real daemon.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::metrics::get_at;
use super::operate::Site;
use super::requirements::{DEMAND, demanded, find, say};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/compose");

struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// One that scrapes this address, with everything that it keeps in this folder.
    fn start(program: &Path, folder: &Path, target: &str) -> Prometheus {
        let config = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\n\
             scrape_configs: [{{ job_name: registry-mirror, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it starts").unwrap();
            if let Some((_, rest)) = line.split_once("msg=\"Listening on\" address=") {
                break rest.trim().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Prometheus { child, address }
    }

    /// What comes of a query: values, one for each series.
    fn ask(&self, query: &str) -> Vec<f64> {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let (_, body) = get_at(&self.address.to_string(), &format!("/api/v1/query?{query}"), "");
        let Ok(said) = serde_json::from_str::<Value>(&body) else { return Vec::new() };
        let Some(found) = said["data"]["result"].as_array() else { panic!("{query}: {said}") };
        found.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until so many more scrapes are there.
    fn scraped(&self, more: f64) {
        let scrapes = || self.ask("count_over_time(mirror_build_info[1h])").first().copied().unwrap_or_default();
        let until = scrapes() + more;
        while scrapes() < until {}
    }
}

/// Pulls an image through the address for clients.
fn pull(address: &str, site: &Site) {
    for path in [
        "manifests/1".to_owned(),
        format!("manifests/{}", site.amd64.manifest.digest),
        format!("blobs/{}", site.amd64.layers[0].digest),
        format!("blobs/{}", site.amd64.config.digest),
    ] {
        let (head, _) = get_at(address, &format!("/v2/library/app/{path}"), "Accept: */*\r\n");
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    let Some(program) = find("prometheus") else {
        assert!(!demanded(), "{DEMAND}=1, but prometheus is missing");
        return say("skipped the queries of the dashboard, prometheus is not here");
    };
    let site = Site::start();
    site.registry.limit_pulls(100, 50);
    let address = site.json("status").1["listening"][0].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    // A series that was not there before has not risen: once cold, once warm.
    pull(&address, &site);
    pull(&address, &site);
    let prometheus = Prometheus::start(&program, site.folder.path(), site.admin.strip_prefix("http://").unwrap());
    prometheus.scraped(2.0);
    pull(&address, &site);
    site.ok("pull other:2");
    prometheus.scraped(3.0);
    let dashboard = std::fs::read(format!("{EXAMPLES}/grafana/dashboards/registry-mirror.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert_eq!(panels[0]["title"], "What it is good for, within the time shown");
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    assert_eq!(variables.map(|variable| &variable["name"]).collect::<Vec<_>>(), ["datasource", "instance", "upstream"]);
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap().to_owned();
            let query = [("$__rate_interval", "1m"), ("$__range", "5m"), ("$instance", ".*"), ("$upstream", ".*")]
                .iter()
                .fold(query, |query, (variable, value)| query.replace(variable, value));
            assert!(!query.contains('$'), "{query}");
            let answer = prometheus.ask(&query);
            let value = |wanted: f64| (answer[0] - wanted).abs() < 0.01;
            match panel["title"].as_str().unwrap() {
                "Time to the first byte, 95 of 100" | "Pulls left" => assert!(!answer.is_empty(), "{query}"),
                // All of it was stored when the second scrape came.
                "Served from the cache, requests" | "Served from the cache, bytes" => assert!(value(1.0), "{answer:?}"),
                title => assert!(answer.iter().any(|value| value.is_finite()), "{title}: {query}: {answer:?}"),
            }
        }
    }
}

/// A series and its values.
type Series = (&'static str, &'static str);

/// The alert that series lead to after a while, if any, and a label of it.
const ALERTS: [(&str, &[Series], &str); 8] = [
    (
        "RegistryMirrorQuotaLow",
        &[
            ("mirror_upstream_budget_left{upstream=\"docker.io\"}", "9x30"),
            ("mirror_upstream_budget_limit{upstream=\"docker.io\"}", "100x30"),
        ],
        "upstream: docker.io",
    ),
    (
        "",
        &[
            ("mirror_upstream_budget_left{upstream=\"docker.io\"}", "11x30"),
            ("mirror_upstream_budget_limit{upstream=\"docker.io\"}", "100x30"),
        ],
        "",
    ),
    (
        "RegistryMirrorStoreFull",
        &[
            // The disk may be full by what others have there.
            ("mirror_store_used_bytes", "1x30"),
            ("mirror_store_budget_bytes", "100x30"),
            ("mirror_evicted_blobs_total", "3x30"),
            ("mirror_reservations_refused_total", "0+1x30"),
        ],
        "",
    ),
    // It is full, and room is made.
    (
        "",
        &[
            ("mirror_store_used_bytes", "96x30"),
            ("mirror_store_budget_bytes", "100x30"),
            ("mirror_evicted_blobs_total", "0+1x30"),
            ("mirror_reservations_refused_total", "0+1x30"),
        ],
        "",
    ),
    (
        "RegistryMirrorUpstreamDown",
        &[
            ("mirror_upstream_up{upstream=\"docker.io\", endpoint=\"a\"}", "0x30"),
            ("mirror_upstream_up{upstream=\"docker.io\", endpoint=\"b\"}", "0x30"),
        ],
        "upstream: docker.io",
    ),
    (
        "",
        &[
            ("mirror_upstream_up{upstream=\"docker.io\", endpoint=\"a\"}", "0x30"),
            ("mirror_upstream_up{upstream=\"docker.io\", endpoint=\"b\"}", "1x30"),
        ],
        "",
    ),
    ("RegistryMirrorVerificationFailed", &[("mirror_damaged_blobs_total", "0x10 1x20")], ""),
    (
        "RegistryMirrorVerificationFailed",
        &[("mirror_fills_total{result=\"mismatch\"}", "0x10 1x20"), ("mirror_damaged_blobs_total", "0x30")],
        "",
    ),
];

#[test]
fn alerts_are_well_formed_and_raised_by_what_they_are_for() {
    let Some(promtool) = find("promtool") else {
        assert!(!demanded(), "{DEMAND}=1, but promtool is missing");
        return say("skipped the alerts, promtool is not here");
    };
    let rules = format!("{EXAMPLES}/alerts.yml");
    let tool = |arguments: &[&str]| {
        let output = Command::new(&promtool).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{arguments:?}: {said}");
    };
    tool(&["check", "rules", &rules]);
    tool(&["check", "config", &format!("{EXAMPLES}/prometheus.yml")]);
    let names = ["QuotaLow", "StoreFull", "UpstreamDown", "VerificationFailed"];
    let folder = tempfile::tempdir().unwrap();
    for (number, (raised, series, label)) in ALERTS.into_iter().enumerate() {
        let values = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>().join(" ");
        let series: String = series
            .iter()
            .map(|(name, text)| format!("      - {{ series: '{name}', values: '{}' }}\n", values(text)))
            .collect();
        let expected = names.map(|name| {
            let name = format!("RegistryMirror{name}");
            let labels =
                [label, &format!("severity: {}", if name.ends_with("Failed") { "critical" } else { "warning" })];
            let labels = labels.iter().filter(|label| !label.is_empty()).copied().collect::<Vec<_>>().join(", ");
            let alert = if raised == name { format!("[{{ exp_labels: {{ {labels} }} }}]") } else { "[]".to_owned() };
            format!("      - {{ eval_time: 15m, alertname: {name}, exp_alerts: {alert} }}\n")
        });
        let test = format!(
            "rule_files: [\"{rules}\"]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{series}    alert_rule_test:\n{}",
            expected.concat()
        );
        let file = folder.path().join(format!("{number}.yml"));
        // What an alert says is not compared.
        let quiet = std::fs::read_to_string(&rules).unwrap();
        let quiet: String = quiet
            .lines()
            .filter(|line| {
                ["annotations:", "summary:", "description:"].iter().all(|word| !line.trim_start().starts_with(word))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(folder.path().join("rules.yml"), quiet).unwrap();
        std::fs::write(&file, test.replace(&rules, &folder.path().join("rules.yml").display().to_string())).unwrap();
        tool(&["test", "rules", &file.display().to_string()]);
    }
}
