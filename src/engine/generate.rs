//! One answer: feeds the prompt in chunks, then picks and feeds token after token until something
//! ends it. Between any two steps it looks whether it should stop.

use std::time::Instant;

use aws_lc_rs::digest;

use super::detokenise::Detokeniser;
use super::sample::Sampler;
use super::stop::StopMatcher;
use super::tokenizer::Tokenizer;
use super::{EngineError, Prompt, Sequence};
use crate::prompt::{AnswerSender, Finish, Interrupt, Usage};
use crate::secret::{Secret, Wiped};
use crate::time;

/// Prompt tokens between two looks at interrupt, deadline and client: some hundred milliseconds
/// on a slow core.
const CHUNK: usize = 64;

/// The model as generation sees it: a sequence that grows.
pub(super) trait Forward {
    /// Appends `tokens`; gives the logits of the last position.
    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError>;
    /// Tokens that the sequence holds.
    fn len(&self) -> usize;
    /// Forgets all tokens.
    fn reset(&mut self);
}

impl Forward for Sequence {
    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        Sequence::feed(self, tokens)
    }

    fn len(&self) -> usize {
        self.fed()
    }

    fn reset(&mut self) {
        Sequence::reset(self);
    }
}

/// What one answer is made of and bounded by.
pub(super) struct Run<'a> {
    pub(super) prompt: &'a Prompt,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) eos: &'a [u32],
    /// Tokens that the sequence can hold.
    pub(super) context: usize,
    pub(super) deadline: Option<Instant>,
    pub(super) interrupt: &'a Interrupt,
}

/// How far an answer has come; true at any moment, so that it tells the truth after a panic too.
pub(super) struct Progress {
    /// Tokens fed and picked; the token that ends the turn counts.
    pub(super) usage: Usage,
    pub(super) first_token: Option<Instant>,
    hash: digest::Context,
    /// What was sent, where it is kept.
    text: Option<Wiped>,
}

impl Progress {
    pub(super) fn new(prompt: &Prompt) -> Progress {
        Progress {
            text: prompt.text.as_ref().map(|_| Wiped::default()),
            usage: Usage::default(),
            first_token: None,
            hash: digest::Context::new(&digest::SHA256),
        }
    }

    /// The text that was sent, where it is kept. What was sent is text.
    pub(super) fn take_text(&mut self) -> Option<Secret<String>> {
        self.text.take()?.into_text()
    }

    /// SHA-256 of the text that was sent.
    pub(super) fn answer_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.hash.clone().finish().as_ref());
        hash
    }
}

/// One answer on its way.
pub(super) struct Generation<'a> {
    pub(super) forward: &'a mut dyn Forward,
    pub(super) run: Run<'a>,
    pub(super) answer: &'a mut AnswerSender,
    pub(super) progress: &'a mut Progress,
    /// Called after every chunk and token.
    pub(super) step: &'a mut dyn FnMut(),
}

impl Generation<'_> {
    /// Runs the answer to its end, on a sequence that is emptied first.
    pub(super) fn run(mut self) -> Result<Finish, EngineError> {
        let prompt = self.run.prompt;
        let mut sampler = Sampler::new(prompt.sampling, &prompt.tokens);
        let mut text = TextOut::new(&prompt.stop);
        self.forward.reset();
        let mut next = match self.prefill(&mut sampler)? {
            Ok(first) => first,
            Err(finish) => return Ok(finish),
        };
        let finish = loop {
            if let Some(finish) = self.take(next, &mut text) {
                break finish;
            }
            (self.step)();
            if let Some(finish) = self.interrupted() {
                break finish;
            }
            next = pick(&mut sampler, self.forward.feed(&[next])?)?;
        };
        self.send(text.finish());
        Ok(finish)
    }

    /// Feeds the prompt; gives the first token, or what ended the answer before it.
    fn prefill(&mut self, sampler: &mut Sampler) -> Result<Result<u32, Finish>, EngineError> {
        let tokens = &self.run.prompt.tokens;
        let mut first = None;
        for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
            if let Some(finish) = self.interrupted() {
                return Ok(Err(finish));
            }
            let logits = self.forward.feed(chunk)?;
            self.progress.usage.prompt_tokens += chunk.len() as u32;
            if (index + 1) * CHUNK >= tokens.len() {
                first = Some(pick(sampler, logits)?);
            }
            (self.step)();
        }
        first
            .map(Ok)
            .ok_or_else(|| EngineError::Failed("the prompt is empty".to_owned()))
    }

    /// Takes a picked token into the answer; says whether the answer ends with it.
    fn take(&mut self, token: u32, text: &mut TextOut) -> Option<Finish> {
        self.progress.usage.completion_tokens += 1;
        self.progress.first_token.get_or_insert_with(time::instant);
        if self.run.eos.contains(&token) {
            return Some(Finish::Stop);
        }
        let stopped = text.push(self.run.tokenizer.bytes(token));
        self.send(text.ready());
        let used_up = self.progress.usage.completion_tokens
            >= self.run.prompt.max_completion_tokens
            || self.forward.len() >= self.run.context;
        match (stopped, used_up) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        }
    }

    /// Whether something from outside ends the answer.
    fn interrupted(&self) -> Option<Finish> {
        departed(self.answer, self.run.interrupt, self.run.deadline)
    }

    fn send(&mut self, text: &str) {
        if !text.is_empty() {
            self.progress.hash.update(text.as_bytes());
            if let Some(kept) = &mut self.progress.text {
                kept.push(text.as_bytes());
            }
            self.answer.send(text);
        }
    }
}

/// Why an answer isn't wanted any more, if so.
pub(super) fn departed(
    answer: &AnswerSender,
    interrupt: &Interrupt,
    deadline: Option<Instant>,
) -> Option<Finish> {
    if let Some(cause) = interrupt.raised() {
        return Some(cause);
    }
    if answer.is_closed() {
        return Some(Finish::Cancelled);
    }
    let passed = deadline.is_some_and(|deadline| time::instant() >= deadline);
    passed.then_some(Finish::Deadline)
}

fn pick(sampler: &mut Sampler, logits: &[f32]) -> Result<u32, EngineError> {
    let token = sampler.pick(logits);
    token.ok_or_else(|| EngineError::Failed("the model's output holds no number".to_owned()))
}

/// Tokens' bytes to text that may be shown. Its buffers are used again for every token.
struct TextOut {
    detokeniser: Detokeniser,
    stop: StopMatcher,
    characters: String,
    ready: String,
}

impl TextOut {
    fn new(stops: &[String]) -> TextOut {
        TextOut {
            detokeniser: Detokeniser::default(),
            stop: StopMatcher::new(stops),
            characters: String::new(),
            ready: String::new(),
        }
    }

    /// True once a stop sequence is met.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.ready.clear();
        self.characters.clear();
        self.detokeniser.push(bytes, &mut self.characters);
        self.stop.push(&self.characters, &mut self.ready)
    }

    /// What the last call made ready.
    fn ready(&self) -> &str {
        &self.ready
    }

    /// The rest, at the answer's end.
    fn finish(&mut self) -> &str {
        self.ready.clear();
        self.stop.finish(&mut self.ready);
        &self.ready
    }
}

#[cfg(test)]
mod tests;
