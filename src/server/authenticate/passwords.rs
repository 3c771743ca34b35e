//! Passwords: a file of users as `htpasswd -B` writes it, and the few threads that check them.
//!
//! A check costs a good part of a second, on purpose. So few are under way at once, and who asks for many waits
//! behind himself. A user that there is not takes as long as a wrong password. Of a password bcrypt reads so many bytes,
//! and a byte of zeros as its end: what it cannot tell from another password is none.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bcrypt::HashParts;

use crate::clients::{ClientId, Turn, Turns};
use crate::setting_file;

/// A dearer hash is none of `htpasswd -B`: a check of one that costs 31 takes days.
const DEAREST: u32 = 17;
/// So many bytes of a password bcrypt reads.
const LONGEST: usize = 72;
/// How long to wait for a turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Checks at a time, at most.
const MOST: usize = 4;

/// The users of a file.
pub struct Passwords {
    users: Arc<HashMap<String, Box<str>>>,
    /// What a user is compared with who is none.
    nobody: Box<str>,
    turns: Turns,
}

/// The same users with the same passwords.
impl PartialEq for Passwords {
    fn eq(&self, other: &Passwords) -> bool {
        self.users == other.users
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

/// Why a file is of no use. Never quotes from it.
#[derive(Debug, thiserror::Error)]
pub enum PasswordsError {
    /// It cannot be read.
    #[error("the file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is none of `htpasswd -B`.
    #[error("line {line} of the file {} is not a user, a colon and a bcrypt hash ($2y$…) of a cost of at most {DEAREST}: htpasswd -B writes them", path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

impl Passwords {
    /// Reads a file: a user, a colon and a hash on each line, empty lines and those that begin with `#` apart. Of two
    /// lines for a user the first counts.
    ///
    /// # Errors
    /// [`PasswordsError`].
    pub fn read(path: &Path) -> Result<Passwords, PasswordsError> {
        let unreadable = |source| PasswordsError::Unreadable { path: path.to_owned(), source };
        let text = setting_file::text(path).map_err(unreadable)?;
        // Some editors begin a file with a mark of its encoding.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut users = HashMap::new();
        let mut cost = bcrypt::DEFAULT_COST;
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let entry = line.trim_end().split_once(':').filter(|(user, _)| !user.is_empty());
            let entry = entry.and_then(|(user, hash)| Some((user, hash, hash.parse::<HashParts>().ok()?)));
            let entry = entry.filter(|(.., parts)| parts.get_cost() <= DEAREST);
            let (user, hash, parts) =
                entry.ok_or_else(|| PasswordsError::Line { path: path.to_owned(), line: n + 1 })?;
            cost = if users.is_empty() { parts.get_cost() } else { cost.max(parts.get_cost()) };
            users.entry(user.to_owned()).or_insert_with(|| hash.into());
        }
        // A hash of nothing: no password has it.
        let nobody = format!("$2y${cost:02}${}{}", ".".repeat(22), ".".repeat(31)).into();
        let most = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, MOST));
        Ok(Passwords { users: Arc::new(users), nobody, turns: Turns::new(most) })
    }

    /// The names of the users.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// Whether it is a user.
    pub(super) fn know(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// A turn to have a password checked; `None` when that takes too long.
    pub(super) async fn turn(&self, client: ClientId) -> Option<Turn> {
        tokio::time::timeout(PATIENCE, self.turns.take(client)).await.ok()
    }

    /// Whether this is the password of the user.
    pub(super) async fn are(&self, user: &str, password: &str, turn: Turn) -> bool {
        let (known, hash) = match self.users.get(user) {
            Some(hash) => (true, hash.clone()),
            None => (false, self.nobody.clone()),
        };
        let password = zeroize::Zeroizing::new(password.to_owned());
        let check = move || {
            let right = bcrypt::verify(password.as_bytes(), &hash);
            // A check that nobody waits for any more keeps its turn until it has ended.
            drop(turn);
            known && is_read_whole(&password) && right.unwrap_or(false)
        };
        tokio::task::spawn_blocking(check).await.unwrap_or(false)
    }
}

/// Whether bcrypt can tell it from every other password. Tokens are longer, and begin alike.
fn is_read_whole(password: &str) -> bool {
    password.len() <= LONGEST && !password.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Passwords, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users");
        std::fs::write(&path, text).expect("written");
        Passwords::read(&path).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_password_of_a_user_is_right_and_everything_else_is_wrong() {
        let hash = bcrypt::hash("secret", 4).expect("a hash");
        let passwords =
            read(&format!("\u{feff}# users\n\nann:{hash}\nbob:{}\n", hash.replace("$2b$", "$2y$"))).expect("valid");
        for (user, password, expected) in [
            ("ann", "secret", true),
            ("bob", "secret", true),
            ("ann", "Secret", false),
            ("ann", "", false),
            ("eve", "secret", false),
            ("", "", false),
        ] {
            let turn = passwords.turn(ClientId::Operator).await.expect("nobody waits");
            assert_eq!(passwords.are(user, password, turn).await, expected, "{user} {password}");
        }
    }

    #[tokio::test]
    async fn what_bcrypt_does_not_read_of_a_password_counts_too() {
        // `htpasswd -B` cuts what it is given, and ends it at a byte of zeros.
        let longest = "0123456789ab".repeat(6);
        let lines = ["short", &longest].map(|password| bcrypt::hash(password, 4).expect("a hash"));
        let [short, long] = &lines;
        let passwords = read(&format!("ann:{short}\nbob:{long}\n")).expect("valid");
        for (user, password, expected) in [
            ("bob", longest.clone(), true),
            ("bob", format!("{longest}x"), false),
            ("bob", longest.repeat(20), false),
            ("bob", longest[..71].to_owned(), false),
            ("bob", format!("{longest}\0"), false),
            ("ann", "short".to_owned(), true),
            ("ann", "short\0".to_owned(), false),
            ("ann", "short\0short".to_owned(), false),
            ("ann", "short\0other".to_owned(), false),
            ("ann", "\0short".to_owned(), false),
            ("ann", "\0".to_owned(), false),
        ] {
            let turn = passwords.turn(ClientId::Operator).await.expect("nobody waits");
            assert_eq!(passwords.are(user, &password, turn).await, expected, "{user} {password:?}");
        }
        let bytes = "\u{e9}".repeat(36);
        let passwords = read(&format!("eve:{}\n", bcrypt::hash(&bytes, 4).expect("a hash"))).expect("valid");
        for (password, expected) in [(bytes.clone(), true), (format!("{bytes}e"), false)] {
            let turn = passwords.turn(ClientId::Operator).await.expect("nobody waits");
            assert_eq!(passwords.are("eve", &password, turn).await, expected, "{} bytes", password.len());
        }
    }

    #[test]
    fn other_hashes_than_bcrypt_are_refused_and_not_quoted() {
        let dear = format!("ann:$2y$18${}", "hunter2".repeat(8).get(..53).expect("a hash"));
        for line in [
            "ann:$apr1$hunter2$x",
            "ann:{SHA}hunter2",
            "ann:hunter2",
            "hunter2",
            ":$2y$04$x",
            "ann:$2y$04$hunter2",
            &dear,
        ] {
            let error = read(&format!("# users\n{line}\n")).expect_err("not bcrypt");
            assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        }
        assert!(Passwords::read(Path::new("/nonexistent")).is_err());
    }
}
