//! The clients of the store: carried by threads of their own, and listening to what date it writes on its answers. What
//! is no object of ours, a list or what it says of an error, is read up to a bound: all of it is in memory at once.
//! Truth: only what is configured is asked. Nobody goes where an answer leads, be it of the store or of who gives us
//! credentials, which may be to anybody, and to ourselves.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::header::{DATE, LOCATION};
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
pub(super) use reqwest::Certificate;
use reqwest::Client;
use reqwest::redirect::Policy;
use url::Url;

use super::StoreTime;
use crate::carrier::Carrier;
use crate::clock::Timestamp;

/// What every request to the store itself has, and none to who gives us credentials.
const OF_THE_STORE: &str = "x-amz-content-sha256";
/// What an answer may have that is no object, in bytes: a thousand of our keys, the longest ones, take less than half.
pub(super) const MOST_OF_ANSWER: usize = 4 << 20;

/// An answer has more than it may.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {MOST_OF_ANSWER} bytes")]
struct TooLong;

/// An answer leads to somebody else.
#[derive(Debug, thiserror::Error)]
#[error("it sends us to {0}, and no redirect of a bucket is followed: configure the endpoint that answers")]
pub(super) struct Elsewhere(String);

impl Elsewhere {
    /// Where an answer leads to, if it does.
    fn of(answer: &HttpResponse, asked: &str) -> Option<Elsewhere> {
        let place = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection())?;
        let place = Url::parse(asked).ok()?.join(place.to_str().ok()?).ok();
        // No more of it: the rest may be a signature.
        let host = place.as_ref().and_then(|place| Some((place.host_str()?, place.port_or_known_default()?)));
        Some(Elsewhere(host.map_or_else(|| "somewhere".to_owned(), |(host, port)| format!("{host}:{port}"))))
    }
}

/// Whether it is that an answer has more than it may.
pub(super) fn is_too_long(error: &object_store::Error) -> bool {
    cause::<TooLong>(error).is_some()
}

/// Where an answer leads to, if it is that.
pub(super) fn elsewhere(error: &object_store::Error) -> Option<&Elsewhere> {
    cause(error)
}

fn cause<E: Error + 'static>(error: &object_store::Error) -> Option<&E> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref() {
            return Some(cause);
        }
        next = error.source();
    }
    None
}

/// Makes clients that listen.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) time: Arc<StoreTime>,
    pub(super) carrier: Carrier,
    /// How long a connection may take to come.
    pub(super) connect: Duration,
    /// Whom they trust beside those that the system trusts.
    pub(super) trusted: Vec<Certificate>,
}

impl HttpConnector for Listening {
    /// What object_store makes itself follows wherever it is led, and cannot be told not to. Of its options those count
    /// that are set here for all.
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(self.connect)
            .tls_certs_merge(self.trusted.iter().cloned())
            // The length of an object is that of its bytes.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        let (client, time) = (HttpClient::new(client), Arc::clone(&self.time));
        Ok(HttpClient::new(Listener { client, time, carrier: self.carrier.clone() }))
    }
}

#[derive(Debug)]
struct Listener {
    client: HttpClient,
    time: Arc<StoreTime>,
    carrier: Carrier,
}

#[async_trait]
impl HttpService for Listener {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_of_the_store = request.headers().contains_key(OF_THE_STORE);
        let is_of_object = request.method() == Method::GET && !request.uri().query().is_some_and(is_of_list);
        let (client, asked) = (self.client.clone(), request.uri().to_string());
        let answer = self.carrier.run(async move { client.execute(request).await }).await?;
        let date = answer.headers().get(DATE).filter(|_| is_of_the_store).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            self.time.heard(Timestamp::from(date));
        }
        if let Some(elsewhere) = Elsewhere::of(&answer, &asked) {
            return Err(HttpError::new(HttpErrorKind::Unknown, elsewhere));
        }
        let is_bounded = !is_of_object || !answer.status().is_success();
        Ok(if is_bounded { answer.map(bounded) } else { answer })
    }
}

/// Whether a question asks for a list.
fn is_of_list(query: &str) -> bool {
    query.split('&').any(|pair| pair.starts_with("list-type="))
}

fn bounded(body: HttpResponseBody) -> HttpResponseBody {
    HttpResponseBody::new(Limited::new(body, MOST_OF_ANSWER).map_err(|error| match error.downcast::<HttpError>() {
        Ok(error) => *error,
        Err(_) => HttpError::new(HttpErrorKind::Decode, TooLong),
    }))
}
