//! A request becomes a prompt: what it leaves open is its endpoint's to say, then the bundle's; what
//! it asks for is cut to the bounds of all.

use super::{Engine, Prompt};
use crate::auth::Endpoint;
use crate::identity;
use crate::prompt::{Completion, Input, Message, Role};
use crate::reason::{Refusal, RefuseReason};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What the asking principal may use for prompt and answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub tokens: u32,
    /// Whose limit it is, for the refusal: comes before the number.
    pub by: &'static str,
}

impl Engine {
    /// Renders, tokenises and checks the context. CPU-bound (milliseconds). An answer is cut to
    /// what is `allowed` besides its prompt; a prompt that leaves nothing of that is refused. A
    /// template that asks for the time is told `now`.
    pub fn prepare(
        &self,
        endpoint: &Endpoint,
        mut completion: Completion,
        allowed: Option<Allowance>,
        now: Timestamp,
    ) -> Result<Prompt, Refusal> {
        let Some(served) = self.shared.models.get(&endpoint.model) else {
            return Err(Refusal::new(RefuseReason::ModelUnavailable).detail(&endpoint.model));
        };
        instruct(&mut completion.input, endpoint.system_prompt.as_deref());
        let kept = !endpoint.text_recipients.is_empty();
        let text = kept.then(|| completion.input.json());
        let encoded = served.text.encode(&completion.input, now)?;
        let tokens = encoded.ids;
        let too_long = |detail| too_long(&completion.input, detail);
        let mut limit = endpoint.max_completion_tokens.unwrap_or(u32::MAX);
        if let Some(allowed) = allowed {
            limit = limit.min(allowed_answer(tokens.len(), allowed).map_err(too_long)?);
        }
        let asked = completion.max_completion_tokens;
        if asked.is_none() {
            limit = limit.min(endpoint.default_completion_tokens);
        }
        let bound = completion_bound(tokens.len(), served.context, asked, limit);
        let max_completion_tokens = bound.map_err(too_long)?;
        // 53 bits, so that the number survives JSON readers that know doubles only.
        let draw = || u64::from_le_bytes(identity::random()) >> 11;
        let seed = completion.seed.unwrap_or_else(draw);
        let options = completion
            .sampling
            .or(endpoint.sampling)
            .or(served.sampling);
        Ok(Prompt {
            dialect: completion.dialect,
            model: endpoint.model.clone(),
            tokens: tokens.into(),
            max_completion_tokens,
            sampling: options.sampling(Some(seed)),
            stop: completion.stop,
            model_digest: served.digest.clone(),
            kernels: self.shared.kernels,
            time: encoded.dated.then_some(now),
            text,
        })
    }
}

impl Engine {
    /// Whether this endpoint's chats can be answered with its instructions, or what is wrong with them.
    pub fn check_instructions(&self, endpoint: &Endpoint) -> Result<(), String> {
        let served = self.shared.models.get(&endpoint.model);
        let Some((served, text)) = served.zip(endpoint.system_prompt.as_deref()) else {
            return Ok(());
        };
        served.text.check_instructions(text, served.context)
    }
}

/// Puts the endpoint's instructions before a chat that brings none of its own.
fn instruct(input: &mut Input, instructions: Option<&str>) {
    let (Input::Messages(messages), Some(text)) = (input, instructions) else {
        return;
    };
    if messages.iter().all(|message| message.role != Role::System) {
        let content = Secret::new(text.to_owned());
        let role = Role::System;
        messages.insert(0, Message { role, content });
    }
}

fn too_long(input: &Input, detail: String) -> Refusal {
    Refusal::new(RefuseReason::ContextLengthExceeded)
        .detail(detail)
        .param(input.param())
}

/// How many tokens the principal's own limit leaves for the answer, or the numbers why none.
fn allowed_answer(prompt: usize, allowed: Allowance) -> Result<u32, String> {
    let Allowance { tokens, by } = allowed;
    let room = u32::try_from(prompt)
        .ok()
        .and_then(|prompt| tokens.checked_sub(prompt));
    room.filter(|room| *room > 0).ok_or_else(|| {
        format!("{by} {tokens} tokens; the prompt has {prompt}, which leaves none for the answer")
    })
}

/// How many tokens an answer may have, or the numbers why none.
fn completion_bound(
    prompt: usize,
    context: u32,
    asked: Option<u32>,
    limit: u32,
) -> Result<u32, String> {
    let exceeded =
        |rest: &str| format!("the context holds {context} tokens; the prompt has {prompt}{rest}");
    let room = u32::try_from(prompt)
        .ok()
        .and_then(|prompt| context.checked_sub(prompt));
    let Some(room) = room.filter(|room| *room > 0) else {
        return Err(exceeded(", which leaves none for the answer"));
    };
    match asked.map(|asked| asked.min(limit)) {
        Some(bound) if bound > room => Err(exceeded(&format!(" and the answer asks for {bound}"))),
        Some(bound) => Ok(bound),
        None => Ok(room.min(limit)),
    }
}

#[cfg(test)]
mod tests;
