//! Speed of the engine on the real model: prefill, decode, decode with a long context, load.
//!
//! `SLMD_GGUF` names the model's file. Prints `name value unit` lines, then one line of JSON.

use std::path::{Path, PathBuf};

use slmd::engine::{self, Family, LoadOptions, Model, Sequence};
use slmd::time::instant;

/// Best of so many runs: the machine is shared.
const RUNS: usize = 5;

fn main() {
    let mut results = Vec::new();
    let bundle = bundle();
    let threads: &[usize] = if cores() > 1 { &[1, 2] } else { &[1] };
    for &threads in threads {
        let options = LoadOptions {
            threads,
            family: Family::detect(),
        };
        let begin = instant();
        let model = Model::load(&bundle, &options).expect("the bundle loads");
        report(
            &mut results,
            format!("load_t{threads}"),
            begin.elapsed().as_secs_f64() * 1e3,
            "ms",
        );
        measure(&mut results, &model, threads);
    }
    let json: serde_json::Map<_, _> = results
        .into_iter()
        .map(|(name, value)| (name, serde_json::json!(value)))
        .collect();
    println!("{}", serde_json::Value::Object(json));
}

fn measure(results: &mut Vec<(String, f64)>, model: &Model, threads: usize) {
    let ids: Vec<u32> = (0..1536).map(|i| (i * 97 + 13) % 49_152).collect();
    let mut sequence = model.sequence(2048).expect("a sequence");
    for count in [128, 512] {
        let seconds = best(&mut sequence, 0, |s| {
            s.feed(&ids[..count]).expect("prefill");
        });
        report(
            results,
            format!("prefill_{count}_t{threads}"),
            count as f64 / seconds,
            "tokens/s",
        );
    }
    for (context, count) in [(1, 64), (1500, 32)] {
        sequence.reset();
        sequence.feed(&ids[..context]).expect("prefill");
        let seconds = best(&mut sequence, context, |s| {
            for id in &ids[..count] {
                s.feed(&[*id]).expect("decode");
            }
        });
        report(
            results,
            format!("decode_at_{context}_t{threads}"),
            count as f64 / seconds,
            "tokens/s",
        );
    }
}

fn best(sequence: &mut Sequence, from: usize, mut run: impl FnMut(&mut Sequence)) -> f64 {
    (0..RUNS)
        .map(|_| {
            sequence.truncate(from);
            let begin = instant();
            run(sequence);
            begin.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn report(results: &mut Vec<(String, f64)>, name: String, value: f64, unit: &str) {
    println!("{name} {value:.1} {unit}");
    results.push((name, value));
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The model as a bundle, imported once.
fn bundle() -> slmd::catalog::Bundle {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench/smollm2-135m-instruct");
    slmd::catalog::Bundle::open(&folder).unwrap_or_else(|_| {
        let source = std::env::var_os("SLMD_GGUF").map(PathBuf::from);
        let source = source.expect("SLMD_GGUF names the model's GGUF file");
        engine::import(&source, &folder, "smollm2-135m-instruct").expect("the import works")
    })
}
