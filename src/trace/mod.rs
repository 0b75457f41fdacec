//! What a request's time is spent on: spans, as OpenTelemetry has them, of the trace that its caller
//! began or of one of its own.
//!
//! A [`Tracer`] begins a [`Root`] where the request comes in; whoever works on it has the [`Trace`], and
//! when the last of them has let go, its spans go to the tracer's sink as one [`Finished`]. Where
//! nobody wants traces, all of that is `None`. A span says nothing of what was asked or answered, and
//! nobody's name.

mod context;
mod recording;
mod span;

pub use context::{Parent, TraceId};
pub use recording::{Finished, Root, Sink, Trace, Tracer};
pub use span::{Attribute, Kind, Span, Value};
