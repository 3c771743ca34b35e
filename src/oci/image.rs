//! Image names as people type them: `redis`, `redis:7`, `ghcr.io/owner/app@sha256:…`.
//!
//! What is left out is Docker's: the registry `docker.io`, the namespace `library` there, the tag
//! `latest`; so is what tells a registry from the start of a name: a dot, a port, or `localhost`
//! (distribution/reference). Unlike there, other registries than Docker's may have capitals in names, as on the
//! wire. A name with a tag and a digest means the digest.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};
use super::name::{NameError, Reference, RegistryName, Repository, Tag};

/// What names without a registry are of, and another name of it.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

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
    #[error("an image is written [HOST/]NAME[:TAG][@DIGEST], on docker.io in lower case")]
    Malformed,
    /// The digest is none that can be verified.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<ImageName, ImageNameError> {
        let (text, digest) = text.split_once('@').map_or((text, None), |(text, digest)| (text, Some(digest)));
        // What follows the last colon may be a port and a name.
        let tagged = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (name, tag) = tagged.map_or((text, "latest"), |(name, tag)| (name, tag));
        let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, path) = name.split_once('/').filter(|(first, _)| is_registry(first)).unwrap_or((HUB[0], name));
        let (registry, repository, tag) = parsed(registry, path, tag).map_err(|_| ImageNameError::Malformed)?;
        let reference = digest.map_or(Ok(Reference::Tag(tag)), |digest| digest.parse().map(Reference::Digest))?;
        if registry.as_str() != HUB[0] {
            return Ok(ImageName { registry, repository, reference });
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ImageNameError::Malformed);
        }
        let official = !path.contains('/');
        let repository = if official { repository.prefixed("library") } else { Ok(repository) };
        let repository = repository.map_err(|_| ImageNameError::Malformed)?;
        Ok(ImageName { registry, repository, reference })
    }
}

fn parsed(registry: &str, path: &str, tag: &str) -> Result<(RegistryName, Repository, Tag), NameError> {
    let registry = RegistryName::parse_any_case(registry)?;
    let registry = if HUB.contains(&registry.as_str()) { HUB[0].parse()? } else { registry };
    Ok((registry, path.parse()?, tag.parse()?))
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
            ("index.docker.io/redis", "docker.io/library/redis:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("hf.example/Org/Model-7B:Q4_K_M", "hf.example/Org/Model-7B:Q4_K_M"),
            ("GHCR.io/owner/app", "ghcr.io/owner/app:latest"),
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
        for typed in [
            "",
            ":7",
            "Redis",
            "redis:",
            "redis@sha256:12",
            "a//b",
            "redis:7:8",
            "https://ghcr.io/a",
            "a b",
            "Org/app",
            "docker.io/Org/app",
            "ghcr.io/",
            "/a",
            "ghcr.io/a@",
            "a@latest",
            "redis:-7",
        ] {
            assert!(typed.parse::<ImageName>().is_err(), "{typed}");
        }
    }
}
