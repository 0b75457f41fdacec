//! Requests: each parameter good and bad, hostile bodies, and what errors may show.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::prompt::{Dialect, Input, Message, Role};
use crate::reason::{Reason, Refusal, RefuseReason};

const SECRET: &str = "correct horse battery staple";

/// A minimal body with `members` added.
fn body(members: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
    let (Some(body_map), Value::Object(members)) = (body.as_object_mut(), members) else {
        panic!("not an object");
    };
    body_map.extend(members);
    body
}

fn parse(value: &Value) -> Result<Body, Refusal> {
    super::parse(Dialect::Chat, value.to_string().as_bytes())
}

fn ok(members: &Value) -> Body {
    parse(&body(members.clone())).unwrap_or_else(|refusal| panic!("{members}: {refusal}"))
}

/// The reason and parameter of the refusal.
fn refused(value: &Value) -> (RefuseReason, Option<String>) {
    match parse(value) {
        Err(Refusal {
            reason: Reason::Refused(reason),
            param,
            ..
        }) => (reason, param),
        other => panic!("{value}: {other:?}"),
    }
}

fn messages(body: &Body) -> &[Message] {
    let Input::Messages(messages) = &body.completion.input else {
        panic!("no messages");
    };
    messages
}

fn refused_param(members: Value) -> (RefuseReason, String) {
    let (reason, param) = refused(&body(members));
    (reason, param.unwrap_or_default())
}

#[test]
fn parameters_at_their_limits() {
    let parsed = ok(&json!({
        "model": "slm", "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 1.0, "seed": -1,
        "stop": ["a", "b", "c", "d"], "max_tokens": 1, "max_completion_tokens": 1,
        "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
    }));
    assert_eq!(parsed.model.as_deref(), Some("slm"));
    assert_eq!(parsed.completion.sampling.temperature, Some(0.0));
    assert_eq!(parsed.completion.sampling.min_p, Some(1.0));
    assert_eq!(parsed.completion.seed, Some(u64::MAX));
    assert_eq!(parsed.completion.stop, ["a", "b", "c", "d"]);
    assert_eq!(parsed.completion.max_completion_tokens, Some(1));
    assert!(parsed.framing.stream && parsed.framing.include_usage);

    assert_eq!(
        ok(&json!({"temperature": 2.0}))
            .completion
            .sampling
            .temperature,
        Some(2.0)
    );
    assert_eq!(
        ok(&json!({"seed": u64::MAX})).completion.seed,
        Some(u64::MAX)
    );
    assert_eq!(ok(&json!({"stop": "x"})).completion.stop, ["x"]);
    assert_eq!(
        ok(&json!({"max_tokens": 7}))
            .completion
            .max_completion_tokens,
        Some(7)
    );
}

#[test]
fn penalties_are_taken_and_silence_is_kept() {
    let silent = ok(&json!({"temperature": null})).completion.sampling;
    assert!(silent.is_empty(), "{silent:?}");
    let members =
        json!({"repetition_penalty": 1.1, "frequency_penalty": -2, "presence_penalty": 2});
    let given = ok(&members).completion.sampling;
    assert_eq!(json!(given), members);
}

#[test]
fn values_out_of_range_are_invalid() {
    for (members, param) in [
        (json!({"model": ""}), "model"),
        (json!({"model": 5}), "model"),
        (json!({"model": "m".repeat(257)}), "model"),
        (json!({"temperature": 2.01}), "temperature"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": "0.5"}), "temperature"),
        (json!({"top_p": -0.1}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"top_k": -1}), "top_k"),
        (json!({"top_k": 1.5}), "top_k"),
        (json!({"top_k": 4_294_967_296_u64}), "top_k"),
        (json!({"min_p": 1.1}), "min_p"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"repetition_penalty": 2.1}), "repetition_penalty"),
        (json!({"frequency_penalty": -2.1}), "frequency_penalty"),
        (json!({"frequency_penalty": true}), "frequency_penalty"),
        (json!({"presence_penalty": 2.001}), "presence_penalty"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": 1e30}), "seed"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", 1]}), "stop"),
        (json!({"stop": {}}), "stop"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            "max_tokens",
        ),
        (json!({"stream": 1}), "stream"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": []}),
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"authorization": 1}), "authorization"),
    ] {
        let expected = (RefuseReason::InvalidParameter, param.to_owned());
        assert_eq!(refused_param(members.clone()), expected, "{members}");
    }
}

