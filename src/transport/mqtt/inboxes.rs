//! Which answers are being waited for, so that a refusal to a stranger can't pass for one.
//!
//! Whoever may publish on a request topic names a Response Topic and Correlation Data, perhaps
//! those of another's request that runs. Were the refusal sent there, that request would look
//! ended to its client. So while a verified request is under way, nothing goes to a stranger that
//! its client could take for its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::request::{Form, Reply};
use super::topics::Topics;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Inboxes(Arc<Mutex<Awaiting>>);

#[derive(Debug, Default)]
struct Awaiting {
    /// At most one for each task of the session.
    awaited: BTreeMap<u64, Awaited>,
    next: u64,
}

/// An answer that a verified client waits for.
#[derive(Debug)]
struct Awaited {
    client: String,
    reply: Reply,
}

/// Kept while the request is under way.
#[derive(Debug)]
pub(super) struct Stay {
    inboxes: Inboxes,
    number: u64,
}

impl Inboxes {
    /// `client`: whose token was verified for this request.
    pub(super) fn enter(&self, client: &str, reply: &Reply) -> Stay {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let awaited = Awaited {
            client: client.to_owned(),
            reply: reply.clone(),
        };
        state.awaited.insert(number, awaited);
        Stay {
            inboxes: self.clone(),
            number,
        }
    }

    /// Whether a refusal on `reply` could be taken for an answer that somebody waits for.
    pub(super) fn await_one_like(&self, reply: &Reply, topics: &Topics) -> bool {
        let state = self.lock();
        let mut awaited = state.awaited.values();
        awaited.any(|awaited| awaited.is_like(reply, topics))
    }

    /// Nothing between two locks depends on the other, so a panic elsewhere leaves a sound map.
    fn lock(&self) -> MutexGuard<'_, Awaiting> {
        self.0.lock()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.inboxes.lock().awaited.remove(&self.number);
    }
}

impl Awaited {
    /// A client of MQTT 5 may listen on all of its topics and tell answers apart by Correlation
    /// Data alone; one of the 3.1.1 form tells them apart by topic.
    fn is_like(&self, refusal: &Reply, topics: &Topics) -> bool {
        let (topic, correlation) = refusal.refused_on();
        match self.reply.form {
            Form::Properties => {
                correlation == self.reply.correlation.as_deref()
                    && (topic == self.reply.topic
                        || topics.may_answer(&topic, &self.client).is_ok())
            }
            Form::Plain { .. } => {
                let beneath = topic.strip_prefix(self.reply.topic.as_str());
                beneath.is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(topic: &str, correlation: Option<&'static str>) -> Reply {
        Reply {
            topic: topic.to_owned(),
            correlation: correlation.map(|c| Bytes::from_static(c.as_bytes())),
            request: String::new(),
            form: Form::Properties,
        }
    }

    fn plain(id: &str) -> Reply {
        Reply {
            form: Form::Plain {
                client: "dev".to_owned(),
            },
            ..reply(&format!("slm/edge-1/reply/dev/{id}"), None)
        }
    }

    #[test]
    fn a_stranger_is_refused_nowhere_that_an_answer_is_awaited() {
        let topics = Topics::new("edge-1", "slm/{device}/reply/{azp}/#");
        let inboxes = Inboxes::default();
        let awaits = |reply: &Reply| inboxes.await_one_like(reply, &topics);
        let own = reply("slm/edge-1/reply/dev/1", Some("c"));
        assert!(!awaits(&own));
        let stay = inboxes.enter("dev", &own);
        assert!(awaits(&own));
        let elsewhere = reply("slm/edge-1/reply/dev/2", Some("c"));
        assert!(awaits(&elsewhere), "the client may listen there too");
        for other in [
            reply("slm/edge-1/reply/dev/1", Some("d")),
            reply("slm/edge-1/reply/dev/1", None),
            reply("slm/edge-1/reply/dev-2/1", Some("c")),
            plain("1"),
        ] {
            assert!(!awaits(&other), "{other:?}");
        }
        let also = inboxes.enter("dev", &own);
        drop(stay);
        assert!(awaits(&own), "the other still runs");
        drop(also);
        assert!(!awaits(&own));
    }

    #[test]
    fn forms_pass_for_each_other_by_their_topics() {
        let topics = Topics::new("edge-1", "slm/{device}/reply/{azp}/#");
        let inboxes = Inboxes::default();
        let awaits = |reply: &Reply| inboxes.await_one_like(reply, &topics);
        let stay = inboxes.enter("dev", &plain("7"));
        assert!(awaits(&plain("7")));
        assert!(awaits(&reply("slm/edge-1/reply/dev/7/rejected", Some("x"))));
        assert!(!awaits(&plain("77")));
        assert!(!awaits(&reply("slm/edge-1/reply/dev/77", None)));
        drop(stay);
        // Without Correlation Data every answer of the client is like every other.
        let _stay = inboxes.enter("dev", &reply("slm/edge-1/reply/dev/1", None));
        assert!(awaits(&plain("7")));
    }
}
