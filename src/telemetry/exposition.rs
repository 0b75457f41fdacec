//! All metrics as a text: OpenMetrics', or Prometheus' own of before.

use std::fmt::Write;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry;

use super::process::Figures;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// Version 0.0.4.
    Text,
}

impl Format {
    /// The preferred one first.
    pub const ALL: [Format; 2] = [Format::OpenMetrics, Format::Text];

    pub fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// The metrics that parts keep, readable as Prometheus text.
#[derive(Debug, Clone)]
pub struct Exposition(Arc<Registry>);

impl Exposition {
    /// Adds what is known of the process itself.
    pub fn new(mut registry: Registry) -> Exposition {
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
        };
        registry.register("slmd_build", "The release that runs", Info::new(build));
        registry.register_collector(Box::new(Figures::default()));
        Exposition(Arc::new(registry))
    }

    /// With what is true at the moment, which nobody keeps.
    pub fn text(&self, now: &Registry, format: Format) -> String {
        let mut text = String::new();
        // Writing to a `String` can't fail.
        let _ = encode_registry(&mut text, &self.0)
            .and_then(|()| encode_registry(&mut text, now))
            .and_then(|()| encode_eof(&mut text));
        match format {
            Format::OpenMetrics => text,
            Format::Text => plain(&text),
        }
    }
}

/// OpenMetrics in Prometheus' format: the samples are the same, but a family has the name of its
/// samples, an info is a gauge, and there are neither units nor an end.
fn plain(open: &str) -> String {
    let mut plain = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        let _ = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => {
                help = Some((name, text.unwrap_or_default()));
                Ok(())
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                match help.take() {
                    Some((of, text)) if of == name => writeln!(
                        plain,
                        "# HELP {name}{suffix} {text}\n# TYPE {name}{suffix} {kind}"
                    ),
                    _ => writeln!(plain, "# TYPE {name}{suffix} {kind}"),
                }
            }
            (Some("#"), ..) => Ok(()),
            _ => writeln!(plain, "{line}"),
        };
    }
    plain
}
