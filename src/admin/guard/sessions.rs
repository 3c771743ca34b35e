//! Sessions of the page: a login that is made over the socket, good once and soon, becomes a session, which acts
//! for the user who made it. Both are kept in memory, as hashes, and end with the daemon.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::time::Instant;

use super::Token;

/// How long a login waits to be used.
pub(in crate::admin) const LOGIN: Duration = Duration::from_secs(60);
/// How long a session lasts.
pub(in crate::admin) const SESSION: Duration = Duration::from_secs(12 * 3600);
/// So many logins wait, and so many sessions last; the oldest goes for one more.
const MOST: usize = 64;

/// What somebody may show.
#[derive(Debug)]
struct Pass {
    hash: Token,
    uid: u32,
    ends: Instant,
}

#[derive(Debug, Default)]
struct Passes {
    passes: VecDeque<Pass>,
}

impl Passes {
    fn give(&mut self, uid: u32, lasts: Duration) -> String {
        let secret = rand::rng().random::<[u8; 32]>();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        self.passes.retain(|pass| pass.ends > now);
        self.passes.truncate(MOST - 1);
        self.passes.push_front(Pass { hash: Token::new(secret.as_bytes()), uid, ends: now + lasts });
        secret
    }

    fn find(&self, shown: &[u8]) -> Option<usize> {
        let now = Instant::now();
        // All are compared, so that the time tells nothing.
        let alike = |pass: &Pass| pass.hash.is(shown) & (pass.ends > now);
        self.passes.iter().enumerate().fold(None, |found, (place, pass)| if alike(pass) { Some(place) } else { found })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::admin) struct Sessions {
    logins: Mutex<Passes>,
    sessions: Mutex<Passes>,
}

impl Sessions {
    /// A login of this user.
    pub(in crate::admin) fn invite(&self, uid: u32) -> String {
        self.logins.lock().give(uid, LOGIN)
    }

    /// The session that a login becomes, and whose it is. The login is good no more.
    pub(in crate::admin) fn begin(&self, login: &[u8]) -> Option<(String, u32)> {
        let uid = {
            let mut logins = self.logins.lock();
            let place = logins.find(login)?;
            logins.passes.remove(place)?.uid
        };
        Some((self.sessions.lock().give(uid, SESSION), uid))
    }

    /// Whose session this is.
    pub(super) fn user(&self, shown: &[u8]) -> Option<u32> {
        let sessions = self.sessions.lock();
        sessions.find(shown).and_then(|place| sessions.passes.get(place)).map(|pass| pass.uid)
    }

    /// How many there are.
    pub(in crate::admin) fn tables(&self) -> [(&'static str, u64); 2] {
        let count = |passes: &Mutex<Passes>| passes.lock().passes.len() as u64;
        [("page_logins", count(&self.logins)), ("page_sessions", count(&self.sessions))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_login_is_good_once_and_within_a_minute_and_a_session_for_twelve_hours() {
        let sessions = Sessions::default();
        let login = sessions.invite(7);
        let (session, uid) = sessions.begin(login.as_bytes()).expect("good");
        assert_eq!((uid, sessions.user(session.as_bytes())), (7, Some(7)));
        assert_eq!(sessions.begin(login.as_bytes()), None, "once");
        assert_eq!(sessions.begin(session.as_bytes()), None, "a session is no login");
        assert_eq!(sessions.user(login.as_bytes()), None, "a login is no session");
        let late = sessions.invite(7);
        tokio::time::advance(LOGIN).await;
        assert_eq!(sessions.begin(late.as_bytes()), None);
        tokio::time::advance(SESSION - LOGIN - Duration::from_secs(1)).await;
        assert_eq!(sessions.user(session.as_bytes()), Some(7));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sessions.user(session.as_bytes()), None);
    }

    #[test]
    fn logins_and_sessions_are_few_and_the_oldest_goes() {
        let sessions = Sessions::default();
        let logins: Vec<_> = (0..MOST as u32 + 1).map(|uid| sessions.invite(uid)).collect();
        assert_eq!(sessions.tables(), [("page_logins", MOST as u64), ("page_sessions", 0)]);
        assert_eq!(sessions.begin(logins[0].as_bytes()), None);
        assert!(logins[1..].iter().all(|login| sessions.begin(login.as_bytes()).is_some()));
        let last = sessions.begin(sessions.invite(9).as_bytes()).expect("good").0;
        assert_eq!((sessions.tables()[1].1, sessions.user(last.as_bytes())), (MOST as u64, Some(9)));
    }
}
