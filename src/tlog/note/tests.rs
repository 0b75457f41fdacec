//! Published notes and keys, and what is none.

use super::*;
use crate::identity::Key;

/// The example of C2SP's signed-note.
const FOO: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const FOO_NOTE: &str = "\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
";

/// Those of golang.org/x/mod/sumdb/note.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const TEXT: &str = "\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.
";
const BY_PETER: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const BY_ENOCH: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

/// Made with filippo.io/torchwood 0.6.1 and the key of RFC 8037 appendix A.1.
const LOG: &str = "slmd.internal/edge-1/1+77b04a25+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const WITNESS: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const COSIGNED: &str = "\
slmd.internal/edge-1/1
3
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— slmd.internal/edge-1/1 d7BKJXZR/apHNhdDeoQuragDYk4yaAx9xe3RvS5LfGZ0bKeDirUbM34VpYoLIn6HquDgaTimKxKqxtvRvx7vRQPUXwY=
— witness.example/w1 63YswgAAAABrCdJ68IXbluseEGKllrlem4H5KDNhBtxpI2pWbXDQsU1WyQurYwQImjj7BVXpf/gtlnkjMTYHqwTXzDKn070/HX5eAw==
";

fn key(text: &str) -> VerifierKey {
    let key = VerifierKey::parse(text).unwrap();
    assert_eq!(key.to_string(), text);
    key
}

fn note(text: &str) -> Note {
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.to_string(), text);
    note
}

fn refused(bytes: impl AsRef<[u8]>) -> Option<NoteError> {
    Note::parse(bytes.as_ref()).err()
}

#[test]
fn published_notes_verify() {
    let foo = note(FOO_NOTE);
    assert_eq!(foo.text(), "This is an example message.\n");
    assert_eq!(foo.verify(&key(FOO)), Ok(None));
    assert_eq!(foo.verify(&key(PETER)), Err(SignatureError::Missing));
    let both = note(&format!("{TEXT}\n{BY_PETER}{BY_ENOCH}"));
    assert_eq!(both.verify(&key(PETER)), Ok(None));
    assert_eq!(both.verify(&key(ENOCH)), Ok(None));
    // The text keeps its empty lines.
    let poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n";
    let signed = note(&format!(
        "{poem}\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
    ));
    assert_eq!(signed.text(), poem);
}

#[test]
fn what_torchwood_cosigned_is_ours_to_the_byte() {
    let cosigned = note(COSIGNED);
    assert_eq!(cosigned.verify(&key(LOG)), Ok(None));
    assert_eq!(cosigned.verify(&key(WITNESS)), Ok(Some(1_795_805_818)));
    let device = Key::published();
    let own = |text: &str, algorithm| {
        let key = VerifierKey::new(key(text).name(), algorithm, device.public()).unwrap();
        assert_eq!(key.to_string(), text);
        key
    };
    let log = own(LOG, Algorithm::Ed25519);
    own(WITNESS, Algorithm::Cosignature);
    let signature = device.sign_note(cosigned.text()).unwrap();
    let again = Note::signed(cosigned.text(), &log, &signature).unwrap();
    assert!(COSIGNED.starts_with(&again.to_string()));
}

/// One kind of signature doesn't pass for the other, though the key is the same.
#[test]
fn a_key_signs_for_one_purpose() {
    let (log, witness) = (key(LOG), key(WITNESS));
    for (from, to) in [(&log, &witness), (&witness, &log)] {
        let signature = note(COSIGNED);
        let line = signature.signatures.iter().find(|line| line.is_of(from));
        let mut moved = note(COSIGNED);
        moved.add(to, &line.unwrap().bytes);
        assert_eq!(moved.verify(to), Err(SignatureError::Wrong));
    }
    // The time is signed, too.
    let mut later = note(COSIGNED);
    let line = later
        .signatures
        .iter_mut()
        .find(|line| line.is_of(&witness));
    line.unwrap().bytes[7] ^= 1;
    assert_eq!(later.verify(&witness), Err(SignatureError::Wrong));
}

#[test]
fn one_wrong_signature_of_a_key_spoils_the_note_for_it() {
    let wrong = format!("{}ABCD{}", &BY_PETER[..60], &BY_PETER[60..]);
    let torn = note(&format!("{TEXT}\n{wrong}"));
    assert_eq!(torn.verify(&key(PETER)), Err(SignatureError::Wrong));
    let both = note(&format!("{TEXT}\n{BY_PETER}{wrong}{BY_ENOCH}"));
    assert_eq!(both.verify(&key(PETER)), Err(SignatureError::Wrong));
    assert_eq!(
        both.verify(&key(ENOCH)),
        Ok(None),
        "it is no other's affair"
    );
    let changed = note(&format!("{}\n{BY_PETER}", TEXT.replace("crypto", "krypto")));
    assert_eq!(changed.verify(&key(PETER)), Err(SignatureError::Wrong));
    // The same line twice is one signature.
    let twice = note(&format!("{TEXT}\n{BY_PETER}{BY_PETER}"));
    assert_eq!(twice.verify(&key(PETER)), Ok(None));
}

