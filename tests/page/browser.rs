//! Headless Chromium, driven by Debian's chromedriver over WebDriver (W3C), by name of what is on the page.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use scripted_registry::client;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::requirements::{DEMAND, demanded, find, say};

/// One browser at a time: it takes all there is of a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

pub(super) struct Browser {
    driver: Driver,
    session: String,
    _turn: MutexGuard<'static, ()>,
}

/// The process, with all that it starts.
struct Driver {
    child: Child,
    address: SocketAddr,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Driver {
    /// The port that it is given for IPv4 may be somebody's for IPv6: then it ends, and another one is started.
    fn start(program: &Path) -> Driver {
        (0..10).find_map(|_| Driver::started(program)).expect("it starts")
    }

    fn started(program: &Path) -> Option<Driver> {
        let mut child = Command::new(program);
        let child =
            child.arg("--port=0").process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut driver = Driver { child, address: ([127, 0, 0, 1], 0).into() };
        let mut lines = BufReader::new(driver.child.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        driver.address.set_port(port?);
        // What it says later is of no interest, but has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Some(driver)
    }

    async fn order(&self, method: &str, path: &str, order: &Value) -> Value {
        let (status, said) = self.answer(method, path, order).await;
        assert_eq!(status, 200, "{method} {path}: {said:#}");
        said["value"].clone()
    }

    async fn answer(&self, method: &str, path: &str, order: &Value) -> (u16, Value) {
        let body = if method == "POST" { order.to_string() } else { String::new() };
        let headers = [("Host", "localhost"), ("Content-Type", "application/json")];
        let answer = match method {
            "POST" => client::post(self.address, path, &headers, body).await,
            method => client::request(self.address, method, path, &headers).await,
        };
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        (answer.status, said)
    }
}

impl Browser {
    /// A browser, or `None` where this machine has none, which is said.
    pub(super) async fn start(test: &str) -> Option<Browser> {
        let (Some(driver), Some(chromium)) = (find("chromedriver"), find("chromium")) else {
            assert!(!demanded(), "{test}: {DEMAND}=1, but chromium or chromedriver is missing");
            say(&format!("skipped {test}, missing: chromium or chromedriver"));
            return None;
        };
        let turn = TURN.lock().await;
        let driver = Driver::start(&driver);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--window-size=1280,900",
            // Nothing but this machine is there for it.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "timeouts": { "script": 60_000, "pageLoad": 60_000 },
        } } });
        let began = driver.order("POST", "/session", &capabilities).await;
        let session = began["sessionId"].as_str().unwrap().to_owned();
        Some(Browser { driver, session, _turn: turn })
    }

    async fn order(&self, path: &str, order: Value) -> Value {
        self.driver.order("POST", &format!("/session/{}/{path}", self.session), &order).await
    }

    pub(super) async fn open(&self, url: &str) {
        self.order("url", json!({ "url": url })).await;
    }

    /// What a script in the page gives back.
    pub(super) async fn run(&self, script: &str) -> Value {
        self.order("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until a script in the page gives back something that counts as true, and says what.
    pub(super) async fn until(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];\n\
             const look = () => {{ let value = null; try {{ value = ({expression}); }} catch {{}}\n\
             if (value) done(value); else setTimeout(look, 20); }};\nlook();"
        );
        self.order("execute/async", json!({ "script": script, "args": [] })).await
    }

    /// The text of an element, white space as one sees it.
    pub(super) async fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({selector:?}).innerText")).await;
        text.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The number that stands exactly beside a text.
    pub(super) async fn number(&self, id: &str) -> f64 {
        let value = self.run(&format!("return document.getElementById({id:?}).getAttribute('value')")).await;
        value.as_str().unwrap().parse().unwrap_or_else(|_| panic!("{id}: {value}"))
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.order("element", json!({ "using": "css selector", "value": selector })).await;
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// As a person clicks: where it is, if it can be seen.
    pub(super) async fn click(&self, selector: &str) {
        loop {
            let element = self.element(selector).await;
            let path = format!("/session/{}/element/{element}/click", self.session);
            let (status, said) = self.driver.answer("POST", &path, &json!({})).await;
            // The page drew it anew since it was found, as a list does that has news.
            if said["value"]["error"] == "stale element reference" {
                continue;
            }
            assert_eq!(status, 200, "a click on {selector}: {said:#}");
            break;
        }
    }

    pub(super) async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.order(&format!("element/{element}/value"), json!({ "text": text })).await;
    }

    /// An order of the browser's own protocol.
    pub(super) async fn cdp(&self, command: &str, parameters: Value) {
        self.order("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    /// As wide as this, in light or dark.
    pub(super) async fn look_like(&self, width: u32, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// A picture of all of the page, kept below `target/tmp/page`.
    pub(super) async fn picture(&self, name: &str, width: u32) -> PathBuf {
        let height = self.run("return Math.ceil(document.documentElement.getBoundingClientRect().height)").await;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        let taken = self.driver.order("GET", &format!("/session/{}/screenshot", self.session), &Value::Null).await;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, STANDARD.decode(taken.as_str().unwrap()).unwrap()).unwrap();
        file
    }

    /// What came to this log since the last time that it was read.
    async fn log(&self, kind: &str) -> Vec<Value> {
        self.order("se/log", json!({ "type": kind })).await.as_array().unwrap().clone()
    }

    /// What the console says: errors of scripts, what could not be loaded, what the policy forbade. `but` is known.
    pub(super) async fn complaints(&self, but: &str) -> Vec<String> {
        let said =
            self.log("browser").await.into_iter().filter(|line| line["level"] != "INFO" && line["level"] != "DEBUG");
        let said = said.map(|line| line["message"].as_str().unwrap().to_owned());
        said.filter(|line| but.is_empty() || !line.contains(but)).collect()
    }

    /// Where requests went, since the last time that this was asked.
    pub(super) async fn asked(&self) -> Vec<String> {
        let sent = self.log("performance").await.into_iter().filter_map(|line| {
            let line: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
            let event = &line["message"];
            (event["method"] == "Network.requestWillBeSent")
                .then(|| event["params"]["request"]["url"].as_str().unwrap().to_owned())
        });
        sent.collect()
    }

    /// Ends it in good order.
    pub(super) async fn end(self) {
        self.driver.order("DELETE", &format!("/session/{}", self.session), &Value::Null).await;
    }
}
