//! A message's own span, by OpenTelemetry's semantic conventions for messaging. Of what a client chose
//! it says nothing: the levels of a topic that name a client or a request, and Correlation Data, might
//! hold anything.

use super::request::{self, Asked, Unread};
use super::topics::{Form, Topics};
use crate::admission::Admission;
use crate::link::Message;
use crate::prompt::{Dialect, RequestId};
use crate::trace::{Kind, Root, TraceId};

/// A message that has come.
pub(super) struct Arrived {
    pub(super) root: Root,
    /// The caller's, or ours.
    trace: Option<TraceId>,
}

impl Arrived {
    pub(super) fn new(admission: &Admission, message: &Message) -> Arrived {
        let parent = request::parent(&message.properties);
        let root = admission.begin_trace(Kind::Consumer, parent.as_ref());
        if root.is_recorded() {
            root.set("messaging.system", "mqtt");
            root.set("messaging.operation.name", "process");
            root.set("messaging.operation.type", "process");
            let size = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
            root.set("messaging.message.body.size", size);
        }
        let trace = parent.map(|parent| parent.trace).or(root.id());
        Arrived { root, trace }
    }

    /// What asks a model something.
    pub(super) fn asks(
        &self,
        topics: &Topics,
        (dialect, form): (Dialect, Form<'_>),
        parsed: &mut Result<Box<Asked>, Box<Unread>>,
    ) {
        let id = match parsed {
            Ok(asked) => {
                asked.request.trace = self.root.trace();
                &mut asked.request.id
            }
            Err(unread) => &mut unread.id,
        };
        *id = self.named(id);
        let topic = topics.requests(dialect);
        self.on(match form {
            Form::Properties => ("messaging.destination.name", topic),
            Form::Plain { .. } => (
                "messaging.destination.template",
                format!("{topic}/{{client}}/{{id}}"),
            ),
        });
    }

    /// What stops a request; its topic is one of ours.
    pub(super) fn cancels(&self, message: &Message) -> RequestId {
        self.on(("messaging.destination.name", message.topic.clone()));
        self.named(&request::id(&message.properties))
    }

    fn named(&self, id: &RequestId) -> RequestId {
        self.root.set("slmd.request_id", id.to_string());
        id.clone().of_trace(self.trace)
    }

    fn on(&self, (key, topic): (&'static str, String)) {
        self.root.call(format!("process {topic}"));
        self.root.set(key, topic);
    }
}
