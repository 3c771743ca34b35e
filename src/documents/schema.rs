//! The schema of all documents and orders, made from the types: JSON Schema, draft 2020-12.
//!
//! Any document of ours is valid against the whole of it; orders are among its definitions only,
//! because the path says which is meant.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Bench, Canary, Carried, Check, Checkup, ConfigPaths, ConfigSchema, Configuration, Document, Error, Explanation,
    Export, Fills, Finding, Forgotten, Frame, Frozen, Garbage, Health, History, ImageDetail, Images, Import, Imported,
    PageLogin, Pinned, Plan, Program, PullEvent, Ready, Reloaded, Session, SetUp, Status, StoreTest, StoredReceipt,
    Unfrozen, Unpinned, Usage, VERSION, Why, orders,
};
use crate::oci::{Digest, RegistryName};

/// A JSON Schema; it is a document itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Schema(pub Map<String, Value>);

impl Document for Schema {
    const NAME: &'static str = "schema";
}

/// The schema of every document, with every order among its definitions.
pub fn schema() -> Schema {
    let mut answers = Answers(SchemaSettings::draft2020_12().for_serialize().into_generator(), Map::new());
    answers.add::<Status>();
    answers.add::<Fills>();
    answers.add::<Usage>();
    answers.add::<Images>();
    answers.add::<ImageDetail>();
    answers.add::<History>();
    answers.add::<PullEvent>();
    answers.add::<Ready>();
    answers.add::<Pinned>();
    answers.add::<Unpinned>();
    answers.add::<Forgotten>();
    answers.add::<Frozen>();
    answers.add::<Unfrozen>();
    answers.add::<Garbage>();
    answers.add::<Finding>();
    answers.add::<Plan>();
    answers.add::<Frame>();
    answers.add::<Export>();
    answers.add::<Imported>();
    answers.add::<Import>();
    answers.add::<StoredReceipt>();
    answers.add::<Health>();
    answers.add::<Check>();
    answers.add::<Checkup>();
    answers.add::<StoreTest>();
    answers.add::<Carried>();
    answers.add::<Why>();
    answers.add::<Program>();
    answers.add::<Configuration>();
    answers.add::<ConfigSchema>();
    answers.add::<ConfigPaths>();
    answers.add::<Explanation>();
    answers.add::<Reloaded>();
    answers.add::<Canary>();
    answers.add::<SetUp>();
    answers.add::<Bench>();
    answers.add::<PageLogin>();
    answers.add::<Session>();
    answers.add::<Error>();
    answers.add::<Schema>();
    let Answers(mut parts, documents) = answers;
    let any = documents.keys().map(|name| Value::from_iter([("$ref", format!("#/$defs/{name}"))])).collect();
    let mut asked = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    asked.subschema_for::<orders::Images>();
    asked.subschema_for::<orders::Freeze>();
    asked.subschema_for::<orders::Collect>();
    asked.subschema_for::<orders::Reload>();
    asked.subschema_for::<orders::Verify>();
    asked.subschema_for::<orders::Export>();
    asked.subschema_for::<orders::Login>();
    let definitions = documents.into_iter().chain(parts.take_definitions(true)).chain(asked.take_definitions(true));
    Schema(Map::from_iter([
        ("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into()),
        ("title".to_owned(), "Documents of registry-mirror".into()),
        ("anyOf".to_owned(), any),
        ("$defs".to_owned(), Value::Object(definitions.collect())),
    ]))
}

/// The schemas of documents by their names, and what is common to them.
struct Answers(SchemaGenerator, Map<String, Value>);

impl Answers {
    fn add<T: Document>(&mut self) {
        let mut schema = T::json_schema(&mut self.0);
        let object = schema.ensure_object();
        object.insert("type".to_owned(), "object".into());
        let head = [("document", Value::from(T::NAME)), ("version", VERSION.into())];
        for (key, value) in head {
            let properties = object.entry("properties").or_insert_with(|| Map::new().into());
            properties[key] = Value::from_iter([("const", value)]);
            if let Some(required) =
                object.entry("required").or_insert_with(|| Vec::<Value>::new().into()).as_array_mut()
            {
                required.push(key.into());
            }
        }
        self.1.insert(T::NAME.to_owned(), schema.into());
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({
            "description": "Algorithm and hash.",
            "type": "string",
            "pattern": "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$",
        })
    }
}

impl JsonSchema for RegistryName {
    fn schema_name() -> Cow<'static, str> {
        "RegistryName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({ "description": "A registry as image names spell it.", "type": "string" })
    }
}
