//! Changes as they are made: by issuers that do what they shouldn't, by people meanwhile, on a disk
//! that fails.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::audit::tests::{open_at, settings};
use crate::auth::{KeySet, Policy};
use crate::keysync::{Pinned, Source};

pub(super) const REALM: &str = "dev";

pub(super) fn jwks(kid: &str) -> Vec<u8> {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid, "x": x});
    json!({"keys": [key]}).to_string().into_bytes()
}

/// One set with the keys of all.
pub(super) fn of_all(sets: &[&[u8]]) -> Vec<u8> {
    let key = |set: &&[u8]| serde_json::from_slice::<Value>(set).unwrap()["keys"][0].clone();
    let keys: Vec<Value> = sets.iter().map(key).collect();
    json!({"keys": keys}).to_string().into_bytes()
}

pub(super) fn open(folder: &TempDir, clocks: Clocks) -> (Log, Authority) {
    let store = Store::open(&folder.path().join("db")).unwrap();
    let log = open_at(&store, folder, settings(), clocks);
    let authority = Authority::open(&store, folder.path(), &log).unwrap();
    (log, authority)
}

/// Where keys are fetched from that nobody else serves.
pub(super) fn source(uri: &str) -> Source {
    Source {
        uri: uri.to_owned(),
        ca_file: None,
        plain_http_trusts_this_host: true,
        refresh_interval: Duration::from_secs(900),
        adds: false,
        vouch_after: Duration::from_secs(86_400),
        min_interval: Duration::from_secs(30),
        timeout: Duration::from_secs(1),
    }
}

pub(super) fn configured(name: &str) -> RealmConfig {
    RealmConfig {
        name: name.to_owned(),
        issuer: format!("https://keycloak.test/realms/{name}"),
        policy: Policy::default(),
        endpoints: Vec::new(),
        jwks: None,
        deny_file: None,
        local_groups: BTreeMap::new(),
    }
}

type Reply = Box<dyn FnMut(&mut TcpStream) + Send>;

/// An issuer on a free port of this machine.
struct Issuer {
    uri: String,
    asked: Arc<AtomicUsize>,
    reply: Arc<Mutex<Reply>>,
}

impl Issuer {
    fn start() -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/certs", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let reply: Arc<Mutex<Reply>> = Arc::new(Mutex::new(Box::new(|_| {})));
        let (count, answer) = (Arc::clone(&asked), Arc::clone(&reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                count.fetch_add(1, Ordering::SeqCst);
                answer.lock().unwrap()(&mut stream);
            }
        });
        Issuer { uri, asked, reply }
    }

    fn does(&self, reply: impl FnMut(&mut TcpStream) + Send + 'static) {
        *self.reply.lock().unwrap() = Box::new(reply);
    }

    fn says(&self, head: &'static str, body: Vec<u8>) {
        self.does(move |stream| {
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&body);
        });
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Bench {
    folder: TempDir,
    log: Log,
    authority: Authority,
    issuer: Issuer,
    denied: PathBuf,
}

impl Bench {
    fn new(pinned: Option<&[u8]>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("deny.json"), r#"{"version":1}"#).unwrap();
        let bench = Bench::open(folder, Issuer::start(), Clocks::default());
        if let Some(set) = pinned {
            bench.pin(set).unwrap();
        }
        bench
    }

    fn open(folder: TempDir, issuer: Issuer, clocks: Clocks) -> Bench {
        let (log, authority) = open(&folder, clocks);
        let bench = Bench {
            denied: folder.path().join("deny.json"),
            folder,
            log,
            authority,
            issuer,
        };
        let realms = vec![bench.configured()];
        let prepared = bench.authority.prepare(realms, false).unwrap();
        bench.authority.follow(prepared, None).unwrap();
        bench
    }

    fn configured(&self) -> RealmConfig {
        RealmConfig {
            jwks: Some(Source {
                timeout: Duration::from_millis(500),
                ..source(&self.issuer.uri)
            }),
            deny_file: Some(self.denied.clone()),
            ..configured(REALM)
        }
    }

    /// With what is stored, and the same issuer.
    fn restarted(self) -> Bench {
        let Bench {
            folder,
            issuer,
            log,
            authority,
            ..
        } = self;
        let clocks = log.clocks().clone();
        // They hold the store.
        drop((log, authority));
        Bench::open(folder, issuer, clocks)
    }

