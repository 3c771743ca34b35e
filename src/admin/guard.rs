//! Who may look and who may act, and how many at once: decided once for every request below `/api/v1`.
//!
//! Addresses look; the Unix socket, the token and the sessions of the page act. Names of images are told to neither strangers on
//! a network nor, where clients have to say who they are, to strangers on this machine. What can stand
//! still (a body that is to come, a stream that somebody reads) has a place among few of its kind and
//! none among the connections, so that nothing of it keeps a probe from `/livez`.

mod sessions;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};
use parking_lot::{Mutex, RwLock};
use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Reach;
use crate::documents::{Code, Error};
use crate::oci::{Algorithm, Digest};
use crate::server::Peer;
use sessions::Sessions;

pub(super) use sessions::{LOGIN, SESSION};

/// Acts that may be under way at once, and of each that lasts as long as its client likes as many besides.
const ACTS: usize = 16;
const LONG: [&str; 4] = ["import", "export", "pull", "verify"];
/// Looks with a body that may be under way at once.
const LOOKS: usize = 8;
/// Streams that may be followed at once.
const FOLLOWERS: usize = 32;
/// How long after a wrong token the next one is told that it is wrong.
const PAUSE: Duration = Duration::from_millis(500);
/// Wrong tokens that wait for that; more are told at once.
const WAITING: usize = 16;

/// What an address has to show to act, kept as its hash: comparing that in constant time tells
/// neither the token nor its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Digest);

impl Token {
    /// The token with these bytes.
    pub fn new(secret: &[u8]) -> Token {
        Token(Digest::of(Algorithm::Sha256, secret))
    }

    fn is(&self, shown: &[u8]) -> bool {
        let shown = Token::new(shown);
        self.0.as_bytes().ct_eq(shown.0.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The rules of all admin listeners of a daemon.
#[derive(Debug)]
pub struct Guard {
    secrecy: RwLock<Secrecy>,
    sessions: Sessions,
    /// When the next wrong token is told so.
    next_wrong: Mutex<Instant>,
    waiting: Semaphore,
    acts: Arc<Semaphore>,
    /// Of each of [`LONG`] as many.
    long: [Arc<Semaphore>; LONG.len()],
    looks: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Secrecy {
    token: Option<Token>,
    /// Whether names of images are hidden on loopback, too.
    hidden: bool,
}

/// The way a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) peer: Peer,
    pub(super) encrypted: bool,
    /// Of its listener.
    pub(super) reach: Reach,
    /// The address of that, where it has one.
    pub(super) listener: Option<SocketAddr>,
}

/// Whether an address is one of this machine alone.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Look,
    /// To look, and to go on looking.
    Follow,
    Act,
}

/// Who may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// A user of this machine, at the socket or with a session that he made there.
    User { uid: u32 },
    /// Who has the token.
    Token,
    /// Anybody; never for an act.
    Anybody,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User { uid } => write!(f, "uid={uid}"),
            Actor::Token => f.write_str("token"),
            Actor::Anybody => f.write_str("anybody"),
        }
    }
}

/// Why nobody may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The token is not the one.
    Wrong,
    /// It takes the token, or the socket.
    Nobody,
    /// It takes the token, and that came where others can read it.
    Overheard,
    /// A page in a browser may have been made to send it.
    ForeignName,
}

/// What a request shows of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Right,
    /// The session of this user.
    Session {
        uid: u32,
    },
    Wrong,
    /// Some token, where none counts.
    Overheard,
}

impl Guard {
    /// Rules with this token, if there is one; `hidden` says that names of images are hidden on loopback, too.
    pub fn new(token: Option<Token>, hidden: bool) -> Guard {
        Guard {
            secrecy: RwLock::new(Secrecy { token, hidden }),
            sessions: Sessions::default(),
            next_wrong: Mutex::new(Instant::now()),
            waiting: Semaphore::new(WAITING),
            acts: Arc::new(Semaphore::new(ACTS)),
            long: LONG.map(|_| Arc::new(Semaphore::new(ACTS))),
            looks: Arc::new(Semaphore::new(LOOKS)),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// From here on with this token, and this said of names. Whether it was another token.
    pub fn change(&self, token: Option<Token>, hidden: bool) -> bool {
        let mut secrecy = self.secrecy.write();
        let before = std::mem::replace(&mut *secrecy, Secrecy { token, hidden });
        before.token != secrecy.token
    }

    /// Who a request is from, if they may have what they wish. `by_address` says that it names us in a
    /// way that nobody else can make theirs.
    ///
    /// # Errors
    /// [`Code::Unauthorized`] and [`Code::Forbidden`], for people.
    pub(super) async fn admit(
        &self,
        door: Door,
        headers: &HeaderMap,
        by_address: bool,
        wish: Wish,
    ) -> Result<Actor, Error> {
        let decided = self.decides(door, headers, by_address, wish);
        if decided == Err(Refusal::Wrong) {
            tracing::warn!(client = %door.peer, "a wrong token was shown to the admin interface");
            self.delay_wrong().await;
        }
        decided.map_err(|refusal| told(refusal, self.secrecy.read().token.is_some()))
    }

    /// The same at once: what holds now, for what goes on.
    pub(super) fn decides(
        &self,
        door: Door,
        headers: &HeaderMap,
        by_address: bool,
        wish: Wish,
    ) -> Result<Actor, Refusal> {
        decide(door, self.shown(door, headers), self.secrecy.read().hidden, by_address, wish)
    }

    fn shown(&self, door: Door, headers: &HeaderMap) -> Shown {
        let Peer::Address(peer) = door.peer else { return Shown::Nothing };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), more) = (values.next(), values.next().is_some()) else { return Shown::Nothing };
        let Some(token) = bearer(value.as_bytes()) else { return Shown::Nothing };
        if !door.encrypted && !is_loopback(peer) {
            return Shown::Overheard;
        }
        let right = self.secrecy.read().token.as_ref().is_some_and(|ours| ours.is(token));
        match self.sessions.user(token) {
            _ if more => Shown::Wrong,
            _ if right => Shown::Right,
            Some(uid) => Shown::Session { uid },
            None => Shown::Wrong,
        }
    }

