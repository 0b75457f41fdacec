//! OTLP's messages for traces (opentelemetry-proto 1, `trace/v1` and what it is made of), as far as
//! they are written or read here. The numbers are the protocol's, which never change their meaning.

use prost::Message;

use crate::trace::{Attribute, Finished, Kind, Span, Value};

/// Who tells of spans: it is the same in all of them.
#[derive(Debug, Clone)]
pub(super) struct Resource(ResourceMessage);

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Of", tags = "1, 3, 5")]
    of: Option<Of>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Of {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(message, tag = "5")]
    List(List),
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;
/// That the parent is known to be of another process, or not (`SPAN_FLAGS_CONTEXT_…_REMOTE`), and W3C's
/// flag that it is sampled.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

impl Resource {
    pub(super) fn of(device: &str) -> Resource {
        let attributes = [
            ("service.name", env!("CARGO_PKG_NAME")),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", device),
        ];
        let attributes = attributes.map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(text(value.to_owned())),
        });
        Resource(ResourceMessage {
            attributes: attributes.into(),
        })
    }

    /// The body of a request to a collector.
    pub(super) fn request(&self, traces: &[Finished]) -> Vec<u8> {
        let scope = Scope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let spans = traces.iter().flat_map(|trace| {
            let spans = trace.spans.iter().enumerate();
            spans.map(|(nth, span)| span_message(trace, span, nth == 0))
        });
        let request = Request {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.0.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: spans.collect(),
                }],
            }],
        };
        request.encode_to_vec()
    }
}

/// How many spans a collector says that it hasn't taken, in its answer to a request.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer = Response::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
    u64::try_from(rejected).unwrap_or(0)
}

fn span_message(trace: &Finished, span: &Span, is_own: bool) -> SpanMessage {
    let parent = span.parent.map(|parent| parent.bytes().to_vec());
    let is_remote = is_own && parent.is_some();
    SpanMessage {
        trace_id: trace.trace.bytes().to_vec(),
        span_id: span.id.bytes().to_vec(),
        trace_state: trace.state.clone(),
        parent_span_id: parent.unwrap_or_default(),
        name: span.name.clone().into_owned(),
        kind: match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Consumer => 5,
        },
        start_time_unix_nano: span.began,
        end_time_unix_nano: span.ended,
        attributes: span.attributes.iter().map(key_value).collect(),
        status: span.failed.then_some(Status { code: ERROR }),
        flags: SAMPLED | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 },
    }
}

fn key_value(attribute: &Attribute) -> KeyValue {
    let value = match &attribute.value {
        Value::Text(value) => text(value.clone().into_owned()),
        Value::Number(number) => any(Of::Number(*number)),
        Value::List(list) => {
            let values = list.iter().map(|value| text((*value).to_owned()));
            any(Of::List(List {
                values: values.collect(),
            }))
        }
    };
    KeyValue {
        key: attribute.key.to_owned(),
        value: Some(value),
    }
}

fn text(text: String) -> AnyValue {
    any(Of::Text(text))
}

fn any(of: Of) -> AnyValue {
    AnyValue { of: Some(of) }
}
