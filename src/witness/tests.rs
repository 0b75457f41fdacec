//! What is taken up of witnesses, and what isn't; with a real log.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::audit::tests::{open_in, settings};
use crate::audit::{Event, Signed};
use crate::identity::Key;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::cosignature::{Cosignature, message};
use crate::tlog::note::{Algorithm, Note, VerifierKey};
use crate::tlog::tree::verify_consistency;

/// A device with a log that one witness watches.
struct Scene {
    folder: TempDir,
    store: Store,
    log: Log,
    witnesses: Witnesses,
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key(seed: u8) -> VerifierKey {
    let public = pair(seed).public_key().as_ref().try_into().unwrap();
    let name = format!("witness.example/{seed}");
    VerifierKey::new(&name, Algorithm::Cosignature, &PublicKey::new(public)).unwrap()
}

fn watch(log: &Log, store: &Store, seeds: &[u8]) -> Witnesses {
    let witness = |seed: &u8| audit::Witness {
        key: key(*seed),
        url: None,
        ca_file: None,
    };
    let all: Vec<audit::Witness> = seeds.iter().map(witness).collect();
    let device = Key::published();
    let mut registry = Registry::default();
    Witnesses::open(&all, log, store, device.public(), &mut registry).unwrap()
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).unwrap();
        Scene::over(folder, store)
    }

    fn again(self) -> Scene {
        let Scene { folder, store, .. } = self;
        Scene::over(folder, store)
    }

    fn over(folder: TempDir, store: Store) -> Scene {
        let log = open_in(&store, &folder, settings());
        let witnesses = watch(&log, &store, &[1, 2]);
        Scene {
            folder,
            store,
            log,
            witnesses,
        }
    }

    /// Signs the log with so many records more.
    fn grow(&self, records: usize, what: &str) -> Arc<Signed> {
        let now = self.log.clocks().now();
        for _ in 0..records {
            let detail = serde_json::json!({ "why": what });
            let change = self.log.change(Origin::Daemon, Change::Start, detail, now);
            change.unwrap();
        }
        self.log.sign_now(now).unwrap()
    }

    fn take(&self, note: &str) {
        self.witnesses.take(0, note.as_bytes());
    }

    fn standing(&self) -> Standing {
        self.witnesses.standing().remove(0)
    }

    fn cosigned(&self) -> Option<(u64, u64)> {
        self.standing()
            .cosigned
            .map(|(_, size, at)| (size, at.as_secs()))
    }

    fn refused(&self) -> &'static str {
        let refused = self.standing().refused;
        refused.as_ref().map_or("", Refused::name)
    }

    /// Alarms on record.
    fn alarms(&self) -> Vec<String> {
        let lines = self.log.read(0, 256).unwrap().into_iter();
        let alarm = |event: Event| match event {
            Event::Change { what, detail, .. } if what.change == Change::AuditWitnessRefused => {
                Some(detail["reason"].as_str().unwrap().to_owned())
            }
            _ => None,
        };
        lines
            .filter_map(|line| alarm(line.record()?.event))
            .collect()
    }

    /// By the proofs that a report has.
    fn proves(&self, from: &Signed) -> bool {
        let audit = self.witnesses.statement().unwrap();
        let (checkpoint, _) = self.witnesses.0.own(audit.checkpoint.as_bytes()).unwrap();
        let proof = audit.consistency.iter().find(|one| one.from == from.size);
        proof.is_some_and(|one| {
            let proof: Vec<_> = one
                .proof
                .iter()
                .map(|hash| text::hash(hash).unwrap())
                .collect();
            let (size, root) = (checkpoint.size, &checkpoint.root);
            verify_consistency(from.size, &from.root, size, root, &proof).is_ok()
        })
    }
}

fn cosign(note: &str, seed: u8, time: u64) -> String {
    let mut note = Note::parse(note.as_bytes()).unwrap();
    let signature = pair(seed).sign(message(time, note.text()).as_bytes());
    let signature = signature.as_ref().try_into().unwrap();
    note.add(&key(seed), &Cosignature { time, signature }.to_bytes());
    note.to_string()
}

/// The device's own word on any log.
fn signed(origin: &str, size: u64, seed: u8) -> String {
    let root = [seed; 32];
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size,
        root,
    };
    let (device, text) = (Key::published(), checkpoint.to_string());
    let log = VerifierKey::new(origin, Algorithm::Ed25519, device.public()).unwrap();
    let signature = device.sign_note(&text).unwrap();
    Note::signed(&text, &log, &signature).unwrap().to_string()
}

