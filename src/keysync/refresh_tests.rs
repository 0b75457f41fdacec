//! Refreshes against issuers that do what they shouldn't: the last good set is kept.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::tests::{jwks, moment, open_keyring};
use super::*;
use crate::time;

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
    keyring: Keyring,
    issuer: Issuer,
    refresher: Refresher,
    denied: PathBuf,
    deny_files: DenyFiles,
}

impl Bench {
    fn new(pinned: Option<&[u8]>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("deny.json"), r#"{"version":1}"#).unwrap();
        let bench = Bench::open(folder, Issuer::start());
        if let Some(set) = pinned {
            bench.keyring.pin("dev", set, moment(5)).unwrap();
        }
        bench
    }

    fn open(folder: TempDir, issuer: Issuer) -> Bench {
        let store = Store::open(&folder.path().join("db")).unwrap();
        let keyring = open_keyring(&store, folder.path().join("keys"));
        let clock = || (moment(1_000_000), time::instant());
        let denied = folder.path().join("deny.json");
        let deny_files = DenyFiles::default();
        let files = BTreeMap::from([("dev".to_owned(), denied.clone())]);
        deny_files.follow(deny_files.prepare(&files).unwrap());
        let refresher = Refresher::new(keyring.clone(), deny_files.clone(), Box::new(clock));
        let source = Source {
            uri: issuer.uri.clone(),
            ca_file: None,
            plain_http_trusts_this_host: true,
            refresh_interval: Duration::from_secs(900),
            vouch_after: Duration::from_secs(86_400),
            min_interval: Duration::from_secs(30),
            timeout: Duration::from_millis(500),
        };
        let sources = BTreeMap::from([("dev".to_owned(), source)]);
        refresher.follow(refresher.prepare(&sources).unwrap());
        Bench {
            folder,
            keyring,
            issuer,
            refresher,
            denied,
            deny_files,
        }
    }

    /// With what is stored, and the same issuer.
    fn restarted(self) -> Bench {
        let Bench {
            folder,
            issuer,
            keyring,
            refresher,
            ..
        } = self;
        // They hold the store.
        drop((keyring, refresher));
        Bench::open(folder, issuer)
    }

    fn refresh(&self) -> Outcome {
        self.refresher.refresh("dev", Why::Asked).unwrap()
    }

    fn pinned(&self) -> Pinned {
        self.keyring.get("dev").unwrap().unwrap()
    }
}

/// One set with the keys of both.
fn both(a: &[u8], b: &[u8]) -> Vec<u8> {
    let keys = |set: &[u8]| serde_json::from_slice::<Value>(set).unwrap()["keys"][0].clone();
    json!({"keys": [keys(a), keys(b)]}).to_string().into_bytes()
}

#[test]
fn the_same_set_confirms_and_one_that_shares_a_key_replaces() {
    let (old, new) = (jwks("old"), jwks("new"));
    let bench = Bench::new(Some(&old));
    bench.issuer.says("200 OK", old.clone());
    assert_eq!(bench.refresh(), Outcome::Confirmed);
    assert_eq!(bench.pinned().confirmed.at(), Timestamp(1_000_000));
    bench.issuer.says("200 OK", both(&old, &new));
    assert_eq!(bench.refresh(), Outcome::Replaced);
    assert_eq!(bench.pinned().keys.keys().len(), 2);
    bench.issuer.says("200 OK", new);
    assert_eq!(bench.refresh(), Outcome::Replaced);
    assert_eq!(bench.pinned().keys.keys()[0].kid, "new");
}

#[test]
fn a_foreign_set_is_held_until_its_fingerprint_is_pinned() {
    for pinned in [None, Some(jwks("old"))] {
        let bench = Bench::new(pinned.as_deref());
        bench.issuer.says("200 OK", jwks("foreign"));
        assert_eq!(bench.refresh(), Outcome::Held);
        let before = bench.keyring.get("dev").unwrap();
        assert_eq!(before.is_some(), pinned.is_some());
        let held = bench.refresher.report("dev").unwrap().held.unwrap();
        let now = moment(2_000_000);
        assert!(bench.refresher.pin_held("dev", "other", now).is_none());
        let fingerprint = held.keys.fingerprint();
        bench
            .refresher
            .pin_held("dev", &fingerprint, now)
            .unwrap()
            .unwrap();
        assert_eq!(bench.pinned().keys.keys()[0].kid, "foreign");
        assert!(bench.refresher.report("dev").unwrap().held.is_none());
    }
}

