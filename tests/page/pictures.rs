//! The pictures of the README: the page, and a terminal. Each is made of a daemon with pulls that happened, and has its
//! text in itself, which is compared with today's; numbers and times apart. `.ci/pictures` makes them anew.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry_mirror::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use scripted_registry::{Gate, Image, Match, Registry, Rule, client, noise};
use serde_json::json;

use super::browser::Browser;
use super::mirror::{Settings, TestMirror};
use super::requirements::{find, say};
use super::site::{CONSENT, pull};

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");
/// Set to `write` where the pictures are to be made anew.
const ORDER: &str = "PICTURES";
/// A longer file is no picture for a README, in bytes.
const LARGEST: usize = 200_000;

/// What every PNG begins with: its signature, and the chunk `IHDR`.
const HEAD: usize = 8 + 12 + 13;
/// The chunk of text in UTF-8, and the keyword in front of it.
const KIND: &[u8; 4] = b"iTXt";
const KEYWORD: &[u8] = b"Description\0\0\0\0\0";

/// A picture with its text in it.
fn with_text(png: &[u8], text: &str) -> Vec<u8> {
    let content = [KEYWORD, text.as_bytes()].concat();
    let mut sum = flate2::Crc::new();
    sum.update(KIND);
    sum.update(&content);
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let (head, rest) = png.split_at(HEAD);
    [head, &length, KIND, &content, &sum.sum().to_be_bytes(), rest].concat()
}

/// The text in a picture.
fn text_of(png: &[u8]) -> Option<&str> {
    let (length, rest) = png.get(HEAD..)?.split_first_chunk()?;
    let content = rest.get(..4 + u32::from_be_bytes(*length) as usize)?;
    std::str::from_utf8(content.strip_prefix(KIND)?.strip_prefix(KEYWORD)?).ok()
}

/// What may stand behind a number.
const UNITS: [&str; 10] = ["B", "KiB", "MiB", "GiB", "ms", "s", "m", "min", "h", "d"];

/// A text without what is another one each time: `#` for each number with its unit, each time, and each digest.
fn without_numbers(text: &str) -> String {
    let line = |line: &str| {
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
            let is_digest =
                bare.starts_with("sha256:") || bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit());
            let is_unit = UNITS.contains(&bare.split('/').next().unwrap_or_default());
            match words.last() {
                _ if is_digest || bare.starts_with(|c: char| c.is_ascii_digit()) => words.push("#"),
                Some(&"#") if is_unit => {}
                _ => words.push(word),
            }
        }
        words.join(" ")
    };
    text.lines().map(line).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").replace("just now", "# ago")
}

/// Compares a picture with the one of that name in `.github`, or replaces it.
fn compare(name: &str, taken: &Path, text: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github").join(name);
    let picture = with_text(&std::fs::read(taken).unwrap(), text);
    assert!(picture.len() < LARGEST, "{name} has {} bytes", picture.len());
    if std::env::var(ORDER).is_ok_and(|order| order == "write") {
        std::fs::write(&kept, picture).unwrap();
        return say(&format!("{} is written", kept.display()));
    }
    let before = std::fs::read(&kept).unwrap();
    assert!(before.len() < LARGEST, "{name} has {} bytes", before.len());
    let before = without_numbers(text_of(&before).expect("a picture with its text"));
    assert_eq!(
        without_numbers(text),
        before,
        "{name} shows other words than there are today: .ci/pictures makes it anew"
    );
}

