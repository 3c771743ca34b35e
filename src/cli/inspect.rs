//! `registry-mirror inspect`: one image, its platforms and parts, and what of them is stored.

use super::client::{At, Remote};
use super::{Exit, show};
use crate::documents::{Error, ImageDetail, Part, PlatformDetail, counted};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let path = format!("images/inspect?{}", super::query(&args.image));
    Remote::find(&args.at)?.get::<ImageDetail>(&path)?.print(args.at.json, described)?;
    Ok(Exit::Done)
}

fn described(detail: &ImageDetail) -> String {
    let summary = &detail.summary;
    let mut lines = vec![
        summary.image.clone(),
        format!("  digest   {}", summary.digest.map_or_else(|| "unknown".to_owned(), |digest| digest.to_string())),
        format!("  type     {}", detail.media_type),
        format!(
            "  stored   {}{}, {} missing: {}",
            show::size(summary.stored_bytes),
            if summary.bucket_bytes > 0 {
                format!(", {} in the bucket", show::size(summary.bucket_bytes))
            } else {
                String::new()
            },
            show::size(summary.missing_bytes),
            super::images::state(summary)
        ),
        format!("  pinned   {}", if summary.pinned { "yes" } else { "no" }),
        format!("  frozen   {}", if summary.frozen { "yes" } else { "no" }),
        format!("  checked  {}", summary.checked_at.map_or_else(|| "never".to_owned(), show::ago)),
        format!(
            "  seen     {}, see: registry-mirror history {}",
            counted(detail.history.len(), "digest"),
            summary.image
        ),
    ];
    for image in &detail.images {
        lines.extend(platform(image));
    }
    lines.join("\n")
}

fn platform(image: &PlatformDetail) -> Vec<String> {
    let name = image.platform.as_deref().unwrap_or("any platform");
    let state = if image.complete { "complete" } else { "not complete" };
    let parts = std::iter::once(&image.manifest).chain(&image.blobs).map(part).collect::<Vec<_>>();
    let mut lines = vec![format!("  {name}: {state}")];
    lines.extend(show::table(&parts).lines().map(|line| format!("    {line}")));
    lines
}

fn part(part: &Part) -> Vec<String> {
    let stored = match (part.damaged, part.stored) {
        (true, _) => "damaged",
        (false, true) => "stored",
        (false, false) if part.bucket => "bucket",
        (false, false) => "missing",
    };
    let Part { content, .. } = part;
    vec![
        show::short(&content.digest),
        stored.to_owned(),
        show::size(content.size_bytes),
        content.media_type.to_string(),
    ]
}
