//! The bounded way of an answer from the engine thread to a transport.
//!
//! The engine must never wait for a slow reader, and a reader must never miss the end. So text
//! goes through a bounded queue; what doesn't fit is kept by the sender and merged into the next
//! piece (bounded by `max_completion_tokens`), and the end has a slot of its own.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Finish;

/// One piece of an answer, in order. Exactly one `End` comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fragment {
    /// Whole UTF-8 characters, never empty.
    Text(String),
    End(Outcome),
}

/// How an answer ended, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub finish: Finish,
    pub usage: Usage,
}

impl Outcome {
    /// Of an answer whose end nobody knows.
    pub const LOST: Outcome = Outcome {
        finish: Finish::Failed,
        usage: Usage {
            prompt_tokens: 0,
            completion_tokens: 0,
        },
    };
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

/// The engine's end of an answer. Dropped without [`AnswerSender::finish`], the receiver sees
/// [`Finish::Failed`].
#[derive(Debug)]
pub struct AnswerSender {
    text: mpsc::Sender<String>,
    end: oneshot::Sender<(String, Outcome)>,
    pending: String,
}

/// The transport's end of an answer. Dropping it tells the engine that the client has left.
#[derive(Debug)]
pub struct AnswerReceiver {
    text: mpsc::Receiver<String>,
    end: Option<oneshot::Receiver<(String, Outcome)>>,
    outcome: Option<Outcome>,
}

/// An answer channel that holds at most `capacity` pieces of text.
pub fn channel(capacity: usize) -> (AnswerSender, AnswerReceiver) {
    let (text, text_rx) = mpsc::channel(capacity);
    let (end, end_rx) = oneshot::channel();
    let sender = AnswerSender {
        text,
        end,
        pending: String::new(),
    };
    let receiver = AnswerReceiver {
        text: text_rx,
        end: Some(end_rx),
        outcome: None,
    };
    (sender, receiver)
}

impl AnswerSender {
    /// Sends `text`, or keeps it for the next call when the reader is behind. Never blocks.
    pub fn send(&mut self, text: &str) {
        self.pending.push_str(text);
        if self.pending.is_empty() {
            return;
        }
        if let Ok(permit) = self.text.try_reserve() {
            permit.send(std::mem::take(&mut self.pending));
        }
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.text.is_closed()
    }

    /// Ends the answer, with whatever text the reader has not taken yet.
    pub fn finish(self, outcome: Outcome) {
        // A reader that left needs no end.
        let _ = self.end.send((self.pending, outcome));
    }
}

impl AnswerReceiver {
    /// The next fragment; `None` after the `End`. Cancel-safe.
    pub async fn next(&mut self) -> Option<Fragment> {
        if let Some(text) = self.text.recv().await {
            return Some(Fragment::Text(text));
        }
        if let Some(end) = self.end.as_mut() {
            let lost = |_| (String::new(), Outcome::LOST);
            let (rest, outcome) = end.await.unwrap_or_else(lost);
            self.end = None;
            self.outcome = Some(outcome);
            if !rest.is_empty() {
                return Some(Fragment::Text(rest));
            }
        }
        self.outcome.take().map(Fragment::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Outcome = Outcome {
        finish: Finish::Stop,
        usage: Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
        },
    };

    #[tokio::test]
    async fn slow_reader_loses_nothing_and_blocks_nobody() {
        let (mut tx, mut rx) = channel(2);
        for i in 0..5 {
            tx.send(&i.to_string());
        }
        tx.finish(DONE);
        let mut text = String::new();
        while let Some(fragment) = rx.next().await {
            match fragment {
                Fragment::Text(t) => text.push_str(&t),
                Fragment::End(outcome) => assert_eq!(outcome, DONE),
            }
        }
        assert_eq!(text, "01234");
    }

    /// Beside each other for real: what ThreadSanitizer looks at (`tests/sanitize`).
    #[tokio::test]
    async fn a_reader_beside_the_engines_thread_gets_all_of_it_in_order() {
        let (mut tx, mut rx) = channel(3);
        let written: String = (0..20_000).map(|n| format!("{n} ")).collect();
        let engine = {
            let written = written.clone();
            std::thread::spawn(move || {
                for piece in written.split_inclusive(' ') {
                    tx.send(piece);
                }
                tx.finish(DONE);
            })
        };
        let mut read = String::new();
        loop {
            match rx.next().await {
                Some(Fragment::Text(text)) => read.push_str(&text),
                Some(Fragment::End(outcome)) => break assert_eq!(outcome, DONE),
                None => panic!("no end"),
            }
        }
        assert_eq!(read, written);
        engine.join().unwrap();
    }

    #[tokio::test]
    async fn lost_engine_is_a_failed_answer() {
        let (tx, mut rx) = channel(1);
        drop(tx);
        let Some(Fragment::End(outcome)) = rx.next().await else {
            panic!("no end");
        };
        assert_eq!(outcome.finish, Finish::Failed);
        assert_eq!(rx.next().await, None);
    }

    #[tokio::test]
    async fn leaving_reader_is_seen() {
        let (tx, rx) = channel(1);
        assert!(!tx.is_closed());
        drop(rx);
        assert!(tx.is_closed());
    }
}
