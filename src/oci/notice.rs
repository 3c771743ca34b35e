//! What a registry says of an answer beside it: that it is stale, and warnings for people. Pure.
//!
//! Sources: distribution-spec 1.1.1, "Warnings" (code 299); RFC 9111, 5.5 (the codes of caches, 110 to 113);
//! RFC 9211 (`Cache-Status`). A mirror like this one says both, with the age in the text of its warning.

use std::time::Duration;

use http::header::{AGE, HeaderMap, HeaderName, HeaderValue, WARNING};

use super::header;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// The most bytes of warnings for people (distribution-spec 1.1.1).
const MOST_TOLD: usize = 4096;

/// What is said of an answer beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// For a stale answer, how long ago it was confirmed, as far as that is said.
    pub stale_for: Option<Duration>,
    /// Values of `Warning` that are for people.
    pub warnings: Vec<HeaderValue>,
}

impl Notice {
    /// Reads it off the headers of an answer. What cannot be read says nothing.
    pub fn of(headers: &HeaderMap) -> Notice {
        let mut notice = Notice::default();
        let lines = |name| headers.get_all(name).into_iter().map(header::text);
        let age = lines(AGE).find_map(|age| age.parse().ok()).unwrap_or_default();
        for line in lines(WARNING) {
            split(&line, ',').for_each(|value| notice.warn(value.trim(), age));
        }
        for line in lines(CACHE_STATUS) {
            split(&line, ',').filter_map(staleness).for_each(|age| notice.stale(age));
        }
        notice
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Notice::default()
    }

    fn stale(&mut self, seconds: u64) {
        self.stale_for = self.stale_for.max(Some(Duration::from_secs(seconds)));
    }

    fn warn(&mut self, value: &str, age: u64) {
        let code: Option<u16> = value.split_whitespace().next().and_then(|code| code.parse().ok());
        match code {
            Some(110..=112) => self.stale(age),
            Some(299) if value.contains("\"stale:") => self.stale(last_checked(value).unwrap_or(age)),
            Some(100..=299) if code != Some(113) => self.tell(value),
            _ => {}
        }
    }

    fn tell(&mut self, value: &str) {
        let told: usize = self.warnings.iter().map(HeaderValue::len).sum();
        let value = HeaderValue::from_bytes(value.as_bytes()).ok().filter(|value| told + value.len() <= MOST_TOLD);
        self.warnings.extend(value.filter(|value| !self.warnings.contains(value)));
    }
}

/// For how many seconds a cache says that its answer is stale; RFC 9211, 2.5 counts them below zero.
fn staleness(cache: &str) -> Option<u64> {
    let mut parameters = split(cache, ';').skip(1).map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name.trim(), value.trim().trim_matches('"'))
    });
    if !parameters.clone().any(|(name, _)| name == "hit") {
        return None;
    }
    parameters.find_map(|(name, value)| match name {
        "detail" if value == "stale" => Some(0),
        "ttl" => value.strip_prefix('-')?.parse().ok(),
        _ => None,
    })
}

/// The age in a warning of a mirror like this one.
fn last_checked(value: &str) -> Option<u64> {
    let (_, behind) = value.split_once("last checked ")?;
    behind.split_whitespace().next()?.parse().ok()
}

/// The parts of a list, apart from separators between quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> + Clone {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        c == separator && !quoted
    })
}

/// The warning of a stale answer that was confirmed so long ago.
pub fn stale_warning(age: Duration) -> String {
    format!("299 - \"stale: upstream cannot be asked, last checked {} s ago\"", age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(HeaderName, &str)]) -> (Option<u64>, Vec<String>) {
        let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        let notice = Notice::of(&lines.iter().map(|(name, text)| (name.clone(), value(text))).collect());
        let warnings = notice.warnings.iter().map(|value| header::text(value).into_owned());
        (notice.stale_for.map(|age| age.as_secs()), warnings.collect())
    }

    #[test]
    fn a_stale_answer_is_recognised_however_it_is_said() {
        let own = stale_warning(Duration::from_secs(77));
        for (lines, age) in [
            (&[(WARNING, own.as_str())][..], Some(77)),
            (&[(WARNING, "110 - \"Response is Stale\""), (AGE, "9")], Some(9)),
            (&[(WARNING, "112 proxy.example:80 \"off, line\", 111 - \"x\"")], Some(0)),
            (&[(CACHE_STATUS, "registry-mirror; hit; detail=stale")], Some(0)),
            (&[(CACHE_STATUS, "registry-mirror; hit; detail=stale"), (WARNING, &own)], Some(77)),
            (&[(CACHE_STATUS, "a; fwd=miss, \"b;c\";hit;ttl=-30")], Some(30)),
            (&[(CACHE_STATUS, "a; hit; ttl=30")], None),
            (&[(CACHE_STATUS, "registry-mirror; fwd=stale; fwd-status=200; detail=revalidated")], None),
            (&[(CACHE_STATUS, "registry-mirror; fwd=miss; detail=stale")], None),
            (&[(CACHE_STATUS, ";;=,\"")], None),
            (&[(WARNING, "113 - \"Heuristic Expiration\""), (AGE, "9")], None),
            (&[(AGE, "9")], None),
        ] {
            assert_eq!(read(lines), (age, Vec::new()), "{lines:?}");
        }
    }

    #[test]
    fn warnings_for_people_are_taken_one_by_one_and_bounded() {
        let long = format!("299 - \"{}\"", "x".repeat(4000));
        let other = long.replace('x', "y");
        for (lines, told) in [
            (&["299 - \"moves, soon\""][..], &["299 - \"moves, soon\""][..]),
            (&["299 - \"a \\\", b\", 199 x \"c\""], &["299 - \"a \\\", b\"", "199 x \"c\""]),
            (&["299 - \"a\"", "299 - \"a\"", "299 - \"é\""], &["299 - \"a\"", "299 - \"é\""]),
            (&["", ",", "soon", "x299 - \"a\"", "300 - \"a\""], &[]),
            (&[long.as_str(), other.as_str(), "299 - \"a\""], &[long.as_str(), "299 - \"a\""]),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| (WARNING, *line)).collect();
            assert_eq!(read(&lines), (None, told.iter().map(|&text| text.to_owned()).collect()), "{lines:?}");
        }
    }
}
