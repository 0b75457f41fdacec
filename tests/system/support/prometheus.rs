//! A real Prometheus of the test's own, and its promtool.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{Exchange, Response, exchange};
use super::mqtt::free_port;
use super::root;
use super::wait::{run, within};

/// The first run may have to fetch it.
const FETCH: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(60);

/// Where `prometheus` or `promtool` is.
pub fn program(name: &str) -> PathBuf {
    let mut fetch = Command::new(root().join("tests/prometheus"));
    let found = run(fetch.arg(name), b"", FETCH);
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{name} isn't there: {said}");
    String::from_utf8(found.stdout)
        .expect("a path")
        .trim()
        .into()
}

/// A running server. Dropping it ends it.
pub struct Prometheus {
    _data: TempDir,
    port: u16,
    process: Child,
}

impl Prometheus {
    /// `configuration`: its file; others that it names lie beside.
    pub fn start(configuration: &Path) -> Prometheus {
        let data = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let log = fs::File::create(data.path().join("log")).expect("a temporary file");
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", configuration.display()));
        command.arg(format!("--storage.tsdb.path={}", data.path().display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(log).spawn().expect("it was just fetched");
        let mut prometheus = Prometheus {
            _data: data,
            port,
            process,
        };
        within(START, "Prometheus", || {
            let ended = prometheus.process.try_wait().expect("it is our child");
            assert_eq!(ended, None, "{}", prometheus.log());
            let ready = prometheus.get("/-/ready").ok()?;
            (ready.status == 200).then_some(())
        });
        prometheus
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self._data.path().join("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> std::io::Result<Response> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        exchange(stream, "GET", path, &[], "").and_then(Exchange::finish)
    }

    /// What its HTTP API has at a path.
    #[track_caller]
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters = parameters.iter().map(|(name, value)| {
            let value =
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            format!("{name}={value}")
        });
        let query: Vec<String> = parameters.collect();
        let answer = self.get(&format!("/api/v1/{path}?{}", query.join("&")));
        let mut answer = answer.expect("it runs").json();
        assert_eq!(answer["status"], "success", "{path}: {query:?}: {answer}");
        answer["data"].take()
    }

    /// The samples that an expression has now.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let mut found = self.api("query", &[("query", expression)]);
        match found["result"].take() {
            Value::Array(samples) => samples,
            other => panic!("{expression}: {other}"),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
