//! Any bytes as the proof that a log holds an entry. What is taken prints as it was read, and shows
//! something only where it is the one proof that there is for the entry.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use slmd_fuzz::tlog::note::VerifierKey;
use slmd_fuzz::tlog::policy::Policy;
use slmd_fuzz::tlog::proof::Proof;

/// Those of the seed `others`.
const LOG: &str = "slmd.internal/edge-1/1+77b04a25+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const LEAF: &[u8] = &[0x20, 0x21];
const SOUND: &str = include_str!("../seeds/tlogproof/others");

static KEY: LazyLock<VerifierKey> = LazyLock::new(|| VerifierKey::parse(LOG).expect("it is one"));

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(proof) = Proof::parse(data) else {
        return Corpus::Keep;
    };
    assert_eq!(proof.to_string().as_bytes(), data);
    if let Ok(proven) = proof.check(LEAF, &KEY, &Policy::none()) {
        let sound = Proof::parse(SOUND.as_bytes()).expect("it is one");
        assert_eq!((proof.index, &proof.hashes), (sound.index, &sound.hashes));
        assert_eq!((proven.checkpoint.size, proven.witnesses.len()), (7, 0));
    }
    Corpus::Keep
});
