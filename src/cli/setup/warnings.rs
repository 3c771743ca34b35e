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
    let before = earlier.into_iter().flat_map(|record| &record.settings.registries);
    let gone: Vec<_> =
        before.filter(|registry| !settings.registries.contains(registry)).map(RegistryName::as_str).collect();
    if !gone.is_empty() {
        let all: Vec<_> = gone.iter().copied().chain(settings.registries.iter().map(RegistryName::as_str)).collect();
        say(&format!(
            "it was set up for {} before, and is not any more: to have it for all of them, --for {}",
            gone.join(", "),
            all.join(" --for ")
        ));
    }
    of_parts(args, ground, settings);
    for registry in settings.registries.iter().filter(|registry| !served.is_empty() && !served.contains(registry)) {
        say(&format!("{registry} is no upstream of the mirror, which answers 404 for it: name it under [[upstream]]"));
    }
    told.settings
        .registries
        .iter()
        .filter_map(|registry| no_login(args, told, registry))
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

/// Why nobody can log in for a registry as it is set up, and what to do.
fn no_login(args: &Args, told: &Told, registry: &RegistryName) -> Option<String> {
    let (client, Told { settings, logins, listeners, .. }) = (args.client.as_str(), told);
    if logins.asks_in_vain(registry) {
        return Some(format!(
            "nobody can log in for {registry} at the mirror: it asks for no login there, since dockerd would show the Hub's; \
             use certificates, or an upstream of another name with Docker Hub's url, default of a listener of its own"
        ));
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
