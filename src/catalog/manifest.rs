//! `slmd.json`: what a bundle holds, and the digest that names it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::digest::hex;
use crate::json;
use crate::prompt::SamplingOptions;

/// The version of the bundle format that this build reads and writes.
pub const FORMAT: u32 = 1;
/// The layout of `onnx/model.weights`: panels of eight rows. It is the same on every CPU.
pub const LAYOUT: &str = "rows8";
/// The files of a bundle besides its manifest.
pub const FILES: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    GRAPH,
    WEIGHTS,
    "tokenizer.json",
];
pub const GRAPH: &str = "onnx/model.onnx";
pub const WEIGHTS: &str = "onnx/model.weights";

/// A manifest whose members are sound: known version, whole list of files, digest that fits them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub name: String,
    pub source: Source,
    pub architecture: Architecture,
    /// What the model's makers advise; not part of the digest, since it changes no weight.
    #[serde(default, skip_serializing_if = "SamplingOptions::is_empty")]
    pub sampling: SamplingOptions,
    pub layout: String,
    pub files: BTreeMap<String, FileEntry>,
    /// SHA-256 of the weight blocks in the source's order and layout.
    pub blocks: String,
    pub digest: String,
}

/// What the bundle was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub kind: String,
    pub size: u64,
    pub sha256: String,
}

/// The model's numbers, for people and status; the graph is what counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub family: String,
    pub layers: u64,
    pub hidden: u64,
    pub feed_forward: u64,
    pub heads: u64,
    pub cached_heads: u64,
    pub vocabulary: u64,
    pub context: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub size: u64,
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let value = json::parse(bytes).map_err(|e| format!("not sound JSON: {e}"))?;
        // The version comes first: a later format may have other members.
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(format!(
                "bundle format {format:?}, but this build reads {FORMAT}; import the model again"
            ));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| e.to_string())?;
        manifest.check().map(|()| manifest)
    }

    /// The canonical digest: the same on every CPU, because the blocks count in the source's
    /// layout and not as they lie in the weights' file.
    #[must_use]
    pub fn canonical(files: &BTreeMap<String, FileEntry>, blocks: &str) -> String {
        let mut context = Context::new(&SHA256);
        context.update(format!("slmd bundle {FORMAT}\nblocks {blocks}\n").as_bytes());
        for (name, entry) in files {
            if name != WEIGHTS {
                context.update(format!("{name} {}\n", entry.sha256).as_bytes());
            }
        }
        hex(context.finish().as_ref())
    }

    fn check(&self) -> Result<(), String> {
        if self.layout != LAYOUT {
            return Err(format!("the layout {:?} is unknown", self.layout));
        }
        if !self.files.keys().map(String::as_str).eq(sorted_files()) {
            return Err("the list of files is not the one of this format".to_owned());
        }
        let hashes = self.files.values().map(|entry| &entry.sha256);
        let hashes = hashes.chain([&self.blocks, &self.digest, &self.source.sha256]);
        if let Some(bad) = hashes.into_iter().find(|hash| !is_sha256(hash)) {
            return Err(format!(
                "{bad:?} is not a SHA-256 in lower-case hexadecimal"
            ));
        }
        if self.digest != Manifest::canonical(&self.files, &self.blocks) {
            return Err("the digest doesn't fit the files' hashes".to_owned());
        }
        self.sampling.check()
    }
}

fn sorted_files() -> impl Iterator<Item = &'static str> {
    let mut files = FILES;
    files.sort_unstable();
    files.into_iter()
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
