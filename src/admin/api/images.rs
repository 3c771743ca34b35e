//! What is asked and ordered of images.
//!
//! Clients are given what is in the store a moment later. Who wants to know what is there, or changes it, waits until
//! that is over, and not for long: a disk that is stuck holds no operator up. `pull` does not wait.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;

use super::naming::{Doors, beyond, image_name};
use super::noting::Noting;
use super::{READY, bad, bundles, not_found, ok, read, streamed};
use crate::admin::{AdminState, Body};
use crate::documents::{
    Changed, Code, Error, Failure, Forgotten, Frozen, Images, Pinned, Ready, Unfrozen, Unpinned, Why, orders,
};
use crate::graph::image::Platforms;
use crate::mirror::Mirror;
use crate::mirror::images::catalog::CatalogError;
use crate::oci::ImageName;

/// How long what is being written is waited for.
const WRITTEN: Duration = Duration::from_secs(2);
/// Lines that wait for a slow reader.
const QUEUE: usize = 256;

async fn written(mirror: &Mirror) {
    let _ = tokio::time::timeout(WRITTEN, mirror.written()).await;
}

/// What is known of images.
pub(super) async fn look(
    path: &str,
    query: &str,
    mirror: &Mirror,
    state: &AdminState,
) -> Result<Response<Body>, Error> {
    written(mirror).await;
    match path {
        "images" => Ok(ok(&Images { images: mirror.images().await? })),
        "images/inspect" => Ok(ok(&mirror.inspect(&asked_for(query, &state.pull)?).await?)),
        "history" => Ok(ok(&mirror.history(&asked_for(query, &state.pull)?).await?)),
        "why" => why(asked_for(query, &state.pull)?, mirror, state).await,
        "receipt" => bundles::receipt(mirror).await,
        _ => Err(not_found()),
    }
}

async fn why(image: ImageName, mirror: &Mirror, state: &AdminState) -> Result<Response<Body>, Error> {
    let why = mirror.why(&image).await.map_err(|error| match error {
        // No pull of it succeeds.
        CatalogError::Route(error) => Error::new(Code::NotFound, error.to_string()),
        error => error.into(),
    })?;
    let anonymous = match &state.explain {
        Some(explain) => explain(image).await,
        None => None,
    };
    Ok(ok(&Why { anonymous, ..why }))
}

/// Does what is ordered.
pub(super) async fn act(
    path: &str,
    body: &Bytes,
    mirror: &Mirror,
    doors: &Doors,
    noting: &mut Noting,
) -> Result<Response<Body>, Error> {
    if path != "pull" {
        written(mirror).await;
    }
    match path {
        "pull" => {
            let order: orders::Images = read(body)?;
            let (images, platforms) = (images(&order, doors)?, platforms(&order)?);
            Ok(pull(mirror.clone(), images, platforms, noting.goes_on()))
        }
        READY => ready(mirror, &read(body)?, doors).await,
        "pin" | "unpin" | "forget" => change(mirror, path, images(&read(body)?, doors)?, noting).await,
        "freeze" => {
            let orders::Freeze { image, digest } = read(body)?;
            let image = image_name(&image, doors)?;
            let digest = mirror.freeze(&image, digest).await?;
            noting.done_to(&image, true, Some(&digest));
            Ok(ok(&Frozen { image: image.to_string(), digest }))
        }
        "unfreeze" => {
            let image = image_name(&read::<orders::Freeze>(body)?.image, doors)?;
            let changed = mirror.unfreeze(&image).await?;
            noting.done_to(&image, changed, None);
            Ok(ok(&Unfrozen { image: image.to_string(), changed }))
        }
        "gc" => {
            let garbage = mirror.collect_garbage(read::<orders::Collect>(body)?.dry_run).await;
            Ok(ok(&garbage.map_err(CatalogError::from)?))
        }
        "export" => {
            let mut order: orders::Export = read(body)?;
            order.images.iter_mut().for_each(|name| *name = beyond(name, doors).into_owned());
            bundles::export(mirror, &order, noting).await
        }
        "verify" => verify(mirror.clone(), read(body)?, doors, noting).await,
        _ => Err(not_found()),
    }
}

async fn ready(mirror: &Mirror, order: &orders::Images, doors: &Doors) -> Result<Response<Body>, Error> {
    let platforms = platforms(order)?;
    let mut answers = Vec::new();
    for image in images(order, doors)? {
        answers.push(mirror.readiness(&image, &platforms).await?);
    }
    Ok(ok(&Ready { ready: answers.iter().all(|image| image.ready), images: answers }))
}

