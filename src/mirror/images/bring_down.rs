//! All that the bucket has, brought into the store: names are taken over, and content is hashed as it comes. What is there
//! already costs a look; what the store has no room for stays where it is, and nothing leaves for it. Nobody else is
//! asked, so that what the bucket has wrongly, or only the name of, is told.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use crate::blob_store::StoreError;
use crate::documents::{Carried, Direction};
use crate::metadata::Location;
use crate::metadata::names::{self, Name};
use crate::mirror::Mirror;
use crate::mirror::fill::whole_bucket::Unbrought;
use crate::mirror::flight::transfer::can_have;
use crate::mirror::images::not_carried::Left;
use crate::mirror::room::shared::Shared;
use crate::mirror::room::shared::unread::{Recalled, Unknown};
use crate::oci::{Digest, ImageName, Reference};
use crate::tier::{Listed, Trouble, Waited};

/// Names at a time.
const AT_ONCE: usize = 4;

impl From<Trouble> for Left {
    fn from(trouble: Trouble) -> Left {
        match trouble {
            Trouble::Refused(_) => Left::Refused(trouble.to_string()),
            _ => Left::Failed(trouble.to_string()),
        }
    }
}

impl From<Unbrought> for Left {
    fn from(why: Unbrought) -> Left {
        match why {
            Unbrought::Trouble(trouble) => trouble.into(),
            Unbrought::Wrong(what) => Left::Damaged(what),
            Unbrought::Unkept(StoreError::NoSpace(why)) => Left::NoRoom(why.to_string()),
            Unbrought::Unkept(error) => Left::Failed(format!("the store could not keep it: {error}")),
        }
    }
}

impl Mirror {
    /// Brings all of it down. What is told last says how it ended.
    pub async fn bring_down(&self, events: &mpsc::Sender<Carried>) -> Carried {
        let (mut told, mut left) = (Carried::default(), Vec::new());
        let Some(shared) = self.0.fills.stored.shared() else { return told };
        let ended = async {
            let mut listed = shared.bucket.list(names::REPOSITORIES);
            while let Some(found) = listed.next().await.transpose()? {
                told.total += u64::from(names::parse(&found.key).is_some());
            }
            self.bring_all(shared, &mut told, &mut left, events).await
        };
        let trouble = ended.await.err().map(|trouble: Trouble| trouble.to_string());
        // Only now it is known what leads to what, and what takes the place of what cannot be read.
        for (key, why) in &mut left {
            let is_known = names::parse(key).is_some_and(|name| shared.knows(key, &name));
            if *why == Left::Unread && is_known {
                *why = Left::Replaced;
            }
        }
        let replaced = left.iter().filter(|(_, why)| *why == Left::Replaced).map(|(key, _)| key.as_str());
        shared.replaced(&replaced.collect::<Vec<_>>()).await;
        for (key, left) in left {
            told.problems.push(self.not_carried(Direction::Pull, key, left).await);
        }
        Carried { ended: true, trouble, ..told }
    }

    async fn bring_all(
        &self,
        shared: &Arc<Shared>,
        told: &mut Carried,
        problems: &mut Vec<(String, Left)>,
        events: &mpsc::Sender<Carried>,
    ) -> Result<(), Trouble> {
        let named = shared.bucket.list(names::REPOSITORIES).filter_map(|found| {
            let named = found.map(|listed| names::parse(&listed.key).map(|name| (listed, name))).transpose();
            std::future::ready(named)
        });
        let bring = |found: Result<(Listed, Name), Trouble>| async move {
            let (listed, name) = found?;
            let brought = Box::pin(self.bring(shared, &listed, name)).await;
            Ok((listed.key, brought))
        };
        let mut brought = named.map(bring).buffer_unordered(AT_ONCE).boxed();
        let mut count = 0;
        while let Some((key, fate)) = brought.next().await.transpose()? {
            count += 1;
            told.total = told.total.max(count);
            match &fate {
                Ok(()) => told.done += 1,
                Err(Left::NoRoom(_) | Left::Doubted | Left::Elsewhere(_)) => told.left_out += 1,
                Err(left) => {
                    told.failed += 1;
                    told.damaged += u64::from(matches!(left, Left::Damaged(_)));
                }
            }
            problems.extend(fate.err().filter(|_| problems.len() < Carried::MOST_PROBLEMS).map(|left| (key, left)));
            // Who is slow to listen misses some.
            let _ = events.try_send(told.clone());
        }
        Ok(())
    }

    async fn bring(&self, shared: &Arc<Shared>, listed: &Listed, name: Name) -> Result<(), Left> {
        let is_known = match name.clone() {
            Name::Tag(tag) => {
                shared.recall_tag(&tag).await;
                self.0.fills.stored.records.metadata.tag(&tag).is_ok_and(|known| known.is_some())
            }
            Name::History(location, tag) => shared.recall_history(&location, &tag).await == Recalled::Known,
            Name::Note(location) => shared.recall_notes(&location).await,
            Name::Member(location, digest) => return self.bring_content(shared, listed, &location, &digest).await,
            Name::Pin(_) | Name::Frozen(..) => shared.recall_act(name.clone()).await,
            Name::List(location, about) => shared.recall_any_list(location, about, &listed.key).await,
        };
        if is_known { Ok(()) } else { why_left(shared, listed, &name).await }
    }

    async fn bring_content(
        &self,
        shared: &Shared,
        listed: &Listed,
        location: &Location,
        digest: &Digest,
    ) -> Result<(), Left> {
        let (fills, stored) = (&self.0.fills, &self.0.fills.stored);
        if stored.has(location, digest).await {
            return Ok(());
        }
        if stored.recall(location, digest, &Waited::default()).await.is_none() {
            return match stored.member(location, digest) {
                None => why_left(shared, listed, &Name::Member(location.clone(), *digest)).await,
                Some(_) => Err(Left::Doubted),
            };
        }
        let name = ImageName {
            registry: location.upstream.clone(),
            repository: location.repository.clone(),
            reference: Reference::Digest(*digest),
        };
        self.route_of(&name).map_err(|error| Left::Elsewhere(error.to_string()))?;
        let size = shared.bucket.sized(digest).await?.ok_or(Left::Missing)?;
        match stored.proven_size(location, digest) {
            _ if !can_have(digest, Some(size)) => return Err(Left::Damaged("it is empty".to_owned())),
            Some(proven) if proven != size => {
                return Err(Left::Damaged(format!("it has {size} bytes there, and {proven} where it came from")));
            }
            _ => {}
        }
        if !fills.room.fits(size) {
            return Err(Left::NoRoom("the store has no room for it".to_owned()));
        }
        Ok(fills.bring_blob(shared, digest, size).await?)
    }
}

/// Why a name that the bucket has is not known here; what is there no longer is not missed.
async fn why_left(shared: &Shared, listed: &Listed, name: &Name) -> Result<(), Left> {
    match shared.why_unknown(listed, name).await {
        Unknown::Gone => Ok(()),
        Unknown::Unread => Err(Left::Unread),
        Unknown::UnreadNote(note) => Err(Left::UnreadNote(note)),
        Unknown::Trouble(trouble) => Err(trouble.into()),
        Unknown::Late => Err(Left::Failed("it could not be taken over here, or not in time".to_owned())),
    }
}
