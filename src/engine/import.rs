//! GGUF to bundle: the blocks stay bit for bit what they are and are laid out for the kernels;
//! the graph is written fused.
//!
//! The bundle is made in a temporary folder, synced, loaded as the daemon loads it, and renamed
//! into place: a crash leaves either a whole bundle or none, and a model that can't be served
//! takes nobody's place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::check::check;
use super::gguf::{Gguf, Metadata, TensorType, Value};
use super::graph;
use super::import_llama::{Llama, nodes};
use super::import_sampling::sampling;
use super::import_weights::{ImportError, Weights, unsupported};
use super::text::Text;
use super::tokenizer;
use crate::catalog::{
    Architecture, Bundle, FORMAT, FileEntry, GRAPH, LAYOUT, MANIFEST, Manifest, Source, WEIGHTS,
    is_name,
};
use crate::digest::{hex, sha256};
use crate::prompt::SamplingOptions;

/// Imports a GGUF file, which may have been opened as another user, as the bundle folder `out`,
/// which is replaced if it exists. `advised` comes before what the file itself says of sampling.
pub fn import(
    gguf: &Gguf,
    out: &Path,
    name: &str,
    advised: SamplingOptions,
) -> Result<Bundle, ImportError> {
    if !is_name(name) {
        return Err(unsupported(format!("{name:?} can't be a model's name")));
    }
    check_kind(gguf.metadata()).map_err(unsupported)?;
    let llama = Llama::read(gguf)?;
    check_types(gguf).map_err(unsupported)?;
    let sampling = sampling(gguf.metadata(), advised).map_err(unsupported)?;
    let tokens = text_files(gguf, &llama)?;
    let temporary = temporary(out)?;
    let _ = fs::remove_dir_all(&temporary);
    if let Some(models) = temporary.parent() {
        fs::create_dir_all(models)?;
    }
    // Ours alone: one that somebody else has made meanwhile is an error.
    fs::create_dir(&temporary)?;
    let result = write(gguf, &llama, &tokens, &temporary, (name, sampling));
    let result = result.and_then(|()| {
        check(&Bundle::open(&temporary)?)?;
        Ok(replace(&temporary, out)?)
    });
    if result.is_err() {
        // The error that counts is the first.
        let _ = fs::remove_dir_all(&temporary);
    }
    result?;
    Ok(Bundle::open(out)?)
}

/// Refuses what is no whole model.
fn check_kind(metadata: &Metadata) -> Result<(), String> {
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64);
    if let Some(count @ 2..) = number("split.count") {
        let part = number("split.no").map_or_else(String::new, |no| format!(" {}", no + 1));
        return Err(format!(
            "it is part{part} of {count} of a split file; join them by llama.cpp's \
             `llama-gguf-split --merge FIRST-PART OUT` and import that"
        ));
    }
    match metadata.get("general.type").and_then(Value::as_str) {
        None | Some("model") => Ok(()),
        Some("adapter") => Err("it is an adapter (LoRA); merge it into its model first".to_owned()),
        Some(kind) => Err(format!("it is no model, but of type {kind:?}")),
    }
}

/// Refuses types of weights that the kernels don't have, all at once.
fn check_types(gguf: &Gguf) -> Result<(), String> {
    let mut unknown: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for (name, tensor) in gguf.tensors() {
        let is_vector = tensor.shape.len() == 1;
        match tensor.kind {
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q8_0 => {}
            TensorType::F32 if is_vector => {}
            kind => unknown.entry(kind.to_string()).or_insert((0, name)).0 += 1,
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let named = unknown.iter().map(|(kind, (count, first))| match count {
        1 => format!("{first} is {kind}"),
        _ => format!("{count} tensors are {kind}, as {first}"),
    });
    let named: Vec<String> = named.collect();
    Err(format!(
        "{}; the weights that are run are Q4_0, Q4_1 and Q8_0: get such a file, or make one of an \
         F16 file by llama.cpp's `llama-quantize --pure IN OUT Q4_1`",
        named.join(", ")
    ))
}

/// The tokenizer's files, once they are known to serve: a template that doesn't is found before
/// gigabytes are written.
fn text_files(gguf: &Gguf, llama: &Llama) -> Result<Vec<(String, Vec<u8>)>, ImportError> {
    let files = tokenizer::files_from_gguf(gguf.metadata()).map_err(unsupported)?;
    let [(_, tokenizer), (_, template)] = &files;
    Text::parse(tokenizer, template.clone(), &pretty(&llama.config())?).map_err(unsupported)?;
    Ok(files.into())
}

fn write(
    gguf: &Gguf,
    llama: &Llama,
    tokens: &[(String, Vec<u8>)],
    folder: &Path,
    (name, sampling): (&str, SamplingOptions),
) -> Result<(), ImportError> {
    fs::create_dir_all(folder.join("onnx"))?;
    let mut weights = Weights::create(gguf, &folder.join(WEIGHTS))?;
    let nodes = nodes(llama, &mut weights)?;
    let (entry, blocks) = weights.finish()?;
    let mut files = BTreeMap::from([(WEIGHTS.to_owned(), entry)]);
    let graph = graph::write(nodes, llama.vocabulary);
    let mut small = vec![
        (GRAPH.to_owned(), graph),
        ("config.json".to_owned(), pretty(&llama.config())?),
        (
            "generation_config.json".to_owned(),
            pretty(&llama.generation())?,
        ),
    ];
    small.extend(tokens.iter().cloned());
    for (path, bytes) in small {
        let entry = write_file(&folder.join(&path), &bytes)?;
        files.insert(path, entry);
    }
    let manifest = Manifest {
        format: FORMAT,
        name: name.to_owned(),
        source: Source {
            kind: "gguf".to_owned(),
            size: gguf.size()?,
            sha256: gguf.sha256()?,
        },
        architecture: architecture(llama),
        sampling,
        layout: LAYOUT.to_owned(),
        digest: Manifest::canonical(&files, &blocks),
        files,
        blocks,
    };
    write_file(&folder.join(MANIFEST), &pretty(&json!(manifest))?)?;
    sync_folder(&folder.join("onnx"))?;
    sync_folder(folder)?;
    Ok(())
}

fn architecture(llama: &Llama) -> Architecture {
    Architecture {
        family: "llama".to_owned(),
        layers: llama.layers as u64,
        hidden: llama.hidden as u64,
        feed_forward: llama.feed_forward as u64,
        heads: llama.heads as u64,
        cached_heads: llama.cached_heads as u64,
        vocabulary: llama.vocabulary as u64,
        context: llama.context as u64,
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<FileEntry> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let digest = sha256(bytes);
    Ok(FileEntry {
        size: bytes.len() as u64,
        sha256: hex(&digest),
    })
}

fn pretty(value: &serde_json::Value) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A hidden neighbour of the bundle, which the catalog doesn't list.
fn temporary(out: &Path) -> Result<PathBuf, ImportError> {
    let name = out
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| unsupported(format!("{} can't be a bundle's folder", out.display())))?;
    Ok(out.with_file_name(format!(".{name}.{}.new", std::process::id())))
}

/// Puts the new folder in the old one's place. Folders can't be renamed over full ones, so the
/// old one goes aside first; a daemon that has it mapped keeps its files.
fn replace(new: &Path, out: &Path) -> io::Result<()> {
    let old = new.with_extension("old");
    let _ = fs::remove_dir_all(&old);
    match fs::rename(out, &old) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Err(e) = fs::rename(new, out) {
        // Better the old bundle than none.
        let _ = fs::rename(&old, out);
        return Err(e);
    }
    let _ = fs::remove_dir_all(&old);
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
