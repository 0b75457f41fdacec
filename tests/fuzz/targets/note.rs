//! Any bytes as a signed note, as its text and as a verifier key. What is taken prints as it was read, so
//! that nothing is signed or shown that reads otherwise; and it counts for a key only where that has
//! signed it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use slmd_fuzz::tlog::checkpoint::Checkpoint;
use slmd_fuzz::tlog::note::{Note, VerifierKey};
use slmd_fuzz::tlog::witness::{cosigned, known_size};

/// Those of the seed `cosigned`.
const LOG: &str = "slmd.internal/edge-1/1+77b04a25+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const WITNESS: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const TEXTS: [&str; 2] = [
    "slmd.internal/edge-1/1\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
    "slmd.internal/edge-1/1\n7\n3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=\n",
];

static KEYS: LazyLock<[VerifierKey; 2]> =
    LazyLock::new(|| [LOG, WITNESS].map(|key| VerifierKey::parse(key).expect("it is one")));

fuzz_target!(|data: &[u8]| -> Corpus {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        for key in &*KEYS {
            let counts = note.verify(key).is_ok();
            assert!(!counts || TEXTS.contains(&note.text()), "nobody else holds the key");
            let opened = Checkpoint::open(data, key).is_ok();
            assert!(!opened || counts);
        }
        let answered = cosigned(&note, data);
        assert!(answered.is_err() || note.text().starts_with('\u{2014}'));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Keep;
    };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        let own = checkpoint.to_string();
        assert!(text.starts_with(&own), "lines of its own may follow");
        assert_eq!(Checkpoint::parse(&own), Ok(checkpoint));
    }
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Some(size) = known_size(data) {
        assert_eq!(size.to_string(), text.trim_end_matches('\n'));
    }
    Corpus::Keep
});
