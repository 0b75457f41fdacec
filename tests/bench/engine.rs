//! The engine's own side of `tests/bench/engine.py`, one measurement a process.
//!
//! - `speed`: tokens a second of prefill and decode, milliseconds of the model's load
//! - `prefill`, `decode`: of one of them alone
//! - `deep`: decode with 1,500 tokens of context; its process is the one whose memory is measured
//! - `bandwidth`: bytes a second that so many threads read from memory, and the bytes of a token
//! - `divergence FILE`: mean divergence from the log-probabilities that llama-perplexity wrote
//!
//! `--threads N` says how many threads; each prints one line of JSON, a list of samples a figure.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use serde_json::{Value, json};
use slmd::for_tests::catalog::{Bundle, WEIGHTS};
use slmd::for_tests::engine::text::Text;
use slmd::for_tests::engine::{Family, LoadOptions, Model, Sequence};
use slmd::for_tests::time::instant;

/// As many as `llama-bench` is asked for; one more before them is thrown away, as there.
const SAMPLES: usize = 3;
const DEPTH: usize = 1500;
const DEEP_TOKENS: usize = 32;
/// Eight times the largest last-level cache of the machines at hand.
const BUFFER: usize = 256 << 20;
const PASSES: usize = 6;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let threads = after("--threads").map_or(1, |n| n.parse().expect("--threads takes a number"));
    let figures = match arguments.first().map(String::as_str) {
        Some("speed") => speed(threads),
        Some("prefill") => json!({"prefill_512": prefill(&mut sequence(&load(threads), 512), 512)}),
        Some("decode") => json!({"decode": decode(&mut sequence(&load(threads), 128))}),
        Some("deep") => deep(threads),
        Some("bandwidth") => bandwidth(threads),
        Some("divergence") => {
            let base = after("divergence").expect("divergence takes llama-perplexity's file");
            divergence(threads, Path::new(base))
        }
        other => panic!("speed, prefill, decode, deep, bandwidth or divergence, not {other:?}"),
    };
    println!("{figures}");
}

fn load(threads: usize) -> Model {
    let family = Family::detect();
    Model::load(&bundle(), &LoadOptions { threads, family }).expect("the bundle loads")
}

fn sequence(model: &Model, context: usize) -> Sequence {
    model.sequence(context).expect("a sequence")
}

/// Tokens without meaning, as `llama-bench` takes them.
fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 97 + 13) % 49_152).collect()
}

fn speed(threads: usize) -> Value {
    let begin = instant();
    let model = load(threads);
    let load = begin.elapsed().as_secs_f64() * 1e3;
    let mut sequence = sequence(&model, 512);
    json!({
        "load": [load],
        "prefill_128": prefill(&mut sequence, 128),
        "prefill_512": prefill(&mut sequence, 512),
        "decode": decode(&mut sequence),
    })
}

fn prefill(sequence: &mut Sequence, count: usize) -> Vec<f64> {
    let ids = ids(count);
    samples(count, || {
        sequence.reset();
        sequence.feed(&ids).expect("prefill");
    })
}

fn decode(sequence: &mut Sequence) -> Vec<f64> {
    let ids = ids(64);
    samples(ids.len(), || {
        sequence.reset();
        for id in &ids {
            sequence.feed(&[*id]).expect("decode");
        }
    })
}

/// With the text side loaded too, so that the memory is what a whole engine needs.
fn deep(threads: usize) -> Value {
    let text = Text::load(&bundle().folder).expect("the bundle's text side");
    let model = load(threads);
    let mut sequence = sequence(&model, DEPTH + DEEP_TOKENS);
    let ids = ids(DEPTH);
    sequence.feed(&ids).expect("prefill");
    let figures = samples(DEEP_TOKENS, || {
        sequence.truncate(DEPTH);
        for id in &ids[..DEEP_TOKENS] {
            sequence.feed(&[*id]).expect("decode");
        }
    });
    json!({"decode_at_1500": figures, "tokens": text.tokenizer().ids()})
}

/// Tokens a second, after one run to warm up.
fn samples(tokens: usize, mut run: impl FnMut()) -> Vec<f64> {
    run();
    let rate = |_| {
        let begin = instant();
        run();
        tokens as f64 / begin.elapsed().as_secs_f64()
    };
    (0..SAMPLES).map(rate).collect()
}

/// The best of several ways to read: this is what the machine can do, not what it does at first.
fn bandwidth(threads: usize) -> Value {
    let path = bundle().folder.join(WEIGHTS);
    let file = File::open(&path).expect("the bundle's weights");
    // SAFETY: bundles' files are replaced by rename, never changed in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.expect("the weights can be mapped");
    // SAFETY: every bit pattern is a number.
    let (_, weights, _) = unsafe { map.align_to::<u64>() };
    let buffer: Vec<u64> = (0..BUFFER as u64 / 8).collect();
    json!({
        "bandwidth": [best_rate(&buffer, threads)],
        "bandwidth_of_weights": [best_rate(weights, threads)],
        "bytes_a_token": map.len(),
    })
}