#[test]
fn what_cannot_be_honoured_is_named_unless_neutral() {
    for (name, neutral, other) in [
        ("n", json!(1), json!(2)),
        ("logit_bias", json!({}), json!({"50256": -100})),
        ("logprobs", json!(false), json!(true)),
        ("top_logprobs", json!(0), json!(5)),
        (
            "response_format",
            json!({"type": "text"}),
            json!({"type": "json_object"}),
        ),
        ("tools", json!([]), json!([{"type": "function"}])),
        ("tool_choice", json!("none"), json!("auto")),
        ("store", json!(false), json!(true)),
        ("modalities", json!(["text"]), json!(["text", "audio"])),
    ] {
        assert!(ok(&json!({name: neutral})).ignored.is_empty(), "{name}");
        ok(&json!({name: null}));
        let expected = (RefuseReason::UnsupportedParameter, name.to_owned());
        assert_eq!(refused_param(json!({name: other})), expected);
    }
    for (members, param) in [
        (json!({"best_of": 2}), "best_of"),
        (json!({"reasoning_effort": "low"}), "reasoning_effort"),
        (json!({"Temperature": 1}), "Temperature"),
        (json!({"two words\u{1b}[2J": 1}), "(not a name)"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
        ),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "stream_options.x",
        ),
    ] {
        let expected = (RefuseReason::UnsupportedParameter, param.to_owned());
        assert_eq!(refused_param(members), expected);
    }
}

#[test]
fn parameters_without_effect_are_listed() {
    let parsed = ok(&json!({
        "user": "u", "metadata": {"a": "b"}, "parallel_tool_calls": true, "service_tier": "auto",
        "prompt_cache_key": "k", "safety_identifier": "s", "store": false,
        "messages": [{"role": "user", "content": "hi", "name": "ann"}],
    }));
    let expected = [
        "user",
        "metadata",
        "parallel_tool_calls",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
        "messages.name",
    ];
    assert_eq!(parsed.ignored, expected);
}

#[test]
fn messages_in_every_form() {
    let parsed = ok(&json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "", "refusal": null, "tool_calls": null, "annotations": []},
        {"role": "system", "content": "x"},
    ]}));
    let seen: Vec<_> = messages(&parsed)
        .iter()
        .map(|m| (m.role, m.content.expose().as_str()))
        .collect();
    let expected = [
        (Role::System, "be brief"),
        (Role::User, "ab"),
        (Role::Assistant, ""),
        (Role::System, "x"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn bad_messages_are_named_and_never_repeated() {
    use RefuseReason::{InvalidParameter, UnsupportedParameter};
    let user = json!({"role": "user", "content": "hi"});
    for (messages, reason, param) in [
        (json!(SECRET), InvalidParameter, "messages"),
        (json!([]), InvalidParameter, "messages"),
        (json!(vec![user.clone(); 257]), InvalidParameter, "messages"),
        (json!([user, SECRET]), InvalidParameter, "messages[1]"),
        (
            json!([{"content": SECRET}]),
            InvalidParameter,
            "messages[0].role",
        ),
        (
            json!([{"role": SECRET, "content": SECRET}]),
            InvalidParameter,
            "messages[0].role",
        ),
        (
            json!([{"role": "tool", "content": SECRET}]),
            UnsupportedParameter,
            "messages[0].role",
        ),
        (
            json!([user, {"role": "user"}]),
            InvalidParameter,
            "messages[1].content",
        ),
        (
            json!([user, {"role": "user", "content": 5}]),
            InvalidParameter,
            "messages[1].content",
        ),
        (
            json!([{"role": "user", "content": []}]),
            InvalidParameter,
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": [SECRET]}]),
            InvalidParameter,
            "messages[0].content[0]",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}]),
            UnsupportedParameter,
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": [{"type": SECRET, "text": SECRET}]}]),
            UnsupportedParameter,
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": SECRET, SECRET: 1}]),
            UnsupportedParameter,
            "messages[0].(not a name)",
        ),
        (
            json!([{"role": "assistant", "content": SECRET, "tool_calls": [{}]}]),
            UnsupportedParameter,
            "messages[0].tool_calls",
        ),
    ] {
        let value = body(json!({"messages": messages}));
        assert_eq!(refused(&value), (reason, Some(param.to_owned())), "{param}");
        let refusal = parse(&value).unwrap_err();
        assert!(
            !format!("{refusal} {refusal:?}").contains(SECRET),
            "{refusal}"
        );
        assert!(!String::from_utf8_lossy(&error(&refusal)).contains(SECRET));
    }
    let missing = parse(&json!({})).unwrap_err();
    assert_eq!(missing.param.as_deref(), Some("messages"));
}

