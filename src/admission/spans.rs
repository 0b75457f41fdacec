//! What a request's trace tells of its way through the door and the engine: no word of prompt or answer,
//! nobody's name.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::auth::{Decision, Permitted};
use crate::engine::{PROVIDER, Prompt, Report};
use crate::prompt::{Finish, Request};
use crate::time;
use crate::trace::{Attribute, Trace};

/// A step that may take its time.
pub(super) async fn step<T>(trace: &Trace, name: &'static str, work: impl Future<Output = T>) -> T {
    let from = time::instant();
    let done = work.await;
    trace.child(name, (from, time::instant()), Vec::new());
    done
}

/// The decision that began then. Names are told once they are a realm's own.
pub(super) fn decided(request: &Request, from: Instant, decision: &Decision) {
    let trace = &request.trace;
    if !trace.is_recorded() {
        return;
    }
    let mut told = Vec::new();
    let realm = match decision {
        Decision::Permit(permitted) => {
            told.push(Attribute::new("slmd.decision", "permit"));
            trace.decided(Ok(()));
            Some(&permitted.grant().realm)
        }
        Decision::Deny(denied) => {
            told.push(Attribute::new("slmd.decision", "deny"));
            told.push(Attribute::new("error.type", denied.reason.as_str()));
            trace.decided(Err(denied.reason.into()));
            denied.realm.as_ref()
        }
    };
    trace.set("slmd.action", request.asks.as_str());
    if let Some(realm) = realm {
        told.push(Attribute::new("slmd.realm", realm.clone()));
        trace.set("slmd.realm", realm.clone());
    }
    trace.child("decision", (from, time::instant()), told);
}

/// What the engine is asked.
pub(super) fn asked(permitted: &Permitted, prompt: &Prompt) {
    let trace = &permitted.request().trace;
    if !trace.is_recorded() {
        return;
    }
    trace.set("gen_ai.operation.name", prompt.dialect.operation_name());
    trace.set("gen_ai.provider.name", PROVIDER);
    trace.set("gen_ai.request.model", prompt.model.clone());
    trace.set("gen_ai.request.max_tokens", prompt.max_completion_tokens);
    trace.set("slmd.endpoint", permitted.endpoint().client_id.clone());
}

/// What the engine has done with what was queued at `queued`.
pub(super) fn answered(trace: &Trace, queued: Instant, model: &str, report: &Report) {
    if !trace.is_recorded() {
        return;
    }
    let (finish, usage) = (report.outcome.finish, report.outcome.usage);
    let at = |passed: Duration| queued + passed;
    let (began, ended) = (at(report.queued), at(report.total));
    let input = ("gen_ai.usage.input_tokens", usage.prompt_tokens);
    let output = ("gen_ai.usage.output_tokens", usage.completion_tokens);
    let reasons = || Attribute::new("gen_ai.response.finish_reasons", vec![finish.as_str()]);
    let of_model = |(key, tokens): (&'static str, u32)| {
        let model = Attribute::new("gen_ai.request.model", model.to_owned());
        vec![model, Attribute::new(key, tokens)]
    };
    trace.child("queue", (queued, began), Vec::new());
    if usage.prompt_tokens > 0 {
        let first = report.first_token.map(at);
        trace.child("prefill", (began, first.unwrap_or(ended)), of_model(input));
        if let Some(first) = first {
            let told = [of_model(output), vec![reasons()]].concat();
            trace.child("decode", (first, ended), told);
        }
    }
    for (key, tokens) in [input, output] {
        trace.set(key, tokens);
    }
    trace.set("gen_ai.response.finish_reasons", vec![finish.as_str()]);
    match finish {
        Finish::Stop | Finish::Length => return,
        Finish::Failed => trace.fail(),
        Finish::Cancelled | Finish::Deadline | Finish::Revoked(_) | Finish::Shutdown => {}
    }
    trace.set("error.type", finish.as_str());
}
