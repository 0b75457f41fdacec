//! The llama family: its GGUF metadata, its configuration files and its fused graph.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use tract_onnx::pb::NodeProto;

use super::gguf::{Gguf, Value};
use super::graph::{INPUT, OUTPUT};
use super::graph_node::Node;
use super::import_weights::{ImportError, Order, Weights, unsupported};
use super::ops::{AttentionSpec, EmbedSpec, GateUpSpec, LinearSpec, NormSpec};

/// Token texts that end an answer in models whose metadata names only one of them.
const END_TEXTS: [&str; 5] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "</s>",
];
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// The tensors of a layer.
const LAYER: [&str; 9] = [
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];
const MAX_LAYERS: u64 = 1024;
/// Where int8 activations cost the most precision, they get a second plane
/// (tests/bench/README.md has the divergence with and without).
const HEAD_PLANES: usize = 2;
const QKV_PLANES: usize = 2;
const MAX_DIMENSION: u64 = 1 << 24;

/// The numbers of a llama model.
#[derive(Debug, Clone)]
pub(super) struct Llama {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    pub(super) cached_heads: usize,
    pub(super) dimension: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    epsilon: f32,
    rope_base: f32,
    /// The head's bytes are the embedding's.
    tied: bool,
    beginning: Option<u64>,
    ends: Vec<u64>,
}

impl Llama {
    pub(super) fn read(gguf: &Gguf) -> Result<Llama, ImportError> {
        let metadata = gguf.metadata();
        let architecture = metadata.get("general.architecture").and_then(Value::as_str);
        if architecture != Some("llama") {
            let name = metadata.get("general.name").and_then(Value::as_str);
            let name = name.map_or_else(String::new, |name| format!("{name:?} is no llama: "));
            let architecture = architecture.unwrap_or("missing");
            return Err(unsupported(format!(
                "{name}its architecture (general.architecture) is {architecture}; llama is supported"
            )));
        }
        let number = |key: &str, most: u64| {
            let value = metadata.get(key).and_then(Value::as_u64);
            match value {
                Some(n) if (1..=most).contains(&n) => Ok(n as usize),
                _ => Err(unsupported(format!("{key} is {value:?}"))),
            }
        };
        let hidden = number("llama.embedding_length", MAX_DIMENSION)?;
        let heads = number("llama.attention.head_count", MAX_DIMENSION)?;
        let dimension = match metadata.get("llama.attention.key_length") {
            Some(_) => number("llama.attention.key_length", MAX_DIMENSION)?,
            None => hidden / heads,
        };
        let llama = Llama {
            layers: number("llama.block_count", MAX_LAYERS)?,
            hidden,
            feed_forward: number("llama.feed_forward_length", MAX_DIMENSION)?,
            heads,
            cached_heads: match metadata.get("llama.attention.head_count_kv") {
                Some(_) => number("llama.attention.head_count_kv", MAX_DIMENSION)?,
                None => heads,
            },
            dimension,
            vocabulary: gguf.tensor("token_embd.weight")?.columns_rows().1 as usize,
            context: number("llama.context_length", MAX_DIMENSION)?,
            epsilon: float(gguf, "llama.attention.layer_norm_rms_epsilon", None)?,
            rope_base: float(gguf, "llama.rope.freq_base", Some(10_000.0))?,
            tied: !gguf.tensors().contains_key("output.weight"),
            beginning: metadata
                .get("tokenizer.ggml.bos_token_id")
                .and_then(Value::as_u64),
            ends: ends(gguf),
        };
        llama.check(gguf).map(|()| llama)
    }

