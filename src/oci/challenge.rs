//! `WWW-Authenticate`: what an upstream wants before it answers.
//!
//! Read as Go's clients read it, which is more than the grammar of RFC 9110 allows: quotes of both kinds or
//! none, any bytes in them, commas left out. Schemes that we do not speak are dropped; parameters may be
//! missing.

use std::fmt;

/// One way to authenticate that an upstream offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Fetch a token from `realm` first.
    Bearer {
        /// The address of the token service, unchecked.
        realm: String,
        /// The name of the registry as the token service knows it.
        service: Option<String>,
        /// The scope the upstream proposes. We compute our own and keep this for error messages.
        scope: Option<String>,
        /// Such as `invalid_token` or `insufficient_scope`.
        error: Option<String>,
    },
    /// Send user and password with every request.
    Basic {
        /// What the upstream calls what it guards.
        realm: Option<String>,
    },
}

/// As it is told to a client. What a quoted string cannot hold is left out.
impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (realm, service, scope, error) = match self {
            Challenge::Basic { realm } => {
                return write!(f, "Basic realm={}", Quoted(realm.as_deref().unwrap_or("registry")));
            }
            Challenge::Bearer { realm, service, scope, error } => (realm, service, scope, error),
        };
        write!(f, "Bearer realm={}", Quoted(realm))?;
        for (name, value) in [("service", service), ("scope", scope), ("error", error)] {
            if let Some(value) = value {
                write!(f, ",{name}={}", Quoted(value))?;
            }
        }
        Ok(())
    }
}

/// A quoted string of RFC 9110, 5.6.4, of visible characters and spaces.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars().filter(|c| matches!(c, ' '..='~')) {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

/// Reads the values of all `WWW-Authenticate` lines of an answer. What cannot be read, and schemes that we
/// do not speak, yield nothing.
pub fn parse(values: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Challenge> {
    values.into_iter().flat_map(|value| offers(value.as_ref())).filter_map(Offer::understood).collect()
}

/// A scheme with its parameters.
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn understood(self) -> Option<Challenge> {
        let parameter = |wanted: &str| {
            let named = self.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.clone())
        };
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic { realm: parameter("realm") });
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Some(Challenge::Bearer {
            realm: parameter("realm")?,
            service: parameter("service"),
            scope: parameter("scope"),
            error: parameter("error"),
        })
    }
}

/// A word with an equals sign behind it is a parameter of the scheme before it, any other word a scheme.
fn offers(value: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches(is_between);
        if rest.is_empty() {
            return offers;
        }
        let (word, behind) = rest.split_at(rest.find(|c| c == '=' || is_between(c)).unwrap_or(rest.len()));
        rest = match (behind.trim_start().strip_prefix('='), offers.last_mut()) {
            (Some(value), Some(offer)) => {
                let (value, behind) = parameter_value(value.trim_start());
                offer.parameters.extend(value.map(|value| (word.to_owned(), value)));
                behind
            }
            (Some(stray), None) => stray,
            (None, _) => {
                offers.push(Offer { scheme: word.to_owned(), parameters: Vec::new() });
                behind
            }
        };
    }
}

fn is_between(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

/// A value at the start of `text`, and what stands behind it. A quoted one that does not end is none.
fn parameter_value(text: &str) -> (Option<String>, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        return until_quote(quoted).map_or((None, ""), |(value, behind)| (Some(value), behind));
    }
    if let Some((value, behind)) = text.strip_prefix('\'').and_then(|quoted| quoted.split_once('\'')) {
        return (Some(value.to_owned()), behind);
    }
    let (value, behind) = text.split_at(text.find(is_between).unwrap_or(text.len()));
    (Some(value.to_owned()), behind)
}

fn until_quote(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope), error: None }
    }

    fn basic(realm: Option<&str>) -> Challenge {
        Challenge::Basic { realm: realm.map(str::to_owned) }
    }

    #[test]
    fn what_is_told_is_read_as_what_it_was() {
        let odd = bearer("https://t.example/a?b=\"c\\", Some("two words"), Some("repository:a/b:pull"));
        for challenge in [bearer("https://t.example/", None, None), odd, basic(Some("a \"b\"")), basic(Some(""))] {
            assert_eq!(parse([challenge.to_string()]), [challenge]);
        }
        assert_eq!(parse([basic(None).to_string()]), [basic(Some("registry"))], "a realm has to stand there");
        let split = bearer("https://t.example/\r\nSet-Cookie: x", None, None);
        assert_eq!(split.to_string(), r#"Bearer realm="https://t.example/Set-Cookie: x""#);
    }

    #[test]
    fn challenges_of_real_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#;
        assert_eq!(
            parse([hub]),
            [bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/nginx:pull"))]
        );
        assert_eq!(
            parse([r#"bearer REALM="https://gcr.io/v2/token""#]),
            [bearer("https://gcr.io/v2/token", None, None)]
        );
        assert_eq!(parse([r#"Basic realm="harbor""#]), [basic(Some("harbor"))]);
        assert_eq!(
            parse([r#"Negotiate, Basic realm="x""#, r#"Bearer realm="https://a/t""#]),
            [basic(Some("x")), bearer("https://a/t", None, None)]
        );
    }

    #[test]
    fn no_odd_byte_or_quote_discards_a_challenge() {
        for value in [
            "Basic realm=/",
            "Basic realm='a b'",
            "Basic realm=\"dépôt\"",
            "Basic",
            "basic realm=a b c",
            "Negotiate YII==, Basic realm=\"x\"",
            "Basic realm=\"unclosed",
        ] {
            assert!(matches!(parse([value])[..], [Challenge::Basic { .. }]), "{value}");
        }
        for value in [
            "Bearer realm=\"https://a/t\" service=\"s\" scope=\"x\"",
            "Bearer realm='https://a/t',service='s',scope=x",
            "Bearer realm=https://a/t,service=s , scope=\"x\"",
            "Bearer realm = \"https://a/t\",, service = \"s\", scope=\"x\",",
            "Bearer title=\"dépôt \\\"1\\\"\",realm=\"https://a/t\",service=\"s\",scope=\"x\"",
        ] {
            assert_eq!(parse([value]), [bearer("https://a/t", Some("s"), Some("x"))], "{value}");
        }
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for value in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"unclosed", "\u{7f}", "=", "realm=\"x\""] {
            assert_eq!(parse([value]), [], "{value}");
        }
    }
}
