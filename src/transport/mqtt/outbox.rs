//! Publications on their way to the broker: what a lost connection left unacknowledged is
//! published again on the next one.
//!
//! A task hands over one publication and waits for the broker's word, so an answer's messages
//! stay in order whatever happens in between, a slow broker slows only the answers themselves
//! (their text is merged meanwhile), and the outbox holds at most one publication a task.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::link::{Link, Publication, SendError};

/// Why a publication didn't reach the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsent {
    #[error("larger than the broker's packet limit")]
    TooLarge,
    #[error("the broker refused it: {0}")]
    Refused(String),
    #[error("the daemon is going down")]
    Closed,
}

type Sent = Result<(), Unsent>;

/// A publication and where to say how it went.
pub(super) struct Submission {
    publication: Publication,
    sent: oneshot::Sender<Sent>,
}

/// The tasks' end. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Submission>);

impl Outbox {
    pub(super) fn new(capacity: usize) -> (Outbox, mpsc::Receiver<Submission>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Outbox(sender), receiver)
    }

    /// Returns when the broker has the publication, however many connections that takes.
    pub(super) async fn publish(&self, publication: Publication) -> Sent {
        let (sent, outcome) = oneshot::channel();
        let submission = Submission { publication, sent };
        let handed = self.0.send(submission).await;
        handed.map_err(|_| Unsent::Closed)?;
        outcome.await.unwrap_or(Err(Unsent::Closed))
    }
}

/// The session's end.
#[derive(Default)]
pub(super) struct Pending {
    /// By token, hence in the order of submission.
    submissions: BTreeMap<u64, (Submission, OnLink)>,
    next_token: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnLink {
    No,
    Since(Instant),
}

impl Pending {
    pub(super) fn add(&mut self, submission: Submission) {
        let token = self.take_token();
        self.submissions.insert(token, (submission, OnLink::No));
    }

    /// A token for a publication that nobody waits for.
    pub(super) fn take_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn is_empty(&self) -> bool {
        self.submissions.is_empty()
    }

    /// Hands what the present link has not seen yet to it, as far as it takes it.
    pub(super) fn send(&mut self, link: &Link, now: Instant) {
        // A task that was given up waits no more.
        self.submissions.retain(|_, (s, _)| !s.sent.is_closed());
        let mut too_large = Vec::new();
        for (token, (submission, on_link)) in &mut self.submissions {
            if *on_link != OnLink::No {
                continue;
            }
            match link.try_publish(*token, &submission.publication) {
                Ok(()) => *on_link = OnLink::Since(now),
                Err(SendError::Full) => break,
                Err(SendError::TooLarge { .. } | SendError::Topic) => too_large.push(*token),
            }
        }
        for token in too_large {
            self.settle(token, Err(Unsent::TooLarge));
        }
    }

    /// Whether the present link has had one for longer than `patience`.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        let since = |on_link: &OnLink| match on_link {
            OnLink::No => Duration::ZERO,
            OnLink::Since(at) => now.saturating_duration_since(*at),
        };
        let mut submissions = self.submissions.values();
        submissions.any(|(_, on_link)| since(on_link) > patience)
    }

    /// The refusal back, if nobody waits for it.
    pub(super) fn acknowledged(
        &mut self,
        token: u64,
        result: Result<(), String>,
    ) -> Option<String> {
        if !self.submissions.contains_key(&token) {
            return result.err();
        }
        self.settle(token, result.map_err(Unsent::Refused));
        None
    }

    /// The link is gone: all of it is to be published again.
    pub(super) fn lost(&mut self) {
        for (_, on_link) in self.submissions.values_mut() {
            *on_link = OnLink::No;
        }
    }

    /// Nothing more will be sent.
    pub(super) fn close(&mut self) {
        self.submissions.clear();
    }

    fn settle(&mut self, token: u64, sent: Sent) {
        if let Some((submission, _)) = self.submissions.remove(&token) {
            let _ = submission.sent.send(sent);
        }
    }
}
