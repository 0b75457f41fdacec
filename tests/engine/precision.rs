//! How far int8 activations take the answers from the exact ones, and from llama.cpp's.

use slmd::for_tests::engine::text::Text;
use slmd::for_tests::engine::{Family, LoadOptions, Model};

use crate::reference::Reference;
use crate::{argmax, bundle, gguf};

const WINDOW: usize = 256;
const WINDOWS: usize = 4;
/// Mean Kullback-Leibler divergence of the next-token distribution, in nats.
const MOST_DIVERGENCE: f64 = 0.005;
/// Two candidates whose logits are closer than this are a near tie. Both engines quantise
/// activations to int8, each with an error of its own; this bounds twice the error of the distance
/// between the two best candidates that 99 of 100 positions stay below, as
/// `divergence_from_float_is_small` measures it.
const NEAR_TIE: f32 = 0.75;

#[derive(serde::Deserialize)]
struct Golden {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    /// Distance of the two best logits at each step, in llama.cpp.
    margins: Vec<f32>,
}

#[test]
fn greedy_answers_are_those_of_llama_cpp_up_to_near_ties() {
    let golden = include_str!("../data/golden.json");
    let cases: Vec<Golden> = serde_json::from_str(golden).unwrap();
    assert!(cases.len() >= 20);
    let model = model();
    let mut equal = 0;
    for case in &cases {
        let mut sequence = model.sequence(512).unwrap();
        let mut next = argmax(sequence.feed(&case.prompt).unwrap());
        let mut step = 0;
        while next == case.greedy[step] {
            step += 1;
            if step == case.greedy.len() {
                equal += 1;
                break;
            }
            next = argmax(sequence.feed(&[next]).unwrap());
        }
        if let Some(margin) = case.margins.get(step) {
            let expected = case.greedy[step];
            println!("step {step}: {next} for {expected}, margin {margin}");
            assert!(*margin <= NEAR_TIE, "step {step} of {:?}", case.prompt);
        }
    }
    println!("{equal} of {} answers are equal", cases.len());
    assert!(equal * 2 > cases.len(), "only {equal} answers are equal");
}

#[test]
fn divergence_from_float_is_small() {
    let text = Text::load(&bundle().folder).unwrap();
    let prose = include_str!("../data/text.txt");
    let tokens = text.tokenizer().encode_text(prose).unwrap();
    let windows: Vec<&[u32]> = tokens.chunks_exact(WINDOW).take(WINDOWS).collect();
    assert_eq!(windows.len(), WINDOWS, "the text is too short");
    let reference = Reference::open(&gguf());
    let model = model();
    let mut sequence = model.sequence(WINDOW).unwrap();
    let (mut divergence, mut errors) = (0.0, Vec::new());
    for (window, hidden) in windows.iter().zip(reference.hidden(&windows)) {
        let exact = reference.logits(&hidden);
        sequence.reset();
        for (i, token) in window.iter().enumerate() {
            let logits = sequence.feed(&[*token]).unwrap();
            divergence += kl(exact.row(i), logits);
            errors.push(margin_error(exact.row(i), logits));
        }
    }
    let mean = divergence / errors.len() as f64;
    errors.sort_by(f32::total_cmp);
    let (middle, nearly_all) = (errors[errors.len() / 2], errors[errors.len() * 99 / 100]);
    println!("mean divergence {mean:.5} nats; margin error: median {middle}, 99% {nearly_all}");
    assert!(mean <= MOST_DIVERGENCE, "{mean} nats");
    assert!(
        2.0 * nearly_all <= NEAR_TIE,
        "1 margin in 100 is off by {nearly_all}"
    );
}

fn model() -> Model {
    let options = LoadOptions {
        threads: 2,
        family: Family::detect(),
    };
    Model::load(bundle(), &options).unwrap()
}

/// How far the distance of the two best candidates is from the exact one.
fn margin_error(exact: &[f32], ours: &[f32]) -> f32 {
    let first = argmax(exact) as usize;
    let others = (0..exact.len()).filter(|i| *i != first);
    let second = others
        .max_by(|a, b| exact[*a].total_cmp(&exact[*b]))
        .unwrap();
    let margin = |logits: &[f32]| logits[first] - logits[second];
    (margin(exact) - margin(ours)).abs()
}

pub(crate) fn kl(exact: &[f32], ours: &[f32]) -> f64 {
    let (p, q) = (log_softmax(exact), log_softmax(ours));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let shifted = || logits.iter().map(|l| f64::from(l - most));
    let sum = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|l| l - sum).collect()
}
