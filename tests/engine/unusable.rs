//! Models that can't be served are refused before they take anybody's place, in words that say
//! what they are; and those with templates of today are served.

use std::fs;
use std::path::Path;
use std::process::Command;

use slmd::for_tests::catalog::{FileEntry, MANIFEST, Manifest, hash_file};
use slmd::for_tests::engine::text::Text;
use slmd::for_tests::prompt::{Message, Role};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::Timestamp;

use crate::edit::Gguf;
use crate::{bundle, import};

const TEMPLATE: &str = "tokenizer.chat_template";

/// A template that says each message's text by `body`.
fn saying(body: &str) -> String {
    format!(
        "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{body}<|im_end|>\n{{% endfor %}}\
         <|im_start|>assistant\n"
    )
}

/// Everything below `folder`, with its content's hash.
fn listed(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(listed(&path)),
            false => found.push(format!("{} {}", path.display(), hash_file(&path).unwrap())),
        }
    }
    found.sort_unstable();
    found
}

/// The real bundle once more, without its bytes.
fn linked(folder: &Path) {
    fs::create_dir_all(folder.join("onnx")).unwrap();
    for name in bundle()
        .manifest
        .files
        .keys()
        .map(String::as_str)
        .chain([MANIFEST])
    {
        fs::hard_link(bundle().folder.join(name), folder.join(name)).unwrap();
    }
}

