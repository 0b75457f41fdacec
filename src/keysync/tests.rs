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
        Keyring::open(
            &Store::open(&self.store()).unwrap(),
            self.copies(),
            moment(9),
        )
        .unwrap()
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

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
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
    let keyring = Keyring::open(&store, home.copies(), moment(9)).unwrap();
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "one", 5);
    drop((keyring, store));
    let keyring = home.open();
    assert!(keyring.restored().is_empty(), "restored once only");
    assert_pinned(&keyring, "one", 5);
}

#[test]
fn of_store_and_copy_what_was_confirmed_later_wins() {
    let home = Home::new();
    home.pin("old", 5);
    let (old_copies, old_store) = (home.0.path().join("a"), home.0.path().join("b"));
    copy_all(&home.copies(), &old_copies);
    copy_all(&home.store().join("sled"), &old_store.join("sled"));
    home.pin("new", 6);

    // An old copy beside a newer store.
    let store = Store::open(&home.store()).unwrap();
    let keyring = Keyring::open(&store, old_copies, moment(9)).unwrap();
    assert!(keyring.restored().is_empty());
    assert_pinned(&keyring, "new", 6);
    // A store that went back to an earlier set.
    let store = Store::open(&old_store).unwrap();
    let keyring = Keyring::open(&store, home.copies(), moment(9)).unwrap();
    assert_eq!(keyring.restored(), ["dev"]);
    assert_pinned(&keyring, "new", 6);
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

#[test]
fn a_confirmation_from_the_future_counts_as_the_first_start_that_finds_it() {
    let home = Home::new();
    home.pin("one", 9);
    let at = |known| {
        let keyring = Keyring::open(
            &Store::open(&home.store()).unwrap(),
            home.copies(),
            moment(known),
        );
        keyring.unwrap()
    };
    // Each start, not the last one, would make it young again.
    assert_pinned(&at(7), "one", 7);
    assert_pinned(&at(8), "one", 7);
    fs::remove_dir_all(home.store()).unwrap();
    assert_pinned(&at(9), "one", 7);
}

#[test]
fn a_refresh_confirms_now_whatever_the_wall_clock_says() {
    let home = Home::new();
    let day = 86_400_000;
    let keyring = home.open();
    let later = |known, uptime| Moment {
        known: Timestamp(known),
        uptime: Uptime(uptime),
    };
    keyring
        .pin("dev", &jwks("one"), later(40 * day, 0))
        .unwrap();
    let age = |now| {
        keyring
            .get("dev")
            .unwrap()
            .unwrap()
            .confirmed
            .age(now)
            .as_millis()
    };
    // A clock that nobody keeps is set back; the machine runs on.
    assert_eq!(age(later(3 * day, 30_000)), 30_000);
    keyring.confirm("dev", later(3 * day, 30_000)).unwrap();
    assert_eq!(age(later(3 * day, 30_000)), 0);
    assert_eq!(age(later(90 * day, 30_007)), 7);
    // The next start only has what was known then.
    drop(keyring);
    let opened = Store::open(&home.store()).unwrap();
    let keyring = Keyring::open(&opened, home.copies(), later(50 * day, 5)).unwrap();
    let age = keyring
        .get("dev")
        .unwrap()
        .unwrap()
        .confirmed
        .age(later(50 * day, 5));
    assert_eq!(age.as_millis(), u128::from(47 * day));
}

#[test]
fn a_mended_clock_mends_what_is_stored_and_no_age() {
    let home = Home::new();
    let keyring = home.open();
    let ahead = Moment {
        known: Timestamp(9_000_000),
        uptime: Uptime(100),
    };
    keyring.pin("dev", &jwks("one"), ahead).unwrap();
    let mended = Moment {
        known: Timestamp(5000),
        uptime: Uptime(300),
    };
    keyring.mend(mended).unwrap();
    let confirmed = keyring.get("dev").unwrap().unwrap().confirmed;
    assert_eq!(confirmed.age(mended), Duration::from_millis(200));
    drop(keyring);
    let store = Store::open(&home.store()).unwrap();
    let keyring = Keyring::open(&store, home.copies(), mended).unwrap();
    assert_pinned(&keyring, "one", 4800);
}
