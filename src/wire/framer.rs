//! One answer as bodies: a single one, or a chunk for each piece. HTTP wraps them as server-sent
//! events and MQTT as messages; what is inside is the same.

use serde_json::{Value, json};

use super::{Format, answer, format};
use crate::prompt::{Dialect, Outcome, RequestId};
use crate::reason::Refusal;
use crate::time::Timestamp;

/// How a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub dialect: Dialect,
    pub stream: bool,
    /// Of a stream: whether it ends with the usage.
    pub include_usage: bool,
}

/// Writes the bodies of one answer.
pub struct Framer {
    format: &'static dyn Format,
    framing: Framing,
    id: String,
    model: String,
    created_secs: u64,
}

impl Framing {
    pub fn framer(self, id: &RequestId, model: &str, created: Timestamp) -> Framer {
        let format = format(self.dialect);
        Framer {
            format,
            framing: self,
            id: id.with_prefix(format.id_prefix()),
            model: model.to_owned(),
            created_secs: created.as_secs(),
        }
    }
}

impl Framer {
    pub fn is_stream(&self) -> bool {
        self.framing.stream
    }

    /// What comes before the text.
    pub fn start(&self) -> Option<Vec<u8>> {
        let start = self.is_stream().then(|| self.format.start()).flatten()?;
        Some(self.chunk(start, None))
    }

    /// A piece of the text; nothing where the answer comes whole.
    pub fn piece(&self, text: &str) -> Option<Vec<u8>> {
        let piece = || self.chunk(self.format.piece(text), None);
        self.is_stream().then(piece)
    }

    /// What comes at the end of `text`, at least one body; or the refusal that stands for an answer
    /// which ended before it was whole.
    pub fn end(&self, text: &str, outcome: &Outcome) -> Result<Vec<Vec<u8>>, Refusal> {
        if let Some(refusal) = answer::unfinished(outcome) {
            return Err(refusal);
        }
        let finish_reason = Some(outcome.finish.as_str());
        if !self.is_stream() {
            let choice = choice(self.format.whole(text), finish_reason);
            let mut body = self.object(self.format.whole_object(), &[choice]);
            body["usage"] = answer::usage(outcome.usage);
            return Ok(vec![answer::bytes(&body)]);
        }
        let mut bodies = vec![self.chunk(self.format.end(), finish_reason)];
        if self.framing.include_usage {
            let mut body = self.object(self.format.chunk_object(), &[]);
            body["usage"] = answer::usage(outcome.usage);
            bodies.push(answer::bytes(&body));
        }
        Ok(bodies)
    }

    fn chunk(&self, own: Value, finish_reason: Option<&str>) -> Vec<u8> {
        let choice = choice(own, finish_reason);
        answer::bytes(&self.object(self.format.chunk_object(), &[choice]))
    }

    fn object(&self, kind: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created_secs,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// With what all dialects' choices have.
fn choice(mut own: Value, finish_reason: Option<&str>) -> Value {
    own["index"] = 0.into();
    own["logprobs"] = Value::Null;
    own["finish_reason"] = finish_reason.into();
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Finish, Usage};
    use crate::reason::DenyReason;

    fn outcome(finish: Finish) -> Outcome {
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
        };
        Outcome { finish, usage }
    }

    fn framer(stream: bool, include_usage: bool) -> (Framer, String) {
        let framing = Framing {
            dialect: Dialect::Chat,
            stream,
            include_usage,
        };
        let id = RequestId::random();
        let bits = id.as_str().strip_prefix("req_").unwrap().to_owned();
        (framing.framer(&id, "slm", Timestamp::from_secs(7)), bits)
    }

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_whole_chat_is_one_body() {
        let (framer, bits) = framer(false, false);
        let text = "a\"\n\u{1f600}";
        assert_eq!((framer.start(), framer.piece(text)), (None, None));
        let bodies = framer.end(text, &outcome(Finish::Stop)).unwrap();
        let [whole] = bodies.as_slice() else {
            panic!("{} bodies", bodies.len());
        };
        let whole = read(whole);
        assert_eq!(whole["id"], format!("chatcmpl-{bits}"));
        assert_eq!(whole["object"], "chat.completion");
        assert_eq!(whole["choices"][0]["message"]["content"], text);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["usage"]["total_tokens"], 8);
    }

    #[test]
    fn a_streamed_chat_is_a_body_for_each_piece() {
        let (framer, bits) = framer(true, true);
        let mut bodies = vec![framer.start().unwrap(), framer.piece("x").unwrap()];
        bodies.extend(framer.end("x", &outcome(Finish::Length)).unwrap());
        let chunks: Vec<Value> = bodies.iter().map(|body| read(body)).collect();
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["id"], format!("chatcmpl-{bits}"));
            assert_eq!(chunk["created"], 7);
        }
        assert_eq!(chunks.len(), 4);
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "x"}));
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
        assert_eq!(chunks[3]["choices"], json!([]));
        assert_eq!(chunks[3]["usage"]["total_tokens"], 8);
        let (framer, _) = self::framer(true, false);
        assert_eq!(framer.end("x", &outcome(Finish::Stop)).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_whole_ends_in_a_refusal() {
        for stream in [false, true] {
            let (framer, _) = framer(stream, true);
            let refused = |finish| framer.end("x", &outcome(finish)).unwrap_err();
            for (finish, code) in [
                (Finish::Deadline, "deadline_exceeded"),
                (Finish::Shutdown, "draining"),
                (Finish::Failed, "internal"),
                (Finish::Cancelled, "cancelled"),
            ] {
                assert_eq!(refused(finish).reason.as_str(), code);
            }
            // What was found is what is said.
            for reason in DenyReason::ALL {
                assert_eq!(refused(Finish::Revoked(*reason)).reason, (*reason).into());
            }
        }
        let (framer, _) = framer(false, false);
        let late = framer.end("", &outcome(Finish::Deadline)).unwrap_err();
        let late = read(&answer::error(&late));
        assert_eq!(late["error"]["code"], "deadline_exceeded");
        assert_eq!(late["error"]["type"], "server_error");
        assert_eq!(late["error"]["param"], Value::Null);
    }
}
