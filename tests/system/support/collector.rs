//! A real OpenTelemetry Collector, which `tests/collector` builds, and the spans that it has taken.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::wait::{run, within};
use super::{Certificate, free_port, root, secrets};

/// Until it is built, where it isn't yet.
const BUILD: Duration = Duration::from_secs(900);
const START: Duration = Duration::from_secs(60);
/// Spans are sent a second after they have ended, on a busy machine.
const SENT: Duration = Duration::from_secs(60);

/// A collector on a loopback port of its own. What it has taken is searched for secrets like a log.
pub struct Collector {
    port: u16,
    folder: TempDir,
    taken: PathBuf,
    process: Option<Child>,
}

/// A span as the collector tells it.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub state: String,
    /// Nanoseconds.
    pub began: u64,
    pub ended: u64,
    pub failed: bool,
    attributes: Value,
    resource: Value,
}

impl Collector {
    /// Takes what comes.
    pub fn start() -> Collector {
        let mut collector = Collector::prepare("", "");
        collector.spawn();
        collector
    }

    /// Isn't there yet. Then it will have this certificate, and take only what comes with this token.
    pub fn guarded(own: &Certificate, token: &str) -> Collector {
        secrets::token(token);
        let (cert, key) = (own.cert.display(), own.key.display());
        let wants = format!(
            "tls: {{cert_file: {cert}, key_file: {key}}}, auth: {{authenticator: bearertokenauth}}"
        );
        Collector::prepare(&wants, token)
    }

    fn prepare(wants: &str, token: &str) -> Collector {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("traces-{}-{number}.log", std::process::id());
        let collector = Collector {
            port: free_port(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            taken: secrets::folder().join(name),
            process: None,
        };
        let guard = match token {
            "" => String::new(),
            _ => format!("extensions: {{bearertokenauth: {{token: {token}}}}}\n"),
        };
        let extensions = if token.is_empty() {
            "[]"
        } else {
            "[bearertokenauth]"
        };
        let (port, taken) = (collector.port, collector.taken.display());
        let text = format!(
            "{guard}receivers: {{otlp: {{protocols: {{http: {{endpoint: 127.0.0.1:{port}, {wants}}}}}}}}}\n\
             exporters: {{file: {{path: {taken}, append: true, flush_interval: 50ms}}}}\n\
             service:\n  extensions: {extensions}\n\
             \x20 telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}\n\
             \x20 pipelines: {{traces: {{receivers: [otlp], exporters: [file]}}}}\n"
        );
        fs::write(collector.folder.path().join("config.yaml"), text).expect("a temporary file");
        collector
    }

    /// The program itself.
    pub fn program() -> Command {
        let built = run(
            &mut Command::new(root().join("tests/collector/build")),
            b"",
            BUILD,
        );
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let path = String::from_utf8(built.stdout).expect("a path");
        Command::new(path.trim())
    }

    pub fn spawn(&mut self) {
        let log = self.folder.path().join("log");
        let file = File::create(&log).expect("a temporary file");
        let mut command = Collector::program();
        command
            .arg("--config")
            .arg(self.folder.path().join("config.yaml"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        self.process = Some(command.spawn().expect("it was built"));
        within(START, "the collector's port", || {
            let process = self.process.as_mut().expect("set above");
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("the collector ended with {status}: {said}");
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a daemon is told of it.
    pub fn setting(&self) -> String {
        format!(
            "[telemetry]\notlp_endpoint = \"http://127.0.0.1:{}\"\n",
            self.port
        )
    }

    /// All spans that it has taken whole.
    pub fn spans(&self) -> Vec<Span> {
        let text = fs::read_to_string(&self.taken).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let each = |value: &Value, of: &str| value[of].as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        for line in whole.lines() {
            let taken: Value = serde_json::from_str(line).expect("the collector writes JSON");
            for resource in each(&taken, "resourceSpans") {
                for scope in each(&resource, "scopeSpans") {
                    let all = each(&scope, "spans").into_iter();
                    spans.extend(all.map(|span| Span::of(&span, &resource["resource"])));
                }
            }
        }
        spans
    }

    /// The spans of a trace once its request's own is there: they come together.
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        within(SENT, "the spans of a trace", || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace == trace);
            (!spans.is_empty()).then_some(spans)
        })
    }

    /// The spans of the trace that this request began or is a part of.
    pub fn request(&self, id: &str) -> Vec<Span> {
        let trace = within(SENT, "the span of a request", || {
            let spans = self.spans().into_iter();
            let mut own = spans.filter(|span| span.text("slmd.request_id") == Some(id));
            own.next().map(|span| span.trace)
        });
        self.trace(&trace)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Span {
    fn of(span: &Value, resource: &Value) -> Span {
        let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| {
            text(name)
                .parse()
                .unwrap_or_else(|_| panic!("{name}: {span}"))
        };
        Span {
            trace: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            name: text("name"),
            kind: span["kind"].as_u64().unwrap_or_default(),
            state: text("traceState"),
            began: number("startTimeUnixNano"),
            ended: number("endTimeUnixNano"),
            failed: span["status"]["code"] == 2,
            attributes: span["attributes"].clone(),
            resource: resource["attributes"].clone(),
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        find(&self.attributes, key)?["stringValue"].as_str()
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        find(&self.attributes, key)?["intValue"]
            .as_str()?
            .parse()
            .ok()
    }

    /// The texts of a list.
    pub fn list(&self, key: &str) -> Vec<&str> {
        let list =
            find(&self.attributes, key).and_then(|value| value["arrayValue"]["values"].as_array());
        let texts = list.into_iter().flatten();
        texts
            .filter_map(|value| value["stringValue"].as_str())
            .collect()
    }

    /// What it says, by name.
    pub fn keys(&self) -> Vec<&str> {
        let all = self.attributes.as_array().into_iter().flatten();
        all.filter_map(|attribute| attribute["key"].as_str())
            .collect()
    }

    /// Of who tells it.
    pub fn of_resource(&self, key: &str) -> Option<&str> {
        find(&self.resource, key)?["stringValue"].as_str()
    }
}

fn find<'v>(attributes: &'v Value, key: &str) -> Option<&'v Value> {
    let mut all = attributes.as_array()?.iter();
    all.find(|attribute| attribute["key"] == key)
        .map(|attribute| &attribute["value"])
}
