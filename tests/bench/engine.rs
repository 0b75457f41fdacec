//! Speed of the engine on the real model: prefill, decode, decode with a long context, load.
//!
//! `SLMD_GGUF` names the model's file, `--threads N` the worker threads. Prints one line of JSON:
//! tokens a second, and milliseconds for `load` and `first_token_128`. `tests/bench/run` sets it
//! beside its peer.

use std::path::{Path, PathBuf};

use slmd::engine::{self, Family, LoadOptions, Model, Sequence};
use slmd::time::instant;

/// Best of so many runs: the machine is shared.
const RUNS: usize = 5;

fn main() {
    let mut arguments = std::env::args();
    let threads = arguments.find(|argument| argument == "--threads");
    let threads = threads.and_then(|_| arguments.next()?.parse().ok());
    let options = LoadOptions {
        threads: threads.unwrap_or(1),
        family: Family::detect(),
    };
    let bundle = bundle();
    let begin = instant();
    let model = Model::load(&bundle, &options).expect("the bundle loads");
    let load = begin.elapsed().as_secs_f64() * 1e3;
    let mut figures = measure(&model);
    figures.insert("load".to_owned(), load.into());
    println!("{}", serde_json::Value::Object(figures));
}

fn measure(model: &Model) -> serde_json::Map<String, serde_json::Value> {
    let ids: Vec<u32> = (0..1536).map(|i| (i * 97 + 13) % 49_152).collect();
    let mut sequence = model.sequence(2048).expect("a sequence");
    let mut figures = serde_json::Map::new();
    for count in [128, 512] {
        let seconds = best(&mut sequence, 0, |s| {
            s.feed(&ids[..count]).expect("prefill");
        });
        figures.insert(format!("prefill_{count}"), (count as f64 / seconds).into());
        if count == 128 {
            figures.insert("first_token_128".to_owned(), (seconds * 1e3).into());
        }
    }
    for (name, context, count) in [("decode", 1, 64), ("decode_at_1500", 1500, 32)] {
        sequence.reset();
        sequence.feed(&ids[..context]).expect("prefill");
        let seconds = best(&mut sequence, context, |s| {
            for id in &ids[..count] {
                s.feed(&[*id]).expect("decode");
            }
        });
        figures.insert(name.to_owned(), (count as f64 / seconds).into());
    }
    figures
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

/// The model as a bundle, imported once.
fn bundle() -> slmd::catalog::Bundle {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench/smollm2-135m-instruct");
    slmd::catalog::Bundle::open(&folder).unwrap_or_else(|_| {
        let source = std::env::var_os("SLMD_GGUF").map(PathBuf::from);
        let source = source.expect("SLMD_GGUF names the model's GGUF file");
        engine::import(&source, &folder, "smollm2-135m-instruct").expect("the import works")
    })
}