    /// The logins and sessions of the page.
    pub(super) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// How many entries there are in what is remembered, by table.
    pub fn tables(&self) -> [(&'static str, u64); 2] {
        self.sessions.tables()
    }

    /// The session that a login becomes, and whose it is.
    ///
    /// # Errors
    /// [`Code::Unauthorized`], for people; after a while, as for a wrong token.
    pub(super) async fn begin_session(&self, door: Door, login: &[u8]) -> Result<(String, u32), Error> {
        if let Some(begun) = self.sessions.begin(login) {
            return Ok(begun);
        }
        tracing::warn!(client = %door.peer, "a login that is not good was shown to the admin interface");
        self.delay_wrong().await;
        let message = "this login is not good, or no longer: each is good once, within a minute";
        Err(Error::new(Code::Unauthorized, message).with_hint("make another one with: registry-mirror page"))
    }

    /// Whether others cannot read what is shown at this door.
    ///
    /// # Errors
    /// [`Code::Unauthorized`], for people.
    pub(super) fn is_unheard(&self, door: Door) -> Result<(), Error> {
        match door.peer {
            Peer::Address(peer) if !door.encrypted && !is_loopback(peer) => Err(told(Refusal::Overheard, true)),
            _ => Ok(()),
        }
    }

    /// Waits for the turn of a wrong token. A right one never comes here.
    async fn delay_wrong(&self) {
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let turn = {
            let (now, mut next) = (Instant::now(), self.next_wrong.lock());
            // However many were shown and hung up: nobody waits for more than those who may wait.
            let turn = (*next).clamp(now, now + PAUSE * WAITING as u32);
            *next = turn + PAUSE;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }

    /// A place for what may stand still, for an act of this name.
    ///
    /// # Errors
    /// [`Code::Busy`] when all are taken.
    pub(super) fn place(&self, wish: Wish, act: &str) -> Result<Place, Error> {
        let long = LONG.iter().zip(&self.long).find(|(long, _)| **long == act);
        let (places, most) = match wish {
            Wish::Act => (long.map_or(&self.acts, |(_, places)| places), ACTS),
            Wish::Look => (&self.looks, LOOKS),
            Wish::Follow => (&self.followers, FOLLOWERS),
        };
        Arc::clone(places).try_acquire_owned().map(|place| Place(Arc::new(place))).map_err(|_| {
            Error::new(Code::Busy, format!("{most} of these are under way, and no more at once"))
                .with_hint("try again when one of them has ended")
        })
    }
}

/// A place for what may stand still; given up with its last copy.
#[derive(Clone, Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// The decision, without what it takes to find out.
fn decide(door: Door, shown: Shown, hidden: bool, by_address: bool, wish: Wish) -> Result<Actor, Refusal> {
    let hidden = hidden || door.reach == Reach::Network;
    match (door.peer, shown) {
        // Its file has a mode, and no page can open it.
        (Peer::Socket { uid }, _) => Ok(Actor::User { uid }),
        (_, Shown::Right) => Ok(Actor::Token),
        (_, Shown::Session { uid }) => Ok(Actor::User { uid }),
        (_, Shown::Wrong) => Err(Refusal::Wrong),
        (_, Shown::Overheard) if hidden || wish == Wish::Act => Err(Refusal::Overheard),
        _ if hidden => Err(Refusal::Nobody),
        _ if !by_address => Err(Refusal::ForeignName),
        _ if wish == Wish::Act => Err(Refusal::Nobody),
        _ => Ok(Actor::Anybody),
    }
}

fn told(refusal: Refusal, has_token: bool) -> Error {
    let (code, message, hint) = match refusal {
        Refusal::Wrong if !has_token => (
            Code::Unauthorized,
            "no token is right here: server.admin_token names none",
            "registry-mirror page, on the mirror's machine, prints the address of the page with a login in it",
        ),
        Refusal::Wrong => {
            (Code::Unauthorized, "the token is not the right one", "it is in the file of server.admin_token")
        }
        Refusal::Nobody => (
            Code::Unauthorized,
            "whoever asks this at an address has to show the token",
            "send Authorization: Bearer with the content of the file that server.admin_token names, or ask at the Unix \
             socket (--admin unix:PATH), as its owner or as root",
        ),
        Refusal::Overheard => (
            Code::Unauthorized,
            "the token counts over https or on loopback only: others could read this one on its way",
            "ask with https://, where server.tls has a certificate, or at the Unix socket",
        ),
        Refusal::ForeignName => {
            return Error::new(Code::Forbidden, "ask this by its address or as localhost, not by another name");
        }
    };
    Error::new(code, message).with_hint(hint)
}

/// The token of `Bearer TOKEN` (RFC 6750, 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests;
