//! What was asked and answered, long after: texts that only an auditor can read, and requests that are
//! run again and compared.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Issuer, Setup, claims, http, run};

/// An answer is made again by this build's kernels.
const PATIENCE: Duration = Duration::from_secs(300);
const QUESTION: &str = "Who sleeps in Mirow?";
const INSTRUCTIONS: &str = "Say few words.";

struct Auditor {
    folder: TempDir,
}

impl Auditor {
    fn new() -> Auditor {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let auditor = Auditor { folder };
        auditor.tool("age-keygen", &["-o", &auditor.file("key")], b"");
        auditor
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn tool(&self, name: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = run(Command::new(name).args(arguments), input, PATIENCE);
        assert!(output.status.success(), "{name}: {output:?}");
        output.stdout
    }

    fn recipient(&self) -> String {
        let key = self.tool("age-keygen", &["-y", &self.file("key")], b"");
        text(&key).trim().to_owned()
    }

    /// What only the private key tells.
    fn read(&self, encrypted: &[u8]) -> String {
        text(&self.tool("age", &["-d", "-i", &self.file("key")], encrypted))
    }
}

/// A daemon whose endpoint has instructions, and keeps texts for the auditor.
struct Scene {
    auditor: Auditor,
    issuer: Issuer,
    daemon: Daemon,
}

impl Scene {
    fn start() -> Scene {
        let (auditor, issuer) = (Auditor::new(), Issuer::new("ES256", "a"));
        let endpoint = format!(
            "[[endpoint]]\nclient_id = \"slm\"\nmodel = \"smollm2-135m-instruct\"\n\
             system_prompt = {INSTRUCTIONS:?}\ntext_recipients = [{:?}]\n",
            auditor.recipient()
        );
        let setup = Setup::new().issuer(&issuer).realm(&endpoint);
        // What others do beside it slows one thread the least.
        let setup = setup.with("[engine]\nthreads = 1\n");
        let daemon = Daemon::start(setup);
        Scene {
            auditor,
            issuer,
            daemon,
        }
    }

    /// The body, and the answer to it. The seed is the daemon's to draw.
    fn ask(&self) -> (String, String) {
        let body = json!({
            "messages": [{"role": "user", "content": QUESTION}],
            "max_completion_tokens": 3,
            "temperature": 1.5,
        });
        let (body, bearer) = (
            body.to_string(),
            format!("Bearer {}", self.issuer.token(claims())),
        );
        let headers = [("authorization", &*bearer)];
        let path = "/v1/chat/completions";
        let answer = http(&self.daemon.socket(), "POST", path, &headers, &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = &answer.json()["choices"][0]["message"]["content"];
        (body, answer.as_str().expect("text").to_owned())
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        run(self.daemon.binary().args(arguments), input, PATIENCE)
    }

    fn records(&self, event: &str) -> Vec<Value> {
        let found = self.run(&["audit", "search", "--event", event, "--json"], b"");
        let found = succeeded(&found);
        let records = found.lines().map(serde_json::from_str);
        records.map(|record| record.expect("JSON")).collect()
    }

    fn replay(&self, index: &str, input: &str, more: &[&str]) -> Output {
        let replay = ["audit", "replay", index, "--text", "-"];
        self.run(&[&replay[..], more].concat(), input.as_bytes())
    }

    fn text(&self, of: &[&str]) -> Vec<u8> {
        let file = self.auditor.file("text.age");
        let arguments = [&["audit", "text"], of, &["-o", &file]].concat();
        succeeded(&self.run(&arguments, b""));
        let bytes = fs::read(&file).expect("it was written");
        fs::remove_file(&file).expect("it is ours");
        bytes
    }

    fn export_texts(&self, folder: &str) -> Output {
        let all = self.auditor.file("all.jsonl");
        let _ = fs::remove_file(&all);
        self.run(&["audit", "export", "-o", &all, "--texts", folder], b"")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

fn failed_with(output: &Output, words: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(words), "{output:?}");
}

/// Whether any file beneath holds these bytes.
fn holds(folder: &Path, wanted: &str) -> bool {
    let entries = fs::read_dir(folder).expect("it is there");
    entries.into_iter().any(|entry| {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            return holds(&path, wanted);
        }
        let bytes = fs::read(&path).expect("it can be read");
        bytes
            .windows(wanted.len())
            .any(|part| part == wanted.as_bytes())
    })
}

#[test]
fn a_request_is_run_again_by_who_has_its_text() {
    let mut scene = Scene::start();
    let (body, answer) = scene.ask();
    let access = scene.records("access").remove(0);
    let finish = scene.records("finish").remove(0);
    let (index, id) = (access["index"].to_string(), &access["request_id"]);
    let id = id.as_str().expect("text");

    // What the auditor decrypts is what was asked, the endpoint's instructions too, and answered.
    let asked = scene.auditor.read(&scene.text(&[id]));
    let told: Value = serde_json::from_str(&asked).expect("JSON");
    let messages = json!([
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": QUESTION},
    ]);
    assert_eq!(told["messages"], messages);
    assert_eq!(scene.auditor.read(&scene.text(&[id, "--answer"])), answer);

    // Nothing is run that isn't what was asked.
    for (index, text, words) in [
        (&*index, "Who sleeps?", "nothing was run"),
        ("999999", QUESTION, "no record 999999"),
        ("0", QUESTION, "of no request"),
    ] {
        failed_with(&scene.replay(index, text, &[]), words);
    }
    // As it was decrypted, of the access, asked of the daemon.
    let replayed = scene.replay(&index, &asked, &["--json"]);
    let replayed: Value = serde_json::from_str(&succeeded(&replayed)).expect("JSON");
    assert_eq!(replayed["verdict"], "same", "{replayed}");
    assert_eq!(replayed["replayed_hash"], finish["answer_hash"]);
    assert_eq!(replayed["kernels"], access["kernels"]);
    assert_eq!(replayed["completion_tokens"], finish["completion_tokens"]);
    let shown = scene.records("change").into_iter();
    let shown: Vec<Value> = shown.filter(|r| r["what"] == "salt_shown").collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[0]["detail"]["request_id"], id);

