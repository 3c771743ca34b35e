//! Why something may not be read, told alike for what is stored and what is not.

use super::{Access, Caller};
use crate::metadata::Location;
use crate::oci::{ErrorCode, RegistryName};

/// What asks for a name and a password: ours, whatever the upstream.
const CHALLENGE: &str = "Basic realm=\"registry-mirror\", charset=\"UTF-8\"";

/// dockerd answers with the Hub's login whatever a mirror asks for there, so a login is never asked for.
pub(super) const HUB: &str = "docker.io";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It takes an identity, and none was shown, or something wrong.
    #[error("{upstream}: who pulls from it has to {} (access = {:?}){}", how(.upstream, *.challenges), .access.as_str(), what_was_wrong(*.wrong))]
    Unidentified {
        /// What was asked for is there.
        upstream: RegistryName,
        /// Its mode.
        access: Access,
        /// Whether a login is asked for in the answer.
        challenges: bool,
        /// Whether something was shown that is not right.
        wrong: bool,
    },
    /// It takes an identity, and the request came where others could read one.
    #[error(
        "{upstream}: who pulls from it has to log in at this mirror, and what is shown here others could read: the \
         request came neither over TLS nor from a trusted proxy with X-Forwarded-Proto: https"
    )]
    Overheard {
        /// What was asked for is there.
        upstream: RegistryName,
    },
    /// The upstream does not give it to everybody, and nobody here gets more than that.
    #[error("{location}: not found: there is nothing that everybody may pull")]
    NotPublic {
        /// What.
        location: Location,
    },
    /// The upstream refuses it to what was shown.
    #[error("{}", not_given(.upstream, *.status, *.away, .login))]
    Upstream {
        /// What was asked for is there.
        upstream: RegistryName,
        /// What is answered: 401, 403 or 404.
        status: u16,
        /// What it said itself, if it did just now.
        said: Option<u16>,
        /// Whether it did not say so itself: it is away, and nothing was shown that it gave this to before.
        away: bool,
        /// What it wants to see.
        login: Login,
    },
    /// Nobody is admitted without a certificate, and the connection, which was open before that held, has none that
    /// counts now.
    #[error(
        "nobody is admitted without a certificate of server.tls.client_ca, and this connection has none that counts \
         now: connect anew, with one"
    )]
    Uncertified,
    /// No line allows it to this caller.
    #[error("{caller} may not pull {location}: {} (access = {:?})", no_line(*.access), .access.as_str())]
    Denied {
        /// Who.
        caller: Caller,
        /// What.
        location: Location,
        /// The mode of the upstream.
        access: Access,
    },
}

/// How one logs in at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// As `WWW-Authenticate` says it.
    Told(String),
    /// It is not said, or not to be said to all.
    Untold,
    /// Not through this mirror, and why.
    Nowhere(String),
}

fn how(upstream: &RegistryName, challenges: bool) -> &'static str {
    if challenges || upstream.as_str() != HUB {
        return "log in at this mirror";
    }
    "say who he is at this mirror, which asks for no password for Docker Hub's names, since docker would send the Hub's: \
     by a certificate, or by another name of the Hub's at a listener that is for it (see access in mirror.toml.example)"
}

fn what_was_wrong(wrong: bool) -> &'static str {
    if wrong { "; what was shown is not right" } else { "" }
}

fn not_given(upstream: &RegistryName, status: u16, away: bool, login: &Login) -> String {
    match (status, login) {
        _ if away => format!(
            "{upstream} cannot be asked now, and gives this only to who logs in ({status}): until it is back, who shows \
             the same password or certificate as in the last day gets what it gave him then; docker and podman show \
             theirs only where it asks for one"
        ),
        (401, Login::Nowhere(why)) => format!(
            "{upstream} gives this only to who logs in, and nobody can do so through this mirror (401): {why}; tell \
             whoever runs this mirror"
        ),
        (401, _) => format!(
            "{upstream} gives this only to who logs in, and takes nothing of what was shown (401): log in as a user of \
             {upstream}, with docker login or podman login at the address of this mirror that is for it, for containerd \
             with a pull secret for {upstream}"
        ),
        (status, _) => format!("{upstream} does not give it to who shows what was shown ({status})"),
    }
}

