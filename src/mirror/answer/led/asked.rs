//! A tag that is asked for, since what is known here does not lead to what somebody names.

use std::time::Duration;

use super::Told;
use super::below::{Search, Sought, is_answer};
use super::questions::{Of, Questions, Said};
use crate::access::MOST_TAGS;
use crate::clock::Timestamp;
use crate::metadata::TagKey;
use crate::mirror::Mirror;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::recall::freshness::overdue;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Digest, Reference, Tag};
use crate::outcome::Outcome;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// For so many kinds of clients the tag is asked for once more, where something else was told since.
const MOST_DOUBTFUL: usize = 4;
/// How long all that may take.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// What was said when a tag was asked for.
struct Heard {
    told: Result<Option<Told>, MirrorError>,
    /// Whether upstream was asked since we were.
    since: bool,
}

impl Mirror {
    /// The first tag that turns out to lead to this content, and its manifest, when each is asked for by its way in, as
    /// by GET: for a pull of which only a part comes here, or that begins with a digest. Fewer are asked for than
    /// there may be, and none for what was asked for in vain a moment ago.
    ///
    /// # Errors
    /// [`MirrorError::TooMany`], to whoever asked too much; or that it is not known, where it was not found and not
    /// every question was answered.
    pub async fn tag_that_turns_out_to_lead(
        &self,
        ways: Vec<(Tag, Route)>,
        sought: Sought,
    ) -> Result<Option<(Tag, Digest)>, MirrorError> {
        let asked = async {
            let mut unanswered = None;
            for (tag, route) in ways.into_iter().take(MOST_TAGS) {
                match self.turns_out_to_lead(&route, &tag, sought).await {
                    Ok(Some(manifest)) => return Ok(Some((tag, manifest))),
                    Ok(None) => {}
                    Err(error @ MirrorError::TooMany(_)) => return Err(error),
                    Err(error) => {
                        tracing::debug!(location = %route.location, %tag, %error, "not told what a tag leads to");
                        unanswered.get_or_insert(error);
                    }
                }
            }
            unanswered.map_or(Ok(None), Err)
        };
        tokio::time::timeout(LONG_ENOUGH, asked).await.unwrap_or_else(|_| Err(overdue(Subject::Manifest)))
    }

    async fn turns_out_to_lead(&self, route: &Route, tag: &Tag, sought: Sought) -> Result<Option<Digest>, MirrorError> {
        let (answers, of) = (&self.0.answers, (route.asker.client(), route.location.clone(), tag.clone()));
        let (clock, questions) = (&answers.tags.clock, &answers.questions);
        let begun = clock.now();
        if questions.was_in_vain(&of, sought.digest, begun) {
            return Ok(None);
        }
        answers.tags.renew_all(route, tag).await;
        let (lately, mut search) = (route.clone().checked_within(Questions::LATELY), Search::new(sought));
        if answers.tags.needs_no_question(&lately, tag) {
            let told = self.told(&lately, tag, AcceptSet::everything()).await?;
            let root = self.found_by(&lately, tag, told, &mut search, false).await?;
            if root.is_some() {
                return Ok(root);
            }
        }
        let Some(Heard { told, since }) = self.heard_of(route, &of, begun).await? else { return Ok(None) };
        let told = told?;
        let root = self.found_by(&lately, tag, told, &mut search, since).await?;
        if root.is_some() {
            return Ok(root);
        }
        if told.is_some_and(|told| told.is_stale) {
            let message = format!("{}: not known what the tag {tag} leads to now", route.location);
            return Err(MirrorError::upstream(
                Subject::Manifest,
                UpstreamError::new(UpstreamErrorClass::Unavailable, message),
            ));
        }
        if let Some(error) = search.unanswered {
            return Err(error);
        }
        if since {
            questions.is_in_vain(of, sought.digest, clock.now());
        }
        Ok(None)
    }

