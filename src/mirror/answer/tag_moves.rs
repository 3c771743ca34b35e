//! Tags that point elsewhere than before: told once, in the log and in a metric.
//!
//! A tag that goes back to a digest it had before is a rollback, which is what an attacker who holds
//! an old, vulnerable image wants, and what a release that failed looks like. Decided from the
//! history alone, so it is the same after a restart.

use crate::metadata::{HistoryEntry, MetadataStore, TagKey};
use crate::metrics::Metrics;
use crate::oci::Digest;

/// How a tag moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagMove {
    /// To a digest that it did not have before.
    Forward,
    /// To a digest that it had before another one.
    Rollback,
}

/// What a move from one digest to another is, given everything the tag was seen to have, oldest
/// first. `None` when it was told already: clients that accept other types saw it before.
pub fn classify(history: &[HistoryEntry], from: &Digest, to: &Digest) -> Option<TagMove> {
    let last = |digest: &Digest| history.iter().rposition(|entry| entry.digest == *digest);
    match (last(from), last(to)) {
        (_, None) => Some(TagMove::Forward),
        (Some(from), Some(to)) if to > from => None,
        (_, Some(_)) => Some(TagMove::Rollback),
    }
}

/// Tells of a move, before it is written to the history.
pub(super) fn report(key: &TagKey, from: Digest, to: Digest, metadata: &dyn MetadataStore, metrics: &Metrics) {
    let TagKey { location, tag, .. } = key;
    let history = metadata.history(location, tag).unwrap_or_else(|error| {
        tracing::warn!(%location, %tag, %error, "the tag moved; its history is unknown");
        Vec::new()
    });
    let Some(kind) = classify(&history, &from, &to) else { return };
    match kind {
        TagMove::Forward => tracing::info!(%location, %tag, %from, %to, "tag moved"),
        TagMove::Rollback => {
            tracing::warn!(%location, %tag, %from, %to, "tag went back to a digest that it had before")
        }
    }
    metrics.tag_moved(kind == TagMove::Rollback);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::oci::{Algorithm, MediaType};

    fn digest(name: char) -> Digest {
        Digest::of(Algorithm::Sha256, name.to_string().as_bytes())
    }

    #[test]
    fn a_digest_that_was_there_before_is_a_rollback_and_a_move_is_told_once() {
        for (history, from, to, expected) in [
            ("a", 'a', 'b', Some(TagMove::Forward)),
            ("ab", 'b', 'c', Some(TagMove::Forward)),
            ("ab", 'b', 'a', Some(TagMove::Rollback)),
            ("aba", 'a', 'b', Some(TagMove::Rollback)),
            // Clients that accept other types saw the same move earlier.
            ("ab", 'a', 'b', None),
            ("aba", 'b', 'a', None),
            // They were given manifests of another type in between.
            ("ambn", 'a', 'b', None),
            ("ambn", 'b', 'a', Some(TagMove::Rollback)),
            // The history was lost.
            ("", 'a', 'b', Some(TagMove::Forward)),
        ] {
            let entries = history.chars().map(|name| HistoryEntry {
                digest: digest(name),
                media_type: MediaType::ImageManifest,
                size: 1,
                at: Timestamp(1),
                from: "docker.io".parse().expect("valid"),
            });
            let entries: Vec<_> = entries.collect();
            assert_eq!(classify(&entries, &digest(from), &digest(to)), expected, "{history} {from} {to}");
        }
    }
}
