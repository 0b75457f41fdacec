//! Refusals that can't be told to whoever asked: somebody must see them all the same. `slmd status`
//! counts them and shows the last, the log has them at a bounded rate, the audit has each like any
//! other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::admin::Untold;
use crate::reason::Reason;

/// Lines of the log for one cause are at least so far apart.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a topic that are shown.
const MAX_TOPIC: usize = 128;

/// Why a refusal isn't told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    NoResponseTopic,
    ResponseTopic,
    Awaited,
    Rate,
    Cancel,
    Topic,
    Excess,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NoResponseTopic => {
                "it has no Response Topic; a client of MQTT 3.1.1 publishes on \
                 `…/{client}/{id}` beneath the topic"
            }
            Why::ResponseTopic => "refusals aren't published on its Response Topic",
            Why::Awaited => "an answer to another request is awaited there",
            Why::Rate => "more refusals than are told in a minute",
            Why::Cancel => "a cancel isn't answered",
            Why::Topic => "no request can be answered from this topic",
            Why::Excess => "too many requests are under way",
        })
    }
}

/// What can't be told, counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    count: u64,
    last: Option<(Instant, String)>,
    kinds: Kinds<Why>,
}

impl Tally {
    /// `topic`: the request's.
    pub(super) fn note(&mut self, reason: Reason, topic: &str, why: Why, now: Instant) {
        let topic = &topic[..topic.floor_char_boundary(MAX_TOPIC)];
        self.count += 1;
        let reason = reason.as_str();
        self.last = Some((now, format!("{reason} on {topic}: {why}")));
        if let Some(left_out) = self.kinds.due(why, now, LOG_EVERY) {
            tracing::warn!(reason, ?topic, %why, left_out, "a refusal can't be told");
        }
    }

    pub(super) fn get(&self, now: Instant) -> Option<Untold> {
        let (at, last) = self.last.as_ref()?;
        Some(Untold {
            count: self.count,
            last: last.clone(),
            last_seconds_ago: now.saturating_duration_since(*at).as_secs(),
        })
    }
}

/// When something of each kind was last said, and how often it wasn't since. Bounded as the kinds
/// are.
#[derive(Debug)]
pub(super) struct Kinds<K>(BTreeMap<K, (Instant, u64)>);

impl<K> Default for Kinds<K> {
    fn default() -> Kinds<K> {
        Kinds(BTreeMap::new())
    }
}

impl<K: Ord> Kinds<K> {
    /// How many were left out, if one is to be said now.
    pub(super) fn due(&mut self, kind: K, now: Instant, every: Duration) -> Option<u64> {
        let Some((last, left_out)) = self.0.get_mut(&kind) else {
            self.0.insert(kind, (now, 0));
            return Some(0);
        };
        if now.saturating_duration_since(*last) < every {
            *left_out += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::RefuseReason;

    #[test]
    fn each_kind_is_said_at_most_so_often_with_what_was_left_out() {
        let (mut kinds, now) = (Kinds::default(), crate::time::instant());
        let every = Duration::from_secs(60);
        assert_eq!(kinds.due("a", now, every), Some(0));
        assert_eq!(kinds.due("a", now + every / 2, every), None);
        assert_eq!(kinds.due("b", now + every / 2, every), Some(0));
        assert_eq!(kinds.due("a", now + every, every), Some(1));
        assert_eq!(kinds.due("a", now + every * 2, every), Some(0));
    }

    #[test]
    fn all_are_counted_and_the_last_is_shown_with_a_topic_that_is_bounded() {
        let (mut tally, now) = (Tally::default(), crate::time::instant());
        assert_eq!(tally.get(now), None);
        let reason = RefuseReason::ReplyTopicRejected.into();
        tally.note(reason, "slm/a", Why::NoResponseTopic, now);
        let long = "\u{e9}".repeat(30_000);
        tally.note(reason, &long, Why::ResponseTopic, now);
        let untold = tally.get(now + Duration::from_secs(3)).unwrap();
        assert_eq!((untold.count, untold.last_seconds_ago), (2, 3));
        assert!(untold.last.starts_with("reply_topic_rejected on \u{e9}"));
        assert!(untold.last.len() < 300, "{}", untold.last);
    }
}
