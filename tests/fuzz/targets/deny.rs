//! Any bytes as a deny file: what is read is strict JSON of the known form, and the sound token
//! passes only where nothing in it names the token.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use slmd_fuzz::auth::{Decision, DenyList, Revocations, Snapshot, decide::decide};
use slmd_fuzz::json;
use slmd_fuzz::world::{ISSUER, NOW, REQUEST, SNAPSHOT, bearer, clock, sign};

const KINDS: [&str; 5] = ["jti", "sub", "sid", "azp", "jkt"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(list) = Revocations::parse(data) else {
        return Corpus::Keep;
    };
    // Read again by another parser.
    let file: Value = serde_json::from_slice(data).expect("what was read is JSON");
    assert_eq!(json::parse(data).expect("no member twice"), file);
    assert_eq!(file["version"], 1);
    let entries = file.get("revoked").map_or(&[][..], |list| list.as_array().expect("a list"));
    for entry in entries {
        let named = KINDS.iter().filter(|kind| entry[**kind].is_string());
        assert_eq!(named.count(), 1, "an entry names one thing");
    }

    let claims: Value = serde_json::from_slice(include_bytes!("../sound/claims")).expect("sound");
    let realm = &SNAPSHOT.realms[ISSUER];
    let thumbprint = &realm.keys.keys()[0].thumbprint;
    let names_it = |entry: &Value| {
        let counts = entry["expires"].as_u64().is_none_or(|end| NOW < end);
        let same = |kind: &str| match kind {
            "jkt" => entry[kind] == thumbprint.as_str(),
            _ => entry[kind].is_string() && entry[kind] == claims[kind],
        };
        counts && KINDS.iter().any(|kind| same(kind))
    };
    let client = claims["azp"].as_str().expect("sound");
    let issued = claims["iat"].as_u64();
    let before = [&file["not_before"], &file["not_before_by_client"][client]];
    let revoked = entries.iter().any(names_it) || before.iter().any(|from| issued < from.as_u64());

    let realms = [(ISSUER.to_owned(), list)].into();
    let deny = DenyList { realms, ..DenyList::default() };
    let snapshot = Snapshot::new(1, vec![realm.clone()], deny);
    let token = sign(include_bytes!("../sound/header"), include_bytes!("../sound/claims"));
    let decision = decide(None, &bearer(&token), &REQUEST, &snapshot, &clock());
    assert_eq!(matches!(decision, Decision::Permit(_)), !revoked);
    Corpus::Keep
});
