//! Whatever a mirror mixes of what was ever published, withholds, cuts or breaks: what is trusted was
//! signed, never becomes older, and belongs together.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;
use slmd::for_tests::trust::{Client, Versions};

use super::support::{Files, client, restarted, start, state, update};

const STATES: u32 = 6;

static SERIES: LazyLock<Vec<Files>> = LazyLock::new(|| {
    (1..=STATES)
        .map(|n| Files::of(&state("series", n)))
        .collect()
});

/// All that was ever signed.
static SIGNED: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let files = SERIES.iter().flat_map(|files| &files.0);
    let metadata = files.filter(|(name, _)| name.starts_with("metadata/"));
    metadata.map(|(_, bytes)| signed(bytes)).collect()
});

fn signed(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).expect("JSON");
    value["signed"].to_string()
}

/// What a mirror does to one file, by place among its own and among all.
#[derive(Debug, Clone)]
enum Trick {
    Withhold(usize),
    Cut(usize, usize),
    Flip(usize, usize),
    Grow(usize),
    /// Another file, of another state too, under this one's name.
    Exchange(usize, usize, usize),
}

fn trick() -> impl Strategy<Value = Trick> {
    let any = any::<usize>;
    prop_oneof![
        any().prop_map(Trick::Withhold),
        (any(), any()).prop_map(|(file, at)| Trick::Cut(file, at)),
        (any(), any()).prop_map(|(file, at)| Trick::Flip(file, at)),
        any().prop_map(Trick::Grow),
        (any(), any(), any()).prop_map(|(file, state, other)| Trick::Exchange(file, state, other)),
    ]
}

fn nth(files: &Files, place: usize) -> String {
    let names = files.0.keys();
    names
        .clone()
        .nth(place % names.len().max(1))
        .cloned()
        .unwrap_or_default()
}

fn play(files: &mut Files, trick: &Trick) {
    match trick {
        Trick::Withhold(file) => {
            let name = nth(files, *file);
            files.0.remove(&name);
        }
        Trick::Cut(file, at) => {
            let name = nth(files, *file);
            if let Some(bytes) = files.0.get_mut(&name) {
                bytes.truncate(at % bytes.len().max(1));
            }
        }
        Trick::Flip(file, at) => {
            let name = nth(files, *file);
            if let Some(bytes) = files.0.get_mut(&name).filter(|bytes| !bytes.is_empty()) {
                let length = bytes.len();
                bytes[at / 8 % length] ^= 1 << (at % 8);
            }
        }
        Trick::Grow(file) => {
            let name = nth(files, *file);
            if let Some(bytes) = files.0.get_mut(&name) {
                bytes.extend([b' '; 99]);
            }
        }
        Trick::Exchange(file, state, other) => {
            let from = &SERIES[state % SERIES.len()];
            let bytes = from.0[&nth(from, *other)].clone();
            let name = nth(files, *file);
            files.0.insert(name, bytes);
        }
    }
}

fn no_older(before: Versions, after: Versions) -> bool {
    before.root <= after.root
        && before.timestamp <= after.timestamp
        && before.snapshot <= after.snapshot
}

fn sound(client: &mut Client, before: Versions) -> Result<(), TestCaseError> {
    prop_assert!(
        no_older(before, client.versions()),
        "{before:?} {:?}",
        client.versions()
    );
    for (file, bytes) in client.kept() {
        prop_assert!(SIGNED.contains(&signed(bytes)), "{file}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_mirror_makes_anything_older_or_mixed(
        plays in prop::collection::vec(
            (0..SERIES.len(), prop::collection::vec(trick(), 0..4), any::<bool>()),
            1..6,
        )
    ) {
        let mut client = client("series");
        for (state, tricks, restart) in plays {
            let mut mirror = SERIES[state].clone();
            tricks.iter().for_each(|trick| play(&mut mirror, trick));
            let before = client.versions();
            if let Ok([keys, _]) = update(&mut client, &mut mirror, start()) {
                let Versions { timestamp, snapshot, targets, revocation, .. } = client.versions();
                prop_assert_eq!(timestamp, snapshot);
                prop_assert_eq!(timestamp, targets);
                prop_assert_eq!(timestamp, revocation);
                let number = timestamp.expect("complete") - 1;
                let own = if number == 0 { String::new() } else { number.to_string() };
                prop_assert_eq!(keys, format!("{{\"keys\":[{own}]}}").into_bytes());
            }
            sound(&mut client, before)?;
            if restart {
                let versions = client.versions();
                client = restarted(&client);
                prop_assert_eq!(client.versions().timestamp, versions.timestamp);
            }
        }
        let mut good = SERIES[SERIES.len() - 1].clone();
        prop_assert!(update(&mut client, &mut good, start()).is_ok());
    }
}
