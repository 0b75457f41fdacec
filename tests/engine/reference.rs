//! The exact float reference: the same weights, dequantised, in plain single precision.
//!
//! Written from the llama architecture and the GGUF file alone; it shares no code with the
//! engine but the reader of the file, so that neither can hide the other's mistakes.

use std::path::Path;

use half::f16;
use slmd::for_tests::engine::gguf::{Gguf, TensorType};

pub(crate) struct Reference {
    gguf: Gguf,
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    epsilon: f32,
    rope_base: f64,
    /// Vocabulary × width: embedding and head.
    head: Vec<f32>,
}

/// Rows of equal width.
#[derive(Clone)]
pub(crate) struct Rows {
    width: usize,
    data: Vec<f32>,
}

impl Rows {
    pub(crate) fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.width..][..self.width]
    }

    fn count(&self) -> usize {
        self.data.len() / self.width
    }
}

impl Reference {
    pub(crate) fn open(path: &Path) -> Reference {
        let gguf = Gguf::open(path).unwrap();
        let number = |name: &str| gguf.metadata()[&format!("llama.{name}")].as_f64().unwrap();
        let count = |name: &str| {
            let value = gguf.metadata()[&format!("llama.{name}")].as_u64();
            usize::try_from(value.unwrap()).unwrap()
        };
        Reference {
            layers: count("block_count"),
            width: count("embedding_length"),
            heads: count("attention.head_count"),
            kv_heads: count("attention.head_count_kv"),
            epsilon: number("attention.layer_norm_rms_epsilon") as f32,
            rope_base: number("rope.freq_base"),
            head: weights(&gguf, "token_embd.weight"),
            gguf,
        }
    }

    /// The final hidden states of independent sequences that start at position 0.
    pub(crate) fn hidden(&self, windows: &[&[u32]]) -> Vec<Rows> {
        let tokens = windows.iter().flat_map(|window| window.iter());
        let embedded = tokens.flat_map(|id| &self.head[*id as usize * self.width..][..self.width]);
        let mut x = Rows {
            width: self.width,
            data: embedded.copied().collect(),
        };
        let lengths: Vec<usize> = windows.iter().map(|window| window.len()).collect();
        for layer in 0..self.layers {
            self.layer(layer, &mut x, &lengths);
        }
        let x = self.norm("output_norm", &x);
        let mut rest = x.data.as_slice();
        let split = lengths.iter().map(|length| {
            let (head, tail) = rest.split_at(length * self.width);
            rest = tail;
            Rows {
                width: self.width,
                data: head.to_vec(),
            }
        });
        split.collect()
    }

    /// The logits that belong to some final hidden states.
    pub(crate) fn logits(&self, hidden: &Rows) -> Rows {
        matmul(hidden, &self.head)
    }

