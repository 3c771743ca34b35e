//! All that the bucket has, brought into the store: names are taken over, and content comes as it does for a client. What
//! is there already costs a look; what the store has no room for stays where it is, and nothing leaves for it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use crate::documents::Carried;
use crate::metadata::Location;
use crate::metadata::names::{self, Name};
use crate::mirror::room::shared::Shared;
use crate::mirror::{Mirror, Route};
use crate::oci::{Digest, ImageName, Reference};
use crate::tier::Waited;

/// Names at a time.
const AT_ONCE: usize = 4;

/// What became of a name.
enum Fate {
    Done,
    Failed,
    LeftOut,
}

impl Mirror {
    /// Brings all of it down. What is told last says how it ended.
    pub async fn bring_down(&self, events: &mpsc::Sender<Carried>) -> Carried {
        let mut told = Carried::default();
        let Some(shared) = self.0.fills.stored.shared() else { return told };
        let (mut all, mut listed) = (Vec::new(), shared.bucket.list(names::REPOSITORIES));
        while let Some(found) = listed.next().await {
            match found {
                Ok(listed) => all.extend(names::parse(&listed.key).map(|name| (listed.key, name))),
                Err(trouble) => return Carried { ended: true, trouble: Some(trouble.to_string()), ..told },
            }
        }
        told.total = all.len() as u64;
        let mut brought = stream::iter(all).map(|(key, name)| self.bring(shared, key, name)).buffer_unordered(AT_ONCE);
        while let Some(fate) = brought.next().await {
            match fate {
                Fate::Done => told.done += 1,
                Fate::Failed => told.failed += 1,
                Fate::LeftOut => told.left_out += 1,
            }
            // Who is slow to listen misses some.
            let _ = events.try_send(told.clone());
        }
        told.ended = true;
        told
    }

    async fn bring(&self, shared: &Arc<Shared>, key: String, name: Name) -> Fate {
        let is_known = match name {
            Name::Tag(key) => {
                shared.recall_tag(&key).await;
                self.0.fills.stored.records.metadata.tag(&key).is_ok_and(|known| known.is_some())
            }
            Name::History(location, tag) => shared.recall_history(&location, &tag).await,
            Name::Note(location) => shared.recall_notes(&location).await,
            Name::Member(location, digest) => return self.bring_content(location, digest).await,
            Name::Pin(_) | Name::Frozen(..) => shared.recall_act(name).await,
            Name::List(location, about) => shared.recall_any_list(location, about, &key).await,
        };
        if is_known { Fate::Done } else { Fate::Failed }
    }

    async fn bring_content(&self, location: Location, digest: Digest) -> Fate {
        let (stored, waited) = (&self.0.fills.stored, Waited::default());
        if stored.has(&location, &digest).await {
            return Fate::Done;
        }
        // What is to be proven by upstream comes from there.
        let Some(shared) = stored.recall(&location, &digest, &waited).await else { return Fate::LeftOut };
        let Some(member) = stored.member(&location, &digest) else { return Fate::Failed };
        if !member.descriptor.is_of_blob()
            && self.0.fills.manifest_in_bucket(&location, &digest, &waited).await.is_some()
        {
            return if stored.has(&location, &digest).await { Fate::Done } else { Fate::LeftOut };
        }
        match shared.bucket.stat(&digest).await {
            Ok(Some(size)) if self.0.fills.room.fits(size) => {}
            // What is known and was never fetched is not there.
            Ok(None) => return Fate::Done,
            Ok(Some(_)) => return Fate::LeftOut,
            Err(_) => return Fate::Failed,
        }
        let Location { upstream, repository } = location;
        let reference = Reference::Digest(digest);
        let Ok(route) = self.route_of(&ImageName { registry: upstream, repository, reference }) else {
            return Fate::LeftOut;
        };
        self.bring_blob(route, member.descriptor).await
    }

    async fn bring_blob(&self, route: Route, blob: crate::oci::Descriptor) -> Fate {
        let (digest, unheard) = (blob.digest, mpsc::channel(1).0);
        match self.fetch_blob(route, blob, unheard).await {
            Ok(_) => Fate::Done,
            Err((.., why)) => {
                tracing::warn!(%digest, why, "not brought down from the bucket");
                Fate::Failed
            }
        }
    }
}
