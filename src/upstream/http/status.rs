//! What a status means, and how long `Retry-After` asks us to wait. Pure.
//!
//! By class and not by list (RFC 9110, 15): a 4xx that nobody here has heard of is a refusal, a 5xx an
//! outage. What concerns the way and not the answer is named.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::Timestamp;
use crate::oci::header::text;
use crate::upstream::UpstreamErrorClass;

/// Nobody makes us wait longer, whatever they send.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// From here on a number of seconds is a moment since 1970, as Docker Hub has been seen to send.
const FIRST_STAMP: u64 = 1_000_000_000;

/// The class of an answer that is not the one asked for.
pub(super) fn class(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> UpstreamErrorClass {
    let wait = || headers.get(RETRY_AFTER).and_then(|value| retry_after(&text(value), now));
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => UpstreamErrorClass::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => UpstreamErrorClass::Denied,
        StatusCode::TOO_MANY_REQUESTS => UpstreamErrorClass::RateLimited(wait()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => UpstreamErrorClass::Unavailable,
        // RFC 9110, 10.2.3: how long it is expected to be away. Who says so is there, and wants rest.
        StatusCode::SERVICE_UNAVAILABLE => match wait() {
            None => UpstreamErrorClass::Unavailable,
            told => UpstreamErrorClass::RateLimited(told),
        },
        // A proxy of ours that wants a password, and a range that was never ours to ask for.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::RANGE_NOT_SATISFIABLE => UpstreamErrorClass::Protocol,
        status if status.is_client_error() => UpstreamErrorClass::Refused,
        status if status.is_server_error() => UpstreamErrorClass::Unavailable,
        _ => UpstreamErrorClass::Protocol,
    }
}

/// Whether an answer brings all that was asked for, be it with a word of who carried it (203).
pub(super) fn is_whole(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION)
}

/// Whether the question is not known there: asked in another way it may be.
pub(super) fn is_not_implemented(status: StatusCode) -> bool {
    matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

/// Reads `Retry-After`: seconds, a moment in seconds since 1970, or a date. Never more than fifteen
/// minutes; `None` where it is none of these.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let until = |moment: Timestamp| Duration::from_millis(moment.0.saturating_sub(now.0));
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        match value.parse().unwrap_or(u64::MAX) {
            // Too long for a number is absurd, not a date.
            u64::MAX => LONGEST_WAIT,
            stamp if stamp >= FIRST_STAMP => until(Timestamp(stamp.saturating_mul(1000))),
            seconds => Duration::from_secs(seconds),
        }
    } else {
        until(httpdate::parse_http_date(value).ok()?.into())
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_every_form_and_clamped() {
        let now = Timestamp(1_746_136_900_000);
        for (value, seconds) in [
            ("5", Some(5)),
            (" 60 ", Some(60)),
            ("0", Some(0)),
            ("86400", Some(900)),
            ("1746136938", Some(38)),
            ("1746136000", Some(0)),
            ("9999999999", Some(900)),
            ("99999999999999999999999999", Some(900)),
            ("Thu, 01 May 2025 22:02:00 GMT", Some(20)),
            ("Thu, 01 May 2025 20:00:00 GMT", Some(0)),
            ("Fri, 01 May 2026 20:00:00 GMT", Some(900)),
            ("soon", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn every_status_has_its_class() {
        use UpstreamErrorClass::{Denied, NotFound, Protocol, RateLimited, Refused, Unavailable};
        let headers = HeaderMap::new();
        for (status, expected) in [
            (404, NotFound),
            (401, Denied),
            (403, Denied),
            (429, RateLimited(None)),
            (408, Unavailable),
            (500, Unavailable),
            (503, Unavailable),
            (599, Unavailable),
            (204, Protocol),
            (304, Protocol),
            (410, NotFound),
            (400, Refused),
            (402, Refused),
            (405, Refused),
            (406, Refused),
            (409, Refused),
            (422, Refused),
            (451, Refused),
            (499, Refused),
            (407, Protocol),
            (416, Protocol),
        ] {
            let status = StatusCode::from_u16(status).expect("status");
            assert_eq!(class(status, &headers, Timestamp(0)), expected, "{status}");
        }
    }

    #[test]
    fn whoever_says_how_long_to_wait_is_left_alone_that_long() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().expect("a value"))]);
        let told = UpstreamErrorClass::RateLimited(Some(Duration::from_secs(7)));
        for (status, expected) in [(429, told), (503, told), (500, UpstreamErrorClass::Unavailable)] {
            let status = StatusCode::from_u16(status).expect("status");
            assert_eq!(class(status, &headers, Timestamp(0)), expected, "{status}");
        }
    }
}
