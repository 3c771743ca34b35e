//! A trial of a bucket: what the mirror does with one, done once with objects that nobody else needs.

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{Bucket, Conditional, Pace, Trouble};
use crate::blob_store::{Content, Source, key_of};
use crate::oci::{Algorithm, Digest, Span};

/// Longer than a part, in bytes.
const LARGE: usize = (16 << 20) + 1;
/// One object is looked for in a list, and nobody else writes where it is.
const MOST_LISTED: usize = 100;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What was tried, and what was found or went wrong; the rest is not tried after a failure.
    pub steps: Vec<(&'static str, Result<String, String>)>,
    /// What the store does with the condition of a write, where that could be tried.
    pub conditional: Option<Conditional>,
}

impl Trial {
    /// Tries a bucket.
    pub async fn of(bucket: &Bucket) -> Trial {
        let mut trial = Trial { steps: Vec::new(), conditional: None };
        let small = small(bucket).await.map(|()| "written, read, listed and removed".to_owned());
        if !trial.note("a small object", small) {
            return trial;
        }
        let large = large(bucket).await.map(|()| format!("{LARGE} bytes went up in parts and came back in ranges"));
        if trial.note("a large object", large) {
            match Conditional::examine(bucket).await {
                Ok(found) => trial.conditional = Some(found),
                Err(trouble) => trial.steps.push(("conditional writes", Err(trouble.to_string()))),
            }
        }
        trial
    }

    /// Whether it went well.
    fn note(&mut self, what: &'static str, tried: Result<String, Trouble>) -> bool {
        let went_well = tried.is_ok();
        self.steps.push((what, tried.map_err(|trouble| trouble.to_string())));
        went_well
    }
}

fn insist(right: bool, what: &str) -> Result<(), Trouble> {
    if right { Ok(()) } else { Err(Trouble::Refused(format!("{what} is not what was written"))) }
}

/// What is refused says which right is missing.
fn may(what: &str, right: &str) -> impl Fn(Trouble) -> Trouble {
    move |trouble| match trouble {
        Trouble::Refused(why) => Trouble::Refused(format!("the key may not {what} ({right}): {why}")),
        trouble => trouble,
    }
}

async fn small(bucket: &Bucket) -> Result<(), Trouble> {
    let (folder, bytes) = (format!("probe/{:016x}", rand::random::<u64>()), Bytes::from_static(b"a trial"));
    let key = format!("{folder}/a+b");
    bucket.write(&key, bytes.clone()).await.map_err(may("write", "s3:PutObject"))?;
    let found = bucket.read(&key, 64).await.map_err(may("read", "s3:GetObject"))?.map(|object| object.bytes);
    let listed: Vec<_> = bucket.list(&folder).take(MOST_LISTED).collect().await;
    bucket.remove(&key).await.map_err(may("delete", "s3:DeleteObject"))?;
    insist(found == Some(bytes), "what is read")?;
    let listed = listed.into_iter().collect::<Result<Vec<_>, _>>().map_err(may("list", "s3:ListBucket"))?;
    insist(listed.iter().any(|listed| listed.key == key), "what is listed")?;
    insist(bucket.read(&key, 64).await?.is_none(), "what is left after a removal")
}

async fn large(bucket: &Bucket) -> Result<(), Trouble> {
    let mut bytes = vec![0; LARGE];
    bytes[..8].copy_from_slice(&rand::random::<u64>().to_le_bytes());
    let bytes = Bytes::from(bytes);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let content = Content { size: bytes.len() as u64, source: Source::Memory(bytes.clone()) };
    bucket.send(&digest, &content, |_| ()).await?;
    let part = part(bucket, &digest).await;
    bucket.remove(&key_of(&digest)).await?;
    insist(part? == bytes[..16], "a part")
}

async fn part(bucket: &Bucket, digest: &Digest) -> Result<Vec<u8>, Trouble> {
    let mut part = Vec::new();
    if let Some(mut reading) = bucket.blob(digest, Span { start: 0, end: Some(16) }, Pace::Any).await? {
        while let Some(bytes) = reading.body.next().await.transpose()? {
            part.extend_from_slice(&bytes);
        }
    }
    Ok(part)
}
