//! Brings ended traces to an OpenTelemetry collector: OTLP over HTTP, from a thread of its own, in
//! batches. Whoever ends a trace waits for nothing; what the collector doesn't take is counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use std::{slice, thread};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Registry;
use super::otlp::{self, Resource};
use super::outgoing::Outgoing;
use crate::files::{self, Care};
use crate::https::{Https, HttpsError};
use crate::secret::{Secret, Wiped};
use crate::time::{self, Clocks};
use crate::trace::{Finished, Sink, Tracer};

/// Of one request, with its answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A collector's answer says nothing, or how many spans it hasn't taken.
const MAX_ANSWER: u64 = 64 << 10;
/// Before the same spans are sent again: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the daemon's end waits for the last spans to be sent.
const FAREWELL: Duration = Duration::from_secs(2);
/// Traces a minute of requests that nobody was allowed: who has no token may ask for a trace, too.
const REFUSALS: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
const MAX_HEADERS: u64 = 32 << 10;
/// Ours to say.
const RESERVED: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// A collector's; without it there are no traces.
    pub endpoint: Option<String>,
    pub ca_file: Option<PathBuf>,
    /// What a request says beside: who sends it. Read again for each.
    pub headers_file: Option<PathBuf>,
    /// Plain HTTP may leave this machine.
    pub plain: bool,
    /// Of the requests that aren't a caller's, so many are recorded.
    pub ratio: f32,
}

/// Why traces can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("headers_file {}: {why}", .file.display())]
    Headers { file: PathBuf, why: String },
    #[error("no thread to send them with: {0}")]
    Thread(std::io::Error),
}

/// What sends traces; nothing where none are wanted.
#[derive(Debug, Default)]
pub struct Exporter(Option<Running>);

#[derive(Debug)]
struct Running {
    outgoing: Arc<Outgoing>,
    /// Hung up when the thread has ended.
    ended: Receiver<()>,
}

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Exported,
    /// The collector won't have it.
    Rejected,
    /// Too many waited, or the daemon ended.
    Dropped,
    /// Of a request that was refused, beyond their rate.
    Limited,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
struct Metrics(Family<Labels, Counter>);

/// Why a collector hasn't taken what it was sent.
enum Failure {
    /// It may later; it can say when.
    ForNow(String, Option<Duration>),
    ForGood(String),
}

struct Sender {
    url: String,
    https: Https,
    headers_file: Option<PathBuf>,
    resource: Resource,
    outgoing: Arc<Outgoing>,
    metrics: Metrics,
    is_failing: bool,
}

impl Exporter {
    /// With the tracer whose traces it sends.
    pub fn start(
        settings: &TraceSettings,
        device: &str,
        registry: &mut Registry,
    ) -> Result<(Tracer, Exporter), ExportError> {
        let Some(endpoint) = &settings.endpoint else {
            return Ok(Default::default());
        };
        if let Some(file) = &settings.headers_file {
            check_headers(file)?;
        }
        let https = Https::new(settings.ca_file.as_deref(), TIMEOUT)?.or_plain(settings.plain);
        let (outgoing, metrics) = (Arc::new(Outgoing::default()), Metrics::register(registry));
        let sender = Sender {
            url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            https,
            headers_file: settings.headers_file.clone(),
            resource: Resource::of(device),
            outgoing: Arc::clone(&outgoing),
            metrics: metrics.clone(),
            is_failing: false,
        };
        let (running, ended) = sync_channel(0);
        let send = move || {
            sender.run();
            drop(running);
        };
        let thread = thread::Builder::new().name("traces".to_owned());
        thread.spawn(send).map_err(ExportError::Thread)?;
        let sink = sink(Arc::clone(&outgoing), metrics);
        let tracer = Tracer::new(device, settings.ratio.into(), Clocks::default(), sink);
        Ok((tracer, Exporter(Some(Running { outgoing, ended }))))
    }

