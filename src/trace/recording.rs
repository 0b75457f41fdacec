//! A request's spans while it is under way.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::context::{Parent, SpanId, TraceId};
use super::span::{Attribute, Kind, Span, Value};
use crate::identity::chance;
use crate::reason::Reason;
use crate::time::{self, Clocks, Timestamp};

/// Spans beneath a request's own. Each is of a step that a request takes once or twice.
const MAX_CHILDREN: usize = 32;

/// Takes what has ended. It must not wait.
pub type Sink = Box<dyn Fn(Finished) + Send + Sync>;

/// Begins traces; without a sink, none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Maker>>);

struct Maker {
    device: String,
    /// Of the requests that aren't a caller's, so many are recorded: 0 to 1.
    ratio: f64,
    clocks: Clocks,
    sink: Sink,
}

/// All spans of one request, its own first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub trace: TraceId,
    /// The caller's `tracestate`.
    pub state: String,
    pub spans: Vec<Span>,
    /// Somebody was allowed it.
    pub permitted: bool,
}

/// The span of a request as a whole, which ends when this is dropped.
#[must_use]
#[derive(Debug, Default)]
pub struct Root(Trace);

/// Where a request's spans go, for whoever works on it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Recording>>);

/// Handed to the sink when nobody works on the request any more.
struct Recording {
    maker: Arc<Maker>,
    trace: TraceId,
    parent: Option<SpanId>,
    state: String,
    own: SpanId,
    kind: Kind,
    /// All times are counted from here, so that a clock that is set moves none past another.
    began: Instant,
    at: Timestamp,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    name: Cow<'static, str>,
    attributes: Vec<Attribute>,
    children: Vec<Span>,
    ended: Option<Instant>,
    failed: bool,
    decided: bool,
    permitted: bool,
}

impl Tracer {
    pub fn new(device: &str, ratio: f64, clocks: Clocks, sink: Sink) -> Tracer {
        Tracer(Some(Arc::new(Maker {
            device: device.to_owned(),
            ratio,
            clocks,
            sink,
        })))
    }

    /// Where a request comes in. A caller has said whether its trace is recorded; of all others the
    /// ratio decides.
    pub fn begin(&self, kind: Kind, parent: Option<&Parent>) -> Root {
        let Some(maker) = &self.0 else {
            return Root::default();
        };
        let sampled = parent.map_or_else(|| chance() < maker.ratio, |parent| parent.sampled);
        if !sampled {
            return Root::default();
        }
        let recording = Recording {
            trace: parent.map_or_else(TraceId::random, |parent| parent.trace),
            parent: parent.map(|parent| parent.span),
            state: parent
                .map(|parent| parent.state.clone())
                .unwrap_or_default(),
            own: SpanId::random(),
            kind,
            began: time::instant(),
            at: maker.clocks.now(),
            told: Mutex::default(),
            maker: Arc::clone(maker),
        };
        let root = Root(Trace(Some(Arc::new(recording))));
        if kind == Kind::Server {
            root.set("server.address", maker.device.clone());
        }
        root
    }
}

impl Root {
    /// For whoever works on the request.
    pub fn trace(&self) -> Trace {
        self.0.clone()
    }

    /// Calls the request's own span.
    pub fn call(&self, name: impl Into<Cow<'static, str>>) {
        self.tell(|told| told.name = name.into());
    }
}

impl Deref for Root {
    type Target = Trace;

    fn deref(&self) -> &Trace {
        &self.0
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.tell(|told| told.ended = Some(time::instant()));
    }
}

impl Trace {
    /// `None`: it isn't recorded, and what is told of it costs nothing.
    pub fn id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|recording| recording.trace)
    }

    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Says something of the request as a whole; the last word counts.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.tell(|told| {
            told.attributes.retain(|attribute| attribute.key != key);
            told.attributes.push(Attribute::new(key, value));
        });
    }

    /// Says that the request failed, and that this is our fault.
    pub fn fail(&self) {
        self.tell(|told| told.failed = true);
    }

    /// What was decided. What nobody decides, such as probes, leaves no spans.
    pub fn decided(&self, decision: Result<(), Reason>) {
        self.tell(|told| {
            told.decided = true;
            told.permitted |= decision.is_ok();
            told.failed |= decision.is_err_and(|reason| reason.status() >= 500);
        });
        match decision {
            Ok(()) => self.set("slmd.decision", "permit"),
            Err(reason) => {
                self.set("slmd.decision", "deny");
                self.set("error.type", reason.as_str());
            }
        }
    }

    /// A part of the work on the request.
    pub fn child(
        &self,
        name: &'static str,
        (from, to): (Instant, Instant),
        attributes: Vec<Attribute>,
    ) {
        let Some(recording) = &self.0 else { return };
        let span = Span {
            id: SpanId::random(),
            parent: Some(recording.own),
            name: name.into(),
            kind: Kind::Internal,
            began: recording.nanos(from),
            ended: recording.nanos(to.max(from)),
            attributes,
            failed: false,
        };
        let mut told = recording.told.lock();
        if told.children.len() < MAX_CHILDREN {
            told.children.push(span);
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        if let Some(recording) = &self.0 {
            what(&mut recording.told.lock());
        }
    }
}

