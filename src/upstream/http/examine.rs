//! Looking at an upstream on its way from the name to the pulls that are left, a step at a time, so that it can be
//! said which one fails. The way is that of every request: the same proxy, the same trust, the same credential.
//!
//! Every step has a deadline. Nothing is fetched but heads, and no secret is told.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::DATE;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use url::Url;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::egress::proxy_of;
use super::endpoint::Demand;
use super::resolver::look_up;
use super::settings::{HttpSettings, HttpSettingsError};
use super::status;
use super::token_service::Wanted;
use super::trust::tls;
use super::wire::{basic, drain};
use super::{Head, HttpUpstream, protocol};
use crate::clock::Timestamp;
use crate::oci::plausible::{Asked, check};
use crate::oci::{AcceptSet, Repository, header};
use crate::upstream::credentials::{Credential, Presented, Secret, encoded_pair};
use crate::upstream::examined::{Distrust, Door, Examined, Sample, Shown, Step, Why};
use crate::upstream::quota::Reading;
use crate::upstream::realm::authority;
use crate::upstream::settings::Settings;
use crate::upstream::token::pull_scope;
use crate::upstream::{Contact, UpstreamError, UpstreamErrorClass};

/// No step takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer of a proxy, in bytes.
const LONGEST_HEAD: usize = 8 << 10;

/// Looks at the upstream of these settings, `as_caller` as one who shows nothing, with the rules for callers. `sample` is
/// what is asked for in the end.
pub async fn examine(settings: HttpSettings, sample: Sample, as_caller: bool) -> Examined {
    let address = authority(&settings.url);
    let mut looking = Looking { steps: Vec::new(), settings, sample, as_caller };
    let proxy = proxy_of(&looking.settings, &looking.settings.url);
    let through = proxy.as_ref().ok().and_then(Option::as_ref).map(authority);
    let upstream = looking.settings.name.clone();
    // Whoever failed has said why.
    let _ = looking.go(proxy).await;
    Examined { upstream, address, through, steps: looking.steps }
}

/// Something failed, and it is said what.
struct Failed;

struct Looking {
    steps: Vec<Step>,
    settings: HttpSettings,
    sample: Sample,
    as_caller: bool,
}

/// In time, or else with these words.
async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, step).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing came of it in {} s", PATIENCE.as_secs())),
    }
}

async fn answer_in_time<T>(step: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| {
        let message = format!("no answer in {} s", PATIENCE.as_secs());
        Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message).after(Contact::Silent))
    })
}

impl Looking {
    /// Takes note of a step; whether to go on.
    fn note<T, E>(&mut self, went: Result<T, E>, step: impl FnOnce(Result<T, E>) -> Step) -> Result<(), Failed> {
        let fine = went.is_ok();
        self.steps.push(step(went));
        if fine { Ok(()) } else { Err(Failed) }
    }

    async fn go(&mut self, proxy: Result<Option<Url>, HttpSettingsError>) -> Result<(), Failed> {
        let (settings, presented) = (self.settings.clone(), self.as_caller.then_some(Presented::NOBODY));
        // Certificates are read, so that others do not wait meanwhile.
        let made = tokio::task::spawn_blocking(move || {
            let client = HttpUpstream { presented, ..HttpUpstream::new(settings.clone())? };
            Ok::<_, HttpSettingsError>((proxy?, client, Arc::new(tls(&settings, true)?)))
        });
        let made = made.await.map_err(|error| error.to_string()).and_then(|made| made.map_err(|e| e.to_string()));
        let (proxy, client, tls) = made.map_err(|error| {
            self.steps.push(Step::Settings(error));
            Failed
        })?;
        let stream = self.connect(proxy.as_ref().unwrap_or(&self.settings.url.clone())).await?;
        if self.settings.url.scheme() == "https" {
            match &proxy {
                None => self.look_at_certificate(stream, &tls, None).await?,
                Some(proxy) if proxy.scheme() == "http" => self.look_at_certificate(stream, &tls, Some(proxy)).await?,
                // What goes wrong there is told by the question at the door.
                Some(_) => {}
            }
        }
        self.ask(&client).await
    }

