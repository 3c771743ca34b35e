//! What a client is to be told: where the mirror is, for which registries, and how one says there who he is.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::super::client::{Remote, configuration, names_in_certificate};
use super::logins::Logins;
use super::record::Record;
use super::{Args, Ground, authority, document};
use crate::config;
use crate::documents::{Canary, Code, Configuration, Error, SetUp, SetUpAction};
use crate::oci::RegistryName;
use crate::setup::{AddressError, DOCKER_HUB, MirrorAddress, Own, Settings};

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
        let address: MirrorAddress = address.parse().map_err(|error: AddressError| error.to_string())?;
        if address.has_no_port() {
            return Err("nobody listens on port 0: name the one that the mirror has".to_owned());
        }
        Ok(Named { address, registry })
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
    /// Whether somebody said where it is.
    pub(super) is_named: bool,
}

impl Told {
    pub(super) fn document(&self, args: &Args, action: SetUpAction) -> SetUp {
        document(args, action, Some(&self.settings.mirror), &self.settings.registries)
    }
}

/// What the client is to be told: the mirrors that were named, else the one that the daemon tells of at its socket,
/// else the one of the file. What an address answers is believed by nobody.
pub(super) fn told(args: &Args, ground: &Ground, earlier: Option<&Record>) -> Result<Told, Error> {
    let known = if args.mirrors.is_empty() { known(args)? } else { known(args).unwrap_or_default() };
    refuse_others(&args.mirrors, &known)?;
    let listeners = readable(args, ground, &known.listeners)?;
    let Known { served, logins, .. } = known.of(&args.mirrors);
    let registries = registries(args, earlier, &served);
    let said = |Named { address, registry }: &Named| Some(Own { registry: registry.clone()?, mirror: address.clone() });
    let said: Vec<Own> = args.mirrors.iter().filter_map(said).collect();
    // Who names one means that one, by the name that he gives it.
    let meant: Vec<Own> = if args.mirrors.is_empty() {
        listeners.clone()
    } else {
        let listener = |Named { address, .. }: &Named| {
            Some(Own { registry: known.at(address)?.registry.clone(), mirror: address.clone() })
        };
        args.mirrors.iter().filter_map(listener).collect()
    };
    let of = |registry: &RegistryName| {
        let is_it = |own: &&Own| own.registry == *registry;
        let needs_one = logins.asks(registry) || registry.as_str().contains(':');
        let own = || meant.iter().find(is_it).filter(|_| needs_one && args.client.has_one_login_for_an_address());
        said.iter().find(is_it).or_else(own).cloned()
    };
    let own: Vec<Own> = registries.iter().filter_map(of).collect();
    // The one for all of them, where there is such a one.
    let alone = own.first().filter(|first| own.iter().all(|own| own.mirror == first.mirror));
    let alone = alone.filter(|_| own.len() == registries.len());
    let usual = args.mirrors.iter().find(|named| named.registry.is_none()).or(args.mirrors.first());
    let (mirror, default) = match usual {
        Some(Named { address, registry }) => {
            let known = || Some(known.at(address)?.registry.clone());
            (address.clone(), registry.clone().or_else(known))
        }
        None => {
            let hint = "say which one it is with --mirror";
            let message = "the mirror listens at no address that clients can be told";
            let none = || Error::new(Code::Configuration, message).with_hint(hint);
            let Own { registry, mirror } = alone.or(listeners.first()).cloned().ok_or_else(none)?;
            (mirror, Some(registry))
        }
    };
    let mut settings = Settings { mirror, registries, default, own, authority: None };
    if let Some(file) = &args.mirror_ca {
        let mirrors = settings.mirrors();
        let encrypted = mirrors.iter().find(|mirror| mirror.is_encrypted()).or(mirrors.first());
        let authority = encrypted.map(|mirror| authority::read(file, mirror)).transpose()?;
        settings.authority = authority;
    }
    Ok(Told { settings, served, logins, listeners: known.listeners, is_named: !args.mirrors.is_empty() })
}

/// Refuses what is said twice, and a registry for whose images another listener is that is known.
fn refuse_others(named: &[Named], known: &Known) -> Result<(), Error> {
    let usage = |message: String, hint: String| Err(Error::new(Code::Usage, message).with_hint(hint));
    for (n, Named { address, registry }) in named.iter().enumerate() {
        if named.iter().take(n).any(|other| other.registry == *registry) {
            let message = match registry {
                Some(registry) => format!("--mirror is there twice for {registry}"),
                None => "--mirror is there twice, and which of the two is for what is not said".to_owned(),
            };
            return usage(
                message,
                "one for each registry, such as --mirror URL=HOST, and one for all others".to_owned(),
            );
        }
        let Some((registry, is)) = registry.as_ref().zip(known.at(address).filter(|_| known.is_said)) else { continue };
        if is.registry == *registry {
            continue;
        }
        let other = known.listeners.iter().find(|own| own.registry == *registry);
        let hint = other.map_or_else(
            || format!("name it without ={registry}, or give that a listener, listen = [\"ADDRESS={registry}\"]"),
            |own| format!("the one that is for {registry} is {}", own.mirror),
        );
        let other = &is.registry;
        return usage(format!("{address} is the listener that is for {other}, and not for {registry}"), hint);
    }
    Ok(())
}

