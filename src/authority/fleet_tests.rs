//! What the fleet has signed, beside what people, issuers and files say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use tempfile::TempDir;

use super::force::{Next, RealmConfig};
use super::tests::{REALM, configured, jwks, of_all, open, source};
use super::*;
use crate::auth::Revocations;
use crate::fleet::{Held, Signed};
use crate::keysync::Source;
use crate::prompt::Scope;
use crate::time::{Booted, Uptime};
use crate::trust::Versions;
use crate::trust::targets::{self, Lifted, RealmPolicy};

const HOUR: u64 = 3_600_000;
const KEYS: usize = 4;

static SETS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| (0..KEYS).map(|n| jwks(&n.to_string())).collect());

/// The keys whose bits are set.
fn set(keys: u8) -> Set {
    let chosen = (0..KEYS).filter(|n| keys & (1 << n) != 0);
    let chosen: Vec<&[u8]> = chosen.map(|n| &SETS[n][..]).collect();
    Set::parse(&of_all(&chosen)).unwrap()
}

fn keys_of(keys: u8) -> BTreeSet<String> {
    match keys {
        0 => BTreeSet::new(),
        keys => set(keys).keys.thumbprints(),
    }
}

fn denied(revoked: &Value) -> Revocations {
    let file = json!({"version": 1, "revoked": revoked});
    Revocations::parse(file.to_string().as_bytes()).unwrap()
}

fn denied_keys(keys: u8) -> Revocations {
    let keys = keys_of(keys).into_iter();
    denied(&keys.map(|key| json!({"jkt": key})).collect())
}

fn at(hours: u64) -> Moment {
    Moment {
        known: Timestamp(1_800_000_000_000 + hours * HOUR),
        uptime: Uptime(hours * HOUR),
    }
}

fn realm(adds: bool) -> RealmConfig {
    RealmConfig {
        jwks: Some(Source {
            adds,
            ..source("http://127.0.0.1:9/certs")
        }),
        deny_file: Some(PathBuf::from("deny")),
        ..configured(REALM)
    }
}

/// What is in force, an hour after each change.
struct World {
    force: Force,
    hours: u64,
}

impl World {
    /// With a root and nothing signed.
    fn new(adds: bool) -> World {
        let mut world = World {
            force: Force::default(),
            hours: 0,
        };
        let realms = vec![realm(adds)];
        world.is(&Change::Configuration {
            realms,
            denied: BTreeMap::new(),
            listed_models_only: false,
            told: None,
        });
        let held = Held::rooted(b"{}");
        world.is(&Change::Rooted {
            fingerprint: "f".to_owned(),
            signed: Box::new(Signed::unread(&held)),
        });
        world
    }

    #[track_caller]
    fn is(&mut self, change: &Change) -> Next {
        self.hours += 1;
        let next = next(&self.force, change, at(self.hours)).unwrap();
        self.force = next.force.clone();
        next
    }

    fn held(&self) -> Held {
        self.force.fleet.as_ref().unwrap().signed.held.clone()
    }

    /// Something signed over what is trusted, which ends in an hour.
    fn signed(&self, version: u64) -> Signed {
        let mut signed = Signed::unread(&self.held());
        signed.fresh = true;
        signed.versions = Versions {
            root: 1,
            timestamp: Some(version),
            targets: Some(version),
            ..Versions::default()
        };
        signed.expires = Some(at(self.hours + 2).known);
        signed.held.targets.clear();
        signed
    }

    fn with_keys(&self, version: u64, keys: u8) -> Signed {
        let (mut signed, set) = (self.signed(version), set(keys));
        let path = targets::jwks(REALM);
        signed.held.targets.insert(path, set.jwks().to_vec());
        signed.keys.insert(REALM.to_owned(), set);
        signed
    }

    fn signs(&mut self, signed: Signed) -> Next {
        self.is(&Change::Signed(Box::new(signed)))
    }

    fn serves(&mut self, keys: u8) -> Option<Verdict> {
        let fetched = Change::Fetched {
            realm: REALM.to_owned(),
            set: set(keys),
            passed: Duration::from_secs(60),
        };
        self.is(&fetched).done.verdict
    }

    fn pins(&mut self, keys: u8) {
        self.is(&Change::Pinned {
            realm: REALM.to_owned(),
            set: set(keys),
        });
    }

    fn keys(&self) -> BTreeSet<String> {
        let pinned = self.force.keys.get(REALM);
        pinned.map(|p| p.keys.thumbprints()).unwrap_or_default()
    }