fn no_line(access: Access) -> &'static str {
    match access {
        Access::Public | Access::Shared => "no [[access.grant]] names this token for it",
        Access::PassThrough | Access::Mapped => "no [[access.grant]] allows it",
    }
}

impl Refusal {
    /// The code to answer with.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Refusal::Unidentified { .. } => ErrorCode::Unauthorized,
            Refusal::Upstream { status: 401, .. } => ErrorCode::Unauthorized,
            Refusal::NotPublic { .. } | Refusal::Upstream { status: 404, .. } => ErrorCode::NameUnknown,
            Refusal::Overheard { .. } | Refusal::Uncertified | Refusal::Denied { .. } | Refusal::Upstream { .. } => {
                ErrorCode::Denied
            }
        }
    }

    /// The value of `WWW-Authenticate`, where a login is of use.
    pub fn challenge(&self) -> Option<&str> {
        match self {
            Refusal::Unidentified { challenges: true, .. } => Some(CHALLENGE),
            Refusal::Upstream { status: 401, login: Login::Told(challenge), .. } => Some(challenge),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_asks_for_a_login_where_one_helps() {
        let upstream: RegistryName = "a.example".parse().expect("a name");
        let location = Location { upstream: upstream.clone(), repository: "app".parse().expect("a name") };
        let unidentified = |challenges, wrong| {
            let (upstream, access) = (upstream.clone(), Access::Mapped);
            Refusal::Unidentified { upstream, access, challenges, wrong }
        };
        let of_upstream = |status, login| {
            let (upstream, said) = (upstream.clone(), Some(status));
            Refusal::Upstream { upstream, status, said, away: false, login }
        };
        let told = |status| of_upstream(status, Login::Told("Bearer realm=\"x\"".to_owned()));
        let nowhere = |status| of_upstream(status, Login::Nowhere("it is shut".to_owned()));
        let away = {
            let (upstream, login) = (upstream.clone(), Login::Told("Basic realm=\"x\"".to_owned()));
            Refusal::Upstream { upstream, status: 401, said: None, away: true, login }
        };
        let hub = {
            let (upstream, access) = (HUB.parse().expect("a name"), Access::Mapped);
            Refusal::Unidentified { upstream, access, challenges: false, wrong: false }
        };
        let denied =
            |access| Refusal::Denied { caller: Caller::User("ann".into()), location: location.clone(), access };
        for (refusal, status, challenge, says) in [
            (unidentified(true, false), 401, Some(CHALLENGE), "log in at this mirror (access = \"mapped\")"),
            (unidentified(false, true), 401, None, "(access = \"mapped\"); what was shown is not right"),
            (Refusal::Overheard { upstream: upstream.clone() }, 403, None, "X-Forwarded-Proto: https"),
            (Refusal::Uncertified, 403, None, "nobody is admitted without a certificate of server.tls.client_ca"),
            (Refusal::NotPublic { location: location.clone() }, 404, None, "a.example/app: not found"),
            (told(401), 401, Some("Bearer realm=\"x\""), "(401): log in as a user of a.example, with docker login or "),
            (away, 401, Some("Basic realm=\"x\""), "a.example cannot be asked now"),
            (hub, 401, None, "docker.io: who pulls from it has to say who he is at this mirror"),
            (told(403), 403, None, "(403)"),
            (told(404), 404, None, "(404)"),
            (of_upstream(401, Login::Untold), 401, None, "(401): log in as a user of a.example"),
            (nowhere(401), 401, None, "through this mirror (401): it is shut; tell whoever runs this mirror"),
            (nowhere(403), 403, None, "does not give it to who shows what was shown (403)"),
            (denied(Access::Shared), 403, None, "no [[access.grant]] names this token for it (access = \"shared\")"),
            (denied(Access::Mapped), 403, None, "user:ann may not pull a.example/app: no [[access.grant]] allows it"),
        ] {
            let text = refusal.to_string();
            assert_eq!((refusal.code().status().as_u16(), refusal.challenge()), (status, challenge), "{text}");
            assert!(text.contains(says), "{text}");
        }
        let right = unidentified(true, false).to_string();
        assert!(right.ends_with(')'), "nothing was shown: {right}");
    }
}
