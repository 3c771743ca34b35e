//! `WWW-Authenticate`: what an upstream wants before it answers.
//!
//! Parsed with `http-auth`. Schemes that we do not speak are dropped; parameters may be missing.

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
    Basic,
}

/// Reads the values of all `WWW-Authenticate` lines of an answer. Values that cannot be parsed, and
/// schemes that we do not speak, yield nothing.
pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    values
        .into_iter()
        .filter_map(|value| http_auth::parse_challenges(value).ok())
        .flatten()
        .filter_map(|challenge| {
            let param = |name: &str| {
                let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                Some(Challenge::Basic)
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                Some(Challenge::Bearer {
                    realm: param("realm")?,
                    service: param("service"),
                    scope: param("scope"),
                    error: param("error"),
                })
            } else {
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope), error: None }
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
        assert_eq!(parse([r#"Basic realm="harbor""#]), [Challenge::Basic]);
        assert_eq!(
            parse([r#"Negotiate, Basic realm="x""#, r#"Bearer realm="https://a/t""#]),
            [Challenge::Basic, bearer("https://a/t", None, None)]
        );
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for value in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"unclosed", "\u{7f}"] {
            assert_eq!(parse([value]), [], "{value}");
        }
    }
}
