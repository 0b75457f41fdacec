//! Each attack of the issue: refused for a reason of its own, and nothing but what was proven on the
//! way has changed; a good mirror is believed right after.

use std::collections::BTreeSet;

use slmd::for_tests::time::Timestamp;
use slmd::for_tests::trust::{Client, Limits, Mirror, MirrorError};

use super::support::{
    Case, DENY, Files, JWKS, cases, client, repository, restarted, start, state, update,
};

fn judge(case: &Case) {
    let name = &case.name;
    let mut client = client(name);
    let mut sound = Files::of(&state(name, 1));
    let first = update(&mut client, &mut sound, Timestamp::from_secs(case.start));
    first.unwrap_or_else(|error| panic!("{name}: the sound state: {error}"));
    let before = client.kept().clone();

    let now = Timestamp::from_secs(case.now);
    let mut attack = Files::of(&state(name, 2));
    let refused = update(&mut client, &mut attack, now).expect_err(name);
    assert_eq!(refused.name(), case.reason, "{name}: {refused}");
    let changed = client
        .kept()
        .iter()
        .filter(|(file, bytes)| before.get(*file) != Some(*bytes));
    let changed: BTreeSet<&str> = changed.map(|(file, _)| file.as_str()).collect();
    assert_eq!(
        changed,
        case.raises.iter().map(String::as_str).collect(),
        "{name}"
    );
    assert!(
        before.keys().all(|file| client.kept().contains_key(file)),
        "{name}"
    );

    // Nor does a restart help the attacker.
    let mut again = restarted(&client);
    assert_eq!(again.kept(), client.kept(), "{name}");
    let refused = update(&mut again, &mut attack, now).map_err(|error| error.name());
    match case.reason.as_str() {
        // They were all good; only too many for once.
        "too_many_roots" => assert!(refused.is_ok(), "{name}"),
        reason => assert_eq!(refused, Err(reason), "{name}"),
    }
    let mut good = Files::of(&state(name, 3));
    for mut client in [client, again] {
        let after = update(&mut client, &mut good, now);
        after.unwrap_or_else(|error| panic!("{name}: the good mirror: {error}"));
    }
}

#[test]
fn each_attack_is_refused_for_its_reason_and_changes_nothing_else() {
    let cases = cases();
    assert!(cases.len() > 40, "{}", cases.len());
    for case in &cases {
        judge(case);
    }
}

#[test]
fn a_clock_at_1970_knows_what_is_old_all_the_same() {
    let epoch = Timestamp::default();
    let mut client = client("series");
    let mut mirror = Files::of(&state("series", 3));
    update(&mut client, &mut mirror, epoch).unwrap();
    // The first trusted time of a device without a clock.
    let issued = client.issued().expect("it is signed when");
    assert_eq!(
        issued,
        start().saturating_add(std::time::Duration::from_secs(3))
    );
    let mut old = Files::of(&state("series", 2));
    let refused = update(&mut client, &mut old, epoch).unwrap_err();
    assert_eq!(refused.name(), "rollback");
}

#[test]
fn what_has_expired_says_nothing_more_and_still_forbids_what_is_older() {
    let mut client = client("series");
    let now = start();
    update(&mut client, &mut Files::of(&state("series", 4)), now).unwrap();
    let late = Timestamp::from_secs(now.as_secs() + 10 * 366 * 86_400);
    let mut mirror = Files::of(&state("series", 4));
    let refused = client.find(&mut mirror, JWKS, late).unwrap_err();
    assert_eq!(refused.name(), "expired");
    let mut again = restarted(&client);
    assert_eq!(again.versions(), {
        let mut kept = client.versions();
        kept.revocation = None;
        kept
    });
    let mut old = Files::of(&state("series", 3));
    assert_eq!(again.refresh(&mut old, now).unwrap_err().name(), "rollback");
}

#[test]
fn news_are_told_once() {
    let mut client = client("series");
    let now = start();
    let mut mirror = Files::of(&state("series", 1));
    assert_eq!(client.refresh(&mut mirror, now), Ok(true));
    assert_eq!(client.refresh(&mut mirror, now), Ok(false));
    assert_eq!(restarted(&client).refresh(&mut mirror, now), Ok(false));
    // One that is withheld in part is told when the rest is there.
    let mut part = Files::of(&state("series", 2));
    let snapshot = part.0.remove("metadata/2.snapshot.json").unwrap();
    assert_eq!(
        client.refresh(&mut part, now).unwrap_err().name(),
        "missing"
    );
    let refused = client.find(&mut part, JWKS, now).unwrap_err();
    assert_eq!(refused.name(), "incomplete");
    part.0
        .insert("metadata/2.snapshot.json".to_owned(), snapshot);
    assert_eq!(client.refresh(&mut part, now), Ok(true));
}

/// An equal version is the same timestamp, whatever it says.
#[test]
fn another_timestamp_of_the_trusted_version_is_no_news() {
    let mut client = client("old_targets");
    let now = start();
    let mut mirror = Files::of(&state("old_targets", 1));
    client.refresh(&mut mirror, now).unwrap();
    let kept = client.kept().clone();
    let timestamp = mirror.0.get_mut("metadata/timestamp.json").unwrap();
    timestamp.push(b'\n');
    assert_eq!(client.refresh(&mut mirror, now), Ok(false));
    assert_eq!(client.kept(), &kept);
}

