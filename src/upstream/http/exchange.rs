//! One question to an upstream: when it is put again, with what proof, and where redirects lead it.
//!
//! The order of things: what the upstream demanded last time is met in advance; a proof that may have died is
//! renewed once before a no is believed, and before anything else that it demands is looked at, because proofs
//! die more often than registries move; where it refuses even fresh ones, the question is put once without
//! any, because a stale password must not break a public image. Credentials stay with the configured origin:
//! a redirect that leaves it loses them, and coming back does not restore them.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use url::Url;

use super::HttpUpstream;
use super::answer::{Answer, Question};
use super::clients::Traffic;
use super::endpoint::Demand;
use super::proof::Proof;
use super::redirect::{self, MAX_REDIRECTS, is_redirect, same_origin};
use super::wire::{Sending, drain};
use crate::oci::{Repository, header};
use crate::upstream::credentials::Credential;
use crate::upstream::token::wider_scope;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// So long the door is waited for by who has an answer already.
const DOOR_WITHIN: Duration = Duration::from_secs(5);

impl HttpUpstream {
    /// A question about something in `repository`.
    pub(super) fn question(
        &self,
        method: Method,
        repository: &Repository,
        path: String,
        headers: HeaderMap,
    ) -> Result<Question, UpstreamError> {
        Ok(Question { method, path, query: None, repository: self.name_there(repository)?, headers })
    }

    /// What `repository` is called there.
    pub(super) fn name_there(&self, repository: &Repository) -> Result<Repository, UpstreamError> {
        self.endpoint.name_there(repository).map_err(|_| {
            let message = format!("{repository} at {}: the name is too long there", self.endpoint.origin);
            UpstreamError::new(UpstreamErrorClass::NotFound, message)
        })
    }

    /// Asks, with what the upstream wants to see.
    pub(super) async fn ask(&self, question: &Question) -> Result<Answer, UpstreamError> {
        let answer = match self.endpoint.demand() {
            Some(standing) => {
                let standing = standing.with(self.endpoint.beyond.get(&question.kind()));
                self.ask_as_ever(question, standing).await
            }
            None => self.ask_for_the_first_time(question).await,
        };
        let unproven = match &answer {
            Err(error) => error.class == UpstreamErrorClass::Denied,
            Ok(answer) => answer.is_denial() || (answer.is_missing() && self.endpoint.demand().is_some()),
        };
        if unproven {
            // Our own trouble: it says nothing about the upstream, nor about what it has.
            self.credential(&question.repository).await?;
        }
        answer
    }

