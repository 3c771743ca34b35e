//! Who reads with what: axe-core's findings, the keyboard, 360 px, light and dark.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::browser::Browser;
use super::requirements::{DEMAND, demanded, find, say};
use super::site::Site;

const AXE: &str = "4.14.1";

/// The script of axe-core, fetched once where it is demanded, and kept below `target/tmp`.
fn axe() -> Option<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("axe-core-{AXE}"));
    let script: PathBuf = folder.join("node_modules/axe-core/axe.min.js");
    if !script.exists() {
        if !demanded() {
            say(&format!("skipped axe-core, it is fetched with {DEMAND}=1"));
            return None;
        }
        let npm = find("npm").unwrap_or_else(|| panic!("{DEMAND}=1, but npm is missing"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut install = Command::new(npm);
        install.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&folder);
        let output = install.arg(format!("axe-core@{AXE}")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Some(std::fs::read_to_string(script).unwrap())
}

/// What axe-core finds that is serious, for people.
async fn findings(browser: &Browser, axe: &str) -> Vec<String> {
    browser.run(axe).await;
    let found =
        browser.until("(window.found ??= axe.run(document).then((all) => { window.all = all; })) && window.all").await;
    browser.run("delete window.found; delete window.all").await;
    let serious = found["violations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| ["serious", "critical"].iter().any(|impact| found["impact"] == *impact));
    let told = |found: &Value| {
        let nodes = found["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| format!("{} {}", node["html"], node["failureSummary"]));
        format!("{}: {}", found["id"], nodes.collect::<Vec<_>>().join("\n"))
    };
    serious.map(told).collect()
}

/// What stands there can be read at 360 and 1280 px, in light and dark, and with a screen reader.
async fn is_legible(browser: &Browser, axe: Option<&str>, page: &str) {
    for scheme in ["light", "dark"] {
        for width in [360, 1280] {
            browser.look_like(width, scheme).await;
            let wider = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
            assert!(wider.as_i64().unwrap() <= 0, "{page} at {width}: {wider} wider than the window");
            if let Some(axe) = axe {
                let found = findings(browser, axe).await;
                assert!(found.is_empty(), "{page}, {scheme}, {width}:\n{}", found.join("\n"));
            }
            browser.picture(&format!("{page}-{width}-{scheme}"), width).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_dialogs_and_the_page_for_clients_can_be_read_as_well() {
    let Some(browser) = Browser::start("its_dialogs").await else { return };
    let (site, axe) = (Site::start().await, axe());
    browser.open(&site.url()).await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 3").await;
    browser.click("#who").await;
    browser.until("document.getElementById('login').open").await;
    is_legible(&browser, axe.as_deref(), "login").await;
    // Nothing of what lies behind a dialog is reached; Escape closes it, and the focus is where it was.
    assert_eq!(browser.run("return document.activeElement.id").await, "token");
    browser.write("#token", "\u{e00c}").await;
    browser.until("!document.getElementById('login').open && document.activeElement.id === 'who'").await;
    browser.open("about:blank").await;
    browser.open(&format!("{}#image=docker.io%2Flibrary%2Fredis%3A7", site.url())).await;
    browser.until("document.querySelectorAll('#image details').length >= 2").await;
    browser.click("#image button.danger").await;
    browser.until("document.getElementById('sure').open").await;
    is_legible(&browser, axe.as_deref(), "sure").await;
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.open(&format!("http://{}/", site.mirror.address)).await;
    browser.until("document.querySelectorAll('pre').length >= 5").await;
    is_legible(&browser, axe.as_deref(), "clients").await;
    assert_eq!(browser.complaints("favicon").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_read_narrow_and_wide_in_light_and_dark() {
    let Some(browser) = Browser::start("it_can_be_read").await else { return };
    let (site, axe) = (Site::start().await, axe());
    let pages = [
        (
            "overview",
            "",
            "document.querySelectorAll('#images tbody tr').length === 3 && document.getElementById('requests').value > 0",
        ),
        ("image", "#image=docker.io%2Flibrary%2Fredis%3A7", "document.querySelectorAll('#image details').length >= 2"),
        ("configuration", "#configuration", "document.querySelectorAll('#configuration table').length >= 5"),
    ];
    for (page, fragment, there) in pages {
        browser.open("about:blank").await;
        browser.open(&format!("{}{fragment}", site.url())).await;
        browser.until(there).await;
        is_legible(&browser, axe.as_deref(), page).await;
    }
    assert_eq!(browser.complaints("").await, [""; 0]);
    browser.end().await;
    site.mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_is_reached_with_the_keyboard_and_what_has_the_focus_is_seen() {
    let Some(browser) = Browser::start("all_of_it_is_reached_with_the_keyboard").await else { return };
    let site = Site::start().await;
    browser.open(&site.url()).await;
    browser.until("document.querySelectorAll('#images tbody tr').length === 3").await;
    let everything = "const all = [...document.querySelectorAll('a, button, input, select, summary')];\n\
        return all.filter((element) => element.checkVisibility() && !element.disabled).length";
    let expected = browser.run(everything).await.as_u64().unwrap();
    browser.run("window.reached = new Set(); window.unseen = []").await;
    for _ in 0..expected + 5 {
        browser
            .cdp(
                "Input.dispatchKeyEvent",
                serde_json::json!({ "type": "keyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 }),
            )
            .await;
        browser
            .run(
                "const at = document.activeElement; if (at === document.body || reached.has(at)) return; reached.add(at);\n\
                 if (getComputedStyle(at).outlineStyle === 'none') unseen.push(at.outerHTML.slice(0, 200))",
            )
            .await;
    }
    let unseen = browser.run("return unseen").await;
    assert_eq!(unseen, serde_json::json!([]));
    let reached =
        "return [...reached].filter((element) => element.matches('a, button, input, select, summary')).length";
    assert_eq!(browser.run(reached).await.as_u64(), Some(expected));
    browser.end().await;
    site.mirror.stop().await;
}
