//! Answers are the same, bit for bit, however many threads run and however the prompt is cut.
//!
//! The measure of each prompt is one thread that takes it token by token. `SLMD_TEST_MORE=1` puts
//! every size of [`SIZES`] to every prompt.

use slmd::for_tests::engine::text::Text;
use slmd::for_tests::engine::{Family, LoadOptions, Model};

use crate::{argmax, bundle};

const PROMPTS: usize = 52;
/// Tokens of the answer that are compared.
const ANSWER: usize = 3;
/// How many tokens are fed at once; `usize::MAX` is the whole prompt. 256 is what the engine
/// itself takes at most.
const SIZES: [usize; 13] = [1, 2, 3, 5, 8, 16, 31, 64, 100, 255, 256, 300, usize::MAX];

/// The next tokens, and the bits of all logits that they were picked from.
type Answer = (Vec<u32>, Vec<u32>);

#[test]
fn threads_and_chunks_change_no_bit_of_fifty_answers() {
    let more = std::env::var_os("SLMD_TEST_MORE").is_some();
    let (one, two) = (model(1), model(2));
    let mut compared = 0;
    for (number, prompt) in prompts().iter().enumerate() {
        let expected = answer(&one, prompt, 1);
        let mut check = |model: &Model, threads: usize, size: usize| {
            compared += 1;
            let found = answer(model, prompt, size);
            let what = format!("prompt {number}, {threads} threads, {size} at once");
            assert_eq!(found.0, expected.0, "{what}");
            assert!(found.1 == expected.1, "{what}: other logits");
        };
        check(&two, 2, usize::MAX);
        for (at, size) in SIZES.into_iter().enumerate() {
            // Where not all are: every size is taken by a quarter of the short prompts and by the
            // long one, by one thread and by two.
            if more {
                check(&one, 1, size);
                check(&two, 2, size);
            } else if at % 4 == number % 4 || prompt.len() > 256 {
                let (model, threads) = if at % 2 == 0 { (&two, 2) } else { (&one, 1) };
                check(model, threads, size);
            }
        }
    }
    println!("{compared} answers compared");
}

#[test]
fn every_size_of_chunk_gives_the_same_answer() {
    let more = std::env::var_os("SLMD_TEST_MORE").is_some();
    let models = [model(1), model(2)];
    let prompts = prompts();
    let some = prompts.iter().filter(|prompt| prompt.len() > 20);
    for prompt in some.take(if more { 12 } else { 2 }) {
        let expected = answer(&models[0], prompt, 1);
        for size in 1..=prompt.len() {
            for model in &models {
                assert!(answer(model, prompt, size) == expected, "{size} at once");
            }
        }
    }
}

fn model(threads: usize) -> Model {
    let family = Family::detect();
    Model::load(bundle(), &LoadOptions { threads, family }).unwrap()
}

fn answer(model: &Model, prompt: &[u32], size: usize) -> Answer {
    let mut sequence = model.sequence(prompt.len() + ANSWER).unwrap();
    let mut logits = Vec::new();
    for part in prompt.chunks(size.min(prompt.len())) {
        logits = sequence.feed(part).unwrap().to_vec();
    }
    let (mut tokens, mut bits) = (Vec::new(), Vec::new());
    for _ in 0..ANSWER {
        bits.extend(logits.iter().map(|logit| logit.to_bits()));
        let next = argmax(&logits);
        tokens.push(next);
        logits = sequence.feed(&[next]).unwrap().to_vec();
    }
    (tokens, bits)
}

/// Cut from prose: mostly short ones, and one that needs two passes of the engine.
fn prompts() -> Vec<Vec<u32>> {
    let text = Text::load(&bundle().folder).unwrap();
    let prose = include_str!("../data/divergence.txt");
    let tokens = text.tokenizer().encode_text(prose).unwrap();
    let length = |number: usize| match number {
        20 => 310,
        _ => 1 + number * 7 % 31,
    };
    let prompt = |number: usize| tokens[number * 131..][..length(number)].to_vec();
    (0..PROMPTS).map(prompt).collect()
}
