//! What a manifest says, read as the most lenient of its readers reads it. Pure.
//!
//! Go's parsers take a key in any case and more than once, `null` for anything, and leave alone what they
//! do not know. Whatever one of them may see is seen here: lists that stand twice are added up. What
//! cannot be read is counted and never left out silently. What is made of a manifest is no larger than a
//! small multiple of its bytes, whatever they are, and nothing here recurses as deep as they do.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::oci::digest::is_digest;
use crate::oci::key::Key;
use crate::oci::{Descriptor, Digest, MediaType, Platform};

/// How deep JSON may be nested: an object in an array is two.
pub const MOST_NESTED: usize = 128;

/// The parts of a manifest that we read; everything else stays unread in the bytes.
#[derive(Debug, Default)]
pub(in crate::oci) struct Outline {
    /// 0 where what stands there is no number.
    pub(in crate::oci) schema_version: Option<u64>,
    pub(in crate::oci) media_type: Option<String>,
    pub(in crate::oci) config: Entries,
    pub(in crate::oci) layers: Entries,
    pub(in crate::oci) manifests: Entries,
    /// What an artifact manifest has in place of layers.
    pub(in crate::oci) blobs: Entries,
    pub(in crate::oci) subject: Entries,
    /// Which of [`TELLING`] have more than `null`.
    told: [bool; TELLING.len()],
}

/// Keys that tell what a document is.
const TELLING: [&str; 12] = [
    "architecture",
    "artifacttype",
    "detail",
    "error",
    "errors",
    "fslayers",
    "history",
    "message",
    "os",
    "rootfs",
    "status",
    "title",
];

/// Descriptors that stand under one key.
#[derive(Debug, Default)]
pub(in crate::oci) struct Entries {
    /// Whether the key is there, be it with `null`.
    pub(in crate::oci) named: bool,
    /// Whether there is more than `null`.
    pub(in crate::oci) given: bool,
    /// Those that can be read, each with its platform, where it says so.
    pub(in crate::oci) list: Vec<(Descriptor, Option<Platform>)>,
    /// How many cannot.
    pub(in crate::oci) unreadable: usize,
    /// Whether one of them names no digest of any algorithm, or says a size that cannot be, or is no object.
    pub(in crate::oci) odd: bool,
}

impl Outline {
    /// Reads a manifest; `None` where it is no JSON object, or nested deeper than [`MOST_NESTED`].
    pub(in crate::oci) fn read(bytes: &[u8]) -> Option<Outline> {
        if is_too_deep(bytes) { None } else { Outline::parse(bytes) }
    }

    /// The same of what is known not to be nested deeper.
    pub(in crate::oci) fn parse(bytes: &[u8]) -> Option<Outline> {
        let mut outline = Outline::default();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let kind = Fields(&mut outline).deserialize(&mut json).ok()?;
        json.end().ok().filter(|()| kind == Kind::Fit)?;
        Some(outline)
    }

    /// Whether one of these keys is there with more than `null`, as far as they are among those that tell.
    pub(in crate::oci) fn tells(&self, keys: &[&str]) -> bool {
        TELLING.iter().zip(self.told).any(|(key, told)| told && keys.contains(key))
    }
}

/// Whether brackets are nested deeper than [`MOST_NESTED`].
pub(in crate::oci) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_NESTED {
            return true;
        }
    }
    false
}

/// Takes what it knows out of an object.
trait Keyed {
    /// Reads the value of `key`, which is in lower case.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

impl Keyed for Outline {
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "schemaversion" => {
                let version = map.next_value::<Option<Scalar>>()?.map(|version| version.number().unwrap_or_default());
                self.schema_version = version.or(self.schema_version);
            }
            "mediatype" => self.media_type = map.next_value::<Scalar>()?.text(),
            "config" => self.config.read_one(map)?,
            "subject" => self.subject.read_one(map)?,
            "layers" => map.next_value_seed(Many(&mut self.layers))?,
            "manifests" => map.next_value_seed(Many(&mut self.manifests))?,
            "blobs" => map.next_value_seed(Many(&mut self.blobs))?,
            _ => {
                let given = map.next_value::<Option<IgnoredAny>>()?.is_some();
                if let Some(at) = TELLING.iter().position(|telling| *telling == key) {
                    self.told[at] |= given;
                }
            }
        }
        Ok(())
    }
}

/// A descriptor, key by key.
#[derive(Default)]
struct Entry {
    digest: Option<Digest>,
    named: bool,
    size: Option<u64>,
    /// Whether it says what it cannot say of itself.
    odd: bool,
    media_type: String,
    platform: Machine,
}

