//! Byte ranges: what a client asks for, what it gets of content of a given size, what an upstream
//! says it sent. Rules: RFC 9110 section 14.

use std::fmt;
use std::ops::Range;

/// Bytes to fetch from an upstream: from `start`, up to but not including `end` if that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte wanted.
    pub start: u64,
    /// The first byte not wanted; `None` for everything up to the end.
    pub end: Option<u64>,
}

impl Span {
    /// Everything from `start` on.
    pub const fn from(start: u64) -> Span {
        Span { start, end: None }
    }

    /// Whether this is the whole content, so that no `Range` header is needed.
    pub const fn is_whole(self) -> bool {
        self.start == 0 && self.end.is_none()
    }

    /// The value of a `Range` header; `None` for the whole content.
    pub fn header_value(self) -> Option<String> {
        match self {
            Span { start: 0, end: None } => None,
            Span { start, end: None } => Some(format!("bytes={start}-")),
            Span { start, end: Some(end) } => Some(format!("bytes={start}-{}", end.saturating_sub(1))),
        }
    }
}

/// A `Range` header as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHeader(Vec<Spec>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Suffix(u64),
}

/// A header with more ranges than this is answered with everything (RFC 9110, 14.2).
pub const MAX_RANGES: usize = 256;

/// What a [`RangeHeader`] means for content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything: 200.
    Whole,
    /// These bytes: 206. Never empty.
    Part(Range<u64>),
    /// Several parts that do not overlap: 206 with as many bodies. None is empty.
    Parts(Vec<Range<u64>>),
    /// Nothing of it is there: 416.
    Unsatisfiable,
}

impl RangeHeader {
    /// Reads the header. `None` when it is not a valid byte range, which means that it is ignored
    /// (RFC 9110, 14.2).
    pub fn parse(value: &str) -> Option<RangeHeader> {
        let (unit, set) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let specs: Option<Vec<Spec>> = set.split(',').map(str::trim).filter(|s| !s.is_empty()).map(spec).collect();
        specs.filter(|specs| !specs.is_empty()).map(RangeHeader)
    }

    /// Applies the header to content of `size` bytes. What is not there is left out; ranges that overlap
    /// are put in order and become one (RFC 9110, 15.3.7.2), so that no byte is sent twice.
    pub fn select(&self, size: u64) -> Selection {
        let mut parts: Vec<_> = self.0.iter().filter_map(|spec| slice(*spec, size)).collect();
        if parts.len() > 1 && self.0.len() > MAX_RANGES {
            return Selection::Whole;
        }
        let asked = parts.clone();
        parts.sort_by_key(|part| part.start);
        let parted = parts.len();
        parts.dedup_by(|next, last| {
            let overlap = next.start < last.end;
            if overlap {
                last.end = last.end.max(next.end);
            }
            overlap
        });
        match parts.pop() {
            None => Selection::Unsatisfiable,
            Some(only) if parts.is_empty() => Selection::Part(only),
            Some(_) if parts.len() + 1 == parted => Selection::Parts(asked),
            Some(last) => {
                parts.push(last);
                Selection::Parts(parts)
            }
        }
    }

    /// Whether each range has an end, or is of a certain length.
    pub fn is_bounded(&self) -> bool {
        self.0.iter().all(|spec| !matches!(spec, Spec::From(_)))
    }

    /// Where the only range starts, if that can be told without the size.
    pub fn known_start(&self) -> Option<u64> {
        match self.0[..] {
            [Spec::From(start) | Spec::Between(start, _)] => Some(start),
            _ => None,
        }
    }
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => number(suffix).map(Spec::Suffix),
        (first, "") => number(first).map(Spec::From),
        (first, last) => Some(Spec::Between(number(first)?, number(last)?)),
    }
}

fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(u64::MAX))
}

fn slice(spec: Spec, size: u64) -> Option<Range<u64>> {
    let range = match spec {
        Spec::From(start) => start..size,
        Spec::Between(first, last) => first..last.saturating_add(1).min(size),
        Spec::Suffix(length) => size.saturating_sub(length)..size,
    };
    (range.start < range.end).then_some(range)
}

/// A `Content-Range` header, as we send it and as an upstream sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte sent.
    pub first: u64,
    /// The last byte sent, itself included.
    pub last: u64,
    /// The size of the whole content, if the sender knows it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes FIRST-LAST/TOTAL`. `None` when it is anything else.
    pub fn parse(value: &str) -> Option<ContentRange> {
        let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        // Whoever adds one to `last` must not overflow.
        let sound = first <= last && last < total.unwrap_or(u64::MAX);
        sound.then_some(ContentRange { first, last, total })
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            Some(total) => write!(f, "bytes {}-{}/{total}", self.first, self.last),
            None => write!(f, "bytes {}-{}/*", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_select_what_rfc_9110_says() {
        for (header, size, expected) in [
            ("bytes=0-", 10, Selection::Part(0..10)),
            ("bytes=0-0", 10, Selection::Part(0..1)),
            ("bytes=5-", 10, Selection::Part(5..10)),
            ("bytes=-4", 10, Selection::Part(6..10)),
            ("bytes=-40", 10, Selection::Part(0..10)),
            ("bytes=2-500", 10, Selection::Part(2..10)),
            ("Bytes = 2 - 3", 10, Selection::Part(2..4)),
            ("bytes=10-", 10, Selection::Unsatisfiable),
            ("bytes=5-0", 10, Selection::Unsatisfiable),
            ("bytes=-0", 10, Selection::Unsatisfiable),
            ("bytes=0-", 0, Selection::Unsatisfiable),
            ("bytes=0-1,4-5", 10, Selection::Parts(vec![0..2, 4..6])),
            ("bytes=4-5,0-1,-1", 10, Selection::Parts(vec![4..6, 0..2, 9..10])),
            ("bytes=6-8,0-3,2-5,7-", 10, Selection::Parts(vec![0..6, 6..10])),
            ("bytes=0-4,4-9", 10, Selection::Part(0..10)),
            ("bytes=0-1,20-30", 10, Selection::Part(0..2)),
            ("bytes=20-,30-", 10, Selection::Unsatisfiable),
            ("bytes=0-18446744073709551615", 10, Selection::Part(0..10)),
            ("bytes=99999999999999999999999-", 10, Selection::Unsatisfiable),
        ] {
            assert_eq!(RangeHeader::parse(header).map(|r| r.select(size)), Some(expected), "{header} of {size}");
        }
    }

    #[test]
    fn more_ranges_than_the_bound_are_everything() {
        let ranges = |count: usize| {
            let ranges: Vec<_> = (0..count).map(|n| format!("{}-{}", 2 * n, 2 * n)).collect();
            RangeHeader::parse(&format!("bytes={}", ranges.join(","))).expect("ranges").select(10_000)
        };
        assert!(matches!(ranges(MAX_RANGES), Selection::Parts(parts) if parts.len() == MAX_RANGES));
        assert_eq!(ranges(MAX_RANGES + 1), Selection::Whole);
    }

    #[test]
    fn what_is_not_a_byte_range_is_ignored() {
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "items=0-1", "bytes=1", "bytes=0-1,x"]
        {
            assert_eq!(RangeHeader::parse(header), None, "{header}");
        }
    }

    #[test]
    fn content_range_prints_as_it_was_parsed() {
        for text in ["bytes 0-0/1", "bytes 5-9/10", "bytes 5-9/*"] {
            assert_eq!(ContentRange::parse(text).map(|r| r.to_string()).as_deref(), Some(text));
        }
        for text in [
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "5-9/10",
            "bytes 5-9",
            "",
            "bytes +5-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
    }
}
