//! Who asks, as `who` of a grant names him.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Somebody who shows nothing.
    Anonymous,
    /// A user of the htpasswd file, by his name.
    User(Arc<str>),
    /// The holder of a certificate.
    Certificate(Arc<Certificate>),
    /// The bearer of a token: the claim `sub`, behind the name of its issuer and a colon where issuers have names.
    Token(Arc<str>),
    /// Who shows something for his upstream, by the beginning of its keyed hash.
    Presented(u64),
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The common name, if there is one, and the alternative names, as text.
    pub names: Vec<String>,
}

/// What is no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither anonymous nor user:NAME, cert:NAME or oidc:SUB (oidc:ISSUER:SUB where issuers have names)")]
pub struct CallerError;

impl Caller {
    /// The names that patterns are compared with.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let (one, many): (Option<&str>, &[String]) = match self {
            Caller::Anonymous | Caller::Presented(_) => (None, &[]),
            Caller::User(name) | Caller::Token(name) => (Some(name), &[]),
            Caller::Certificate(certificate) => (None, &certificate.names),
        };
        one.into_iter().chain(many.iter().map(String::as_str))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Caller::Anonymous => return f.write_str("anonymous"),
            Caller::User(_) => "user",
            Caller::Certificate(_) => "cert",
            Caller::Token(_) => "oidc",
            Caller::Presented(hash) => return write!(f, "presented:{hash:016x}"),
        };
        write!(f, "{kind}:{}", self.names().next().unwrap_or_default())
    }
}

impl FromStr for Caller {
    type Err = CallerError;

    fn from_str(text: &str) -> Result<Caller, CallerError> {
        match text.split_once(':') {
            None if text == "anonymous" => Ok(Caller::Anonymous),
            Some((_, "")) | None => Err(CallerError),
            Some(("user", name)) => Ok(Caller::User(name.into())),
            Some(("cert", name)) => Ok(Caller::Certificate(Arc::new(Certificate { names: vec![name.to_owned()] }))),
            Some(("oidc", name)) => Ok(Caller::Token(name.into())),
            Some(_) => Err(CallerError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_read_as_he_is_written() {
        for text in ["anonymous", "user:ci-1", "cert:build-1", "oidc:repo:acme/app:ref:refs/heads/main"] {
            assert_eq!(text.parse::<Caller>().map(|caller| caller.to_string()).as_deref(), Ok(text));
        }
        for wrong in ["", "user", "user:", "anonymous:", "token:x", "oidc"] {
            assert_eq!(wrong.parse::<Caller>(), Err(CallerError), "{wrong}");
        }
    }
}