    /// Sends what waits, for a short time at most, and ends. Blocks.
    pub fn close(self) {
        if let Some(Running { outgoing, ended }) = self.0 {
            outgoing.close();
            // Nothing is ever sent there.
            let _ = ended.recv_timeout(FAREWELL);
        }
    }
}

/// Where ended traces go, on whatever thread they end.
fn sink(outgoing: Arc<Outgoing>, metrics: Metrics) -> Sink {
    let refusals = Mutex::new(Rate {
        since: time::instant(),
        taken: 0,
    });
    Box::new(move |trace| {
        if !trace.permitted && !refusals.lock().take(time::instant()) {
            return metrics.count(Fate::Limited, slice::from_ref(&trace));
        }
        metrics.count(Fate::Dropped, outgoing.add(trace).as_slice());
    })
}

/// [`REFUSALS`] in each minute.
#[derive(Debug)]
struct Rate {
    since: Instant,
    taken: u32,
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= MINUTE {
            (self.since, self.taken) = (now, 0);
        }
        self.taken = self.taken.saturating_add(1);
        self.taken <= REFUSALS
    }
}

impl Sender {
    fn run(mut self) {
        while let Some(batch) = self.outgoing.next() {
            self.deliver(&batch);
        }
    }

    /// Again and again, until the collector has taken it or said that it won't.
    fn deliver(&mut self, batch: &[Finished]) {
        let body = self.resource.request(batch);
        let mut pause = FIRST_PAUSE;
        loop {
            let (why, wait) = match self.post(body.clone()) {
                Ok(rejected) => {
                    self.goes_well();
                    return self.metrics.taken(batch, rejected);
                }
                Err(Failure::ForGood(why)) => {
                    self.fails(&why);
                    return self.metrics.count(Fate::Rejected, batch);
                }
                Err(Failure::ForNow(why, wait)) => (why, wait.unwrap_or_default()),
            };
            self.fails(&why);
            if !self.outgoing.pause(time::instant() + pause.max(wait)) {
                return self.metrics.count(Fate::Dropped, batch);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The spans that weren't taken.
    fn post(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let now = |error: &dyn std::fmt::Display| Failure::ForNow(error.to_string(), None);
        let file = self.headers_file.as_deref();
        let text = file.map(headers_text).transpose().map_err(|e| now(&e))?;
        let mut headers = vec![("content-type", "application/x-protobuf")];
        if let Some(text) = &text {
            headers.extend(pairs(text.expose()).map_err(|e| now(&e))?);
        }
        let answer = self.https.post(&self.url, body, &headers, MAX_ANSWER);
        let answer = answer.map_err(|e| now(&e))?;
        match answer.status {
            200..=299 => Ok(otlp::rejected(&answer.body)),
            status @ (429 | 502 | 503 | 504) => {
                let wait = answer.headers.get("retry-after");
                let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
                let wait = wait.map(|secs| Duration::from_secs(secs).min(LONGEST_PAUSE));
                Err(Failure::ForNow(format!("status {status}"), wait))
            }
            status => Err(Failure::ForGood(format!("status {status}"))),
        }
    }

    /// Says it once.
    fn fails(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(url = self.url, why, "the collector takes no traces");
        }
    }

    fn goes_well(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector takes traces again");
        }
    }
}

impl Metrics {
    fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "slmd_trace_spans",
            "Spans of traces, by what became of them",
            metrics.0.clone(),
        );
        for fate in [Fate::Exported, Fate::Rejected, Fate::Dropped, Fate::Limited] {
            metrics.add(fate, 0);
        }
        metrics
    }

    fn count(&self, fate: Fate, traces: &[Finished]) {
        self.add(fate, spans(traces));
    }

    fn taken(&self, batch: &[Finished], rejected: u64) {
        let rejected = rejected.min(spans(batch));
        self.add(Fate::Rejected, rejected);
        self.add(Fate::Exported, spans(batch) - rejected);
    }

    fn add(&self, fate: Fate, spans: u64) {
        let outcome = match fate {
            Fate::Exported => "exported",
            Fate::Rejected => "rejected",
            Fate::Dropped => "dropped",
            Fate::Limited => "limited",
        };
        self.0.get_or_create(&Labels { outcome }).inc_by(spans);
    }
}