    fn pin(&self, set: &[u8]) -> Result<(Set, Done), Refused> {
        self.authority.pin(REALM, set, &Origin::Daemon)
    }

    fn pin_held(&self, fingerprint: &str) -> Result<(Set, Done), Refused> {
        self.authority.pin_held(REALM, fingerprint, &Origin::Daemon)
    }

    fn refresh(&self) -> Outcome {
        self.authority.refresh(REALM, Why::Asked).unwrap()
    }

    fn serves(&self, set: &[u8]) -> Outcome {
        self.issuer.says("200 OK", set.to_vec());
        self.refresh()
    }

    fn pinned(&self) -> Pinned {
        self.authority.force().keys[REALM].clone()
    }

    fn in_force(&self) -> BTreeSet<String> {
        let snapshot = self.authority.snapshot();
        let mut realms = snapshot.realms.values();
        realms.next().unwrap().keys.thumbprints()
    }

    fn held(&self) -> Option<Set> {
        self.authority.report(REALM).unwrap().held
    }

    /// What the log has of this kind.
    fn records(&self, what: &str) -> Vec<Value> {
        let lines = self.log.read(0, 256).unwrap().into_iter();
        let records = lines.map(|line| serde_json::from_slice::<Value>(&line.json).unwrap());
        let of_it = records.filter(|record| record["what"] == what);
        of_it.map(|record| record["detail"].clone()).collect()
    }

    /// As a full disk does.
    fn spoil_copies(&self) {
        std::fs::remove_dir_all(self.folder.path().join("keys")).unwrap();
    }
}

fn both(a: &[u8], b: &[u8]) -> Vec<u8> {
    of_all(&[a, b])
}

fn thumbprint(set: &[u8]) -> String {
    let keys = KeySet::parse(set).unwrap();
    keys.thumbprints().into_iter().next().unwrap()
}

#[test]
fn the_same_set_confirms_and_one_that_shares_a_key_replaces() {
    let (old, new) = (jwks("old"), jwks("new"));
    let bench = Bench::new(Some(&old));
    let before = bench.pinned().confirmed;
    assert_eq!(bench.serves(&old), Outcome::Confirmed);
    assert_ne!(bench.pinned().confirmed, before);
    assert_eq!(bench.serves(&both(&old, &new)), Outcome::Replaced);
    assert_eq!(bench.in_force().len(), 2);
    assert_eq!(bench.serves(&new), Outcome::Replaced);
    assert_eq!(bench.in_force(), [thumbprint(&new)].into());
}

#[test]
fn a_foreign_set_is_held_until_its_fingerprint_is_pinned() {
    for pinned in [None, Some(jwks("old"))] {
        let bench = Bench::new(pinned.as_deref());
        let foreign = jwks("foreign");
        let before = bench.in_force();
        assert_eq!(bench.serves(&foreign), Outcome::Held);
        assert_eq!(bench.in_force(), before);
        let refused = bench.pin_held("other");
        assert!(matches!(refused, Err(Refused::NotHeld(_))), "{refused:?}");
        let fingerprint = bench.held().unwrap().keys.fingerprint();
        let (_, done) = bench.pin_held(&fingerprint).unwrap();
        assert_eq!(done.difference.added, [thumbprint(&foreign)]);
        assert_eq!(bench.in_force(), [thumbprint(&foreign)].into());
        assert!(bench.held().is_none());
    }
}

#[test]
fn a_realm_isnt_handed_over_in_three_fetches() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let mut bench = Bench::new(Some(&own));
    let [k, a] = [&own, &added].map(|set| thumbprint(set));
    assert_eq!(bench.serves(&both(&own, &added)), Outcome::Replaced);
    assert_eq!(bench.serves(&added), Outcome::Replaced);
    assert_eq!(bench.serves(&both(&added, &next)), Outcome::Held);
    let told = [
        json!({"realm": REALM, "added": [a], "removed": []}),
        json!({"realm": REALM, "added": [], "removed": [k]}),
    ];
    assert_eq!(bench.records("keys_refreshed"), told);
    assert_eq!(bench.in_force(), [a].into());
    // Over a restart, too, the realm's own key still vouches.
    bench = bench.restarted();
    assert_eq!(bench.serves(&own), Outcome::Replaced);
    assert_eq!(bench.in_force(), [k].into());
}

