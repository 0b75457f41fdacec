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

/// A keyring, and the keys as a process has them.
struct Kept {
    keyring: Keyring,
    keys: BTreeMap<String, Pinned>,
}

impl Kept {
    fn new(keyring: Keyring) -> Kept {
        let keys = keyring.load().unwrap();
        Kept { keyring, keys }
    }

    fn pin(&mut self, jwks: &[u8], now: Moment) -> Result<(), KeysError> {
        let set = Set::parse(jwks)?;
        let pinned = Pinned {
            confirmed: Mark::here(now),
            history: History::by_hand(&set.keys.thumbprints()),
            jwks: set.jwks(),
            keys: set.keys,
            changed: None,
        };
        self.put(pinned, now)
    }

    fn set_confirmed(&mut self, confirmed: impl FnOnce(Mark) -> Mark, now: Moment) {
        let mut pinned = self.keys["dev"].clone();
        pinned.confirmed = confirmed(pinned.confirmed);
        self.put(pinned, now).unwrap();
    }

    fn put(&mut self, pinned: Pinned, now: Moment) -> Result<(), KeysError> {
        let mut keys = self.keys.clone();
        keys.insert("dev".to_owned(), pinned);
        self.keyring
            .save(&self.keys, &keys, now, || Ok::<_, KeysError>(()))?;
        self.keys = keys;
        Ok(())
    }
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

    fn open(&self) -> Kept {
        self.open_after(0, 0)
    }

    /// By a daemon that has run for so long in all.
    fn open_after(&self, ran: u64, begun: u64) -> Kept {
        self.open_on(&Store::open(&self.store()).unwrap(), ran, begun)
    }

    fn open_on(&self, store: &Store, ran: u64, begun: u64) -> Kept {
        let ran = Duration::from_millis(ran);
        Kept::new(Keyring::open(store, self.copies(), ran, Uptime(begun)).unwrap())
    }

    fn pin(&self, kid: &str, now: u64) {
        self.open().pin(&jwks(kid), moment(now)).unwrap();
    }
}

#[track_caller]
fn assert_pinned(kept: &Kept, kid: &str, confirmed_at: u64) {
    let pinned = &kept.keys["dev"];
    assert_eq!(pinned.keys.keys()[0].kid, kid);
    assert_eq!(pinned.confirmed.at(), Timestamp(confirmed_at));
}

#[test]
fn what_is_saved_survives() {
    let home = Home::new();
    assert!(home.open().keys.is_empty());
    home.pin("one", 5);
    let keyring = home.open();
    assert_pinned(&keyring, "one", 5);
    assert!(keyring.keyring.restored().is_empty());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.copies()), 0o700);
    assert_eq!(mode(&home.copies().join("dev.json")), 0o600);
}

/// Without a place for the copy, as on a full disk.
#[test]
fn keys_that_were_refused_are_not_in_force_after_a_restart() {
    let home = Home::new();
    home.pin("one", 5);
    let mut keyring = home.open();
    fs::remove_dir_all(home.copies()).unwrap();
    assert!(keyring.pin(&jwks("two"), moment(6)).is_err());
    drop(keyring);
    assert_pinned(&home.open(), "one", 5);
}

#[test]
fn keys_are_stored_with_what_tells_of_them_or_not_at_all() {
    let home = Home::new();
    home.pin("one", 5);
    let foreign = Home::new();
    foreign.pin("two", 6);
    let (keyring, two) = (home.open(), foreign.open().keys);
    for keys in [
        &two,
        &BTreeMap::from([("new".to_owned(), two["dev"].clone())]),
    ] {
        let full = || Err(StoreError::Full);
        let saved = keyring.keyring.save(&keyring.keys, keys, moment(6), full);
        assert!(matches!(saved, Err(StoreError::Full)), "{saved:?}");
    }
    drop(keyring);
    let keyring = home.open();
    assert_eq!(keyring.keys.len(), 1);
    assert_pinned(&keyring, "one", 5);
    assert!(keyring.keyring.ignored().is_empty());
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
    let keyring = home.open_on(&store, 0, 0);
    assert_eq!(keyring.keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "one", 5);
    drop((keyring, store));
    let keyring = home.open();
    assert!(keyring.keyring.restored().is_empty(), "restored once only");
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
    assert!(keyring.keyring.restored().is_empty());
    assert_eq!(keyring.keyring.ignored(), ["dev", "other"]);
    assert_pinned(&keyring, "own", 5);
    assert!(!keyring.keys.contains_key("other"));
    drop(keyring);
    // Nor later, when the store is lost.
    assert!(home.open().keyring.ignored().is_empty());
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open();
    assert_eq!(keyring.keyring.restored(), ["dev"]);
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
    let keyring = home.open_on(&store, 0, 0);
    assert!(keyring.keyring.restored().is_empty() && keyring.keyring.ignored().is_empty());
    assert_pinned(&keyring, "old", 5);
    drop((keyring, tree, store));
    // The old copy is read, too.
    fs::remove_dir_all(home.store()).unwrap();
    let keyring = home.open();
    assert_eq!(keyring.keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "old", 5);
}

#[test]
fn a_bad_set_changes_nothing() {
    let home = Home::new();
    let mut keyring = home.open();
    keyring.pin(&jwks("good"), moment(5)).unwrap();
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
        let refused = keyring.pin(bad, moment(6));
        assert!(matches!(refused, Err(KeysError::Invalid(_))), "{refused:?}");
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
    let mut keyring = home.open();
    assert_eq!(keyring.keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "one", 5);
    keyring.pin(&jwks("two"), moment(6)).unwrap();
    assert_pinned(&keyring, "two", 6);
}

const DAY: u64 = 86_400_000;

fn at(known: u64, uptime: u64) -> Moment {
    Moment {
        known: Timestamp(known),
        uptime: Uptime(uptime),
    }
}

fn age(kept: &Kept, now: Moment) -> u128 {
    kept.keys["dev"].confirmed.age(now).as_millis()
}

#[test]
fn a_refresh_confirms_now_whatever_the_wall_clock_says() {
    let home = Home::new();
    let mut keyring = home.open_after(0, 0);
    keyring.pin(&jwks("one"), at(40 * DAY, 0)).unwrap();
    // A clock that nobody keeps is set back; the machine runs on.
    assert_eq!(age(&keyring, at(3 * DAY, 30_000)), 30_000);
    let now = at(3 * DAY, 30_000);
    keyring.set_confirmed(|_| Mark::here(now), now);
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
    let mut keyring = home.open_after(100, 0);
    keyring.pin(&jwks("one"), at(4000 * DAY, 11)).unwrap();
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
    let mut keyring = home.open_after(0, 0);
    keyring.pin(&jwks("one"), at(9_000_000, 100)).unwrap();
    let mended = at(5000, 300);
    keyring.set_confirmed(|at| at.mended(mended), mended);
    assert_eq!(age(&keyring, mended), 200);
    drop(keyring);
    let keyring = home.open_after(300, 300);
    assert_pinned(&keyring, "one", 4800);
    assert_eq!(age(&keyring, mended), 200);
    drop(keyring);
    // Also what another run saw.
    let mut keyring = home.open_after(300, 300);
    let again = at(4000, 300);
    keyring.set_confirmed(|at| at.mended(again), again);
    assert_pinned(&keyring, "one", 4000);
    assert_eq!(age(&keyring, at(4000, 300)), 200);
}
