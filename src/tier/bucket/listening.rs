//! The clients of the store: carried by threads of their own, and listening to what date it writes on its answers.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::DATE;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use super::StoreTime;
use crate::carrier::Carrier;
use crate::clock::Timestamp;

/// What every request to the store itself has, and none to who gives us credentials.
const OF_THE_STORE: &str = "x-amz-content-sha256";

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
        let client = self.client.clone();
        let answer = self.carrier.run(async move { client.execute(request).await }).await?;
        let date = answer.headers().get(DATE).filter(|_| is_of_the_store).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            self.time.heard(Timestamp::from(date));
        }
        Ok(answer)
    }
}
