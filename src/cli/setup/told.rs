//! What a client is to be told: where the mirror is, for which registries, and how one says there who he is.

use std::fmt;
use std::str::FromStr;

use super::super::client::{Remote, configuration};
use super::logins::Logins;
use super::record::Record;
use super::{Args, authority, document};
use crate::config;
use crate::documents::{Canary, Code, Configuration, Error, SetUp, SetUpAction};
use crate::oci::RegistryName;
use crate::setup::{DOCKER_HUB, MirrorAddress, Own, Settings};

/// A mirror as somebody names it: its address, and the registry that it is for there, where he says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) address: MirrorAddress,
    registry: Option<RegistryName>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        let (address, registry) = text.split_once('=').map_or((text, None), |(address, name)| (address, Some(name)));
        let registry = registry.map(config::registry).transpose().map_err(|error| error.to_string())?;
        Ok(Named { address: address.parse().map_err(|error: crate::setup::AddressError| error.to_string())?, registry })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.registry.as_ref().map_or(Ok(()), |registry| write!(f, "={registry}"))
    }
}

/// What the client is told, and what is known of the mirror.
pub(super) struct Told {
    pub(super) settings: Settings,
    /// The registries that it serves; none where that is not known.
    pub(super) served: Vec<RegistryName>,
    /// How clients say there who they are, as far as that is known.
    pub(super) logins: Logins,
    /// All its listeners, each with the registry that it is for, as far as they are known.
    pub(super) listeners: Vec<Own>,
}

impl Told {
    pub(super) fn document(&self, args: &Args, action: SetUpAction) -> SetUp {
        document(args, action, Some(&self.settings.mirror), &self.settings.registries)
    }
}

/// What the client is to be told: the mirror that was named, else the one that the daemon tells of at its socket,
/// else the one of the file. What an address answers is believed by nobody.
pub(super) fn told(args: &Args, earlier: Option<&Record>) -> Result<Told, Error> {
    let Known { listeners, served, logins } = match (&args.mirror, known(args)) {
        (Some(_), known) => known.unwrap_or_default(),
        (None, known) => known?,
    };
    let registries = registries(args, earlier, &served);
    // Who names one means that one.
    let meant = |own: &&Own| args.mirror.as_ref().is_none_or(|named| named.address == own.mirror);
    let said = args
        .mirror
        .iter()
        .filter_map(|Named { address, registry }| Some(Own { registry: registry.clone()?, mirror: address.clone() }));
    let said: Vec<_> = said.collect();
    let of = |registry: &RegistryName| {
        let is_said = said.iter().any(|own| own.registry == *registry);
        let needs_one = is_said || logins.asks(registry) || registry.as_str().contains(':');
        let mut known = said.iter().chain(listeners.iter().filter(meant)).filter(|own| own.registry == *registry);
        known.next().filter(|_| needs_one && args.client.logs_in_at_an_address()).cloned()
    };
    let own: Vec<Own> = registries.iter().filter_map(of).collect();
    let (mirror, default) = match &args.mirror {
        Some(Named { address, .. }) => {
            let known = said.iter().chain(&listeners).find(|own| own.mirror == *address);
            (address.clone(), known.map(|own| own.registry.clone()))
        }
        None => {
            // The one for all of them, where there is such a one.
            let alone = own.first().filter(|first| own.iter().all(|own| own.mirror == first.mirror));
            let alone = alone.filter(|_| own.len() == registries.len()).cloned();
            let usual = || Some(listeners.first()?.clone());
            let hint = "say which one it is with --mirror";
            let message = "the mirror listens at no address that clients can be told";
            let none = || Error::new(Code::Configuration, message).with_hint(hint);
            let Own { registry, mirror } = alone.or_else(usual).ok_or_else(none)?;
            (mirror, Some(registry))
        }
    };
    let authority = args.mirror_ca.as_deref().map(|file| authority::read(file, &mirror)).transpose()?;
    Ok(Told { settings: Settings { mirror, registries, default, own, authority }, served, logins, listeners })
}

/// A mirror: its listeners, those for Docker Hub first, and what else is known of it.
#[derive(Default)]
pub(super) struct Known {
    listeners: Vec<Own>,
    pub(super) served: Vec<RegistryName>,
    logins: Logins,
}

/// The mirror that the daemon tells of at its socket, else the one of the file; nothing where another one is named.
pub(super) fn known(args: &Args) -> Result<Known, Error> {
    let daemon = Remote::at_socket(&args.at)?;
    let said = daemon.as_ref().and_then(|daemon| daemon.get::<Canary>("canary").ok());
    let (addresses, served, logins) = match said.map(|said| said.document) {
        Some(Canary { mirrors, upstreams, registries, .. }) => {
            let known = mirrors.into_iter().zip(upstreams);
            let addresses = known.filter_map(|(address, upstream)| Some((address, upstream.parse().ok()?)));
            let settings = daemon.as_ref().and_then(|daemon| daemon.get::<Configuration>("config").ok());
            let logins = settings.map(|said| Logins::of(&said.document.settings)).unwrap_or_default();
            (addresses.collect::<Vec<_>>(), registries, logins)
        }
        None => {
            let config = configuration(args.at.config.as_deref(), None)?;
            let logins = Logins::of(&config.effective.settings());
            let addresses = config.addresses_for_clients(&config.server.listen);
            (addresses, config.upstreams.into_iter().map(|upstream| upstream.host).collect(), logins)
        }
    };
    // What cannot be told anybody is left out.
    let listeners =
        addresses.into_iter().filter_map(|(address, registry)| Some(Own { registry, mirror: address.parse().ok()? }));
    let listeners: Vec<Own> = listeners.collect();
    let is_another = |named: &Named| listeners.iter().all(|own| own.mirror != named.address);
    let is_another = args.mirror.as_ref().is_some_and(is_another);
    Ok(if is_another { Known::default() } else { Known { listeners, served, logins } })
}

/// The registries that are named, else those of the last time, else Docker Hub, else, where the mirror has not that,
/// those that it serves.
pub(super) fn registries(args: &Args, earlier: Option<&Record>, served: &[RegistryName]) -> Vec<RegistryName> {
    let last = earlier.map(|record| record.settings.registries.as_slice()).unwrap_or_default();
    let hub: Vec<RegistryName> = DOCKER_HUB.parse().into_iter().collect();
    let usual: &[RegistryName] =
        if served.is_empty() || hub.iter().any(|hub| served.contains(hub)) { &hub } else { served };
    let choices = [&args.registries, last, usual];
    let mut registries: Vec<RegistryName> = Vec::new();
    for registry in choices.into_iter().find(|named| !named.is_empty()).unwrap_or_default() {
        if !registries.contains(registry) {
            registries.push(registry.clone());
        }
    }
    registries
}
