//! What was not carried into the bucket or back, as an operator is told of it: the image that it belongs to, why it is
//! where it was, and what helps.

use crate::documents::{Direction, NotCarried};
use crate::graph::image::{self, Platforms};
use crate::graph::{Graph, Lane};
use crate::metadata::names::{self, Name};
use crate::metadata::{Location, MetadataError, Pin};
use crate::mirror::Mirror;
use crate::oci::manifest::is_manifest;
use crate::oci::{Algorithm, Descriptor, Digest, Reference, Tag};

/// So many tags of a repository, and manifests, are looked at to find one that leads to something.
const MOST_IMAGES: usize = 1_000;
const AGAIN: &str = "do it again: what is carried stays";
const TEST: &str = "`registry-mirror store test` tells what may be done there";

/// Why something is where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// What is there is not what its name says.
    Damaged(String),
    /// What is below it cannot be had: something else has the name of a folder of the store.
    NoFolder {
        /// Its name below the store.
        at: String,
        /// What is there.
        found: &'static str,
    },
    /// What the bucket has of it is not what its name says, and it is not here.
    Wrong,
    /// What is here may not be read by who carries it, or cannot be read now.
    Closed(String),
    /// Its name is there, and it is not.
    Missing,
    /// What the bucket has under a name cannot be read, and nothing is known of it here.
    Unread,
    /// The same, and what is known here takes its place.
    Replaced,
    /// What the bucket notes of its repository, under this name, cannot be read.
    UnreadNote(String),
    /// It could not be read or written now.
    Failed(String),
    /// The bucket said no.
    Refused(String),
    /// There is no room for it.
    NoRoom(String),
    /// Only its upstream can prove that the repository has it.
    Doubted,
    /// It is of no upstream that this replica has.
    Elsewhere(String),
}

/// What something that was left belongs to, as far as is known.
enum Owner {
    /// An image that can be pulled by this name.
    Image(String),
    /// Some image of this repository.
    Repository(String),
    Nobody,
}

impl Owner {
    fn name(&self) -> Option<&str> {
        match self {
            Owner::Image(name) | Owner::Repository(name) => Some(name),
            Owner::Nobody => None,
        }
    }

    /// A pull that brings what belongs to it.
    fn pull(&self) -> String {
        match self {
            Owner::Image(image) => format!("`registry-mirror pull {image}`"),
            Owner::Repository(repository) => format!("`registry-mirror pull` of the image of {repository} that has it"),
            Owner::Nobody => "`registry-mirror pull` of the image that has it".to_owned(),
        }
    }
}

impl Mirror {
    /// What is told of something under this key that was left.
    pub async fn not_carried(&self, way: Direction, key: String, left: Left) -> NotCarried {
        let name = names::parse(&key);
        let tagged = |location: &Location, tag: &Tag| {
            let reference = Reference::Tag(tag.clone());
            Owner::Image(Pin { location: location.clone(), reference }.to_string())
        };
        let (owner, digest) = match &name {
            Some(Name::Member(location, digest)) => (self.owner(Some(location.clone()), *digest).await, Some(*digest)),
            Some(Name::Tag(of)) => (tagged(&of.location, &of.tag), None),
            Some(Name::History(location, tag) | Name::Frozen(location, tag)) => (tagged(location, tag), None),
            Some(Name::Pin(pin)) => (Owner::Image(pin.to_string()), None),
            Some(Name::Note(location) | Name::List(location, _)) => (Owner::Repository(location.to_string()), None),
            None => match digest_of(&key) {
                Some(digest) => (self.owner(None, digest).await, Some(digest)),
                None => (Owner::Nobody, None),
            },
        };
        let hint = match way {
            Direction::Push => hint_of_push(&left, name.is_some(), &owner),
            Direction::Pull => hint_of_pull(&left, name.as_ref(), &owner),
        };
        let reason = match left {
            Left::Damaged(what) => {
                format!("{}: {what}", if way == Direction::Push { "damaged here" } else { "damaged in the bucket" })
            }
            Left::NoFolder { at, found } => format!("damaged here: {at} is {found}, and no folder"),
            Left::Wrong => "damaged in the bucket, and not here".to_owned(),
            Left::Closed(why) => format!("it cannot be read here: {why}"),
            Left::Missing if way == Direction::Push => "neither the store nor the bucket has it".to_owned(),
            Left::Missing => "the bucket has its name, and not the content".to_owned(),
            Left::Unread | Left::Replaced => "what the bucket has under this name cannot be read".to_owned(),
            Left::UnreadNote(note) => format!("what the bucket notes of its repository, {note}, cannot be read"),
            Left::Doubted => "only its upstream can prove that the repository has it".to_owned(),
            Left::Failed(why) | Left::Refused(why) | Left::NoRoom(why) | Left::Elsewhere(why) => why,
        };
        NotCarried { key, image: owner.name().map(str::to_owned), digest, reason, hint }
    }

    async fn owner(&self, location: Option<Location>, digest: Digest) -> Owner {
        let place = self.0.graph.place(Lane::People).await;
        let found = self.0.graph.look(&place, move |graph| owner_of(graph, location, digest));
        found.await.ok().unwrap_or(Owner::Nobody)
    }
}

