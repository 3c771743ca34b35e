//! All that the bucket has, brought into the store: names are taken over, and content comes as it does for a client. What
//! is there already costs a look; what the store has no room for stays where it is, and nothing leaves for it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use crate::documents::{Carried, NotCarried};
use crate::metadata::Location;
use crate::metadata::names::{self, Name};
use crate::mirror::Mirror;
use crate::mirror::room::shared::Shared;
use crate::oci::{Digest, ImageName, Reference};
use crate::tier::Waited;

/// Names at a time.
const AT_ONCE: usize = 4;

/// Why a name, or what it names, was not brought down.
enum Left {
    /// It could not be.
    Failed(String),
    /// There is no room for it here, or it is not for this replica.
    Out(String),
}

impl Left {
    /// The bucket did not give it, or what is there cannot be it.
    fn unread() -> Left {
        Left::Failed("the bucket does not give it, or it is not what its name says".to_owned())
    }
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
        let bring = |(key, name): (String, Name)| async move {
            let brought = self.bring(shared, &key, name).await;
            (key, brought)
        };
        let mut brought = stream::iter(all).map(bring).buffer_unordered(AT_ONCE);
        while let Some((key, fate)) = brought.next().await {
            let (count, reason) = match fate {
                Ok(()) => (&mut told.done, None),
                Err(Left::Failed(reason)) => (&mut told.failed, Some(reason)),
                Err(Left::Out(reason)) => (&mut told.left_out, Some(reason)),
            };
            *count += 1;
            if let Some(reason) = reason.filter(|_| told.problems.len() < Carried::MOST_PROBLEMS) {
                told.problems.push(NotCarried { key, reason });
            }
            // Who is slow to listen misses some.
            let _ = events.try_send(told.clone());
        }
        told.ended = true;
        told
    }

    async fn bring(&self, shared: &Arc<Shared>, key: &str, name: Name) -> Result<(), Left> {
        let is_known = match name {
            Name::Tag(tag) => {
                shared.recall_tag(&tag).await;
                self.0.fills.stored.records.metadata.tag(&tag).is_ok_and(|known| known.is_some())
            }
            Name::History(location, tag) => shared.recall_history(&location, &tag).await,
            Name::Note(location) => shared.recall_notes(&location).await,
            Name::Member(location, digest) => return self.bring_content(location, digest).await,
            Name::Pin(_) | Name::Frozen(..) => shared.recall_act(name).await,
            Name::List(location, about) => shared.recall_any_list(location, about, key).await,
        };
        if is_known { Ok(()) } else { Err(Left::unread()) }
    }

    async fn bring_content(&self, location: Location, digest: Digest) -> Result<(), Left> {
        let (stored, waited) = (&self.0.fills.stored, Waited::default());
        let no_room = || Left::Out("the store has no room for what it names".to_owned());
        if stored.has(&location, &digest).await {
            return Ok(());
        }
        let Some(shared) = stored.recall(&location, &digest, &waited).await else {
            let is_unknown = stored.member(&location, &digest).is_none();
            let is_doubted = || Left::Out("only its upstream can prove that the repository has it".to_owned());
            return Err(if is_unknown { Left::unread() } else { is_doubted() });
        };
        let Some(member) = stored.member(&location, &digest) else { return Err(Left::unread()) };
        if !member.descriptor.is_of_blob()
            && self.0.fills.manifest_in_bucket(&location, &digest, &waited).await.is_some()
        {
            return if stored.has(&location, &digest).await { Ok(()) } else { Err(no_room()) };
        }
        match shared.bucket.stat(&digest).await {
            Ok(Some(size)) if self.0.fills.room.fits(size) => {}
            // What is known and was never fetched is not there.
            Ok(None) => return Ok(()),
            Ok(Some(_)) => return Err(no_room()),
            Err(trouble) => return Err(Left::Failed(trouble.to_string())),
        }
        let Location { upstream, repository } = location;
        let reference = Reference::Digest(digest);
        let route = self.route_of(&ImageName { registry: upstream, repository, reference });
        let route = route.map_err(|error| Left::Out(error.to_string()))?;
        let unheard = mpsc::channel(1).0;
        let fetched = self.fetch_blob(route, member.descriptor, unheard).await;
        fetched.map(drop).map_err(|(.., why)| Left::Failed(why))
    }
}
