//! The door of a registry, `/v2/`: what it wants to see, and whether it lets in who shows something.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::HttpUpstream;
use super::answer::Answer;
use super::clients::Traffic;
use super::endpoint::Demand;
use super::proof::Proof;
use super::token_service::Wanted;
use super::wire::{Sending, basic, drain};
use crate::oci::Repository;
use crate::oci::challenge::Challenge;
use crate::upstream::credentials::Credential;
use crate::upstream::token::pull_scope;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How long it is believed that the door wants what it wanted.
const WANTS_THE_SAME: Duration = Duration::from_secs(5 * 60);

impl HttpUpstream {
    /// Knocks, with this to be shown.
    pub(super) async fn knock(&self, shown: Option<HeaderValue>) -> Result<Answer, UpstreamError> {
        let url = self.endpoint.address("");
        let what = format!("GET /v2/ at {}", self.endpoint.origin);
        let headers: HeaderMap = shown.clone().map(|shown| (AUTHORIZATION, shown)).into_iter().collect();
        let sending =
            Sending { method: Method::GET, url: &url, headers, form: None, traffic: Traffic::Api, what: &what };
        let response = self.send(sending).await?;
        Ok(Answer { response, url, abroad: false, sent: shown, what })
    }

    /// Whether the door opens, for what we have to show. What it wanted a while ago is shown at once; that it is
    /// refused counts where it wants the same now.
    pub(super) async fn ask_to_be_let_in(&self) -> Result<(), UpstreamError> {
        let known = self.endpoint.demand_and_age().filter(|(_, age)| *age < WANTS_THE_SAME);
        let mut tried = None;
        if let Some((known, _)) = known {
            match self.show(&known).await {
                Ok(()) => return Ok(()),
                Err(error) if error.class != UpstreamErrorClass::Denied && !error.elsewhere => return Err(error),
                Err(error) => tried = Some((known, error)),
            }
        }
        let answer = self.knock(None).await?;
        let Some(demand) = self.demanded(&answer, None)? else { return self.is_open(answer).await };
        drain(answer.response).await;
        let shown = match tried {
            Some((known, error)) if known.is_like(&demand) => Err(error),
            _ => self.show(&demand).await,
        };
        // A refusal comes from somebody who can be asked.
        if shown.as_ref().err().is_none_or(|error| error.class == UpstreamErrorClass::Denied) {
            self.learn(&demand);
        }
        shown
    }

    async fn show(&self, demand: &Demand) -> Result<(), UpstreamError> {
        let shown = self.what_to_show(demand).await?;
        let opened = self.is_open(self.knock(Some(shown)).await?).await;
        match (&opened, demand) {
            // Whom it refuses it sends there.
            (Err(error), Demand::Bearer { realm, .. }) if error.class == UpstreamErrorClass::Denied => {
                self.refuse_foreign(realm, &Credential::Anonymous).and(opened)
            }
            _ => opened,
        }
    }

    async fn is_open(&self, answer: Answer) -> Result<(), UpstreamError> {
        if !answer.response.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        drain(answer.response).await;
        Ok(())
    }

    /// A token for no repository opens the door and nothing else.
    async fn what_to_show(&self, demand: &Demand) -> Result<HeaderValue, UpstreamError> {
        let denied = || {
            let message = format!("GET /v2/ at {}: there is nothing to show for what it demands", self.endpoint.origin);
            UpstreamError::new(UpstreamErrorClass::Denied, message).with_status(StatusCode::UNAUTHORIZED.as_u16())
        };
        let credential = self.presented.as_ref().map_or(&Credential::Anonymous, |presented| &presented.credential);
        let proof = match (demand, credential) {
            (Demand::Bearer { .. }, Credential::RegistryToken(token)) => Proof::of_token(token)?,
            // One that was fetched before would hide that the token service is away.
            (Demand::Bearer { realm, service, .. }, Credential::Anonymous) => {
                self.refuse_foreign(realm, credential)?;
                let wanted = Wanted { service: service.as_deref(), scope: "" };
                Proof::of_token(&self.fetch_token(realm, wanted, credential).await?.secret)?
            }
            (Demand::Bearer { realm, service, .. }, credential) => {
                self.bearer(realm, service.as_deref(), String::new(), credential.clone()).await?
            }
            (Demand::Basic { .. }, Credential::Basic { user, password }) => return basic(user, password),
            (Demand::Basic { .. }, _) => return Err(denied()),
        };
        Ok(proof.header)
    }

    /// What the door wants, as it is told to who asks through us. What it demands and nobody may meet is a no to him.
    pub(super) async fn challenge_of(
        &self,
        repository: Option<&Repository>,
    ) -> Result<Option<Challenge>, UpstreamError> {
        let answer = self.knock(None).await?;
        let (status, demand) = (answer.response.status(), self.demanded(&answer, None));
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.refusal(answer).await);
        }
        drain(answer.response).await;
        let Some(demand) = demand? else { return Ok(None) };
        if let Demand::Bearer { realm, .. } = &demand {
            self.refuse_foreign(realm, &Credential::Anonymous)?;
        }
        self.learn(&demand);
        Ok(self.told(demand, repository))
    }

    /// What it wanted last time, without asking.
    pub(super) fn last_challenge_of(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.told(self.endpoint.demand()?, repository)
    }

    fn told(&self, demand: Demand, repository: Option<&Repository>) -> Option<Challenge> {
        let scope = match repository {
            Some(repository) => Some(pull_scope(&self.name_there(repository).ok()?)),
            None => None,
        };
        match demand {
            demand if !demand.is_for_clients() => None,
            Demand::Bearer { realm, service, .. } => {
                Some(Challenge::Bearer { realm: realm.url.to_string(), service, scope, error: None })
            }
            Demand::Basic { realm } => Some(Challenge::Basic { realm }),
        }
    }
}