    fn snapshot(&self) -> Snapshot {
        self.force.snapshot(0)
    }

    fn age(&self, hours: u64) -> Duration {
        let snapshot = self.snapshot();
        let realm = snapshot.realms.values().next().unwrap();
        realm.confirmed.unwrap().age(at(hours))
    }

    fn revokes(&self, key: u8) -> bool {
        let snapshot = self.snapshot();
        let mut lists = snapshot.deny.realms.values();
        let key = keys_of(key).into_iter().next().unwrap();
        lists.any(|list| list.revokes_key(&key, at(self.hours).known))
    }
}

#[test]
fn signed_keys_replace_what_was_pinned_and_a_person_goes_before_what_was_signed_already() {
    let mut world = World::new(false);
    world.pins(1);
    let next = world.signs(world.with_keys(1, 2));
    assert_eq!(world.keys(), keys_of(2));
    assert_eq!(next.notes[0].what, audit::Change::TrustUpdated);
    let told = &next.notes[0].detail;
    assert_eq!(told["keys"][REALM]["added"], json!(keys_of(2)));
    assert_eq!(
        (&told["targets"], &told["revocation"]),
        (&json!(1), &json!(null))
    );
    // The same again is no news.
    let next = world.signs(world.with_keys(1, 2));
    assert!(next.notes.is_empty());
    world.pins(4);
    world.signs(world.with_keys(1, 2));
    assert_eq!(world.keys(), keys_of(4));
    world.signs(world.with_keys(2, 3));
    assert_eq!(world.keys(), keys_of(3));
    // What isn't signed any more stays, and grows old.
    world.signs(world.signed(3));
    assert_eq!(world.keys(), keys_of(3));
}

#[test]
fn keys_are_as_old_as_what_confirmed_them_and_no_younger_than_the_timestamps_end() {
    let mut world = World::new(false);
    world.signs(world.with_keys(1, 1));
    let begun = world.hours;
    assert_eq!(world.age(begun + 1), Duration::from_secs(3600));
    // Confirmed by the issuer, an hour after the timestamp's end.
    world.is(&Change::DenyFile(vec![]));
    assert_eq!(world.serves(1), Some(Verdict::Confirmed));
    assert_eq!(world.age(world.hours), Duration::from_secs(3600));
    // A newer one that is fresh.
    world.signs(world.with_keys(1, 1));
    assert_eq!(world.age(world.hours), Duration::ZERO);
    // One that was read from the disk confirms nothing.
    let mut again = world.with_keys(1, 1);
    (again.fresh, again.again) = (false, true);
    again.expires = Some(at(world.hours + 90).known);
    world.signs(again);
    assert_eq!(world.age(world.hours), Duration::from_secs(3600));
}

#[test]
fn the_issuer_confirms_and_adds_nothing() {
    let mut world = World::new(false);
    world.signs(world.with_keys(1, 3));
    assert_eq!(world.serves(7), Some(Verdict::Confirmed));
    assert_eq!(world.keys(), keys_of(3));
    let before = format!("{:?}", world.force);
    for other in [1, 2, 4, 5] {
        assert_eq!(world.serves(other), Some(Verdict::Foreign), "{other}");
    }
    assert_eq!(format!("{:?}", world.force), before);
}

#[test]
fn an_issuer_that_may_add_revives_nothing_that_the_fleet_has_revoked() {
    let mut world = World::new(true);
    world.signs(world.with_keys(1, 1));
    let mut signed = world.with_keys(2, 1);
    signed.denied.insert(REALM.to_owned(), denied_keys(2));
    world.signs(signed);
    assert_eq!(world.serves(1 | 2 | 4), Some(Verdict::Taken));
    assert_eq!(world.keys(), keys_of(1 | 4));
    assert_eq!(world.serves(2), Some(Verdict::Foreign));
    assert_eq!(world.keys(), keys_of(1 | 4));
}

#[test]
fn a_list_that_lacks_an_entry_lifts_nothing_and_both_lists_count() {
    let mut world = World::new(false);
    world.is(&Change::DenyFile(vec![(REALM.to_owned(), denied_keys(1))]));
    let mut signed = world.with_keys(1, 7);
    signed.denied.insert(REALM.to_owned(), denied_keys(2));
    let next = world.signs(signed);
    assert_eq!(next.notes[0].detail["denied"][REALM], json!(1));
    assert!(world.revokes(1) && world.revokes(2) && !world.revokes(4));
    let mut signed = world.with_keys(2, 7);
    signed.denied.insert(REALM.to_owned(), denied_keys(4));
    world.signs(signed);
    assert!(world.revokes(1) && world.revokes(2) && world.revokes(4));
    // The threshold of targets lifts, whatever the list says; the local file is its owner's.
    let key = |bit| Lifted::Key(keys_of(bit).into_iter().next().unwrap());
    let mut signed = world.with_keys(3, 7);
    let lifted = [key(1), key(2), key(4)].into();
    signed.denied.insert(REALM.to_owned(), denied_keys(4));
    signed.lifted.insert(REALM.to_owned(), lifted);
    world.signs(signed);
    assert!(world.revokes(1) && !world.revokes(2) && !world.revokes(4));
}

