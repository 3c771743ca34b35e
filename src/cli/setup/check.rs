//! Whether a client pulls through the mirror: it pulls the canary, and the mirror's record tells whether it came.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use super::super::client::{At, Remote};
use super::super::talk::complain;
use super::super::{Exit, explain, say};
use super::told::{known, registries, told};
use super::{Args, Ground, document, last, tell, warnings};
use crate::documents::{Canary, CanaryPulls, Code, Error, SetUp, SetUpAction};
use crate::oci::RegistryName;
use crate::setup::{self, CANARY, Client, MirrorAddress, Settings};

/// How long a client may take for the small image.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program of RKE2 that pulls, which is on no PATH, and what tells it where to ask (its manual, "CLI Tools").
const RKE2_CRICTL: &str = "/var/lib/rancher/rke2/bin/crictl";
const RKE2_PULL: &str = "--config /var/lib/rancher/rke2/agent/etc/crictl.yaml pull";
const RKE2_REMOVE: &str = "--config /var/lib/rancher/rke2/agent/etc/crictl.yaml rmi";

/// How a client is made to pull: its program, what makes it pull an image, and what makes it drop it again.
struct Puller {
    program: PathBuf,
    pull: Vec<String>,
    remove: Vec<String>,
    /// Where its build is described, for one that only builds.
    folder: Option<tempfile::TempDir>,
}

/// The program of this name that would be run.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn puller(client: Client, hosts: &str) -> Result<Puller, Error> {
    let choices: &[(&str, String, &str)] = match client {
        Client::Docker => &[("docker", "pull --quiet".to_owned(), "image rm")],
        Client::Podman => &[("podman", "pull --quiet".to_owned(), "image rm")],
        // Kubernetes' way in, where it is there, else containerd's own, which reads the same folder.
        Client::Containerd => {
            &[("crictl", "pull".to_owned(), "rmi"), ("ctr", format!("content fetch --hosts-dir {hosts}"), "images rm")]
        }
        Client::CriO => &[("crictl", "pull".to_owned(), "rmi")],
        Client::K3s => &[("k3s", "crictl pull".to_owned(), "crictl rmi")],
        Client::Rke2 => &[(RKE2_CRICTL, RKE2_PULL.to_owned(), RKE2_REMOVE)],
        Client::Buildkit => {
            &[("buildctl", "build --frontend dockerfile.v0 --no-cache --progress plain".to_owned(), "")]
        }
        Client::Kaniko | Client::CloudFoundry | Client::Crane => &[],
    };
    let found = choices.iter().find_map(|(program, pull, remove)| Some((find(program)?, pull, remove)));
    let Some((program, pull, remove)) = found else {
        let names: Vec<_> = choices.iter().map(|(program, ..)| *program).collect();
        let message = format!("{} is not to be found, so {} cannot be asked", names.join(" or "), client.as_str());
        return Err(Error::new(Code::NotFound, message));
    };
    let folder = match client {
        Client::Buildkit => Some(tempfile::tempdir().map_err(|error| Error::new(Code::Write, error.to_string()))?),
        _ => None,
    };
    let remove = if remove.is_empty() { Vec::new() } else { words(remove) };
    Ok(Puller { program, pull: words(pull), remove, folder })
}

impl Puller {
    /// The arguments that make it pull an image.
    fn arguments(&self, image: &str) -> Result<Vec<String>, Error> {
        let mut arguments = self.pull.clone();
        match &self.folder {
            Some(folder) => {
                std::fs::write(folder.path().join("Dockerfile"), format!("FROM {image}\n"))
                    .map_err(|error| Error::new(Code::Write, error.to_string()))?;
                for part in ["context", "dockerfile"] {
                    arguments.extend(["--local".to_owned(), format!("{part}={}", folder.path().display())]);
                }
            }
            None => arguments.push(image.to_owned()),
        }
        Ok(arguments)
    }

