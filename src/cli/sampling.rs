//! The arguments that say how tokens are picked.

use std::ops::RangeInclusive;

use clap::Args;

use crate::prompt::SamplingOptions as Options;

#[derive(Debug, Args)]
pub(super) struct Sampling {
    /// 0 always takes the likeliest token; up to 2.
    #[arg(long, value_name = "T", value_parser = |text: &str| number(text, Options::TEMPERATURE))]
    temperature: Option<f32>,
    /// Pick from the fewest tokens that have this share of the probability; 1 is off.
    #[arg(long, value_name = "P", value_parser = |text: &str| number(text, Options::TOP_P))]
    top_p: Option<f32>,
    /// Pick from this many tokens; 0 is off.
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Pick from tokens with this share of the likeliest one's probability; 0 is off.
    #[arg(long, value_name = "P", value_parser = |text: &str| number(text, Options::MIN_P))]
    min_p: Option<f32>,
    /// Above 1, tokens of prompt and answer are less likely to come again.
    #[arg(long, value_name = "X", value_parser = |text: &str| number(text, Options::REPETITION_PENALTY))]
    repetition_penalty: Option<f32>,
    /// Above 0, tokens of the answer are, the more so the more often they are there; -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = |text: &str| number(text, Options::FREQUENCY_PENALTY))]
    frequency_penalty: Option<f32>,
    /// Above 0, tokens of the answer are, however often they are there; -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = |text: &str| number(text, Options::PRESENCE_PENALTY))]
    presence_penalty: Option<f32>,
}

impl Sampling {
    /// Those that are given.
    pub(super) fn options(&self) -> Options {
        Options {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
        }
    }
}

fn number(text: &str, range: RangeInclusive<f32>) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
}
