//! How the next token is picked, and who may say so: a request, its endpoint, the model's bundle.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize, Serializer};

use crate::json;

/// Makes both structs of each parameter: `name RANGE: type = the value that changes nothing, what
/// it may be`. The name is the same in requests, settings and manifests.
macro_rules! parameters {
    ($(
        $(#[doc = $doc:literal])*
        $(#[serde($($how:tt)*)])?
        $name:ident $constant:ident: $kind:ident = $neutral:literal, $range:expr;
    )*) => {
        /// How the next token is picked. Together with bundle, prompt and seed it determines the
        /// answer.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Sampling {
            $(
                $(#[doc = $doc])*
                $(#[serde($($how)*)])?
                pub $name: $kind,
            )*
            /// Absent: drawn by the engine, and recorded.
            pub seed: Option<u64>,
        }

        /// Neutral: the model's own distribution.
        impl Default for Sampling {
            fn default() -> Sampling {
                Sampling { $($name: $neutral,)* seed: None }
            }
        }

        /// The parameters that somebody has set.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct SamplingOptions {
            $(
                #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shortest")]
                pub $name: Option<$kind>,
            )*
        }

        impl SamplingOptions {
            $(pub const $constant: RangeInclusive<$kind> = $range;)*

            /// Where these are silent, `other`'s.
            #[must_use]
            pub fn or(self, other: SamplingOptions) -> SamplingOptions {
                SamplingOptions { $($name: self.$name.or(other.$name),)* }
            }

            /// Where these are silent, neutral.
            #[must_use]
            pub fn sampling(self, seed: Option<u64>) -> Sampling {
                let neutral = Sampling::default();
                Sampling { $($name: self.$name.unwrap_or(neutral.$name),)* seed }
            }

            /// The first that is out of its range, and that range.
            pub fn check(&self) -> Result<(), String> {
                $(within(stringify!($name), self.$name, &Self::$constant)?;)*
                Ok(())
            }
        }
    };
}

parameters! {
    /// 0 is greedy.
    temperature TEMPERATURE: f32 = 1.0, 0.0..=2.0;
    /// Smallest set of tokens whose probability reaches this; 1 is off. The most likely token
    /// always stays, so 0 is greedy.
    top_p TOP_P: f32 = 1.0, 0.0..=1.0;
    /// Most likely tokens kept; 0 is off.
    top_k TOP_K: u32 = 0, 0..=u32::MAX;
    /// Least probability relative to the most likely token; 0 is off.
    min_p MIN_P: f32 = 0.0, 0.0..=1.0;
    /// Divides the logits of tokens that prompt or answer hold; 1 is off.
    #[serde(skip_serializing_if = "is_one")]
    repetition_penalty REPETITION_PENALTY: f32 = 1.0, 0.1..=2.0;
    /// Taken from a token's logit as often as the answer holds it; 0 is off.
    #[serde(skip_serializing_if = "is_zero")]
    frequency_penalty FREQUENCY_PENALTY: f32 = 0.0, -2.0..=2.0;
    /// Taken from a token's logit once if the answer holds it; 0 is off.
    #[serde(skip_serializing_if = "is_zero")]
    presence_penalty PRESENCE_PENALTY: f32 = 0.0, -2.0..=2.0;
}

impl SamplingOptions {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == SamplingOptions::default()
    }
}

fn within<T: PartialOrd + Display>(
    name: &str,
    value: Option<T>,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    match value.filter(|value| !range.contains(value)) {
        None => Ok(()),
        Some(value) => {
            let (low, high) = (range.start(), range.end());
            Err(format!("{name} is {value}; it may be from {low} to {high}"))
        }
    }
}

/// With the digits of its own type, not those of a double.
fn shortest<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(json::number).serialize(to)
}

// Neutral penalties aren't recorded, as by the releases that knew none.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::float_cmp,
    reason = "the form of `skip_serializing_if`; neutral is exact"
)]
fn is_one(value: &f32) -> bool {
    *value == 1.0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form of `skip_serializing_if`"
)]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_comes_first_wins_and_silence_is_neutral() {
        let request = SamplingOptions {
            temperature: Some(0.0),
            ..SamplingOptions::default()
        };
        let bundle = SamplingOptions {
            temperature: Some(0.2),
            top_p: Some(0.9),
            ..SamplingOptions::default()
        };
        let resolved = request.or(bundle).sampling(Some(7));
        let expected = Sampling {
            temperature: 0.0,
            top_p: 0.9,
            seed: Some(7),
            ..Sampling::default()
        };
        assert_eq!(resolved, expected);
        assert!(SamplingOptions::default().is_empty() && !request.is_empty());
    }

    #[test]
    fn ranges_are_checked_and_digits_kept() {
        let read = |value| serde_json::from_value::<SamplingOptions>(value).unwrap();
        let sound = json!({"temperature": 0.2, "top_k": 40, "presence_penalty": -2});
        let options = read(sound.clone());
        assert_eq!(options.check(), Ok(()));
        assert_eq!(json!(options), sound);
        for (wrong, name) in [
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"top_p": 1.01}), "top_p"),
            (json!({"min_p": -0.1}), "min_p"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"frequency_penalty": 2.1}), "frequency_penalty"),
            (json!({"presence_penalty": -3}), "presence_penalty"),
        ] {
            let said = read(wrong).check().unwrap_err();
            assert!(said.starts_with(name), "{said}");
        }
        let nan = SamplingOptions {
            top_p: Some(f32::NAN),
            ..SamplingOptions::default()
        };
        assert!(nan.check().is_err());
    }

    #[test]
    fn records_without_penalties_read_and_neutral_ones_are_not_written() {
        let old = json!({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 7});
        let read: Sampling = serde_json::from_value(old.clone()).unwrap();
        let expected = Sampling {
            seed: Some(7),
            ..Sampling::default()
        };
        assert_eq!(read, expected);
        assert_eq!(serde_json::to_value(read).unwrap(), old);
        let penalised = Sampling {
            presence_penalty: 0.5,
            ..read
        };
        let written = serde_json::to_value(penalised).unwrap();
        assert_eq!(written["presence_penalty"], 0.5);
    }
}
