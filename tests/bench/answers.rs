//! How many easy questions are answered rightly, by how tokens are sampled: the real model, asked in
//! process as an endpoint with its defaults would be.
//!
//! Prints each question's margin (the least lead, in nats, of the likeliest token over the next one,
//! up to the right word of the greedy answer), then how many of the seeds are answered rightly. The
//! seeds are 0, 1, …; `SEEDS` of them, 20 unless set. The first three make the score of 21 that
//! `tests/system` asks for.

#[path = "../system/questions.rs"]
mod questions;

use std::path::Path;

use slmd::for_tests::auth::Endpoint;
use slmd::for_tests::catalog::Bundle;
use slmd::for_tests::engine::text::Text;
use slmd::for_tests::engine::{LoadOptions, Model, Sampler, Sequence};
use slmd::for_tests::prompt::{Input, Message, Role, SamplingOptions};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::Timestamp;

use questions::{Question, SCORED_SEEDS};

const CONTEXT: usize = 2048;

struct Answer {
    text: String,
    tokens: usize,
    margin: f32,
}

struct Asked {
    text: Text,
    ends: Vec<u32>,
    sequence: Sequence,
}

fn main() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models/smollm2-135m-instruct");
    let bundle = Bundle::open(&bundle).expect("run `make model`");
    let model = Model::load(&bundle, &LoadOptions::default()).expect("the model loads");
    let mut asked = Asked {
        text: Text::load(&bundle.folder).expect("the text side loads"),
        ends: model.info().ends.clone(),
        sequence: model.sequence(CONTEXT).expect("there is memory"),
    };
    let questions = Question::all();
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let seeds: u64 = seeds.unwrap_or(20);
    let greedy = SamplingOptions {
        temperature: Some(0.0),
        ..SamplingOptions::default()
    };
    for question in &questions {
        let answer = asked.answer(question, greedy, 0);
        let text = answer.text.replace('\n', " ");
        let right = question.is_right(&answer.text);
        println!("{:5.2} {right:5} {} {text}", answer.margin, question.ask);
    }
    println!();
    for (name, options) in samplings(bundle.manifest.sampling) {
        asked.score(name, &questions, options, seeds);
    }
}

/// `advised`: what the bundle was imported with.
fn samplings(advised: SamplingOptions) -> [(&'static str, SamplingOptions); 7] {
    let neutral = SamplingOptions::default();
    let at = |temperature: f32, options: SamplingOptions| SamplingOptions {
        temperature: Some(temperature),
        ..options
    };
    let with = |repetition_penalty: f32, options: SamplingOptions| SamplingOptions {
        repetition_penalty: Some(repetition_penalty),
        ..options
    };
    [
        ("neutral: temperature 1", neutral),
        ("temperature 0.7", at(0.7, neutral)),
        ("the bundle's", advised),
        ("the bundle's, repetition penalty 1.1", with(1.1, advised)),
        ("the bundle's, repetition penalty 1.2", with(1.2, advised)),
        ("greedy", at(0.0, neutral)),
        (
            "greedy, repetition penalty 1.1",
            with(1.1, at(0.0, neutral)),
        ),
    ]
}

impl Asked {
    fn score(&mut self, name: &str, questions: &[Question], options: SamplingOptions, seeds: u64) {
        let (mut first, mut all, mut lengths, mut each) = (0, 0, Vec::new(), Vec::new());
        for question in questions {
            let mut of_question = 0;
            for seed in 0..seeds {
                let answer = self.answer(question, options, seed);
                let right = usize::from(question.is_right(&answer.text));
                of_question += right;
                first += if seed < SCORED_SEEDS { right } else { 0 };
                lengths.push(answer.tokens);
            }
            all += of_question;
            each.push(of_question.to_string());
        }
        lengths.sort_unstable();
        let (count, bound) = (lengths.len(), bound());
        let cut = lengths.iter().filter(|tokens| **tokens >= bound).count();
        let (median, longest) = (lengths[count / 2], lengths[count - 1]);
        let (asked, each) = (SCORED_SEEDS as usize * questions.len(), each.join(" "));
        println!(
            "{name}: {first} of {asked}; {all} of {count} ({each}); \
             {median} tokens in the median, {longest} at most, {cut} cut off at {bound}",
        );
    }

    fn answer(&mut self, question: &Question, options: SamplingOptions, seed: u64) -> Answer {
        let message = Message {
            role: Role::User,
            content: Secret::new(question.ask.clone()),
        };
        let chat = Input::Messages(vec![message]);
        let prompt = self
            .text
            .encode(&chat, Timestamp(0))
            .expect("it renders")
            .ids;
        let mut sampler = Sampler::new(options.sampling(Some(seed)), &prompt);
        self.sequence.reset();
        let mut answer = Answer {
            text: String::new(),
            tokens: 0,
            margin: f32::INFINITY,
        };
        let (mut bytes, mut next) = (Vec::new(), prompt);
        while answer.tokens < bound() {
            let logits = self.sequence.feed(&next).expect("the model runs");
            let token = sampler.pick(logits).expect("there are numbers");
            if !question.is_right(&answer.text) {
                answer.margin = answer.margin.min(lead(logits));
            }
            answer.tokens += 1;
            if self.ends.contains(&token) {
                break;
            }
            bytes.extend_from_slice(self.text.tokenizer().bytes(token));
            answer.text = String::from_utf8_lossy(&bytes).into_owned();
            next = vec![token];
        }
        answer
    }
}

fn bound() -> usize {
    Endpoint::default().default_completion_tokens as usize
}

/// How far the likeliest token is before the next one; the difference of logits is that of
/// log-probabilities.
fn lead(logits: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > best {
            (best, second) = (logit, best);
        } else if logit > second {
            second = logit;
        }
    }
    best - second
}