    async fn connect(&mut self, to: &Url) -> Result<TcpStream, Failed> {
        let host = to.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = to.port_or_known_default().unwrap_or_default();
        if host.parse::<IpAddr>().is_err() {
            let found = in_time(look_up(&host)).await;
            let found =
                found.and_then(|found| if found.is_empty() { Err("no addresses".to_owned()) } else { Ok(found) });
            self.note(found, |found| Step::Name(host.clone(), found))?;
        }
        let began = Instant::now();
        let (stream, went) = match in_time(TcpStream::connect((host.as_str(), port))).await {
            Ok(stream) => (Some(stream), Ok(began.elapsed())),
            Err(error) => (None, Err(error)),
        };
        self.note(went, |went| Step::Connection(authority(to), went))?;
        stream.ok_or(Failed)
    }

    /// Looks at the certificate that the upstream shows, on this connection, behind a proxy if there is one.
    async fn look_at_certificate(
        &mut self,
        stream: TcpStream,
        tls: &Arc<ClientConfig>,
        proxy: Option<&Url>,
    ) -> Result<(), Failed> {
        let checked = !self.settings.configured.insecure;
        let shown = in_time(async { Ok(handshake(tls, stream, proxy, &self.settings.url).await) }).await;
        let shown = match shown.unwrap_or_else(|late| Err(Handshake::Broken(late))) {
            Ok(certificate) => Ok(Shown { until: certificate.until, checked }),
            Err(Handshake::NoWay(why)) => Err(Distrust { why: Why::NoWay(why), issuer: None }),
            Err(Handshake::Broken(why)) => Err(Distrust { why: Why::Other(why), issuer: None }),
            Err(Handshake::Distrusted(why)) => {
                let issuer = self.whose(proxy).await;
                Err(Distrust { why, issuer })
            }
        };
        self.note(shown, Step::Certificate)
    }

    /// Who signed the certificate that is not believed. Nothing is shown or sent on that connection.
    async fn whose(&self, proxy: Option<&Url>) -> Option<String> {
        let to = proxy.unwrap_or(&self.settings.url);
        let host = to.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address = (host, to.port_or_known_default().unwrap_or_default());
        let looking_only = Settings { insecure: true, certificate: None, ..self.settings.configured.clone() };
        let tls = Arc::new(tls(&HttpSettings { configured: looking_only, ..self.settings.clone() }, true).ok()?);
        let shown = in_time(async {
            let stream = TcpStream::connect(address).await?;
            Ok(handshake(&tls, stream, proxy, &self.settings.url).await.ok())
        });
        shown.await.ok().flatten()?.issuer
    }

    async fn ask(&mut self, client: &HttpUpstream) -> Result<(), Failed> {
        let began = Instant::now();
        let answer = match answer_in_time(client.knock(None)).await {
            Ok(answer) => answer,
            Err(error) => return self.note(Err(error), |went| Step::Door(went, began.elapsed())),
        };
        let date = answer.response.headers().get(DATE).map(header::text);
        if let Some(there) = date.and_then(|date| httpdate::parse_http_date(&date).ok()) {
            self.steps.push(Step::Time { here: client.now(), there: there.into() });
        }
        let (is_open, demand) = (answer.response.status().is_success(), client.demanded(&answer, None));
        let demands_nothing = matches!(demand, Ok(None));
        if !is_open && demands_nothing {
            let refusal = client.refusal(answer).await;
            return self.note(Err(refusal), |went| Step::Door(went, began.elapsed()));
        }
        drain(answer.response).await;
        let door = if is_open { Door::Open } else { Door::Demands };
        self.steps.push(Step::Door(Ok(door), began.elapsed()));
        if !is_open {
            let met = answer_in_time(Box::pin(client.meet(demand, &self.sample.repository))).await;
            self.note(met, Step::Proof)?;
        }
        self.ask_for_a_manifest(client).await
    }

    async fn ask_for_a_manifest(&mut self, client: &HttpUpstream) -> Result<(), Failed> {
        let Sample { repository, reference, .. } = &self.sample;
        let (began, accept) = (Instant::now(), AcceptSet::everything());
        // It is large, and each step of the way here would hold it.
        let asked = answer_in_time(Box::pin(async {
            let answer = client.ask(&client.manifest_question(Method::HEAD, repository, reference, &accept)?).await?;
            let quota = Reading::of(answer.response.headers());
            if status::is_whole(answer.response.status()) {
                // What a pull would not take is no manifest here either.
                let asked = Asked::Manifest(None);
                let plausible =
                    check(asked, &Head::of(&answer).told(), None).map_err(|odd| protocol(&answer.what, odd));
                drain(answer.response).await;
                return Ok((plausible, quota));
            }
            Ok((Err(client.refusal(answer).await), quota))
        }));
        let (went, quota) = asked.await.unwrap_or_else(|error| (Err(error), None));
        let (sample, took) = (self.sample.clone(), began.elapsed());
        let noted = self.note(went, |went| Step::Manifest(sample, went, took));
        self.steps.extend(quota.map(Step::Quota));
        noted
    }
}

