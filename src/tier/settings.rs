//! What the configuration says of the bucket.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// The bucket, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bucket's name; never empty.
    pub name: String,
    /// Where the store is; `None` for AWS.
    pub endpoint: Option<Url>,
    /// The region; `None` for what the environment says, else `us-east-1`.
    pub region: Option<String>,
    /// What all keys begin with: nothing, or something that ends with a slash.
    pub prefix: String,
    /// Who we are there.
    pub credentials: Credentials,
    /// A file with certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// How long whoever reads waits for an answer, or for the next bytes.
    pub patience: Duration,
}

/// Who we are to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// What the environment says: a key, a token of a web identity, a container's address.
    Environment,
    /// A file with `KEY:SECRET` on one line.
    File(PathBuf),
    /// What the machine's metadata service says.
    Instance,
}

#[cfg(test)]
impl Settings {
    /// Of a bucket in memory.
    pub(crate) fn for_tests() -> Settings {
        Settings {
            name: "shared".to_owned(),
            endpoint: None,
            region: None,
            prefix: "mirror/".to_owned(),
            credentials: Credentials::Environment,
            ca: None,
            patience: Duration::from_secs(60),
        }
    }
}
