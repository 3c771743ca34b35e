//! Which line decides, for people.

use super::rules::Says;
use super::{Access, Asked, Caller, Rule, Rules};
use crate::oci::Tag;

/// What decides of a caller and an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether he may pull it. `None` where that takes more than the rules: the word of the upstream, or what a tag
    /// leads to.
    pub allowed: Option<bool>,
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
            Says::Yes(Rule::Mode(_)) if self.unproven.contains(&asked.location.upstream) => {
                let how = "access = \"public\": everybody gets it if the upstream gives it to everybody, which it is asked for";
                (None, None, how.to_owned())
            }
            Says::Yes(rule) => (Some(true), by(&rule), self.why(access, &rule)),
            Says::AsFarAs(tags) => {
                let way = |(tag, rule): &(&Tag, Rule)| format!("{rule} allows it as long as the tag {tag} leads to it");
                let ways = tags.iter().map(way).collect::<Vec<_>>().join(", or else ");
                let first = tags.first();
                // A daemon knows what tags lead to; the file does not.
                let look = |(tag, _): &(&Tag, Rule)| {
                    format!("; registry-mirror inspect {}:{tag} shows what that leads to", asked.location)
                };
                (None, first.and_then(|(_, rule)| by(rule)), ways + &first.map(look).unwrap_or_default())
            }
            Says::No if access == Access::PassThrough && (!self.is_gated() || self.counts(caller)) => {
                let how =
                    "access = \"pass-through\": the upstream decides, which is asked with what the caller shows for it";
                (None, None, how.to_owned())
            }
            Says::No => (Some(false), None, self.why_not(access, caller)),
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
            (_, Caller::Anonymous) => format!("access = {word:?}: it takes an identity"),
            (Access::PassThrough | Access::Mapped, _) => format!("access = {word:?}: no [[access.grant]] allows it"),
            _ => format!("access = {word:?}: no [[access.grant]] names this token for it"),
        }
    }
}
