//! What travels, as it stands.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::auth::{Explanation, ToExplain};

/// As a daemon sends it that has something to say everywhere.
pub(crate) fn status() -> Status {
    serde_json::from_value(told()).unwrap()
}

fn keys() -> Value {
    json!({
        "keys": [{"kid": "a", "algorithms": ["ES256"], "thumbprint": "t"}],
        "fingerprint": "f00d",
        "left_out": [
            {"index": 1, "kid": "b\u{1b}", "why": "it is weak"},
            {"index": 2, "kid": null, "why": "no kid"},
        ],
    })
}

fn and(one: Value, other: Value) -> Value {
    let (Value::Object(mut one), Value::Object(other)) = (one, other) else {
        panic!("two objects");
    };
    one.extend(other);
    one.into()
}

fn changed() -> Value {
    json!({"at": "2026-01-01T10:00:00.000Z", "added": ["t"], "removed": ["u", "v"]})
}

fn fleet() -> Value {
    json!({
        "name": "plant",
        "root_fingerprint": "abcd",
        "root": 1,
        "timestamp": 12,
        "snapshot": 12,
        "targets": 5,
        "revocation": null,
        "expires_at": "2026-01-01T06:00:00.000Z",
        "expired": true,
        "revoked": {"dev": 1},
        "mirrors": [
            {"mirror": "mqtt", "asked_at": "2026-01-01T11:00:00.000Z", "refused":
                {"reason": "rollback", "why": "it is old\u{1b}"}},
            {"mirror": "/media/usb", "asked_at": null, "refused": null},
        ],
    })
}

pub(crate) fn told() -> Value {
    let dev = json!({
        "name": "dev",
        "issuer": "https://k/dev",
        "keys_source": "fleet",
        "keys_age_seconds": 90_000,
        "keys_confirmed_at": "2025-12-31T00:00:00.000Z",
        "scope_stops_at": {"read": "2026-01-03T00:00:00.000Z", "write": "2026-01-01T12:00:00.000Z"},
        "endpoints": [{"client_id": "slm", "model": "small"}],
        "keys_changed": changed(),
        "refresh": {
            "last_outcome": "held",
            "last_at": "2026-01-01T11:00:00.000Z",
            "why": null,
            "next_at": "2026-01-01T11:15:00.000Z",
            "vouching": ["t"],
        },
        "held": keys(),
        "deny_list": {"entries": 2, "problem": "line 1"},
    });
    let prod = json!({
        "name": "prod",
        "issuer": "https://k/prod",
        "keys": [],
        "fingerprint": "",
        "left_out": [],
        "keys_age_seconds": null,
        "keys_confirmed_at": null,
        "scope_stops_at": {},
        "endpoints": [],
        "keys_changed": null,
        "refresh": null,
        "held": null,
        "deny_list": null,
    });
    json!({
        "version": "1.2.3",
        "device": "edge-1",
        "ready": false,
        "not_ready_because": "draining",
        "problems": [{
            "name": "a_problem_of_tomorrow",
            "severity": "critical",
            "about": "dev",
            "what": "it went wrong\u{1b}",
            "mend": "mend it",
            "since": "2026-01-01T12:00:00.000Z",
        }],
        "draining": true,
        "store": {"folder": "/var/lib/slmd", "why": "it is full", "full": true},
        "uptime_seconds": 3700,
        "clock": {
            "now": "2026-01-01T00:00:00.000Z",
            "floor": "2026-01-02T00:00:00.000Z",
            "floor_ahead_seconds": 86400,
            "synchronised": false,
            "realm_floors": {"dev": "2026-01-02T01:00:00.000Z"},
            "client_floors": {"dev": {"client": "device-1", "floor": "2026-01-02T09:00:00.000Z"}},
        },
        "realms": [and(dev, keys()), prod],
        "engine": {"running": 1, "waiting": 2, "models": [{"name": "small", "listed": false}]},
        "mqtt": {"connected": false, "problem": "refused\u{1b}", "reconnects": 3},
        "fleet": fleet(),
        "audit": {"next_index": 9},
        "inside": {
            "listeners": [
                "/run/slmd/slmd.sock", "/run/slmd/admin.sock", "http://127.0.0.1:8080",
                "https://0.0.0.0:8443",
            ],
            "broker": "mqtts://broker.plant.example:8883",
            "certificate_ends_at": "2026-01-31T00:00:00.000Z",
            "memory_bytes": 412_000_000,
            "kernels": "neon-dotprod",
            "threads": 4,
            "requests": {"permitted": 1204, "refused": {"expired": 2, "token_missing": 1}},
            "answers": {
                "count": 1190, "prompt_tokens": 40_000, "completion_tokens": 90_000,
                "tokens_per_second": 23.456,
            },
            "audit_fill": 0.125,
            "audit_max_bytes": 64_000_000,
            "audit_oldest_at": "2025-12-04T00:00:00.000Z",
            "disk": {
                "folder": "/var/lib/slmd", "free_bytes": 12_000_000, "size_bytes": 8_000_000_000_u64,
            },
        },
    })
}

