//! Changes in any order: what is refused changes nothing, and what takes away gives nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::force::{Force, Next};
use super::tests::{configured, jwks, of_all, open, source};
use super::*;
use crate::auth::Revocations;
use crate::time::{Booted, Uptime};

const REALMS: [&str; 2] = ["dev", "prod"];
const KEYS: usize = 5;
const HOUR: u64 = 3_600_000;

static SETS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| (0..KEYS).map(|n| jwks(&n.to_string())).collect());

/// The keys whose bits are set.
fn set(keys: u8) -> Set {
    let chosen = SETS
        .iter()
        .enumerate()
        .filter(|(n, _)| keys & (1 << n) != 0);
    let chosen: Vec<&[u8]> = chosen.map(|(_, set)| &set[..]).collect();
    Set::parse(&of_all(&chosen)).unwrap()
}

fn denied(keys: u8) -> Revocations {
    let keys = (keys != 0).then(|| set(keys).keys.thumbprints());
    let keys = keys.unwrap_or_default().into_iter();
    let revoked: Vec<Value> = keys.map(|key| json!({"jkt": key})).collect();
    let list = json!({"version": 1, "revoked": revoked}).to_string();
    Revocations::parse(list.as_bytes()).unwrap()
}

/// One whose file is at the `file`th path, if it has one.
fn realm(name: &str, file: Option<u8>) -> RealmConfig {
    RealmConfig {
        jwks: Some(source("http://127.0.0.1:9/certs")),
        deny_file: file.map(|file| PathBuf::from(file.to_string())),
        ..configured(name)
    }
}

fn keys() -> std::ops::Range<u8> {
    1..1 << KEYS
}

fn change() -> impl Strategy<Value = Change> {
    // One that isn't configured, too.
    let name = || prop::sample::select(vec!["dev", "prod", "none"]);
    let fetched = (name(), keys(), 0..40_u64).prop_map(|(realm, keys, hours)| Change::Fetched {
        realm: realm.to_owned(),
        set: set(keys),
        passed: Duration::from_millis(hours * HOUR),
    });
    let pinned = (name(), keys()).prop_map(|(realm, keys)| Change::Pinned {
        realm: realm.to_owned(),
        set: set(keys),
    });
    let deny = (name(), 0..1_u8 << KEYS)
        .prop_map(|(realm, keys)| Change::DenyFile(vec![(realm.to_owned(), denied(keys))]));
    let realms = prop::option::of(prop::option::of(0..2_u8));
    let configuration = (realms.clone(), realms, 0..1_u8 << KEYS).prop_map(|(dev, prod, keys)| {
        let realms = REALMS.iter().zip([dev, prod]);
        let realms = realms.filter_map(|(name, file)| Some(realm(name, file?)));
        Change::Configuration {
            realms: realms.collect(),
            denied: REALMS.map(|name| (name.to_owned(), denied(keys))).into(),
            listed_models_only: false,
            told: None,
        }
    });
    let time = (0..9_000_u64).prop_map(|hours| Change::TimeReset {
        was: Timestamp(0),
        to: Timestamp(hours * HOUR),
        at: Booted {
            boot: 1,
            uptime: Uptime(0),
        },
    });
    prop_oneof![6 => fetched, 2 => pinned, 3 => deny, 2 => configuration, 1 => time]
}

fn begun() -> Force {
    let realms = Change::Configuration {
        realms: REALMS.map(|name| realm(name, Some(0))).into(),
        denied: BTreeMap::new(),
        listed_models_only: false,
        told: None,
    };
    next(&Force::default(), &realms, at(0)).unwrap().force
}

fn at(hours: u64) -> Moment {
    Moment {
        known: Timestamp(1_800_000_000_000 + hours * HOUR),
        uptime: Uptime(hours * HOUR),
    }
}

/// The keys whose tokens are let in, with their realms.
fn grants(force: &Force) -> BTreeSet<(String, String)> {
    let snapshot = force.snapshot(0);
    let realms = snapshot.realms.values().flat_map(|realm| {
        let denied = snapshot.deny.realms.get(&realm.issuer);
        let keys = realm.keys.thumbprints().into_iter();
        let keys =
            keys.filter(|key| !denied.is_some_and(|list| list.revokes_key(key, at(0).known)));
        let named = keys.map(|key| (realm.name.clone(), key));
        named.collect::<Vec<_>>()
    });
    realms.collect()
}

