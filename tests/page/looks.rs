//! What the page shows: the numbers of the metrics, what goes on, and nothing but text.

use scripted_registry::{Gate, Match, Rule, noise};
use serde_json::{Value, json};

use super::browser::Browser;
use super::site::Site;

/// Whether a series of requests is one that counts.
fn counts(labels: &str) -> bool {
    !labels.contains("outcome=\"local\"")
}

/// Whether a time is told that has only just passed.
pub(super) fn is_lately(told: &str) -> bool {
    told == "just now" || told.ends_with(" s ago")
}

fn from_cache(labels: &str) -> bool {
    ["hit", "join", "revalidated", "stale"].iter().any(|word| labels.contains(&format!("outcome=\"{word}\"")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_those_of_the_metrics_and_nobody_else_is_asked() {
    let Some(browser) = Browser::start("the_numbers_are_those_of_the_metrics").await else { return };
    let site = Site::start().await;
    browser.open(&site.url()).await;
    browser.until("document.getElementById('requests').value > 0 && document.querySelector('#images tbody tr')").await;
    let all = site.metric("mirror_requests_total", counts).await;
    let hits = site.metric("mirror_requests_total", |labels| counts(labels) && from_cache(labels)).await;
    let local = |labels: &str| labels.contains("outcome=\"local\"");
    let sent = site.metric("mirror_sent_bytes_total", |labels| !local(labels)).await;
    let sent_hits = site.metric("mirror_sent_bytes_total", from_cache).await;
    let received = site.metric("mirror_upstream_received_bytes_total", |_| true).await;
    assert!(hits > 0.0 && hits < all, "{hits} of {all}");
    for (id, expected) in [
        ("requests", all),
        ("hit-requests", hits / all),
        ("hit-bytes", sent_hits / sent),
        ("saved-bytes", sent - received),
        ("fetched-bytes", received),
        ("store-used", site.store_used().await),
        ("quota-left", site.metric("mirror_upstream_budget_left", |_| true).await),
        ("store-blobs", site.metric("mirror_store_blobs", |_| true).await),
        ("saved-time", site.look("usage").await["since_start"]["saved_seconds"].as_f64().unwrap()),
    ] {
        let shown = browser.number(id).await;
        assert!((shown - expected).abs() < 1e-9, "{id}: {shown}, not {expected}");
    }
    assert_eq!(browser.text("#hit-requests").await, format!("{:.1} %", hits / all * 100.0));
    assert!(browser.text("#quota-of").await.contains("of 100 left"));
    let status = site.look("status").await;
    let hub = status["upstreams"].as_array().unwrap().iter().find(|upstream| upstream["host"] == "docker.io").unwrap();
    let end = &hub["endpoints"][0];
    let clock = |at: &Value| {
        format!("return new Date({at}).toLocaleTimeString('en-GB', {{ hour: '2-digit', minute: '2-digit' }})")
    };
    let resets = browser.run(&clock(&end["pulls"]["resets_at"])).await;
    assert_eq!(json!(browser.text("#quota-reset").await), json!(format!("resets {}", resets.as_str().unwrap())));
    let oldest = browser.text("#store-oldest").await;
    assert!(oldest.strip_prefix(", oldest use ").is_some_and(is_lately), "{oldest}");
    assert_eq!(browser.text("#mode").await, "online");
    // The hours are the same once more.
    let told = browser.run("return document.getElementById('day').getAttribute('aria-label')").await;
    let told = told.as_str().unwrap();
    assert!(told.contains(&format!("{hits} hit")) && told.contains(&format!("{} miss", all - hits)), "{told}");
    let hour = "const cells = [...document.querySelectorAll('#day-table tr:last-child td')].map((cell) => cell.textContent); return cells.slice(1)";
    assert_eq!(
        browser.run(hour).await.as_array().unwrap()[..4],
        [hits.to_string(), "0".into(), (all - hits).to_string(), "0".into()]
    );
    let bars = browser.run("return [...document.querySelectorAll('#day g:last-child rect:not(.none)')].map((bar) => Number(bar.getAttribute('height')))").await;
    let [hit, miss] = &bars.as_array().unwrap()[..] else { panic!("{bars}") };
    assert!((hit.as_f64().unwrap() / miss.as_f64().unwrap() - hits / (all - hits)).abs() < 1e-6, "{bars}");
    browser.click("[data-unit=bytes]").await;
    let told = browser.run("return document.getElementById('day').getAttribute('aria-label')").await;
    let size = browser.run(&format!("return ({sent_hits} / 1048576).toFixed(1)")).await;
    assert!(told.as_str().unwrap().contains(&format!("{} MiB hit", size.as_str().unwrap())), "{told}");
    // Since the start, and of all time.
    browser.click("[data-span=of_all_time]").await;
    let usage = site.look("usage").await;
    let ever: f64 = usage["of_all_time"]["requests"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
    assert_eq!((browser.number("requests").await, ever), (all, all));
    // Each is shown as it is told: here they are the same, so that one of them is changed on its way.
    let changed = "const real = window.fetch; window.fetch = async (...asked) => { const answer = await real(...asked);\n\
                   if (!String(asked[0]).endsWith('/usage')) return answer;\n\
                   const usage = await answer.json(); usage.of_all_time.hit_ratio = 0.123;\n\
                   return new Response(JSON.stringify(usage)); }";
    browser.run(changed).await;
    browser.until("document.getElementById('hit-requests').innerText === '12.3 %'").await;
    browser.click("[data-span=since_start]").await;
    assert_eq!(browser.text("#hit-requests").await, format!("{:.1} %", hits / all * 100.0));
    assert!(browser.text("#upstreams").await.contains("docker.io"));
    assert!(browser.text("#upstreams").await.contains("84 of 100"));
    let row =
        browser.run("return [...document.querySelectorAll('#upstreams tbody td')].map((cell) => cell.innerText)").await;
    let latency = (end["latency_seconds"].as_f64().unwrap() * 1000.0).round().max(1.0);
    assert_eq!((&row[2], &row[5]), (&json!(format!("{latency} ms")), &json!("")), "{row}");
    assert!(is_lately(row[4].as_str().unwrap()), "{row}");
    assert!(
        row[1].as_str().unwrap().starts_with("up") && row[1].as_str().unwrap().contains(&site.registry.url()),
        "{row}"
    );
    assert_eq!(browser.complaints("").await, [""; 0]);
    let asked = browser.asked().await;
    let elsewhere: Vec<_> = asked.iter().filter(|url| !url.starts_with(&site.url())).collect();
    assert!(asked.len() > 5 && elsewhere.is_empty(), "{elsewhere:?}");
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_fill_moves_and_goes_when_it_has_ended() {
    let Some(browser) = Browser::start("a_running_fill_moves").await else { return };
    let site = Site::start().await;
    let slow = site.registry.add_blob("acme/slow", noise(711, 1_000_000));
    let gates = [Gate::new(), Gate::new()];
    let rule = Rule::on(Match::blob(&slow)).stall_after(250_000, &gates[0]).stall_after(750_000, &gates[1]);
    site.registry.rule(rule);
    browser.open(&site.url()).await;
    let path = format!("/v2/acme/slow/blobs/{slow}");
    let mut first = site.mirror.stream(&path).await;
    first.read_exactly(100_000).await;
    browser.until("document.querySelector('#fills progress')?.value === 250000").await;
    assert_eq!(browser.run("return document.querySelector('#fills progress').max").await, 1_000_000);
    let said = browser.text("#fills").await;
    assert!(said.contains("docker.io/acme/slow") && said.contains("1 client attached"), "{said}");
    let second = site.mirror.stream(&path).await;
    browser.until("document.querySelector('#fills').innerText.includes('2 clients attached')").await;
    gates[0].open();
    browser.until("document.querySelector('#fills progress')?.value === 750000").await;
    browser.until("/\\/s/.test(document.querySelector('#fills').innerText)").await;
    gates[1].open();
    assert!(first.finish().await.complete && second.finish().await.complete);
    browser.until("document.querySelectorAll('#fills li').length === 0").await;
    browser.until("document.getElementById('fills-none').offsetParent").await;
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_searched_and_sorted() {
    let Some(browser) = Browser::start("images_are_searched_and_sorted").await else { return };
    let site = Site::start().await;
    browser.open(&site.url()).await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 3").await;
    let shown =
        || browser.run("return [...document.querySelectorAll('#images tbody a')].map((name) => name.innerText)");
    assert_eq!(shown().await.as_array().unwrap().len(), 3);
    browser.write("#search", "API").await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 1").await;
    assert_eq!(shown().await, json!(["acme/api:2.1"]));
    assert_eq!(browser.text("#images-count").await, "1 of 3");
    browser.write("#search", "x").await;
    browser.until("document.getElementById('images-none').innerText === 'No image has that in its name.'").await;
    browser.run("const search = document.getElementById('search'); search.value = ''; search.dispatchEvent(new Event('input'))").await;
    for (order, expected) in [
        ("name", ["acme/api:2.1", "ghcr.io/acme/never:1", "redis:7"]),
        ("size", ["redis:7", "acme/api:2.1", "ghcr.io/acme/never:1"]),
        ("state", ["acme/api:2.1", "redis:7", "ghcr.io/acme/never:1"]),
    ] {
        browser
            .run(&format!(
                "const sort = document.getElementById('sort'); sort.value = {order:?}; sort.dispatchEvent(new Event('change'))"
            ))
            .await;
        assert_eq!(shown().await, json!(expected), "{order}");
    }
    let marks = "return [...document.querySelectorAll('#images tbody tr')].map((row) => [row.querySelector('.state').title, row.querySelector('.tag')?.textContent ?? ''])";
    let expected = [["complete", ""], ["some platforms", ""], ["never fetched", "pinned"]];
    assert_eq!(browser.run(marks).await, json!(expected));
    let row = browser.text("#images tbody tr:nth-child(2)").await;
    assert!(row.contains("linux/amd64") && !row.contains("arm64"), "{row}");
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_media_types_with_markup_and_escapes_are_text() {
    let Some(browser) = Browser::start("names_and_media_types_with_markup").await else { return };
    let site = Site::start().await;
    // An upstream may say any media type.
    let evil = "application/x\"><img src=x onerror=\"document.title='caught'\">\u{1b}[2J\u{202e}";
    let blob = site.registry.add_blob("acme/evil", noise(721, 1000));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": evil, "digest": blob.to_string(), "size": 1000 },
        "layers": [{ "mediaType": evil, "digest": blob.to_string(), "size": 1000 }],
    });
    site.registry.add_manifest("acme/evil", &["1"], manifest.to_string(), "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(site.mirror.get("/v2/acme/evil/manifests/1").await.status, 200);
    browser.open(&format!("{}#image=docker.io%2Facme%2Fevil%3A1", site.url())).await;
    browser.until("document.querySelectorAll('#image tbody tr').length >= 2").await;
    let shown = browser.run("return document.getElementById('image').textContent").await;
    assert!(shown.as_str().unwrap().contains(&evil.replace('\u{202e}', "\\u{202e}")), "{shown}");
    // No name may have it, so that what the mirror says is changed on its way to the page.
    let name = "docker.io/a\\u003cimg src=x onerror=alert(1)\\u003e\\u001b[2J:1";
    browser
        .cdp(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": format!(
                "const real = window.fetch; window.fetch = async (...asked) => {{\n\
                 const answer = await real(...asked); if (!String(asked[0]).includes('/images')) return answer;\n\
                 const text = (await answer.text()).replaceAll('docker.io/acme/api:2.1', {name:?});\n\
                 return new Response(text, {{ headers: {{ 'Content-Type': 'application/json' }} }}); }};"
            ) }),
        )
        .await;
    browser.open("about:blank").await;
    browser.open(&site.url()).await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 4").await;
    let rows = browser.run("return document.getElementById('images').textContent").await;
    assert!(rows.as_str().unwrap().contains("a<img src=x onerror=alert(1)>\u{1b}[2J:1"), "{rows}");
    assert_eq!(browser.run("return document.images.length").await, 0);
    assert_ne!(browser.run("return document.title").await, "caught");
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_those_of_the_status_each_with_what_to_do() {
    let Some(browser) = Browser::start("problems_are_those_of_the_status").await else { return };
    let site = Site::start().await;
    browser.open(&site.url()).await;
    browser.until("document.getElementById('requests').value > 0").await;
    assert_eq!(browser.run("return document.getElementById('problems').checkVisibility()").await, false);
    site.registry.limit_pulls(100, 9);
    site.registry.add_image("acme/new", "1", &[noise(731, 1000)]);
    assert_eq!(site.mirror.get("/v2/acme/new/manifests/1").await.status, 200);
    browser.until("document.getElementById('problems').checkVisibility()").await;
    let told = site.look("status").await["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let word = |key: &str| problem[key].as_str().unwrap().to_owned();
            format!("{}: {} – to do: {}", word("about"), word("message"), word("hint"))
        })
        .collect::<Vec<_>>();
    let shown =
        browser.run("return [...document.querySelectorAll('#problem-list li')].map((item) => item.innerText)").await;
    assert_eq!((shown, browser.text("#problems-title").await.as_str()), (json!(told), "Problems (1)"));
    assert!(told[0].starts_with("upstream docker.io: 8 of 100 pulls left until "), "{told:?}");
    browser.end().await;
    site.mirror.stop().await;
}
