//! What is said of grants that mean less than they seem to: nobody is named, or nothing that goes by grants.

use std::collections::BTreeMap;

use crate::access::{Access, Grant, MOST_TAGS, May, Who};
use crate::config::{Config, Upstream, file};
use crate::oci::{RegistryName, Repository};

/// What is allowed and yet worth a second look.
pub(super) fn warnings(config: &Config, typed: &file::Access) -> Vec<String> {
    let mut warnings = nobody(config, typed);
    warnings.extend(anybody(config));
    warnings.extend(too_many_tags(config, typed));
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
    if let Some(why) = no_image(text) {
        return Some(format!("grant {name}: {text:?} is about no image: {why}"));
    }
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

/// What is said of grants for everybody where nobody gets anything who does not say who he is.
fn anybody(config: &Config) -> Vec<String> {
    if !config.identities().certificates {
        return Vec::new();
    }
    let grants = config.callers.grants.iter().filter(|grant| grant.who.iter().any(Who::is_anybody));
    let told = grants.map(|Grant { name, .. }| {
        format!(
            "grant {name}: \"anonymous\" is everybody who has said who he is: with server.tls.client_ca nobody else gets \
             anything"
        )
    });
    told.collect()
}

/// Repository and tag of what is about one tag.
fn of_one_tag(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

/// What is said where somebody may read more tags of a repository than are asked for when he names a digest.
fn too_many_tags(config: &Config, typed: &file::Access) -> Vec<String> {
    let mut tags: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    for (grant, Grant { name, .. }) in typed.grant.iter().zip(&config.callers.grants) {
        for (repository, tag) in grant.may.iter().filter_map(|may| of_one_tag(may)) {
            for who in &grant.who {
                let tags = tags.entry((who, repository)).or_default();
                if tags.iter().all(|(_, known)| *known != tag) {
                    tags.push((name, tag));
                }
            }
        }
    }
    let told = tags.into_iter().filter_map(|((who, repository), tags)| {
        let (name, tag) = tags.get(MOST_TAGS)?;
        Some(format!(
            "grant {name}: {who:?} may read {} tags of {repository}: where it is not known here what they lead to, a pull \
             by digest asks for the first {MOST_TAGS} alone, and not for {tag}; allow him the repository, or fewer tags",
            tags.len()
        ))
    });
    told.collect()
}

/// Why there is no image of which this could be the name, whatever its stars stand for.
fn no_image(text: &str) -> Option<&'static str> {
    let path = of_one_tag(text).map_or(text, |(path, _)| path);
    let (host, repository) = path.split_once('/')?;
    if host.contains("**") {
        return None;
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("names of images are in lower case");
    }
    let filled = repository.replace("**", "*").replace('*', "a");
    filled.parse::<Repository>().err().map(|_| "no repository can have that name")
}
