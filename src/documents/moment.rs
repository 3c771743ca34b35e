//! A moment as documents say it: ISO 8601 in UTC, to the millisecond.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The last millisecond of the year 9999: the last moment that ISO 8601 writes with four digits.
const LAST: u64 = 253_402_300_799_999;

/// A moment, such as `2026-11-28T12:00:00.000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment(u64);

/// A text that is not a moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a moment such as 2026-11-28T12:00:00.000Z")]
pub struct MomentError;

impl Moment {
    /// So many milliseconds after 1970, UTC; what lies behind the year 9999 becomes its end.
    pub const fn from_millis(millis: u64) -> Moment {
        Moment(if millis < LAST { millis } else { LAST })
    }

    /// Milliseconds since 1970, UTC.
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Moment, MomentError> {
        let time = humantime::parse_rfc3339(text).map_err(|_| MomentError)?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| MomentError)?;
        u64::try_from(since.as_millis()).map(Moment::from_millis).map_err(|_| MomentError)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;

    fn try_from(text: String) -> Result<Moment, MomentError> {
        text.parse()
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A moment in UTC, ISO 8601.",
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_from_what_it_prints() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Moment::from_millis(millis).to_string(), text);
            assert_eq!(text.parse::<Moment>().map(Moment::millis), Ok(millis));
        }
        assert_eq!(Moment::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(Moment::from_millis(1_700_000_000_000)));
        for other in ["", "1700000000000", "2023-11-14T22:13:20+01:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(other.parse::<Moment>(), Err(MomentError), "{other}");
        }
    }
}