fn thumbprint(set: &[u8]) -> String {
    let keys = KeySet::parse(set).unwrap();
    keys.thumbprints().into_iter().next().unwrap()
}

#[test]
fn a_realm_isnt_handed_over_in_three_fetches() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let mut bench = Bench::new(Some(&own));
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let note = move |told: &Told<'_>| notes.lock().unwrap().push(told.change.clone());
    bench.refresher.on_change(Box::new(note));
    let serves = |set: &[u8]| {
        bench.issuer.says("200 OK", set.to_vec());
        let outcome = bench.refresh();
        let change = told.lock().unwrap().pop().unwrap();
        (outcome, change.added, change.removed)
    };
    let [k, a] = [&own, &added].map(|set| thumbprint(set));
    let (one, none) = (|key: &String| vec![key.clone()], Vec::new);
    assert_eq!(
        serves(&both(&own, &added)),
        (Outcome::Replaced, one(&a), none())
    );
    assert_eq!(serves(&added), (Outcome::Replaced, none(), one(&k)));
    assert_eq!(
        serves(&both(&added, &next)),
        (Outcome::Held, none(), none())
    );
    assert_eq!(bench.pinned().keys.thumbprints(), [a.clone()].into());
    // Over a restart, too, the realm's own key still vouches.
    bench = bench.restarted();
    bench.issuer.says("200 OK", own.clone());
    assert_eq!(bench.refresh(), Outcome::Replaced);
    assert_eq!(bench.pinned().keys.thumbprints(), [k].into());
}

#[test]
fn keys_in_force_that_a_person_pins_by_their_fingerprint_vouch_at_once() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let bench = Bench::new(Some(&own));
    bench.issuer.says("200 OK", both(&own, &added));
    assert_eq!(bench.refresh(), Outcome::Replaced);
    let fetched = bench.refresher.fetch("dev").unwrap().unwrap();
    assert!(fetched.pinned);
    let fingerprint = fetched.set.keys.fingerprint();
    let pinned = bench
        .refresher
        .pin_held("dev", &fingerprint, moment(2_000_000));
    let (_, change) = pinned.unwrap().unwrap();
    assert_eq!(change, Change::default());
    let bench = bench.restarted();
    bench.issuer.says("200 OK", both(&added, &next));
    assert_eq!(bench.refresh(), Outcome::Replaced);
}

#[test]
fn what_isnt_in_a_held_set_goes_all_the_same() {
    let (own, added, next) = (jwks("own"), jwks("added"), jwks("next"));
    let bench = Bench::new(Some(&own));
    bench.issuer.says("200 OK", both(&own, &added));
    assert_eq!(bench.refresh(), Outcome::Replaced);
    bench.issuer.says("200 OK", both(&added, &next));
    assert_eq!(bench.refresh(), Outcome::Held);
    let pinned = bench.pinned();
    assert_eq!(pinned.keys.thumbprints(), [thumbprint(&added)].into());
    let (_, change) = pinned.changed().unwrap();
    assert_eq!(change.removed, [thumbprint(&own)]);
    let bench = bench.restarted();
    assert_eq!(
        bench.pinned().keys.thumbprints(),
        [thumbprint(&added)].into()
    );
    let vouching = bench.refresher.report("dev").unwrap().vouching;
    assert_eq!(vouching, [thumbprint(&own)]);
}

#[test]
fn a_known_name_with_another_key_is_a_foreign_key() {
    let (own, other) = (jwks("one"), jwks("one"));
    let bench = Bench::new(Some(&own));
    bench.issuer.says("200 OK", other);
    assert_eq!(bench.refresh(), Outcome::Held);
    assert_eq!(bench.pinned().keys.thumbprints(), [thumbprint(&own)].into());
    // The same key by another name is the same key.
    let renamed = String::from_utf8(own.clone()).unwrap();
    let renamed = renamed.replace("\"one\"", "\"two\"");
    bench.issuer.says("200 OK", renamed.into_bytes());
    assert_eq!(bench.refresh(), Outcome::Replaced);
    assert_eq!(bench.pinned().keys.keys()[0].kid, "two");
}

