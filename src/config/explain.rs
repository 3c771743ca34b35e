//! Which line decides of a caller and an image, by the configuration alone: no upstream is asked.

use crate::access::{Access, Asked, Caller};
use crate::documents::Explanation;
use crate::mirror::Location;
use crate::mirror::answer::canary;
use crate::mirror::routes::fold_alias;
use crate::oci::ImageName;
use crate::setting_file;

use super::Config;

const DOCKER_HUB: &str = "docker.io";
/// What there is to say of it to who has a password or a token.
const NEVER_ASKED: &str = "but no client is ever asked for a login for docker.io, where dockerd would show the Hub's, and \
    none shows one unasked: use certificates (server.tls.client_ca), or an upstream of another name with Docker Hub's url, \
    default of a listener of its own";

impl Config {
    /// Which line decides whether a caller, as grants name him, may pull an image. Who cannot be there gets what
    /// nobody in particular gets.
    ///
    /// # Errors
    /// For people: nobody is named like that, or the image is of no upstream.
    pub fn explain(&self, caller: &str, image: &ImageName) -> Result<Explanation, String> {
        let named: Caller = caller.parse().map_err(|error| format!("{caller:?} is {error}"))?;
        let upstream = fold_alias(image.registry.clone());
        if !self.upstreams.iter().any(|known| known.host == upstream) {
            return Err(format!("{upstream} is not an upstream; add it under [[upstream]]"));
        }
        let location = Location { upstream, repository: image.repository.clone() };
        if canary::is_own(&location, &image.reference).is_some() {
            let how = "it is the mirror's own image, which every caller may have".to_owned();
            let access = self.rules().access(&location.upstream).as_str().to_owned();
            let (caller, image) = (caller.to_owned(), image.to_string());
            return Ok(Explanation { caller, image, allowed: Some(true), access, rule: None, number: None, how });
        }
        let is_absent = matches!(self.is_there(&named), Err(Absence::Sure(_)));
        let who = if is_absent { &Caller::Anonymous } else { &named };
        let asked = Asked { location: &location, reference: Some(&image.reference) };
        let explained = self.rules().explain(asked, who);
        let how = self.told(explained.how, explained.allowed, &named, asked);
        let rule = explained.grant.and_then(|place| self.callers.grants.get(place)).map(|grant| grant.name.to_string());
        Ok(Explanation {
            caller: caller.to_owned(),
            image: image.to_string(),
            allowed: explained.allowed,
            access: explained.access.as_str().to_owned(),
            rule,
            number: explained.grant.map(|place| place + 1),
            how,
        })
    }

    /// What is left to say of an explanation by the rules alone: whether there is such a caller, and whether a client
    /// can say that it is him.
    fn told(&self, how: String, allowed: Option<bool>, caller: &Caller, asked: Asked<'_>) -> String {
        match self.is_there(caller) {
            Ok(()) if allowed != Some(false) && self.is_never_asked(caller, asked) => format!("{how}; {NEVER_ASKED}"),
            Ok(()) => how,
            Err(Absence::Sure(why)) if allowed == Some(true) => format!("{how}, also to who shows nothing; {why}"),
            Err(Absence::Sure(why) | Absence::Unknown(why)) => format!("{why}; {how}"),
        }
    }

    /// Whether this caller gets more than others by a login that no client is ever asked for.
    fn is_never_asked(&self, caller: &Caller, asked: Asked<'_>) -> bool {
        let logs_in = matches!(caller, Caller::User(_) | Caller::Token(_));
        let rules = self.rules();
        let is_private = matches!(rules.access(&asked.location.upstream), Access::Shared | Access::Mapped);
        let alone = || rules.explain(asked, &Caller::Anonymous).allowed != Some(true);
        asked.location.upstream.as_str() == DOCKER_HUB && logs_in && is_private && alone()
    }

    /// The same for who shows nothing; none for an image of no upstream.
    pub fn explain_to_anybody(&self, image: &ImageName) -> Option<Explanation> {
        self.explain("anonymous", image).ok()
    }

    /// Whether there can be such a caller.
    fn is_there(&self, caller: &Caller) -> Result<(), Absence> {
        let sure = |why: &str| Err(Absence::Sure(why.to_owned()));
        match caller {
            Caller::Anonymous | Caller::Presented(_) => Ok(()),
            Caller::User(name) => {
                let Some(path) = &self.callers.htpasswd else {
                    return sure("there are no users: access.htpasswd is not set");
                };
                let users = setting_file::text(path);
                let path = path.display();
                let users = users.map_err(|error| {
                    Absence::Unknown(format!("not known whether there is such a user: {path} cannot be read: {error}"))
                })?;
                let is_his = |line: &str| line.split_once(':').is_some_and(|(user, _)| user == &**name);
                if users.lines().any(is_his) { Ok(()) } else { sure(&format!("there is no user {name} in {path}")) }
            }
            Caller::Certificate(_) if !self.identities().certificates => {
                sure("nobody shows a certificate: server.tls.client_ca is not set")
            }
            Caller::Token(_) if self.callers.issuers.is_empty() => {
                sure("there are no tokens: no [[access.oidc]] is set")
            }
            Caller::Token(subject) => {
                let issued = |name: &str| subject.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
                let mut names = self.callers.issuers.iter().map(|issuer| issuer.name.as_deref());
                if names.any(|name| name.is_none_or(issued)) {
                    return Ok(());
                }
                sure("no [[access.oidc]] has the name that stands before its first colon")
            }
            Caller::Certificate(_) => Ok(()),
        }
    }
}

/// Why there is no such caller.
enum Absence {
    Sure(String),
    /// He may be there.
    Unknown(String),
}
