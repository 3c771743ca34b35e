//! What may be in the way of a client that is set up, told and left as it is.

use super::super::say;
use super::record::Record;
use super::told::Told;
use super::{Args, Ground};
use crate::oci::RegistryName;
use crate::setup::{self, Apart, Client, Settings, Store};

/// What may be in the way of the client, and what it was told before and is not any more.
pub(super) fn of_all(args: &Args, ground: &Ground, told: &Told, earlier: Option<&Record>) {
    let Told { settings, served, .. } = told;
    if let Some(earlier) = earlier {
        gone(told, &earlier.settings).iter().for_each(|line| say(line));
    }
    of_parts(args, ground, settings);
    for registry in settings.registries.iter().filter(|registry| !served.is_empty() && !served.contains(registry)) {
        say(&format!("{registry} is no upstream of the mirror, which answers 404 for it: name it under [[upstream]]"));
    }
    told.settings
        .registries
        .iter()
        .filter_map(|registry| no_login(args, told, registry))
        .chain(one_login_for_two(args, told))
        .for_each(|line: String| say(&line));
    for mirror in settings.mirrors() {
        if mirror.is_encrypted() && settings.authority.is_none() {
            say(&format!("{} has to trust the certificate of {mirror}, for that name", args.client.as_str()));
        }
        if mirror.is_loopback() && !args.client.has_files() {
            say(&format!("{mirror} is the mirror's address for its own machine only; name another one with --mirror"));
        }
    }
}

/// The registries that it was set up for and is not any more, and what sets it up for all of them.
fn gone(told: &Told, earlier: &Settings) -> Option<String> {
    let Told { settings, listeners, is_named, .. } = told;
    let gone: Vec<_> = earlier.registries.iter().filter(|registry| !settings.registries.contains(registry)).collect();
    if gone.is_empty() {
        return None;
    }
    let all: Vec<_> = gone.iter().copied().chain(&settings.registries).collect();
    let mut words: Vec<String> = all.iter().map(|registry| format!("--for {registry}")).collect();
    let own = |registry: &RegistryName| {
        let said = if gone.contains(&registry) { earlier } else { settings };
        said.own.iter().find(|own| own.registry == *registry)
    };
    // What the daemon tells by itself need not be said.
    if *is_named || all.iter().filter_map(|registry| own(registry)).any(|own| !listeners.contains(own)) {
        let owns: Vec<_> = all.iter().filter_map(|registry| own(registry)).collect();
        if owns.len() < all.len() {
            words.push(format!("--mirror {}", settings.mirror));
        }
        words.extend(owns.iter().map(|own| format!("--mirror {}={}", own.mirror, own.registry)));
    }
    let gone: Vec<_> = gone.iter().map(|registry| registry.as_str()).collect();
    Some(format!(
        "it was set up for {} before, and is not any more: to have it for all of them, {}",
        gone.join(", "),
        words.join(" ")
    ))
}

/// Why one login is not enough where a client shows one to an address: it is asked there for those of several
/// registries.
fn one_login_for_two(args: &Args, told: &Told) -> Option<String> {
    let Told { settings, logins, .. } = told;
    if args.client != Client::Buildkit {
        return None;
    }
    let mut asking = settings.registries.iter().filter(|registry| logins.asks(registry)).enumerate();
    let others = |n: usize, registry: &RegistryName| {
        let mut before = settings.registries.iter().filter(|registry| logins.asks(registry)).take(n);
        before.find(|other| settings.mirror_of(other) == settings.mirror_of(registry)).cloned()
    };
    let (second, first) = asking.find_map(|(n, registry)| Some((registry, others(n, registry)?)))?;
    Some(format!(
        "buildkit has one login for {}, and it cannot be good for {first} and for {second} both: give each a listener of \
         its own, listen = [\"127.0.0.1:5001={second}\"], and set this up again",
        settings.mirror_of(second)
    ))
}

/// Why nobody can log in for a registry as it is set up, and what to do.
fn no_login(args: &Args, told: &Told, registry: &RegistryName) -> Option<String> {
    let (client, Told { settings, logins, listeners, .. }) = (args.client.as_str(), told);
    if let Some(in_vain) = logins.asks_in_vain(registry) {
        return Some(in_vain);
    }
    let has_one = settings.mirror_of(registry) != &settings.mirror || settings.default.as_ref() == Some(registry);
    if has_one || !args.client.logs_in_at_an_address() || !logins.asks(registry) {
        return None;
    }
    let own = listeners.iter().find(|own| own.registry == *registry);
    let what_to_do = own.map_or_else(
        || format!("give it one in the mirror's file, listen = [\"127.0.0.1:5001={registry}\"], and set this up again"),
        |own| {
            let is_unread = own.mirror.is_ip6() && !args.client.reads_ip6(Store::Containerd);
            format!("name that: --mirror {}", if is_unread { own.mirror.by_name() } else { own.mirror.clone() })
        },
    );
    Some(format!(
        "nobody can log in for {registry} with {client} like this, so that it gets no private image of it: that takes \
         the listener that is for {registry}; {what_to_do}"
    ))
}

/// Images that go another way, whatever is said of their registry: that may be meant, and is left as it is.
pub(super) fn of_parts(args: &Args, ground: &Ground, settings: &Settings) {
    if !matches!(args.client, Client::Podman | Client::CriO) {
        return;
    }
    // What cannot be read was refused before.
    let parts = ground.ask(args, |machine| setup::apart(settings, machine)).unwrap_or_default();
    for Apart { part, path, .. } in parts {
        say(&format!(
            "{} goes by an entry of its own in {}, and not through the mirror, for images of {part}: take that entry \
             away, or name the mirror first there",
            args.client.as_str(),
            ground.root.shown(&path)
        ));
    }
}