#[test]
fn what_is_cosigned_is_kept_shown_and_proven_by() {
    let scene = Scene::new();
    let first = scene.grow(5, "x");
    assert_eq!(scene.cosigned(), None);
    scene.take(&cosign(&first.note, 1, 100));
    assert_eq!(
        (scene.cosigned(), scene.refused()),
        (Some((first.size, 100)), "")
    );
    let has = |signed: &Signed, seed| {
        let note = Note::parse(signed.note.as_bytes()).unwrap();
        note.verify(&key(seed)).is_ok()
    };
    assert!(has(&scene.log.shown().unwrap(), 1));

    let second = scene.grow(5, "x");
    let (shown, log) = (scene.log.shown().unwrap(), &scene.log);
    assert_eq!((shown.size, has(&shown, 1)), (second.size, false));
    let proving = |index| log.proving(index).unwrap();
    assert_eq!(proving(0).size, first.size, "a witness has seen it");
    assert_eq!(proving(second.size - 1).size, second.size);
    assert_eq!(log.proving(second.size), None);

    // Two witnesses of one checkpoint are in one note.
    scene
        .witnesses
        .take(1, cosign(&second.note, 2, 300).as_bytes());
    assert_eq!(proving(0).size, second.size);
    scene.take(&cosign(&second.note, 1, 200));
    let both = proving(0);
    assert!(has(&both, 1) && has(&both, 2), "{}", both.note);

    let scene = scene.again();
    assert_eq!(scene.cosigned(), Some((second.size, 200)));
    assert!(has(&scene.log.proving(0).unwrap(), 2));
    let again = watch(&scene.log, &scene.store, &[2]);
    assert_eq!(again.standing().len(), 1);
    let again = watch(&scene.log, &scene.store, &[1]);
    assert!(again.standing()[0].cosigned.is_none(), "it was taken away");
}

/// Whoever can write to the topic can bring anything.
#[test]
fn what_a_stranger_brings_changes_nothing() {
    let scene = Scene::new();
    let first = scene.grow(3, "x");
    let second = scene.grow(3, "x");
    let good = cosign(&second.note, 1, 200);
    scene.take(&good);
    let before = (scene.cosigned(), scene.log.shown());
    let folder = tempfile::tempdir().unwrap();
    let stranger = Key::open(folder.path()).unwrap();
    let text = Note::parse(second.note.as_bytes())
        .unwrap()
        .text()
        .to_owned();
    let log = VerifierKey::new(&second.origin, Algorithm::Ed25519, stranger.public()).unwrap();
    let foreign = Note::signed(&text, &log, &stranger.sign_note(&text).unwrap()).unwrap();
    let huge = format!("{}{}", "x".repeat(1 << 20), good);
    for (note, refused) in [
        ("", "malformed"),
        ("garbage", "malformed"),
        (&huge as &str, "malformed"),
        (&second.note, "not_cosigned"),
        (&cosign(&second.note, 2, 300), "not_cosigned"),
        (&good.replace("\n6\n", "\n7\n"), "foreign"),
        (&cosign(&foreign.to_string(), 1, 300), "foreign"),
        (
            &cosign(&signed("x.example/edge-2/y", 9, 7), 1, 300),
            "foreign",
        ),
    ] {
        scene.take(note);
        assert_eq!(scene.refused(), refused, "{note:.200}");
        assert_eq!((scene.cosigned(), scene.log.shown()), before, "{note:.200}");
        scene.take(&good);
    }
    // Old ones say nothing, not even that something is wrong.
    let later = scene.grow(1, "x");
    scene.take(&cosign(&later.note, 1, 400));
    for old in [
        &good,
        &cosign(&first.note, 1, 500),
        &cosign(&later.note, 1, 399),
    ] {
        scene.take(old);
        assert_eq!(
            (scene.cosigned(), scene.refused()),
            (Some((later.size, 400)), "")
        );
    }
    assert_eq!(scene.alarms(), Vec::<String>::new());
}