#[test]
fn unreadable_bodies_tell_where_and_repeat_nothing() {
    let twice = format!(r#"{{"{SECRET}": 1, "{SECRET}": 2}}"#);
    let cut = format!(r#"{{"messages": [{{"role": "user", "content": "{SECRET}"#);
    let mut latin1 = format!(r#"{{"messages": "{SECRET}"#).into_bytes();
    latin1.push(0xe9);
    for bad in [
        b"".as_slice(),
        b"[]",
        b"\"x\"",
        b"{,}",
        twice.as_bytes(),
        cut.as_bytes(),
        &latin1,
    ] {
        let refusal = super::parse(Dialect::Chat, bad).unwrap_err();
        assert_eq!(refusal.reason, Reason::Refused(RefuseReason::BadRequest));
        assert!(!format!("{refusal:?}").contains("horse"), "{refusal}");
    }
    let text = super::parse(Dialect::Chat, b"{\"a\": \xff}")
        .unwrap_err()
        .message();
    assert!(text.contains("UTF-8 (byte 6)"), "{text}");
}

#[test]
fn debug_shows_neither_prompt_nor_token() {
    let parsed = ok(&json!({
        "authorization": SECRET, "messages": [{"role": "user", "content": SECRET}],
    }));
    assert_eq!(
        parsed.authorization.as_ref().map(|s| s.expose().as_str()),
        Some(SECRET)
    );
    assert!(!format!("{parsed:?}").contains(SECRET));
}

#[test]
fn body_hash_leaves_out_only_the_token_and_the_spelling() {
    let hash = |text: &str| {
        super::parse(Dialect::Chat, text.as_bytes())
            .unwrap()
            .body_hash
    };
    let plain = r#"{"messages":[{"role":"user","content":"é"}],"seed":1}"#;
    for same in [
        r#"{ "messages" : [ {"role":"user","content":"\u00e9"}], "seed":1 }"#,
        r#"{"authorization":"a","messages":[{"role":"user","content":"é"}],"seed":1}"#,
        r#"{"messages":[{"role":"user","content":"é"}],"authorization":"b","seed":1}"#,
    ] {
        assert_eq!(hash(plain), hash(same), "{same}");
    }
    for other in [
        r#"{"messages":[{"role":"user","content":"e"}],"seed":1}"#,
        r#"{"seed":1,"messages":[{"role":"user","content":"é"}]}"#,
        r#"{"messages":[{"role":"user","content":"é"}],"seed":2}"#,
    ] {
        assert_ne!(hash(plain), hash(other), "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = super::parse(Dialect::Chat, &bytes);
    }

    /// A sound body with some bytes overwritten, cut or doubled: parsed or refused, never a panic,
    /// and never with the prompt in the refusal.
    #[test]
    fn mutated_bodies_are_answered(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let sound = body(json!({
            "messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}],
            "temperature": 0.5, "stop": ["x"], "stream": true,
            "stream_options": {"include_usage": true}, "seed": 12, "logit_bias": {},
        }));
        let mut bytes = sound.to_string().into_bytes();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match kind {
                0 => bytes[at] = byte,
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        if let Err(refusal) = super::parse(Dialect::Chat, &bytes) {
            let shown = format!("{refusal:?}");
            prop_assert!(!shown.contains("battery"), "{}", shown);
        }
    }
}

/// What clients send in ordinary use, as OpenAI's server takes it, and words that help for what
/// it can't take either.
#[test]
fn ordinary_oddities_are_taken_or_named() {
    let chat = br#"{"messages": [{"role": "user", "content": "A"},
        {"role": "assistant", "content": null}, {"role": "assistant"},
        {"role": "user", "content": "B"}], "top_p": 0}"#;
    let body = super::parse(Dialect::Chat, chat).unwrap();
    let texts: Vec<&str> = messages(&body)
        .iter()
        .map(|m| m.content.expose().as_str())
        .collect();
    assert_eq!(texts, ["A", "", "", "B"]);
    assert_eq!(body.completion.sampling.top_p, Some(0.0));
    for (body, words) in [
        (
            &br#"{"messages": [{"role": "user", "content": null}]}"#[..],
            "missing or null",
        ),
        (
            br#"{"messages": [{"role": "user", "content": "\ud83d"}]}"#,
            "half a surrogate pair: a high",
        ),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"{\xff}", "isn't UTF-8 (byte 1)"),
    ] {
        let refusal = super::parse(Dialect::Chat, body).unwrap_err();
        assert_eq!(refusal.status(), 400);
        assert!(refusal.message().contains(words), "{refusal}");
    }
}
