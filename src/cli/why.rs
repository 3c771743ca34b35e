//! `registry-mirror why`: what a pull of an image would get now, and why. Nobody is asked for it.

use super::store::{IfNone, Place, StoreArgs};
use super::talk::print_document;
use super::{Exit, images, print, show};
use crate::documents::{Code, Error, Source, Why};
use crate::oci::ImageName;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 5 where that pull would fail. The word behind the name is the one of the log, the \
    metrics and the header Cache-Status, and the rule that of the audit. It is told of somebody who may pull it; who may, \
    says registry-mirror access explain.")]
pub(super) struct Args {
    /// The image, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let json = args.store.at.json;
    let why = match args.store.place(IfNone::TellIfTyped)? {
        Place::Remote(remote) => {
            let said = remote.get::<Why>(&format!("why?{}", super::query(&args.image)))?;
            said.print(json, described)?;
            said.document
        }
        Place::Store(store) => {
            let image: ImageName =
                args.image.parse().map_err(|error| Error::new(Code::Usage, format!("{:?}: {error}", args.image)))?;
            let config = args.store.config()?;
            let why = Why { anonymous: config.explain_to_anybody(&image), ..store.why(&config, &image)? };
            if json {
                print_document(&why)?
            } else {
                print(&described(&why))?
            }
            why
        }
    };
    Ok(if why.succeeds { Exit::Done } else { Exit::NotFound })
}

fn described(why: &Why) -> String {
    let Why { image, upstream, outcome, from, reason, fresh_until_at, stale_until_at, stored, completeness, .. } = why;
    let rule = why.anonymous.as_ref().map(|anonymous| {
        let says = match anonymous.allowed {
            Some(true) => "allows it to",
            Some(false) => "refuses it to",
            None => "may allow it to",
        };
        format!("{} {says} who shows nothing; {}", anonymous.decides(), anonymous.how)
    });
    let from = from.map(|from| match from {
        Source::Store => "the store".to_owned(),
        Source::Bucket => "the bucket".to_owned(),
        Source::Both => format!("the store, and {upstream} for what is missing"),
        Source::Upstream => upstream.to_string(),
    });
    let state = stored.as_ref().map(|stored| {
        let lacks = (stored.missing_bytes > 0).then(|| format!(", {} missing", show::size(stored.missing_bytes)));
        let behind = (stored.bucket_bytes > 0).then(|| format!(", {} in the bucket", show::size(stored.bucket_bytes)));
        let more = [behind, lacks].into_iter().flatten().collect::<String>();
        format!("{}; {}{more}", images::state(stored), show::size(stored.stored_bytes))
    });
    let begun = (why.begun_bytes > 0).then(|| {
        format!("{} of what is missing, by a fill that did not end and is resumed", show::size(why.begun_bytes))
    });
    let checked = stored.as_ref().and_then(|stored| stored.checked_at).map(show::ago);
    let here = (!completeness.lacking.is_empty())
        .then(|| format!("it is not made for this machine: {}", completeness.lacking.join(", ")));
    let rows = [
        ("why", Some(reason.clone())),
        ("from", from),
        ("rule", rule),
        ("digest", stored.as_ref().and_then(|stored| stored.digest).map(|digest| digest.to_string())),
        ("checked", checked),
        ("fresh", fresh_until_at.map(|until| format!("until {}", show::moment(until)))),
        ("stale", stale_until_at.map(|until| format!("until {}, while upstream is away", show::moment(until)))),
        ("stored", Some(state.unwrap_or_else(|| "nothing".to_owned()))),
        ("begun", begun),
        ("here", here),
    ];
    let heading = format!("{image}: {}", outcome.as_deref().unwrap_or("would fail"));
    let rows = rows.into_iter().filter_map(|(name, value)| Some(format!("  {name:<8} {}", value?)));
    std::iter::once(heading).chain(rows).collect::<Vec<_>>().join("\n")
}
