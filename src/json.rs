//! Strict JSON: no duplicate members, no trailing data, bounded depth.
//!
//! Two parsers that disagree on which of two equal members counts are a classic way around a
//! check (RFC 8725 section 2.4), so a duplicate is an error here, at every depth.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};

/// Up to this many members are compared pair by pair, which is faster than sorting them.
const FEW: usize = 24;

/// A JSON value whose strings are borrowed from its text where they have no escapes. Cheaper to
/// make and to look into than serde_json's, with variants of the same names.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Members<'a>),
}

/// The members of an object in their order, no name twice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Parses `bytes` as one JSON value. The depth is bounded by serde_json's limit of 128.
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    read(bytes).map(Value::into_owned)
}

/// [`parse`], borrowing from `bytes`.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, serde_json::Error> {
    // Once for all strings: serde_json checks each by itself otherwise.
    let text = std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

impl<'a> Value<'a> {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that isn't negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Members<'a>> {
        match self {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    pub fn into_owned(self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(value),
            Value::Number(number) => serde_json::Value::Number(number),
            Value::String(text) => serde_json::Value::String(text.into_owned()),
            Value::Array(list) => list.into_iter().map(Value::into_owned).collect(),
            Value::Object(members) => serde_json::Value::Object(members.into_owned()),
        }
    }
}

impl<'a> Members<'a> {
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        let member = self.0.iter().find(|(own, _)| own == name);
        member.map(|(_, value)| value)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Takes a member out; the order of the others is lost.
    pub fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        let place = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.swap_remove(place).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    pub fn into_owned(self) -> Map<String, serde_json::Value> {
        let owned =
            |(name, value): (Cow<'_, str>, Value<'_>)| (name.into_owned(), value.into_owned());
        self.0.into_iter().map(owned).collect()
    }

    /// A name that occurs twice.
    fn duplicate(&self) -> Option<&str> {
        let members = &self.0;
        if members.len() <= FEW {
            let repeats = |at: usize| members[..at].iter().any(|(name, _)| *name == members[at].0);
            return (1..members.len())
                .find(|at| repeats(*at))
                .map(|at| &*members[at].0);
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names
            .windows(2)
            .find(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key_seed(Name)? {
            members.0.push((name, map.next_value_seed(Strict)?));
        }
        match members.duplicate() {
            None => Ok(Value::Object(members)),
            Some(name) => Err(A::Error::custom(format_args!("duplicate member {name:?}"))),
        }
    }
}

/// A member's name, borrowed where it can be.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{FEW, parse};

    #[test]
    fn agrees_with_serde_json_on_sound_input() {
        let text = br#"{"a":[1,-2,3.5,true,null,"\u00e9"],"b":{"c":{}}}"#;
        let plain: serde_json::Value = serde_json::from_slice(text).unwrap();
        assert_eq!(parse(text).unwrap(), plain);
    }

    /// Both ways of looking for duplicates.
    #[test]
    fn a_name_is_found_twice_wherever_it_stands() {
        for count in [2, FEW, FEW + 1, 10 * FEW] {
            let names: Vec<String> = (0..count).map(|i| format!("\"n{}\":0", i * 7919)).collect();
            let sound = format!("{{{}}}", names.join(","));
            assert!(parse(sound.as_bytes()).is_ok(), "{count}");
            for twice in [0, count / 2, count - 1] {
                let bad = format!("{{{},{}}}", names.join(","), names[twice]);
                assert!(parse(bad.as_bytes()).is_err(), "{count}: {twice}");
            }
        }
    }

    #[test]
    fn refuses_what_parsers_disagree_on() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"[{"b":{"a":1,"\u0061":2}}]"#,
            "{} {}",
            "{}x",
            "",
            "\u{feff}{}",
            "nan",
            "[1e999]",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(&[b'"', 0xff, b'"']).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