#[test]
fn an_entry_ends_by_the_fleets_own_clock() {
    let mut world = World::new(false);
    let end = at(50).known.as_secs();
    let list = denied(&json!([{"sub": "a", "expires": end}]));
    let entries = |world: &World| {
        let fleet = world.force.fleet.as_ref().unwrap();
        fleet.denied[REALM].entries()
    };
    let mut signed = world.signed(1);
    signed.denied.insert(REALM.to_owned(), list);
    world.signs(signed);
    // A clock that is far ahead drops nothing.
    world.hours = 9_000_000;
    world.signs(world.signed(2));
    assert_eq!(entries(&world), 1);
    let mut signed = world.signed(3);
    signed.issued = Some(at(50).known);
    world.signs(signed);
    assert_eq!(entries(&world), 0);
}

#[test]
fn more_revocations_than_can_be_kept_are_refused() {
    let mut world = World::new(false);
    let many = |kind: &str| {
        let entries = (0..6000).map(|n| json!({kind: format!("{n}")}));
        denied(&entries.collect())
    };
    let mut signed = world.signed(1);
    signed.denied.insert(REALM.to_owned(), many("sub"));
    world.signs(signed);
    let mut signed = world.signed(2);
    signed.denied.insert(REALM.to_owned(), many("jti"));
    let refused = next(&world.force, &Change::Signed(Box::new(signed)), at(9));
    assert!(matches!(refused, Err(Refused::TooManyRevoked(_))));
}

#[test]
fn the_fleets_policy_narrows_the_configured_one() {
    let mut world = World::new(false);
    let mut signed = world.signed(1);
    let policy = RealmPolicy {
        max_lifetime: Some(Duration::from_secs(60)),
        offline_grace: [(Scope::Read, Duration::from_secs(5))].into(),
        ..RealmPolicy::default()
    };
    signed.policy.insert(REALM.to_owned(), policy);
    world.signs(signed);
    let snapshot = world.snapshot();
    let realm = snapshot.realms.values().next().unwrap();
    assert_eq!(realm.policy.max_lifetime("any"), Duration::from_secs(60));
    assert_eq!(
        realm.policy.offline_grace[&Scope::Read],
        Duration::from_secs(5)
    );
    // Taken back, the configuration's own counts again.
    world.signs(world.signed(2));
    let snapshot = world.snapshot();
    let realm = snapshot.realms.values().next().unwrap();
    assert_eq!(realm.policy.max_lifetime("any"), Duration::from_secs(3600));
}

#[test]
fn where_the_configuration_demands_it_only_listed_bundles_run() {
    let mut world = World::new(false);
    let hex = "0f".repeat(32);
    assert!(world.force.may_run("small", &hex));
    world.force.listed_models_only = true;
    assert!(!world.force.may_run("small", &hex));
    let mut signed = world.signed(1);
    let digests = [format!("sha256:{hex}")].into();
    signed.models.insert("small".to_owned(), digests);
    world.signs(signed);
    assert!(world.force.may_run("small", &hex));
    assert!(!world.force.may_run("other", &hex) && !world.force.may_run("small", &"00".repeat(32)));
}

/// Of what was kept, the list of the realm and that of one that isn't configured.
fn with_unread_lists(adds: bool) -> World {
    let mut world = World::new(adds);
    let mut signed = world.with_keys(1, 1);
    signed.denied.insert(REALM.to_owned(), denied_keys(2));
    world.signs(signed);
    let mut fleet = Fleet::clone(world.force.fleet.as_ref().unwrap());
    for realm in [REALM, "other"] {
        fleet.denied.remove(realm);
        fleet
            .unread
            .realms
            .insert(realm.to_owned(), "damaged".to_owned());
        let lists = &mut fleet.signed.held.denied;
        lists.insert(realm.to_owned(), b"{".to_vec());
    }
    world.force.fleet = Some(Arc::new(fleet));
    world
}

