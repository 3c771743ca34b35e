//! The token service and the signed addresses of the storage host: who may read what.

use std::collections::{HashMap, HashSet};

use http::HeaderMap;
use serde_json::json;

use super::Recorded;
use super::answer::Answer;

/// How a registry wants to be asked. Begin with [`TokenPolicy::bearer`] or [`TokenPolicy::basic`].
#[derive(Clone, Debug)]
pub struct TokenPolicy {
    basic: bool,
    realm: Option<String>,
    service: Option<String>,
    challenge_scope: bool,
    users: HashMap<String, String>,
    /// Repositories that are not for everybody, with the users they are for; empty: for all users.
    private: HashMap<String, HashSet<String>>,
    private_refused_by_service: bool,
    fields: Fields,
    expires_in: Option<u64>,
    issued_at: Option<String>,
    uses: usize,
    expired: Expired,
}

#[derive(Clone, Copy, Debug)]
enum Fields {
    Both,
    Token,
    AccessToken,
}

/// What a registry says to a token that was good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// 401 with the same challenge and `error="invalid_token"`.
    Challenge,
    /// 401 with a `Basic` challenge.
    ChallengeBasic,
    /// 403 without a challenge.
    Denied,
    /// 400 without a challenge.
    BadRequest,
    /// 404 without a challenge.
    Missing,
}

impl TokenPolicy {
    /// Everything needs a token; anybody gets one.
    pub fn bearer() -> TokenPolicy {
        TokenPolicy {
            basic: false,
            realm: None,
            service: Some("registry.test".to_owned()),
            challenge_scope: true,
            users: HashMap::new(),
            private: HashMap::new(),
            private_refused_by_service: false,
            fields: Fields::Both,
            expires_in: Some(300),
            issued_at: None,
            uses: usize::MAX,
            expired: Expired::Challenge,
        }
    }

    /// Everything needs this user and password, with every request.
    pub fn basic(user: &str, password: &str) -> TokenPolicy {
        TokenPolicy { basic: true, ..TokenPolicy::bearer() }.user(user, password)
    }

    /// Knows a user. Wrong credentials are refused by the token service, even for public images.
    pub fn user(mut self, user: &str, password: &str) -> TokenPolicy {
        self.users.insert(user.to_owned(), password.to_owned());
        self
    }

    /// This repository is for known users. Others get a token that the registry then refuses.
    pub fn private(self, repository: &str) -> TokenPolicy {
        self.private_to(repository, &[])
    }

    /// This repository is for these users. Others get a token that the registry then refuses.
    pub fn private_to(mut self, repository: &str, users: &[&str]) -> TokenPolicy {
        self.private.insert(repository.to_owned(), users.iter().map(|&user| user.to_owned()).collect());
        self
    }

    /// For private repositories the token service itself says 403.
    pub fn private_refused_by_service(mut self) -> TokenPolicy {
        self.private_refused_by_service = true;
        self
    }

    /// The challenge names this realm instead of the registry's own `/token`.
    pub fn realm(mut self, realm: &str) -> TokenPolicy {
        self.realm = Some(realm.to_owned());
        self
    }

    /// The challenge names this service, or none.
    pub fn service(mut self, service: Option<&str>) -> TokenPolicy {
        self.service = service.map(str::to_owned);
        self
    }

    /// The challenge does not name a scope.
    pub fn without_scope(mut self) -> TokenPolicy {
        self.challenge_scope = false;
        self
    }

    /// The token comes as `access_token` only.
    pub fn only_access_token(mut self) -> TokenPolicy {
        self.fields = Fields::AccessToken;
        self
    }

    /// The token comes as `token` only.
    pub fn only_token(mut self) -> TokenPolicy {
        self.fields = Fields::Token;
        self
    }

    /// What the service says about the lifetime, in seconds. The registry itself goes by
    /// [`TokenPolicy::uses`] and [`super::Registry::expire_tokens`], not by the clock.
    pub fn expires_in(mut self, seconds: Option<u64>) -> TokenPolicy {
        self.expires_in = seconds;
        self
    }

    /// What the service says about when the token was made.
    pub fn issued_at(mut self, moment: &str) -> TokenPolicy {
        self.issued_at = Some(moment.to_owned());
        self
    }

    /// A token is expired after so many requests.
    pub fn uses(mut self, uses: usize) -> TokenPolicy {
        self.uses = uses;
        self
    }

    /// What an expired token is told.
    pub fn expired(mut self, answer: Expired) -> TokenPolicy {
        self.expired = answer;
        self
    }
}

/// The tokens and signatures that are out.
#[derive(Debug, Default)]
pub struct Issued {
    counter: u64,
    tokens: HashMap<String, Token>,
    signatures: HashMap<String, Signature>,
}

#[derive(Debug)]
struct Token {
    /// Repository names.
    grants: HashSet<String>,
    uses: usize,
}

#[derive(Debug)]
struct Signature {
    method: String,
    path: String,
    used: bool,
}