    /// Refuses what would be silently wrong.
    fn check(&self, gguf: &Gguf) -> Result<(), ImportError> {
        let scaling = gguf.metadata().get("llama.rope.scaling.type");
        if scaling.is_some_and(|s| s.as_str() != Some("none")) {
            let scaling = scaling.and_then(Value::as_str).unwrap_or("unknown");
            return Err(unsupported(format!(
                "its rotary positions are scaled (llama.rope.scaling.type is {scaling})"
            )));
        }
        let rotated = gguf.metadata().get("llama.rope.dimension_count");
        let whole = rotated.is_none_or(|n| n.as_u64() == Some(self.dimension as u64));
        if !whole || !self.heads.is_multiple_of(self.cached_heads) {
            return Err(unsupported("its heads are cut unevenly".to_owned()));
        }
        if let Some(experts @ 1..) = number(gguf, "llama.expert_count") {
            return Err(unsupported(format!("it is a mixture of {experts} experts")));
        }
        self.check_tensors(gguf)?;
        for (what, id) in [("bos", self.beginning), ("eos", number(gguf, EOS))] {
            if let Some(id) = id.filter(|id| *id >= self.vocabulary as u64) {
                return Err(unsupported(format!(
                    "tokenizer.ggml.{what}_token_id is {id}, which is none of the {} tokens",
                    self.vocabulary
                )));
            }
        }
        if self.ends.is_empty() {
            return Err(unsupported(format!(
                "it names no token that ends an answer ({EOS}), so none would end by itself"
            )));
        }
        Ok(())
    }

    /// What a plain llama has is there, and nothing more.
    fn check_tensors(&self, gguf: &Gguf) -> Result<(), ImportError> {
        let layers = 0..self.layers;
        let of_layers = layers.flat_map(|i| LAYER.map(|name| format!("blk.{i}.{name}.weight")));
        let mut plain: BTreeSet<String> = of_layers.collect();
        plain.extend(["token_embd.weight", "output_norm.weight"].map(str::to_owned));
        if !self.tied {
            plain.insert("output.weight".to_owned());
        }
        let found: BTreeSet<String> = gguf.tensors().keys().cloned().collect();
        let told = |what: &str, mut names: std::collections::btree_set::Difference<'_, String>| {
            let first = names.next()?;
            let rest = match names.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Some(unsupported(format!("{what} {first}{rest}")))
        };
        let lacks = told("it lacks tensors of a llama:", plain.difference(&found));
        let other = told(
            "it has tensors that no plain llama has:",
            found.difference(&plain),
        );
        lacks.or(other).map_or(Ok(()), Err)
    }

    /// `config.json` as Hugging Face has it.
    pub(super) fn config(&self) -> Json {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.cached_heads,
            "head_dim": self.dimension,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": shortest(self.epsilon),
            "rope_theta": shortest(self.rope_base),
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.beginning,
            "eos_token_id": self.ends.first(),
        })
    }

    /// `generation_config.json`: what begins and ends an answer.
    pub(super) fn generation(&self) -> Json {
        json!({ "bos_token_id": self.beginning, "eos_token_id": self.ends })
    }

    fn norm(&self, weights: &mut Weights<'_>, name: &str) -> Result<NormSpec, ImportError> {
        Ok(NormSpec {
            weights: weights.vector(name, self.hidden)?,
            epsilon: self.epsilon,
        })
    }
}

/// Writes the weights in the order of the graph and gives its nodes.
pub(super) fn nodes(
    llama: &Llama,
    weights: &mut Weights<'_>,
) -> Result<Vec<NodeProto>, ImportError> {
    let embedding = weights.matrix(&[("token_embd.weight", Order::AsIs)], llama.hidden)?;
    let mut list = Vec::with_capacity(2 + 5 * llama.layers);
    let embed = Node::Embed(EmbedSpec { matrix: embedding });
    list.push(node(embed, &[INPUT], "embed"));
    let mut stream = "embed".to_owned();
    for layer in 0..llama.layers {
        stream = block(llama, weights, layer, &stream, &mut list)?;
    }
    let head = Node::Linear(LinearSpec {
        matrix: match llama.tied {
            true => embedding,
            false => weights.matrix(&[("output.weight", Order::AsIs)], llama.hidden)?,
        },
        norm: Some(llama.norm(weights, "output_norm.weight")?),
        planes: HEAD_PLANES,
        last: true,
    });
    list.push(node(head, &[&stream], OUTPUT));
    Ok(list)
}

