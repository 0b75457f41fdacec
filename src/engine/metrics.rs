//! What the engine tells Prometheus, by OpenTelemetry's names for generative AI
//! (semantic conventions, "gen-ai-metrics").

use std::fmt;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::{Prompt, Report};
use crate::prompt::{Dialect, Finish};
use crate::telemetry::Registry;

/// `gen_ai.provider.name`: no other system is behind us.
pub const PROVIDER: &str = "slmd";
/// `gen_ai.token.type`.
const TOKENS: [&str; 2] = ["input", "output"];

/// The engine's metrics; their labels are bounded by the loaded models and closed enums.
#[derive(Debug)]
pub struct Metrics {
    first_token: Family<Asked, Histogram, Buckets>,
    per_token: Family<Asked, Histogram, Buckets>,
    duration: Family<Ended, Histogram, Buckets>,
    usage: Family<Tokens, Histogram, Buckets>,
    waiting: Gauge<i64, AtomicI64>,
    running: Gauge<i64, AtomicI64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    gen_ai_operation_name: &'static str,
    gen_ai_provider_name: &'static str,
    gen_ai_request_model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    #[prometheus(flatten)]
    asked: Asked,
    #[prometheus(flatten)]
    error: ErrorType,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tokens {
    #[prometheus(flatten)]
    asked: Asked,
    gen_ai_token_type: &'static str,
}

/// `error.type`, which what went well hasn't.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ErrorType(Option<&'static str>);

impl EncodeLabelSet for ErrorType {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        match self.0 {
            Some(name) => ("error_type", name).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

impl Asked {
    fn to(dialect: Dialect, model: String) -> Asked {
        Asked {
            gen_ai_operation_name: dialect.operation_name(),
            gen_ai_provider_name: PROVIDER,
            gen_ai_request_model: model,
        }
    }
}

impl ErrorType {
    fn of(finish: Finish) -> ErrorType {
        ErrorType(match finish {
            Finish::Stop | Finish::Length => None,
            other => Some(other.as_str()),
        })
    }
}

/// Doubling (or quadrupling) buckets from the least value that matters.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    first: f64,
    factor: f64,
    count: u16,
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.first, self.factor, self.count))
    }
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Metrics {
        // OpenTelemetry's recommended bounds, as far as they are a geometric series.
        let seconds = Buckets {
            first: 0.01,
            factor: 2.0,
            count: 14,
        };
        let per_token = Buckets {
            first: 0.001,
            factor: 2.0,
            count: 12,
        };
        let tokens = Buckets {
            first: 1.0,
            factor: 4.0,
            count: 9,
        };
        let metrics = Metrics {
            first_token: Family::new_with_constructor(seconds),
            per_token: Family::new_with_constructor(per_token),
            duration: Family::new_with_constructor(seconds),
            usage: Family::new_with_constructor(tokens),
            waiting: Gauge::default(),
            running: Gauge::default(),
        };
        metrics.add_to(registry);
        metrics
    }

    fn add_to(&self, registry: &mut Registry) {
        registry.register(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's queueing to its first token",
            self.first_token.clone(),
        );
        registry.register(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time of a token after the first",
            self.per_token.clone(),
        );
        registry.register(
            "gen_ai_server_request_duration_seconds",
            "From a request's queueing to its end",
            self.duration.clone(),
        );
        registry.register(
            "gen_ai_client_token_usage",
            "Tokens in and out of a request",
            self.usage.clone(),
        );
        registry.register(
            "slmd_queue_waiting",
            "Requests that wait for the engine, reserved places included",
            self.waiting.clone(),
        );
        registry.register(
            "slmd_queue_running",
            "Requests that the engine works on",
            self.running.clone(),
        );
    }

    pub(super) fn queue(&self, (waiting, running): (usize, usize)) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    pub(super) fn observe(&self, prompt: &Prompt, report: &Report) {
        let asked = Asked::to(prompt.dialect, prompt.model.clone());
        let total = report.total.as_secs_f64();
        let ended = Ended {
            asked: asked.clone(),
            error: ErrorType::of(report.outcome.finish),
        };
        self.duration.get_or_create(&ended).observe(total);
        let usage = report.outcome.usage;
        if let Some(first) = report.first_token {
            let first = first.as_secs_f64();
            self.first_token.get_or_create(&asked).observe(first);
            if usage.completion_tokens > 1 {
                let mean = (total - first) / f64::from(usage.completion_tokens - 1);
                self.per_token.get_or_create(&asked).observe(mean);
            }
        }
        let counts = [usage.prompt_tokens, usage.completion_tokens];
        for (kind, count) in TOKENS.into_iter().zip(counts) {
            let labels = Tokens {
                asked: asked.clone(),
                gen_ai_token_type: kind,
            };
            self.usage.get_or_create(&labels).observe(f64::from(count));
        }
    }
}

/// Registers all series that there can be.
#[cfg(any(test, feature = "for-tests"))]
pub fn fill(registry: &mut Registry, models: &[String]) {
    let metrics = Metrics::register(registry);
    let operations = models.iter().flat_map(|model| {
        Dialect::ALL
            .iter()
            .map(|dialect| Asked::to(*dialect, model.clone()))
    });
    for asked in operations {
        metrics.first_token.get_or_create(&asked).observe(0.1);
        metrics.per_token.get_or_create(&asked).observe(0.1);
        for finish in Finish::all() {
            let ended = Ended {
                asked: asked.clone(),
                error: ErrorType::of(finish),
            };
            metrics.duration.get_or_create(&ended).observe(1.0);
        }
        for kind in TOKENS {
            let labels = Tokens {
                asked: asked.clone(),
                gen_ai_token_type: kind,
            };
            metrics.usage.get_or_create(&labels).observe(100.0);
        }
    }
}
