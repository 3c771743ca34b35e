//! Who asks, and how much of the mirror each of them may have.
//!
//! A client is an address, of IPv6 its /64, since whoever has one has all of it; and a caller, once he has said who
//! he is. Truth: what one client may
//! not have is his own trouble. He is told 429 and when to come again, and nobody else waits for him.

mod forwarded;
mod places;
pub(crate) mod queue;
mod rate;
mod turns;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub use forwarded::{Network, client_of, is_within};
pub use places::{Full, Place};
pub use turns::{Turn, Turns};

use places::Places;
use rate::Rate;

/// Whom limits and turns go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientId {
    /// An address.
    V4(Ipv4Addr),
    /// The first 64 bits of an address.
    V6(u64),
    /// A caller who has said who he is, by a keyed hash of that.
    Caller(u64),
    /// Whoever runs the mirror, and the mirror itself.
    Operator,
}

impl From<IpAddr> for ClientId {
    fn from(address: IpAddr) -> ClientId {
        match address.to_canonical() {
            IpAddr::V4(address) => ClientId::V4(address),
            IpAddr::V6(address) => ClientId::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientId::V4(address) => address.fmt(f),
            ClientId::V6(half) => write!(f, "{}/64", std::net::Ipv6Addr::from_bits(u128::from(*half) << 64)),
            ClientId::Caller(_) => f.write_str("caller"),
            ClientId::Operator => f.write_str("operator"),
        }
    }
}

/// What one client may have; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Requests a second.
    pub requests: u32,
    /// Questions to upstreams a minute.
    pub cold: u32,
    /// Bytes a second that are sent to him.
    pub egress: u64,
}

/// A limit that a client can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Limits::connections`].
    Connections,
    /// [`Limits::requests`].
    Requests,
    /// [`Limits::cold`].
    Cold,
}

impl Limit {
    /// The key under `[limits]` that sets it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::Connections => "connections_per_client",
            Limit::Requests => "requests_per_client",
            Limit::Cold => "cold_per_client",
        }
    }
}

/// A client wants more than he may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than this mirror allows to one client (limits.{}); try again in {} s", .limit.as_str(), .wait.as_secs().max(1))]
pub struct TooMany {
    /// The limit that he reached.
    pub limit: Limit,
    /// When to come again.
    pub wait: Duration,
}

/// What clients take of what they may have.
#[derive(Debug)]
pub struct Clients {
    trusted: Vec<Network>,
    limits: Limits,
    requests: Option<Arc<Rate>>,
    cold: Option<Arc<Rate>>,
    egress: Option<Arc<Rate>>,
    places: Places,
}

/// What the rate of bytes is counted in, in bytes: with it, 32 bits are enough for any network.
const EGRESS_UNIT: u64 = 1 << 10;

impl Clients {
    /// Nobody has taken anything yet. `X-Forwarded-For` counts when it comes from a `trusted` proxy.
    pub fn new(limits: Limits, trusted: Vec<Network>) -> Clients {
        let none = Limits::default();
        let (requests, cold, egress, places) = (None, None, None, Places::new(limits.connections));
        Clients { limits: none, trusted: Vec::new(), requests, cold, egress, places }.under(limits, trusted)
    }

    /// The same clients under other limits: what they have taken counts on where a limit is what it was, and their
    /// connections do in any case.
    #[must_use]
    pub fn under(&self, limits: Limits, trusted: Vec<Network>) -> Clients {
        let a_second = Duration::from_secs(1);
        let rate = |before: &Option<Arc<Rate>>, same: bool, count: u32, period| match NonZeroU32::new(count) {
            Some(count) if !same => Some(Arc::new(Rate::new(count, period))),
            _ => before.clone().filter(|_| same),
        };
        let egress = u32::try_from(limits.egress.div_ceil(EGRESS_UNIT)).unwrap_or(u32::MAX);
        let before = self.limits;
        Clients {
            trusted,
            limits,
            requests: rate(&self.requests, limits.requests == before.requests, limits.requests, a_second),
            cold: rate(&self.cold, limits.cold == before.cold, limits.cold, 60 * a_second),
            egress: rate(&self.egress, limits.egress == before.egress, egress, a_second),
            places: self.places.under(limits.connections),
        }
    }

    /// Whether there are proxies in front.
    pub const fn are_behind_proxies(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// How many clients are remembered, by table.
    pub fn tables(&self) -> [(&'static str, u64); 2] {
        let rates = [&self.requests, &self.cold, &self.egress].into_iter().flatten().map(|rate| rate.clients()).sum();
        [("clients_connected", self.places.clients()), ("clients_limited", rates)]
    }

    /// Whether `X-Forwarded-For` of this address counts.
    pub fn trusts(&self, address: IpAddr) -> bool {
        forwarded::is_within(&self.trusted, address)
    }

    /// The address that a request came from, which `peer` sent on with these lines of `X-Forwarded-For`.
    pub fn origin<'a>(&self, peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> IpAddr {
        if self.trusted.is_empty() { peer } else { client_of(peer, lines, &self.trusted) }
    }

    /// A place for one more connection of a client.
    ///
    /// # Errors
    /// [`Full`] when he has as many as he may have; it can be waited with.
    pub fn connect(self: &Arc<Clients>, address: IpAddr) -> Result<Option<Place>, Full> {
        if self.trusts(address) { Ok(None) } else { self.places.take(address.into()) }
    }
}

/// A client who asks for something, with what he may have.
#[derive(Clone, Debug)]
pub struct Asker {
    client: ClientId,
    /// None for whom no limits hold.
    clients: Option<Arc<Clients>>,
}

impl Asker {
    /// The client at `address`.
    pub fn new(address: IpAddr, clients: &Arc<Clients>) -> Asker {
        Asker { client: address.into(), clients: Some(Arc::clone(clients)) }
    }

