//! Keys against what happens to them: a lost store, an old copy, a bad set.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tempfile::TempDir;

use super::*;

pub(super) fn jwks(kid: &str) -> Vec<u8> {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid, "x": x});
    json!({"keys": [key]}).to_string().into_bytes()
}

/// Of a machine that has just started.
pub(super) fn moment(known: u64) -> Moment {
    Moment {
        known: Timestamp(known),
        uptime: Uptime(0),
    }
}

pub(super) fn open_keyring(store: &Store, copies: PathBuf) -> Keyring {
    Keyring::open(store, copies, Duration::ZERO, Uptime(0)).unwrap()
}

/// A store and the folder of copies beside it.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("db")
    }

    fn copies(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn open(&self) -> Keyring {
        open_keyring(&Store::open(&self.store()).unwrap(), self.copies())
    }

    fn pin(&self, kid: &str, now: u64) {
        self.open().pin("dev", &jwks(kid), moment(now)).unwrap();
    }
}

#[track_caller]
fn assert_pinned(keyring: &Keyring, kid: &str, confirmed_at: u64) {
    let pinned = keyring.get("dev").unwrap().unwrap();
    assert_eq!(pinned.keys.keys()[0].kid, kid);
    assert_eq!(pinned.confirmed.at(), Timestamp(confirmed_at));
}

#[test]
fn a_pin_takes_effect_at_once_and_survives() {
    let home = Home::new();
    let keyring = home.open();
    assert!(keyring.get("dev").unwrap().is_none());
    let (keys, change) = keyring.pin("dev", &jwks("one"), moment(5)).unwrap();
    assert_eq!(keys.keys()[0].kid, "one");
    assert_eq!((change.added.len(), change.removed.len()), (1, 0));
    assert_pinned(&keyring, "one", 5);
    assert!(keyring.get("prod").unwrap().is_none());
    drop(keyring);
    let keyring = home.open();
    assert_pinned(&keyring, "one", 5);
    assert!(keyring.restored().is_empty());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.copies()), 0o700);
    assert_eq!(mode(&home.copies().join("dev.json")), 0o600);
}

/// Without a place for the copy, as on a full disk.
#[test]
fn keys_that_were_refused_are_not_in_force_after_a_restart() {
    let home = Home::new();
    home.pin("one", 5);
    let keyring = home.open();
    fs::remove_dir_all(home.copies()).unwrap();
    assert!(keyring.pin("dev", &jwks("two"), moment(6)).is_err());
    assert_pinned(&keyring, "one", 5);
    drop(keyring);
    assert_pinned(&home.open(), "one", 5);
}

#[test]
fn keys_that_a_quarantined_store_lost_come_back_as_old_as_they_were() {
    let home = Home::new();
    home.pin("one", 5);
    for entry in fs::read_dir(home.store().join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, [0x5a; 700_000]).unwrap();
        }
    }
    let store = Store::open(&home.store()).unwrap();
    assert_eq!(store.recovery().unwrap().left, 0);
    let keyring = open_keyring(&store, home.copies());
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "one", 5);
    drop((keyring, store));
    let keyring = home.open();
    assert!(keyring.restored().is_empty(), "restored once only");
    assert_pinned(&keyring, "one", 5);
}

/// Whoever can write a file pins no keys by that, whatever date they give it.
#[test]
fn what_the_store_has_kept_counts_whatever_a_copy_says() {
    let home = Home::new();
    home.pin("own", 5);
    let foreign = Home::new();
    foreign.pin("foreign", 9);
    let planted = foreign.copies().join("dev.json");
    fs::copy(&planted, home.copies().join("dev.json")).unwrap();
    fs::copy(&planted, home.copies().join("other.json")).unwrap();
    let keyring = home.open();
    assert!(keyring.restored().is_empty());
    assert_eq!(keyring.ignored(), ["dev", "other"]);
    assert_pinned(&keyring, "own", 5);
    assert!(keyring.get("other").unwrap().is_none());
    drop(keyring);
    // Nor later, when the store is lost.
    assert!(home.open().ignored().is_empty());
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open();
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "own", 5);
}

/// A store of an earlier release has no mark of having been opened, and is no lost one.
#[test]
fn the_keys_of_an_earlier_release_are_kept() {
    let home = Home::new();
    let set = jwks("old");
    let store = Store::open(&home.store()).unwrap();
    let tree = store.tree("keys").unwrap();
    let old = [&5_u64.to_be_bytes()[..], &set].concat();
    store.commit(|| tree.insert(b"dev", &old)).unwrap();
    let copies = home.copies();
    fs::create_dir(&copies).unwrap();
    let copy = json!({"confirmed_at": 5, "jwks": String::from_utf8(set).unwrap()});
    fs::write(copies.join("dev.json"), copy.to_string()).unwrap();
    let keyring = open_keyring(&store, copies.clone());
    assert!(keyring.restored().is_empty() && keyring.ignored().is_empty());
    assert_pinned(&keyring, "old", 5);
    drop((keyring, tree, store));
    // The old copy is read, too.
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open();
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "old", 5);
}

