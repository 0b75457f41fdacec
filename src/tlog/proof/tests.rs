//! What other software made, and what shows nothing.

use super::*;
use crate::tlog::note::SignatureError;

/// Made with other software: github.com/transparency-dev/formats 0.1.1, golang.org/x/mod/sumdb/tlog,
/// filippo.io/torchwood 0.6.1; the key of RFC 8037 appendix A.1, the leaves of RFC 6962's reference.
const OTHERS: &str = "\
c2sp.org/tlog-proof@v1
extra ZXh0cmEgaW5mb3JtYXRpb24=
index 3
ApjRIpBtz8EIkstTpzmS/FufST6kybrbJ7eRtBJ6f+c=
+sVCA+fMaWzw38tCySodnbr3CtnmIfS9jZhmLwDjwSU=
g327FS6bB5AQcX6E6GXaTrwPoZioBtWdMb8VrM7yLQ4=

slmd.internal/edge-1/1
7
3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=

— slmd.internal/edge-1/1 d7BKJauVXFzHGETSHUoAchyuwespYcLuMVEjTrVs5cNbz/EpnWhpAHYbMWMJbCQ0iBk9SziaXoR3tbp/VwTIM2tvuQk=
— witness.example/w1 63YswgAAAABrCdOhg9zBvueo1k9Axd9X1nJXhMvYP7uonMkNBRrCxGvSIsI7Ct2GEJPwSJU0ga3Bis/aQPLjwpRCQt6yYDB+z9gJBw==
";
const LEAF: &[u8] = &[0x20, 0x21];
const LOG: &str = "slmd.internal/edge-1/1+77b04a25+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const W1: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
/// A witness that others run, which has seen nothing of it.
const W2: &str = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

fn policy(quorum: &str) -> Policy {
    let text = format!("witness w1 {W1}\nwitness w2 {W2}\ngroup g all w1 w2\nquorum {quorum}\n");
    Policy::parse(text.as_bytes()).unwrap()
}

fn check(text: &str, leaf: &[u8], log: &str, policy: &Policy) -> Result<Proven, Unproven> {
    let proof = Proof::parse(text.as_bytes()).unwrap();
    proof.check(leaf, &VerifierKey::parse(log).unwrap(), policy)
}

#[test]
fn what_others_made_is_read_checked_and_written() {
    let proof = Proof::parse(OTHERS.as_bytes()).unwrap();
    assert_eq!(proof.to_string(), OTHERS);
    assert_eq!(proof.extra.as_deref(), Some(b"extra information" as &[u8]));
    let proven = check(OTHERS, LEAF, LOG, &policy("w1")).unwrap();
    assert_eq!(proven.checkpoint.size, 7);
    let seen = Cosigned {
        name: "witness.example/w1".to_owned(),
        time: 1_795_806_113,
    };
    assert_eq!(proven.witnesses, [seen]);
    let proven = check(OTHERS, LEAF, LOG, &Policy::none()).unwrap();
    assert_eq!(proven.witnesses, [], "whom nobody knows doesn't count");
}

#[test]
fn it_counts_for_one_entry_of_one_log_by_one_policy() {
    let none = Policy::none();
    let inclusion = |why| Err(Unproven::Inclusion(why));
    let other = check(OTHERS, b"\x20\x22", LOG, &none);
    assert_eq!(other, inclusion(ProofError::Root));
    let elsewhere = OTHERS.replace("index 3", "index 2");
    assert_eq!(
        check(&elsewhere, LEAF, LOG, &none),
        inclusion(ProofError::Root)
    );
    let beyond = OTHERS.replace("index 3", "index 7");
    assert_eq!(
        check(&beyond, LEAF, LOG, &none),
        inclusion(ProofError::Beyond)
    );
    let log = check(OTHERS, LEAF, PETER, &none);
    let missing = CheckpointError::Signature(SignatureError::Missing);
    assert_eq!(log, Err(Unproven::Checkpoint(missing)));
    let grown = OTHERS.replace("/1\n7\n", "/1\n8\n");
    let wrong = CheckpointError::Signature(SignatureError::Wrong);
    assert_eq!(
        check(&grown, LEAF, LOG, &none),
        Err(Unproven::Checkpoint(wrong))
    );
    let quorum = Err(Unproven::Policy(PolicyFault::Quorum));
    assert_eq!(check(OTHERS, LEAF, LOG, &policy("w2")), quorum);
    assert_eq!(check(OTHERS, LEAF, LOG, &policy("g")), quorum);
    let forged = OTHERS.replace("63YswgAAAABrCdOh", "63YswgAAAABrCdOi");
    let who = PolicyFault::Wrong("witness.example/w1".to_owned());
    assert_eq!(
        check(&forged, LEAF, LOG, &policy("w1")),
        Err(Unproven::Policy(who))
    );
    let logs = |key: &str| Policy::parse(format!("log {key}\nquorum none\n").as_bytes()).unwrap();
    assert!(check(OTHERS, LEAF, LOG, &logs(LOG)).is_ok());
    assert_eq!(check(OTHERS, LEAF, LOG, &logs(PETER)), Err(Unproven::Log));
}

#[test]
fn what_is_no_proof_is_refused() {
    let changed = |from: &str, to: &str| {
        let text = OTHERS.replacen(from, to, 1);
        assert_ne!(text, OTHERS, "{from:?}");
        Proof::parse(text.as_bytes()).err()
    };
    for (from, to, why) in [
        ("@v1", "@v2", FormError::Header),
        ("@v1\n", "@v1 \n", FormError::Header),
        ("c2sp", " c2sp", FormError::Header),
        ("ZXh0", "!!", FormError::Extra),
        ("b24=", "b25=", FormError::Extra),
        ("extra ", "extra  ", FormError::Extra),
        ("extra ", "extr ", FormError::Index),
        ("index 3", "index 03", FormError::Index),
        ("index 3", "index -5", FormError::Index),
        ("index 3", "index notanumber", FormError::Index),
        ("index 3\n", "", FormError::Index),
        ("index 3\n", "index 3\nindex 3\n", FormError::Hash),
        ("ApjRI", "pjRI", FormError::Hash),
        ("f+c=\n", "f+c=\r\n", FormError::Hash),
        ("\n\nslmd", "\nslmd", FormError::Hash),
    ] {
        assert_eq!(changed(from, to), Some(why), "{from:?} {to:?}");
    }
    let line = "ApjRIpBtz8EIkstTpzmS/FufST6kybrbJ7eRtBJ6f+c=\n";
    assert_eq!(changed(line, &line.repeat(61)), None);
    assert_eq!(changed(line, &line.repeat(62)), Some(FormError::Hash));
    let unsigned = FormError::Note(note::NoteError::Unsigned);
    for (end, why) in [
        ("jwSU=\n", FormError::Hash),
        ("index 3", FormError::Index),
        ("yLQ4=\n\n", unsigned),
        ("TIw=\n", unsigned),
    ] {
        let torn = &OTHERS[..OTHERS.find(end).unwrap() + end.len()];
        assert_eq!(Proof::parse(torn.as_bytes()), Err(why), "{end:?}");
    }
    let large = format!("{OTHERS}{}", "x".repeat(MAX_LEN));
    assert_eq!(Proof::parse(large.as_bytes()), Err(FormError::TooLarge));
    assert_eq!(Proof::parse(b""), Err(FormError::Header));
    let latin = [OTHERS.as_bytes(), b"\xff\n"].concat();
    assert!(Proof::parse(&latin).is_err());
}
