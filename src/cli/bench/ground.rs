//! Where the pulls of one image go: the mirror, the registry past it, and the progress on stderr.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use url::Url;

use super::admin::Admin;
use super::pull::Event;
use super::run::{Ground, Watched};
use super::{address_of, below, described};
use crate::cli::talk::is_quiet;
use crate::daemon::{Dialled, dial};
use crate::documents::Way;
use crate::oci::{ImageName, RegistryName};
use crate::upstream::Upstream;

/// How often and how long a mirror that tells its fills is waited for.
const SETTLE_POLLS: usize = 500;
const SETTLE_PAUSE: Duration = Duration::from_millis(20);
/// What a mirror that does not tell them gets.
const SETTLE_BLINDLY: Duration = Duration::from_millis(500);

/// The addresses of a run, the same for all images.
pub(super) struct Registries {
    pub(super) mirror: Url,
    /// `None`: that of the image.
    pub(super) direct: Option<Url>,
    /// Where registries are, by the configuration.
    pub(super) configured: Vec<(RegistryName, Url)>,
    pub(super) admin: Option<Admin>,
    /// Whether the mirror wants to be told the registry.
    pub(super) prefix: bool,
    pub(super) auth: String,
    pub(super) ca: Option<PathBuf>,
    pub(super) cold_reset: Option<String>,
    /// Whether our own mirror is told to forget.
    pub(super) forget: bool,
}

/// One image, its mirror and its registry.
pub(super) struct Site<'a> {
    registries: &'a Registries,
    image: &'a ImageName,
    clients: usize,
    bar: ProgressBar,
}

impl<'a> Site<'a> {
    pub(super) fn new(registries: &'a Registries, image: &'a ImageName, clients: usize) -> Site<'a> {
        let style = ProgressStyle::with_template("{prefix:<16} {bar:30} {bytes:>10} {bytes_per_sec}");
        let target = if is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Site { registries, image, clients, bar }
    }

    /// Takes the progress off the screen.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Where pulls of this way go.
    pub(super) fn address(&self, way: Way) -> String {
        match (way, &self.registries.direct) {
            (Way::Direct, Some(direct)) => direct.to_string(),
            (Way::Direct, None) => {
                let mut configured = self.registries.configured.iter();
                let known = configured.find(|(registry, _)| *registry == self.image.registry);
                known.map_or_else(|| address_of(&self.image.registry), |(_, url)| url.to_string())
            }
            (Way::Cold | Way::Warm, _) => {
                below(&self.registries.mirror, &self.image.registry, self.registries.prefix).to_string()
            }
        }
    }
}

#[async_trait]
impl Ground for Site<'_> {
    fn client(&self, way: Way) -> Result<Arc<dyn Upstream>, String> {
        let address = self.address(way);
        let url = address.parse().map_err(|_| format!("{address} is not a URL"))?;
        // A mirror gets no credentials: it has its own.
        let auth = if way == Way::Direct { self.registries.auth.as_str() } else { "anonymous" };
        let dialled = Dialled { name: &self.image.registry, url, auth, ca: self.registries.ca.as_deref() };
        dial(dialled).map_err(|reason| format!("{}: {reason}", described(&address, &self.image.repository)))
    }

    async fn make_cold(&self) -> Result<(), String> {
        if let Some(admin) = self.registries.admin.as_ref().filter(|_| self.registries.forget) {
            return admin.forget(self.image).await.map_err(|reason| format!("--forget: {reason}"));
        }
        let Some(command) = &self.registries.cold_reset else { return Ok(()) };
        let mut shell = tokio::process::Command::new("sh");
        // What the command says is talk: stdout is for the report.
        shell.args(["-c", command]).env("IMAGE", self.image.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let status = shell.kill_on_drop(true).status().await.map_err(|error| format!("--cold-reset: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("--cold-reset: {command:?} ended with {status}")) }
    }

    async fn upstream_bytes(&self) -> Option<u64> {
        self.registries.admin.as_ref()?.upstream_bytes().await
    }

    async fn settle(&self) {
        if let Some(admin) = &self.registries.admin {
            for _ in 0..SETTLE_POLLS {
                match admin.fills_in_flight().await {
                    Some(0) => return,
                    Some(_) => tokio::time::sleep(SETTLE_PAUSE).await,
                    None => break,
                }
            }
        }
        tokio::time::sleep(SETTLE_BLINDLY).await;
    }

    fn watch(&self, what: Watched) {
        match what {
            Watched::Round { way, number, of } => {
                let number = number.map_or_else(|| "not measured".to_owned(), |number| format!("{number}/{of}"));
                self.bar.set_prefix(format!("{:<6} {number}", way.as_str()));
                self.bar.set_position(0);
                self.bar.set_length(0);
                self.bar.reset_elapsed();
            }
            Watched::Pull(Event::Announced(bytes)) => {
                // Each client announces the same image.
                self.bar.set_length(bytes.saturating_mul(self.clients as u64));
            }
            Watched::Pull(Event::Received(bytes)) => self.bar.inc(bytes),
        }
    }
}
