//! Where each upstream was when this store first wrote down where upstreams are.
//!
//! What says no place was said before that: there, as far as anybody knows. The file is written when an upstream is new to
//! it, and what it says of one never changes. Where there is none that is now; where it is there and cannot be read, what
//! says no place is of nowhere, since nobody knows.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::files::read_record;
use crate::oci::{RegistryName, Together, Whereabouts};
use crate::staged;

const NAME: &str = "places";

type First = BTreeMap<RegistryName, Together>;

/// Whether where upstreams are is written down: who only looks at a store may have been given other settings than those
/// that it will be served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstLook {
    /// It is.
    Served,
    /// It is not.
    Passing,
}

/// Where upstreams are `now`, and were when what says no place was said. Blocks.
pub fn since_first(store: &Path, now: Whereabouts, look: FirstLook) -> Whereabouts {
    let path = store.join(NAME);
    let read = read_record::<First>(&path).ok().flatten();
    if read.is_none() && path.symlink_metadata().is_ok() {
        tracing::warn!(
            file = %path.display(),
            "where upstreams were cannot be read: what an earlier version left is asked for anew in pass-through, until this \
             file is removed"
        );
        let nowhere = now.all().map(|(upstream, _)| (upstream.clone(), Together::default())).collect();
        return now.being_first_at(nowhere);
    }
    let mut first = read.unwrap_or_default();
    let known = first.len();
    for (upstream, places) in now.all() {
        first.entry(upstream.clone()).or_insert_with(|| places.clone());
    }
    if first.len() > known
        && look == FirstLook::Served
        && let Err(error) = write(&path, &first)
    {
        tracing::warn!(file = %path.display(), %error, "where upstreams are was not written down");
    }
    now.being_first_at(first)
}

fn write(path: &Path, first: &First) -> io::Result<()> {
    staged::replace(path, 0o600, &serde_json::to_vec(first).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Place, Places};

    fn at(places: &[(&str, &str)]) -> Whereabouts {
        places.iter().map(|(upstream, place)| (upstream.parse().expect("a name"), Place::of(place).into())).collect()
    }

    #[test]
    fn what_says_no_place_was_said_where_the_upstream_was_first() {
        let store = tempfile::tempdir().expect("a folder");
        let (one, other) = ("a.example".parse().expect("a name"), "b.example".parse().expect("a name"));
        let may_be = |now: &[(&str, &str)]| {
            let now = since_first(store.path(), at(now), FirstLook::Served);
            [&one, &other].map(|upstream| now.may_be_at(upstream, &Places::default()))
        };
        assert_eq!(may_be(&[("a.example", "1")]), [true, true]);
        assert_eq!(may_be(&[("a.example", "2"), ("b.example", "1")]), [false, true]);
        assert_eq!(may_be(&[("a.example", "1"), ("b.example", "2")]), [true, false]);
        std::fs::write(store.path().join(NAME), "spoilt").expect("written");
        assert_eq!(may_be(&[("a.example", "1"), ("b.example", "1")]), [false, false], "nobody knows");
        std::fs::remove_file(store.path().join(NAME)).expect("removed");
        since_first(store.path(), at(&[("a.example", "2")]), FirstLook::Passing);
        assert_eq!(
            may_be(&[("a.example", "3"), ("b.example", "3")]),
            [true, true],
            "who only looked wrote nothing down"
        );
        assert_eq!(may_be(&[("a.example", "1"), ("b.example", "3")]), [false, true]);
    }
}