fn is_closed(world: &World) -> bool {
    world.snapshot().opens_none()
}

#[test]
fn what_cant_be_read_closes_its_realm_until_a_mirror_has_told_it_anew() {
    let mut world = with_unread_lists(false);
    assert!(is_closed(&world));
    // Neither what was read from the disk nor a newer root alone says what is revoked.
    let mut old = world.with_keys(2, 1);
    old.fresh = false;
    let refused = next(&world.force, &Change::Signed(Box::new(old)), at(9));
    assert!(matches!(refused, Err(Refused::Unread)));
    // Nor what a mirror says of other realms.
    world.signs(world.with_keys(2, 1));
    assert!(is_closed(&world));
    let mut signed = world.with_keys(2, 1);
    signed.denied.insert(REALM.to_owned(), denied_keys(4));
    signed.asked = [REALM.to_owned()].into();
    let told = world.signs(signed).notes;
    assert!(!is_closed(&world) && world.revokes(4));
    let unread = told[0].detail["unread"].as_str().unwrap();
    assert_eq!(unread, "damaged", "what is left");
    let fleet = world.force.fleet.as_ref().unwrap();
    assert!(fleet.unread.is_about("other") && !fleet.unread.is_about(REALM));
    assert_eq!(fleet.signed.held.denied["other"], b"{");
}

#[test]
fn what_may_be_about_any_realm_ends_with_anything_fresh_and_with_a_root() {
    for fresh in [true, false] {
        let mut world = World::new(false);
        let mut fleet = Fleet::clone(world.force.fleet.as_ref().unwrap());
        fleet.unread.anywhere = Some("policy.json: its version is 2".to_owned());
        world.force.fleet = Some(Arc::new(fleet));
        assert!(is_closed(&world));
        let change = match fresh {
            true => Change::Signed(Box::new(world.with_keys(1, 1))),
            false => Change::Rooted {
                fingerprint: "f".to_owned(),
                signed: Box::new(Signed::unread(&world.held())),
            },
        };
        world.is(&change);
        assert!(!is_closed(&world));
    }
}

#[test]
fn an_issuer_adds_no_key_while_nobody_knows_which_are_revoked() {
    let mut world = with_unread_lists(true);
    assert_eq!(world.serves(3), Some(Verdict::Confirmed));
    assert_eq!(world.keys(), keys_of(1));
}

#[test]
fn what_was_made_of_something_else_is_refused_and_changes_nothing() {
    let mut world = World::new(false);
    let late = world.with_keys(1, 1);
    world.signs(world.with_keys(2, 2));
    let refused = next(&world.force, &Change::Signed(Box::new(late.clone())), at(9));
    assert!(matches!(refused, Err(Refused::Overtaken)));
    world.force.fleet = None;
    let refused = next(&world.force, &Change::Signed(Box::new(late)), at(9));
    assert!(matches!(refused, Err(Refused::NoRoot)));
}

/// An authority with a root, whose clock says 1970 unless it is synchronised.
fn rooted(folder: &TempDir, synchronised: bool) -> (Log, Authority) {
    let reading = Reading {
        now: Timestamp(if synchronised { 2_000_000_000_000 } else { 0 }),
        at: Booted {
            boot: 1,
            uptime: Uptime(5),
        },
        synchronised,
    };
    let (log, authority) = open(folder, Clocks::at(reading));
    let followed = RealmConfig {
        deny_file: None,
        ..realm(false)
    };
    let prepared = authority.prepare(vec![followed], false).unwrap();
    authority.follow(prepared, None).unwrap();
    authority
        .floor()
        .advance(reading.now, synchronised, reading.at)
        .unwrap();
    let held = Held::rooted(b"{}");
    let rooted = Change::Rooted {
        fingerprint: "f".to_owned(),
        signed: Box::new(Signed::unread(&held)),
    };
    authority.apply(&rooted, &Origin::Daemon).unwrap();
    (log, authority)
}

fn signed_in(authority: &Authority, keys: u8) -> Change {
    let force = authority.force();
    let world = World {
        force: Force::clone(&force),
        hours: 0,
    };
    let mut signed = world.with_keys(1, keys);
    signed.denied.insert(REALM.to_owned(), denied_keys(8));
    signed.issued = Some(Timestamp(1_900_000_000_000));
    Change::Signed(Box::new(signed))
}

