//! `registry-mirror bench`: how fast are pulls through a mirror, cold and warm, and past it?
//!
//! Any mirror, ours or another. Turns flags into a plan, shows progress on stderr, and prints the
//! report on stdout as text or JSON, with a plot where one is wanted. Measuring is done in this
//! process, so one machine serves all clients: [`pull`] is one pull, [`mod@run`] the plan of many,
//! [`report`], [`statistics`] and [`plot`] are what comes out. A registry is asked through the port
//! `upstream` whatever stands in front of it, with fresh connections for every pull. The truth it
//! keeps: what was not measured is absent, not zero.

mod admin;
mod ground;
pub mod plot;
pub mod pull;
pub mod report;
pub mod run;
pub mod statistics;
mod table;

use std::path::PathBuf;

use url::Url;

use self::admin::{Admin, PATIENCE};
use self::ground::{Registries, Site};
use self::pull::{Order, Platform, PullError};
use self::run::{Plan, RunError, run as run_plan};
use super::client::{Search, configuration, first};
use super::talk::{complain, print_document};
use super::{Exit, print};
use crate::documents::{Bench, Code, Error, Report, Way, counted};
use crate::oci::{ImageName, RegistryName, Repository};
use crate::upstream::UpstreamErrorClass;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A cold pull is one of an image that the mirror does not have. That is at most the first pull, \
    so there is one cold pull of each image, unless the mirror is made to forget it before each one: our own with \
    --forget, another one with --cold-reset. Whether a pull was cold is proved by what the mirror says it fetched (--admin)."
)]
pub(super) struct Args {
    /// Image to pull, such as redis:7 or ghcr.io/owner/app@sha256:…
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// The mirror to measure [default: the first address for clients of the configuration]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The registry past the mirror, or `none` for no direct pulls [default: the url of its upstream in the
    /// configuration, else that of the image]
    #[arg(long, value_name = "URL")]
    direct: Option<String>,
    /// Admin listener of our own mirror, for what it fetched; `none` for another one [default: that of the
    /// configuration]
    #[arg(long, value_name = "URL|unix:PATH")]
    admin: Option<String>,
    /// File with the token that lets addresses act, for --forget [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    admin_token: Option<PathBuf>,
    /// Configuration of the mirror, which says where it listens and where registries are [env:
    /// REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cold pulls [default: 1, or 5 with --forget or --cold-reset]
    #[arg(long, value_name = "N")]
    cold: Option<usize>,
    /// Warm pulls
    #[arg(long, value_name = "N", default_value_t = 5)]
    warm: usize,
    /// Direct pulls; registries count them
    #[arg(long, value_name = "N", default_value_t = 3)]
    direct_pulls: usize,
    /// Command that makes the mirror forget the image in $IMAGE
    #[arg(long, value_name = "COMMAND")]
    cold_reset: Option<String>,
    /// Make our own mirror forget the image before each cold pull, pins and freezes of it included, and
    /// delete what nothing else needs (through --admin)
    #[arg(long, conflicts_with = "cold_reset")]
    forget: bool,
    /// Clients that pull at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Blobs that a client pulls at once; docker takes 3
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Which image of a multi-platform one [default: that of this machine]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The mirror knows one registry only: never put the name of a registry in front of the path
    #[arg(long)]
    no_prefix: bool,
    /// Credentials for direct pulls: anonymous, docker-config, helper:NAME or file:PATH
    #[arg(long, value_name = "AUTH", default_value = "anonymous")]
    auth: String,
    /// Certificates to trust besides those of the system, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
    /// Draw every pull into this SVG file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the benchmark.
pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let usage = |problem: String| Error::new(Code::Usage, problem);
    let (plan, registries) = (args.plan().map_err(usage)?, args.registries()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
    let (reports, mut failures) = runtime.block_on(measure_all(args, &plan, &registries));
    if reports.is_empty()
        && let Some(last) = failures.pop()
    {
        failures.iter().for_each(complain);
        return Err(last);
    }
    let mut exit = if failures.is_empty() { Exit::Done } else { Exit::Partly };
    failures.iter().for_each(complain);
    if let Some(path) = &args.output
        && !reports.is_empty()
        && let Err(error) = std::fs::write(path, plot::svg(&reports))
    {
        let message = format!("the plot cannot be written to {}: {error}", path.display());
        complain(&Error::new(Code::Write, message));
        exit = Exit::Failed;
    }
    if args.json {
        print_document(&Bench { program: env!("CARGO_PKG_VERSION").to_owned(), images: reports })?;
    } else {
        print(&table::table(&reports))?;
    }
    Ok(exit)
}

/// One image after the other; an image that cannot be pulled leaves the others alone.
async fn measure_all(args: &Args, plan: &Plan, registries: &Registries) -> (Vec<Report>, Vec<Error>) {
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for image in &args.images {
        match measure(args, plan, registries, image).await {
            Ok(report) => reports.extend(report),
            Err(error) => {
                let said = Error::new(code_of(&error), error.to_string()).of(image);
                let other = matches!(error, RunError::Pull { source: PullError::Platform(_), .. });
                failures.push(if other { said.with_hint("choose another with --platform") } else { said });
            }
        }
    }
    (reports, failures)
}

async fn measure(
    args: &Args,
    plan: &Plan,
    registries: &Registries,
    image: &ImageName,
) -> Result<Option<Report>, RunError> {
    let order = Order {
        repository: image.repository.clone(),
        reference: image.reference.clone(),
        platform: args.platform.clone().unwrap_or_default(),
        parallel: usize::from(args.parallel),
    };
    let site = Site::new(registries, image, plan.clients);
    let rounds = run_plan(plan, &order, &site).await;
    site.end();
    let notes = args.notes(&site);
    Ok(Report::of(image.to_string(), &order, plan.clients, &rounds?, notes))
}

impl Args {
    fn plan(&self) -> Result<Plan, String> {
        let resets = self.forget || self.cold_reset.is_some();
        let cold = self.cold.unwrap_or(if resets { 5 } else { 1 });
        if cold > 1 && !resets {
            return Err("only the first pull of an image can be cold: name several images that the mirror does not \
                        have, or make it forget them with --forget, or with a command for --cold-reset"
                .to_owned());
        }
        if self.forget && self.admin.as_deref() == Some("none") {
            return Err("--forget needs the admin address of the mirror (--admin)".to_owned());
        }
        let direct = if self.direct.as_deref() == Some("none") { 0 } else { self.direct_pulls };
        if direct + cold + self.warm == 0 {
            return Err("no pulls: give --cold, --warm or --direct-pulls a number".to_owned());
        }
        Ok(Plan { direct, cold, warm: self.warm, clients: usize::from(self.clients) })
    }

