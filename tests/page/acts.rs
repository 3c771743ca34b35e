//! What is done on the page, by whom, and what it changes.

use scripted_registry::client;
use serde_json::json;

use super::browser::Browser;
use super::looks::is_lately;
use super::site::{CONSENT, Site, TOKEN};

const IMAGES: &str = "document.querySelectorAll('#images tbody tr').length === 3";

/// Logs in with the token, as a person does.
async fn log_in(browser: &Browser, token: &str) {
    browser.click("#who").await;
    browser.write("#token", token).await;
    browser.click("#login-do").await;
}

fn row(image: &str) -> String {
    format!("[aria-label$=' {image}']")
}

#[tokio::test(flavor = "multi_thread")]
async fn pinning_changes_the_store_and_who_is_not_logged_in_is_told_why_not() {
    let Some(browser) = Browser::start("pinning_changes_the_store").await else { return };
    let site = Site::start().await;
    browser.open(&site.url()).await;
    browser.until(IMAGES).await;
    // Nobody logged in: refused, and said why and what to do.
    browser.click(&row("acme/api:2.1")).await;
    browser.until("document.getElementById('login').open").await;
    let why = browser.text("#login-said").await;
    assert!(
        why.contains("has to show the token") && browser.text("#login").await.contains("registry-mirror page"),
        "{why}"
    );
    assert_eq!(site.image("docker.io/acme/api:2.1").await["pinned"], false);
    browser.write("#token", "not the token at all").await;
    browser.click("#login-do").await;
    browser.until("document.getElementById('login-said').innerText.includes('not the right one')").await;
    browser.write("#token", TOKEN).await;
    browser.click("#login-do").await;
    browser
        .until("!document.getElementById('login').open && document.getElementById('who').innerText === 'Log out'")
        .await;
    browser.click(&row("acme/api:2.1")).await;
    browser.until("document.querySelector('#images').innerText.includes('Unpin') && document.getElementById('said').innerText.includes('acme/api:2.1: pinned')").await;
    assert_eq!(site.image("docker.io/acme/api:2.1").await["pinned"], true);
    browser.click(&row("acme/api:2.1")).await;
    browser.until("document.getElementById('said').innerText.includes('no longer pinned')").await;
    assert_eq!(site.image("docker.io/acme/api:2.1").await["pinned"], false);
    // It was in memory only.
    let kept = "return JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, document.getElementById('token').value])";
    assert_eq!(browser.run(kept).await, json!("[0,0,\"\",\"\"]"));
    browser.open("about:blank").await;
    browser.open(&site.url()).await;
    browser.until(IMAGES).await;
    assert_eq!(browser.text("#who").await, "Log in");
    assert_eq!(browser.complaints("401 (Unauthorized)").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_looked_at_fetched_verified_exported_and_forgotten() {
    let Some(browser) = Browser::start("an_image_is_looked_at").await else { return };
    let site = Site::start().await;
    browser.open(&format!("{}#image=docker.io%2Flibrary%2Fredis%3A7", site.url())).await;
    browser.until("document.querySelectorAll('#image details').length === 2").await;
    log_in(&browser, TOKEN).await;
    browser.until("document.getElementById('who').innerText === 'Log out'").await;
    let shown = browser.text("#image").await;
    for line in ["docker pull", "podman pull --tls-verify=false", "ctr images pull --plain-http", "skopeo copy"] {
        assert!(shown.contains(&format!("{line} ")), "{line}: {shown}");
    }
    assert!(shown.contains("its own,") && shown.contains("shared with other images"), "{shown}");
    assert!(shown.contains("linux/arm64, not complete") && shown.contains("History of the tag"), "{shown}");
    let digest = site.image("docker.io/library/redis:7").await["digest"].as_str().unwrap().to_owned();
    let seen = "return [...document.querySelectorAll('[aria-label=\"What the tag was seen to have\"] td')].map((cell) => cell.textContent)";
    let seen = browser.run(seen).await;
    assert_eq!((seen.as_array().unwrap().len(), &seen[0], &seen[2]), (3, &json!(digest), &json!("docker.io")));
    assert!(is_lately(seen[1].as_str().unwrap()), "{seen}");
    assert!(shown.contains(&format!("docker pull {}/docker.io/library/redis:7", site.mirror.address)), "{shown}");
    // The layer that another image has, too.
    let used = browser
        .run("return [...document.querySelectorAll('#image td:last-child')].map((cell) => cell.textContent)")
        .await;
    assert_eq!(used.as_array().unwrap().iter().filter(|used| **used == "shared").count(), 1, "{used}");
    let press = |name: &str| {
        format!("[...document.querySelectorAll('#image button')].find((button) => button.textContent === '{name}')")
    };
    let push = async |name: &str| {
        browser.until(&format!("{} && true", press(name))).await;
        browser.run(&format!("{}.click()", press(name))).await;
    };
    browser.run("document.querySelectorAll('#image details').forEach((part) => { part.open = true; })").await;
    push("Fetch linux/arm64").await;
    browser.until("document.getElementById('image').innerText.includes('linux/arm64, complete')").await;
    assert_eq!(site.image("docker.io/library/redis:7").await["state"], "complete");
    assert_eq!(site.registry.gets_of(&site.arm64.layers[1].digest), 1);
    push("Verify").await;
    browser.until("document.getElementById('act-said').innerText.includes('all of it is what its digests say')").await;
    let said = browser.text("#act-said").await;
    assert!(said.contains("Verified 8 parts"), "only what belongs to it: {said}");
    browser.run("window.given = []; HTMLAnchorElement.prototype.click = function () { if (this.download) given.push([this.download, this.href.slice(0, 5)]); }").await;
    push("Export").await;
    browser.until("document.getElementById('act-said').innerText.startsWith('Exported:') && given.length").await;
    assert_eq!(browser.run("return given").await, json!([["redis-7.tar", "blob:"]]));
    push("Forget").await;
    browser.until("document.getElementById('sure').open").await;
    browser.click("#sure-no").await;
    assert_eq!(site.image("docker.io/library/redis:7").await["state"], "complete");
    push("Forget").await;
    browser.until("document.getElementById('sure').open").await;
    browser.click("#sure-yes").await;
    browser.until("document.getElementById('said').innerText === 'redis:7: forgotten'").await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 2").await;
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_opened_leaves_nothing_of_another_on_its_page() {
    let Some(browser) = Browser::start("an_image_that_cannot_be_opened").await else { return };
    let site = Site::start().await;
    browser.open(&format!("{}#image=docker.io%2Flibrary%2Fredis%3A7", site.url())).await;
    browser.until("document.querySelectorAll('#image details').length === 2").await;
    browser.run("window.location.hash = 'image=docker.io%2Fno%2Fsuch%3A1'").await;
    browser.until("document.getElementById('said').innerText.includes('no/such:1 was never pulled')").await;
    let shown = browser.text("#image").await;
    assert!(shown.contains("no/such:1") && !shown.contains("redis"), "{shown}");
    assert_eq!(browser.run("return document.querySelectorAll('#image button').length").await, 0);
    // What was said of it is not said of another place; a fragment that is no text breaks nothing.
    browser.run("window.location.hash = 'image=%E0%A4%A'").await;
    browser.until("document.getElementById('image-title').innerText.includes('%E0%A4%A')").await;
    browser.run("window.location.hash = ''").await;
    browser.until("document.getElementById('said').hidden && !document.getElementById('overview').hidden").await;
    // What is pinned is listed before it comes, and has a page.
    site.act("pin", &json!({ "images": ["docker.io/acme/later:1"] })).await;
    browser.run("window.location.hash = 'image=docker.io%2Facme%2Flater%3A1'").await;
    browser.until("document.getElementById('image').innerText.includes('Unpin')").await;
    browser.until("document.getElementById('image').innerText.includes('never fetched')").await;
    assert_eq!(browser.complaints("Failed to load resource").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_of_an_address_is_good_once_and_leaves_the_address() {
    let Some(browser) = Browser::start("the_login_of_an_address").await else { return };
    let site = Site::start().await;
    let page = site.act("page", &json!({})).await;
    let address = page["address"].as_str().unwrap();
    assert!(address.starts_with(&format!("{}#login=", site.url())), "{address}");
    browser.open(address).await;
    browser.until("document.getElementById('who').innerText === 'Log out'").await;
    assert_eq!(browser.run("return window.location.href").await, json!(site.url()));
    browser.until(IMAGES).await;
    browser.click(&row("redis:7")).await;
    browser.until("document.getElementById('said').innerText === 'redis:7: pinned'").await;
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.open("about:blank").await;
    browser.open(address).await;
    browser.until("document.getElementById('said').innerText.includes('good once')").await;
    assert_eq!(browser.text("#who").await, "Log in");
    // What is shown to the interface otherwise: no login at an address, no session from a made-up one.
    let refused = client::post(site.mirror.admin, "/api/v1/page", &CONSENT, "{}").await;
    assert_eq!(refused.status, 401);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_names_are_hidden_nothing_is_shown_before_somebody_logs_in() {
    let Some(browser) = Browser::start("where_names_are_hidden").await else { return };
    let site = Site::start_with(|folder| {
        std::fs::write(folder.join("users"), format!("ci:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
        format!("access.htpasswd = \"{}\"", folder.join("users").display())
    })
    .await;
    browser.open(&site.url()).await;
    browser.until("document.getElementById('login').open").await;
    assert!(browser.text("#login-said").await.contains("has to show the token"));
    let shown = browser.run("return document.body.textContent").await;
    assert!(!shown.as_str().unwrap().contains("redis"), "{shown}");
    // With the key Enter.
    browser.write("#token", &format!("{TOKEN}\u{e007}")).await;
    browser.until(IMAGES).await;
    browser.until("document.getElementById('requests').value > 0").await;
    browser.until("document.getElementById('live').innerText === 'live'").await;
    assert_eq!(browser.text("#said").await, "");
    assert_eq!(browser.complaints("401 (Unauthorized)").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_with_where_each_setting_is_from_and_without_a_secret() {
    let Some(browser) = Browser::start("the_configuration_is_shown").await else { return };
    let site = Site::start().await;
    browser.open(&format!("{}#configuration", site.url())).await;
    browser.until("document.querySelectorAll('#configuration table').length >= 5").await;
    let rows = "return [...document.querySelectorAll('#configuration tr')].map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent).join(' '))";
    let rows = browser.run(rows).await;
    let has = |start: &str, end: &str| {
        let rows = rows.as_array().unwrap().iter().map(|row| row.as_str().unwrap());
        assert!(rows.clone().any(|row| row.starts_with(start) && row.ends_with(end)), "{start} {end}: {rows:?}");
    };
    has("prefetch \"0\"", "mirror.toml:2");
    has("tag_ttl \"5m", "default");
    has("min_free \"0%\"", "REGISTRY_MIRROR_STORE_MIN_FREE");
    assert!(!rows.to_string().contains(TOKEN));
    browser.end().await;
    site.mirror.stop().await;
}
