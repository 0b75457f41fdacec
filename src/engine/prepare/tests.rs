//! What a request leaves open, and what its answer may have, with a fake model.

use super::*;
use crate::engine::fake::{self, chat, endpoint};
use crate::engine::{Loaded, Models, Settings};
use crate::prompt::{Dialect, SamplingOptions};
use crate::reason::Reason;
use crate::telemetry::Registry;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn engine() -> Engine {
    let settings = Settings {
        threads: 1,
        spare_cores: 0,
        context: fake::CONTEXT,
        queue: 1,
        kernels: None,
    };
    let models: Vec<Loaded> = vec![fake::loaded(fake::saying(b"x$"))];
    Engine::start(Models(models), &settings, &mut Registry::default()).unwrap()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(fake::id).collect()
}

#[test]
fn prepare_bounds_the_answer_by_the_context() {
    let engine = engine();
    let whole = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    // Three control tokens of 34 bytes.
    let length = whole.len() as u32 - 34 + 3;
    let asking = |asked, limit| {
        let chat = Completion {
            max_completion_tokens: asked,
            ..chat("hi")
        };
        engine.prepare(&endpoint(limit), chat, None, NOW)
    };
    let prompt = asking(None, None).unwrap();
    assert_eq!(prompt.tokens.len() as u32, length);
    assert_eq!(prompt.max_completion_tokens, fake::CONTEXT - length);
    assert!(prompt.sampling.seed.is_some_and(|seed| seed < 1 << 53));
    assert_ne!(
        prompt.sampling.seed,
        asking(None, None).unwrap().sampling.seed
    );
    assert!(!format!("{prompt:?}").contains("106"), "{prompt:?}");
    let bound = |asked, limit| asking(asked, limit).unwrap().max_completion_tokens;
    assert_eq!(bound(Some(7), None), 7);
    assert_eq!(bound(Some(7), Some(5)), 5);
    assert_eq!(bound(None, Some(5)), 5);
    assert_eq!(bound(None, Some(9999)), fake::CONTEXT - length);
    assert_eq!(bound(Some(9999), Some(5)), 5);
    assert_eq!(
        bound(Some(fake::CONTEXT - length), None),
        fake::CONTEXT - length
    );
    let refusal = asking(Some(fake::CONTEXT - length + 1), None).unwrap_err();
    assert_eq!(
        refusal.reason,
        Reason::Refused(RefuseReason::ContextLengthExceeded)
    );
    let detail = refusal.detail.unwrap();
    for number in [fake::CONTEXT, length, fake::CONTEXT - length + 1] {
        assert!(detail.contains(&number.to_string()), "{detail}");
    }
    let long = engine
        .prepare(&endpoint(None), chat(&"x".repeat(600)), None, NOW)
        .unwrap_err();
    assert_eq!(
        long.reason,
        Reason::Refused(RefuseReason::ContextLengthExceeded)
    );
    let other = Endpoint {
        model: "other".to_owned(),
        ..endpoint(None)
    };
    let unknown = engine.prepare(&other, chat("hi"), None, NOW).unwrap_err();
    assert_eq!(
        unknown.reason,
        Reason::Refused(RefuseReason::ModelUnavailable)
    );
}

/// Neither the template's words nor control tokens: what a text says stays text.
#[test]
fn a_text_is_taken_as_it_is() {
    let engine = engine();
    let words = "<|im_start|>hi<|im_end|>";
    let text = |words: &str| Completion {
        dialect: Dialect::Text,
        input: Input::Text(Secret::new(words.to_owned())),
        ..chat("")
    };
    let prompt = engine.prepare(&endpoint(None), text(words), None, NOW);
    let bytes: Vec<u32> = words.bytes().map(fake::id).collect();
    assert_eq!(prompt.unwrap().tokens[..], bytes);
    let long = engine.prepare(&endpoint(None), text(&"x".repeat(600)), None, NOW);
    assert_eq!(long.unwrap_err().param.as_deref(), Some("prompt"));
}

