//! Where log lines go and how they are written.

use std::io::{IsTerminal, Write, stderr};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use rustix::fs::fstat;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::{EnvFilter, fmt, registry};

use super::filter::{FilterError, check_filter};
use super::journal::{Entry, Journal};
use super::line::{Fields, Line, priority};
use crate::prompt::LOG_TARGET;
use crate::time::Clocks;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For the journal where it reads standard error, else as text.
    Auto,
    Text,
    /// An object a line.
    Json,
    /// The journal's own fields, with priorities.
    Journal,
}

impl LogFormat {
    pub const ALL: [LogFormat; 4] = [
        LogFormat::Auto,
        LogFormat::Text,
        LogFormat::Json,
        LogFormat::Journal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
            LogFormat::Journal => "journal",
        }
    }
}

/// How lines for machines are written, once that is known.
static OUTPUT: OnceLock<Output> = OnceLock::new();

enum Output {
    Json,
    /// None where the process can have no socket.
    Journal(Option<Journal>),
}

/// Sends logs to standard error, or past it to the journal. Only the first call of a process has an
/// effect.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), FilterError> {
    check_filter(filter)?;
    // Whatever lines are wanted, each says of which request it is.
    let filter = format!("{filter},{LOG_TARGET}=error");
    let wanted = registry().with(EnvFilter::new(filter));
    let output = match format {
        LogFormat::Json => Output::Json,
        LogFormat::Journal => Output::Journal(Journal::open().ok()),
        LogFormat::Auto if journal_reads_stderr() => Output::Journal(Journal::open().ok()),
        LogFormat::Auto | LogFormat::Text => {
            let text = fmt::layer()
                .with_writer(stderr)
                .with_ansi(stderr().is_terminal());
            // A second daemon in one process (tests) keeps the first one's logs.
            let _ = tracing::subscriber::set_global_default(wanted.with(text));
            return Ok(());
        }
    };
    let lines = Lines(OUTPUT.get_or_init(|| output));
    let _ = tracing::subscriber::set_global_default(wanted.with(lines));
    // Whoever reads objects or priorities gets nothing else.
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Says what no filter leaves out, as log lines are written; before they are, as text.
pub fn say(level: Level, text: &str) {
    match OUTPUT.get() {
        Some(output) => output.write(&Line::said(level, text)),
        None if journal_reads_stderr() => to_stderr(&prefixed(level, text)),
        None => to_stderr(format!("{text}\n").as_bytes()),
    }
}

fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name(),
        "panicked: {}",
        panic.payload_as_str().unwrap_or_default()
    );
}

/// systemd.exec(5), `JOURNAL_STREAM`: device and inode of what it has connected to the journal. It
/// is inherited by those whose standard error is another.
fn journal_reads_stderr() -> bool {
    let (named, stream) = (std::env::var("JOURNAL_STREAM"), fstat(stderr()));
    match (named, stream) {
        (Ok(named), Ok(stream)) => named == format!("{}:{}", stream.st_dev, stream.st_ino),
        _ => false,
    }
}

impl Output {
    fn write(&self, line: &Line) {
        match self {
            Output::Json => {
                let mut object = line.json(Clocks::default().now());
                object.push(b'\n');
                to_stderr(&object);
            }
            Output::Journal(journal) => {
                let sent = journal
                    .as_ref()
                    .map(|journal| journal.write(&Entry::of(line)));
                if !matches!(sent, Some(Ok(()))) {
                    to_stderr(&prefixed(line.level, &line.text()));
                }
            }
        }
    }
}

/// Hands each event on as a [`Line`].
struct Lines(&'static Output);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(Scope::from_root)
        {
            if let Some(own) = span.extensions().get() {
                fields.join(own);
            }
        }
        self.0.write(&Line::of(event, fields));
    }
}

/// With the priority before each line, as sd-daemon(3) has it, which the journal reads.
fn prefixed(level: Level, text: &str) -> Vec<u8> {
    let priority = priority(level);
    let lines = text.lines().map(|line| format!("<{priority}>{line}\n"));
    lines.collect::<String>().into_bytes()
}

/// In one piece, so that no other thread's line is within it. Nobody could be told of a failure.
fn to_stderr(bytes: &[u8]) {
    let _ = stderr().lock().write_all(bytes);
}