/// The listeners that the client can be told of: those at addresses that it can read, where there is any.
fn readable(args: &Args, ground: &Ground, listeners: &[Own]) -> Result<Vec<Own>, Error> {
    let plain = || listeners.iter().filter(|own| !own.mirror.is_ip6()).cloned().collect::<Vec<_>>();
    if !args.mirrors.is_empty() || [0, listeners.len()].contains(&plain().len()) {
        return Ok(listeners.to_vec());
    }
    let reads_all = ground.ask(args, |machine| Ok(args.client.reads_ip6(machine.docker_store)))?;
    Ok(if reads_all { listeners.to_vec() } else { plain() })
}

/// A mirror: its listeners, those for Docker Hub first, and what else is known of it.
#[derive(Clone, Default)]
pub(super) struct Known {
    listeners: Vec<Own>,
    /// Whether a daemon or a file says so: what holds without either may be another's.
    is_said: bool,
    /// The names in the certificate that it shows.
    certified: Vec<String>,
    pub(super) served: Vec<RegistryName>,
    logins: Logins,
}

impl Known {
    /// The listener at an address, which may have other names.
    fn at(&self, address: &MirrorAddress) -> Option<&Own> {
        let named = self.listeners.iter().find(|own| own.mirror == *address);
        let others = || self.listeners.iter().filter(|own| address.is_another_name_of(&own.mirror, &self.certified));
        named.or_else(|| others().min_by_key(|own| own.mirror.is_ip6()))
    }

    /// What is known where these are named: nothing of others.
    pub(super) fn of(&self, named: &[Named]) -> Known {
        let is_known = named.iter().all(|named| self.at(&named.address).is_some());
        if is_known { self.clone() } else { Known::default() }
    }
}

/// The mirror that the daemon tells of at its socket, else the one of the file.
pub(super) fn known(args: &Args) -> Result<Known, Error> {
    let daemon = Remote::at_socket(&args.at)?;
    let said = daemon.as_ref().and_then(|daemon| daemon.get::<Canary>("canary").ok());
    let (addresses, served, settings, is_said) = match said.map(|said| said.document) {
        Some(Canary { mirrors, upstreams, registries, .. }) => {
            let known = mirrors.into_iter().zip(upstreams);
            let addresses = known.filter_map(|(address, upstream)| Some((address, upstream.parse().ok()?)));
            let settings = daemon.as_ref().and_then(|daemon| daemon.get::<Configuration>("config").ok());
            let settings = settings.map(|said| said.document.settings).unwrap_or_default();
            (addresses.collect::<Vec<_>>(), registries, settings, true)
        }
        None => {
            let config = configuration(args.at.config.as_deref(), None)?;
            let settings = config.effective.settings();
            let addresses = config.addresses_for_clients(&config.server.listen);
            let served = config.upstreams.into_iter().map(|upstream| upstream.host).collect();
            (addresses, served, settings, config.source.is_some())
        }
    };
    // What cannot be told anybody is left out.
    let told = |(address, registry): (String, RegistryName)| Some(Own { registry, mirror: address.parse().ok()? });
    let listeners = addresses.into_iter().filter_map(told).filter(|own| !own.mirror.has_no_port()).collect();
    let certificate = settings.get("server").and_then(|server| server.get("tls")?.get("cert")?.as_str());
    let certificate = certificate.filter(|path| !path.is_empty());
    let certified = certificate.map(|path| names_in_certificate(Path::new(path))).unwrap_or_default();
    Ok(Known { listeners, is_said, certified, served, logins: Logins::of(&settings) })
}

/// The registries that are named, else those that a mirror is named for, else those of the last time, else Docker Hub,
/// else, where the mirror has not that, those that it serves.
pub(super) fn registries(args: &Args, earlier: Option<&Record>, served: &[RegistryName]) -> Vec<RegistryName> {
    let last = earlier.map(|record| record.settings.registries.as_slice()).unwrap_or_default();
    let hub: Vec<RegistryName> = DOCKER_HUB.parse().into_iter().collect();
    let usual: &[RegistryName] =
        if served.is_empty() || hub.iter().any(|hub| served.contains(hub)) { &hub } else { served };
    let named: Vec<RegistryName> = args.mirrors.iter().filter_map(|named| named.registry.clone()).collect();
    let choices = [&args.registries, &named, last, usual];
    let mut registries: Vec<RegistryName> = Vec::new();
    for registry in choices.into_iter().find(|named| !named.is_empty()).unwrap_or_default() {
        if !registries.contains(registry) {
            registries.push(registry.clone());
        }
    }
    registries
}