impl HttpUpstream {
    /// Meets what the door demands, with exactly what is configured: where that is refused, nobody's is not tried
    /// in its place. Whether a credential of ours was shown.
    async fn meet(
        &self,
        demand: Result<Option<Demand>, UpstreamError>,
        repository: &Repository,
    ) -> Result<bool, UpstreamError> {
        let Some(demand) = demand? else { return Ok(false) };
        let there = self.name_there(repository)?;
        let credential = self.credential(&there).await?;
        let is_ours = credential != Credential::Anonymous;
        match (&demand, &credential) {
            (Demand::Bearer { .. }, Credential::RegistryToken(_)) => {}
            (Demand::Bearer { realm, service, .. }, _) => {
                self.refuse_foreign(realm, &credential)?;
                let scope = pull_scope(&there);
                let wanted = Wanted { service: service.as_deref(), scope: &scope };
                self.fetch_token(realm, wanted, &credential).await?;
            }
            (Demand::Basic { .. }, Credential::Basic { user, password }) => {
                let answer = self.knock(Some(basic(user, password)?)).await?;
                if !answer.response.status().is_success() {
                    return Err(self.refusal(answer).await);
                }
            }
            (Demand::Basic { .. }, _) => {
                let message = format!("{} wants a user and a password", self.endpoint.origin);
                return Err(UpstreamError::new(UpstreamErrorClass::Denied, message));
            }
        }
        Ok(is_ours)
    }
}

/// What a certificate says of itself.
struct Certificate {
    issuer: Option<String>,
    until: Option<Timestamp>,
}

/// Why there is no TLS.
enum Handshake {
    Distrusted(Why),
    NoWay(String),
    Broken(String),
}

impl From<io::Error> for Handshake {
    fn from(error: io::Error) -> Handshake {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Handshake::Distrusted(why_of(why)),
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                Handshake::Distrusted(Why::Plain)
            }
            _ => Handshake::Broken(error.to_string()),
        }
    }
}

fn why_of(error: &CertificateError) -> Why {
    let at = |time: &rustls::pki_types::UnixTime| Some(Timestamp(time.as_secs().saturating_mul(1000)));
    match error {
        CertificateError::Expired => Why::Expired(None),
        CertificateError::ExpiredContext { not_after, .. } => Why::Expired(at(not_after)),
        CertificateError::NotValidYet => Why::Early(None),
        CertificateError::NotValidYetContext { not_before, .. } => Why::Early(at(not_before)),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Why::OtherName,
        CertificateError::UnknownIssuer => Why::Unknown,
        other => Why::Other(other.to_string()),
    }
}

async fn handshake(
    tls: &Arc<ClientConfig>,
    mut stream: TcpStream,
    proxy: Option<&Url>,
    url: &Url,
) -> Result<Certificate, Handshake> {
    if let Some(proxy) = proxy {
        let made = tunnel(&mut stream, proxy, url).await;
        made.map_err(|error| Handshake::NoWay(error.to_string()))?;
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| Handshake::Broken(error.to_string()))?;
    let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    let shown = secured.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    Ok(shown.map_or(Certificate { issuer: None, until: None }, |shown| read(shown)))
}

fn read(der: &CertificateDer<'_>) -> Certificate {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Certificate { issuer: None, until: None } };
    let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let until = Some(Timestamp(until.saturating_mul(1000)));
    Certificate { issuer: Some(certificate.issuer().to_string()), until }
}

/// Has a proxy make a way to `url`.
async fn tunnel(stream: &mut TcpStream, proxy: &Url, url: &Url) -> io::Result<()> {
    let port = url.port_or_known_default().unwrap_or_default();
    let to = format!("{}:{port}", url.host_str().unwrap_or_default());
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if !proxy.username().is_empty() {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let password = Secret::new(decoded(proxy.password().unwrap_or_default()));
        request +=
            &format!("Proxy-Authorization: Basic {}\r\n", encoded_pair(&decoded(proxy.username()), &password).expose());
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(io::Error::other("the proxy's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let made = line.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if made { Ok(()) } else { Err(io::Error::other(line)) }
}
