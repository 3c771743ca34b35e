//! The clients of the store: carried by threads of their own, and listening to what date it writes on its answers. What
//! is no object of ours, a list or what it says of an error, is read up to a bound: all of it is in memory at once.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::header::DATE;
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

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

/// Whether it is that an answer has more than it may.
pub(super) fn is_too_long(error: &object_store::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<TooLong>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Makes clients that listen.
#[derive(Debug)]
pub(super) struct Listening {
    time: Arc<StoreTime>,
    carrier: Carrier,
}

impl Listening {
    pub(super) fn to(time: &Arc<StoreTime>, carrier: &Carrier) -> Listening {
        Listening { time: Arc::clone(time), carrier: carrier.clone() }
    }
}

impl HttpConnector for Listening {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Listener { client, time: Arc::clone(&self.time), carrier: self.carrier.clone() }))
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
        let client = self.client.clone();
        let answer = self.carrier.run(async move { client.execute(request).await }).await?;
        let date = answer.headers().get(DATE).filter(|_| is_of_the_store).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            self.time.heard(Timestamp::from(date));
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