#[test]
fn keys_in_force_that_a_person_pins_by_their_fingerprint_vouch_at_once() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let bench = Bench::new(Some(&own));
    assert_eq!(bench.serves(&both(&own, &added)), Outcome::Replaced);
    let (set, pinned) = bench.authority.fetch(REALM).unwrap();
    assert!(pinned);
    let (_, done) = bench.pin_held(&set.keys.fingerprint()).unwrap();
    assert!(done.difference.is_empty());
    let bench = bench.restarted();
    assert_eq!(bench.serves(&both(&added, &next)), Outcome::Replaced);
}

#[test]
fn what_isnt_in_a_held_set_goes_all_the_same() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let bench = Bench::new(Some(&own));
    assert_eq!(bench.serves(&both(&own, &added)), Outcome::Replaced);
    assert_eq!(bench.serves(&both(&added, &next)), Outcome::Held);
    let (_, difference) = bench.pinned().changed.unwrap();
    assert_eq!(difference.removed, [thumbprint(&own)]);
    let bench = bench.restarted();
    assert_eq!(bench.in_force(), [thumbprint(&added)].into());
    assert_eq!(bench.authority.vouching(REALM), [thumbprint(&own)]);
}

#[test]
fn a_fetch_that_is_under_way_undoes_no_pin() {
    let (old, new) = (jwks("old"), jwks("new"));
    let bench = Bench::new(Some(&old));
    let (asked, is_asked) = channel();
    let (answer, may_answer) = channel::<()>();
    let body = old.clone();
    bench.issuer.does(move |stream| {
        asked.send(()).unwrap();
        may_answer.recv().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    });
    std::thread::scope(|scope| {
        let refreshed = scope.spawn(|| bench.refresh());
        is_asked.recv().unwrap();
        bench.pin(&new).unwrap();
        answer.send(()).unwrap();
        assert_eq!(refreshed.join().unwrap(), Outcome::Held);
    });
    assert_eq!(bench.in_force(), [thumbprint(&new)].into());
    let bench = bench.restarted();
    assert_eq!(bench.in_force(), [thumbprint(&new)].into());
}

#[test]
fn a_pin_that_cannot_be_written_changes_nothing() {
    let (old, new) = (jwks("old"), jwks("new"));
    let bench = Bench::new(Some(&old));
    let (epoch, records) = (bench.authority.snapshot().epoch, bench.log.next_index());
    bench.spoil_copies();
    assert!(bench.pin(&new).is_err());
    let no_realm = bench.authority.pin("other", &new, &Origin::Daemon);
    assert!(
        matches!(no_realm, Err(Refused::NoRealm { .. })),
        "{no_realm:?}"
    );
    assert_eq!(bench.authority.snapshot().epoch, epoch);
    assert_eq!(bench.log.next_index(), records);
    let bench = bench.restarted();
    assert_eq!(bench.in_force(), [thumbprint(&old)].into());
    assert!(bench.records("keys_pinned").len() == 1, "the first one");
}

#[test]
fn a_key_that_leaves_goes_though_nothing_can_be_written() {
    let (own, leaked, new) = (jwks("own"), jwks("leaked"), jwks("new"));
    let bench = Bench::new(Some(&both(&own, &leaked)));
    bench.spoil_copies();
    let outcome = bench.serves(&both(&own, &new));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(bench.in_force(), [thumbprint(&own)].into());
    // What came waits for its record, and comes then.
    assert!(bench.records("keys_refreshed").is_empty());
    std::fs::create_dir(bench.folder.path().join("keys")).unwrap();
    assert_eq!(bench.refresh(), Outcome::Replaced);
    assert_eq!(
        bench.in_force(),
        [thumbprint(&own), thumbprint(&new)].into()
    );
    let told = bench.records("keys_refreshed");
    assert_eq!(told[0]["removed"], json!([thumbprint(&leaked)]));
    assert_eq!(told[1]["added"], json!([thumbprint(&new)]));
}

