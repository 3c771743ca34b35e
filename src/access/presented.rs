//! What a caller shows for his upstream, and is not ours to judge.

use std::fmt;

use zeroize::Zeroizing;

use super::Caller;

/// A credential for an upstream. Never printed.
pub enum Credential {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token, as it is.
    Token(Zeroizing<String>),
}

/// What a caller shows for his upstream: something, or nothing.
#[derive(Default)]
pub struct Presented {
    /// None where he shows nothing.
    pub credential: Option<Credential>,
    /// By which it is known again: a keyed hash of all of it.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").finish_non_exhaustive()
    }
}

impl Presented {
    /// Who shows it, as far as that is known.
    pub fn caller(&self) -> Option<Caller> {
        let [a, b, c, d, e, f, g, h, ..] = self.fingerprint;
        self.credential.as_ref().map(|_| Caller::Presented(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
    }

    /// Whether it is the same each time, as nothing is: a token is another one for each pull.
    pub const fn is_lasting(&self) -> bool {
        !matches!(self.credential, Some(Credential::Token(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_known_by_its_hash_and_printed_nowhere() {
        let secret = || Zeroizing::new("hunter2".to_owned());
        let password = Credential::Password { user: "ann".to_owned(), password: secret() };
        for (credential, lasting) in [(password, true), (Credential::Token(secret()), false)] {
            let shown = Presented { credential: Some(credential), fingerprint: [7; 32] };
            assert_eq!(shown.caller(), Some(Caller::Presented(0x0707_0707_0707_0707)));
            assert_eq!(shown.is_lasting(), lasting);
            assert_eq!(format!("{shown:?}"), "Presented { .. }");
        }
        let nothing = Presented::default();
        assert!(nothing.caller().is_none() && nothing.is_lasting());
    }
}
