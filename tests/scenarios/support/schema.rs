//! A strict reader of the JSON Schema of our documents: it knows the keywords that stand in it and no
//! others, and what the schema does not name is an error, though a schema lets readers pass over it.

#![allow(dead_code, unreachable_pub)]

use registry_mirror::documents::Moment;
use registry_mirror::oci::Digest;
use serde_json::Value;

/// Keywords that say nothing about what is valid, or what is checked by the name of the definition.
const SILENT: [&str; 7] = ["$schema", "$defs", "title", "description", "default", "format", "pattern"];

pub struct Schema(pub Value);

impl Schema {
    /// Why a value is not what the definition of this name says, with the path to it.
    pub fn check(&self, definition: &str, value: &Value) -> Result<(), String> {
        self.valid(&self.0["$defs"][definition], value).map_err(|why| format!("{definition}{why}"))
    }

    /// The document that a value says to be.
    pub fn check_document(&self, value: &Value) -> Result<String, String> {
        let name = value["document"].as_str().ok_or_else(|| format!("no document: {value}"))?;
        self.check(name, value)?;
        self.valid(&self.0, value)?;
        Ok(name.to_owned())
    }

    /// The names of all documents.
    pub fn documents(&self) -> Vec<String> {
        let names = self.0["anyOf"].as_array().expect("a choice").iter();
        names.map(|choice| name_of(choice).expect("a definition").to_owned()).collect()
    }

    /// What is wrong with a value, with all that stands in it.
    fn valid(&self, schema: &Value, value: &Value) -> Result<(), String> {
        self.matches(schema, value)?;
        let Value::Object(object) = value else { return Ok(()) };
        let mut known = Vec::new();
        let open = self.names(schema, value, &mut known);
        match object.keys().find(|key| !open && !known.contains(*key)) {
            Some(key) => Err(format!(": nothing is known of {key:?}")),
            None => Ok(()),
        }
    }

    /// Collects the keys that a schema names for a value; whether it lets others in.
    fn names(&self, schema: &Value, value: &Value, known: &mut Vec<String>) -> bool {
        known.extend(schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()));
        let mut open = schema["additionalProperties"] == true || schema["additionalProperties"].is_object();
        let reference = name_of(schema).map(|name| &self.0["$defs"][name]);
        let choices = ["oneOf", "anyOf", "allOf"].map(|word| schema[word].as_array().into_iter().flatten());
        for part in choices.into_iter().flatten().chain(reference) {
            if self.matches(part, value).is_ok() {
                open |= self.names(part, value, known);
            }
        }
        open
    }

    /// What is wrong with a value, keys that nothing is known of aside.
    fn matches(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let Value::Object(keywords) = schema else {
            return if *schema == true { Ok(()) } else { Err(": is not foreseen".to_owned()) };
        };
        keywords.iter().try_for_each(|(keyword, says)| self.obeys(keyword, says, value))
    }

    fn obeys(&self, keyword: &str, says: &Value, value: &Value) -> Result<(), String> {
        let choices = || says.as_array().expect("a list").iter();
        let fitting = || choices().filter(|choice| self.matches(choice, value).is_ok()).count();
        let holds = match keyword {
            "$ref" => return self.referred(says.as_str().expect("a name"), value),
            "type" if says.is_array() => choices().any(|says| is_of(says, value)),
            "type" => is_of(says, value),
            "const" => says == value,
            "enum" => choices().any(|says| says == value),
            "minimum" => value.as_f64().is_none_or(|value| Some(value) >= says.as_f64()),
            "maximum" => value.as_f64().is_none_or(|value| Some(value) <= says.as_f64()),
            "uniqueItems" => value.as_array().is_none_or(|list| (1..list.len()).all(|n| !list[..n].contains(&list[n]))),
            "required" => choices().all(|key| value.get(key.as_str().expect("a key")).is_some()),
            "oneOf" => fitting() == 1,
            "anyOf" => fitting() > 0,
            "allOf" => fitting() == choices().count(),
            "items" => {
                return value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .try_for_each(|(at, item)| self.valid(says, item).map_err(|why| format!("[{at}]{why}")));
            }
            "properties" => {
                return says.as_object().expect("keys").iter().try_for_each(|(key, says)| {
                    value.get(key).map_or(Ok(()), |value| self.valid(says, value)).map_err(|why| format!(".{key}{why}"))
                });
            }
            "additionalProperties" => true,
            silent if SILENT.contains(&silent) => true,
            other => panic!("the reader of schemas does not know {other:?}"),
        };
        if holds { Ok(()) } else { Err(format!(": {keyword} {says} does not hold for {value}")) }
    }

    fn referred(&self, reference: &str, value: &Value) -> Result<(), String> {
        let name = reference.strip_prefix("#/$defs/").expect("a definition");
        let text = value.as_str().unwrap_or_default();
        match name {
            "Digest" if text.parse::<Digest>().is_err() => return Err(format!(": {value} is no digest")),
            "Moment" if text.parse::<Moment>().is_err() => return Err(format!(": {value} is no moment")),
            _ => {}
        }
        self.matches(self.0["$defs"].get(name).expect("defined"), value)
    }
}

fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the reader of schemas does not know the type {other:?}"),
    }
}
