//! Image names as people type them: `redis`, `redis:7`, `ghcr.io/owner/app@sha256:…`.
//!
//! What is left out is Docker's: the registry `docker.io`, the namespace `library` there, the tag
//! `latest`. The grammar is `oci-spec`'s; what comes out are our own, narrower names. A name with a
//! tag and a digest means the digest.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};
use super::name::{NameError, Reference, RegistryName, Repository, Tag};

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Where it is from.
    pub registry: RegistryName,
    /// Which repository there.
    pub repository: Repository,
    /// Which manifest of it.
    pub reference: Reference,
}

/// Why a string is not the name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// It is not `[HOST/]NAME[:TAG][@DIGEST]`.
    #[error("an image is written [HOST/]NAME[:TAG][@DIGEST], in lower case")]
    Malformed,
    /// A part of it breaks the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The digest is none that can be verified.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<ImageName, ImageNameError> {
        let parsed: oci_spec::distribution::Reference = text.parse().map_err(|_| ImageNameError::Malformed)?;
        let reference = match (parsed.digest(), parsed.tag()) {
            (Some(digest), _) => Reference::Digest(digest.parse()?),
            (None, tag) => Reference::Tag(tag.unwrap_or("latest").parse::<Tag>()?),
        };
        Ok(ImageName { registry: parsed.registry().parse()?, repository: parsed.repository().parse()?, reference })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if matches!(self.reference, Reference::Digest(_)) { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

impl ImageName {
    /// The digest, where the name has one.
    pub const fn digest(&self) -> Option<&Digest> {
        match &self.reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_of_a_name_is_dockers() {
        for (typed, meant) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("owner/app:1", "docker.io/owner/app:1"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("ghcr.io/owner/app", "ghcr.io/owner/app:latest"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
            ("localhost/a/b/c", "localhost/a/b/c:latest"),
        ] {
            assert_eq!(typed.parse::<ImageName>().map(|name| name.to_string()).as_deref(), Ok(meant), "{typed}");
        }
    }

    #[test]
    fn a_digest_outweighs_a_tag() {
        let name: ImageName = format!("redis:7@{DIGEST}").parse().expect("a name");
        assert_eq!(name.to_string(), format!("docker.io/library/redis@{DIGEST}"));
        assert_eq!(name.digest().map(ToString::to_string).as_deref(), Some(DIGEST));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for typed in ["", ":7", "Redis", "redis:", "redis@sha256:12", "a//b", "redis:7:8", "https://ghcr.io/a", "a b"] {
            assert!(typed.parse::<ImageName>().is_err(), "{typed}");
        }
    }
}
