//! Images as people name them: as on any machine, or with the address at which clients pull them through this mirror,
//! `127.0.0.1:5000/docker.io/library/redis:7`.

use std::borrow::Cow;

use super::bad;
use crate::documents::Error;
use crate::oci::{ImageName, RegistryName};

/// Where clients pull, as addresses such as `http://127.0.0.1:5000`, and the upstream of names that have none there.
pub(super) type Doors = [(String, RegistryName)];

/// The image that is meant.
///
/// # Errors
/// It is no name of an image.
pub(super) fn image_name(typed: &str, doors: &Doors) -> Result<ImageName, Error> {
    beyond(typed, doors).parse().map_err(|error| bad(format!("{typed:?}: {error}")))
}

/// The name without the address of this mirror.
pub(super) fn beyond<'a>(typed: &'a str, doors: &Doors) -> Cow<'a, str> {
    let Some((first, rest)) = typed.split_once('/') else { return typed.into() };
    let is_it = |(address, _): &&(String, RegistryName)| address.split_once("://").is_some_and(|(_, at)| at == first);
    let Some((_, default)) = doors.iter().find(is_it) else { return typed.into() };
    let names_registry = rest.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']));
    if names_registry { rest.into() } else { format!("{default}/{rest}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_clients_are_given_names_the_image_behind_it() {
        let door = |at: &str, upstream: &str| (at.to_owned(), upstream.parse().expect("a name"));
        let doors = [door("http://127.0.0.1:5000", "docker.io"), door("https://mirror.example:443", "ghcr.io")];
        for (typed, meant) in [
            ("127.0.0.1:5000/docker.io/library/redis:7", "docker.io/library/redis:7"),
            ("127.0.0.1:5000/ghcr.io/owner/app:1", "ghcr.io/owner/app:1"),
            ("127.0.0.1:5000/redis:7", "docker.io/library/redis:7"),
            ("mirror.example:443/owner/app:1", "ghcr.io/owner/app:1"),
            ("127.0.0.1:5001/docker.io/library/redis:7", "127.0.0.1:5001/docker.io/library/redis:7"),
            ("redis:7", "docker.io/library/redis:7"),
        ] {
            let name = image_name(typed, &doors).map(|name| name.to_string());
            assert_eq!(name.as_deref().ok(), Some(meant), "{typed}");
        }
    }
}