#[test]
fn a_bad_set_or_name_changes_nothing() {
    let home = Home::new();
    let keyring = home.open();
    keyring.pin("dev", &jwks("good"), moment(5)).unwrap();
    let mut private: serde_json::Value = serde_json::from_slice(&jwks("bad")).unwrap();
    private["keys"][0]["d"] = "AAAA".into();
    let mut padded = jwks("bad");
    padded.resize(MAX_JWKS + 1, b' ');
    for bad in [
        &b""[..],
        b"{}",
        br#"{"keys":[]}"#,
        b"{\"keys\":\"\xff\"}",
        private.to_string().as_bytes(),
        &padded,
    ] {
        let refused = keyring.pin("dev", bad, moment(6));
        assert!(matches!(refused, Err(KeysError::Invalid(_))), "{refused:?}");
    }
    for realm in [
        "",
        ".",
        "..",
        ".dev",
        "../dev",
        "a/b",
        &"x".repeat(MAX_KEY + 1),
    ] {
        let refused = keyring.pin(realm, &jwks("bad"), moment(6));
        assert!(matches!(refused, Err(KeysError::Invalid(_))), "{realm:?}");
    }
    assert_pinned(&keyring, "good", 5);
    drop(keyring);
    assert_pinned(&home.open(), "good", 5);
    let copies = fs::read_dir(home.copies()).unwrap();
    let names: Vec<_> = copies.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["dev.json"]);
}

#[test]
fn a_copy_that_cannot_be_read_keeps_no_other_from_its_use() {
    let home = Home::new();
    home.pin("one", 5);
    for (name, content) in [
        ("cut.json", &b"{\"confirmed_at\":9,"[..]),
        ("more.json", br#"{"confirmed_at":9,"jwks":"{}","more":1}"#),
        ("large.json", &vec![b' '; 7 * MAX_JWKS]),
        ("dev.json.new", b"cut off by a pow"),
    ] {
        fs::write(home.copies().join(name), content).unwrap();
    }
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open();
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "one", 5);
    keyring.pin("dev", &jwks("two"), moment(6)).unwrap();
    assert_pinned(&keyring, "two", 6);
}

const DAY: u64 = 86_400_000;

fn at(known: u64, uptime: u64) -> Moment {
    Moment {
        known: Timestamp(known),
        uptime: Uptime(uptime),
    }
}

impl Home {
    /// By a daemon that has run for so long in all.
    fn open_after(&self, ran: u64, begun: u64) -> Keyring {
        let store = Store::open(&self.store()).unwrap();
        let ran = Duration::from_millis(ran);
        Keyring::open(&store, self.copies(), ran, Uptime(begun)).unwrap()
    }
}

fn age(keyring: &Keyring, now: Moment) -> u128 {
    let pinned = keyring.get("dev").unwrap().unwrap();
    pinned.confirmed.age(now).as_millis()
}

#[test]
fn a_refresh_confirms_now_whatever_the_wall_clock_says() {
    let home = Home::new();
    let keyring = home.open_after(0, 0);
    keyring.pin("dev", &jwks("one"), at(40 * DAY, 0)).unwrap();
    // A clock that nobody keeps is set back; the machine runs on.
    assert_eq!(age(&keyring, at(3 * DAY, 30_000)), 30_000);
    keyring.confirm("dev", at(3 * DAY, 30_000)).unwrap();
    assert_eq!(age(&keyring, at(3 * DAY, 30_000)), 0);
    assert_eq!(age(&keyring, at(90 * DAY, 30_007)), 7);
    // The next start has what was known then.
    drop(keyring);
    let keyring = home.open_after(30_010, 5);
    assert_eq!(age(&keyring, at(50 * DAY, 5)), u128::from(47 * DAY));
}

#[test]
fn a_confirmation_from_the_future_is_as_old_as_the_daemon_has_run_since() {
    let home = Home::new();
    let keyring = home.open_after(100, 0);
    keyring
        .pin("dev", &jwks("one"), at(4000 * DAY, 11))
        .unwrap();
    drop(keyring);
    // Restarts make it no younger, and what is right again is right.
    for ran in [DAY, 31 * DAY] {
        let keyring = home.open_after(ran, 7);
        let since = ran - 111 + 1;
        assert_eq!(age(&keyring, at(DAY, 8)), u128::from(since));
        assert_eq!(age(&keyring, at(4001 * DAY, 8)), u128::from(DAY.max(since)));
    }
    // A copy doesn't tell for how long it had run.
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open_after(31 * DAY, 7);
    assert_eq!(age(&keyring, at(DAY, 8)), 1);
}

#[test]
fn a_mended_clock_mends_what_is_stored_and_no_age() {
    let home = Home::new();
    let keyring = home.open_after(0, 0);
    keyring
        .pin("dev", &jwks("one"), at(9_000_000, 100))
        .unwrap();
    let mended = at(5000, 300);
    keyring.mend(mended).unwrap();
    assert_eq!(age(&keyring, mended), 200);
    drop(keyring);
    let keyring = home.open_after(300, 300);
    assert_pinned(&keyring, "one", 4800);
    assert_eq!(age(&keyring, mended), 200);
    drop(keyring);
    // Also what another run saw.
    let keyring = home.open_after(300, 300);
    keyring.mend(at(4000, 300)).unwrap();
    assert_pinned(&keyring, "one", 4000);
    assert_eq!(age(&keyring, at(4000, 300)), 200);
}