impl Recording {
    fn nanos(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.began).as_nanos();
        let began = u128::from(self.at.0) * 1_000_000;
        u64::try_from(began + passed).unwrap_or(u64::MAX)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let told = std::mem::take(self.told.get_mut());
        if !told.decided {
            return;
        }
        let own = Span {
            id: self.own,
            parent: self.parent,
            name: told.name,
            kind: self.kind,
            began: self.nanos(self.began),
            ended: self.nanos(told.ended.unwrap_or(self.began)),
            attributes: told.attributes,
            failed: told.failed,
        };
        (self.maker.sink)(Finished {
            trace: self.trace,
            state: std::mem::take(&mut self.state),
            spans: [vec![own], told.children].concat(),
            permitted: told.permitted,
        });
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.0.as_ref().map(|maker| maker.ratio);
        f.debug_tuple("Tracer").field(&ratio).finish()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recording").field(&self.trace).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reason::RefuseReason;

    type Kept = Arc<Mutex<Vec<Finished>>>;

    fn tracer(ratio: f64) -> (Tracer, Kept) {
        let kept = Kept::default();
        let sink = Arc::clone(&kept);
        let sink: Sink = Box::new(move |finished| sink.lock().push(finished));
        (Tracer::new("edge-1", ratio, Clocks::default(), sink), kept)
    }

    fn parent(sampled: bool) -> Parent {
        Parent {
            trace: TraceId::random(),
            span: SpanId::random(),
            sampled,
            state: "a=1".to_owned(),
        }
    }

    #[test]
    fn spans_are_told_when_the_last_has_let_go() {
        let (tracer, kept) = tracer(0.0);
        let parent = parent(true);
        let root = tracer.begin(Kind::Server, Some(&parent));
        let (trace, start) = (root.trace(), time::instant());
        assert_eq!(trace.id(), Some(parent.trace));
        root.call("POST /x");
        trace.decided(Ok(()));
        drop(root);
        assert!(kept.lock().is_empty(), "somebody works on it");
        let step = |n| start + Duration::from_millis(n);
        trace.child("queue", (step(1), step(2)), Vec::new());
        trace.child(
            "decode",
            (step(3), step(2)),
            vec![Attribute::new("n", 7_u32)],
        );
        drop(trace);

        let all = std::mem::take(&mut *kept.lock());
        let [
            Finished {
                trace,
                state,
                spans,
                permitted: true,
            },
        ] = all.as_slice()
        else {
            panic!("{all:?}");
        };
        assert_eq!((*trace, state.as_str()), (parent.trace, "a=1"));
        let [own, queue, decode] = spans.as_slice() else {
            panic!("{spans:?}");
        };
        assert_eq!(
            (own.parent, own.name.as_ref()),
            (Some(parent.span), "POST /x")
        );
        let told = [("server.address", "edge-1"), ("slmd.decision", "permit")];
        assert_eq!(
            own.attributes,
            told.map(|(key, value)| Attribute::new(key, value))
        );
        assert!(own.began <= own.ended);
        assert_eq!(queue.parent, Some(own.id));
        assert_eq!(queue.ended - queue.began, 1_000_000);
        assert!(own.began <= queue.began && queue.ended <= decode.began);
        assert_eq!(decode.ended, decode.began, "no span ends before it begins");
    }

    #[test]
    fn who_is_recorded_is_the_callers_word_or_the_ratios() {
        for (ratio, caller, recorded) in [
            (0.0, None, false),
            (1.0, None, true),
            (0.0, Some(true), true),
            (1.0, Some(false), false),
        ] {
            let (tracer, _) = tracer(ratio);
            let parent = caller.map(parent);
            let root = tracer.begin(Kind::Server, parent.as_ref());
            assert_eq!(root.is_recorded(), recorded, "{ratio} {caller:?}");
            let own = root
                .id()
                .is_some_and(|id| Some(id) != parent.map(|parent| parent.trace));
            assert_eq!(own, recorded && caller.is_none());
        }
        assert!(
            !Tracer::default()
                .begin(Kind::Server, Some(&parent(true)))
                .is_recorded()
        );
    }

    #[test]
    fn the_last_word_counts_and_what_nobody_decides_leaves_nothing() {
        let (tracer, kept) = tracer(1.0);
        drop(tracer.begin(Kind::Server, None));
        assert!(kept.lock().is_empty());
        let root = tracer.begin(Kind::Consumer, None);
        root.decided(Ok(()));
        root.decided(Err(RefuseReason::Overloaded.into()));
        drop(root);
        let all = kept.lock();
        let own = &all[0].spans[0];
        let told = [("slmd.decision", "deny"), ("error.type", "overloaded")];
        assert_eq!(
            own.attributes,
            told.map(|(key, value)| Attribute::new(key, value))
        );
        assert!(own.failed && all[0].permitted && own.parent.is_none());
    }

    #[test]
    fn a_requests_spans_are_bounded() {
        let (tracer, kept) = tracer(1.0);
        let root = tracer.begin(Kind::Server, None);
        root.decided(Ok(()));
        let now = time::instant();
        for _ in 0..=MAX_CHILDREN {
            root.child("queue", (now, now), Vec::new());
        }
        drop(root);
        assert_eq!(kept.lock()[0].spans.len(), MAX_CHILDREN + 1);
    }
}