    /// The same request, by somebody who has said who he is: from here on his limits count, not those of his address.
    #[must_use]
    pub fn of(self, caller: ClientId) -> Asker {
        Asker { client: caller, ..self }
    }

    /// The same for whoever it is, if it is somebody.
    #[must_use]
    pub fn of_any(self, caller: Option<ClientId>) -> Asker {
        match caller {
            Some(caller) => self.of(caller),
            None => self,
        }
    }

    /// Whoever runs the mirror: no limits hold for him.
    pub const fn operator() -> Asker {
        Asker { client: ClientId::Operator, clients: None }
    }

    /// The same, who has been counted: what else has to be asked for his sake is not his affair.
    #[must_use]
    pub fn counted(&self) -> Asker {
        Asker { client: self.client, clients: None }
    }

    /// Whose turn it is.
    pub const fn client(&self) -> ClientId {
        self.client
    }

    /// He asks for something.
    ///
    /// # Errors
    /// [`TooMany`]
    pub fn request(&self) -> Result<(), TooMany> {
        self.take(Limit::Requests, |clients| clients.requests.as_deref())
    }

    /// An upstream is to be asked for what he wants.
    ///
    /// # Errors
    /// [`TooMany`]
    pub fn question(&self) -> Result<(), TooMany> {
        self.take(Limit::Cold, |clients| clients.cold.as_deref())
    }

    fn take(&self, limit: Limit, rate: impl Fn(&Clients) -> Option<&Rate>) -> Result<(), TooMany> {
        let Some(rate) = self.clients.as_deref().and_then(rate) else { return Ok(()) };
        rate.take(self.client).map_err(|wait| TooMany { limit, wait })
    }

    /// How he is sent bytes; `None` where that is as fast as they go.
    pub fn pace(&self) -> Option<Pace> {
        let egress = self.clients.as_ref()?.egress.as_ref()?;
        let piece = (u64::from(egress.count()) * EGRESS_UNIT / 8).clamp(EGRESS_UNIT, 1 << 20);
        Some(Pace { asker: self.clone(), piece })
    }
}

/// How fast bytes may go to a client, over all his connections.
#[derive(Clone, Debug)]
pub struct Pace {
    asker: Asker,
    piece: u64,
}

impl Pace {
    /// How many bytes to send at a time, at most.
    pub const fn piece(&self) -> u64 {
        self.piece
    }

    /// Waits until so many bytes may go.
    pub async fn wait(&self, bytes: u64) {
        let Some(egress) = self.asker.clients.as_ref().and_then(|clients| clients.egress.as_ref()) else { return };
        let mut units = u32::try_from(bytes.div_ceil(EGRESS_UNIT)).unwrap_or(u32::MAX);
        while let Some(some) = NonZeroU32::new(units.min(egress.count())) {
            match egress.take_many(self.asker.client, some) {
                Ok(()) => units -= some.get(),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(limits: Limits, address: &str) -> Asker {
        Asker::new(address.parse().expect("an address"), &Arc::new(Clients::new(limits, Vec::new())))
    }

    #[test]
    fn a_client_is_an_address_and_of_ipv6_all_of_its_network() {
        let client = |text: &str| ClientId::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("2001:db8:0:1::7").to_string(), "2001:db8:0:1::/64");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_each_clients_own_and_comes_back() {
        let clients = Arc::new(Clients::new(Limits { requests: 2, cold: 1, ..Limits::default() }, Vec::new()));
        let [one, other] =
            ["127.0.0.1", "127.0.0.2"].map(|address| Asker::new(address.parse().expect("valid"), &clients));
        assert_eq!((one.request(), one.request()), (Ok(()), Ok(())));
        let refused = one.request().expect_err("a third within a second");
        assert_eq!(refused.limit, Limit::Requests);
        assert!(refused.wait <= Duration::from_millis(500) && !refused.wait.is_zero());
        assert_eq!((other.request(), Asker::operator().request()), (Ok(()), Ok(())));
        tokio::time::advance(refused.wait).await;
        assert_eq!(one.request(), Ok(()));
        assert_eq!(one.question(), Ok(()));
        assert_eq!(one.question().expect_err("a second within a minute").limit, Limit::Cold);
        assert!(other.pace().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_the_pace_of_their_client_over_all_his_connections() {
        let rate = 1 << 20;
        let limits = Limits { egress: rate, ..Limits::default() };
        let pace = asker(limits, "127.0.0.1").pace().expect("a limit");
        let begun = tokio::time::Instant::now();
        let send = || async {
            for _ in 0..5 * rate / pace.piece() {
                pace.wait(pace.piece()).await;
            }
        };
        tokio::join!(send(), send());
        let took = begun.elapsed().as_secs_f64();
        // What he may have in a second he may have at once.
        assert!((8.9..9.2).contains(&took), "{took}");
    }
}