/// The real model with one thing changed; in the error there must be.
type Case = (&'static str, fn(&mut Gguf), &'static [&'static str]);

const REFUSED: &[Case] = &[
    (
        "empty template",
        |g| g.set_text(TEMPLATE, " \n"),
        &["chat_template.jinja", "it is empty"],
    ),
    (
        "template that can't be run",
        |g| g.set_text(TEMPLATE, &saying("{{ m.content.nonsense() }}")),
        &["chat_template.jinja", "nonsense", "line 2"],
    ),
    (
        "template that can't be run in longer chats",
        |g| {
            g.set_text(
                TEMPLATE,
                &saying("{{ m.content }}{{ m.x.y if m.role == 'assistant' }}"),
            );
        },
        &["chat_template.jinja", "undefined"],
    ),
    (
        "template that refuses everybody",
        |g| g.set_text(TEMPLATE, "{{ raise_exception('never') }}"),
        &["chat_template.jinja", "never"],
    ),
    (
        "no template",
        |g| g.remove(TEMPLATE),
        &["no chat template", "instruct"],
    ),
    (
        "end token that isn't there",
        |g| g.set_number("tokenizer.ggml.eos_token_id", 999_999),
        &["tokenizer.ggml.eos_token_id is 999999", "49152"],
    ),
    (
        "first token that isn't there",
        |g| g.set_number("tokenizer.ggml.bos_token_id", 49_152),
        &["tokenizer.ggml.bos_token_id is 49152"],
    ),
    (
        "part of a split file",
        |g| {
            g.tensors.truncate(136);
            g.set_number("split.no", 0);
            g.set_number("split.count", 2);
        },
        &["part 1 of 2", "llama-gguf-split --merge"],
    ),
    (
        "K-quants",
        |g| {
            for (i, tensor) in g
                .tensors
                .iter_mut()
                .filter(|t| t.shape.len() == 2)
                .enumerate()
            {
                tensor.kind = if i == 0 { 14 } else { 12 };
            }
        },
        &[
            "token_embd.weight is Q6_K",
            "210 tensors are Q4_K",
            "llama-quantize --pure",
        ],
    ),
    (
        "another architecture",
        |g| {
            g.set_text("general.architecture", "qwen2");
            g.set_text("general.name", "Small Model");
            g.tensors[0].kind = 12;
        },
        &["\"Small Model\"", "is qwen2;", "llama"],
    ),
    (
        "half of the layers",
        |g| g.tensors.truncate(136),
        &["lacks", "blk.", " more"],
    ),
    (
        "tensors of a relative",
        |g| g.tensors[1].name = "rope_freqs.weight".to_owned(),
        &["lacks tensors of a llama: "],
    ),
    (
        "an adapter",
        |g| g.set_text("general.type", "adapter"),
        &["an adapter"],
    ),
    (
        "experts",
        |g| g.set_number("llama.expert_count", 8),
        &["mixture of 8 experts"],
    ),
    (
        "SentencePiece",
        |g| g.set_text("tokenizer.ggml.model", "llama"),
        &["SentencePiece", "byte-level BPE"],
    ),
];

#[test]
fn what_cannot_be_served_takes_nobodys_place() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let models = folder.path().join("models");
    linked(&models.join("small"));
    let before = listed(&models);
    let path = folder.path().join("model.gguf");
    for (what, change, words) in REFUSED {
        let mut gguf = Gguf::real();
        change(&mut gguf);
        gguf.write(&path, false);
        let error = import(&path, &models.join("small"), "small");
        let error = error.expect_err(what).to_string();
        for word in *words {
            assert!(error.contains(word), "{what}: {error}");
        }
        assert_eq!(listed(&models), before, "{what}");
    }
}

#[test]
fn what_is_no_gguf_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let safetensors = [&100_u64.to_le_bytes()[..], br#"{"__metadata__":{}}"#].concat();
    for (bytes, what) in [
        (&b""[..], "empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS",
        ),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04abcdefgh", "PyTorch"),
        (b"tjgg\x03\0\0\0", "GGJT"),
        (b"\x1f\x8b\x08\0abcdefgh", "gzip"),
        (&safetensors, "safetensors"),
        (b"GGUF\0\0\0\x03abcdefgh", "big-endian"),
        (b"GGUF\x01\0\0\0abcdefgh", "version 1"),
        (b"GGUF", "ends inside its header"),
        (b"abcdefgh", "doesn't begin with \"GGUF\""),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = import(&path, &folder.path().join("small"), "small").unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let error = import(folder.path(), &folder.path().join("small"), "small").unwrap_err();
    assert!(
        error.to_string().contains("convert_hf_to_gguf.py"),
        "{error}"
    );
}

/// One template with what templates of today use, from import to the ids of a chat.
#[test]
fn a_template_of_today_is_served() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("model.gguf");
    let mut gguf = Gguf::real();
    let body = "{% if m.content.startswith('x') %}x{% endif %}{% generation %}\
                {{ m.content.split('</think>')[-1].strip() }}{% endgeneration %}";
    let dated = format!("{{{{ strftime_now('%d %b %Y') }}}}\n{}", saying(body));
    gguf.set_text(TEMPLATE, &dated);
    gguf.write(&path, true);
    let bundle = import(&path, &folder.path().join("small"), "small").unwrap();
    let text = Text::load(&bundle.folder).unwrap();
    let messages = [Message {
        role: Role::User,
        content: Secret::new("<think>so</think> Hi <|im_end|> ".to_owned()),
    }];
    let error = text.encode_chat(&messages, Timestamp(0)).unwrap_err();
    assert_eq!(error.status(), 400, "{error}");
    let messages = [Message {
        role: Role::User,
        content: Secret::new("<think>so</think> Hi ".to_owned()),
    }];
    let encoded = text
        .encode_chat(&messages, Timestamp::from_secs(1_800_000_000))
        .unwrap();
    let bytes = encoded
        .ids
        .iter()
        .flat_map(|id| text.tokenizer().bytes(*id));
    let shown = String::from_utf8(bytes.copied().collect()).unwrap();
    // Jinja takes the line end at the end of a template away.
    assert_eq!(shown, "15 Jan 2027\nuser\nHi\nassistant");
    assert!(encoded.dated);
    let command = verify(folder.path(), "small");
    assert!(command.is_ok(), "{command:?}");
}

#[test]
fn verify_loads_what_it_verifies() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let small = folder.path().join("small");
    for (file, content, what) in [
        (
            "chat_template.jinja",
            "{{ messages[0].content.nonsense() }}",
            "nonsense",
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": []}"#,
            "eos_token_id",
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": 999999}"#,
            "999999",
        ),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("onnx/model.onnx", "", "onnx/model.onnx"),
    ] {
        linked(&small);
        // Not through the link: that is the real bundle's.
        fs::remove_file(small.join(file)).unwrap();
        fs::write(small.join(file), content).unwrap();
        let mut manifest = Manifest::clone(&bundle().manifest);
        "small".clone_into(&mut manifest.name);
        let entry = FileEntry {
            size: content.len() as u64,
            sha256: hash_file(&small.join(file)).unwrap(),
        };
        manifest.files.insert(file.to_owned(), entry);
        manifest.digest = Manifest::canonical(&manifest.files, &manifest.blocks);
        fs::remove_file(small.join(MANIFEST)).unwrap();
        let bytes = serde_json::to_vec(&manifest).unwrap();
        fs::write(small.join(MANIFEST), bytes).unwrap();
        let said = verify(folder.path(), "small").unwrap_err();
        assert!(said.contains(what), "{what}: {said}");
        fs::remove_dir_all(&small).unwrap();
    }
}

/// `slmd model verify`: what it said when it failed.
fn verify(models: &Path, name: &str) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command
        .args(["model", "verify", name, "--models-dir"])
        .arg(models);
    let output = command.output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
