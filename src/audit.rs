//! The audit: who got what, and who did what, JSON lines of their own.

use std::path::PathBuf;

/// Where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the standard error output.
    Stderr,
    /// To a file, at its end.
    File(PathBuf),
}
