//! Lists, errors and counts as OpenAI's clients read them.

use serde_json::{Value, json};

use crate::prompt::{Finish, Outcome, Usage};
use crate::reason::{Refusal, RefuseReason};

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
pub(super) fn unfinished(outcome: &Outcome) -> Option<Refusal> {
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

/// `created` is asked for by the clients' types; an endpoint has no such date.
fn model_object(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "slmd"})
}

pub(super) fn usage(usage: Usage) -> Value {
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

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
