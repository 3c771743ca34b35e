//! Bodies: counted, timed, and never longer than announced.
//!
//! Where nothing announces the length, the end of the connection is the end of the body, with TLS's own word
//! for it or without: many servers never say it, and the digest decides about what came.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use http::Version;
use http::header::TRANSFER_ENCODING;
use reqwest::Response;

use super::clients::Set;
use super::coding::Decoder;
use super::protocol;
use super::whole::{Coming, NoMemory, Whole};
use super::wire::{describe_failure, is_of_http2, is_unannounced_end};
use crate::oci::{Digest, RegistryName};
use crate::upstream::{UpstreamError, UpstreamErrorClass, UpstreamObserver};

/// How long a body may take that is read whole: a slow link has it by then.
const WITHIN: Duration = Duration::from_secs(300);
/// When somebody for whose answer there was no memory may come again.
const COME_AGAIN: Duration = Duration::from_secs(5);

/// The body of an answer on its way in.
pub(super) struct Body {
    /// The answer, headers read.
    pub(super) response: Response,
    /// The memory for what is read whole.
    pub(super) whole: Whole,
    /// Reads what comes, where that is compressed and read whole.
    pub(super) decoder: Option<Decoder>,
    /// Bytes that are still to come, if they were announced.
    pub(super) left: Option<u64>,
    /// The longest pause between two chunks.
    pub(super) idle: Duration,
    /// What was asked, for messages.
    pub(super) what: String,
    /// The clients that it came by.
    pub(super) set: Arc<Set>,
    /// Whether it comes from somebody whom the registry sent us to.
    pub(super) abroad: bool,
    /// Who counts, and for whom.
    pub(super) observer: Arc<dyn UpstreamObserver>,
    /// The upstream that the bytes count for.
    pub(super) upstream: RegistryName,
}

impl Body {
    /// The next bytes; `None` at the announced end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let unavailable = |reason: String| {
            UpstreamError::new(UpstreamErrorClass::Unavailable, format!("{}: the body {reason}", self.what))
                .answered()
                .elsewhere(self.abroad)
        };
        let asked = Instant::now();
        let chunk = tokio::time::timeout(self.idle, self.response.chunk())
            .await
            .map_err(|_| unavailable(format!("stood still for {} s", self.idle.as_secs_f32())))?;
        let chunk = match chunk {
            Err(error) if self.ends_with_its_connection() && is_unannounced_end(&error) => None,
            // All that was announced is there.
            Err(_) if self.left == Some(0) => None,
            Err(error) => {
                if is_of_http2(&error) {
                    self.set.goes_back();
                }
                return Err(unavailable(format!("broke off: {}", describe_failure(error))));
            }
            Ok(chunk) => chunk,
        };
        let Some(chunk) = chunk else {
            return match self.left {
                Some(left) if left > 0 => Err(unavailable(format!("ended {left} bytes early"))),
                _ => Ok(None),
            };
        };
        self.observer.received(&self.upstream, chunk.len() as u64, asked.elapsed());
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
                let message = format!("{}: the body is longer than announced", self.what);
                UpstreamError::new(UpstreamErrorClass::Protocol, message)
            })?;
        }
        Ok(Some(chunk))
    }

    /// Whether nothing else tells its end.
    pub(super) fn ends_with_its_connection(&self) -> bool {
        let chunked = self.response.headers().contains_key(TRANSFER_ENCODING);
        self.left.is_none() && !chunked && self.response.version() < Version::HTTP_2
    }

    /// Everything, if it is no more than `limit` bytes and comes within reasonable time. What has the digest that
    /// is `expected` is whole, also where its end was not told.
    pub(super) async fn collect(self, limit: u64, expected: Option<Digest>) -> Result<Bytes, UpstreamError> {
        let what = self.what.clone();
        tokio::time::timeout(WITHIN, self.collected(limit, expected)).await.unwrap_or_else(|_| {
            let message = format!("{what}: the body did not come within {} s", WITHIN.as_secs());
            Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered())
        })
    }

    async fn collected(mut self, limit: u64, expected: Option<Digest>) -> Result<Bytes, UpstreamError> {
        let what = self.what.clone();
        let too_long = |what: &str| {
            UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: the body is longer than {limit} bytes"))
        };
        if self.left.is_some_and(|left| left > limit) {
            return Err(too_long(&self.what));
        }
        let no_memory = |what: &str| {
            let message = format!("{what}: other bodies take all the memory there is for them");
            // Nothing that is held against whoever sent it.
            UpstreamError::new(UpstreamErrorClass::RateLimited(Some(COME_AGAIN)), message).elsewhere(true)
        };
        let mut decoder = self.decoder.take();
        let mut coming = Coming::new(self.whole.clone(), self.left.filter(|_| decoder.is_none()));
        let unreadable =
            |error: io::Error| protocol(&what, format_args!("cannot be read as what it comes in: {error}"));
        let mut gives_way = std::pin::pin!(coming.gives_way());
        loop {
            let is_whole =
                |bytes: &[u8]| expected.is_some_and(|digest| Digest::of(digest.algorithm(), bytes) == digest);
            let chunk = tokio::select! {
                biased;
                chunk = self.chunk() => chunk,
                () = &mut gives_way => return Err(no_memory(&self.what)),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) if error.class.is_outage() && self.left.is_none() && is_whole(coming.bytes()) => {
                    tracing::debug!(%error, "all of it has come");
                    break;
                }
                Err(error) => return Err(error),
            };
            let mut left = &chunk[..];
            while !left.is_empty() {
                let plain = match &mut decoder {
                    Some(decoder) => Cow::Owned(decoder.next(&mut left).map_err(unreadable)?),
                    None => Cow::Borrowed(mem::take(&mut left)),
                };
                if (coming.len() + plain.len()) as u64 > limit {
                    return Err(too_long(&self.what));
                }
                let added = tokio::select! {
                    added = coming.add(&plain) => added,
                    () = &mut gives_way => Err(NoMemory),
                };
                added.map_err(|NoMemory| no_memory(&self.what))?;
            }
        }
        if let Some(decoder) = decoder {
            let rest = decoder.end().map_err(unreadable)?;
            if (coming.len() + rest.len()) as u64 > limit {
                return Err(too_long(&self.what));
            }
            coming.add(&rest).await.map_err(|NoMemory| no_memory(&self.what))?;
        }
        Ok(coming.done())
    }

    /// The body as a stream that ends after its first error.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        unfold(Some(self), |body| async {
            let mut body = body?;
            match body.chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}
