//! What is wrong, and what to do about it: facts in, a line out. Pure.
//!
//! The facts are found by who has a hand on them: [`examined`](crate::upstream::examined) by the adapter, those of
//! this machine by the daemon's `checkup`. Nothing here looks at anything. Truth: whatever fails has one thing to do.

pub mod bucket;
pub mod clients;
pub mod machine;
pub mod report;
pub mod store;
pub mod upstream;

pub use machine::Machine;
pub use store::Disk;

use crate::documents::Checked;
use crate::oci::RegistryName;
use crate::upstream::examined::Examined;

/// Everything that was looked at; what was not is not there.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the daemon says is wrong.
    pub problems: Vec<Checked>,
    /// The addresses of upstreams.
    pub upstreams: Vec<Examined>,
    /// Those of them that nobody configured, and of which nothing is stored.
    pub unused: Vec<RegistryName>,
    /// Of credentials: the upstream, and where there is one for it, or why not.
    pub credentials: Vec<Credential>,
    /// The folder of the store.
    pub disk: Option<Disk>,
    /// The bucket behind it.
    pub bucket: Option<bucket::Found>,
    /// The process and its surroundings.
    pub machine: Option<Machine>,
    /// Programs that could pull through this mirror.
    pub clients: Vec<clients::Found>,
}

/// A credential that is there, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The upstream that it is for.
    pub upstream: String,
    /// How it is configured: `docker-config`, `helper:NAME`, `file:PATH`, or `anonymous`.
    pub auth: String,
    /// Where it was found, or why it cannot be had.
    pub place: Result<Option<String>, String>,
}

/// One line for each thing that there is to say, in the order in which it matters.
pub fn judge(facts: &Facts, budget_floor: impl Fn(&Examined) -> u8) -> Vec<Checked> {
    let Facts { problems, upstreams, unused, credentials, disk, bucket, machine, clients } = facts;
    let mut checks: Vec<_> = machine.iter().flat_map(machine::judge).collect();
    checks.extend(problems.iter().cloned());
    checks.extend(disk.iter().flat_map(store::judge));
    checks.extend(bucket.iter().map(bucket::judge));
    checks.extend(machine::clock(upstreams));
    checks.extend(upstreams.iter().flat_map(|examined| {
        let is_it = |credential: &&Credential| credential.upstream == examined.upstream.as_str();
        let ours = match credentials.iter().find(is_it) {
            Some(credential) if credential.place.is_err() => upstream::Ours::Broken,
            Some(credential) if credential.auth == "anonymous" => upstream::Ours::None,
            _ => upstream::Ours::Known,
        };
        let lines = upstream::judge(examined, budget_floor(examined), ours);
        if unused.contains(&examined.upstream) { lines.into_iter().map(upstream::of_unused).collect() } else { lines }
    }));
    checks.extend(credentials.iter().filter_map(credential));
    checks.extend(clients.iter().map(clients::judge));
    checks
}

fn credential(Credential { upstream, auth, place }: &Credential) -> Option<Checked> {
    let about = format!("credentials {upstream}");
    match (auth.as_str(), place) {
        ("anonymous", Ok(Some(place))) => {
            let message = format!("none is used; {place} has one");
            Some(Checked {
                hint: Some("set auth = \"docker-config\" to use it".to_owned()),
                ..Checked::ok(about, message)
            })
        }
        ("anonymous", _) => None,
        (_, Ok(Some(place))) => Some(Checked::ok(about, format!("found: {place}"))),
        (auth, Ok(None)) => {
            let hint = format!("log in there with the client that writes it, or remove auth from upstream {upstream}");
            Some(Checked::warn(about, format!("{auth} has none for it"), hint))
        }
        (auth, Err(why)) => {
            Some(Checked::fail(about, format!("{auth}: {why}"), "mend what it says; serve asks without until then"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Verdict;

    #[test]
    fn of_credentials_it_is_said_where_they_are() {
        let judged = |auth: &str, place: Result<Option<&str>, &str>| {
            let place = place.map(|place| place.map(str::to_owned)).map_err(str::to_owned);
            credential(&Credential { upstream: "quay.io".to_owned(), auth: auth.to_owned(), place })
        };
        assert_eq!(judged("anonymous", Ok(None)), None);
        let unused = judged("anonymous", Ok(Some("/root/.docker/config.json"))).expect("a line");
        assert!(unused.verdict == Verdict::Ok && unused.message.contains("/root/.docker/config.json"));
        assert!(unused.hint.is_some_and(|hint| hint.contains("docker-config")));
        let found = judged("docker-config", Ok(Some("/root/.docker/config.json"))).expect("a line");
        assert_eq!((found.verdict, found.hint), (Verdict::Ok, None));
        assert_eq!(judged("docker-config", Ok(None)).expect("a line").verdict, Verdict::Warn);
        let broken = judged("file:/x", Err("cannot read the credential file /x")).expect("a line");
        assert!(broken.verdict == Verdict::Fail && broken.hint.is_some());
    }
}