#[test]
fn what_cant_be_written_isnt_in_force_but_what_it_revokes() {
    let folder = tempfile::tempdir().unwrap();
    let (log, authority) = rooted(&folder, true);
    let change = signed_in(&authority, 1);
    let held = authority
        .force()
        .fleet
        .as_ref()
        .unwrap()
        .signed
        .held
        .clone();
    // As a full disk does.
    let copies = folder.path().join(crate::fleet::FOLDER);
    std::fs::remove_dir_all(&copies).unwrap();
    let index = log.next_index();
    assert!(authority.apply(&change, &Origin::Daemon).is_err());
    assert_eq!(log.next_index(), index);
    let force = authority.force();
    assert!(!force.keys.contains_key(REALM));
    let fleet = force.fleet.as_ref().unwrap();
    assert_eq!(fleet.signed.held, held);
    assert_eq!(fleet.denied[REALM], denied_keys(8));
    std::fs::create_dir(&copies).unwrap();
    authority.apply(&change, &Origin::Daemon).unwrap();
    assert_eq!(authority.force().keys[REALM].keys.thumbprints(), keys_of(1));
    // What was in force before it could be written, and what was written then.
    assert_eq!(log.next_index(), index + 2);
}

#[test]
fn a_device_in_1970_gets_its_time_from_the_fleet_and_no_other_does() {
    let folder = tempfile::tempdir().unwrap();
    let (log, authority) = rooted(&folder, false);
    let change = signed_in(&authority, 1);
    authority.apply(&change, &Origin::Daemon).unwrap();
    let issued = Timestamp(1_900_000_000_000);
    assert_eq!(authority.floor().get(Uptime(5)), issued);
    let pinned = authority.force().keys[REALM].confirmed;
    assert_eq!(pinned.at(), issued);
    let clocks = authority.clocks().clone();
    drop((log, authority));
    let (_log, authority) = open(&folder, clocks);
    assert_eq!(authority.floor().get(Uptime(5)), issued);

    let folder = tempfile::tempdir().unwrap();
    let (_log, authority) = rooted(&folder, true);
    let mut change = signed_in(&authority, 1);
    if let Change::Signed(signed) = &mut change {
        signed.issued = Some(Timestamp(4_000_000_000_000));
    }
    authority.apply(&change, &Origin::Daemon).unwrap();
    assert_eq!(
        authority.floor().get(Uptime(5)),
        Timestamp(2_000_000_000_000)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Signs { keys: u8, denies: u8, lifts: u8 },
    Serves(u8),
    Pins(u8),
    File(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (some, any) = (1..1_u8 << KEYS, 0..1_u8 << KEYS);
    let step = prop_oneof![
        (any.clone(), any.clone(), any.clone()).prop_map(|(keys, denies, lifts)| Step::Signs {
            keys,
            denies,
            lifts
        }),
        some.clone().prop_map(Step::Serves),
        some.prop_map(Step::Pins),
        any.prop_map(Step::File),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    /// Keys come from people and the fleet alone, or, where the issuer may add, from it; what the
    /// fleet revokes stays so until it lifts it.
    #[test]
    fn nobody_else_grants_and_nobody_else_lifts(adds in any::<bool>(), steps in steps()) {
        let mut world = World::new(adds);
        let (mut revoked, mut local) = (0_u8, 0_u8);
        for (version, step) in steps.iter().enumerate() {
            let (before, version) = (world.keys(), version as u64 + 1);
            match *step {
                Step::Signs { keys, denies, lifts } => {
                    let mut signed = match keys {
                        0 => world.signed(version),
                        keys => world.with_keys(version, keys),
                    };
                    let lifted = keys_of(lifts).into_iter().map(Lifted::Key).collect();
                    signed.denied.insert(REALM.to_owned(), denied_keys(denies));
                    signed.lifted.insert(REALM.to_owned(), lifted);
                    world.signs(signed);
                    revoked = (revoked | denies) & !lifts;
                    let now = world.keys();
                    prop_assert!(now == before || now == keys_of(keys));
                }
                Step::Serves(keys) => {
                    world.serves(keys);
                    let may = keys_of(if adds { keys & !revoked } else { 0 });
                    prop_assert!(world.keys().difference(&before).all(|key| may.contains(key)));
                    prop_assert!(adds || world.keys() == before);
                }
                Step::Pins(keys) => world.pins(keys),
                Step::File(keys) => {
                    local = keys;
                    world.is(&Change::DenyFile(vec![(REALM.to_owned(), denied_keys(keys))]));
                }
            }
            for key in (0..KEYS).map(|n| 1 << n) {
                prop_assert_eq!(world.revokes(key), (revoked | local) & key != 0);
            }
        }
    }
}