    let folder = scene.auditor.file("texts");
    let exported = scene.export_texts(&folder);
    assert!(
        text(&exported.stderr).contains("2 texts written"),
        "{exported:?}"
    );

    // The same of the state alone; the finish leads to its access, and the file may be the body as it
    // was sent.
    scene.daemon.terminate();
    let replayed = succeeded(&scene.replay(&finish["index"].to_string(), &body, &[]));
    assert!(replayed.contains("the same answer in "), "{replayed}");
    texts_beside_an_export(&scene, &folder, (&asked, &answer));

    // The search would find what isn't encrypted.
    let state = scene.daemon.state_dir();
    assert!(holds(&state, id));
    assert!(!holds(&state, QUESTION) && !holds(&state, INSTRUCTIONS));
    assert!(answer.len() < 8 || !holds(&state, &answer), "{answer}");

    let forgotten = scene.run(&["audit", "forget", id], b"");
    assert!(
        succeeded(&forgotten).contains("2 encrypted texts too"),
        "{forgotten:?}"
    );
    failed_with(&scene.replay(&index, &asked, &[]), "was erased");
    let gone = scene.run(&["audit", "text", id, "-o", "-"], b"");
    failed_with(&gone, "there is no such text");
    let exported = scene.export_texts(&scene.auditor.file("none"));
    assert!(text(&exported.stderr).contains("2 erased"), "{exported:?}");
}

fn texts_beside_an_export(scene: &Scene, folder: &str, (asked, answer): (&str, &str)) {
    let again = scene.export_texts(folder);
    succeeded(&again);
    let said = text(&again.stderr);
    assert!(said.contains("0 texts written, 2 there already"), "{said}");
    let mut read = Vec::new();
    for entry in fs::read_dir(folder).expect("it was made") {
        let path = entry.expect("it can be read").path();
        let mode = fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{path:?}");
        read.push(
            scene
                .auditor
                .read(&fs::read(&path).expect("it can be read")),
        );
        fs::write(&path, b"another").expect("it is ours");
    }
    read.sort();
    let mut told = [asked, answer];
    told.sort_unstable();
    assert_eq!(read, told);
    failed_with(&scene.export_texts(folder), "isn't written over");
}
