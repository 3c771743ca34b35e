//! What a file has to say, whatever its format, and why it cannot be made to say so.

use crate::documents::Error;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The list there has this in front, or anywhere if it had it before.
    Element(Vec<String>, String),
    /// This is there.
    Value(Vec<String>, Value),
}

/// What can be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Text(String),
    List(Vec<String>),
}

impl Want {
    pub(super) fn element<const N: usize>(path: [&str; N], text: &str) -> Want {
        Want::Element(path.map(str::to_owned).to_vec(), text.to_owned())
    }

    pub(super) fn value<const N: usize>(path: [&str; N], value: Value) -> Want {
        Want::Value(path.map(str::to_owned).to_vec(), value)
    }

    pub(super) fn path(&self) -> &[String] {
        match self {
            Want::Element(path, _) | Want::Value(path, _) => path,
        }
    }
}

/// Addresses are the same with and without a slash at the end.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The file is not in its format.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Something stands there that does not go with ours.
    #[error("{0}")]
    Conflict(String),
    /// Others changed what we wrote.
    #[error("{0} was changed after it was written here, and what belongs to whom cannot be told")]
    Mixed(String),
    /// The client cannot do what is asked for.
    #[error("{0}")]
    Unable(String),
    /// It is another file that is at fault, below the root.
    #[error("/{0}: {1}")]
    In(String, Box<Refused>),
    /// A file cannot be had.
    #[error("{}", .0.message)]
    Failed(Error),
}

impl Refused {
    /// What stands at `path` is not what can be merged with.
    pub(super) fn shape(path: &[String], expected: &str) -> Refused {
        Refused::Conflict(format!("{} is not {expected}", path.join(".")))
    }

    /// The same of another file.
    pub(super) fn of(self, path: &str) -> Refused {
        match self {
            Refused::In(..) | Refused::Failed(_) => self,
            refused => Refused::In(path.to_owned(), Box::new(refused)),
        }
    }

    pub(super) fn mixed(path: &[String]) -> Refused {
        Refused::Mixed(path.join("."))
    }
}
