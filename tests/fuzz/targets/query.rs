//! Any text as the query of `GET /v1/audit`, and as a time of `slmd audit search`: what is taken prints as
//! what asks for the same, and all of a filter shows nothing that a part of it hides.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use slmd_fuzz::audit::{Filter, Line, shown};
use slmd_fuzz::cli::since;
use slmd_fuzz::http::{NAMES, asked, number};
use slmd_fuzz::time::Timestamp;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// One of each kind, of a newer release, and what is none.
static RECORDS: LazyLock<Vec<Line>> = LazyLock::new(|| {
    let lines = include_str!("../sound/records").lines().zip(0..);
    lines.map(|(text, index)| Line { index, json: text.into() }).collect()
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    if let Some(at) = since(text, NOW) {
        assert_eq!(since(&at.to_string(), NOW), Some(at));
        assert!(Filter::default().set("since", &at.to_string()).is_ok());
    }
    let Ok((values, filter)) = asked(text) else {
        return Corpus::Keep;
    };
    for value in values.iter().flatten() {
        if let Ok(Some(number)) = number(value) {
            let digits = value.trim_start_matches('+').trim_start_matches('0');
            assert!(number == 0 && digits.is_empty() || number.to_string() == digits);
        }
    }
    let named = NAMES.into_iter().zip(&values);
    let named = named.filter_map(|(name, value)| Some((name, value.clone()?)));
    let pairs: Vec<_> = named.chain(filter.pairs()).collect();
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let printed = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    let printed = printed.collect::<Vec<_>>().join("&");
    assert_eq!(asked(&printed).ok(), Some((values, filter.clone())));
    let parts = text.split('&').filter(|part| !part.is_empty());
    assert_eq!(parts.count(), pairs.len(), "nothing that was asked for is lost");
    judge(&filter);
    Corpus::Keep
});

fn judge(filter: &Filter) {
    let pairs = filter.pairs();
    assert_eq!(filter.is_empty(), pairs.is_empty());
    let all = shown(filter, &RECORDS);
    // A user is one of both.
    let is_user = |name: &str| name == "user" || name == "uid";
    for (name, value) in pairs.iter().filter(|(name, _)| !is_user(name)) {
        let mut part = Filter::default();
        part.set(name, value).expect("it was taken");
        let by_part = shown(&part, &RECORDS);
        assert!(all.iter().zip(by_part).all(|(all, part)| !all || part), "{name}={value}");
    }
}