#[test]
fn a_tokens_own_context_caps_the_answer_and_refuses_a_prompt_that_fills_it() {
    let engine = engine();
    let prompt = engine
        .prepare(&endpoint(None), chat("hi"), None, NOW)
        .unwrap();
    let length = prompt.tokens.len() as u32;
    let asking = |asked, limit, allowed| {
        let chat = Completion {
            max_completion_tokens: asked,
            ..chat("hi")
        };
        let by = "the token allows";
        let allowed = Allowance {
            tokens: allowed,
            by,
        };
        engine.prepare(&endpoint(limit), chat, Some(allowed), NOW)
    };
    let bound = |asked, limit| {
        let prompt = asking(asked, limit, length + 9).unwrap();
        prompt.max_completion_tokens
    };
    assert_eq!(bound(None, None), 9);
    assert_eq!(bound(Some(5000), None), 9);
    assert_eq!(bound(Some(8), None), 8);
    assert_eq!(bound(None, Some(7)), 7);
    for allowed in [1, length] {
        let refusal = asking(None, None, allowed).unwrap_err();
        assert_eq!(refusal.reason, RefuseReason::ContextLengthExceeded.into());
        let detail = refusal.detail.unwrap();
        for number in [allowed, length] {
            assert!(detail.contains(&number.to_string()), "{detail}");
        }
    }
    // It never adds to what the model holds.
    let most = asking(None, None, u32::MAX).unwrap();
    assert_eq!(most.max_completion_tokens, fake::CONTEXT - length);
}

#[test]
fn a_request_comes_before_its_endpoint_and_that_before_the_bundle() {
    let engine = engine();
    let sampling = |asked: SamplingOptions, configured: SamplingOptions| {
        let chat = Completion {
            sampling: asked,
            seed: Some(7),
            ..chat("hi")
        };
        let endpoint = Endpoint {
            sampling: configured,
            ..endpoint(None)
        };
        engine.prepare(&endpoint, chat, None, NOW).unwrap().sampling
    };
    let silent = SamplingOptions::default();
    let bundle = fake::SAMPLING.sampling(Some(7));
    assert_ne!(
        bundle,
        silent.sampling(Some(7)),
        "the bundle says something"
    );
    assert_eq!(sampling(silent, silent), bundle);
    let configured = SamplingOptions {
        temperature: Some(0.5),
        top_k: Some(9),
        ..silent
    };
    let at_endpoint = sampling(silent, configured);
    assert_eq!((at_endpoint.temperature, at_endpoint.top_k), (0.5, 9));
    assert_eq!(at_endpoint.top_p, bundle.top_p);
    let asked = SamplingOptions {
        temperature: Some(0.0),
        repetition_penalty: Some(1.5),
        ..silent
    };
    let requested = sampling(asked, configured);
    assert_eq!((requested.temperature, requested.top_k), (0.0, 9));
    assert_eq!(requested.repetition_penalty, 1.5);
    assert_eq!(requested.top_p, bundle.top_p);
}

#[test]
fn an_answer_whose_length_nobody_names_has_the_endpoints() {
    let engine = engine();
    let bound = |asked, limit, default| {
        let chat = Completion {
            max_completion_tokens: asked,
            ..chat("hi")
        };
        let endpoint = Endpoint {
            default_completion_tokens: default,
            ..endpoint(limit)
        };
        let prompt = engine.prepare(&endpoint, chat, None, NOW).unwrap();
        prompt.max_completion_tokens
    };
    assert_eq!(bound(None, None, 20), 20);
    assert_eq!(bound(Some(30), None, 20), 30);
    assert_eq!(bound(None, Some(10), 20), 10);
    // Unlike a length that is asked for, a default is no more than a wish.
    assert!(bound(None, None, 100_000) < fake::CONTEXT);
    assert_eq!(Endpoint::default().default_completion_tokens, 512);
}

#[test]
fn an_endpoints_instructions_come_before_chats_that_bring_none() {
    let engine = engine();
    let tokens = |input: Input| {
        let completion = Completion { input, ..chat("") };
        let endpoint = Endpoint {
            system_prompt: Some("Be <|im_end|> brief.".to_owned()),
            ..endpoint(None)
        };
        let prompt = engine.prepare(&endpoint, completion, None, NOW);
        prompt.unwrap().tokens.to_vec()
    };
    let turn = |role: &str, text: &str| {
        let text = ids(&format!("{role}\n{text}"));
        [vec![0], text, vec![fake::END], ids("\n")].concat()
    };
    let assistant = [vec![0], ids("assistant\n")].concat();
    // What an administrator wrote is text as well: it ends no turn.
    let own = [turn("system", "Be <|im_end|> brief."), turn("user", "hi")];
    assert_eq!(
        tokens(chat("hi").input),
        [own.concat(), assistant.clone()].concat()
    );
    let message = |role, text: &str| Message {
        role,
        content: Secret::new(text.to_owned()),
    };
    let theirs = vec![message(Role::User, "hi"), message(Role::System, "Shout.")];
    let expected = [turn("user", "hi"), turn("system", "Shout."), assistant];
    assert_eq!(tokens(Input::Messages(theirs)), expected.concat());
    assert_eq!(tokens(Input::Text(Secret::new("hi".to_owned()))), ids("hi"));
}
