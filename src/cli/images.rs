//! `registry-mirror images`: what is stored, by name.

use clap::ValueEnum;

use super::client::{At, Remote};
use super::talk::print_document;
use super::{Exit, show};
use crate::documents::{Error, ImageSummary, Images, Moment, State, counted};
use crate::oci::Glob;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only images with such names: a star stops at a slash, two do not; redis is redis with any tag
    #[arg(value_name = "GLOB")]
    globs: Vec<String>,
    /// In which order
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    sort: Sort,
    /// Only the names, one a line; for completions
    #[arg(long, hide = true, conflicts_with = "json")]
    names: bool,
    #[command(flatten)]
    at: At,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By name.
    #[default]
    Name,
    /// The largest first.
    Size,
    /// What was asked for last first.
    Used,
    /// What was checked last first.
    Checked,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = Remote::find(&args.at)?.get::<Images>("images")?;
    if args.at.json && args.globs.is_empty() && args.sort == Sort::Name {
        said.print(true, |_| String::new())?;
        return Ok(Exit::Done);
    }
    let images = chosen(said.document.images, &args.globs, args.sort);
    if args.names {
        images.iter().try_for_each(|image| super::print(&image.image))?;
    } else if args.at.json {
        print_document(&Images { images })?;
    } else {
        super::print(&table(&images))?;
    }
    Ok(Exit::Done)
}

/// Those that are meant, in order.
fn chosen(mut images: Vec<ImageSummary>, globs: &[String], sort: Sort) -> Vec<ImageSummary> {
    let globs: Vec<_> = globs.iter().flat_map(|glob| meanings(glob)).collect();
    images.retain(|image| globs.is_empty() || globs.iter().any(|glob| glob.matches(&image.image)));
    match sort {
        Sort::Name => {}
        Sort::Size => images.sort_by_key(|image| std::cmp::Reverse(image.stored_bytes)),
        Sort::Used => images.sort_by_key(|image| std::cmp::Reverse(image.used_at)),
        Sort::Checked => images.sort_by_key(|image| std::cmp::Reverse(image.checked_at)),
    }
    images
}

/// What somebody may mean by a pattern: of Docker Hub the host may be left out, and `library/`; and the tag.
fn meanings(typed: &str) -> Vec<Glob> {
    let has_tag = typed.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let whole = [typed.to_owned(), format!("docker.io/{typed}"), format!("docker.io/library/{typed}")];
    let with_tags = |name: String| {
        let tags = [":*", "@*"].map(|tag| format!("{name}{tag}"));
        std::iter::once(name).chain(tags.into_iter().filter(move |_| !has_tag))
    };
    whole.into_iter().flat_map(with_tags).map(|glob| Glob::of_paths(&glob)).collect()
}

fn table(images: &[ImageSummary]) -> String {
    let heading = ["IMAGE", "DIGEST", "STATE", "SIZE", "MISSING", "CHECKED", "LAST USE", ""];
    let heading = heading.map(str::to_owned).to_vec();
    let rows = show::table(&std::iter::once(heading).chain(images.iter().map(row)).collect::<Vec<_>>());
    let size = images.iter().map(|image| image.stored_bytes).sum();
    let total =
        format!("{}, {}; what they share is counted for each", counted(images.len(), "image"), show::size(size));
    format!("{rows}\n{total}")
}

fn row(image: &ImageSummary) -> Vec<String> {
    let marks = [(image.pinned, "pinned"), (image.frozen, "frozen"), (!image.damaged.is_empty(), "damaged")];
    let marks: Vec<_> = marks.into_iter().filter_map(|(set, mark)| set.then_some(mark)).collect();
    let ago = |at: Option<Moment>| at.map_or_else(|| "-".to_owned(), show::ago);
    vec![
        image.image.clone(),
        image.digest.as_ref().map_or_else(|| "-".to_owned(), show::short),
        state(image),
        show::size(image.stored_bytes),
        if image.missing_bytes == 0 { "-".to_owned() } else { show::size(image.missing_bytes) },
        ago(image.checked_at),
        ago(image.used_at),
        marks.join(", "),
    ]
}

/// What of an image is stored, in a word or by its platforms.
pub(super) fn state(image: &ImageSummary) -> String {
    match image.state {
        State::Complete => "complete".to_owned(),
        State::SomePlatforms => image.platforms.join(" "),
        State::Partly => "partly".to_owned(),
        State::Missing => "missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, stored_bytes: u64, used: u64) -> ImageSummary {
        ImageSummary {
            image: name.to_owned(),
            digest: None,
            state: State::Complete,
            platforms: Vec::new(),
            stored_bytes,
            missing_bytes: 0,
            bucket_bytes: 0,
            damaged: Vec::new(),
            pinned: false,
            frozen: false,
            checked_at: None,
            used_at: Some(Moment::from_millis(used)),
        }
    }

    #[test]
    fn images_are_chosen_by_patterns_and_put_in_order() {
        let all = || {
            vec![
                image("docker.io/library/redis:7", 3, 10),
                image("docker.io/library/redis:8", 1, 30),
                image("ghcr.io/acme/app:1", 2, 20),
                image("ghcr.io/acme/tools/app@sha256:00", 9, 5),
            ]
        };
        let names = |globs: &[&str], sort| {
            let globs: Vec<_> = globs.iter().map(|glob| (*glob).to_owned()).collect();
            let chosen = chosen(all(), &globs, sort).into_iter().map(|image| image.image).collect::<Vec<_>>();
            chosen.into_iter().map(|name| name.rsplit('/').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        for (globs, sort, expected) in [
            (&[][..], Sort::Name, &["redis:7", "redis:8", "app:1", "app@sha256:00"][..]),
            (&["redis"], Sort::Name, &["redis:7", "redis:8"]),
            (&["redis:7"], Sort::Name, &["redis:7"]),
            (&["ghcr.io/*/*"], Sort::Name, &["app:1"]),
            (&["ghcr.io/**"], Sort::Size, &["app@sha256:00", "app:1"]),
            (&["**"], Sort::Used, &["redis:8", "app:1", "redis:7", "app@sha256:00"]),
            (&["nothing"], Sort::Name, &[]),
        ] {
            assert_eq!(names(globs, sort), expected, "{globs:?} {sort:?}");
        }
        assert!(table(&all()).ends_with("\n4 images, 15 B; what they share is counted for each"));
    }
}
