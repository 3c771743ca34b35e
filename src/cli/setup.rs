//! `registry-mirror setup`: tells a client of the mirror, shows that it listens, and takes it back.
//!
//! What the files have to say is [`crate::setup`]'s to decide; here they are found, read and written, below a root,
//! and programs are run.

mod authority;
mod check;
mod files;
mod logins;
mod plan;
mod record;
mod told;
mod warnings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};

use super::client::At;
use super::talk::{is_quiet, print_document};
use super::{Exit, print, say};
use crate::config;
use crate::documents::{CanaryPulls, Code, Error, FileChange, SetUp, SetUpAction, SetUpFile};
use crate::oci::RegistryName;
use crate::setup::{
    self, CONTAINERD_CONFIG, Client, DAEMON_JSON, Kind, Machine, MirrorAddress, Refused, Settings, Store,
};
use files::Root;
use plan::Plan;
use record::{Drawer, Record};
use told::{Named, registries, told};

/// Where records are, below the root.
const RECORDS: &str = "var/lib/registry-mirror/setup";
/// How long the engine may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a service may take to start again.
const RESTART: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
#[group(id = "action", args = ["print", "apply", "check", "undo"], multiple = false)]
pub(super) struct Args {
    /// The client; skopeo and buildah read what podman reads, oras and regctl are told what crane is
    #[arg(value_name = "CLIENT", value_parser = PossibleValuesParser::new(Client::ALL.map(named)).map(client))]
    client: Client,
    /// Show what would change, and write nothing; the default
    #[arg(long)]
    print: bool,
    /// Write it; what the files said is kept
    #[arg(long)]
    apply: bool,
    /// Pull an image of the mirror's own through the client, and see that it came
    #[arg(long)]
    check: bool,
    /// Make the files what they were
    #[arg(long)]
    undo: bool,
    /// Address of the mirror, as the client reaches it; URL=HOST where that is a listener for this registry, and may be
    /// given again for each [default: that of the daemon]
    #[arg(long = "mirror", value_name = "URL[=HOST]")]
    mirrors: Vec<Named>,
    /// Authority of the mirror's certificate, PEM, which is written beside hosts.toml; for containerd, and docker with
    /// containerd's store
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    mirror_ca: Option<PathBuf>,
    /// A registry that is to be pulled through the mirror; may be given again [default: those of URL=HOST, else those of
    /// the last --apply, else docker.io, else those that the mirror has]
    #[arg(long = "for", value_name = "HOST", value_parser = config::registry)]
    registries: Vec<RegistryName>,
    /// Folder that counts as the root of the machine; no program is asked
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Restart the client's service where it needs that
    #[arg(long, conflicts_with_all = ["print", "check", "root"])]
    restart: bool,
    #[command(flatten)]
    at: At,
}

fn named(client: Client) -> PossibleValue {
    PossibleValue::new(client.as_str()).aliases(client.others())
}

fn client(name: String) -> Client {
    let is_it = |client: &Client| client.as_str() == name || client.others().contains(&name.as_str());
    // One of these was typed.
    Client::ALL.into_iter().find(is_it).unwrap_or(Client::Docker)
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let action = match (args.apply, args.check, args.undo) {
        (true, ..) => SetUpAction::Apply,
        (_, true, _) => SetUpAction::Check,
        (.., true) => SetUpAction::Undo,
        _ => SetUpAction::Print,
    };
    if !args.client.has_files() && action != SetUpAction::Print {
        let message = format!("{} has no file that could be written: only --print is for it", args.client.as_str());
        return Err(Error::new(Code::Usage, message));
    }
    if args.restart && action == SetUpAction::Print {
        return Err(Error::new(Code::Usage, "--restart goes with --apply and --undo"));
    }
    let ground = Ground::find(args)?;
    match action {
        SetUpAction::Print => show(args, &ground),
        SetUpAction::Apply => apply(args, &ground),
        SetUpAction::Check if args.root.is_some() => look(args, &ground),
        SetUpAction::Check => check::check(args, &ground),
        SetUpAction::Undo => undo(args, &ground),
    }
}