fn best_rate(data: &[u64], threads: usize) -> f64 {
    let ways: [fn(&[u64]) -> u64; 3] = [read::<1>, read::<2>, read::<4>];
    let seconds = ways.iter().map(|way| {
        let barrier = Barrier::new(threads);
        std::thread::scope(|scope| {
            let parts = data.chunks(data.len().div_ceil(threads));
            let parts: Vec<_> = parts
                .map(|part| scope.spawn(|| passes(part, *way, &barrier)))
                .collect();
            let times = parts.into_iter().map(|part| part.join().expect("a reader"));
            times.fold(0.0, f64::max)
        })
    });
    size_of_val(data) as f64 / seconds.fold(f64::MAX, f64::min)
}

/// Seconds of the quickest pass, from all threads' start to all threads' end.
fn passes(part: &[u64], way: fn(&[u64]) -> u64, barrier: &Barrier) -> f64 {
    let pass = |_| {
        barrier.wait();
        let begin: Instant = instant();
        std::hint::black_box(way(std::hint::black_box(part)));
        barrier.wait();
        begin.elapsed().as_secs_f64()
    };
    (0..PASSES).map(pass).fold(f64::MAX, f64::min)
}

fn read<const STREAMS: usize>(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { sum_avx2::<STREAMS>(data) };
    }
    sum::<STREAMS>(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2<const STREAMS: usize>(data: &[u64]) -> u64 {
    sum::<STREAMS>(data)
}

/// Reads some places at once, a cache line from each in turn.
#[inline(always)]
fn sum<const STREAMS: usize>(data: &[u64]) -> u64 {
    let len = data.len() / STREAMS;
    let streams: [&[[u64; 8]]; STREAMS] =
        std::array::from_fn(|s| data[s * len..][..len].as_chunks().0);
    let mut sums = [[0u64; 8]; STREAMS];
    for at in 0..len / 8 {
        for (stream, sums) in streams.iter().zip(&mut sums) {
            for (sum, value) in sums.iter_mut().zip(&stream[at]) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }
    sums.as_flattened()
        .iter()
        .fold(0, |sum, one| sum.wrapping_add(*one))
}

/// What llama-perplexity's `--kl-divergence` computes (`tools/perplexity/perplexity.cpp`), for our
/// logits: the file holds windows of tokens and, for the second half of each, 16-bit
/// log-probabilities with a scale and a minimum.
fn divergence(threads: usize, path: &Path) -> Value {
    let mut file = BufReader::new(File::open(path).expect("llama-perplexity's file"));
    let mut magic = [0; 8];
    file.read_exact(&mut magic).expect("the file's beginning");
    assert_eq!(&magic, b"_logits_");
    let [window, vocabulary, windows] = [(); 3].map(|()| word(&mut file) as usize);
    let tokens: Vec<u32> = (0..window * windows).map(|_| word(&mut file)).collect();
    let model = load(threads);
    assert_eq!(model.info().vocabulary, vocabulary);
    let mut sequence = sequence(&model, window);
    let mut record = vec![0; (vocabulary.div_ceil(2) * 2 + 4) * 2];
    let (mut divergences, mut same) = (Vec::new(), 0);
    for tokens in tokens.chunks(window) {
        sequence.reset();
        let (before, scored) = tokens[..window - 1].split_at(window / 2);
        sequence.feed(before).expect("prefill");
        for token in scored {
            let logits = sequence.feed(&[*token]).expect("decode");
            file.read_exact(&mut record).expect("a position's record");
            let (divergence, agree) = compare(&record, logits);
            divergences.push(divergence);
            same += usize::from(agree);
        }
    }
    let count = divergences.len() as f64;
    let mean = divergences.iter().sum::<f64>() / count;
    let square = divergences.iter().map(|d| d * d).sum::<f64>() / count;
    let error = ((square - mean * mean) / (count - 1.0)).sqrt();
    json!({"divergence": mean, "error": error, "positions": divergences.len(),
        "same_top": same as f64 / count})
}

fn word(file: &mut impl Read) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).expect("the file's header");
    u32::from_le_bytes(bytes)
}

/// The divergence of one position, and whether both think the same token likeliest.
fn compare(record: &[u8], logits: &[f32]) -> (f64, bool) {
    let float = |at: usize| {
        let bytes = record[at..at + 4].try_into().expect("four bytes");
        f32::from_le_bytes(bytes)
    };
    let (scale, least) = (float(0), float(4));
    let base = record[8..].chunks_exact(2);
    let base = base.map(|b| scale * f32::from(u16::from_le_bytes([b[0], b[1]])) + least);
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    let norm = f64::from(most) + sum.ln();
    let (mut divergence, mut top) = (0.0, (f32::MIN, f32::MIN));
    for (p, logit) in base.zip(logits) {
        if p > top.0 {
            top = (p, *logit);
        }
        // Below this the file's sixteen bits end.
        if p > -16.0 {
            divergence += f64::from(p).exp() * (f64::from(p) - f64::from(*logit) + norm);
        }
    }
    (divergence, top.1 >= most)
}

/// The bundle that `make model` makes.
fn bundle() -> Bundle {
    let folder = std::env::var_os("SLMD_BUNDLE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models/smollm2-135m-instruct"),
        PathBuf::from,
    );
    Bundle::open(&folder).expect("the bundle is there; run make model")
}
