//! Any bytes as a policy of which witnesses are enough. Who has cosigned counts only where the policy
//! has its key; and a note that nobody has cosigned is enough for a policy that wants no witness alone.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use slmd_fuzz::tlog::note::Note;
use slmd_fuzz::tlog::policy::Policy;

const WITNESS: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const COSIGNED: &str = include_str!("../seeds/note/cosigned");

static NOTES: LazyLock<[Note; 2]> = LazyLock::new(|| {
    let (plain, _) = COSIGNED.rsplit_once('\u{2014}').expect("two have signed it");
    [COSIGNED, plain].map(|note| Note::parse(note.as_bytes()).expect("it is one"))
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(policy) = Policy::parse(data) else {
        return Corpus::Keep;
    };
    let has = |text: &str| {
        let words = data.split(|byte| byte.is_ascii_whitespace());
        words.into_iter().any(|word| word == text.as_bytes())
    };
    let [cosigned, plain] = &*NOTES;
    if let Ok(witnesses) = policy.check(cosigned) {
        assert!(witnesses.is_empty() || has(WITNESS));
        let enough = policy.check(plain).is_ok();
        assert!(enough || !witnesses.is_empty());
    }
    if let Ok(witnesses) = policy.check(plain) {
        assert!(witnesses.is_empty() && has("none"));
    }
    Corpus::Keep
});