/// The same, which says of several images to which that was not done.
fn with_what_was_not_done(error: Error, named: &[ImageName], done: usize) -> Error {
    const NAMED: usize = 20;
    let left = &named[done..];
    if named.len() < 2 {
        return error;
    }
    let mut names: Vec<_> = left.iter().take(NAMED).map(ToString::to_string).collect();
    names.extend((left.len() > NAMED).then(|| format!("and {} more", left.len() - NAMED)));
    Error { message: format!("{}; not done to: {}", error.message, names.join(", ")), ..error }
}

async fn change(
    mirror: &Mirror,
    act: &str,
    named: Vec<ImageName>,
    noting: &mut Noting,
) -> Result<Response<Body>, Error> {
    let mut images = Vec::new();
    for (done, image) in named.iter().enumerate() {
        let changed = match act {
            "pin" => mirror.pin(image).await.map(|stored| Changed { stored: Some(stored), ..Changed::of(image, true) }),
            "unpin" => mirror.unpin(image).await.map(|changed| Changed::of(image, changed)),
            _ => mirror.forget(image).await,
        };
        let changed = changed.map_err(|error| with_what_was_not_done(error.into(), &named, done))?;
        noting.done_to(image, changed.changed, None);
        images.push(changed);
    }
    Ok(match act {
        "pin" => ok(&Pinned { images }),
        "unpin" => ok(&Unpinned { images }),
        _ => ok(&Forgotten { images }),
    })
}

fn pull(mirror: Mirror, images: Vec<ImageName>, platforms: Platforms, mut noting: Noting) -> Response<Body> {
    let (events, lines) = mpsc::channel(QUEUE);
    let task = tokio::spawn(async move {
        let mut all = true;
        for image in images {
            let came = mirror.prefetch(&image, &platforms, &events).await;
            noting.done_to(&image, came, None);
            all &= came;
        }
        noting.came_to(all);
        Ok(())
    });
    streamed(lines, task)
}

async fn verify(
    mirror: Mirror,
    order: orders::Verify,
    doors: &Doors,
    noting: &mut Noting,
) -> Result<Response<Body>, Error> {
    let mut only = HashSet::new();
    for name in &order.images {
        only.extend(mirror.parts_of(&image_name(name, doors)?).await?);
    }
    let only = (!order.images.is_empty()).then_some(only);
    let (findings, lines) = mpsc::channel(QUEUE);
    let noting = noting.goes_on();
    let task = tokio::spawn(async move {
        let verified = mirror.verify(order.repair, order.rate.unwrap_or_default(), only, &findings).await;
        noting.came_to(verified.is_ok());
        verified.map_err(|error| {
            tracing::error!(%error, "the blobs cannot be listed");
            Error::new(Code::Store, format!("the blobs cannot be listed: {error}"))
        })
    });
    Ok(streamed(lines, task))
}

fn asked_for(query: &str, doors: &Doors) -> Result<ImageName, Error> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let image = pairs.find(|(name, _)| name == "image").map(|(_, value)| value);
    image_name(&image.ok_or_else(|| bad("which image? Add ?image=NAME".to_owned()))?, doors)
}

fn images(order: &orders::Images, doors: &Doors) -> Result<Vec<ImageName>, Error> {
    if order.images.is_empty() {
        return Err(bad("no images are named".to_owned()));
    }
    order.images.iter().map(|name| image_name(name, doors)).collect()
}

fn platforms(order: &orders::Images) -> Result<Platforms, Error> {
    if order.all_platforms {
        return Ok(Platforms::All);
    }
    if order.platforms.is_empty() {
        return Ok(Platforms::Ours);
    }
    let platforms =
        order.platforms.iter().map(|typed| typed.parse().map_err(|error| bad(format!("{typed:?}: {error}"))));
    Ok(Platforms::Only(platforms.collect::<Result<_, _>>()?))
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Error {
        let code = match &error {
            CatalogError::Unknown(_) => Code::NotFound,
            CatalogError::Route(_) | CatalogError::NotATag(_) => Code::Usage,
            CatalogError::Metadata(_) => Code::Metadata,
            CatalogError::NotToBeHad { failure: Failure::NotFound, .. } => Code::NotFound,
            CatalogError::NotToBeHad { failure: Failure::Refused, .. } => Code::Refused,
            CatalogError::NotToBeHad { .. } | CatalogError::NotKept { .. } => Code::Failed,
        };
        let said = Error::new(code, error.to_string());
        match error {
            CatalogError::Unknown(image) => said.with_hint(format!("get it with: registry-mirror pull {image}")),
            CatalogError::NotKept { image, .. } => {
                said.with_hint(format!("what is said stands; bring it back with: registry-mirror pull {image}"))
            }
            CatalogError::NotToBeHad { failure: Failure::Unavailable, .. } => {
                said.with_hint("freeze it again when the upstream answers")
            }
            _ => said,
        }
    }
}
