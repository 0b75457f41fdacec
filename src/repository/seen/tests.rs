use std::os::unix::fs::PermissionsExt;

use serde_json::{Map, json};

use super::*;
use crate::identity::Key;
use crate::repository::PrivateKey;
use crate::tlog::leaves::Leaves;
use crate::tlog::note::{Algorithm, SignatureError, VerifierKey};

const NAME: &str = "edge 1";

/// A manager's machine and a device's key.
struct World {
    temp: tempfile::TempDir,
    key: Key,
}

impl World {
    fn new() -> World {
        World {
            temp: tempfile::tempdir().unwrap(),
            key: Key::published(),
        }
    }

    fn origin(epoch: u64) -> String {
        format!("slmd.internal/edge%201/{epoch}")
    }

    fn note(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.to_string();
        let public = self.key.public();
        let log = VerifierKey::new(&checkpoint.origin, Algorithm::Ed25519, public).unwrap();
        let signature = self.key.sign_note(&text).unwrap();
        Note::signed(&text, &log, &signature).unwrap().to_string()
    }

    /// A report of `log` at `size`, with the proofs from these sizes.
    fn audit(&self, log: &Leaves, epoch: u64, size: u64, from: &[u64]) -> Audit {
        let checkpoint = self.note(&log.at(&World::origin(epoch), size));
        let proof = |from: u64| {
            let proof = log.proof(from, size);
            let proof: Vec<String> = proof.iter().map(|hash| text::base64(hash)).collect();
            serde_json::from_value(json!({"from": from, "proof": proof})).unwrap()
        };
        Audit {
            checkpoint,
            consistency: from.iter().copied().map(proof).collect(),
            more: Map::new(),
        }
    }

    fn look_at(&self, audit: Option<&Audit>, accept: bool) -> Found {
        let seen = Seen::open(&self.temp.path().join("audit")).unwrap();
        let device = Device {
            name: NAME,
            key: self.key.public(),
        };
        seen.look(device, audit, accept, None).unwrap().0
    }

    fn look(&self, audit: &Audit) -> Found {
        self.look_at(Some(audit), false)
    }

    fn folder(&self) -> PathBuf {
        let log = self.temp.path().join("audit/edge%201");
        log.join(self.key.public().thumbprint())
    }
}

fn fork(found: &Found) -> &'static str {
    match found {
        Found::Forked { why, evidence } => {
            let shown = fs::read_to_string(evidence.join("shown.note")).unwrap();
            let kept = fs::read_to_string(evidence.join("kept.note")).unwrap();
            let key = Key::published();
            for note in [shown, kept] {
                opened(note.as_bytes(), key.public()).expect("evidence is signed");
            }
            let said = fs::read_to_string(evidence.join("why")).unwrap();
            assert!(said.starts_with(why.name()), "{said}");
            why.name()
        }
        _ => "",
    }
}

#[test]
fn a_log_that_grows_is_good_from_wherever_it_was_seen() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    assert_eq!(world.look(&world.audit(&log, 1, 5, &[])), Found::Good);
    assert_eq!(world.look(&world.audit(&log, 1, 5, &[])), Found::Good);
    assert_eq!(world.look(&world.audit(&log, 1, 9, &[2, 5])), Found::Good);
    // Without the proof nobody can say; with it all is well again.
    let later = world.audit(&log, 1, 12, &[5]);
    assert_eq!(world.look(&later), Found::Unproven(9));
    assert_eq!(world.look(&world.audit(&log, 1, 14, &[9])), Found::Good);
    let file = world.folder().join("1.note");
    let kept = fs::read_to_string(&file).unwrap();
    assert_eq!(kept, world.audit(&log, 1, 14, &[]).checkpoint);
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644, "it is no secret");
}

#[test]
fn a_rewritten_log_is_found_though_the_device_has_signed_it() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    assert_eq!(world.look(&world.audit(&log, 1, 9, &[])), Found::Good);
    let other = Leaves::new(30, Some(3));
    for (audit, why) in [
        (world.audit(&other, 1, 9, &[]), "other_root"),
        (world.audit(&other, 1, 20, &[9]), "inconsistent"),
        (world.audit(&log, 1, 8, &[]), "smaller"),
        (world.audit(&log, 1, 0, &[]), "smaller"),
    ] {
        assert_eq!(fork(&world.look(&audit)), why);
        assert_eq!(fork(&world.look(&audit)), why, "and again");
    }
    let count = fs::read_dir(world.folder().join("evidence"))
        .unwrap()
        .count();
    assert_eq!(count, 4, "the same evidence is kept once");
    // What was seen before is still what counts.
    assert_eq!(world.look(&world.audit(&log, 1, 10, &[9])), Found::Good);
}

#[test]
fn another_epoch_waits_for_a_person() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    let other = Leaves::new(30, Some(3));
    assert_eq!(world.look(&world.audit(&log, 3, 9, &[])), Found::Good);
    let began = Found::BeganAnew { before: 3 };
    assert_eq!(world.look(&world.audit(&other, 4, 2, &[])), began);
    assert_eq!(world.look(&world.audit(&other, 4, 6, &[2])), began);
    // Nor is the new one rewritten, or left.
    let rewritten = world.audit(&log, 4, 6, &[]);
    assert_eq!(fork(&world.look(&rewritten)), "other_root");
    let back = world.audit(&log, 3, 20, &[9]);
    assert_eq!(fork(&world.look(&back)), "epoch_back");
    let accept = world.audit(&other, 4, 7, &[6]);
    assert_eq!(world.look_at(Some(&accept), true), Found::Good);
    assert_eq!(world.look(&world.audit(&other, 4, 8, &[7])), Found::Good);
}

