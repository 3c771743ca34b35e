//! What a status means, and how long `Retry-After` asks us to wait. Pure.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::Timestamp;
use crate::upstream::UpstreamErrorClass;

/// Nobody makes us wait longer, whatever they send.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// From here on a number of seconds is a moment since 1970, as Docker Hub has been seen to send.
const FIRST_STAMP: u64 = 1_000_000_000;

/// The class of an answer that is not the one asked for.
pub(super) fn class(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> UpstreamErrorClass {
    match status {
        StatusCode::NOT_FOUND => UpstreamErrorClass::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => UpstreamErrorClass::Denied,
        StatusCode::TOO_MANY_REQUESTS => {
            let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            UpstreamErrorClass::RateLimited(value.and_then(|value| retry_after(value, now)))
        }
        StatusCode::REQUEST_TIMEOUT => UpstreamErrorClass::Unavailable,
        status if status.is_server_error() => UpstreamErrorClass::Unavailable,
        _ => UpstreamErrorClass::Protocol,
    }
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
        use UpstreamErrorClass::{Denied, NotFound, Protocol, RateLimited, Unavailable};
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
            (400, Protocol),
            (416, Protocol),
        ] {
            let status = StatusCode::from_u16(status).expect("status");
            assert_eq!(class(status, &headers, Timestamp(0)), expected, "{status}");
        }
    }
}