/// One layer: five nodes. Gives the name of the residual stream after it.
fn block(
    llama: &Llama,
    weights: &mut Weights<'_>,
    layer: usize,
    stream: &str,
    list: &mut Vec<NodeProto>,
) -> Result<String, ImportError> {
    let tensor = |name: &str| format!("blk.{layer}.{name}.weight");
    let value = |name: &str| format!("layers.{layer}.{name}");
    let halves = Order::Halves(llama.dimension);
    let width = llama.heads * llama.dimension;
    let (q, k, v) = (tensor("attn_q"), tensor("attn_k"), tensor("attn_v"));
    let parts = [(q.as_str(), halves), (&k, halves), (&v, Order::AsIs)];
    let qkv = LinearSpec {
        matrix: weights.matrix(&parts, llama.hidden)?,
        norm: Some(llama.norm(weights, &tensor("attn_norm"))?),
        planes: QKV_PLANES,
        last: false,
    };
    let attention = AttentionSpec {
        heads: llama.heads,
        cached_heads: llama.cached_heads,
        dimension: llama.dimension,
        rope_base: llama.rope_base,
        context: llama.context,
    };
    let mut plain = |name: &str, columns| {
        let matrix = weights.matrix(&[(tensor(name).as_str(), Order::AsIs)], columns)?;
        Ok::<_, ImportError>(LinearSpec {
            matrix,
            norm: None,
            planes: 1,
            last: false,
        })
    };
    let output = plain("attn_output", width)?;
    let gate = plain("ffn_gate", llama.hidden)?.matrix;
    let up = plain("ffn_up", llama.hidden)?.matrix;
    let down = plain("ffn_down", llama.feed_forward)?;
    if (gate.rows, gate.format) != (up.rows, up.format) {
        return Err(unsupported(format!("layer {layer}'s gate and up differ")));
    }
    let gate_up = GateUpSpec {
        gate,
        up,
        norm: llama.norm(weights, &tensor("ffn_norm"))?,
        planes: 1,
    };
    let [a, b, c, d, e] = ["qkv", "attention", "attended", "gate_up", "out"].map(value);
    list.push(node(Node::Linear(qkv), &[stream], &a));
    list.push(node(Node::Attention(attention), &[&a], &b));
    list.push(node(Node::Linear(output), &[&b, stream], &c));
    list.push(node(Node::GateUp(gate_up), &[&c], &d));
    list.push(node(Node::Linear(down), &[&d, &c], &e));
    Ok(e)
}

fn node(node: Node, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{output}_node"),
        ..node.write()
    }
}

/// The ids that end an answer: what the metadata names, and control tokens known to mean it.
fn ends(gguf: &Gguf) -> Vec<u64> {
    let metadata = gguf.metadata();
    let mut ends: Vec<u64> = ["eos", "eot"]
        .iter()
        .filter_map(|name| metadata.get(&format!("tokenizer.ggml.{name}_token_id")))
        .filter_map(Value::as_u64)
        .collect();
    let list = |key: &str| metadata.get(key).and_then(Value::as_array).unwrap_or(&[]);
    let types = list("tokenizer.ggml.token_type");
    for (id, token) in list("tokenizer.ggml.tokens").iter().enumerate() {
        // Type 3 is ggml's for control tokens.
        let control = types.get(id).and_then(Value::as_u64) == Some(3);
        if control && token.as_str().is_some_and(|text| END_TEXTS.contains(&text)) {
            ends.push(id as u64);
        }
    }
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    ends
}

fn number(gguf: &Gguf, key: &str) -> Option<u64> {
    gguf.metadata().get(key).and_then(Value::as_u64)
}

fn float(gguf: &Gguf, key: &str, default: Option<f64>) -> Result<f32, ImportError> {
    let value = gguf.metadata().get(key);
    match value.map_or(default, Value::as_f64) {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x as f32),
        _ => Err(unsupported(format!("{key} is {value:?}"))),
    }
}

/// A float as JSON with its own digits, not those of its double.
fn shortest(x: f32) -> f64 {
    // A float's shortest text always parses.
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}