#[test]
fn a_refused_configuration_leaves_all_as_it_was() {
    let own = jwks("own");
    let bench = Bench::new(Some(&own));
    std::fs::write(&bench.denied, r#"{"version":1,"revoked":[{"sub":"a"}]}"#).unwrap();
    bench.authority.look_at_deny_files();
    let mut other = bench.configured();
    other.name = "other".to_owned();
    other.deny_file = None;
    let missing = bench.folder.path().join("missing");
    let mut without_ca = other.clone();
    without_ca.jwks.as_mut().unwrap().ca_file = Some(missing.clone());
    let mut without_list = other.clone();
    without_list.deny_file = Some(missing);
    for refused in [without_ca, without_list] {
        let epoch = bench.authority.snapshot().epoch;
        let refused = bench.authority.prepare(vec![other.clone(), refused], false);
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(bench.authority.snapshot().epoch, epoch);
        assert_eq!(bench.authority.deny_status(REALM).unwrap().entries, 1);
        assert_eq!(bench.serves(&own), Outcome::Confirmed);
        assert!(bench.authority.report("other").is_none());
    }
}

/// A reload reads the lists of files that it begins to follow, and has an older reading of the others.
#[test]
fn a_configuration_takes_no_revocation_back() {
    let bench = Bench::new(Some(&jwks("own")));
    let prepared = bench
        .authority
        .prepare(vec![bench.configured()], false)
        .unwrap();
    std::fs::write(&bench.denied, r#"{"version":1,"revoked":[{"sub":"a"}]}"#).unwrap();
    bench.authority.look_at_deny_files();
    bench.authority.follow(prepared, Some(json!({}))).unwrap();
    let snapshot = bench.authority.snapshot();
    let lists: Vec<usize> = snapshot
        .deny
        .realms
        .values()
        .map(crate::auth::Revocations::entries)
        .collect();
    assert_eq!(lists, [1]);
    assert_eq!(bench.records("configuration_reloaded").len(), 1);
    let told = json!({"realm": REALM, "entries": 1});
    assert_eq!(bench.records("deny_list_replaced"), [told]);
}

#[test]
fn a_time_that_is_set_mends_what_is_kept() {
    let bench = Bench::new(Some(&jwks("own")));
    let ahead = bench
        .authority
        .clocks()
        .now()
        .saturating_add(Duration::from_secs(80_000));
    let by = Origin::Daemon;
    bench.authority.reset_time(Some(ahead), &by).unwrap();
    assert!(bench.authority.moment().known >= ahead);
    let (was, floor) = bench.authority.reset_time(None, &by).unwrap();
    assert!(was >= ahead && floor < ahead, "{was} {floor}");
    assert!(bench.authority.moment().known < ahead);
    let told = json!({"was": was.to_string(), "floor": floor.to_string()});
    assert_eq!(bench.records("time_reset")[1], told);
    let far = Timestamp::from_secs(MAX_SECS + 1);
    let refused = bench.authority.reset_time(Some(far), &by);
    assert!(
        matches!(refused, Err(Refused::TooLate { .. })),
        "{refused:?}"
    );
    let bench = bench.restarted();
    assert!(bench.pinned().confirmed.at() < ahead);
    assert!(bench.authority.moment().known < ahead);
}

#[test]
fn a_known_name_with_another_key_is_a_foreign_key() {
    let (own, other) = (jwks("one"), jwks("one"));
    let bench = Bench::new(Some(&own));
    assert_eq!(bench.serves(&other), Outcome::Held);
    assert_eq!(bench.in_force(), [thumbprint(&own)].into());
    // The same key by another name is the same key.
    let renamed = String::from_utf8(own.clone()).unwrap();
    let renamed = renamed.replace("\"one\"", "\"two\"");
    assert_eq!(bench.serves(&renamed.into_bytes()), Outcome::Replaced);
    assert_eq!(bench.pinned().keys.keys()[0].kid, "two");
}

#[test]
fn a_key_that_is_denied_vouches_for_nothing() {
    let (leaked, new) = (jwks("leaked"), jwks("new"));
    let bench = Bench::new(Some(&leaked));
    let thumbprint = bench.pinned().keys.keys()[0].thumbprint.clone();
    let list = json!({"version": 1, "revoked": [{"jkt": thumbprint}]});
    std::fs::write(&bench.denied, list.to_string()).unwrap();
    bench.authority.look_at_deny_files();
    assert_eq!(bench.serves(&both(&leaked, &new)), Outcome::Held);
    assert_eq!(bench.pinned().keys.keys().len(), 1);
}

#[test]
fn a_set_is_news_when_it_begins_to_be_held_and_gone_when_keys_are_pinned() {
    let bench = Bench::new(Some(&jwks("old")));
    let (one, other) = (jwks("one"), jwks("other"));
    for (set, told) in [(&one, 1), (&one, 1), (&other, 2), (&one, 3)] {
        assert_eq!(bench.serves(set), Outcome::Held);
        assert_eq!(bench.records("keys_held").len(), told);
    }
    bench.pin(&other).unwrap();
    assert!(bench.held().is_none());
}

#[test]
fn a_fetch_tells_whether_its_set_is_the_pinned_one() {
    let (old, foreign) = (jwks("old"), jwks("foreign"));
    let bench = Bench::new(Some(&old));
    let before = bench.pinned().confirmed;
    let fetch = || bench.authority.fetch(REALM).unwrap().1;
    bench.issuer.says("200 OK", foreign);
    assert!(!fetch());
    assert!(bench.held().is_some());
    bench.issuer.says("200 OK", old);
    assert!(fetch());
    assert!(bench.held().is_none());
    assert_ne!(bench.pinned().confirmed, before);
}

#[test]
fn whatever_fails_keeps_the_last_good_set() {
    let good = jwks("good");
    let bench = Bench::new(Some(&good));
    let confirmed = bench.pinned().confirmed;
    let mut secret: Value = serde_json::from_slice(&good).unwrap();
    secret["keys"][0]["d"] = "AAAA".into();
    let elsewhere = "302 Found\r\nLocation: http://127.0.0.1:9/certs";
    let says: [(&str, Vec<u8>); 6] = [
        ("500 Internal Server Error", good.clone()),
        (elsewhere, good.clone()),
        ("200 OK", b"{\"keys\":".to_vec()),
        ("200 OK", b"{\"keys\":[]}".to_vec()),
        ("200 OK", secret.to_string().into_bytes()),
        ("200 OK", Vec::new()),
    ];
    for (head, body) in says {
        bench.issuer.says(head, body);
        assert!(matches!(bench.refresh(), Outcome::Failed(_)), "{head}");
        assert_eq!(bench.pinned().keys.keys()[0].kid, "good");
        assert_eq!(bench.pinned().confirmed, confirmed);
    }
    let hang = |_: &mut TcpStream| std::thread::sleep(Duration::from_secs(1));
    bench.issuer.does(hang);
    assert!(matches!(bench.refresh(), Outcome::Failed(_)), "hang");
    assert_eq!(bench.pinned().confirmed, confirmed);
}

#[test]
fn a_body_of_a_gigabyte_is_left_at_its_beginning() {
    let bench = Bench::new(Some(&jwks("good")));
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    bench.issuer.does(move |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        while stream.write_all(&[b' '; 65536]).is_ok() {
            if counted.fetch_add(65536, Ordering::SeqCst) >= 1 << 30 {
                return;
            }
        }
    });
    assert!(matches!(bench.refresh(), Outcome::Failed(_)));
    assert!(sent.load(Ordering::SeqCst) < 64 << 20);
    assert_eq!(bench.pinned().keys.keys()[0].kid, "good");
}

#[test]
fn a_thousand_unknown_keys_cause_one_fetch() {
    let good = jwks("good");
    let bench = Bench::new(Some(&good));
    bench.issuer.says("200 OK", good);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for _ in 0..50 {
                    bench.authority.refresh(REALM, Why::UnknownKey).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.issuer.asked(), 1);
    let again = bench.authority.refresh(REALM, Why::UnknownKey).unwrap();
    assert!(matches!(again, Outcome::Cooldown(_)), "{again:?}");
}

#[test]
fn failures_are_tried_again_soon_and_success_after_the_interval() {
    let good = jwks("good");
    let bench = Bench::new(Some(&good));
    assert_eq!(bench.authority.due(), [REALM], "at the start");
    let next = || bench.authority.report(REALM).unwrap().next_in.as_secs_f64();
    bench.issuer.says("500 Oh", Vec::new());
    for most in [33.0, 66.0, 132.0, 264.0, 528.0, 990.0, 990.0] {
        bench.refresh();
        assert!(
            (most * 0.8..=most).contains(&next()),
            "{} of {most}",
            next()
        );
    }
    assert!(bench.authority.due().is_empty());
    bench.issuer.says("200 OK", good);
    bench.refresh();
    assert!((800.0..=990.0).contains(&next()));
    bench.issuer.says("500 Oh", Vec::new());
    bench.refresh();
    assert!(next() <= 33.0, "success forgets failures");
}
