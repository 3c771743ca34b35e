//! A request as the registry records it.

use bytes::Bytes;
use http::HeaderMap;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `GET`, say.
    pub method: String,
    /// Without the query, not decoded.
    pub path: String,
    /// Without the question mark, not decoded; empty if there is none.
    pub query: String,
    /// The headers, as they came.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The number of the connection, over both listeners, from 0.
    pub at_connection: usize,
    /// Where it came in.
    pub listener: Listener,
}

/// Which of the listeners of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The registry itself, and its token service.
    Registry,
    /// The host that blobs are redirected to.
    Storage,
}

impl Recorded {
    /// A header as text, `None` if it is not there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.queries(name).into_iter().next()
    }

    /// All values of a parameter of the query, decoded.
    pub fn queries(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }

    /// Repository, keyword and what follows it, of a path below `/v2/`.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let (front, rest) = self.path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let (name, keyword) = front.rsplit_once('/')?;
        Some((name, keyword, rest))
    }

    pub(crate) fn keyword(&self) -> Option<&str> {
        self.parts().map(|(_, keyword, _)| keyword)
    }
}