/// Where the files are.
struct Ground {
    root: Root,
    /// Whose podman it is, where that is not the machine's: his home, below the root.
    home: Option<String>,
    /// Where the record is, below the root.
    record: String,
}

impl Ground {
    fn find(args: &Args) -> Result<Ground, Error> {
        let root = Root::open(args.root.as_deref().unwrap_or(Path::new("/")))?;
        let is_user = args.root.is_none() && !rustix::process::geteuid().is_root();
        let name = args.client.as_str();
        if !is_user || args.client != Client::Podman {
            return Ok(Ground { root, home: None, record: format!("{RECORDS}/{name}") });
        }
        let folder = |variable: &str| {
            let value = std::env::var(variable).ok().filter(|value| value.starts_with('/'));
            value.map(|value| value.trim_matches('/').to_owned())
        };
        let home = folder("HOME").ok_or_else(|| Error::new(Code::Configuration, "HOME names no folder"))?;
        let state = folder("XDG_STATE_HOME").unwrap_or_else(|| format!("{home}/.local/state"));
        Ok(Ground { root, record: format!("{state}/registry-mirror/setup/{name}"), home: Some(home) })
    }

    fn text(&self, path: &str) -> Result<Option<String>, Error> {
        let content = self.root.read(path)?;
        Ok(content.map(|content| String::from_utf8_lossy(&content.bytes).into_owned()))
    }

