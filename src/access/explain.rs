//! Which line decides, for people.

use super::rules::Says;
use super::{Access, Asked, Caller, Rule, Rules};

/// What decides of a caller and an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether he may pull it.
    pub allowed: bool,
    /// The mode of the upstream.
    pub access: Access,
    /// The grant that decides, by its place, counted from zero.
    pub grant: Option<usize>,
    /// How, in a sentence.
    pub how: String,
}

impl Rules {
    /// Which line decides of what this caller asks for, and how.
    pub fn explain(&self, asked: Asked<'_>, caller: &Caller) -> Explanation {
        let access = self.access(&asked.location.upstream);
        // Who may what everybody may, may it by the line for him, if there is one.
        let anybody = self.says(asked, &Caller::Anonymous);
        let says = match self.says(asked, caller) {
            Says::No => anybody,
            says => says,
        };
        let by = |rule: &Rule| match rule {
            Rule::Grant(name) => self.grants.iter().position(|grant| grant.name == *name),
            _ => None,
        };
        let (allowed, grant, how) = match says {
            Says::Yes(rule) => (true, by(&rule), self.why(access, &rule)),
            Says::AsFarAs(tags) => match tags.first() {
                Some((tag, rule)) => (true, by(rule), format!("{rule} allows it as long as the tag {tag} leads to it")),
                None => (false, None, String::new()),
            },
            Says::No => (false, None, self.why_not(access, caller)),
        };
        Explanation { allowed, access, grant, how }
    }

    fn why(&self, access: Access, rule: &Rule) -> String {
        match rule {
            Rule::Grant(_) => format!("{rule} allows it"),
            _ if access == Access::Public => {
                "access = \"public\": everybody gets what the upstream gives to everybody".to_owned()
            }
            _ if self.identities.any() => "access = \"shared\": who has said who he is gets it".to_owned(),
            _ => "access = \"shared\": everybody gets it who reaches the listener".to_owned(),
        }
    }

    fn why_not(&self, access: Access, caller: &Caller) -> String {
        let word = access.as_str();
        match (access, caller) {
            (Access::PassThrough, _) => {
                format!("access = {word:?}: the upstream is asked, with the caller's own credential")
            }
            (_, Caller::Anonymous) => format!("access = {word:?}: it takes an identity"),
            (Access::Mapped, _) => format!("access = {word:?}: no [[access.grant]] allows it"),
            _ => format!("access = {word:?}: no [[access.grant]] names this token for it"),
        }
    }
}