/// Adds to every object but those whose members are names of realms, scopes or claims.
fn newer(value: &mut Value) {
    const NAMES: [&str; 7] = [
        "revoked",
        "realm_floors",
        "client_floors",
        "scope_stops_at",
        "header",
        "claims",
        "refused",
    ];
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if !NAMES.contains(&name.as_str()) {
                    newer(member);
                }
            }
            members.insert("since_tomorrow".to_owned(), json!({"a": [1]}));
        }
        Value::Array(items) => items.iter_mut().for_each(newer),
        _ => {}
    }
}

/// Its members are `told`'s, no more and no less; more of them from a newer daemon are passed over.
fn travels<T: Serialize + DeserializeOwned>(mut told: Value) {
    let back = |told: &Value| serde_json::to_value(T::deserialize(told).unwrap()).unwrap();
    assert_eq!(back(&told), told);
    let as_now = told.clone();
    newer(&mut told);
    assert_ne!(told, as_now);
    assert_eq!(back(&told), as_now);
}

#[test]
fn what_travels_is_as_it_always_was() {
    travels::<Status>(told());
    // Over the public socket.
    let mut outside = told();
    outside.as_object_mut().unwrap().remove("inside");
    travels::<Status>(outside);
    travels::<Listed>(json!({"realms": told()["realms"]}));
    let change = json!({"realm": "dev", "added": ["t"], "removed": []});
    travels::<Pinned>(and(change, keys()));
    travels::<PinHeld>(json!({"fingerprint": "f00d"}));
    travels::<Fetched>(and(keys(), json!({"pinned": true})));
    travels::<Refreshed>(json!({
        "realm": "dev", "outcome": "failed", "why": "no route", "changed": changed(), "held": keys(),
    }));
    travels::<Trusted>(json!({"fleet": fleet()}));
    travels::<RootPinned>(json!({"fingerprint": "f00d", "version": 3}));
    travels::<Reloaded>(json!({"realms": 2, "needs_restart": ["http"]}));
    travels::<TimeReset>(
        json!({"was": "2036-01-01T00:00:00.000Z", "floor": "2026-01-01T00:00:00.000Z"}),
    );
    travels::<LeftOut>(json!({"left_out": 3}));
    travels::<ResetTime>(json!({"to": "now"}));
    travels::<ResetTime>(json!({"to": 1_790_000_000}));
    travels::<ToExplain>(json!({
        "token": "a.b.c", "transport": "mqtt", "model": "slm", "scope": "fine-tune",
    }));
    travels::<Explanation>(json!({
        "verdict": "a_reason_of_tomorrow",
        "realm": "dev",
        "genuine": true,
        "header": {"alg": "ES256"},
        "claims": {"aud": ["slm"]},
        "checks": [
            {"name": "form", "outcome": "passed", "detail": null, "mend": null},
            {"name": "audience", "outcome": "a_reason_of_tomorrow", "detail": "d", "mend": "m"},
        ],
    }));
}

#[test]
fn what_is_to_be_explained_names_a_token() {
    let asked: ToExplain = serde_json::from_value(json!({"token": "a.b.c"})).unwrap();
    assert_eq!(asked.token.expose(), "a.b.c");
    for bad in [
        json!({}),
        json!({"token": 1}),
        json!({"token": "a", "transport": "pigeon"}),
        json!({"token": "a", "scope": "all"}),
    ] {
        assert!(
            serde_json::from_value::<ToExplain>(bad.clone()).is_err(),
            "{bad}"
        );
    }
}