    /// Asks what is to be known of the machine.
    fn ask<T>(&self, args: &Args, question: impl FnOnce(&Machine<'_>) -> Result<T, Refused>) -> Result<T, Error> {
        let text = |path: &str| self.text(path).map_err(Refused::Failed);
        let names = |folder: &str| self.root.names(folder).map_err(Refused::Failed);
        let docker_store = match args.client {
            Client::Docker => docker_store(args.root.is_none(), self.text(DAEMON_JSON)?.as_deref()),
            _ => Store::default(),
        };
        let machine = Machine { text: &text, names: &names, docker_store, home: self.home.clone() };
        question(&machine).map_err(|error| plan::refused(&self.root, CONTAINERD_CONFIG, error))
    }

    fn plan(&self, args: &Args, settings: &Settings, earlier: Option<&Record>) -> Result<Plan, Error> {
        let (files, beside) = self.ask(args, |machine| {
            Ok((setup::files(args.client, settings, machine)?, setup::beside(args.client, machine)?))
        })?;
        if args.root.is_none() && files.iter().any(|file| file.kind == Kind::DaemonJson) {
            check::refuse_flags(settings)?;
        }
        Plan::to_apply(&self.root, files, settings, earlier, &beside)
    }
}

/// Which store Docker has: as the engine says, if it may be asked and answers, else as its file says.
pub(super) fn docker_store(may_ask: bool, daemon_json: Option<&str>) -> Store {
    let engine = if may_ask { engine() } else { None };
    setup::store_of(engine.as_deref().and_then(|said| said.split_once('\t')), daemon_json)
}

/// What the engine says of its version and its store, if it answers.
fn engine() -> Option<String> {
    let arguments = ["info", "--format", "{{.ServerVersion}}\t{{json .DriverStatus}}"].map(str::to_owned);
    let output = check::run(&check::find("docker")?, &arguments, PATIENCE).ok()?;
    let said = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(said.trim().to_owned()).filter(|said| said.starts_with(|first: char| first.is_ascii_digit()))
}

/// What was written last, where this user may look at it.
fn last(ground: &Ground) -> Option<Record> {
    Drawer::open(&ground.root, &ground.record, None).ok()??.record().ok()?
}

fn document(args: &Args, action: SetUpAction, mirror: Option<&MirrorAddress>, registries: &[RegistryName]) -> SetUp {
    SetUp {
        client: args.client.as_str().to_owned(),
        action,
        mirror: mirror.map(ToString::to_string),
        registries: registries.iter().map(ToString::to_string).collect(),
        files: Vec::new(),
        steps: Vec::new(),
        restarted: None,
        pulls: Vec::new(),
    }
}

/// Tells what was done, or would be.
fn tell(args: &Args, document: &SetUp) -> Result<(), Error> {
    if args.at.json {
        return print_document(document);
    }
    let shows = document.action == SetUpAction::Print;
    let is_told = shows || !is_quiet();
    for SetUpFile { path, change, diff } in document.files.iter().filter(|_| is_told) {
        let line = match change {
            FileChange::Unchanged => format!("{path} says it already"),
            _ if shows => diff.trim_end().to_owned(),
            FileChange::Created => format!("{path} is written"),
            FileChange::Changed => format!("{path} is changed"),
            FileChange::Removed => format!("{path} is removed"),
        };
        print(&line)?;
    }
    for CanaryPulls { upstream, client, .. } in document.pulls.iter().filter(|_| is_told) {
        print(&format!(
            "{} pulls the images of {upstream} through this mirror: it came from {client}",
            document.client
        ))?;
    }
    document.steps.iter().try_for_each(|step| print(step))
}

fn show(args: &Args, ground: &Ground) -> Result<Exit, Error> {
    // Who may not look at the record may look at the files.
    let earlier = last(ground);
    let told = told(args, ground, earlier.as_ref())?;
    let settings = &told.settings;
    let mut shown = told.document(args, SetUpAction::Print);
    let plan = ground.plan(args, settings, earlier.as_ref())?;
    shown.files = plan.changes.iter().map(|change| change.told(&ground.root)).collect();
    shown.steps = setup::steps(args.client, settings);
    shown.steps.extend(told.logins.steps(args.client, settings));
    tell(args, &shown)?;
    if plan.changes.iter().any(plan::Change::is_one) {
        say("nothing was written; --apply writes it");
    }
    warnings::of_all(args, ground, &told, earlier.as_ref());
    Ok(Exit::Done)
}

fn apply(args: &Args, ground: &Ground) -> Result<Exit, Error> {
    let root = &ground.root;
    let drawer = Drawer::open(root, &ground.record, None)?;
    let earlier = drawer.as_ref().map(Drawer::record).transpose()?.flatten();
    let told = told(args, ground, earlier.as_ref())?;
    let settings = &told.settings;
    let plan = ground.plan(args, settings, earlier.as_ref())?;
    let mut folders = earlier.as_ref().map(|record| record.folders.clone()).unwrap_or_default();
    let kept = Record::new(settings.clone(), plan.kept.clone());
    let is_known =
        earlier.as_ref().is_some_and(|record| (&record.settings, &record.files) == (&kept.settings, &kept.files));
    if !plan.kept.is_empty() || earlier.is_some() && !is_known {
        let writes = || plan.changes.iter().filter(|change| change.is_one() && change.then.is_some());
        writes().try_for_each(|change| root.make_way(&change.path, &mut folders))?;
        let made = Drawer::open(root, &ground.record, Some(&mut folders))?;
        let drawer = made.ok_or_else(|| Error::new(Code::Write, format!("{} is gone", root.shown(&ground.record))))?;
        if !is_known {
            drawer.keep(&kept.having_made(folders), earlier.as_ref())?;
        }
        plan.carry_out(root)?;
    }
    let mut done = told.document(args, SetUpAction::Apply);
    done.files = plan.changes.iter().map(|change| change.told(root)).collect();
    restart(args, ground, &plan, &mut done)?;
    done.steps.extend(told.logins.steps(args.client, settings));
    tell(args, &done)?;
    if args.root.is_none() {
        let mirrors: String = args.mirrors.iter().map(|mirror| format!(" --mirror {mirror}")).collect();
        say(&format!("see that it works with: registry-mirror setup {} --check{mirrors}", args.client.as_str()));
    }
    warnings::of_all(args, ground, &told, earlier.as_ref());
    Ok(Exit::Done)
}

fn unit(client: Client, is_agent: bool) -> Option<&'static str> {
    match client {
        Client::Docker => Some("docker"),
        Client::Containerd => Some("containerd"),
        Client::CriO => Some("crio"),
        Client::Buildkit => Some("buildkit"),
        // An agent has a unit of its own, and no other.
        Client::K3s if is_agent => Some("k3s-agent"),
        Client::K3s => Some("k3s"),
        Client::Rke2 if is_agent => Some("rke2-agent"),
        Client::Rke2 => Some("rke2-server"),
        Client::Podman | Client::Kaniko | Client::CloudFoundry | Client::Crane => None,
    }
}

