//! JSON into the specification's types, and where it does not fit: the path is put together on the way out of an error,
//! so that a value that fits pays nothing for it.
//!
//! Runs outside. Pure.

use std::fmt::Display;

use anyhow::{Error, Result};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// An error names the member: `linux.resources.cpu.quota: invalid type: ...`.
pub fn typed<T: DeserializeOwned>(document: Value) -> Result<T> {
    T::deserialize(Given(document)).map_err(|Misfit { path, reason }| match path.as_str() {
        "" => Error::msg(reason),
        path => Error::msg(format!("{path}: {reason}")),
    })
}

struct Given(Value);

#[derive(Debug)]
struct Misfit {
    path: String,
    reason: String,
}

impl Misfit {
    /// As seen from the value that this one is in.
    fn below(self, outer: impl Display) -> Misfit {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Misfit { path: format!("{outer}{joint}{}", self.path), ..self }
    }
}

impl std::error::Error for Misfit {}

impl Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl serde::de::Error for Misfit {
    fn custom<T: Display>(reason: T) -> Misfit {
        Misfit { path: String::new(), reason: reason.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Misfit {
        match found {
            // What serde calls a unit, JSON calls null.
            Unexpected::Unit => Misfit::custom(format_args!("invalid type: null, expected {expected}")),
            found => Misfit::custom(format_args!("invalid type: {found}, expected {expected}")),
        }
    }
}

impl<'de> Deserializer<'de> for Given {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.into_iter(), index: 0 }),
            Value::Object(members) => visitor.visit_map(Members { rest: members.into_iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    /// The specification's are words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.0 {
            Value::String(word) => {
                let word: StrDeserializer<'_, Misfit> = word.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => self.deserialize_any(Word).map(|never| match never {}),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// Takes nothing, and so says what it was given in place of a word.
struct Word;

impl Visitor<'_> for Word {
    type Value = std::convert::Infallible;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("string")
    }
}

struct Items {
    rest: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(item) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Given(item)).map(Some).map_err(|misfit| misfit.below(format_args!("[{index}]")))
    }
}

struct Members {
    rest: <Map<String, Value> as IntoIterator>::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Members {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Misfit> = name.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|misfit| misfit.below(name))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, value) = self.current.take().ok_or_else(|| Misfit::custom("a value without a key"))?;
        seed.deserialize(Given(value)).map_err(|misfit| misfit.below(name))
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;
    use serde_json::json;

    use super::*;

    fn refusal(document: Value) -> String {
        typed::<Spec>(document).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        for (document, sentence) in [
            (json!({"mounts": [{}]}), "mounts[0]: missing field `destination`"),
            (json!({"ociVersion": null}), "ociVersion: invalid type: null, expected a string"),
            (
                json!({"ociVersion": "1", "linux": {"resources": {"cpu": {"quota": "x"}}}}),
                "linux.resources.cpu.quota: invalid type: string \"x\", expected i64",
            ),
            (
                json!({"ociVersion": "1", "mounts": [{"destination": "/a"}, {"destination": 7}]}),
                "mounts[1].destination: invalid type: integer `7`, expected path string",
            ),
            (
                json!({"ociVersion": "1", "linux": {"namespaces": [{"type": "nut"}]}}),
                "linux.namespaces[0].type: unknown variant `nut`, expected one of `mount`, `cgroup`, `uts`, `ipc`, \
                 `user`, `pid`, `network`, `time`",
            ),
            (
                json!({"ociVersion": "1", "linux": {"namespaces": [{"type": {"pid": 1}}]}}),
                "linux.namespaces[0].type: invalid type: map, expected string",
            ),
            (
                json!({"ociVersion": "1", "annotations": {"a.b": 1}}),
                "annotations.a.b: invalid type: integer `1`, expected a string",
            ),
        ] {
            assert_eq!(refusal(document), sentence);
        }
    }

    #[test]
    fn what_fits_is_what_the_types_own_reader_makes_of_it() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/plan/goldens")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let expected: Result<Spec, _> = serde_json::from_value(document.clone());
                match (typed::<Spec>(document), expected) {
                    (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{path:?}"),
                    (ours, theirs) => assert_eq!(ours.is_err(), theirs.is_err(), "{path:?}: {ours:?}"),
                }
            }
        }
    }
}