fn spans(traces: &[Finished]) -> u64 {
    traces.iter().map(|trace| trace.spans.len() as u64).sum()
}

/// Whether a file can be used as `headers_file`.
pub fn check_headers(file: &Path) -> Result<(), ExportError> {
    pairs(headers_text(file)?.expose())
        .map(drop)
        .map_err(|why| ExportError::Headers {
            file: file.to_owned(),
            why,
        })
}

fn headers_text(file: &Path) -> Result<Secret<String>, ExportError> {
    let wrong = |why: String| ExportError::Headers {
        file: file.to_owned(),
        why,
    };
    let read = files::read(file, MAX_HEADERS, Care::Secret);
    let mut bytes = Wiped::default();
    bytes.push(&read.map_err(|error| wrong(error.to_string()))?);
    let text = bytes.into_text();
    text.ok_or_else(|| wrong("it isn't UTF-8".to_owned()))
}

/// A header a line, `name: value`; empty lines and what begins with `#` are passed over.
fn pairs(text: &str) -> Result<Vec<(&str, &str)>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.map(|(at, line)| {
        let wrong = |what: &str| format!("line {}: {what}", at + 1);
        let pair = line.split_once(':').map(|(n, v)| (n.trim_end(), v.trim()));
        let (name, value) = pair.ok_or_else(|| wrong("write `name: value`"))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let is_value = |c: char| c == '\t' || matches!(c, ' '..='~');
        if name.is_empty() || !name.chars().all(is_name) || !value.chars().all(is_value) {
            return Err(wrong("this can't be a header"));
        }
        match RESERVED.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            true => Err(wrong("this header is slmd's own to set")),
            false => Ok((name, value)),
        }
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_a_line_each_and_say_nothing_in_errors() {
        let text = "# of the gateway\nAuthorization: Bearer abc:def\n\nx-scope-orgid:  edge \n";
        let read = pairs(text).unwrap();
        assert_eq!(
            read,
            [
                ("Authorization", "Bearer abc:def"),
                ("x-scope-orgid", "edge")
            ]
        );
        assert_eq!(pairs("").unwrap(), []);
        for bad in [
            "s3cret",
            ": s3cret",
            "a b: s3cret",
            "a: s3cret\u{7}",
            "a: s3cret\u{e9}",
            "Host: s3cret",
        ] {
            let why = pairs(&format!("\n{bad}")).unwrap_err();
            assert!(
                why.starts_with("line 2: ") && !why.contains("s3cret"),
                "{why}"
            );
        }
    }

    #[test]
    fn refusals_have_a_rate() {
        let begin = time::instant();
        let mut rate = Rate {
            since: begin,
            taken: 0,
        };
        let mut taken = |at: Duration| (0..2 * REFUSALS).filter(|_| rate.take(begin + at)).count();
        assert_eq!(taken(Duration::ZERO), REFUSALS as usize);
        assert_eq!(taken(MINUTE - Duration::from_nanos(1)), 0);
        assert_eq!(taken(MINUTE), REFUSALS as usize);
    }

    #[test]
    fn nothing_is_started_for_nobody() {
        let settings = TraceSettings {
            endpoint: None,
            ca_file: None,
            headers_file: None,
            plain: false,
            ratio: 1.0,
        };
        let mut registry = Registry::default();
        let (tracer, exporter) = Exporter::start(&settings, "edge-1", &mut registry).unwrap();
        assert!(exporter.0.is_none());
        assert!(!tracer.begin(crate::trace::Kind::Server, None).is_recorded());
    }
}