#[test]
fn a_text_is_kept_in_a_picture_and_compared_without_its_numbers() {
    let png = [&[0; HEAD][..], b"\0\0\0\0IEND\xaeB`\x82"].concat();
    let picture = with_text(&png, "12 ● of 100");
    assert_eq!(text_of(&picture), Some("12 ● of 100"));
    // As every program that reads such files would count it.
    let chunk = &picture[HEAD + 4..picture.len() - 12];
    let (content, sum) = chunk.split_at(chunk.len() - 4);
    let mut expected = flate2::Crc::new();
    expected.update(content);
    assert_eq!(sum, expected.sum().to_be_bytes());
    assert_eq!(text_of(&png), None);
    for (text, expected) in [
        ("up 23 h 94.1 % of 1,234", "up # # % of #"),
        ("resets 14:05\n\n2.1 MiB   of 40 KiB · 5 MiB/s", "resets #\n# of # · #"),
        ("just now and 3m ago and 12 min ago", "# ago and # ago and # ago"),
        ("until 2026-11-29T01:02:03Z sha256:0123456789abcdef abcdefabcdef", "until # # #"),
        ("3 blobs, 4 misses", "# blobs, # misses"),
    ] {
        assert_eq!(without_numbers(text), expected, "{text}");
    }
}

/// Three registries and a mirror in front of them that has had a day of pulls.
struct Day {
    hub: Registry,
    quay: Registry,
    mirror: TestMirror,
    names: Vec<(String, String)>,
}

impl Day {
    async fn passes() -> Day {
        let (hub, ghcr, quay) = (Registry::start().await, Registry::start().await, Registry::start().await);
        let base = noise(801, 1_400_000);
        let mut redis = Vec::new();
        for (number, platform) in [(811, "amd64"), (812, "arm64")] {
            redis.push((hub.add_image("library/redis", platform, &[base.clone(), noise(number, 900_000)]), platform));
        }
        hub.add_index(
            "library/redis",
            "7",
            &redis.iter().map(|(image, platform)| (image, *platform)).collect::<Vec<_>>(),
        );
        let redis = redis.swap_remove(0).0;
        let nginx = hub.add_image("library/nginx", "1.29", &[base.clone(), noise(821, 700_000)]);
        let versions = ["2.0", "2.1"].map(|version| {
            (
                version,
                ghcr.add_image(
                    "acme/api",
                    version,
                    &[base.clone(), noise(831, 500_000), noise(u64::from(version.as_bytes()[2]), 300_000)],
                ),
            )
        });
        let exporter = quay.add_image("prometheus/node-exporter", "v1.9", &[noise(841, 1_100_000)]);
        let before = SystemClock.now().minus(Duration::from_secs(23 * 3600 + 60));
        let settings = Settings::of(&hub).and("ghcr.io", &ghcr).and("quay.io", &quay).config("cache.prefetch = \"0\"");
        let mirror = settings.start_at(before).await;
        let names = [(&hub, "https://registry-1.docker.io"), (&ghcr, "https://ghcr.io"), (&quay, "https://quay.io")];
        let names = names.map(|(registry, name)| (registry.url(), name.to_owned())).to_vec();
        let mut day = Day { hub, quay, mirror, names };
        let busy: [usize; 24] = [2, 1, 1, 1, 1, 2, 3, 5, 7, 9, 9, 8, 6, 8, 9, 10, 8, 6, 5, 4, 3, 3, 2, 2];
        for (hour, pulls) in busy.into_iter().enumerate() {
            let (version, api) = &versions[hour / 12];
            if hour == 23 {
                day.hub.limit_pulls(100, 88);
            }
            for pull in 0..pulls {
                match (pull + hour) % 4 {
                    0 => day.pull("library/redis", "7", &redis).await,
                    1 => day.pull("library/nginx", "1.29", &nginx).await,
                    2 => day.pull("ghcr.io/acme/api", version, api).await,
                    _ => day.pull("quay.io/prometheus/node-exporter", "v1.9", &exporter).await,
                }
            }
            // It counts for the hour in which somebody looks.
            day.look("usage").await;
            match hour {
                15 => day.quay.rule(Rule::on(Match::any()).close_at_once()),
                17 => day.quay.clear_rules(),
                _ => {}
            }
            if hour < 23 {
                day.mirror.advance(Duration::from_secs(3600));
            }
        }
        day.quay.stop().await;
        day.mirror.get("/v2/quay.io/prometheus/other/manifests/1").await;
        let order = json!({ "images": ["docker.io/library/redis:7"] }).to_string();
        client::post(day.mirror.socket(), "/api/v1/pin", &CONSENT, order).await;
        day
    }

