//! The bucket: whether it answers to who runs this.

use std::time::Duration;

use crate::documents::Checked;

/// What came of asking it for something that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// `credentials = "env"`, and this environment has none.
    NoCredentials,
    /// It answered, so soon.
    Answers(String, Duration),
    /// It did not, or refused.
    Trouble(String, String),
}

/// The line for it.
pub fn judge(found: &Found) -> Checked {
    let about = "bucket";
    match found {
        Found::NoCredentials => Checked::warn(
            about,
            "credentials = \"env\", and the environment of this command has none: nobody was asked",
            "the unit has them: systemctl show -p Environment -p EnvironmentFiles registry-mirror; run this with the same",
        ),
        Found::Answers(name, took) => Checked::ok(
            about,
            format!(
                "{name} answers in {:.1} ms; more is tried by: registry-mirror store test",
                took.as_secs_f64() * 1e3
            ),
        ),
        Found::Trouble(name, why) => {
            let hint = "see [store.bucket], and try it: registry-mirror store test; pulls go on without it";
            Checked::fail(about, format!("{name}: {why}"), hint)
        }
    }
}