/// Restarts the client where it needs that and somebody said so; else says what is left to do.
fn restart(args: &Args, ground: &Ground, plan: &Plan, done: &mut SetUp) -> Result<(), Error> {
    let rereads = args.client == Client::CriO && plan.changes.iter().any(plan::Change::is_one);
    let agent = match args.client {
        Client::Rke2 => "etc/systemd/system/multi-user.target.wants/rke2-agent.service",
        _ => "etc/systemd/system/k3s-agent.service",
    };
    let is_agent = ground.text(agent)?.is_some();
    let Some(unit) = unit(args.client, is_agent).filter(|_| plan.needs_restart() || rereads) else { return Ok(()) };
    if !args.restart {
        done.steps.push(format!("{} reads this when it starts: systemctl restart {unit}", args.client.as_str()));
        return Ok(());
    }
    let failed = |why: &str| {
        let message = format!("the files are written, but {unit} could not be restarted: {why}");
        Error::new(Code::Failed, message).with_hint(format!("restart it with: systemctl restart {unit}"))
    };
    let systemctl = check::find("systemctl").ok_or_else(|| failed("there is no systemctl"))?;
    let output = check::run(&systemctl, &["restart".to_owned(), unit.to_owned()], RESTART)?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
    }
    done.restarted = Some(unit.to_owned());
    Ok(())
}

/// Whether the files say it, below a root where no program is asked.
fn look(args: &Args, ground: &Ground) -> Result<Exit, Error> {
    let told = told(args, ground, last(ground).as_ref())?;
    let plan = ground.plan(args, &told.settings, None)?;
    let mut looked = told.document(args, SetUpAction::Check);
    looked.files = plan.changes.iter().map(|change| change.told(&ground.root)).collect();
    let lacking: Vec<_> = plan.changes.iter().filter(|change| change.is_one()).collect();
    let Some(first) = lacking.first() else {
        tell(args, &looked)?;
        warnings::of_parts(args, ground, &told.settings);
        say("with --root no program is asked");
        return Ok(Exit::Done);
    };
    let message = format!("{} does not name {}", ground.root.shown(&first.path), told.settings.mirror);
    Err(Error::new(Code::Failed, message).with_hint("write it with --apply"))
}

fn undo(args: &Args, ground: &Ground) -> Result<Exit, Error> {
    let root = &ground.root;
    let drawer = Drawer::open(root, &ground.record, None)?;
    let record = drawer.as_ref().map(Drawer::record).transpose()?.flatten();
    let mut done = document(args, SetUpAction::Undo, None, &registries(args, record.as_ref(), &[]));
    let (Some(drawer), Some(record)) = (drawer, record) else {
        tell(args, &done)?;
        say(&format!("nothing was set up for {} here", args.client.as_str()));
        return Ok(Exit::Done);
    };
    let plan = Plan::to_undo(root, &record)?;
    plan.carry_out(root)?;
    drawer.empty(&record)?;
    root.remove_folders(std::slice::from_ref(&ground.record));
    root.remove_folders(&record.folders);
    done.registries = record.settings.registries.iter().map(ToString::to_string).collect();
    done.files = plan.changes.iter().map(|change| change.told(root)).collect();
    restart(args, ground, &plan, &mut done)?;
    tell(args, &done)?;
    let other = match args.client {
        Client::Podman => Client::CriO,
        Client::CriO => Client::Podman,
        _ => return Ok(Exit::Done),
    };
    // Each of the two reads what is written for the other.
    if ground.home.is_none()
        && Drawer::open(root, &format!("{RECORDS}/{}", other.as_str()), None).is_ok_and(|other| other.is_some())
    {
        let (name, other) = (args.client.as_str(), other.as_str());
        say(&format!("{name} still reads what was set up for {other}; take that back with: setup {other} --undo"));
    }
    Ok(Exit::Done)
}
