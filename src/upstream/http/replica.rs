//! Other replicas of this mirror, as one of them is asked for a blob that it fetches.
//!
//! They are no registries: nothing is shown to them but a proof and, where they ask for one, our own certificate; they
//! send nobody elsewhere; no proxy stands between. What they give is hashed like all that comes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderValue, RANGE};
use parking_lot::Mutex;
use reqwest::{Client, Response};
use tokio::time::Instant;
use url::Url;

use super::settings::{HttpSettings, HttpSettingsError};
use super::trust::tls;
use super::wire::{class_of, contact_of, content_range, describe_failure, number};
use crate::carrier::Carrier;
use crate::oci::header::PEER;
use crate::oci::{RegistryName, Span};
use crate::upstream::settings::{ClientCertificate, Settings};
use crate::upstream::{Contact, UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// A replica from which nothing comes for so long is asked again, whether it lives.
const IDLE: Duration = Duration::from_secs(15);
/// After so long certificates are read again: they may have been renewed.
const READ_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Asks other replicas.
pub struct ReplicaClient {
    settings: HttpSettings,
    patience: Duration,
    client: Mutex<Option<(Client, Instant)>>,
}

impl std::fmt::Debug for ReplicaClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaClient").finish_non_exhaustive()
    }
}

impl ReplicaClient {
    /// Trusts `certificate` beside the system's authorities, and shows it with `key` where there is one. Connects to
    /// nobody; who does not take a connection within `patience` is not there. What they
    /// send is read by `carrier`.
    ///
    /// # Errors
    /// [`HttpSettingsError`] when the files are of no use.
    pub fn new(
        of: (RegistryName, Url),
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        patience: Duration,
        carrier: Carrier,
    ) -> Result<Arc<ReplicaClient>, HttpSettingsError> {
        let shown = certificate.clone().zip(key).map(|(certificate, key)| ClientCertificate { certificate, key });
        let configured = Settings { ca: certificate, certificate: shown, ..Settings::default() };
        let settings = HttpSettings { carrier, ..HttpSettings::new(of.0, of.1, configured) };
        let replicas = ReplicaClient { settings, patience, client: Mutex::default() };
        replicas.client()?;
        Ok(Arc::new(replicas))
    }

    fn client(&self) -> Result<Client, HttpSettingsError> {
        let mut known = self.client.lock();
        if let Some((client, _)) = known.as_ref().filter(|(_, read)| read.elapsed() < READ_AGAIN) {
            return Ok(client.clone());
        }
        let failed = |reason: String| HttpSettingsError::Client { name: self.settings.name.clone(), reason };
        let client = Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(self.patience)
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls(&self.settings, true)?)
            .http1_only()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        *known = Some((client.clone(), Instant::now()));
        Ok(client)
    }

    /// The blob at this address, or a part of it, for who proves that he is a replica.
    ///
    /// # Errors
    /// Any class of [`UpstreamError`]; with a status where the replica answered.
    pub async fn blob(&self, url: &str, proof: &str, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let error = |class, reason: String| UpstreamError::new(class, format!("{url}: {reason}")).because(reason);
        let client = self.client().map_err(|wrong| error(UpstreamErrorClass::Protocol, wrong.to_string()))?;
        let mut request = client.get(url).header(PEER, proof);
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = span.header_value() {
            request = request.header(RANGE, range);
        }
        let answer = self.settings.carrier.run(request.send()).await.map_err(|failed| {
            let (class, contact) = (class_of(&failed), contact_of(&failed));
            error(class, describe_failure(failed)).after(contact)
        })?;
        let status = answer.status();
        let announced = number(&answer, CONTENT_LENGTH);
        match (status, content_range(&answer)) {
            (StatusCode::OK, _) => Ok(UpstreamBlob::new(announced, 0, false, body(answer))),
            (StatusCode::PARTIAL_CONTENT, Some(range)) if range.first == span.start => {
                Ok(UpstreamBlob::new(range.total, range.first, true, body(answer)))
            }
            _ => {
                let class = match status {
                    StatusCode::NOT_FOUND => UpstreamErrorClass::NotFound,
                    StatusCode::FORBIDDEN => UpstreamErrorClass::Denied,
                    status if status.is_server_error() => UpstreamErrorClass::Unavailable,
                    _ => UpstreamErrorClass::Refused,
                };
                Err(error(class, format!("a replica answered {status}")).answered().with_status(status.as_u16()))
            }
        }
    }
}

fn body(answer: Response) -> BoxStream<'static, Result<bytes::Bytes, UpstreamError>> {
    let broken = |reason: String| {
        let message = format!("a replica: the body {reason}");
        UpstreamError::new(UpstreamErrorClass::Unavailable, message).after(Contact::Closed)
    };
    let next = move |answer: Option<Response>| async move {
        let mut answer = answer?;
        match tokio::time::timeout(IDLE, answer.chunk()).await {
            Ok(Ok(chunk)) => Some((Ok(chunk?), Some(answer))),
            Ok(Err(error)) => Some((Err(broken(format!("broke off: {}", describe_failure(error)))), None)),
            Err(_) => Some((Err(broken("stands still".to_owned())), None)),
        }
    };
    stream::unfold(Some(answer), next).boxed()
}