    /// What it says when it pulls an image: what went wrong, if anything did.
    fn pull(&self, image: &str) -> Result<Option<String>, Error> {
        let arguments = self.arguments(image)?;
        explain(&format!("{} {}", self.program.display(), arguments.join(" ")));
        let output = run(&self.program, &arguments, PATIENCE)?;
        if !self.remove.is_empty() {
            let remove: Vec<_> = self.remove.iter().cloned().chain([image.to_owned()]).collect();
            // It may not have come.
            let _ = run(&self.program, &remove, PATIENCE);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.trim_end().lines().next_back().unwrap_or("it said nothing").to_owned();
        Ok((!output.status.success()).then_some(last))
    }
}

/// Runs a program to its end, which has to come in time.
pub(super) fn run(program: &PathBuf, arguments: &[String], patience: Duration) -> Result<Output, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::new(Code::Failed, format!("{}: {error}", program.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = runtime.block_on(async { tokio::time::timeout(patience, command.output()).await });
    match ended {
        Ok(output) => output.map_err(|error| failed(&error)),
        Err(_) => Err(failed(&format_args!("it did not end within {} s", patience.as_secs()))),
    }
}

/// Has the client pull, and tells what came of it.
pub(super) fn check(args: &Args, ground: &Ground) -> Result<Exit, Error> {
    let hosts = match args.client {
        Client::Containerd => ground.ask(args, setup::hosts_folder)?,
        _ => String::new(),
    };
    let served = known(args).unwrap_or_default().of(&args.mirrors).served;
    let registries = registries(args, last(ground).as_ref(), &served);
    let checked = pulls(args.client, &registries, &hosts, &args.at);
    let (came, problems) = match (checked, args.mirrors.first()) {
        (Err(error), Some(mirror)) if error.code == Code::Unreachable && args.at.admin.is_none() => {
            return check_without_record(args, ground, &mirror.address, &registries, &hosts);
        }
        (checked, _) => checked?,
    };
    warn(args, ground, &registries, &problems);
    let exit = went(&came, &problems);
    if exit == Exit::Failed
        && let Some(first) = problems.first()
    {
        return Err(first.clone());
    }
    problems.iter().for_each(complain);
    let checked = SetUp { pulls: came, ..document(args, SetUpAction::Check, None, &registries) };
    tell(args, &checked)?;
    Ok(exit)
}

/// Says what may be the reason, where something went wrong.
fn warn(args: &Args, ground: &Ground, registries: &[RegistryName], problems: &[Error]) {
    if problems.is_empty() {
        return;
    }
    for registry in registries {
        let unread = ground.ask(args, |machine| setup::not_understood(args.client, registry, machine));
        // What cannot be told is left to who pulls.
        unread.unwrap_or_default().iter().for_each(|why| say(why));
    }
    if let Ok(told) = told(args, ground, last(ground).as_ref()) {
        warnings::of_parts(args, ground, &told.settings);
    }
}

/// The same on another machine than the mirror's: what the client got is seen, and not where it came from.
fn check_without_record(
    args: &Args,
    ground: &Ground,
    mirror: &MirrorAddress,
    registries: &[RegistryName],
    hosts: &str,
) -> Result<Exit, Error> {
    let (came, problems) = pulled(args.client, registries, hosts)?;
    warn(args, ground, registries, &problems);
    if let (true, Some(first)) = (came.is_empty(), problems.first()) {
        return Err(first.clone());
    }
    problems.iter().for_each(complain);
    let client = args.client.as_str();
    let mut checked = document(args, SetUpAction::Check, Some(mirror), registries);
    let got = came.iter().map(|registry| format!("{client} pulled the canary of {registry}, which only a mirror has"));
    checked.steps.extend(got);
    checked.steps.push(format!(
        "that it came from {mirror} is in the record there, which is seen at its admin address: setup {client} --check \
         --admin URL"
    ));
    tell(args, &checked)?;
    Ok(Exit::Partly)
}

/// Pulls the canary of each registry through the client. Who the mirror says came, and how it went.
fn pulls(
    client: Client,
    registries: &[RegistryName],
    hosts: &str,
    at: &At,
) -> Result<(Vec<CanaryPulls>, Vec<Error>), Error> {
    let puller = puller(client, hosts)?;
    let remote = Remote::find(at)?;
    let seen = || -> Result<Vec<CanaryPulls>, Error> { Ok(remote.get::<Canary>("canary")?.document.pulls) };
    let (mut came, mut problems) = (Vec::new(), Vec::new());
    for registry in registries {
        let before = seen()?;
        let wrong = puller.pull(&format!("{registry}/{CANARY}"))?;
        let mut new = seen()?;
        new.retain(|pulls| !before.iter().any(|old| (&old.upstream, old.count) == (&pulls.upstream, pulls.count)));
        let of_registry = new.iter().find(|pulls| pulls.upstream == registry.as_str());
        match (of_registry, wrong, new.first()) {
            (Some(pulls), None, _) => came.push(pulls.clone()),
            (Some(pulls), Some(said), _) => problems.push(asked_in_vain(client, registry, pulls, &said)),
            (None, _, Some(other)) => problems.push(asked_for_another(client, registry, other)),
            (None, said, None) => problems.push(not_asked(client, registry, said.as_deref())),
        }
    }
    Ok((came, problems))
}

/// Pulls the canary of each registry through a client of a mirror whose record cannot be seen: for which it came.
/// Nobody else has an image of that name.
fn pulled(client: Client, registries: &[RegistryName], hosts: &str) -> Result<(Vec<RegistryName>, Vec<Error>), Error> {
    let puller = puller(client, hosts)?;
    let (mut came, mut problems) = (Vec::new(), Vec::new());
    for registry in registries {
        match puller.pull(&format!("{registry}/{CANARY}"))? {
            None => came.push(registry.clone()),
            Some(said) => problems.push(in_vain(client, registry, &said)),
        }
    }
    Ok((came, problems))
}

fn in_vain(client: Client, registry: &RegistryName, said: &str) -> Error {
    let client = client.as_str();
    let message = format!("{client} could not pull the canary of {registry}, which the mirror has: {said}");
    let hint = format!("is it set up (registry-mirror setup {client} --apply), and does it reach the mirror?");
    Error::new(Code::Failed, message).with_hint(hint)
}

/// How all of it went.
fn went(came: &[CanaryPulls], problems: &[Error]) -> Exit {
    match (came.is_empty(), problems.is_empty()) {
        (_, true) => Exit::Done,
        (false, false) => Exit::Partly,
        (true, false) => Exit::Failed,
    }
}

/// Whether it was the one that asked is not known: others may pull the canary meanwhile.
fn asked_in_vain(client: Client, registry: &RegistryName, asked: &CanaryPulls, said: &str) -> Error {
    let (client, from) = (client.as_str(), &asked.client);
    let message = format!(
        "{client} could not pull the canary of {registry}: {said}; this mirror was asked for it meanwhile by {from}"
    );
    let hint = format!(
        "if that was {client}, the log of the mirror says what it was answered; else set it up with: registry-mirror \
         setup {client} --apply"
    );
    Error::new(Code::Failed, message).with_hint(hint)
}

fn asked_for_another(client: Client, registry: &RegistryName, came: &CanaryPulls) -> Error {
    let (client, other) = (client.as_str(), &came.upstream);
    let message = format!(
        "{client} asked this mirror for the canary of {registry} as for one of {other}, and would get the images of \
         {other} where it means those of {registry}"
    );
    let hint = format!("is there a listener that is for {registry} (routes.default, listen)? Name it with --mirror");
    Error::new(Code::Failed, message).with_hint(hint)
}

fn not_asked(client: Client, registry: &RegistryName, said: Option<&str>) -> Error {
    let client = client.as_str();
    let said = said.map(|said| format!("; {client} said: {said}")).unwrap_or_default();
    let message = format!("{client} did not ask this mirror for the canary of {registry}{said}");
    let hint = format!(
        "is it set up (registry-mirror setup {client} --apply), and was it started again since? Is {registry} an \
         upstream of this mirror?"
    );
    Error::new(Code::Failed, message).with_hint(hint)
}

/// Refuses what dockerd would not start with: a setting of its file that its command line has, too.
pub(super) fn refuse_flags(settings: &Settings) -> Result<(), Error> {
    let mirrors = settings.mirrors();
    let Some(mirror) = mirrors.first() else { return Ok(()) };
    let is_insecure = !mirror.is_encrypted() && !mirror.is_loopback();
    let flags: &[&str] =
        if is_insecure { &["--registry-mirror", "--insecure-registry"] } else { &["--registry-mirror"] };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let Some(flag) = lines.find_map(|line| flag_of_engine(&line, flags)) else { return Ok(()) };
    let message = format!("dockerd runs with {flag}, and does not start with that and the same in its file");
    let hint = format!("name {mirror} there, or take the flag out of what starts it: systemctl cat docker");
    Err(Error::new(Code::Failed, message).with_hint(hint))
}

/// The first of these flags in the command line of a process, if that is dockerd.
fn flag_of_engine(line: &[u8], flags: &[&str]) -> Option<String> {
    let mut words = line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    words.next().filter(|program| program.rsplit('/').next() == Some("dockerd"))?;
    let is_one = |word: &&str| flags.iter().any(|flag| word.split('=').next() == Some(flag));
    words.find(is_one).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_dockerd_stands_in_the_way_of_the_same_in_its_file() {
        for (line, expected) in [
            (
                "/usr/bin/dockerd\0-H\0fd://\0--registry-mirror=https://a.example\0",
                Some("--registry-mirror=https://a.example"),
            ),
            ("dockerd\0--registry-mirror\0https://a.example\0", Some("--registry-mirror")),
            ("dockerd\0--insecure-registry=a.example\0", None),
            ("/usr/bin/grep\0dockerd\0--registry-mirror\0", None),
            ("dockerd\0--registry-mirrors-not\0", None),
        ] {
            let found = flag_of_engine(line.as_bytes(), &["--registry-mirror"]);
            assert_eq!(found.as_deref(), expected, "{line:?}");
        }
    }
}
