//! Any bytes as the claims of a token that the realm's own key signed: what passes satisfies an
//! independent reading of the rules.
//!
//! The first byte picks the header, the rest is the payload.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use slmd_fuzz::auth::{Cache, Decision, decide::decide};
use slmd_fuzz::json;
use slmd_fuzz::world::{
    CLIENT, ISSUER, LEEWAY, MAX_LIFETIME, NOW, REQUEST, SNAPSHOT, bearer, clock, sign,
};

const HEADERS: [&[u8]; 3] = [
    br#"{"alg":"EdDSA","typ":"JWT","kid":"ed"}"#,
    br#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}"#,
    br#"{"kid":"ed","typ":"application/AT+JWT","alg":"EdDSA","jwk":{"kty":"oct","k":"AA"}}"#,
];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, payload)) = data.split_first() else {
        return Corpus::Reject;
    };
    let which = usize::from(*first) % HEADERS.len();
    let credential = bearer(&sign(HEADERS[which], payload));
    let decision = decide(None, &credential, &REQUEST, &SNAPSHOT, &clock());
    if matches!(decision, Decision::Permit(_)) {
        let claims: Value = serde_json::from_slice(payload).expect("permitted claims are JSON");
        assert_eq!(json::parse(payload).expect("no member twice"), claims);
        check(&claims, which > 0);
    }
    let cached = Cache::new(1).decide(&credential, &REQUEST, &SNAPSHOT, &clock());
    assert_eq!(format!("{cached:?}"), format!("{decision:?}"));
    Corpus::Keep
});

/// Panics where permitted claims break a rule.
fn check(claims: &Value, typed_by_header: bool) {
    let holds = |list: &Value, name: &str| {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().any(|entry| entry == name)
    };
    assert_eq!(claims["iss"], ISSUER);
    assert!(claims["aud"] == CLIENT || holds(&claims["aud"], CLIENT));
    assert!(holds(&claims["resource_access"][CLIENT]["roles"], "read"));
    for name in ["sub", "azp"] {
        assert!(claims[name].as_str().is_some_and(|text| !text.is_empty()));
    }
    // A fraction goes the way that makes the token good for less.
    let time = |name: &str| claims.get(name).map(|time| time.as_f64().expect("a number"));
    let iat = time("iat").expect("permitted claims have iat");
    let exp = time("exp").expect("permitted claims have exp").floor();
    let (now, leeway) = (NOW as f64, LEEWAY as f64);
    assert!(exp + leeway > now && iat.ceil() <= now + leeway && iat.ceil() < exp);
    assert!(exp - iat.floor() <= MAX_LIFETIME as f64);
    assert!(time("nbf").is_none_or(|nbf| nbf.ceil() <= now + leeway));
    let access = claims.get("typ").map_or(typed_by_header, |typ| typ == "Bearer");
    assert!(access, "no access token");
    assert!(claims.get("cnf").is_none(), "no proof was shown");
}
