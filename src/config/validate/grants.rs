//! What is said of grants that mean less than they seem to: nobody is named, or nothing that goes by grants.

use crate::access::{Access, Grant, May, Who};
use crate::config::{Config, Upstream, file};
use crate::oci::RegistryName;

/// What is allowed and yet worth a second look.
pub(super) fn warnings(config: &Config, typed: &file::Access) -> Vec<String> {
    let mut warnings = nobody(config, typed);
    for (grant, typed) in config.callers.grants.iter().zip(&typed.grant) {
        let all = grant.may.iter().zip(&typed.may);
        warnings.extend(all.filter_map(|(may, text)| nothing(config, grant, (may, text))));
    }
    warnings
}

/// The grants that are about images of an upstream.
pub(super) fn about<'a>(config: &'a Config, host: &RegistryName) -> impl Iterator<Item = &'a Grant> {
    let host = host.clone();
    config.callers.grants.iter().filter(move |grant| grant.may.iter().any(|may| may.is_about(&host)))
}

/// What is said of those whom grants name and who can never be there.
fn nobody(config: &Config, typed: &file::Access) -> Vec<String> {
    let identities = config.identities();
    let lacking = [
        ("user:", identities.passwords, "access.htpasswd is not set, so nobody has a password"),
        ("cert:", identities.certificates, "server.tls.client_ca is not set, so nobody shows a certificate"),
        ("oidc:", identities.tokens, "no [[access.oidc]] is set, so nobody has a token"),
    ];
    let mut warnings = Vec::new();
    for (grant, Grant { name, .. }) in typed.grant.iter().zip(&config.callers.grants) {
        for (kind, _, why) in lacking.iter().filter(|(_, is_there, _)| !is_there) {
            let named = grant.who.iter().find(|who| who.starts_with(kind));
            warnings.extend(named.map(|who| format!("grant {name}: {who:?} is for nobody: {why}")));
        }
    }
    warnings
}

/// Whether an upstream of this mode goes by what a grant says of somebody.
const fn counts(who: &Who, access: Access) -> bool {
    match access {
        Access::Mapped => true,
        Access::Shared => who.is_a_token(),
        Access::Public | Access::PassThrough => false,
    }
}

/// Why somebody whom a grant names has nothing of something that it is about.
fn nothing(config: &Config, grant: &Grant, (may, text): (&May, &str)) -> Option<String> {
    let about: Vec<&Upstream> = config.upstreams.iter().filter(|upstream| may.is_about(&upstream.host)).collect();
    let name = &grant.name;
    let Some(first) = about.first() else {
        return Some(format!("grant {name}: {text:?} is about no upstream of this mirror"));
    };
    let idle = |who: &&Who| !about.iter().any(|upstream| counts(who, upstream.access));
    let who = grant.who.iter().find(idle)?;
    let shared = about.iter().find(|upstream| upstream.access == Access::Shared);
    Some(match shared {
        Some(Upstream { host, .. }) => format!(
            "grant {name}: \"{who}\" is not held to {text:?}: {host} is shared, all who are let in get all of it, and \
             grants say only whose tokens are; access = \"mapped\" goes by grants"
        ),
        None => format!(
            "grant {name}: {text:?} changes nothing: {} is {}, and goes by no grants; access = \"mapped\" does",
            first.host,
            first.access.as_str()
        ),
    })
}