    fn layer(&self, layer: usize, x: &mut Rows, lengths: &[usize]) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let linear = |part: &str, input: &Rows| {
            matmul(
                input,
                &weights(&self.gguf, &format!("{}.weight", name(part))),
            )
        };
        let normed = self.norm(&name("attn_norm"), x);
        let mut q = linear("attn_q", &normed);
        let mut k = linear("attn_k", &normed);
        let v = linear("attn_v", &normed);
        self.rotate(&mut q, self.heads, lengths);
        self.rotate(&mut k, self.kv_heads, lengths);
        add(x, &linear("attn_output", &self.attend(&q, &k, &v, lengths)));
        let normed = self.norm(&name("ffn_norm"), x);
        let mut gate = linear("ffn_gate", &normed);
        let up = linear("ffn_up", &normed);
        for (gate, up) in gate.data.iter_mut().zip(&up.data) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        add(x, &linear("ffn_down", &gate));
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let weight = weights(
            &self.gguf,
            &format!("{}.weight", name.trim_end_matches(".weight")),
        );
        let data = (0..x.count()).flat_map(|i| {
            let row = x.row(i);
            let square: f32 = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
            let scale = 1.0 / (square + self.epsilon).sqrt();
            let scaled = row.iter().zip(&weight).map(move |(v, w)| v * scale * w);
            scaled.collect::<Vec<_>>()
        });
        Rows {
            width: x.width,
            data: data.collect(),
        }
    }

    /// GGUF's llama tensors keep rotary pairs next to each other.
    fn rotate(&self, x: &mut Rows, heads: usize, lengths: &[usize]) {
        let size = x.width / heads;
        let positions = lengths.iter().flat_map(|length| 0..*length);
        for (row, position) in x.data.chunks_exact_mut(x.width).zip(positions) {
            for head in row.chunks_exact_mut(size) {
                for (i, pair) in head.chunks_exact_mut(2).enumerate() {
                    let exponent = 2.0 * i as f64 / size as f64;
                    let angle = position as f64 / self.rope_base.powf(exponent);
                    let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos - b * sin;
                    pair[1] = b * cos + a * sin;
                }
            }
        }
    }

    fn attend(&self, q: &Rows, k: &Rows, v: &Rows, lengths: &[usize]) -> Rows {
        let size = q.width / self.heads;
        let group = self.heads / self.kv_heads;
        let mut out = vec![0.0; q.data.len()];
        let mut start = 0;
        for length in lengths {
            for at in start..start + length {
                for head in 0..self.heads {
                    let (own, shared) = (head * size, head / group * size);
                    let query = &q.row(at)[own..own + size];
                    let score = |p| dot(query, &k.row(p)[shared..shared + size]);
                    let scale = 1.0 / (size as f32).sqrt();
                    let scores: Vec<f32> = (start..=at).map(|p| score(p) * scale).collect();
                    let most = scores.iter().copied().fold(f32::MIN, f32::max);
                    let shares: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
                    let sum: f32 = shares.iter().sum();
                    let out = &mut out[at * q.width + own..][..size];
                    for (share, p) in shares.iter().zip(start..=at) {
                        let value = &v.row(p)[shared..shared + size];
                        for (out, value) in out.iter_mut().zip(value) {
                            *out += share / sum * value;
                        }
                    }
                }
            }
            start += length;
        }
        Rows {
            width: q.width,
            data: out,
        }
    }
}

fn add(x: &mut Rows, other: &Rows) {
    for (x, other) in x.data.iter_mut().zip(&other.data) {
        *x += other;
    }
}

/// Rows of `x` times each row of `weights`, on two threads.
fn matmul(x: &Rows, weights: &[f32]) -> Rows {
    let outputs = weights.len() / x.width;
    let count = x.count();
    // Transposed first: each thread owns whole outputs.
    let mut by_output = vec![0.0; outputs * count];
    let share = outputs.div_ceil(2);
    std::thread::scope(|scope| {
        let parts = by_output.chunks_mut(share * count);
        for (part, weights) in parts.zip(weights.chunks(share * x.width)) {
            scope.spawn(move || {
                let outputs = part.chunks_exact_mut(count);
                for (output, weights) in outputs.zip(weights.chunks_exact(x.width)) {
                    for (i, output) in output.iter_mut().enumerate() {
                        *output = dot(x.row(i), weights);
                    }
                }
            });
        }
    });
    let transposed = (0..count).flat_map(|i| (0..outputs).map(move |j| (i, j)));
    Rows {
        width: outputs,
        data: transposed.map(|(i, j)| by_output[j * count + i]).collect(),
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    assert!(a.remainder().is_empty() && b.remainder().is_empty());
    for (a, b) in a.zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}

/// A tensor in single precision.
fn weights(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let bytes = gguf.read(tensor).unwrap();
    let float = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    let (_, size) = tensor.kind.block();
    let blocks = bytes.chunks_exact(usize::try_from(size).unwrap());
    match tensor.kind {
        TensorType::F32 => blocks
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        TensorType::Q8_0 => {
            let block = |b: &[u8]| {
                let scale = float(b);
                let values = b[2..].iter().map(move |q| scale * f32::from(*q as i8));
                values.collect::<Vec<_>>()
            };
            blocks.flat_map(block).collect()
        }
        TensorType::Q4_1 => {
            let block = |b: &[u8]| {
                let (scale, least) = (float(b), float(&b[2..]));
                let low = b[4..].iter().map(|q| q & 15);
                let high = b[4..].iter().map(|q| q >> 4);
                let values = low.chain(high).map(move |q| scale * f32::from(q) + least);
                values.collect::<Vec<_>>()
            };
            blocks.flat_map(block).collect()
        }
        other => panic!("{name} is {other:?}, which the pinned model doesn't use"),
    }
}