/// What a change takes away only.
fn takes_away(before: &Force, change: &Change) -> bool {
    match change {
        Change::Fetched { realm, set, .. } => {
            let known = before.keys.get(realm).map(|known| known.keys.thumbprints());
            set.keys.thumbprints().is_subset(&known.unwrap_or_default())
        }
        Change::DenyFile(lists) => lists.iter().all(|(realm, list)| {
            let known = |key: &str| {
                before
                    .denied
                    .get(realm)
                    .is_some_and(|l| l.revokes_key(key, at(0).known))
            };
            let all = set((1 << KEYS) - 1).keys.thumbprints();
            all.iter()
                .all(|key| !known(key) || list.revokes_key(key, at(0).known))
        }),
        Change::TimeReset { .. } => true,
        Change::Pinned { .. }
        | Change::Configuration { .. }
        | Change::Signed(_)
        | Change::Rooted { .. } => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// From what is in force to what comes, nothing is granted that isn't in one of them or was
    /// chosen; what only takes away grants nothing; and what counts while a change is written is
    /// granted before and after.
    #[test]
    fn what_takes_away_grants_nothing(changes in prop::collection::vec(change(), 1..40)) {
        let mut force = begun();
        for (hours, change) in changes.iter().enumerate() {
            let before = grants(&force);
            let now = at(hours as u64);
            let Ok(Next { force: after, done, .. }) = next(&force, change, now) else {
                continue;
            };
            let granted = grants(&after);
            if takes_away(&force, change) {
                prop_assert!(granted.is_subset(&before), "{change:?}");
            }
            if let Some((less, _)) = force.without_what_leaves(&after) {
                let less_keys = |force: &Force| force.keys.iter().map(|(realm, pinned)|
                    (realm.clone(), pinned.keys.thumbprints())).collect::<BTreeMap<_, _>>();
                for (realm, keys) in less_keys(&less) {
                    prop_assert!(keys.is_subset(&less_keys(&force)[&realm]));
                    prop_assert!(keys.is_subset(&less_keys(&after)[&realm]));
                }
                prop_assert!(grants(&less).is_subset(&before));
            }
            if let Change::Fetched { realm, set, .. } = change {
                // Beside what was in force, nothing but what the issuer serves; of a foreign set nothing.
                let served = set.keys.thumbprints();
                let came: BTreeSet<_> = granted.difference(&before).collect();
                prop_assert!(came.iter().all(|(of, key)| of == realm && served.contains(key)));
                // What nobody vouches for brings nothing.
                if matches!(done.verdict, Some(Verdict::Held | Verdict::Foreign)) {
                    prop_assert!(came.is_empty(), "{change:?}");
                }
                if done.verdict == Some(Verdict::Foreign) {
                    prop_assert_eq!(format!("{force:?}"), format!("{after:?}"));
                }
            }
            force = after;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// On a store that is real: what is refused changes nothing in force, in the log or on the disk,
    /// and what is made is there after a restart.
    #[test]
    fn a_refused_change_leaves_everything_as_it_was(changes in prop::collection::vec(change(), 1..12)) {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut authority) = open(&folder, Clocks::default());
        let first = Change::Configuration {
            realms: REALMS.map(|name| realm(name, Some(0))).into(),
            denied: BTreeMap::new(),
            listed_models_only: false,
            told: None,
        };
        authority.apply(&first, &Origin::Daemon).unwrap();
        for change in changes.iter().filter(|change| !matches!(change, Change::TimeReset { .. })) {
            let before = (format!("{:?}", authority.force()), authority.snapshot().epoch, log.next_index());
            let applied = authority.apply(change, &Origin::Daemon);
            if applied.is_err() {
                let after = (format!("{:?}", authority.force()), authority.snapshot().epoch, log.next_index());
                prop_assert_eq!(before, after);
            }
        }
        let keys = |authority: &Authority| {
            let force = authority.force();
            let keys = force.keys.iter();
            let keys = keys.map(|(realm, pinned)| (realm.clone(), pinned.keys.thumbprints()));
            keys.collect::<BTreeMap<_, _>>()
        };
        let before = keys(&authority);
        drop((log, authority));
        (log, authority) = open(&folder, Clocks::default());
        prop_assert_eq!(before, keys(&authority));
        drop(log);
    }
}
