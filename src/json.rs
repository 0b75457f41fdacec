//! Strict JSON: no duplicate members, no trailing data, bounded depth.
//!
//! Two parsers that disagree on which of two equal members counts are a classic way around a
//! check (RFC 8725 section 2.4), so a duplicate is an error here, at every depth.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
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

/// A number as its text has it: a float with the digits of its own type, not those of a double.
/// Null where it is none.
pub fn number(value: impl Display) -> serde_json::Value {
    let number = value.to_string().parse::<Number>();
    number.map_or(serde_json::Value::Null, serde_json::Value::Number)
}

/// Which way a fraction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    Down,
    Up,
}

/// The largest whole number up to which every parser tells each from the next (RFC 8259 section 6).
const MAX_EXACT: u64 = 1 << 53;

/// The number that the object `bytes` holds under `name`, as a whole one. Exact, however many digits
/// it has: read from its text, because a binary fraction may lie on the other side of the next whole
/// number. `None` where it is no number, negative, or beyond 2^53.
pub fn whole(bytes: &[u8], name: &str, round: Round) -> Option<u64> {
    let members: RawMembers<'_> = serde_json::from_slice(bytes).ok()?;
    let (_, text) = members.0.iter().find(|(own, _)| own == name)?;
    whole_of(text.get(), round)
}

/// Of a number's text, which serde_json has found sound.
fn whole_of(text: &str, round: Round) -> Option<u64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // How many of the significant digits stand before the point.
    let exponent: i32 = exponent.parse().ok()?;
    let zeros = i32::try_from(digits.len() - significant.len()).ok()?;
    let point = i32::try_from(whole.len()).ok()?.checked_sub(zeros)?;
    let point = usize::try_from(point.checked_add(exponent)?.max(0)).ok()?;
    let (before, after) = significant.split_at(point.min(significant.len()));
    let scale = u32::try_from(point - before.len()).ok()?;
    let before: u64 = if before.is_empty() {
        0
    } else {
        before.parse().ok()?
    };
    let before = before.checked_mul(10_u64.checked_pow(scale)?)?;
    let rest = after.bytes().any(|digit| digit != b'0');
    let number = before + u64::from(rest && round == Round::Up);
    (number <= MAX_EXACT).then_some(number)
}

/// An object's members as they are written.
struct RawMembers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawMembers<'de>, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawMembers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            members.push((name, map.next_value()?));
        }
        Ok(RawMembers(members))
    }
}

/// Half of a surrogate pair in an escape, which no text can hold (RFC 8259 section 8.2).
#[derive(Debug, PartialEq, Eq)]
pub struct HalfPair {
    high: bool,
    at: usize,
}

impl Display for HalfPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half, other) = match self.high {
            true => ("high", "low one behind"),
            false => ("low", "high one before"),
        };
        let at = self.at;
        write!(
            f,
            "half a surrogate pair: a {half} surrogate without a {other} it, at byte {at}"
        )
    }
}

/// The first half of a surrogate pair that stands alone among the escapes of a JSON text.
pub fn half_pair(text: &str) -> Option<HalfPair> {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while at < bytes.len() {
        at += match (bytes[at], unit(at)) {
            (b'\\', Some(0xd800..=0xdbff)) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return Some(HalfPair { high: true, at }),
            },
            (b'\\', Some(0xdc00..=0xdfff)) => return Some(HalfPair { high: false, at }),
            (b'\\', _) => 2,
            _ => 1,
        };
    }
    None
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
    use proptest::prelude::*;

    use super::{FEW, MAX_EXACT, Round, parse, whole};

    fn both(number: &str) -> Option<(u64, u64)> {
        let text = format!(r#"{{"a":[1.5],"\u006e":{number},"z":{{"n":3}}}}"#);
        assert!(parse(text.as_bytes()).is_ok(), "{number}");
        let whole = |round| whole(text.as_bytes(), "n", round);
        Some((whole(Round::Down)?, whole(Round::Up)?))
    }

    #[test]
    fn numbers_are_rounded_by_their_text() {
        for (number, expected) in [
            ("0", (0, 0)),
            ("7", (7, 7)),
            ("7.0", (7, 7)),
            ("7.000e2", (700, 700)),
            ("70e-1", (7, 7)),
            ("75E-1", (7, 8)),
            ("0.00075e4", (7, 8)),
            ("0.5", (0, 1)),
            ("1e-300", (0, 1)),
            // As binary fractions these are whole.
            ("1.9999999999999999999", (1, 2)),
            ("1795500000.00000000000001", (1_795_500_000, 1_795_500_001)),
            ("9007199254740992", (MAX_EXACT, MAX_EXACT)),
            ("9007199254740992.0", (MAX_EXACT, MAX_EXACT)),
            ("9.007199254740992e15", (MAX_EXACT, MAX_EXACT)),
        ] {
            assert_eq!(both(number), Some(expected), "{number}");
        }
        for refused in [
            "-1",
            "-0.5",
            "-0.0",
            "9007199254740993",
            "9007199254740992.1",
            "1e16",
            "1e300",
            "1e-9999999999",
            "\"7\"",
            "null",
            "true",
            "[7]",
            "{}",
        ] {
            assert_eq!(both(refused), None, "{refused}");
        }
        assert_eq!(whole(b"{\"n\":1}", "m", Round::Up), None);
        assert_eq!(whole(b"[1]", "n", Round::Up), None);
    }

    proptest! {
        /// However it is written, a fraction lies between its neighbours, and a whole number is itself.
        #[test]
        fn where_the_point_stands_is_no_matter(
            number in 0..MAX_EXACT,
            fraction in "[0-9]{0,25}",
            shift in 0..30_usize,
        ) {
            let number_digits = number.to_string();
            let digits = format!("{number}{fraction}");
            let zeros = "0".repeat(shift);
            let up = number + u64::from(fraction.bytes().any(|digit| digit != b'0'));
            for written in [
                format!("{digits}{zeros}e-{}", fraction.len() + shift),
                format!("0.{zeros}{digits}E+{}", shift + number_digits.len()),
            ] {
                // A leading zero is no JSON, and a number of none has no other digit in front.
                if number > 0 {
                    prop_assert_eq!(both(&written), Some((number, up)), "{}", written);
                }
            }
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_named() {
        for (text, words) in [
            (
                r#""\ud83d""#,
                "a high surrogate without a low one behind it, at byte 1",
            ),
            (
                r#""a\ud83d\ud83d\ude00""#,
                "a high surrogate without a low one behind it, at byte 2",
            ),
            (
                r#""\ud83d\ude00\ude00""#,
                "a low surrogate without a high one before it, at byte 13",
            ),
            (r#""é\ud83dé""#, "at byte 3"),
        ] {
            assert!(parse(text.as_bytes()).unwrap_err().is_syntax(), "{text}");
            let half = super::half_pair(text).unwrap().to_string();
            assert!(half.contains(words), "{half}");
        }
        for sound in [
            r#""\ud83d\ude00""#,
            r#""\\ud83d""#,
            r#""\u00e9""#,
            r#""\u12"#,
            "",
        ] {
            assert_eq!(super::half_pair(sound), None, "{sound}");
        }
    }

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
