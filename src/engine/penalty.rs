//! Makes tokens that were there before less likely; by a negative penalty, more.
//!
//! The repetition penalty is the CTRL paper's (Keskar et al. 2019, section 4.1) over the whole
//! context, prompt and answer, as transformers' `RepetitionPenaltyLogitsProcessor` and vLLM have
//! it: model cards give values for that. llama.cpp looks back 64 tokens, which a longer loop
//! escapes. Frequency and presence are OpenAI's, which count what was sampled: the answer alone.
//! Repetition comes first, as in llama.cpp and vLLM.

use std::collections::BTreeMap;

use crate::prompt::Sampling;

#[derive(Debug)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// How often the answer holds each token that the context holds: no more entries than the
    /// context has tokens.
    counts: BTreeMap<u32, u32>,
    logits: Vec<f32>,
}

impl Penalties {
    /// `None`: there are none to apply.
    pub(super) fn new(settings: &Sampling, prompt: &[u32]) -> Option<Penalties> {
        let penalties = Penalties {
            repetition: settings.repetition_penalty,
            frequency: settings.frequency_penalty,
            presence: settings.presence_penalty,
            counts: prompt.iter().map(|&token| (token, 0)).collect(),
            logits: Vec::new(),
        };
        let neutral = Sampling::default();
        let is_neutral = penalties.repetition == neutral.repetition_penalty
            && penalties.frequency == neutral.frequency_penalty
            && penalties.presence == neutral.presence_penalty;
        (!is_neutral).then_some(penalties)
    }

    /// The logits with the penalties of each token that was there.
    pub(super) fn applied(&mut self, logits: &[f32]) -> &[f32] {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for (&token, &count) in &self.counts {
            let Some(logit) = self.logits.get_mut(token as usize) else {
                continue;
            };
            *logit = match *logit > 0.0 {
                true => *logit / self.repetition,
                false => *logit * self.repetition,
            };
            if count > 0 {
                *logit -= count as f32 * self.frequency + self.presence;
            }
        }
        &self.logits
    }

    /// The answer goes on with `token`.
    pub(super) fn note(&mut self, token: u32) {
        let count = self.counts.entry(token).or_default();
        *count = count.saturating_add(1);
    }
}
