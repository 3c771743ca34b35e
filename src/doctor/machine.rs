//! The process and what is around it: its configuration, its ports, its limits, the clock, the kernel.

use std::net::SocketAddr;
use std::time::Duration;

use crate::documents::{Checked, Problem, counted};
use crate::upstream::examined::{Examined, Step};

/// A clock that is so far off makes tokens and certificates come out wrong.
const WRONG: Duration = Duration::from_secs(5 * 60);
/// One that is so far off will.
const OFF: Duration = Duration::from_secs(30);

/// What was found on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What `serve` does not start with.
    pub problems: Vec<Problem>,
    /// What it goes on without. A sentence each.
    pub warnings: Vec<String>,
    /// The process of the daemon, if one has the store.
    pub daemon: Option<u32>,
    /// Whether a daemon answers; `None` where it was not asked.
    pub answers: Option<bool>,
    /// Addresses that somebody else listens on.
    pub taken: Vec<SocketAddr>,
    /// Addresses that nobody can listen on, and why.
    pub unusable: Vec<(SocketAddr, String)>,
    /// How many files the process may have open, now and at most, and how many it wants.
    pub files: Option<Files>,
    /// How the kernel paces connections, where that may be slow.
    pub pace: Option<String>,
}

/// Open files of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// So many may be open; `None` for as many as there are.
    pub may: Option<u64>,
    /// So many are, when all that is configured is used.
    pub wanted: u64,
}

/// A line for each thing that there is to say.
pub fn judge(machine: &Machine) -> Vec<Checked> {
    let Machine { problems, warnings, daemon, answers, files, pace, .. } = machine;
    let mut checks: Vec<_> = problems.iter().map(problem).collect();
    checks.extend(warnings.iter().map(|warning| Checked::warn("configuration", warning, "see mirror.toml.example")));
    if checks.is_empty() {
        checks.push(Checked::ok("configuration", "nothing is wrong with it"));
    }
    checks.push(process(*daemon, *answers));
    checks.extend(ports(machine));
    checks.extend(files.map(open_files));
    checks.push(match pace {
        Some(algorithm) => Checked::warn(
            "kernel",
            format!("it paces connections with {algorithm}, which may cost most of the speed of a local network"),
            "set congestion_control = \"cubic\" under [server], and measure",
        ),
        None => Checked::ok("kernel", "nothing speaks against how it paces connections"),
    });
    checks
}

fn problem(Problem { place, message, hint, .. }: &Problem) -> Checked {
    let message = if place.is_empty() { message.clone() } else { format!("{place}: {message}") };
    Checked::fail("configuration", message, hint.as_deref().unwrap_or("mend that, and look: registry-mirror check"))
}

fn process(daemon: Option<u32>, answers: Option<bool>) -> Checked {
    let about = "daemon";
    match (daemon, answers) {
        (_, Some(true)) => Checked::ok(about, "it is ready"),
        (Some(process), Some(false)) => Checked::fail(
            about,
            format!("process {process} has the store, and is not ready or does not answer"),
            "look at its log: journalctl -u registry-mirror; or say where it answers with --admin",
        ),
        (Some(process), None) => Checked::ok(about, format!("process {process} has the store")),
        (None, _) => Checked::warn(about, "none runs on this store", "start one: registry-mirror serve"),
    }
}

fn ports(Machine { daemon, answers, taken, unusable, .. }: &Machine) -> Vec<Checked> {
    let about = "ports";
    let is_there = daemon.is_some() || *answers == Some(true);
    let taken = taken.iter().map(|address| {
        let hint = format!("stop that one, ss -ltnp 'sport = :{}' names it, or choose another: listen", address.port());
        let message = format!("another process listens on {address}; unless it is systemd for us, serve cannot start");
        Checked::warn(about, message, hint)
    });
    let unusable = unusable.iter().map(|(address, why)| {
        let message = format!("serve cannot listen on {address}: {why}");
        Checked::fail(about, message, "choose an address of this machine, and a port that its user may use: listen")
    });
    let checks: Vec<_> = taken.chain(unusable).collect();
    let well = if is_there { "the daemon has them" } else { "all are free" };
    if checks.is_empty() { vec![Checked::ok(about, well)] } else { checks }
}

fn open_files(Files { may, wanted }: Files) -> Checked {
    match may {
        Some(may) if may < wanted => Checked::warn(
            "limits",
            format!("{may} files may be open, and {wanted} are when all connections and fills are in use"),
            format!("LimitNOFILE={wanted} in the unit, or ulimit -n {wanted}; else lower max_connections"),
        ),
        Some(may) => Checked::ok("limits", format!("{may} files may be open, {wanted} are enough")),
        None => Checked::ok("limits", "any number of files may be open"),
    }
}

