//! What the operator grants: who may read what.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Caller;
use crate::metadata::Location;
use crate::oci::{Glob, Reference, RegistryName, Tag};

/// So many tags of a repository are asked for, for who may read nothing else of it and names a digest.
pub const MOST_TAGS: usize = 8;

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its name, else its number, counted from one.
    pub name: Arc<str>,
    /// Who.
    pub who: Vec<Who>,
    /// What.
    pub may: Vec<May>,
}

/// Whom a grant is for; shown as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    text: Box<str>,
    kind: Kind,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Everybody, whoever he is.
    Anonymous,
    User(Glob),
    Certificate(Glob),
    Token(Glob),
}

/// What is no `who`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither anonymous nor user:, cert: or oidc: and a name, in which * stands for anything")]
pub struct WhoError;

impl FromStr for Who {
    type Err = WhoError;

    fn from_str(text: &str) -> Result<Who, WhoError> {
        let kind = match text.split_once(':') {
            None if text == "anonymous" => Kind::Anonymous,
            Some((_, "")) | None => return Err(WhoError),
            Some(("user", name)) => Kind::User(Glob::of_names(name)),
            Some(("cert", name)) => Kind::Certificate(Glob::of_names(name)),
            Some(("oidc", name)) => Kind::Token(Glob::of_names(name)),
            Some(_) => return Err(WhoError),
        };
        Ok(Who { text: text.into(), kind })
    }
}

impl Who {
    /// Whether it is for everybody.
    pub fn is_anybody(&self) -> bool {
        self.kind == Kind::Anonymous
    }

    /// Whether it is for users of a password.
    pub const fn is_a_user(&self) -> bool {
        matches!(self.kind, Kind::User(_))
    }

    /// Whether it is for holders of a token.
    pub const fn is_a_token(&self) -> bool {
        matches!(self.kind, Kind::Token(_))
    }

    /// Whether it is for the user of this name.
    pub fn is_user(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::User(glob) if glob.matches(name))
    }

    fn names(&self, caller: &Caller) -> bool {
        let glob = match (&self.kind, caller) {
            (Kind::Anonymous, _) => return true,
            (Kind::User(glob), Caller::User(_))
            | (Kind::Certificate(glob), Caller::Certificate(_))
            | (Kind::Token(glob), Caller::Token(_)) => glob,
            _ => return false,
        };
        caller.names().any(|name| glob.matches(name))
    }
}

/// What a grant is about: repositories, or one tag of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct May {
    /// What may stand in front of the first slash; `None` where that may be behind it, too.
    host: Option<Glob>,
    path: Glob,
    tag: Option<Tag>,
}

/// What is no `may`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not host/repository or host/repository:tag, in which * stops at a slash and ** does not")]
pub struct MayError;

impl FromStr for May {
    type Err = MayError;

    fn from_str(text: &str) -> Result<May, MayError> {
        let last = text.rsplit('/').next().and_then(|last| last.split_once(':'));
        let (path, tag) = match last {
            Some((_, tag)) => (&text[..text.len() - tag.len() - 1], Some(tag.parse().map_err(|_| MayError)?)),
            None => (text, None),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/*[]".contains(&byte);
        let is_whole = path.split('/').all(|part| !part.is_empty());
        let is_path = path == "**" || path.contains('/');
        if !is_whole || !is_path || !path.bytes().all(allowed) {
            return Err(MayError);
        }
        let host = path.split('/').next().filter(|host| !host.contains("**")).map(Glob::of_paths);
        Ok(May { host, path: Glob::of_paths(path), tag })
    }
}

impl May {
    /// Whether it is about images of this upstream, whichever.
    pub fn is_about(&self, upstream: &RegistryName) -> bool {
        self.host.as_ref().is_none_or(|host| host.matches(upstream.as_str()))
    }
}

/// How far a grant reaches, for something that is asked for.
pub(super) enum Reach<'a> {
    /// It allows it.
    Whole,
    /// It allows it as far as this tag leads to it.
    Tag(&'a Tag),
}

impl Grant {
    /// Whether it is for this caller.
    pub(super) fn names(&self, caller: &Caller) -> bool {
        self.who.iter().any(|who| who.names(caller))
    }

    /// Whether it is for this caller, and not for everybody.
    pub(super) fn names_himself(&self, caller: &Caller) -> bool {
        self.who.iter().any(|who| !who.is_anybody() && who.names(caller))
    }

    /// What it says of `reference` in a repository; without one, of the list of its tags.
    pub(super) fn reaches<'a>(&'a self, location: &Location, reference: Option<&Reference>) -> Vec<Reach<'a>> {
        let path = location.to_string();
        let reach = |may: &'a May| match (&may.tag, reference) {
            (None, _) => Some(Reach::Whole),
            (Some(tag), Some(Reference::Tag(asked))) => (tag == asked).then_some(Reach::Whole),
            (Some(tag), Some(Reference::Digest(_))) => Some(Reach::Tag(tag)),
            (Some(_), None) => None,
        };
        self.may.iter().filter(|may| may.path.matches(&path)).filter_map(reach).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_read_is_a_path_with_a_host_and_at_most_one_tag() {
        for (text, tag) in [
            ("registry.example/acme/**", None),
            ("registry.example:5000/acme/app", None),
            ("registry.example:5000/acme/app:1.2", Some("1.2")),
            ("registry.example/*:latest", Some("latest")),
            ("**", None),
            ("*/acme/app", None),
        ] {
            let may: May = text.parse().unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(may.tag.as_ref().map(Tag::as_str), tag, "{text}");
        }
        for wrong in ["", "registry.example", "a/b:", "a/b:*", "a//b", "/a/b", "a/b/", "a b/c", "a/b@sha256:0", "*"] {
            assert_eq!(wrong.parse::<May>(), Err(MayError), "{wrong}");
        }
    }

    #[test]
    fn what_may_be_read_is_about_upstreams() {
        for (may, upstream, expected) in [
            ("a.example/**", "a.example", true),
            ("a.example/**", "b.example", false),
            ("a.example:5000/x", "a.example:5000", true),
            ("*.example/x", "a.example", true),
            ("*.exmaple/x", "a.example", false),
            ("**", "a.example", true),
            ("**/x", "a.example", true),
            ("*/x", "a.example", true),
        ] {
            let may: May = may.parse().expect("valid");
            assert_eq!(may.is_about(&upstream.parse().expect("valid")), expected, "{may:?} {upstream}");
        }
    }

    #[test]
    fn who_names_kinds_and_names() {
        for wrong in ["", "ci", "user:", "token:x", "anonymous:x", "oidc"] {
            assert_eq!(wrong.parse::<Who>(), Err(WhoError), "{wrong}");
        }
        for (who, caller, expected) in [
            ("user:ci-*", "user:ci-1", true),
            ("user:ci-*", "cert:ci-1", false),
            ("cert:*", "cert:x", true),
            ("cert:*", "user:x", false),
            ("oidc:repo:acme/*", "oidc:repo:acme/app", true),
            ("oidc:*", "anonymous", false),
            ("anonymous", "anonymous", true),
            ("anonymous", "user:x", true),
        ] {
            let (who, caller): (Who, Caller) = (who.parse().expect("valid"), caller.parse().expect("valid"));
            assert_eq!(who.names(&caller), expected, "{who:?} {caller}");
        }
    }
}
