//! The model on the real weights: what must not depend on batch or threads, and what is refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod answers;
mod command;
mod damage;
mod edit;
mod equal;
mod growth;
mod precision;
mod reference;
mod unusable;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use slmd::for_tests::catalog::{Bundle, GRAPH, WEIGHTS};
use slmd::for_tests::engine::{self, EngineError, Family, LoadOptions, Model};
use slmd::for_tests::prompt::SamplingOptions;

/// "The capital of France is" in SmolLM2's tokens.
const PROMPT: [u32; 5] = [504, 3575, 282, 4649, 314];
/// Steps in which the portable kernels and the CPU's own are compared.
const STEPS: u32 = 8;
/// Most that one of the 49,152 logits may differ between them.
const FAMILIES_APART: f32 = 2.0;
/// Most that their distributions may differ, in nats: as much as each may differ from float.
const FAMILIES_DIVERGENCE: f64 = 0.005;

#[test]
fn batch_and_threads_change_no_bit() {
    let ids: Vec<u32> = (0..300).map(|i| (i * 97 + 13) % 49_152).collect();
    for family in [Family::Scalar, Family::detect()] {
        let count = if family == Family::Scalar { 20 } else { 300 };
        let mut expected: Option<Vec<u32>> = None;
        for (threads, batch) in [(1, 1), (1, 300), (2, 7), (3, 64), (2, 1)] {
            let model = Model::load(bundle(), &LoadOptions { threads, family }).unwrap();
            let mut sequence = model.sequence(512).unwrap();
            let mut bits = Vec::new();
            for part in ids[..count].chunks(batch) {
                bits = sequence
                    .feed(part)
                    .unwrap()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect();
            }
            assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
            let expected = expected.get_or_insert_with(|| bits.clone());
            assert!(
                *expected == bits,
                "{family:?}, {threads} threads, batches of {batch}"
            );
        }
    }
}

/// A rounding step of difference can move an activation to the next of its 255 values, and layers
/// after it too, so families that round differently part by more than a last place.
#[test]
fn families_agree_within_a_bound() {
    let model = |family| Model::load(bundle(), &LoadOptions { threads: 2, family }).unwrap();
    let (scalar, fastest) = (model(Family::Scalar), model(Family::detect()));
    let mut scalar = scalar.sequence(64).unwrap();
    let mut fastest = fastest.sequence(64).unwrap();
    let mut next = PROMPT.to_vec();
    let (mut farthest, mut divergence) = (0f32, 0f64);
    for _ in 0..STEPS {
        let expected = scalar.feed(&next).unwrap();
        let logits = fastest.feed(&next).unwrap();
        let differences = logits.iter().zip(expected).map(|(a, b)| (a - b).abs());
        farthest = differences.fold(farthest, f32::max);
        divergence += precision::kl(expected, logits) / f64::from(STEPS);
        next = vec![argmax(expected)];
    }
    println!("logits are at most {farthest} apart, {divergence:.5} nats in the mean");
    assert!(farthest <= FAMILIES_APART, "{farthest}");
    assert!(divergence <= FAMILIES_DIVERGENCE, "{divergence} nats");
}

#[test]
fn truncating_forgets_and_the_context_is_a_limit() {
    let model = Model::load(bundle(), &LoadOptions::default()).unwrap();
    let mut sequence = model.sequence(8).unwrap();
    let first = sequence.feed(&PROMPT).unwrap().to_vec();
    sequence.feed(&[1, 2]).unwrap();
    let too_many = EngineError::ContextLength {
        needed: 9,
        context: 8,
    };
    assert_eq!(sequence.feed(&[1, 2]).unwrap_err(), too_many);
    assert_eq!(
        sequence.feed(&[49_152]).unwrap_err(),
        EngineError::UnknownToken(49_152)
    );
    sequence.truncate(4);
    assert_eq!(sequence.feed(&PROMPT[4..]).unwrap(), first);
}

#[test]
fn damaged_graphs_and_short_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let graph = std::fs::read(bundle().folder.join(GRAPH)).unwrap();
    let weights = bundle().folder.join(WEIGHTS);
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    std::os::unix::fs::symlink(&weights, folder.path().join(WEIGHTS)).unwrap();
    let generation = "generation_config.json";
    std::fs::copy(
        bundle().folder.join(generation),
        folder.path().join(generation),
    )
    .unwrap();
    let damaged = Bundle {
        folder: folder.path().to_owned(),
        ..bundle().clone()
    };
    let options = LoadOptions {
        threads: 1,
        family: Family::detect(),
    };
    let load = |bytes: &[u8]| {
        std::fs::write(folder.path().join(GRAPH), bytes).unwrap();
        Model::load(&damaged, &options).map(drop)
    };
    load(&graph).unwrap();
    for cut in (0..graph.len()).step_by(graph.len() / 100) {
        load(&graph[..cut]).unwrap_err();
    }
    // A flipped bit is refused or leaves a sound graph; it never panics.
    for at in (0..graph.len()).step_by(graph.len() / 100) {
        let mut bytes = graph.clone();
        bytes[at] ^= 1 << (at % 8);
        let _ = load(&bytes);
    }
    let foreign = replace(&graph, b"GateUp", b"MatMul");
    let error = load(&foreign).unwrap_err().to_string();
    assert!(error.contains("MatMul"), "{error}");
    std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    std::fs::write(folder.path().join(WEIGHTS), [0; 4096]).unwrap();
    let error = load(&graph).unwrap_err().to_string();
    assert!(error.contains("not inside"), "{error}");
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    u32::try_from(best.unwrap()).unwrap()
}

/// With no more advice than the file's own.
fn import(source: &Path, out: &Path, name: &str) -> Result<Bundle, Box<dyn std::error::Error>> {
    let gguf = engine::gguf::Gguf::open(source)?;
    Ok(engine::import(
        &gguf,
        out,
        name,
        SamplingOptions::default(),
    )?)
}

/// The model as a bundle, imported once.
fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let name = "smollm2-135m-instruct";
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("engine")
            .join(name);
        let bundle = import(&gguf(), &folder, name).unwrap();
        bundle.verify().unwrap();
        bundle
    })
}

fn gguf() -> PathBuf {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if let Some(path) = std::env::var_os("SLMD_GGUF") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let path = cache.or(home).unwrap_or_default().join("slmd").join(file);
    assert!(path.exists(), "the model is not there; run make model");
    path
}