impl Keyed for Entry {
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "digest" => {
                let digest = map.next_value::<Scalar>()?.text();
                self.named = digest.as_deref().is_some_and(is_digest);
                self.digest = digest.and_then(|digest| digest.parse().ok());
            }
            "size" => {
                let given = map.next_value::<Option<Scalar>>()?;
                let size = given.map(|size| size.number().filter(|size| i64::try_from(*size).is_ok()));
                self.odd |= size == Some(None);
                self.size = size.flatten();
            }
            "mediatype" => self.media_type = map.next_value::<Scalar>()?.text().unwrap_or_default(),
            "platform" => drop(map.next_value_seed(Fields(&mut self.platform))?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// What a platform says of itself; that of a configuration, too.
#[derive(Default)]
struct Machine {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl Keyed for Machine {
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let field = match key {
            "os" => &mut self.os,
            "architecture" => &mut self.architecture,
            "variant" => &mut self.variant,
            _ => return map.next_value::<IgnoredAny>().map(drop),
        };
        *field = map.next_value::<Scalar>()?.text().filter(|text| !text.is_empty());
        Ok(())
    }
}

impl Machine {
    fn platform(self) -> Option<Platform> {
        Some(Platform { os: self.os?, architecture: self.architecture?, variant: self.variant })
    }
}

/// The platform that the configuration of an image names.
pub(in crate::oci) fn platform_of(configuration: &[u8]) -> Option<Platform> {
    let mut machine = Machine::default();
    Fields(&mut machine).deserialize(&mut serde_json::Deserializer::from_slice(configuration)).ok()?;
    machine.platform()
}

impl Entries {
    fn add(&mut self, entry: Option<Entry>) {
        self.odd |= entry.as_ref().is_none_or(|entry| !entry.named || entry.odd);
        let readable = entry.and_then(|Entry { digest, size, media_type, platform, .. }| {
            let descriptor = Descriptor { digest: digest?, size: size?, media_type: MediaType::from(&*media_type) };
            Some((descriptor, platform.platform()))
        });
        match readable {
            Some(readable) => self.list.push(readable),
            None => self.unreadable += 1,
        }
    }

    fn read_one<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        self.named = true;
        let mut entry = Entry::default();
        match map.next_value_seed(Fields(&mut entry))? {
            Kind::Null => return Ok(()),
            Kind::Fit => self.add(Some(entry)),
            Kind::Else => self.add(None),
        }
        self.given = true;
        Ok(())
    }
}

/// What a value is to whom reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What was looked for, an object or a list.
    Fit,
    Null,
    Else,
}

/// What a visitor says to kinds of JSON values that it has no use for.
macro_rules! otherwise {
    ($kind:expr; $($visit:ident($($of:ty)?)),*) => {
        $(fn $visit<E>(self $(, _: $of)?) -> Result<Self::Value, E> {
            Ok($kind)
        })*
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
    };
}

fn drain_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn drain_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<(), A::Error> {
    while object.next_entry::<Key, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads an object into what knows its keys.
struct Fields<'t, T>(&'t mut T);

impl<'de, T: Keyed> DeserializeSeed<'de> for Fields<'_, T> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Keyed> Visitor<'de> for Fields<'_, T> {
    type Value = Kind;

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            self.0.read(&key, &mut map)?;
        }
        Ok(Kind::Fit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Kind, A::Error> {
        drain_list(list).map(|()| Kind::Else)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    otherwise! { Kind::Else; visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str) }
}

/// A list of descriptors.
struct Many<'e>(&'e mut Entries);

impl<'de> DeserializeSeed<'de> for Many<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let entries = self.0;
        entries.named = true;
        match deserializer.deserialize_any(Many(entries))? {
            Kind::Null => return Ok(()),
            Kind::Fit => {}
            Kind::Else => entries.add(None),
        }
        entries.given = true;
        Ok(())
    }
}

impl<'de> Visitor<'de> for Many<'_> {
    type Value = Kind;

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        loop {
            let mut entry = Entry::default();
            match list.next_element_seed(Fields(&mut entry))? {
                None => return Ok(Kind::Fit),
                Some(kind) => self.0.add((kind == Kind::Fit).then_some(entry)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Kind, A::Error> {
        drain_object(object).map(|()| Kind::Else)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    otherwise! { Kind::Else; visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str) }
}

/// A value that is text or a number, or else of no use.
enum Scalar {
    Text(String),
    Number(u64),
    Else,
}

impl Scalar {
    fn text(self) -> Option<String> {
        if let Scalar::Text(text) = self { Some(text) } else { None }
    }

    fn number(self) -> Option<u64> {
        if let Scalar::Number(number) = self { Some(number) } else { None }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Scalar;

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Scalar, A::Error> {
                drain_object(object).map(|()| Scalar::Else)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Scalar, A::Error> {
                drain_list(list).map(|()| Scalar::Else)
            }

            otherwise! { Scalar::Else; visit_bool(bool), visit_i64(i64), visit_f64(f64), visit_unit() }
        }
        deserializer.deserialize_any(Reader)
    }
}
