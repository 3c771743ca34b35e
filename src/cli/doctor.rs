//! `registry-mirror doctor`: what is wrong with the mirror and all that it needs, and what to do about it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use serde_json::Value;

use super::client::{At, Remote};
use super::export::can_be_written;
use super::talk::print_document;
use super::{Exit, environment, print, say};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, BY_SYSTEMD, Config, ConfigError, Handed, Overrides};
use crate::daemon::checkup::{self, Wanted};
use crate::doctor::clients::CLIENTS;
use crate::doctor::report::{Page, bundle};
use crate::documents::{self, Checkup, Code, Configuration, Error, Status};
use crate::oci::RegistryName;
use crate::setup::{Client, Store};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "One line a check, that begins with ok, warn or fail; each fail with one thing to do. Exits with 1 \
    where something failed. Run it as the user of the daemon, or as root: it sees then what the daemon sees."
)]
pub(super) struct Args {
    /// Look at this upstream alone, such as docker.io
    #[arg(long, value_name = "HOST", value_parser = config::registry)]
    upstream: Option<RegistryName>,
    /// Look at this client alone
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()).map(name))]
    client: Option<String>,
    /// Write what helps to find an error into a tar, without secrets, to be handed on
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    at: At,
}

/// The names of clients, with those of the programs that read the same files.
fn names() -> impl Iterator<Item = PossibleValue> {
    let others = |name| Client::ALL.into_iter().find(|client| client.as_str() == name).map(Client::others);
    CLIENTS
        .into_iter()
        .map(move |client| PossibleValue::new(client.name).aliases(others(client.name).unwrap_or_default()))
}

fn name(typed: String) -> String {
    let meant = Client::ALL.into_iter().find(|client| client.others().contains(&typed.as_str()));
    meant.map_or(typed, |client| client.as_str().to_owned())
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    args.bundle.as_deref().map_or(Ok(()), can_be_written)?;
    let (file, environment) = (args.at.config.as_deref(), environment()?);
    let config = Config::load(file, environment.clone(), Overrides::default());
    let remote = match Remote::find(&args.at) {
        // Who names a daemon is told nothing of another one.
        Err(error) if args.at.admin.is_some() && config.is_ok() => return Err(error),
        remote => remote,
    };
    let answers = remote.as_ref().ok().map(|remote| remote.takes_connections() && remote.is_ready().unwrap_or(false));
    let daemon = remote.as_ref().ok().filter(|_| answers == Some(true));
    let in_force = daemon.and_then(|daemon| daemon.get::<Configuration>("config").ok()).map(|said| said.document);
    let elsewhere = config.as_ref().is_ok_and(|config| is_elsewhere(args, config, daemon, in_force.as_ref()));
    let both = config.as_ref().ok().zip(in_force.as_ref()).filter(|_| !elsewhere);
    let (listens, handed) = both.map(|(config, in_force)| listens(config, in_force)).unzip();
    let config = match handed.filter(|handed| *handed != Handed::default()) {
        Some(handed) => Config::load(file, environment, Overrides { handed, ..Overrides::default() }),
        None => config,
    };
    let said = match &config {
        Ok(config) => {
            let status = daemon.map(|remote| remote.get::<Status>("status"));
            let problems = status.and_then(Result::ok).map(|said| said.document.problems).unwrap_or_default();
            let docker_store: fn(Option<&str>) -> Store = |daemon_json| super::setup::docker_store(true, daemon_json);
            let wanted = Wanted {
                upstream: args.upstream.clone(),
                client: args.client.clone(),
                answers,
                problems,
                listens,
                elsewhere,
                docker_store: Some(docker_store),
            };
            checkup::checkup(config, &wanted)?
        }
        Err(ConfigError { problems }) => checkup::unusable(problems),
    };
    if args.at.json {
        print_document(&said)?;
    } else {
        said.checks.iter().try_for_each(|check| print(&line(check)))?;
    }
    if let Some(path) = &args.bundle {
        write(path, &said, daemon, config.as_ref().ok(), elsewhere)?;
        say(&format!("{} is written; read it before you hand it on", path.display()));
    }
    Ok(if said.ok { Exit::Done } else { Exit::Failed })
}