    /// Asks as the upstream wanted it last time, and then as it wants it now.
    async fn ask_as_ever(&self, question: &Question, standing: Demand) -> Result<Answer, UpstreamError> {
        // A token service that is away, or refuses what somebody presents, may not be the one to ask any more: then
        // that is learned without it.
        let (first, mut missing) = match self.prove(&standing, &question.repository).await {
            Ok(first) => (first, None),
            Err(error) if error.class == UpstreamErrorClass::Denied && self.presented.is_none() => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let mut answer = self.follow(question, first.as_ref()).await?;
        // Where it wants more than what was shown, the proof may well live.
        let wants_more = |answer: &Answer| match self.demanded(answer, Some(&question.repository)) {
            Ok(Some(Demand::Bearer { beyond: beyond @ Some(_), .. })) => {
                !matches!(&standing, Demand::Bearer { beyond: known, .. } if *known == beyond)
            }
            _ => false,
        };
        let first = first.filter(|sent| sent.may_be_dead(&answer, &self.endpoint) && !wants_more(&answer));
        if let Some(sent) = first {
            self.forget(&question.repository, &sent).await;
            match self.prove(&standing, &question.repository).await {
                Ok(Some(renewed)) => {
                    if renewed.header != sent.header {
                        drain(answer.response).await;
                        answer = self.follow(question, Some(&renewed)).await?;
                    }
                    if answer.is_missing() {
                        self.endpoint.lives(&renewed.header);
                    }
                }
                Ok(None) => {}
                // Unless it demands something else now, that is why there is no answer.
                Err(error) => missing = Some(error),
            }
        }
        if !answer.is_denial() {
            // Who presents what is refused gets no more than the refusal, even of what is given to everybody.
            let open = |error: &UpstreamError| {
                let is_his = error.class == UpstreamErrorClass::Denied && self.shows_something();
                answer.response.status().is_success() && !is_his
            };
            let told = missing.as_ref().is_none_or(open);
            return if told { Ok(answer) } else { missing.map_or(Ok(answer), Err) };
        }
        let other = match self.demanded(&answer, Some(&question.repository)) {
            Ok(other) => other.filter(|other| !other.is_like(&standing)),
            Err(error) => return Err(missing.unwrap_or(error)),
        };
        let proof = match &other {
            Some(other) => self.prove(other, &question.repository).await?,
            None => None,
        };
        let (Some(other), Some(proof)) = (other, proof) else {
            if let Some(error) = missing {
                return Err(error);
            }
            return self.without_credentials(question, &standing, answer).await;
        };
        drain(answer.response).await;
        let answer = self.follow(question, Some(&proof)).await?;
        if !answer.is_denial() || self.presented.is_some() {
            self.learn_for(question, &other);
        }
        self.without_credentials(question, &other, answer).await
    }

    /// Takes note of what was demanded and could be met. What was met for one who presents something must be of use
    /// to others who do.
    pub(super) fn learn(&self, demand: &Demand) {
        if self.presented.is_none() || demand.is_for_clients() {
            self.endpoint.learn(demand);
        }
    }

    /// The same, and what it wants beyond the usual for such a question.
    fn learn_for(&self, question: &Question, demand: &Demand) {
        if let Demand::Bearer { beyond: Some(beyond), .. } = demand {
            self.endpoint.beyond.insert(question.kind(), beyond.clone());
        }
        self.learn(demand);
    }

    /// Asks where nothing is known yet of what the upstream wants.
    async fn ask_for_the_first_time(&self, question: &Question) -> Result<Answer, UpstreamError> {
        let answer = self.follow(question, None).await?;
        let here = self.demanded(&answer, Some(&question.repository))?;
        let at_the_door = if here.is_none() { self.demanded_at_the_door(&answer).await } else { None };
        let is_told = here.is_some();
        let Some(demand) = here.or(at_the_door) else { return Ok(answer) };
        let proof = match self.prove(&demand, &question.repository).await {
            Err(error) if !is_told && error.class == UpstreamErrorClass::Denied => None,
            proof => proof?,
        };
        let Some(proof) = proof else {
            // What the door wants and we have not is of no use, also the next time. Others may have it.
            if self.presented.is_none() {
                self.endpoint.lets_in(true);
            }
            return Ok(answer);
        };
        self.learn_for(question, &demand);
        drain(answer.response).await;
        let answer = self.follow(question, Some(&proof)).await?;
        self.without_credentials(question, &demand, answer).await
    }

    /// What `/v2/` wants, where it may know more than this answer tells: some registries challenge there only, and
    /// say to strangers that there is nothing, also where a token for nobody is enough.
    async fn demanded_at_the_door(&self, answer: &Answer) -> Option<Demand> {
        if answer.abroad || !answer.may_be_unproven() || self.endpoint.let_in_lately() {
            return None;
        }
        let Ok(Ok(answer)) = tokio::time::timeout(DOOR_WITHIN, self.knock(None)).await else {
            self.endpoint.lets_in(false);
            return None;
        };
        let demand = self.demanded(&answer, None).ok().flatten();
        if demand.is_none() {
            self.endpoint.lets_in(!answer.response.status().is_server_error());
        }
        drain(answer.response).await;
        demand
    }

    /// Last resort: where `refused` is a refusal of credentials, asks as nobody. Keeps the refusal
    /// where that does not help either.
    async fn without_credentials(
        &self,
        question: &Question,
        demand: &Demand,
        refused: Answer,
    ) -> Result<Answer, UpstreamError> {
        let is_ours = self.presented.is_none();
        if !refused.is_denial()
            || !is_ours
            || self.credential_or_nobody(&question.repository).await == Credential::Anonymous
        {
            return Ok(refused);
        }
        let nobody = match demand {
            Demand::Bearer { realm, service, beyond } => {
                let scope = wider_scope(&question.repository, beyond.as_deref());
                let token = self.bearer(realm, service.as_deref(), scope, Credential::Anonymous).await;
                let Ok(token) = token else { return Ok(refused) };
                Some(token)
            }
            Demand::Basic { .. } => None,
        };
        let answer = self.follow(question, nobody.as_ref()).await?;
        if !answer.response.status().is_success() {
            return Ok(refused);
        }
        self.warn_refused();
        Ok(answer)
    }

    /// Sends the question and follows redirects.
    async fn follow(&self, question: &Question, proof: Option<&Proof>) -> Result<Answer, UpstreamError> {
        let mut url = self.endpoint.address(&format!("{}/{}", question.repository, question.path));
        url.set_query(question.query.as_deref());
        let answer = self.travel(question, url, proof.map(|proof| proof.header.clone()), false).await?;
        match self.token_abroad(question, &answer).await? {
            None => Ok(answer),
            Some(token) => {
                let url = answer.url.clone();
                drain(answer.response).await;
                let answer = self.travel(question, url, Some(token.clone()), true).await?;
                if answer.response.status() == StatusCode::NOT_FOUND {
                    self.endpoint.lives(&token);
                }
                Ok(answer)
            }
        }
    }

    /// Sends the question to `url`, and on to where that redirects.
    async fn travel(
        &self,
        question: &Question,
        mut url: Url,
        mut authorization: Option<HeaderValue>,
        mut abroad: bool,
    ) -> Result<Answer, UpstreamError> {
        let traffic = question.traffic();
        let rules = self.endpoint.rules.about(traffic == Traffic::Blobs);
        let mut what = self.describe(question, abroad.then_some(&url));
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = question.headers.clone();
            if let Some(header) = &authorization {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let method = question.method.clone();
            let sending = Sending { method, url: &url, headers, form: None, traffic, what: &what };
            let response = self.send(sending).await?;
            let location = response.headers().get(LOCATION).map(header::addresses);
            let Some(location) = location.filter(|_| is_redirect(response.status())) else {
                return Ok(Answer { response, url, abroad, sent: authorization, what });
            };
            let next = redirect::next(&url, &location, rules)
                .map_err(|error| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: {error}")))?;
            if !same_origin(&url, &next) {
                authorization = self.kept_token_abroad(question, &next).await;
                abroad = true;
                what = self.describe(question, Some(&next));
            }
            url = next;
            drain(response).await;
        }
        let message = format!("{what}: more than {MAX_REDIRECTS} redirects");
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, message))
    }

    /// For messages: `library/redis manifests/7 at registry-1.docker.io`, whatever the method: that would tell
    /// who asks whether we have it.
    fn describe(&self, question: &Question, redirected_to: Option<&Url>) -> String {
        let Question { repository, path, .. } = question;
        let asked = format!("{repository} {path} at {}", self.endpoint.origin);
        match redirected_to {
            None => asked,
            Some(url) => format!("{asked}, redirected to {}", url.host_str().unwrap_or_default()),
        }
    }
}
