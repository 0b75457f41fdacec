//! Answers, chunks, lists and errors as OpenAI's clients read them.

use serde_json::{Value, json};

use crate::prompt::{Finish, Outcome, RequestId, Usage};
use crate::reason::{Refusal, RefuseReason};
use crate::time::Timestamp;

/// What all bodies of one answer share.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-` and the request id's bits.
    pub id: String,
    pub model: String,
    pub created_secs: u64,
}

impl Head {
    pub fn new(id: &RequestId, model: &str, created: Timestamp) -> Head {
        Head {
            id: id.with_prefix("chatcmpl-"),
            model: model.to_owned(),
            created_secs: created.as_secs(),
        }
    }
}

/// The whole answer as one `chat.completion` object.
pub fn completion(head: &Head, text: &str, outcome: &Outcome) -> Vec<u8> {
    let choice = json!({
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": null},
        "logprobs": null,
        "finish_reason": finish_reason(outcome),
    });
    let mut body = object(head, "chat.completion", &json!([choice]));
    body["usage"] = usage(outcome.usage);
    bytes(&body)
}

/// The first chunk (`delta.role`).
pub fn chunk_start(head: &Head) -> Vec<u8> {
    chunk(head, &json!({"role": "assistant", "content": ""}), None)
}

/// A `chat.completion.chunk` object with `delta.content`.
pub fn chunk_text(head: &Head, text: &str) -> Vec<u8> {
    chunk(head, &json!({"content": text}), None)
}

/// The chunk with `finish_reason`.
pub fn chunk_end(head: &Head, outcome: &Outcome) -> Vec<u8> {
    chunk(head, &json!({}), finish_reason(outcome))
}

/// The chunk of `stream_options.include_usage`: no choices, `usage`.
pub fn chunk_usage(head: &Head, outcome: &Outcome) -> Vec<u8> {
    let mut body = object(head, "chat.completion.chunk", &json!([]));
    body["usage"] = usage(outcome.usage);
    bytes(&body)
}

/// `GET /v1/models`: the endpoints that a token opens.
pub fn models(names: &[&str]) -> Vec<u8> {
    let data: Vec<Value> = names.iter().map(|name| model_object(name)).collect();
    bytes(&json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{name}`.
pub fn model(name: &str) -> Vec<u8> {
    bytes(&model_object(name))
}

/// `{"error":{"message","type","param","code"}}`.
pub fn error(refusal: &Refusal) -> Vec<u8> {
    bytes(&json!({"error": {
        "message": refusal.message(),
        "type": refusal.reason.error_type(),
        "param": refusal.param,
        "code": refusal.reason.as_str(),
    }}))
}

/// The refusal that stands for an answer which ended before it was whole; `None` for stop/length.
pub fn unfinished(outcome: &Outcome) -> Option<Refusal> {
    Some(match outcome.finish {
        Finish::Stop | Finish::Length => return None,
        Finish::Cancelled => Refusal::new(RefuseReason::Cancelled),
        Finish::Deadline => Refusal::new(RefuseReason::DeadlineExceeded),
        Finish::Revoked(reason) => Refusal::new(reason)
            .detail("keys, policy or deny-list have changed while the answer was being written"),
        Finish::Failed => Refusal::new(RefuseReason::Internal),
        Finish::Shutdown => Refusal::new(RefuseReason::Draining),
    })
}

fn chunk(head: &Head, delta: &Value, finish_reason: Option<&str>) -> Vec<u8> {
    let choice = json!({
        "index": 0,
        "delta": delta,
        "logprobs": null,
        "finish_reason": finish_reason,
    });
    bytes(&object(head, "chat.completion.chunk", &json!([choice])))
}

fn object(head: &Head, kind: &str, choices: &Value) -> Value {
    json!({
        "id": head.id,
        "object": kind,
        "created": head.created_secs,
        "model": head.model,
        "choices": choices,
    })
}

/// `created` is asked for by the clients' types; an endpoint has no such date.
fn model_object(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "slmd"})
}

fn usage(usage: Usage) -> Value {
    let Usage {
        prompt_tokens,
        completion_tokens,
    } = usage;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": u64::from(prompt_tokens) + u64::from(completion_tokens),
    })
}

fn finish_reason(outcome: &Outcome) -> Option<&'static str> {
    let finish = outcome.finish;
    finish.is_complete().then(|| finish.as_str())
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::DenyReason;

    #[test]
    fn answers_have_the_clients_shape() {
        let id = RequestId::random();
        let head = Head::new(&id, "slm", Timestamp::from_secs(7));
        let own = id.as_str().strip_prefix("req_").unwrap();
        let own = format!("chatcmpl-{own}");
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
        };
        let outcome = |finish| Outcome { finish, usage };
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();

        let whole = read(completion(&head, "a\"\n\u{1f600}", &outcome(Finish::Stop)));
        assert_eq!(whole["object"], "chat.completion");
        assert_eq!(whole["choices"][0]["message"]["content"], "a\"\n\u{1f600}");
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["usage"]["total_tokens"], 8);

        let chunks = [
            chunk_start(&head),
            chunk_text(&head, "x"),
            chunk_end(&head, &outcome(Finish::Length)),
            chunk_usage(&head, &outcome(Finish::Length)),
        ]
        .map(read);
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!((&chunk["id"], &chunk["created"]), (&json!(own), &json!(7)));
        }
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "x"}));
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
        assert_eq!(chunks[3]["choices"], json!([]));

        for finish in [
            Finish::Stop,
            Finish::Length,
            Finish::Cancelled,
            Finish::Deadline,
            Finish::Revoked(DenyReason::KeyUnknown),
            Finish::Failed,
            Finish::Shutdown,
        ] {
            let refusal = unfinished(&outcome(finish));
            assert_eq!(refusal.is_none(), finish.is_complete(), "{finish:?}");
        }
        // What was found is what is said.
        for reason in DenyReason::ALL {
            let refusal = unfinished(&outcome(Finish::Revoked(*reason))).unwrap();
            assert_eq!(refusal.reason, (*reason).into());
        }
        let late = read(error(&unfinished(&outcome(Finish::Deadline)).unwrap()));
        assert_eq!(late["error"]["code"], "deadline_exceeded");
        assert_eq!(late["error"]["type"], "server_error");
        assert_eq!(late["error"]["param"], Value::Null);
    }
}