    fn registries(&self) -> Result<Registries, Error> {
        let url = |flag: &str, text: &str| {
            Url::parse(text)
                .map_err(|error| format!("{flag}: {text} is not a URL such as http://127.0.0.1:5000: {error}"))
                .map_err(|problem| Error::new(Code::Usage, problem))
        };
        let search = Search {
            admin: self.admin.as_deref(),
            ca: self.ca.as_deref(),
            token: self.admin_token.as_deref(),
            config: self.config.as_deref(),
            patience: PATIENCE,
        };
        let admin = search.admin.is_none_or(|typed| typed != "none").then(|| Admin::of(search)).transpose()?;
        let direct = self.direct.as_deref().filter(|direct| *direct != "none");
        let config = match configuration(self.config.as_deref(), None) {
            // Who names the mirror needs no configuration, unless they name one.
            Err(error) if self.config.is_some() || self.mirror.is_none() => return Err(error),
            config => config.ok(),
        };
        let listening = || config.as_ref().map(|config| config.addresses_for_clients(&config.server.listen));
        let mirror = match &self.mirror {
            Some(typed) => url("--mirror", typed)?,
            None => url("server.listen", &first(listening().unwrap_or_default())?.0)?,
        };
        let upstreams = config.map(|config| config.upstreams).unwrap_or_default().into_iter();
        Ok(Registries {
            mirror,
            direct: direct.map(|direct| url("--direct", direct)).transpose()?,
            configured: upstreams
                .filter_map(|upstream| Some((upstream.host, upstream.urls.into_iter().next()?)))
                .collect(),
            admin,
            prefix: !self.no_prefix,
            auth: self.auth.clone(),
            ca: self.ca.clone(),
            cold_reset: self.cold_reset.clone(),
            forget: self.forget,
        })
    }

    fn notes(&self, site: &Site<'_>) -> Vec<String> {
        let mut notes = vec![format!(
            "every pull: new connections, manifest, configuration and layers, {} at a time, digests verified, \
             nothing unpacked or written; clients run in one process on this machine; direct, cold and warm take \
             turns; percentiles by nearest rank",
            counted(self.parallel, "blob")
        )];
        notes.push(format!("mirror {}; direct {}", site.address(Way::Warm), site.address(Way::Direct)));
        if let Some(command) = &self.cold_reset {
            notes.push(format!("made cold by: {command}"));
        }
        if self.forget {
            notes.push("made cold by forgetting the image and deleting what nothing else needed".to_owned());
        }
        notes
    }
}

fn code_of(error: &RunError) -> Code {
    match error {
        RunError::Pull { source: PullError::Corrupt { .. }, .. } => Code::Damaged,
        RunError::Pull { source: PullError::Platform(_), .. } => Code::NotFound,
        RunError::Pull { way, source: PullError::Registry(error) } => match (error.class, way) {
            (UpstreamErrorClass::NotFound, _) => Code::NotFound,
            (UpstreamErrorClass::Denied | UpstreamErrorClass::RateLimited(_), _) => Code::Refused,
            (UpstreamErrorClass::Unavailable, Way::Cold | Way::Warm) => Code::Unreachable,
            _ => Code::Failed,
        },
        _ => Code::Failed,
    }
}

/// The address of a registry by the name that images use.
fn address_of(registry: &RegistryName) -> String {
    match registry.as_str() {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        other => format!("https://{other}"),
    }
}

/// The path of a mirror's base address below which images of a registry are.
fn below(mirror: &Url, registry: &RegistryName, prefix: bool) -> Url {
    let mut url = mirror.clone();
    if prefix && registry.as_str() != "docker.io" {
        url.set_path(&format!("{}/{registry}", mirror.path().trim_end_matches('/')));
    }
    url
}

/// For messages: `library/redis` of that registry.
fn described(registry: &str, repository: &Repository) -> String {
    format!("{registry} ({repository})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_asked_below_the_name_of_the_registry_except_for_docker_hub() {
        let mirror: Url = "http://127.0.0.1:5000".parse().expect("a URL");
        let nested: Url = "http://mirror.test/cache/".parse().expect("a URL");
        for (base, registry, prefix, expected) in [
            (&mirror, "docker.io", true, "http://127.0.0.1:5000/"),
            (&mirror, "ghcr.io", true, "http://127.0.0.1:5000/ghcr.io"),
            (&mirror, "ghcr.io", false, "http://127.0.0.1:5000/"),
            (&nested, "ghcr.io", true, "http://mirror.test/cache/ghcr.io"),
        ] {
            assert_eq!(below(base, &registry.parse().expect("a host"), prefix).as_str(), expected);
        }
    }
}
