//! Any text as a token: it never passes, because nobody who mutates it holds the key; the cache
//! answers as the plain decision does.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use slmd_fuzz::auth::{Cache, Decision, decide::decide};
use slmd_fuzz::world::{REQUEST, SNAPSHOT, bearer, clock, sign};

/// The one token that is good: the corpus begins with it, so it is known.
fn is_the_sound_one(token: &str) -> bool {
    token == sign(include_bytes!("../sound/header"), include_bytes!("../sound/claims"))
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(token) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let credential = bearer(token);
    let decision = decide(None, &credential, &REQUEST, &SNAPSHOT, &clock());
    if matches!(decision, Decision::Permit(_)) {
        assert!(is_the_sound_one(token), "permitted");
    }
    let cached = Cache::new(1).decide(&credential, &REQUEST, &SNAPSHOT, &clock());
    assert_eq!(format!("{cached:?}"), format!("{decision:?}"));
    Corpus::Keep
});