    async fn pull(&self, repository: &str, tag: &str, image: &Image) {
        pull(&self.mirror, repository, tag, image).await;
    }

    async fn look(&self, path: &str) {
        client::get(self.mirror.socket(), &format!("/api/v1/{path}"), &CONSENT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_of_the_page_says_what_the_page_says_today() {
    let Some(browser) = Browser::start("the_picture_of_the_page").await else { return };
    let day = Day::passes().await;
    // Registries on this machine have the names of those that they stand for.
    let names = serde_json::to_string(&day.names).unwrap();
    let source = format!(
        "const real = window.fetch; window.fetch = async (...asked) => {{\n\
         const answer = await real(...asked); if (!String(asked[0]).endsWith('/status')) return answer;\n\
         const text = {names}.reduce((text, [here, there]) => text.replaceAll(here, there), await answer.text());\n\
         return new Response(text, {{ headers: {{ 'Content-Type': 'application/json' }} }}); }};"
    );
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
    let slow = day.hub.add_blob("library/postgres", noise(851, 6_000_000));
    let gates = [Gate::new(), Gate::new()];
    day.hub.rule(Rule::on(Match::blob(&slow)).stall_after(1_500_000, &gates[0]).stall_after(4_000_000, &gates[1]));
    let path = format!("/v2/library/postgres/blobs/{slow}");
    let mut clients = vec![day.mirror.stream(&path).await];
    clients[0].read_exactly(100_000).await;
    while clients.len() < 10 {
        clients.push(day.mirror.stream(&path).await);
    }
    browser.look_like(1280, "light").await;
    browser.open(&format!("http://{}/", day.mirror.admin)).await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 5").await;
    browser.until("document.querySelector('#fills').innerText.includes('10 clients attached')").await;
    // In an order that is the same each time.
    browser.run("const sort = document.getElementById('sort'); sort.value = 'name'; sort.dispatchEvent(new Event('change'))").await;
    gates[0].open();
    browser.until("/left$/.test(document.querySelector('#fills').innerText)").await;
    let taken = browser.picture("page", 1280).await;
    let text = browser.run("return document.body.innerText").await;
    compare("page.png", &taken, text.as_str().unwrap());
    gates[1].open();
    drop(clients);
    browser.end().await;
    day.mirror.stop().await;
}

/// A program on a terminal of its own, ended by its process id.
struct OnTerminal {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    pid: Option<Pid>,
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

impl OnTerminal {
    fn run(home: &Path, words: &str) -> OnTerminal {
        let command = format!("echo $$; stty cols 120; exec {BINARY} {words}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env_clear();
        script.env("HOME", home).env("PATH", "/usr/bin:/bin").env("TERM", "xterm").env("SHELL", "/bin/sh");
        let mut child = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = lines.next().and_then(|line| Pid::from_raw(line.ok()?.trim().parse().ok()?));
        OnTerminal { child, lines, pid }
    }

    /// What it says up to the line that has this in it.
    fn until(&mut self, word: &str) -> String {
        let mut text = String::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            text += &format!("{}\n", line.trim_end());
            if line.contains(word) {
                break;
            }
        }
        text
    }
}

/// Colours of a terminal as markup.
fn markup(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut parts = text.split("\u{1b}[");
    let mut html = parts.next().unwrap_or_default().to_owned();
    let mut open = 0;
    for part in parts {
        let (code, rest) = part.split_once('m').expect("a colour");
        if code == "0" || code.is_empty() {
            html += &"</b>".repeat(std::mem::take(&mut open));
        } else {
            html += &format!("<b class=\"c{}\">", code.replace(';', " c"));
            open += 1;
        }
        html += rest;
    }
    html + &"</b>".repeat(open)
}

const STYLE: &str = "body { margin: 0; background: #14181f; } pre { margin: 0; padding: 18px 22px; color: #d6dde6; \
    font: 12px/1.45 'DejaVu Sans Mono', monospace; width: max-content; } b { font-weight: normal; } .c1 { font-weight: bold; color: #fff; } \
    .c2 { color: #8a94a3; } .c31 { color: #ff7b72; } .c32 { color: #7ee787; } .c33 { color: #e3b341; } i { color: #79c0ff; font-style: normal; }";

/// What is still being written is joined by who asks for it, and is no hit yet.
async fn nothing_is_being_filled(admin: std::net::SocketAddr) {
    loop {
        let answer = client::get(admin, "/api/v1/status", &CONSENT).await;
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        if status["fills"].as_array().unwrap().is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_of_the_terminal_says_what_the_program_says_today() {
    let Some(browser) = Browser::start("the_picture_of_the_terminal").await else { return };
    if find("script").is_none() {
        return say("skipped the picture of the terminal, missing: script");
    }
    let registry = Registry::start().await;
    registry.limit_pulls(100, 88);
    let redis = registry.add_image("library/redis", "amd64", &[noise(861, 3_000_000), noise(862, 1_200_000)]);
    registry.add_index("library/redis", "7", &[(&redis, "amd64")]);
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".config/registry-mirror/mirror.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let text = format!(
        "server.listen = [\"127.0.0.1:0\"]\nserver.admin = [\"127.0.0.1:0\"]\n\
         server.congestion_control = \"cubic\"\nlog.level = \"info,registry_mirror::daemon::process=warn\"\nstore.max_size = \"200GB\"\nstore.min_free = \"0\"\n\
         [[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n",
        registry.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = OnTerminal::run(home.path(), "serve");
    let mut shown = daemon.until(" = true");
    let address = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.contains(name) && line.contains("http://")).unwrap();
        line.rsplit_once("http://").unwrap().1.trim().to_owned()
    };
    let (pull, page) = (address(&shown, "pull"), address(&shown, "page"));
    let at: std::net::SocketAddr = pull.parse().unwrap();
    for _ in 0..2 {
        let below = "/v2/library/redis";
        for path in [format!("{below}/manifests/7"), format!("{below}/manifests/{}", redis.manifest.digest)] {
            assert_eq!(client::get(at, &path, &[]).await.status, 200);
        }
        for blob in redis.blobs() {
            assert_eq!(client::get(at, &format!("{below}/blobs/{}", blob.digest), &[]).await.status, 200);
        }
        nothing_is_being_filled(page.parse().unwrap()).await;
    }
    for _ in 0..2 * (2 + redis.blobs().count()) {
        shown += &daemon.until("library/redis");
    }
    let mut transcript = format!("<i>$</i> registry-mirror serve\n{}", markup(&shown));
    for words in ["why redis:7", "doctor --upstream docker.io"] {
        let said = OnTerminal::run(home.path(), words).until("no line has this");
        transcript += &format!("\n<i>$</i> registry-mirror {words}\n{}", markup(&said));
    }
    drop(daemon);
    // The ports and the folder of this machine are nobody's.
    let host = registry.url().replace("http://", "");
    for (here, there) in [
        (format!("http://{pull}"), "http://127.0.0.1:5000"),
        (pull, "127.0.0.1:5000"),
        (page, "127.0.0.1:5080"),
        (registry.url(), "https://registry-1.docker.io"),
        (host, "registry-1.docker.io"),
        (home.path().display().to_string(), "/home/you"),
    ] {
        transcript = transcript.replace(&here, there);
    }
    let html = format!("<!doctype html><meta charset=utf-8><style>{STYLE}</style><pre>{transcript}</pre>");
    browser.open(&format!("data:text/html;base64,{}", STANDARD.encode(html))).await;
    let width = browser.run("return Math.ceil(document.querySelector('pre').getBoundingClientRect().width)").await;
    let taken = browser.picture("terminal", u32::try_from(width.as_u64().unwrap()).unwrap()).await;
    let text = browser.run("return document.body.innerText").await;
    compare("terminal.png", &taken, text.as_str().unwrap());
    browser.end().await;
}