#[test]
fn a_person_may_take_a_log_as_it_is() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    let other = Leaves::new(30, Some(3));
    assert_eq!(world.look(&world.audit(&log, 1, 9, &[])), Found::Good);
    for (audit, next) in [
        (
            world.audit(&other, 1, 5, &[]),
            world.audit(&other, 1, 6, &[5]),
        ),
        (
            world.audit(&other, 2, 5, &[]),
            world.audit(&other, 2, 6, &[5]),
        ),
        (world.audit(&log, 1, 5, &[]), world.audit(&log, 1, 6, &[5])),
        (world.audit(&log, 1, 9, &[]), world.audit(&log, 1, 9, &[])),
    ] {
        assert_ne!(world.look(&audit), Found::Good);
        assert_eq!(world.look_at(Some(&audit), true), Found::Good);
        assert_eq!(world.look(&next), Found::Good);
    }
    assert_eq!(world.look_at(None, false), Found::Withheld);
}

#[test]
fn only_the_devices_own_checkpoints_count() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    assert_eq!(world.look_at(None, false), Found::Nothing);
    let good = world.audit(&log, 1, 9, &[]);
    let named = |origin: &str| Audit {
        checkpoint: world.note(&log.at(origin, 9)),
        ..good.clone()
    };
    for origin in [
        "slmd.internal/edge%202/1",
        "slmd.internal/edge%201/x",
        "slmd.internal/edge%201/01",
        "slmd.internal/edge%201",
        "1",
    ] {
        let found = world.look(&named(origin));
        assert_eq!(found, Found::Refused(Unsound::Origin), "{origin}");
    }
    let mut forged = good.clone();
    forged.checkpoint = forged.checkpoint.replace("\n9\n", "\n8\n");
    let wrong = CheckpointError::Signature(SignatureError::Wrong);
    let wrong = Found::Refused(Unsound::Checkpoint(wrong));
    assert_eq!(world.look(&forged), wrong);
    let mut garbled = world.audit(&log, 1, 9, &[5]);
    garbled.consistency[0].proof[0].push('!');
    assert_eq!(world.look(&garbled), Found::Refused(Unsound::Proof));
    let folder = tempfile::tempdir().unwrap();
    let stranger = World {
        key: Key::open(folder.path()).unwrap(),
        ..World::new()
    };
    let foreign = stranger.audit(&log, 1, 9, &[]);
    assert!(matches!(world.look(&foreign), Found::Refused(_)));
    assert_eq!(world.look(&good), Found::Good, "nothing of that was kept");
    // Another name for the same epoch is another log.
    assert_eq!(
        fork(&world.look(&named("else.where/edge%201/1"))),
        "other_origin"
    );
    assert_eq!(world.look(&good), Found::Good);
}

#[test]
fn what_is_good_is_cosigned_and_nothing_else() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    let private = PrivateKey::passing();
    let public = PublicKey::new(private.public_bytes().unwrap());
    let key = VerifierKey::new("plant/w", Algorithm::Cosignature, &public).unwrap();
    let other = PrivateKey::passing();
    assert!(Cosigner::new(key.clone(), other).is_err());
    let cosigner = Cosigner::new(key.clone(), private).unwrap();
    let seen = Seen::open(&world.temp.path().join("audit")).unwrap();
    let busy = Seen::open(&world.temp.path().join("audit")).unwrap_err();
    assert!(busy.to_string().contains("at work"), "{busy}");
    let device = Device {
        name: NAME,
        key: world.key.public(),
    };
    let look = |audit: &Audit, secs| {
        let now = Timestamp::from_secs(secs);
        let looked = seen.look(device, Some(audit), false, Some((&cosigner, now)));
        looked.unwrap().1.unwrap().note.verify(&key)
    };
    assert_eq!(look(&world.audit(&log, 1, 9, &[]), 7), Ok(Some(7)));
    assert_eq!(look(&world.audit(&log, 1, 9, &[]), 8), Ok(Some(8)));
    let missing = Err(SignatureError::Missing);
    assert_eq!(look(&world.audit(&log, 1, 8, &[]), 9), missing);
    assert_eq!(look(&world.audit(&log, 1, 12, &[]), 9), missing);
    let kept = fs::read(world.folder().join("1.note")).unwrap();
    assert_eq!(Note::parse(&kept).unwrap().verify(&key), Ok(Some(8)));
}

#[test]
fn a_damaged_state_is_said() {
    let (world, log) = (World::new(), Leaves::new(30, None));
    assert_eq!(world.look(&world.audit(&log, 1, 9, &[])), Found::Good);
    let file = world.folder().join("1.note");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\n9\n", "\n8\n")).unwrap();
    let seen = Seen::open(&world.temp.path().join("audit")).unwrap();
    let device = Device {
        name: NAME,
        key: world.key.public(),
    };
    let audit = world.audit(&log, 1, 10, &[9]);
    let failed = seen.look(device, Some(&audit), false, None).unwrap_err();
    assert!(failed.to_string().contains("1.note"), "{failed}");
}