/// Whether our clock is right, by those of all upstreams that told the time: it is off by what the one that is
/// nearest says, since an answer may have lain in a cache.
pub fn clock(upstreams: &[Examined]) -> Option<Checked> {
    let told = upstreams.iter().flat_map(|examined| &examined.steps).filter_map(|step| match step {
        Step::Time { here, there } => Some((here.0.abs_diff(there.0), here > there)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let (off, ahead) = told.iter().min_by_key(|(off, _)| *off)?;
    // Who says something else is no witness.
    let is_near = |(other, of): &&(u64, bool)| {
        let apart = if of == ahead { other - off } else { other.saturating_add(*off) };
        Duration::from_millis(apart) < OFF
    };
    let agree = told.iter().filter(is_near).count();
    let off = Duration::from_millis(*off);
    let by = counted(agree, "upstream");
    let message = format!("{} s {} by the clocks of {by}", off.as_secs(), if *ahead { "fast" } else { "slow" });
    let hint = "set it: timedatectl set-ntp true";
    Some(match off {
        off if off >= WRONG => Checked::fail("clock", message, hint),
        off if off >= OFF => Checked::warn("clock", message, hint),
        _ => Checked::ok("clock", format!("right by the clocks of {by}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::documents::Verdict::{Fail, Ok as Well, Warn};

    fn examined(seconds_behind: i64) -> Examined {
        let here = Timestamp(1_800_000_000_000);
        let there = Timestamp(here.0.wrapping_add_signed(seconds_behind * 1000));
        let upstream = "quay.io".parse().expect("a name");
        let steps = vec![Step::Time { here, there }];
        Examined { upstream, address: "quay.io".to_owned(), through: None, steps }
    }

    #[test]
    fn the_clock_is_wrong_only_by_what_all_upstreams_say() {
        for (told, verdict, said) in [
            (&[0, 1][..], Well, "right by the clocks of 2 upstreams"),
            (&[3600], Fail, "3600 s slow by the clocks of 1 upstream"),
            (&[-3600, -900], Fail, "900 s fast"),
            (&[-3600, 2], Well, "right by the clocks of 1 upstream"),
            (&[17_999, 259_200], Fail, "17999 s slow by the clocks of 1 upstream"),
            (&[45], Warn, "45 s slow"),
        ] {
            let upstreams: Vec<_> = told.iter().map(|behind| examined(*behind)).collect();
            let line = clock(&upstreams).expect("a line");
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.message.contains(said), "{line:?}");
            assert!(verdict == Well || line.hint.is_some_and(|hint| hint.contains("timedatectl")));
        }
        assert_eq!(clock(&[]), None);
    }

    #[test]
    fn each_trouble_of_the_machine_has_its_line_and_its_advice() {
        let well = Machine {
            daemon: Some(7),
            answers: Some(true),
            files: Some(Files { may: Some(1 << 20), wanted: 5000 }),
            ..Machine::default()
        };
        assert!(judge(&well).iter().all(|line| line.verdict == Well), "{well:?}");
        // Who may not look at its lock sees that it answers.
        let seen = judge(&Machine { daemon: None, ..well.clone() });
        assert!(seen.iter().any(|line| line.told() == "ports: the daemon has them"), "{seen:?}");
        let problem = Problem {
            place: "mirror.toml:3:1".to_owned(),
            line: Some(3),
            column: Some(1),
            message: "unknown key".to_owned(),
            hint: None,
            text: Vec::new(),
        };
        let address: SocketAddr = "127.0.0.1:5000".parse().expect("an address");
        let unusable = vec![(address, "no such address".to_owned())];
        for (machine, verdict, said, advised) in [
            (Machine { problems: vec![problem], ..well.clone() }, Fail, "mirror.toml:3:1: unknown key", "check"),
            (Machine { warnings: vec!["odd".to_owned()], ..well.clone() }, Warn, "odd", "mirror.toml.example"),
            (
                Machine { taken: vec![address], ..well.clone() },
                Warn,
                "listens on 127.0.0.1:5000",
                "ss -ltnp 'sport = :5000'",
            ),
            (Machine { unusable, ..well.clone() }, Fail, "127.0.0.1:5000: no such", "listen"),
            (Machine { answers: Some(false), ..well.clone() }, Fail, "process 7", "journalctl"),
            (Machine { answers: None, daemon: None, ..well.clone() }, Warn, "none runs", "serve"),
            (
                Machine { files: Some(Files { may: Some(1024), wanted: 5000 }), ..well.clone() },
                Warn,
                "1024 files may be open, and 5000",
                "LimitNOFILE=5000",
            ),
            (Machine { pace: Some("bbr".to_owned()), ..well }, Warn, "bbr", "cubic"),
        ] {
            let lines = judge(&machine);
            let trouble: Vec<_> = lines.iter().filter(|line| line.verdict != Well).collect();
            let [line] = &trouble[..] else { panic!("{lines:?}") };
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.message.contains(said), "{}", line.message);
            assert!(line.hint.as_ref().is_some_and(|hint| hint.contains(advised)), "{:?}", line.hint);
        }
    }
}