impl Issued {
    fn next(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}-{:08}-{}", self.counter, "x".repeat(16))
    }

    /// No token given out so far is good from now on.
    pub fn expire_tokens(&mut self) {
        self.tokens.values_mut().for_each(|token| token.uses = 0);
    }

    /// `None` when the request may go on, else the refusal.
    pub fn check(&mut self, policy: &TokenPolicy, own_url: &str, request: &Recorded) -> Option<Answer> {
        let authorization = header(&request.headers, "authorization");
        if policy.basic {
            let known = user(policy, &request.headers).is_some();
            return (!known).then(|| {
                Answer::error(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"registry of the test\"")
            });
        }
        let Some(token) = authorization.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Some(challenge(policy, own_url, request, None));
        };
        let Some(token) = self.tokens.get_mut(token) else {
            return Some(challenge(policy, own_url, request, Some("invalid_token")));
        };
        if token.uses == 0 {
            return Some(match policy.expired {
                Expired::Challenge => challenge(policy, own_url, request, Some("invalid_token")),
                Expired::ChallengeBasic => {
                    Answer::error(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"harbor\"")
                }
                Expired::Denied => Answer::error(403, "DENIED"),
                Expired::BadRequest => Answer::error(400, "DENIED"),
                Expired::Missing => Answer::error(404, "MANIFEST_UNKNOWN"),
            });
        }
        token.uses -= 1;
        let granted = request.parts().is_none_or(|(name, _, _)| token.grants.contains(name));
        (!granted).then(|| challenge(policy, own_url, request, Some("insufficient_scope")))
    }

    /// The token service.
    pub fn token(&mut self, policy: &TokenPolicy, request: &Recorded) -> Answer {
        let form = form(request);
        let claimed = header(&request.headers, "authorization").is_some() || form.contains_key("password");
        let by_form = form
            .get("username")
            .filter(|name| policy.users.get(*name).is_some_and(|it| form.get("password") == Some(it)));
        let known = user(policy, &request.headers).or(by_form.map(String::as_str));
        if claimed && known.is_none() {
            return Answer::error(401, "UNAUTHORIZED");
        }
        let scopes = request.queries("scope").into_iter().chain(form.get("scope").cloned());
        let asked: HashSet<String> =
            scopes.flat_map(|scope| scope.split_whitespace().filter_map(repository_of).collect::<Vec<_>>()).collect();
        let may = |users: &HashSet<String>| known.is_some_and(|known| users.is_empty() || users.contains(known));
        let refused: HashSet<String> =
            asked.iter().filter(|name| !policy.private.get(*name).is_none_or(may)).cloned().collect();
        if !refused.is_empty() && policy.private_refused_by_service {
            return Answer::error(403, "DENIED");
        }
        // Those of two registries differ.
        let host = header(&request.headers, "host").unwrap_or_default().replace(':', "-");
        let token = self.next(&format!("token-of-{host}"));
        let grants = asked.difference(&refused).cloned().collect();
        self.tokens.insert(token.clone(), Token { grants, uses: policy.uses });
        let mut body = json!({});
        if matches!(policy.fields, Fields::Both | Fields::Token) {
            body["token"] = json!(token);
        }
        if matches!(policy.fields, Fields::Both | Fields::AccessToken) {
            body["access_token"] = json!(token);
        }
        if let Some(seconds) = policy.expires_in {
            body["expires_in"] = json!(seconds);
        }
        if let Some(moment) = &policy.issued_at {
            body["issued_at"] = json!(moment);
        }
        Answer::new(200, "application/json", body.to_string())
    }

    /// A query string that opens `path` of the storage host once, for this method.
    pub fn sign(&mut self, method: &str, path: &str) -> String {
        let signature = self.next("signature");
        self.signatures
            .insert(signature.clone(), Signature { method: method.to_owned(), path: path.to_owned(), used: false });
        format!("X-Amz-Expires=600&X-Amz-Signature={signature}")
    }

    /// `None` when the storage host gives the content out, else the refusal.
    pub fn check_signature(&mut self, request: &Recorded) -> Option<Answer> {
        let xml = |status, code: &str| {
            Some(Answer::new(status, "application/xml", format!("<Error><Code>{code}</Code></Error>")))
        };
        if request.headers.contains_key("authorization") {
            return xml(400, "InvalidArgument");
        }
        let signature = request.query("X-Amz-Signature").and_then(|signature| self.signatures.get_mut(&signature));
        match signature {
            Some(known) if !known.used && known.method == request.method && known.path == request.path => {
                known.used = true;
                None
            }
            Some(known) if known.used => xml(403, "ExpiredToken"),
            _ => xml(403, "SignatureDoesNotMatch"),
        }
    }
}

fn challenge(policy: &TokenPolicy, own_url: &str, request: &Recorded, error: Option<&str>) -> Answer {
    let realm = policy.realm.clone().unwrap_or_else(|| format!("{own_url}/token"));
    let mut value = format!("Bearer realm=\"{realm}\"");
    if let Some(service) = &policy.service {
        value += &format!(",service=\"{service}\"");
    }
    if let Some((name, _, _)) = request.parts().filter(|_| policy.challenge_scope) {
        value += &format!(",scope=\"repository:{name}:pull\"");
    }
    if let Some(error) = error {
        value += &format!(",error=\"{error}\"");
    }
    Answer::error(401, "UNAUTHORIZED").with("www-authenticate", &value)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The known user that the request proves to be, by Basic authentication.
fn user<'a>(policy: &'a TokenPolicy, headers: &HeaderMap) -> Option<&'a str> {
    let sent = header(headers, "authorization")?.strip_prefix("Basic ")?;
    let (user, _) = policy.users.iter().find(|(user, password)| base64(&format!("{user}:{password}")) == sent)?;
    Some(user)
}

fn repository_of(scope: &str) -> Option<String> {
    let rest = scope.strip_prefix("repository:")?;
    let (name, actions) = rest.rsplit_once(':')?;
    actions.split(',').any(|action| action == "pull").then(|| name.to_owned())
}

fn form(request: &Recorded) -> HashMap<String, String> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

/// Base64 with padding, as `Authorization: Basic` has it.
pub fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            encoded.push(if digit <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    encoded
}