#[test]
fn a_key_that_is_denied_vouches_for_nothing() {
    let (leaked, new) = (jwks("leaked"), jwks("new"));
    let bench = Bench::new(Some(&leaked));
    let thumbprint = bench.pinned().keys.keys()[0].thumbprint.clone();
    let list = json!({"version": 1, "revoked": [{"jkt": thumbprint}]});
    std::fs::write(&bench.denied, list.to_string()).unwrap();
    assert_eq!(bench.deny_files.look().len(), 1);
    bench.issuer.says("200 OK", both(&leaked, &new));
    assert_eq!(bench.refresh(), Outcome::Held);
    assert_eq!(bench.pinned().keys.keys().len(), 1);
}

#[test]
fn a_set_is_news_when_it_begins_to_be_held_and_gone_when_keys_are_pinned() {
    let bench = Bench::new(Some(&jwks("old")));
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let note = move |told: &Told<'_>| {
        let told = (told.outcome.as_str(), told.news);
        notes.lock().unwrap().push(told);
    };
    bench.refresher.on_change(Box::new(note));
    let (one, other) = (jwks("one"), jwks("other"));
    for set in [&one, &one, &other, &one] {
        bench.issuer.says("200 OK", set.clone());
        bench.refresh();
    }
    let news: Vec<bool> = told.lock().unwrap().iter().map(|(_, news)| *news).collect();
    assert_eq!(news, [true, false, true, true]);
    bench.refresher.settle("dev");
    assert!(bench.refresher.report("dev").unwrap().held.is_none());
}

#[test]
fn a_fetch_tells_whether_its_set_is_the_pinned_one() {
    let (old, foreign) = (jwks("old"), jwks("foreign"));
    let bench = Bench::new(Some(&old));
    let fetch = || bench.refresher.fetch("dev").unwrap().unwrap().pinned;
    bench.issuer.says("200 OK", foreign);
    assert!(!fetch());
    assert!(bench.refresher.report("dev").unwrap().held.is_some());
    bench.issuer.says("200 OK", old);
    assert!(fetch());
    assert!(bench.refresher.report("dev").unwrap().held.is_none());
    assert_eq!(bench.pinned().confirmed.at(), Timestamp(1_000_000));
}

#[test]
fn whatever_fails_keeps_the_last_good_set() {
    let good = jwks("good");
    let bench = Bench::new(Some(&good));
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
        assert_eq!(bench.pinned().confirmed.at(), Timestamp(5));
    }
    let hang = |_: &mut TcpStream| std::thread::sleep(Duration::from_secs(1));
    bench.issuer.does(hang);
    assert!(matches!(bench.refresh(), Outcome::Failed(_)), "hang");
    assert_eq!(bench.pinned().confirmed.at(), Timestamp(5));
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
                    bench.refresher.refresh("dev", Why::UnknownKey).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.issuer.asked(), 1);
    let again = bench.refresher.refresh("dev", Why::UnknownKey).unwrap();
    assert!(matches!(again, Outcome::Cooldown(_)), "{again:?}");
}

#[test]
fn failures_are_tried_again_soon_and_success_after_the_interval() {
    let good = jwks("good");
    let bench = Bench::new(Some(&good));
    assert_eq!(bench.refresher.due(), ["dev"], "at the start");
    let next = || bench.refresher.report("dev").unwrap().next_in.as_secs_f64();
    bench.issuer.says("500 Oh", Vec::new());
    for most in [33.0, 66.0, 132.0, 264.0, 528.0, 990.0, 990.0] {
        bench.refresh();
        assert!(
            (most * 0.8..=most).contains(&next()),
            "{} of {most}",
            next()
        );
    }
    assert!(bench.refresher.due().is_empty());
    bench.issuer.says("200 OK", good);
    bench.refresh();
    assert!((800.0..=990.0).contains(&next()));
    bench.issuer.says("500 Oh", Vec::new());
    bench.refresh();
    assert!(next() <= 33.0, "success forgets failures");
}