/// Whether the daemon that is named is not the one of the configuration: who names both is believed, else it is as its
/// store says, which a process here has.
fn is_elsewhere(args: &Args, config: &Config, daemon: Option<&Remote>, in_force: Option<&Configuration>) -> bool {
    if daemon.is_none() || args.at.admin.is_none() || args.at.config.is_some() {
        return false;
    }
    in_force.is_some_and(|said| has_another_store(config, said)) || !checkup::has_daemon(config)
}

fn has_another_store(config: &Config, in_force: &Configuration) -> bool {
    let store = in_force.settings.get("store").and_then(|store| store.get("path")?.as_str());
    store.is_some_and(|store| Path::new(store) != config.store.path)
}

/// What the daemon of this store listens on, by the settings of the one that answers, and what of that systemd opened for
/// it.
fn listens(config: &Config, in_force: &Configuration) -> (Vec<SocketAddr>, Handed) {
    if has_another_store(config, in_force) {
        return Default::default();
    }
    let of = |key: &str| {
        let entries = in_force.settings.get("server").and_then(|server| server.get(key)?.as_array());
        let address = |entry: &Value| entry.as_str()?.split('=').next()?.trim().parse::<SocketAddr>().ok();
        entries.into_iter().flatten().filter_map(address).collect::<Vec<_>>()
    };
    let handed = |key: &str| {
        let origin = in_force.origins.get(&format!("server.{key}"));
        if origin.is_some_and(|origin| origin == BY_SYSTEMD) { of(key) } else { Vec::new() }
    };
    let all = of("listen").into_iter().chain(of("admin")).collect();
    (all, Handed { pull: handed("listen"), admin: handed("admin") })
}

pub(super) fn line(check: &documents::Checked) -> String {
    format!("{:<4}  {}", check.verdict.as_str(), check.told())
}

/// Writes the report, for its owner only.
fn write(
    path: &Path,
    said: &Checkup,
    remote: Option<&Remote>,
    config: Option<&Config>,
    elsewhere: bool,
) -> Result<(), Error> {
    let unwritable =
        |error: std::io::Error| Error::new(Code::Write, format!("{} cannot be written: {error}", path.display()));
    let mut pages = vec![
        Page { name: "doctor.json", text: documents::line(said) },
        Page { name: "version.json", text: documents::line(&super::version::program()) },
        Page { name: "system.txt", text: system() },
    ];
    let own = config.filter(|_| !elsewhere);
    pages.extend(own.map(|config| Page { name: "mirror.toml", text: config.effective.to_toml(true) }));
    if let Some(remote) = remote {
        let in_force = elsewhere.then(|| remote.get::<Configuration>("config").ok()).flatten();
        pages.extend(in_force.map(|said| Page { name: "config.json", text: documents::line(&said.document) }));
        let status = remote.get::<Status>("status").ok();
        pages.extend(status.map(|status| Page { name: "status.json", text: documents::line(&status.document) }));
        pages.extend(remote.text("/metrics").ok().map(|text| Page { name: "metrics.txt", text }));
    }
    let token = config.and_then(|config| config.admin_token().ok().flatten());
    let secrets: Vec<_> = token.iter().map(|token| token.expose()).collect();
    let tar = bundle(&pages, &secrets, SystemClock.now()).map_err(unwritable)?;
    // Never one that somebody laid there.
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    file.write_all(&tar).map_err(unwritable)
}

/// The machine, in the words of its kernel.
fn system() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let os = read("/etc/os-release");
    let name = os.lines().find(|line| line.starts_with("PRETTY_NAME=")).unwrap_or_default().to_owned();
    let memory = read("/proc/meminfo").lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}{name}\n{cores} cores\n{memory}", read("/proc/version"))
}