/// An image that this belongs to, by a tag where one leads to it. A layer is no image: of one whose manifest is not
/// here the repository is all that is known.
fn owner_of(graph: &Graph, location: Option<Location>, digest: Digest) -> Result<Owner, MetadataError> {
    let held = || Ok(graph.metadata().holders(&digest)?.into_iter().next().map(|(location, _)| location));
    let Some(location) = location.map_or_else(held, |location| Ok(Some(location)))? else { return Ok(Owner::Nobody) };
    let leads_to_it = |top: &Descriptor| {
        let image = graph.image(Some(&location), top.clone());
        image::parts(&image, &Platforms::All).into_iter().any(|part| part.digest == digest)
    };
    let named = |reference| Owner::Image(Pin { location: location.clone(), reference }.to_string());
    let tags = graph.metadata().tags()?.into_iter().filter(|(key, _)| key.location == location);
    if let Some((key, _)) = tags.take(MOST_IMAGES).find(|(_, record)| leads_to_it(&record.descriptor)) {
        return Ok(named(Reference::Tag(key.tag)));
    }
    let members = graph.metadata().members(Some(&location))?;
    let mut manifests = members.into_iter().map(|(_, of)| of).filter(|of| is_manifest(&of.media_type));
    if let Some(top) = manifests.by_ref().take(MOST_IMAGES).find(leads_to_it) {
        return Ok(named(Reference::Digest(top.digest)));
    }
    Ok(Owner::Repository(location.to_string()))
}

/// What helps where something did not go up.
fn hint_of_push(left: &Left, is_name: bool, owner: &Owner) -> Option<String> {
    let pull = owner.pull();
    match (left, owner) {
        (Left::NoFolder { at, found: "a link" }, _) => Some(format!(
            "no link is followed on the way into the bucket: put the folder that it leads to in the place of {at} in the store, or mount it there; then push once more"
        )),
        (Left::NoFolder { at, .. }, _) => Some(format!(
            "move {at} out of the store, and what belongs there is made anew when it is asked for; then push once more"
        )),
        (Left::Wrong, _) => Some(hint_of_wrong(&pull)),
        (Left::Refused(_), _) => Some(format!("{TEST}; then {AGAIN}")),
        (Left::Damaged(_), _) if is_name => {
            Some(format!("{pull} asks its registry, and writes it anew; then push once more"))
        }
        (Left::Damaged(_), _) => {
            Some("`registry-mirror verify --repair` fetches it again from its registry; then push once more".to_owned())
        }
        (Left::Closed(_), _) => {
            Some("`registry-mirror doctor` says whose it is and how to open it; then push once more".to_owned())
        }
        (Left::Missing, Owner::Image(image)) => Some(format!(
            "{pull} fetches it from its registry, `registry-mirror forget {image}` drops its name; then push once more"
        )),
        (Left::Missing, _) => Some(format!("{pull} fetches it from its registry; then push once more")),
        _ => Some(AGAIN.to_owned()),
    }
}

/// What helps where something did not come down.
fn hint_of_pull(left: &Left, name: Option<&Name>, owner: &Owner) -> Option<String> {
    let pull = owner.pull();
    let hint = match left {
        Left::Damaged(_) | Left::Wrong => hint_of_wrong(&pull),
        Left::Missing => {
            format!(
                "`registry-mirror store push` on a replica that has it brings it there; {pull} fetches it from its registry"
            )
        }
        Left::Unread => hint_of_unread(name, owner),
        Left::Replaced => "nothing to do: what is known here goes up in its place".to_owned(),
        Left::UnreadNote(_) => "mend that first".to_owned(),
        Left::Failed(_) | Left::Closed(_) | Left::NoFolder { .. } => AGAIN.to_owned(),
        Left::Refused(_) => format!("{TEST}; then {AGAIN}"),
        Left::NoRoom(_) => format!("give it more with [store] max_size and min_free; then {AGAIN}"),
        Left::Doubted => format!("{pull} asks it"),
        // It says so itself.
        Left::Elsewhere(_) => return None,
    };
    Some(hint)
}

fn hint_of_wrong(pull: &str) -> String {
    format!(
        "{pull} fetches it from its registry and puts it in the place of what is there, at the second try at the latest"
    )
}

/// Of what cannot be read and is not known here: who writes it anew.
fn hint_of_unread(name: Option<&Name>, owner: &Owner) -> String {
    let (pull, image) = (owner.pull(), owner.name().unwrap_or("IMAGE"));
    match name {
        Some(Name::Pin(_)) => format!(
            "`registry-mirror pin {image}` or `registry-mirror store push` on a replica that keeps it writes it anew, `registry-mirror unpin {image}` removes it"
        ),
        Some(Name::Frozen(..)) => format!(
            "`registry-mirror freeze {image}` or `registry-mirror store push` on a replica that holds it still writes it anew, `registry-mirror unfreeze {image}` removes it"
        ),
        Some(Name::List(..)) => "nothing to do: it is asked for anew when a client wants it".to_owned(),
        Some(Name::Note(_)) => {
            "`registry-mirror store push` on a replica that knows it writes it anew; where none does, remove the object with the bucket's own tools: the registry is asked again".to_owned()
        }
        // There is one for each kind of client.
        Some(Name::Tag(_)) => format!(
            "`registry-mirror store push` on a replica that has it writes it anew, and so does the next client of that kind that pulls {image} through this mirror"
        ),
        _ => format!(
            "`registry-mirror store push` on a replica that has it writes it anew, and so does {pull} here, which asks its registry"
        ),
    }
}

/// The digest of the content that has this key.
fn digest_of(key: &str) -> Option<Digest> {
    let (algorithm, hex) = key.strip_prefix("blobs/")?.split_once('/')?;
    Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?.digest(hex)
}