    /// What the tag leads to, as it was asked for after `begun`, by him or by others; where he may not have it asked for
    /// again yet, as it was lately.
    async fn heard_of(&self, route: &Route, of: &Of, begun: Timestamp) -> Result<Option<Heard>, MirrorError> {
        let (answers, (_, location, tag)) = (&self.0.answers, of);
        let latest = answers.questions.latest(location, tag);
        let mut latest = latest.lock().await;
        if let Some(said) = latest.as_ref().filter(|said| said.asked_at >= begun) {
            return Ok(Some(Heard { told: said.told.clone(), since: true }));
        }
        let asked_at = answers.tags.clock.now();
        if !answers.questions.may_ask(of, asked_at) {
            let lately = latest.as_ref().filter(|said| said.is_lately(asked_at));
            return Ok(lately.map(|said| Heard { told: said.told.clone(), since: false }));
        }
        let now = route.clone().checked_within(Duration::ZERO);
        if !answers.tags.needs_no_question(&now, tag) {
            route.asker.question()?;
        }
        let accept = AcceptSet::everything();
        answers.tags.negatives.forget(&Missing::Tag(TagKey {
            location: location.clone(),
            tag: tag.clone(),
            accept: accept.clone(),
        }));
        let now = now.asked_by(route.asker.counted());
        let told = self.told(&now, tag, accept).await;
        if told.as_ref().map_or(true, |told| told.is_some_and(|told| told.is_stale)) {
            answers.questions.was_no_question(of);
        }
        *latest = Some(Said { asked_at, told: told.clone() });
        Ok(Some(Heard { told, since: true }))
    }

    /// The manifest by which a tag leads to what is sought, where this was told of the tag, to whom every type is right;
    /// with whether that was a moment ago, so that it may be `asked` for other types, too.
    async fn found_by(
        &self,
        route: &Route,
        tag: &Tag,
        told: Option<Told>,
        search: &mut Search,
        asked: bool,
    ) -> Result<Option<Digest>, MirrorError> {
        // What is not there leads nowhere, whatever was told before.
        let Some(told) = told else { return Ok(None) };
        let (location, digest) = (&route.location, search.sought.digest);
        // What clients who accept other types were told is what it leads to, too, as long as it may be what they are told now.
        let (mut roots, mut doubtful) = (vec![told.manifest], Vec::new());
        for (_, mut pointer) in self.pointers(location, vec![tag.clone()]).await.unwrap_or_default() {
            if asked && !told.is_stale {
                pointer.is_told_after(told.manifest);
            }
            if self.is_current(location, &pointer).await? {
                roots.push(pointer.manifest.digest);
            } else if self.leads(location, pointer.manifest, digest).await? {
                doubtful.push(pointer.accept);
            }
        }
        for root in roots {
            if self.leads_down(route, root, search).await? {
                return Ok(Some(root));
            }
        }
        if !asked {
            return Ok(None);
        }
        doubtful.extend(self.0.answers.tags.heads.told_to(location, tag, &digest));
        for accept in doubtful.into_iter().take(MOST_DOUBTFUL) {
            match self.told(route, tag, accept).await {
                Ok(Some(Told { manifest, .. })) if self.leads_down(route, manifest, search).await? => {
                    return Ok(Some(manifest));
                }
                Ok(_) => {}
                Err(error @ MirrorError::TooMany(_)) => return Err(error),
                Err(error) => {
                    search.unanswered.get_or_insert(error);
                }
            }
        }
        Ok(None)
    }

    /// What a tag leads to for clients that accept these types, as they are told it; `None` where they are told that
    /// there is nothing for them.
    async fn told(&self, route: &Route, tag: &Tag, accept: AcceptSet) -> Result<Option<Told>, MirrorError> {
        match self.manifest(route, &Reference::Tag(tag.clone()), accept).await {
            Ok(answer) => {
                let is_stale = answer.outcome == Outcome::Stale;
                Ok(Some(Told { manifest: answer.manifest.descriptor.digest, is_stale }))
            }
            Err(error) if is_answer(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