#[test]
fn what_is_no_note_is_refused() {
    assert_eq!(refused(""), Some(NoteError::Unsigned));
    assert_eq!(refused(TEXT), Some(NoteError::Unsigned));
    assert_eq!(refused(format!("{TEXT}\n")), Some(NoteError::Unsigned));
    let unended = format!("{TEXT}\n{}", BY_PETER.trim_end());
    assert_eq!(refused(unended), Some(NoteError::Unsigned));
    for text in ["\u{1}", "\r", "\t", "\0"] {
        let bad = format!("{text}{TEXT}\n{BY_PETER}");
        assert_eq!(refused(bad), Some(NoteError::Characters), "{text:?}");
    }
    let latin = [b"\xff", format!("{TEXT}\n{BY_PETER}").as_bytes()].concat();
    assert_eq!(refused(latin), Some(NoteError::Characters));
    let peter = BY_PETER.trim_end();
    for line in [
        "Unexpected line.",
        "",
        "— Bad Name x08go/ZJ",
        "— PeterNeumann",
        "— PeterNeumann ",
        "— Peter+Neumann x08go/ZJ",
        "— Peter\u{a0}Neumann x08go/ZJ",
        "—  x08go/ZJ",
        "- PeterNeumann x08go/ZJ",
        // An id and nothing behind it.
        "— PeterNeumann x08gow==",
        &peter.replace('=', ""),
        &peter.replace("AM=", "AN="),
        &format!(" {peter}"),
        &format!("{peter} "),
    ] {
        let bad = format!("{TEXT}\n{BY_ENOCH}{line}\n");
        let why = refused(&bad);
        let unsigned = line.is_empty().then_some(NoteError::Unsigned);
        assert_eq!(why, unsigned.or(Some(NoteError::Signature)), "{line:?}");
    }
    let many = |lines: usize| format!("{TEXT}\n{}", BY_PETER.repeat(lines));
    assert_eq!(refused(many(MAX_SIGNATURES)), None);
    assert_eq!(refused(many(MAX_SIGNATURES + 1)), Some(NoteError::TooMany));
    let large = format!("{}\n\n{BY_PETER}", "x".repeat(MAX_LEN));
    assert_eq!(refused(large), Some(NoteError::TooLarge));
}

#[test]
fn a_text_that_would_read_otherwise_is_not_signed() {
    let log = key(LOG);
    assert!(Note::signed("a\n", &log, &[7; 64]).is_some());
    for text in ["", "a", "a\r\n", "a\n\n— x AAAA", "\u{1}\n"] {
        assert_eq!(Note::signed(text, &log, &[7; 64]), None, "{text:?}");
    }
    assert_eq!(Note::signed("a\n", &log, &[]), None);
}

#[test]
fn a_signature_takes_the_place_of_an_older_one() {
    let mut note = note(COSIGNED);
    note.add(&key(WITNESS), &[7; 72]);
    note.add(&key(WITNESS), &[8; 72]);
    let lines = note
        .signatures
        .iter()
        .filter(|line| line.is_of(&key(WITNESS)));
    assert_eq!(lines.count(), 1);
    assert_eq!(note.verify(&key(LOG)), Ok(None));
}

/// As golang.org/x/mod/sumdb/note does with its own.
#[test]
fn a_key_with_any_other_character_is_refused() {
    for good in [FOO, PETER, ENOCH, LOG, WITNESS] {
        for start in 0..good.len() {
            for end in start + 1..=good.len() {
                let part = &good[start..end];
                assert_eq!(VerifierKey::parse(part).is_ok(), part == good, "{part}");
            }
        }
        for index in 0..good.len() {
            let mut other = good.as_bytes().to_vec();
            other[index] += 1;
            let other = String::from_utf8(other).unwrap();
            assert!(VerifierKey::parse(&other).is_err(), "{other}");
        }
    }
    for (bad, why) in [
        (
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
            KeyError::Form,
        ),
        (
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            KeyError::Algorithm(0x65),
        ),
        (&PETER.replace("c74f20a3", "C74F20A3"), KeyError::Id),
        (&PETER.replace("c74f20a3", "c74f20a4"), KeyError::Id),
        (&PETER.replace("Neumann", " Neumann"), KeyError::Name),
        (&PETER[12..], KeyError::Name),
        ("bananas.sigstore.dev+12344556", KeyError::Form),
        (
            "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
            KeyError::Form,
        ),
        ("rekor.sigstore.dev+12345678+AwEB", KeyError::Algorithm(3)),
    ] {
        assert_eq!(VerifierKey::parse(bad), Err(why), "{bad}");
    }
    // Of a witness that others run.
    key("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2");
}

#[test]
fn a_name_is_one_word() {
    let device = Key::published();
    let named = |name: &str| VerifierKey::new(name, Algorithm::Ed25519, device.public()).is_ok();
    assert!(named("slmd.internal/édge-1/1"));
    assert!(named(&"x".repeat(MAX_NAME)));
    for name in [
        "",
        "a b",
        "a+b",
        "a\u{2003}b",
        "a\nb",
        "a\u{7f}",
        &"x".repeat(MAX_NAME + 1),
    ] {
        assert!(!named(name), "{name:?}");
    }
}