#[test]
fn a_target_is_found_where_it_was_delegated_and_nowhere_else() {
    let mut client = client("series");
    let now = start();
    let mut mirror = Files::of(&state("series", 1));
    client.refresh(&mut mirror, now).unwrap();
    let mut role = |path| {
        let found = client.find(&mut mirror, path, now).unwrap();
        found.map(|target| target.role)
    };
    assert_eq!(role(JWKS).as_deref(), Some("targets"));
    assert_eq!(role(DENY).as_deref(), Some("revocation"));
    assert_eq!(role("realms/other/deny.json"), None);
    assert_eq!(role("realms/dev/more/deny.json"), None);
    assert_eq!(client.versions().revocation, Some(1));
}

/// Ed25519, ECDSA P-256 and RSA-PSS; and a fleet's key ids are python-tuf's for each.
#[test]
fn keys_of_every_kind_sign() {
    let mut client = client("kinds");
    for number in [1, 2] {
        let mut mirror = Files::of(&state("kinds", number));
        update(&mut client, &mut mirror, start()).unwrap();
    }
    assert_eq!(client.versions().root, 1);
    let root = &client.kept()["root.json"];
    let root: serde_json::Value = serde_json::from_slice(root).unwrap();
    let signatures = root["signatures"].as_array().unwrap();
    assert_eq!(signatures.len(), 3);
    for place in 0..3 {
        let mut less = root.clone();
        less["signatures"].as_array_mut().unwrap().remove(place);
        let refused = Client::new(less.to_string().as_bytes(), Limits::FLEET);
        assert_eq!(refused.unwrap_err().name(), "too_few_signatures");
    }
}

/// A mirror that keeps nothing of its limits.
struct Flood;

impl Mirror for Flood {
    fn metadata(&mut self, _: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Ok(Some(vec![b' '; limit as usize + 1]))
    }

    fn target(&mut self, _: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Ok(Some(vec![b' '; limit as usize + 1]))
    }
}

struct Gone;

impl Mirror for Gone {
    fn metadata(&mut self, _: &str, _: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Err(MirrorError::Unreachable("no route".to_owned()))
    }

    fn target(&mut self, _: &str, _: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Err(MirrorError::Unreachable("no route".to_owned()))
    }
}

#[test]
fn a_mirror_that_floods_or_is_gone_is_told_apart() {
    let mut client = client("series");
    let now = start();
    assert_eq!(
        client.refresh(&mut Flood, now).unwrap_err().name(),
        "too_large"
    );
    assert_eq!(
        client.refresh(&mut Gone, now).unwrap_err().name(),
        "unreachable"
    );
    let mut mirror = Files::of(&state("series", 1));
    client.refresh(&mut mirror, now).unwrap();
    let target = client.find(&mut mirror, JWKS, now).unwrap().unwrap();
    assert_eq!(
        client.fetch(&mut Flood, &target).unwrap_err().name(),
        "too_large"
    );
    assert_eq!(
        client.fetch(&mut Gone, &target).unwrap_err().name(),
        "unreachable"
    );
}

/// A lost file of the kept ones costs its fetch, and one that was exchanged isn't believed.
#[test]
fn what_was_kept_is_proven_again() {
    let mut client = client("series");
    let now = start();
    let mut mirror = Files::of(&state("series", 3));
    update(&mut client, &mut mirror, now).unwrap();
    let foreign = Files::of(&state("old_targets", 1));
    for file in ["timestamp", "snapshot", "targets", "revocation"] {
        let version = if file == "timestamp" { "" } else { "1." };
        let other = foreign.0[&format!("metadata/{version}{file}.json")].clone();
        for exchanged in [None, Some(other), Some(b"{".to_vec())] {
            let mut kept = client.kept().clone();
            kept.remove(&format!("{file}.json"));
            kept.extend(exchanged.map(|bytes| (format!("{file}.json"), bytes)));
            let again = Client::new(&kept["root.json"], Limits::FLEET).unwrap();
            let mut again = again.with_kept(&kept);
            update(&mut again, &mut mirror, now).unwrap();
            assert_eq!(again.kept(), client.kept(), "{file}");
        }
    }
}

#[test]
fn a_root_must_be_signed_by_itself() {
    let root = std::fs::read(repository("series").join("root.json")).unwrap();
    let refused = |bytes: &[u8], reason: &str| {
        let refused = Client::new(bytes, Limits::FLEET).unwrap_err();
        assert_eq!(refused.name(), reason, "{refused}");
    };
    refused(b"", "malformed");
    refused(b"{}", "malformed");
    refused(&[root.as_slice(), b"x"].concat(), "malformed");
    refused(&vec![b' '; 60_000], "too_large");
    let text = String::from_utf8(root).unwrap();
    let unsigned = text.replace("\"threshold\":2", "\"threshold\":1");
    assert_ne!(unsigned, text);
    refused(unsigned.as_bytes(), "foreign_signer");
}