/// The same device and key, and another log than the witness has seen.
#[test]
fn a_log_that_was_set_back_or_rewritten_is_an_alarm() {
    let seen = Scene::new();
    let cosigned = cosign(&seen.grow(8, "seen").note, 1, 100);
    let size = seen.log.checkpoint().unwrap().size;

    let scene = Scene::new();
    scene.grow(4, "other");
    for _ in 0..2 {
        scene.take(&cosigned);
        assert_eq!((scene.cosigned(), scene.refused()), (None, "ahead"));
        scene.grow(1, "other");
    }
    assert_eq!(scene.alarms(), ["ahead"], "once, though the log grows");
    assert!(scene.witnesses.disputed().is_empty(), "not as long yet");
    // Neither silence nor a stranger ends it.
    scene.take("garbage");
    assert_eq!(scene.refused(), "ahead");

    let grown = scene.grow(8, "other");
    assert!(grown.size > size);
    let audit = scene.witnesses.statement().unwrap();
    let proven: Vec<u64> = audit.consistency.iter().map(|one| one.from).collect();
    assert_eq!(
        proven,
        [size],
        "so that the witness sees that it was rewritten"
    );
    scene.take(&cosigned);
    assert_eq!((scene.cosigned(), scene.refused()), (None, "rewritten"));
    assert_eq!(scene.alarms(), ["ahead", "rewritten"]);
    assert_eq!(scene.log.shown().unwrap().note, grown.note);

    // A daemon that has begun since hears of it for the first time.
    let scene = scene.again();
    scene.take(&cosigned);
    assert_eq!((scene.cosigned(), scene.refused()), (None, "rewritten"));
    let audit = scene.witnesses.statement().unwrap();
    let proven: Vec<u64> = audit.consistency.iter().map(|one| one.from).collect();
    assert_eq!(proven, [size]);
    assert_eq!(scene.witnesses.disputed(), [size]);

    let mine = scene.grow(1, "other");
    scene.take(&cosign(&mine.note, 1, 200));
    assert_eq!(
        (scene.cosigned(), scene.refused()),
        (Some((mine.size, 200)), "")
    );
    let origin = mine.origin.replace("/1", "/2");
    scene.take(&cosign(&signed(&origin, 1, 7), 1, 300));
    assert_eq!(scene.refused(), "later_epoch");
    scene.take(&cosign(
        &signed(&mine.origin.replace("/1", "/0"), 1, 7),
        1,
        300,
    ));
    assert_eq!(scene.refused(), "later_epoch", "an earlier epoch is old");
}

#[test]
fn a_kept_note_that_the_log_cannot_have_grown_from_is_an_alarm_at_the_start() {
    let seen = Scene::new();
    let cosigned = cosign(&seen.grow(8, "seen").note, 1, 100);
    let scene = Scene::new();
    scene.grow(4, "other");
    let tree = scene.store.tree("audit_witnesses").unwrap();
    let name = format!("note/{}", key(1));
    tree.insert(name.as_bytes(), cosigned.as_bytes()).unwrap();
    let scene = scene.again();
    assert_eq!((scene.cosigned(), scene.refused()), (None, "ahead"));
    assert_eq!(scene.alarms(), ["ahead"]);
}

#[test]
fn a_report_proves_growth_from_what_was_reported_and_cosigned() {
    let mut scene = Scene::new();
    assert_eq!(scene.witnesses.statement(), None, "nothing is signed yet");
    let cosigned = scene.grow(3, "x");
    scene.take(&cosign(&cosigned.note, 1, 100));
    let mut reported = Vec::new();
    for _ in 0..6 {
        reported.push(scene.grow(2, "x"));
        let audit = scene.witnesses.statement().unwrap();
        scene.witnesses.reported(&audit.checkpoint).unwrap();
        scene.witnesses.reported(&audit.checkpoint).unwrap();
    }
    scene.grow(1, "x");
    for _ in 0..2 {
        assert!(scene.proves(&cosigned));
        let proven: Vec<bool> = reported.iter().map(|from| scene.proves(from)).collect();
        assert_eq!(proven, [false, false, true, true, true, true]);
        scene = scene.again();
    }
    scene.witnesses.reported("garbage").unwrap();
}

#[test]
fn a_report_has_room_for_its_proofs() {
    let scene = Scene::new();
    scene.grow(1, "x");
    let audit = scene.witnesses.statement().unwrap();
    assert_eq!(audit.consistency, Vec::new());
    let text = serde_json::to_string(&audit).unwrap();
    assert!(text.len() < 1000, "{text}");
}
